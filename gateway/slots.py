"""Slots 数据点: what a terminal owes under a collection plan, numbered, and which of it has come.

Theory of operation. A slot is one instant of a series (curve, day, month), numbered by the plan's grid, so that the
slots of a meter are bits of three integers: `had` (it is here, or settled as empty), `empty` (it came with nothing but
NULL), `late` (it came after its deadline). An account is one plan at one terminal, a track one meter of it.

Memory: an account with two meters and a curve of 96 slots over 3 days takes some 1.2 kB (tested: 15,000 of them in
less than 30 MB), a meter more some 350 octets; a slot is at most three bits in memory and on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Final, Literal, NamedTuple

from gateway.collection_store import SlotRow
from gateway.polling import DAY_MS, Meters, fixed_offset_ms
from messages import Reading

__all__ = ["Account", "FillPlan", "Grid", "Mark", "Track", "positions_of"]

Series = Literal["minute", "hour", "day", "month"]

_MS: Final = 1000
_CHINA: Final = timezone(timedelta(hours=8))
_FREEZES: Final = {"minute": "minute_freeze", "hour": "hour_freeze", "day": "day_freeze", "month": "month_freeze"}
_MONTH_DAYS: Final = 30
_AHEAD_MS: Final = DAY_MS
"""A slot further in the future is a wrong clock's, and is not marked."""
_TOLERANCE_MS: Final = 59_999
"""So much behind the beginning of its slot a row of a curve may be dated."""


