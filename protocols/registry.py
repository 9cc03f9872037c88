"""The protocols that a channel can speak: the one place to enter another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final, Protocol

from messages import Command
from wire698.frame import Framer

from .addresses import terminal_of
from .commands import Outcome, Plan, Quirks
from .dialogue698 import Dlt698Dialogue
from .dlt698 import NAME
from .dlt698_options import Options
from .events import Machine, Moment


class Dialogue(Protocol):
    """One channel's side of a protocol: makes the machines, and says what commands become and what came of them."""

    def machine(self, terminal: str) -> Machine:
        """A new machine."""

    def plan(self, command: Command, command_class: str, quirks: Quirks, now_ms: int) -> Plan:
        """What a command becomes. Raises Invalid."""

    def outcome(self, plan: Plan, answers: Sequence[Any], terminal: str, command_id: str, moment: Moment) -> Outcome:
        """What came of a plan: an answer for each step that was done. Readings have their ids."""

    def octets(self, plan: Plan) -> list[str]:
        """What a plan would send, hexadecimal."""

    def guarantee_request(self) -> Any:
        """Asks whether power guarantee 保电 is in force."""

    def guarantee_in_force(self, answer: Any) -> bool | None:
        """Whether it is; None where the terminal does not say."""

    def clock_request(self) -> Any:
        """Asks for the terminal's clock."""

    def clock_offset(self, answer: Any, now_ms: int) -> int | None:
        """The terminal's clock minus ours, ms; None where the answer holds no time."""

    def broadcast(self, command: Command, now_ms: int) -> bytes | None:
        """Octets that carry a command to all terminals of a channel; None where it is none to be broadcast."""


@dataclass(frozen=True, slots=True)
class TerminalProtocol:
    """How to find frames, whose they are, and who talks with each terminal.

    `framer(limit)`: a framer for one channel, for frames of at most `limit` octets. `terminal_of(frame)`: its address,
    or None where it has no single one. `dialogue(options, zone, layouts)`: for one channel.
    """

    name: str
    framer: Callable[[int], Any]
    terminal_of: Callable[[Any], str | None]
    dialogue: Callable[[Any, tzinfo, int], Dialogue]
    options: type[Any]


PROTOCOLS: Final[dict[str, TerminalProtocol]] = {
    NAME: TerminalProtocol(NAME, Framer, terminal_of, Dlt698Dialogue, Options),
}
