"""Jobs: commands on their way at one terminal, and the bounds they keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.ledger import Record
from messages import Command
from protocols.commands import Plan
from protocols.events import Request

Phase = Literal["waiting", "guarding", "running", "checking", "ended"]
"""waiting: for its turn. guarding: power guarantee is asked for. running: its steps. checking: its effect."""


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """Bounds: jobs of one terminal and of all, connections on which a query is tried."""

    max_per_terminal: int = 64
    max_open: int = 100_000
    query_attempts: int = 3


@dataclass(slots=True)
class CommandCounters:
    """Totals since start, except `open` (now); `statuses` by status."""

    open: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    retold: int = 0


class Job:
    """One command at one terminal, until its final status."""

    __slots__ = ("answers", "deadline", "due", "looks", "phase", "plan", "record", "request", "step", "tries", "until")

    def __init__(self, record: Record, plan: Plan) -> None:
        self.record = record
        self.plan = plan
        self.phase: Phase = "waiting"
        self.step = 0
        self.answers: list[Any] = []
        self.looks: list[Any | None] = []
        """Answers of one look at the effect."""
        self.request: Request | None = None
        self.tries = 0
        self.due = 0.0
        """Not before (mono)."""
        self.deadline: float | None = None
        """End of the window for the effect (mono), from the first look."""
        self.until = 0.0
        """When a look that never succeeds is given up (mono)."""

    @property
    def command(self) -> Command:
        return self.record.command

    @property
    def terminal(self) -> str:
        return self.record.terminal

    @property
    def verified(self) -> bool:
        """Whether the effect is to be read back after success."""
        return self.plan.control and self.command.verify and self.plan.verification is not None

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no harm."""
        return self.record.command_class == "query"
