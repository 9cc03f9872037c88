"""What a command becomes: steps to send, how to see its effect, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from messages import AckError, CommandClass, Up, Value
from wire698.pieces import Apdu, ClientApdu

from .evidence import Evidence
from .quirks import Quirks

RANKS: dict[str, int] = {"control": 0, "config": 1, "query": 2}
"""Order of the classes at one terminal: a control goes first."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request.

    apdu: with invoke number 0; the machine gives it one. timeout_s: for its answer, None: the machine's own. retries:
    0 where sending it twice is not the same as once, None: the machine's own. label: what it does, for people.
    """

    apdu: ClientApdu
    timeout_s: float | None = None
    retries: int | None = None
    label: str = ""


class Expectation(Protocol):
    """What must be read when a control has its effect."""

    def judge(self, evidence: Evidence) -> bool | None:
        """True: the effect shows; False: plainly not, or not yet; None: it cannot be told from this."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How to see that a control has its effect 核实.

    after_s: from the success answer to the first look (the alarm delay 告警延时, then some). window_s: for so long from
    the first look, `every_s`, until the verdict is True. steps: APDUs that read; each is another source. Ask one after
    another and `judge` what has come so far: None means that the sources read so far cannot tell, so ask the next one.
    """

    after_s: float
    window_s: float
    every_s: float
    steps: tuple[ClientApdu, ...]
    expectation: Expectation
    quirks: Quirks

    def judge(self, answers: Sequence[Apdu | None]) -> tuple[bool | None, dict[str, Value]]:
        """The verdict from the answers of one look, and what was read, named; None for an answer that is missing.

        True: the effect shows; False: plainly not (yet); None: cannot tell (refused, or read as nothing known).
        """
        evidence = Evidence.of(answers, self.quirks)
        return self.expectation.judge(evidence), evidence.named


@dataclass(frozen=True, slots=True)
class Plan:
    """A command, ready to be sent.

    steps: sent in order, each only after the one before succeeded. priority: 0 control, 1 config, 2 query; the lowest
    goes first at one terminal. verification: how to see the effect of a control; whether it is done is the command's
    `verify` - and after an answer that never came it tells what is true. dry_run, if_offline: what the caller asked of
    the gateway.
    """

    verb: str
    command_class: CommandClass
    steps: tuple[Step, ...]
    verification: Verification | None = None
    quirks: Quirks = field(default_factory=Quirks)
    result_rows: int = 100
    dry_run: bool = False
    if_offline: Literal["wait", "reject"] = "wait"

    @property
    def control(self) -> bool:
        """Whether it acts on the customer's load: never sent twice, never blindly repeated."""
        return self.command_class == "control"

    @property
    def priority(self) -> int:
        return RANKS[self.command_class]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a plan, as far as it was carried out.

    ok: no step was refused (a read: something was read). error: the first refusal, code None where the answer itself is
    wrong. result: what was answered, named and in engineering units. readings: the values as messages (Reading, and
    Alarm for event records), ids not stamped yet.
    """

    ok: bool
    error: AckError | None
    result: Value
    readings: list[Up] = field(default_factory=list)
