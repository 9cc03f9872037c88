"""Jobs: commands on their way at one terminal; the bounds they keep, and whose turn it is.

Nothing here waits, sends or stores: `Jobs` is asked by `gateway.commands`, which does.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.ledger import Record
from messages import Ack, Command
from protocols.commands import Plan
from protocols.events import Request

Phase = Literal["waiting", "guarding", "running", "checking", "ended"]
"""waiting: for its turn. guarding: power guarantee is asked for. running: its steps. checking: its effect."""

_SLACK: Final = 64
"""Entries of ended jobs that a heap keeps, besides as many as it has of open ones."""


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """Bounds: jobs of one terminal and of all, connections on which a query is tried."""

    max_per_terminal: int = 64
    max_open: int = 100_000
    query_attempts: int = 3


@dataclass(slots=True)
class CommandCounters:
    """Totals since start, except `open` and `untold` (now); `statuses` by status.

    retold: statuses that were told again. untold: what waits for room in the journal.
    """

    open: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    retold: int = 0
    untold: int = 0


class Job:
    """One command at one terminal, until its final status."""

    __slots__ = (
        "answers",
        "deadline",
        "due",
        "effect_at",
        "held",
        "looks",
        "number",
        "phase",
        "plan",
        "record",
        "request",
        "step",
        "told",
        "until",
    )

    def __init__(self, record: Record, plan: Plan) -> None:
        self.record = record
        self.plan = plan
        self.phase: Phase = "waiting"
        self.number = -1
        """Its age: the order in which jobs came to wait."""
        self.step = 0
        self.held = False
        """Its next step waits until the terminal can be asked again."""
        self.answers: list[Any] = []
        self.looks: list[Any | None] = []
        """Answers of one look at the effect."""
        self.request: Request | None = None
        self.told: Ack | None = None
        """What was told last; None before anything was."""
        self.due = 0.0
        """Not before (mono)."""
        self.effect_at = 0.0
        """When the effect should show (mono)."""
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

    @property
    def revocable(self) -> bool:
        """Whether it can still be stopped: it has never been sent, or is a query that waits to be sent again."""
        return self.phase == "waiting" or (self.phase != "ended" and self.record.status == "accepted")


_Rank = tuple[int, int, int]


class _Line:
    """The jobs of one terminal: how many are open, which one is under way, which wait, which look at their effect."""

    __slots__ = ("active", "checks", "open", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.active: Job | None = None
        self.waiting: list[tuple[_Rank, Job]] = []
        self.checks: list[Job] = []


class Jobs:
    """All open jobs of the node."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], Job] = {}
        self._lines: dict[str, _Line] = {}
        self._expiries: list[tuple[int, int, Job]] = []
        self._timers: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """A snapshot: jobs may end while it is gone through."""
        return iter(list(self._jobs.values()))

    def get(self, command_id: str, terminal: str) -> Job | None:
        return self._jobs.get((command_id, terminal))

    def open_at(self, terminal: str) -> int:
        """How many jobs of a terminal are not at their end."""
        line = self._lines.get(terminal)
        return line.open if line is not None else 0

    def enter(self, job: Job) -> None:
        """A job begins."""
        self._jobs[job.command.id, job.terminal] = job
        self._lines.setdefault(job.terminal, _Line()).open += 1

    def leave(self, job: Job) -> None:
        """A job is at its end. Nothing happens for one that is not here."""
        if self._jobs.pop((job.command.id, job.terminal), None) is None:
            return
        line = self._lines[job.terminal]
        line.open -= 1
        if line.active is job:
            line.active = None
        if job in line.checks:
            line.checks.remove(job)
        if not line.open:
            del self._lines[job.terminal]
        elif len(line.waiting) > 2 * line.open + _SLACK:
            line.waiting = [entry for entry in line.waiting if entry[1].phase == "waiting"]
            heapq.heapify(line.waiting)

    # --- whose turn it is ---------------------------------------------------------------------------------------

    def wait(self, job: Job) -> None:
        """A job waits for its turn; one that waits again keeps its age."""
        job.phase = "waiting"
        if job.number < 0:
            job.number = next(self._numbers)
            heapq.heappush(self._expiries, (job.command.expires_at, job.number, job))
            if len(self._expiries) > 2 * len(self._jobs) + _SLACK:
                self._expiries = [entry for entry in self._expiries if entry[2].phase != "ended"]
                heapq.heapify(self._expiries)
        rank = (job.plan.priority, -job.command.priority, job.number)
        heapq.heappush(self._lines[job.terminal].waiting, (rank, job))

    def check(self, job: Job, due: float) -> None:
        """A job looks at its effect from `due` (mono) on."""
        job.due = due
        self._lines[job.terminal].checks.append(job)
        self.wake(job, due)

    def idle(self, terminal: str) -> bool:
        """Whether a terminal has jobs, and none under way."""
        line = self._lines.get(terminal)
        return line is not None and line.active is None

    def busy(self, terminal: str) -> bool:
        """Whether a job is under way at a terminal."""
        line = self._lines.get(terminal)
        return line is not None and line.active is not None

    def start(self, job: Job) -> None:
        """A job is under way: the only one of its terminal."""
        line = self._lines[job.terminal]
        assert line.active in (None, job)
        line.active = job

    def free(self, job: Job) -> None:
        """A job is not under way any more."""
        line = self._lines[job.terminal]
        if line.active is job:
            line.active = None

    def next(self, terminal: str, mono: float) -> Job | None:
        """The job whose turn it is: a look at the effect of a control, else by class, priority, age.

        One that has to wait a little lets no other of its class pass: what was ordered last must come last.
        """
        line = self._lines.get(terminal)
        if line is None:
            return None
        for job in line.checks:
            if job.due <= mono:
                line.checks.remove(job)
                return job
        held: list[tuple[_Rank, Job]] = []
        found: Job | None = None
        while line.waiting and found is None:
            entry = heapq.heappop(line.waiting)
            job = entry[1]
            if job.phase != "waiting":
                continue
            if job.due > mono or any(entry[0][0] == rank[0] for rank, _ in held):
                held.append(entry)
            else:
                found = job
        for entry in held:
            heapq.heappush(line.waiting, entry)
        return found

    # --- time ---------------------------------------------------------------------------------------------------

    def wake(self, job: Job, at: float) -> None:
        """Have the job in `due` at an instant (mono)."""
        heapq.heappush(self._timers, (at, next(self._numbers), job))
        if len(self._timers) > 3 * len(self._jobs) + _SLACK:
            self._timers = [entry for entry in self._timers if entry[2].phase != "ended"]
            heapq.heapify(self._timers)

    def due(self, mono: float) -> Iterator[Job]:
        """Jobs whose instant has come and that are not at their end."""
        while self._timers and self._timers[0][0] <= mono:
            job = heapq.heappop(self._timers)[2]
            if job.phase != "ended":
                yield job

    def expired(self, wall: int) -> Iterator[Job]:
        """Jobs whose expiry (ms) has come and that are not at their end, each once."""
        while self._expiries and self._expiries[0][0] <= wall:
            job = heapq.heappop(self._expiries)[2]
            if job.phase != "ended":
                yield job
