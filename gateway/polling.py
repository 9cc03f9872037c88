"""Polling 轮询: points of terminals that are read every so often, spread in time, and how much of them is got.

Theory of operation. A duty is one plan at one terminal. Its cycles begin at multiples of the plan's period, local time,
plus a place of its own within the spread, which follows from the two names: stable over restarts, even over the fleet.
A cycle asks the terminal itself or its meters, one after another; what had no answer is asked again in the next round
of the same cycle. One request of a duty is under way at a time: a cycle that begins meanwhile is skipped and counted.
A terminal that is away keeps its cycle open and is asked when it comes back, until the next cycle begins.

Nothing here does I/O: `due` gives what is to be asked now, `answered` takes what came of it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from gateway.settings_model import pattern_filter
from messages import message_id
from protocols.events import Moment

__all__ = ["Count", "Duty", "Meters", "PollCounters", "PollLimits", "PollPlan", "PollRequest", "Poller", "Tally"]

Meters = Literal["own", "known"] | tuple[str, ...]
"""own: the terminal itself. known: every meter that it has told of. Else their addresses."""

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
_MS: Final = 1000
_CHINA: Final = timezone(timedelta(hours=8))
_MARGIN_MS: Final = 10_000
_HOURS_KEPT: Final = 48
_DAYS_KEPT: Final = 8


@lru_cache(maxsize=64)
def fixed_offset_ms(zone: tzinfo) -> int:
    """What a zone's local time is ahead of UTC, ms. Raises ValueError for one with daylight saving time."""
    offsets = {datetime(2026, month, 1, 12, tzinfo=zone).utcoffset() for month in range(1, 13)}
    if len(offsets) != 1 or None in offsets:
        raise ValueError(f"{zone}: slots need a time zone without daylight saving time")
    (offset,) = offsets
    assert offset is not None
    return int(offset.total_seconds() * _MS)


def place_of(terminal: str, name: str, span_ms: int) -> int:
    """A place in [0, span): the same for ever for a terminal and a name, even over many of them."""
    return int(message_id(terminal, name.encode()), 16) % span_ms if span_ms > 0 else 0


@dataclass(frozen=True, slots=True)
class PollPlan:
    """One `[[polls]]` of the settings.

    points: names or OADs of what is read. terminals: addresses or prefixes with a star. meters: see Meters. every_s:
    period; spread_s: over which part of it the terminals are spread (0: all at once). channels: names, none: all.
    rounds: times that a read is tried within a cycle, pause_s between rounds. timeout_s: for the answer of the
    terminal; meter_timeout_s: that it may take for a meter.
    """

    name: str
    points: tuple[str, ...]
    terminals: tuple[str, ...] = ("*",)
    meters: Meters = "own"
    every_s: float = 900.0
    spread_s: float = 300.0
    channels: tuple[str, ...] = ()
    rounds: int = 2
    pause_s: float = 30.0
    timeout_s: float | None = None
    meter_timeout_s: int = 30
    zone: tzinfo = _CHINA


@dataclass(frozen=True, slots=True)
class PollLimits:
    """Bounds: duties (a plan at a terminal), requests under way, and s after which an answer is no longer waited for
    (at least two periods).
    """

    duties: int = 100_000
    under_way: int = 1_000
    stale_s: float = 1_800.0


@dataclass(slots=True)
class PollCounters:
    """Totals since start, except `duties` and `under_way` (now)."""

    duties: int = 0
    under_way: int = 0
    cycles: int = 0
    asked: int = 0
    answered: int = 0
    unanswered: int = 0
    skipped: int = 0
    """Cycles that began while the one before was not done."""
    missed: int = 0
    """Cycles whose time passed before anybody looked (the gateway was busy, or a clock was set)."""
    stale: int = 0
    """Requests whose end was never told."""
    refused: int = 0
    """Duties that were not taken on: the bound is hit."""


