"""Commands 命令: from a `messages.Command` to the APDUs of DL/T 698.45, and from the answers to results and verdicts.

Everything here is a function of its arguments; what waits, sends and remembers is the gateway.

    planned = plan(command, "control", quirks=quirks, now_ms=now, instants=instants)     # or Invalid
    ... send planned.steps one after another, each when the one before succeeded ...
    came = outcome(planned, answers, said, mapper)                                       # ok, error, result, readings
    ... after planned.verification.after_s send its steps, until judge(answers) says True or the window ends ...
"""

from .clock import (
    clock_broadcast,
    clock_offset,
    clock_request,
    clock_setting,
    guarantee_in_force,
    guarantee_request,
)
from .errors import Invalid
from .outcomes import outcome
from .plans import Outcome, Plan, Step, Verification
from .quirks import Limits, Quirks
from .verbs import COMMON, arguments_of, octets, plan

__all__ = [
    "COMMON",
    "Invalid",
    "Limits",
    "Outcome",
    "Plan",
    "Quirks",
    "Step",
    "Verification",
    "arguments_of",
    "clock_broadcast",
    "clock_offset",
    "clock_request",
    "clock_setting",
    "guarantee_in_force",
    "guarantee_request",
    "octets",
    "outcome",
    "plan",
]