@dataclass(frozen=True, slots=True)
class FillPlan:
    """One `[[collection]]` of the settings: what terminals owe, and how it is fetched when it has not come.

    series, period_min (of a curve); columns: names or OADs that make a slot; terminals: addresses or prefixes with a
    star; meters: see Meters. deadline_s: from a slot to when it should be here. depth_days: how far back a slot is
    asked for (a month counts as 30).
    source: `tasks`, collected data of the task record table (6012 03 00), several meters at once; or `freeze`, the
    freeze object itself (5002, 5003, 5004, 5006), of a meter through the terminal. object: name of the freeze object,
    '': the series' own. select: `range` (selectors 2, 6, 7), `at` (1, 4, 5), `last` (9, 10). by: `start` or `store`,
    which time of collected data selects; store_delay_s: the longest from the one to the other.
    batch_slots, batch_meters: bounds of one request. empty: a slot of NULLs is settled at once (`accept`), when a fetch
    has brought NULLs too (`once_more`), or never (`missing`). pause_s, max_pause_s: between rounds. spread_s: over
    which the accounts are spread after a deadline. timeout_s: for the answer; meter_timeout_s: that a terminal may take
    for a meter.
    """

    name: str
    columns: tuple[str, ...]
    series: Series = "minute"
    period_min: int = 15
    terminals: tuple[str, ...] = ("*",)
    meters: Meters = "known"
    deadline_s: float = 900.0
    depth_days: int = 3
    source: Literal["tasks", "freeze"] = "tasks"
    object: str = ""
    select: Literal["range", "at", "last"] = "range"
    by: Literal["start", "store"] = "start"
    store_delay_s: int = 300
    batch_slots: int = 32
    batch_meters: int = 8
    empty: Literal["accept", "once_more", "missing"] = "once_more"
    pause_s: float = 300.0
    max_pause_s: float = 21_600.0
    spread_s: float = 120.0
    timeout_s: float | None = None
    meter_timeout_s: int = 30
    zone: tzinfo = _CHINA

    @property
    def freeze(self) -> str:
        """The freeze object that the columns hang on."""
        return self.object or _FREEZES[self.series]

    @property
    def depth(self) -> int:
        """Slots that are kept and asked for, back from now."""
        if self.series == "month":
            return max(1, round(self.depth_days / _MONTH_DAYS))
        return max(1, self.depth_days * (1 if self.series == "day" else 1440 // self.minutes))

    @property
    def minutes(self) -> int:
        """From slot to slot of a curve."""
        return 60 if self.series == "hour" else self.period_min

    @property
    def every(self) -> str:
        """The distance of slots as a command has it."""
        return {"day": "1 day", "month": "1 month"}.get(self.series, f"{self.minutes} min")


class Grid:
    """Numbers the slots of a series: 0 is the one that 1970-01-01 00:00 local time begins (a month: year 0, January).

    Raises ValueError for a time zone with daylight saving time.
    """

    __slots__ = ("ahead_ms", "deadline_ms", "depth", "name", "series", "span", "step_ms", "tolerance_ms", "zone")

    def __init__(self, plan: FillPlan) -> None:
        self.zone = plan.zone
        self.ahead_ms = fixed_offset_ms(plan.zone)
        self.series = plan.series
        self.step_ms = DAY_MS if plan.series in ("day", "month") else plan.minutes * 60 * _MS
        self.tolerance_ms = _TOLERANCE_MS if plan.series in ("minute", "hour") else DAY_MS
        self.deadline_ms = round(plan.deadline_s * _MS)
        self.depth = plan.depth
        self.span = 2 * plan.depth + _AHEAD_MS // self.step_ms
        """Slots from the base of a track beyond which it is moved."""
        self.name = f"{plan.series}/{plan.every}/{self.ahead_ms}"

    def index(self, at: int) -> int:
        """The slot that an instant (ms) is in."""
        if self.series != "month":
            return (at + self.ahead_ms) // self.step_ms
        local = datetime.fromtimestamp(at / _MS, self.zone)
        return local.year * 12 + local.month - 1

    def of_row(self, at: int) -> int | None:
        """The slot of a row dated `at` (ms); None for one between slots, as a finer curve has them."""
        if self.series == "month":
            return self.index(at)
        slot, past = divmod(at + self.ahead_ms, self.step_ms)
        return slot if past <= self.tolerance_ms else None

    def start(self, slot: int) -> int:
        """The instant (ms) at which a slot begins."""
        if self.series != "month":
            return slot * self.step_ms - self.ahead_ms
        return int(datetime(slot // 12, slot % 12 + 1, 1, tzinfo=self.zone).timestamp()) * _MS


class Track:
    """The slots of one meter (None: the terminal itself): bit n of had, empty, late is slot base + n."""

    __slots__ = ("account", "base", "empty", "had", "late", "meter", "since")

    def __init__(self, account: Account, meter: str | None, since: int, base: int) -> None:
        self.account = account
        self.meter = meter
        self.since = since
        self.base = base
        self.had = 0
        self.empty = 0
        self.late = 0

    def wanted(self, first: int, end: int) -> int:
        """The bits of the slots in [first, end) that are owed."""
        low, high = max(first, self.since) - self.base, end - self.base
        low = max(low, 0)
        return (1 << high) - (1 << low) if high > low else 0

    def move(self, base: int) -> int:
        """Let go of slots before `base`; gives how many of them were owed and had not come."""
        shift = base - self.base
        if shift <= 0:
            return 0
        lost = (self.wanted(self.base, base) & ~self.had).bit_count()
        self.had >>= shift
        self.empty >>= shift
        self.late >>= shift
        self.base = base
        return lost

    def count(self, first: int, end: int) -> tuple[int, int, int]:
        """(slots owed, that came by their deadline, that came at all) of the slots [first, end)."""
        wanted = self.wanted(first, end)
        come = self.had & ~self.empty & wanted
        return wanted.bit_count(), (come & ~self.late).bit_count(), come.bit_count()

    def row(self) -> SlotRow:
        """Its state, to be kept."""
        plan, grid = self.account.plan.name, self.account.grid.name
        terminal = self.account.terminal
        return SlotRow(plan, terminal, self.meter, grid, self.since, self.base, self.had, self.empty, self.late)


class Mark(NamedTuple):
    """What a track was before it was marked, so that it can be taken back."""

    track: Track
    base: int
    had: int
    empty: int
    late: int

    def take_back(self) -> None:
        """The row was not stored after all."""
        track = self.track
        track.base, track.had, track.empty, track.late = self.base, self.had, self.empty, self.late


class Account:
    """One plan at one terminal. `look`: when it is looked at next (mono), None while the terminal is away."""

    __slots__ = ("failures", "gained", "grid", "look", "place", "plan", "terminal", "tracks")

    def __init__(self, plan: FillPlan, grid: Grid, terminal: str) -> None:
        self.plan = plan
        self.grid = grid
        self.terminal = terminal
        self.tracks: dict[str | None, Track] = {}
        self.look: float | None = None
        self.failures = 0
        """Rounds in a row that brought nothing."""
        self.gained = False
        """The present round has brought something."""
        self.place: tuple[int, int] | None = None
        """Where the present round goes on: (group of meters, slot); None: no round."""

    def ripe(self, wall: int) -> int:
        """The last slot whose deadline has passed."""
        return self.grid.index(wall - self.grid.deadline_ms)

    def oldest(self, wall: int) -> int:
        """The oldest slot that is still asked for."""
        return self.grid.index(wall) - self.grid.depth + 1

    def mark(self, track: Track, slot: int, *, blank: bool, asked: bool, wall: int) -> Mark | None:
        """Note that a slot has come; `blank`: with nothing but NULL; `asked`: a fetch brought it. None: no news."""
        grid = self.grid
        place = slot - track.base
        if place < 0 or grid.start(slot) > wall + _AHEAD_MS:
            return None
        if place > grid.span and slot < self.oldest(wall):
            return None
        had, empty = track.had >> place & 1, track.empty >> place & 1
        if had and (blank or not empty):
            return None
        settles = True
        if blank:
            policy = self.plan.empty
            settles = policy == "accept" or (policy == "once_more" and asked and empty == 1)
            if empty and not settles:
                return None
        before = Mark(track, track.base, track.had, track.empty, track.late)
        if place > grid.span:
            track.move(self.oldest(wall))
        bit = 1 << slot - track.base
        if settles:
            track.had |= bit
        if blank:
            track.empty |= bit
            return before
        if empty:
            track.empty &= ~bit
        if grid.start(slot) <= wall - grid.deadline_ms:
            track.late |= bit
        return before


def positions_of(columns: Sequence[str], reading: Reading) -> tuple[int, ...]:
    """Where in a row the values of a plan's columns stand; () where the Reading lacks one of them.

    A column names an element, or an object with all its elements; one that came as NULL has no elements.
    """
    found: list[int] = []
    for wanted in columns:
        places = [
            n
            for n, column in enumerate(reading.columns, 2)
            if column.name == wanted
            or column.name.startswith(f"{wanted}.")
            or wanted.startswith(f"{column.name}.")
            or column.oad == wanted
        ]
        if not places:
            return ()
        found.extend(places)
    return tuple(found)