class PollRequest:
    """One read of a duty: of the terminal itself (meter None) or of a meter behind it."""

    __slots__ = ("asked_at", "duty", "meter", "round", "start")

    def __init__(self, duty: Duty, meter: str | None, number: int, start: int, asked_at: float) -> None:
        self.duty = duty
        self.meter = meter
        self.round = number
        self.start = start
        self.asked_at = asked_at

    @property
    def plan(self) -> PollPlan:
        return self.duty.plan

    @property
    def terminal(self) -> str:
        return self.duty.terminal

    @property
    def until(self) -> int:
        """Not to be sent from then on (wall ms): the next cycle is about to begin."""
        every = round(self.plan.every_s * _MS)
        return self.start + every - min(_MARGIN_MS, every // 10)

    @property
    def name(self) -> str:
        """Identifies the read: plan, start of the cycle, meter, round."""
        return f"poll.{self.plan.name}.{self.start}.{self.meter or ''}.{self.round}"


class Duty:
    """One plan at one terminal. `start`: beginning of the present cycle (ms), None before the first."""

    __slots__ = ("again", "plan", "ready", "start", "targets", "terminal", "under_way")

    def __init__(self, plan: PollPlan, terminal: str) -> None:
        self.plan = plan
        self.terminal = terminal
        self.start: int | None = None
        self.targets: list[tuple[str | None, int]] = []
        """(meter, round) that wait, the last first."""
        self.again: list[tuple[str | None, int]] = []
        self.under_way: PollRequest | None = None
        self.ready: float | None = None
        """When it stands in the queue of those that may go on (mono)."""


class Count(NamedTuple):
    """Points that were owed, that came in the first round, and that came within the cycle."""

    owed: int = 0
    first: int = 0
    cycle: int = 0


class Tally:
    """Counts by plan, for hours (48) and days (8), by the beginning of the cycle; `changed`: what is to be stored."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], Count] = {}
        self.changed: set[tuple[str, str, int]] = set()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, plan: PollPlan, start: int, owed: int = 0, first: int = 0, cycle: int = 0) -> None:
        """Count what belongs to the cycle that began at `start` (ms)."""
        ahead = fixed_offset_ms(plan.zone)
        for period, length in (("hour", HOUR_MS), ("day", DAY_MS)):
            key = (plan.name, period, (start + ahead) // length * length - ahead)
            old = self._counts.get(key, _NONE)
            self._counts[key] = Count(old.owed + owed, old.first + first, old.cycle + cycle)
            self.changed.add(key)

    def of(self, plan: str, period: str, start: int) -> Count:
        """The counts of the hour or day that begins at `start` (ms)."""
        return self._counts.get((plan, period, start), _NONE)

    def put(self, plan: str, period: str, start: int, count: Count) -> None:
        """What was stored."""
        self._counts[plan, period, start] = count

    def prune(self, wall: int) -> None:
        """Let go of what is too old."""
        for key in list(self._counts):
            kept = _HOURS_KEPT * HOUR_MS if key[1] == "hour" else _DAYS_KEPT * DAY_MS
            if key[2] < wall - kept:
                del self._counts[key]
                self.changed.discard(key)

    def changes(self) -> Iterator[tuple[tuple[str, str, int], Count]]:
        """What is to be stored."""
        for key in self.changed:
            yield key, self._counts[key]


_NONE: Final = Count()


class Poller:
    """All duties of the node. `meters_of(terminal)`: the meters that it has told of."""

    def __init__(
        self, plans: Sequence[PollPlan], limits: PollLimits, meters_of: Callable[[str], Sequence[str]]
    ) -> None:
        self.counters = PollCounters()
        self.tally = Tally()
        self.plans = tuple(plans)
        self._matches = [pattern_filter(plan.terminals) for plan in plans]
        self._ahead = {plan.name: fixed_offset_ms(plan.zone) for plan in plans}
        self._limits = limits
        self._meters_of = meters_of
        self._duties: dict[str, tuple[Duty, ...]] = {}
        self._cycles: list[tuple[int, int, Duty]] = []
        """When the next cycle of each duty begins (wall ms)."""
        self._ready: list[tuple[float, int, Duty]] = []
        self._count = itertools.count()

    def enter(self, terminal: str, wall: int) -> None:
        """A terminal is known from now (ms) on, whether it is there or not."""
        if not self.plans or terminal in self._duties:
            return
        duties = tuple(
            Duty(plan, terminal) for plan, match in zip(self.plans, self._matches, strict=True) if match(terminal)
        )
        if self.counters.duties + max(1, len(duties)) > self._limits.duties:
            self.counters.refused += len(duties)
            return
        self._duties[terminal] = duties
        self.counters.duties += len(duties)
        for duty in duties:
            self._plan(duty, self._beginning(duty, wall))

    def arrived(self, terminal: str, moment: Moment) -> None:
        """A terminal is on a link: what its present cycles still lack is asked."""
        self.enter(terminal, moment.wall)
        for duty in self._duties.get(terminal, ()):
            if duty.targets and duty.under_way is None:
                self._make_ready(duty, moment.mono)

    # --- cycles -------------------------------------------------------------------------------------------------

    def _beginning(self, duty: Duty, after: int) -> int:
        """The first beginning of a cycle at `after` (ms) or later."""
        plan = duty.plan
        every = max(1, round(plan.every_s * _MS))
        shift = place_of(duty.terminal, plan.name, min(every, round(plan.spread_s * _MS))) - self._ahead[plan.name]
        return -(-(after - shift) // every) * every + shift

    def _plan(self, duty: Duty, at: int) -> None:
        heapq.heappush(self._cycles, (at, next(self._count), duty))

    def _make_ready(self, duty: Duty, at: float) -> None:
        if duty.ready is None or at < duty.ready:
            duty.ready = at
            heapq.heappush(self._ready, (at, next(self._count), duty))

    def _begin(self, duty: Duty, at: int, moment: Moment, channel: str | None) -> None:
        plan = duty.plan
        every = max(1, round(plan.every_s * _MS))
        following = self._beginning(duty, at + 1)
        if following <= moment.wall:
            self.counters.missed += (moment.wall - at) // every
            at = self._beginning(duty, moment.wall - every + 1)
            following = self._beginning(duty, moment.wall + 1)
        self._plan(duty, following)
        if plan.channels and channel not in plan.channels:
            return
        meters = self._targets(plan, duty.terminal)
        self.tally.add(plan, at, owed=len(meters) * len(plan.points))
        self.counters.cycles += 1
        request = duty.under_way
        if request is not None:
            if moment.mono - request.asked_at <= max(2 * plan.every_s, self._limits.stale_s):
                self.counters.skipped += 1
                return
            self.counters.stale += 1
            self._ended(duty)
        duty.start = at
        duty.again = []
        duty.targets = [(meter, 1) for meter in reversed(meters)]
        self._make_ready(duty, moment.mono)

    def _targets(self, plan: PollPlan, terminal: str) -> Sequence[str | None]:
        if plan.meters == "own":
            return (None,)
        return self._meters_of(terminal) if plan.meters == "known" else plan.meters

    # --- asking -------------------------------------------------------------------------------------------------

    def due(self, moment: Moment, channel_of: Callable[[str], str | None], most: int = 200) -> list[PollRequest]:
        """What is to be asked now, at most so many; `channel_of(terminal)`: the channel it is on, None: it is away."""
        for _ in range(most):
            if not self._cycles or self._cycles[0][0] > moment.wall:
                break
            at, _, duty = heapq.heappop(self._cycles)
            self._begin(duty, at, moment, channel_of(duty.terminal))
        requests: list[PollRequest] = []
        for _ in range(most):
            if not self._ready or self._ready[0][0] > moment.mono or self._full():
                break
            at_mono, _, duty = heapq.heappop(self._ready)
            if duty.ready != at_mono:
                continue
            duty.ready = None
            if duty.under_way is None and duty.targets and channel_of(duty.terminal) is not None:
                requests.append(self._ask(duty, moment))
        return requests

    def _full(self) -> bool:
        return self.counters.under_way >= self._limits.under_way

    def _ask(self, duty: Duty, moment: Moment) -> PollRequest:
        assert duty.start is not None
        meter, number = duty.targets.pop()
        request = duty.under_way = PollRequest(duty, meter, number, duty.start, moment.mono)
        self.counters.under_way += 1
        self.counters.asked += 1
        return request

    def answered(self, request: PollRequest, got: int | None, moment: Moment) -> None:
        """What came of a request: points that were read, or None for no answer. One that was given up is ignored."""
        duty = request.duty
        if duty.under_way is not request:
            return
        self._ended(duty)
        if got is None:
            self.counters.unanswered += 1
            if request.round < duty.plan.rounds and request.start == duty.start:
                duty.again.append((request.meter, request.round + 1))
        else:
            self.counters.answered += 1
            got = min(got, len(duty.plan.points))
            self.tally.add(duty.plan, request.start, first=got if request.round == 1 else 0, cycle=got)
        if duty.targets:
            self._make_ready(duty, moment.mono)
        elif duty.again:
            duty.targets, duty.again = duty.again[::-1], []
            self._make_ready(duty, moment.mono + duty.plan.pause_s)

    def _ended(self, duty: Duty) -> None:
        duty.under_way = None
        self.counters.under_way -= 1
