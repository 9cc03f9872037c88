"""From a Command to a Plan: every verb of the contract, with the names of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from messages import Command, class_of_verb
from protocols.times import Instants
from wire698 import model
from wire698.notation import BuildError

from . import configuration, control_objects, queries, remote
from .arguments import SHOWN, Arguments, nearest, shown
from .context import Context, Made
from .errors import Invalid, bad
from .plans import Plan
from .quirks import Limits, Quirks


class Verb(NamedTuple):
    """The names of a verb's arguments, and what makes its steps of them."""

    arguments: tuple[str, ...]
    make: Callable[[Arguments, Context], Made]


VERBS: Final[dict[str, Verb]] = {
    "read": Verb(queries.READ, queries.read),
    "read_record": Verb(queries.READ_RECORD, queries.read_record),
    "read_meter": Verb(queries.READ_METER, queries.read_meter),
    "transparent": Verb(queries.TRANSPARENT, queries.transparent),
    "write": Verb(configuration.WRITE, configuration.write),
    "set_clock": Verb(configuration.SET_CLOCK, configuration.set_clock),
    "message": Verb(configuration.MESSAGE, configuration.message),
    "delete_message": Verb(configuration.DELETE_MESSAGE, configuration.delete_message),
    "configure_reporting": Verb(configuration.CONFIGURE_REPORTING, configuration.configure_reporting),
    "apdu": Verb(configuration.APDU, configuration.apdu),
    "trip": Verb(remote.TRIP, remote.trip),
    "close": Verb(remote.CLOSE, remote.close),
    "alarm": Verb(remote.ALARM, remote.alarm),
    "power_guarantee": Verb(remote.POWER_GUARANTEE, remote.power_guarantee),
    "arrears_alarm": Verb(remote.ARREARS_ALARM, remote.arrears_alarm),
    "period_control": Verb(control_objects.PERIOD, control_objects.period_control),
    "rest_control": Verb(control_objects.REST, control_objects.rest_control),
    "suspension_control": Verb(control_objects.SUSPENSION, control_objects.suspension_control),
    "float_down": Verb(control_objects.FLOAT_DOWN, control_objects.float_down),
    "purchase": Verb(control_objects.PURCHASE, control_objects.purchase),
    "monthly_control": Verb(control_objects.MONTHLY, control_objects.monthly_control),
    "release": Verb(control_objects.RELEASE, control_objects.release),
}
COMMON: Final = ("dry_run", "if_offline")
"""Arguments that every verb takes; the gateway acts on them."""


def plan(
    command: Command,
    command_class: str,
    *,
    now_ms: int,
    instants: Instants,
    quirks: Quirks | None = None,
    meters: frozenset[str] | None = None,
    limits: Limits | None = None,
) -> Plan:
    """What to send for a command that came on the topic of `command_class`.

    Plan at the moment of sending: `now_ms` goes into set_clock and message. meters: addresses behind the terminal,
    where they are known. Raises Invalid and nothing else.
    """
    verb, proper = VERBS.get(command.verb), class_of_verb(command.verb)
    if verb is None or proper is None:
        hint = nearest(command.verb[:SHOWN], tuple(VERBS))
        raise Invalid("unknown_verb", "verb", f"no verb {shown(command.verb)}{hint}")
    if command_class != proper:
        raise Invalid("wrong_class", "verb", f"{command.verb} is a {proper}, and came as a {command_class}")
    args = Arguments(command.args, "args", (*verb.arguments, *COMMON))
    context = Context(quirks or Quirks(), limits or Limits(), now_ms, instants, meters)
    made = verb.make(args, context)
    planned = Plan(
        verb=command.verb,
        command_class=proper,
        steps=made.steps,
        verification=made.verification,
        quirks=context.quirks,
        result_rows=context.limits.result_rows,
        dry_run=args.flag("dry_run", False),
        if_offline=args.word("if_offline", ("wait", "reject"), "wait"),
    )
    try:
        octets(planned)
    except BuildError as error:
        raise bad("args", f"has no encoding: {error}") from None
    return planned


def octets(planned: Plan) -> list[str]:
    """The APDUs of a plan in hexadecimal, with invoke number 0: what a dry run answers."""
    return [model.build(step.apdu).hex().upper() for step in planned.steps]


def arguments_of(verb: str) -> tuple[str, ...]:
    """The names of the arguments that a verb takes."""
    return (*VERBS[verb].arguments, *COMMON)
