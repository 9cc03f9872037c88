"""Records of a terminal: freezes 冻结, events 事件记录, collected data 采集任务记录; and picking rows from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from wire698.rows import EMPTY, Row, Table
from wire698.values import NULL, BitString, Data, MeterSet, Oad, RangeSelector, Rcsd, Region, Road, Rsd, Tag, columns_of

from .registers import data_of
from .shapes import array, enum, structure, u8
from .stamps import date_time_s, read_date_time_s
from .world import PHASES, Reading

MINUTE, DAILY, MONTHLY = Oad(0x50020200), Oad(0x50040200), Oad(0x50060200)
TASKS = Oad(0x60120300)
NUMBER, FREEZE_TIME = Oad(0x20230200), Oad(0x20210200)
METER, STARTED, SUCCEEDED, STORED = Oad(0x202A0200), Oad(0x60400200), Oad(0x60410200), Oad(0x60420200)
EVENT_NUMBER, BEGAN, ENDED, SOURCE, STATUS = (
    Oad(0x20220200),
    Oad(0x201E0200),
    Oad(0x20200200),
    Oad(0x20240200),
    Oad(0x33000200),
)
EVENT_BASE = (EVENT_NUMBER, BEGAN, ENDED, SOURCE, STATUS)

FREEZES: dict[Oad, tuple[Oad, ...]] = {
    MINUTE: tuple(map(Oad, (0x00100200, 0x20000200, 0x20010200, 0x20040200, 0x200A0200))),
    DAILY: tuple(map(Oad, (0x00100200, 0x00200200, 0x00500200))),
    MONTHLY: tuple(map(Oad, (0x00100200, 0x00200200, 0x10100200))),
}
"""What each freeze keeps, behind its number and time."""
SERIES = {MINUTE: "minute", DAILY: "day", MONTHLY: "month"}

REPORT_CHANNELS = (Oad(0x45000000), Oad(0x45100000))
"""Channels in an event's report status, as 4300 attribute 10 lists them; the first is the one that is used."""


class Record(Protocol):
    """A row of a record table."""

    def cell(self, of: Oad | None, oad: Oad) -> Data:
        """Its value in a column, hung on the record object `of` where the column is part of a ROAD; else NULL."""

    def stamp(self, oad: Oad) -> int | None:
        """The instant in one of its time columns."""


class Freeze(NamedTuple):
    """A frozen reading, None if the meter did not answer; `at`: seconds since 1970 by the terminal's clock."""

    number: int
    at: int
    reading: Reading | None

    def cell(self, of: Oad | None, oad: Oad) -> Data:  # noqa: ARG002
        if oad == NUMBER:
            return Data(Tag.DOUBLE_LONG_UNSIGNED, self.number)
        if oad == FREEZE_TIME:
            return Data(Tag.DATE_TIME_S, date_time_s(self.at))
        return data_of(oad, self.reading)

    def stamp(self, oad: Oad) -> int | None:
        return self.at if oad == FREEZE_TIME else None


class FreezeTable:
    """One meter's freezes of one kind: at most `depth`, the oldest go."""

    __slots__ = ("_count", "columns", "oad", "rows")

    def __init__(self, oad: Oad, depth: int) -> None:
        self.oad = oad
        self.columns = FREEZES[oad]
        self.rows: deque[Freeze] = deque(maxlen=depth)
        self._count = 0

    def take(self, at: int, reading: Reading | None) -> Freeze:
        """Keep a reading under the instant `at`."""
        self._count += 1
        row = Freeze(self._count, at, reading)
        self.rows.append(row)
        return row

    @property
    def rcsd(self) -> Rcsd:
        """All its columns."""
        return (NUMBER, FREEZE_TIME, *self.columns)


class Collected(NamedTuple):
    """A row of the task record table 6012 attribute 3: one meter's freeze and when it was collected."""

    tsa: bytes
    meter: int
    user_type: int
    of: Oad
    freeze: Freeze
    started: int
    succeeded: int | None
    stored: int

    def cell(self, of: Oad | None, oad: Oad) -> Data:
        if oad == METER:
            return Data(Tag.TSA, self.tsa)
        at = self.stamp(oad)
        if at is not None:
            return Data(Tag.DATE_TIME_S, date_time_s(at))
        return self.freeze.cell(None, oad) if of == self.of else NULL

    def stamp(self, oad: Oad) -> int | None:
        if oad == STARTED:
            return self.started
        if oad == SUCCEEDED:
            return self.succeeded
        return self.stored if oad == STORED else None


@dataclass(slots=True)
class Event:
    """A standard event record 标准事件记录单元 with what this kind of event adds."""

    kind: EventKind
    number: int
    began: int
    ended: int | None
    source: Data
    extras: tuple[tuple[Oad, Data], ...]
    meter: str | None
    phase: int | None
    status: int = 0

    def cell(self, of: Oad | None, oad: Oad) -> Data:  # noqa: ARG002
        if oad == EVENT_NUMBER:
            return Data(Tag.DOUBLE_LONG_UNSIGNED, self.number)
        at = self.stamp(oad)
        if at is not None:
            return Data(Tag.DATE_TIME_S, date_time_s(at))
        if oad == SOURCE:
            return self.source
        if oad == STATUS:
            states = zip(REPORT_CHANNELS, (self.status, 0), strict=True)
            return array(structure(Data(Tag.OAD, channel), u8(status)) for channel, status in states)
        return dict(self.extras).get(oad, NULL)

    def stamp(self, oad: Oad) -> int | None:
        if oad == BEGAN:
            return self.began
        return self.ended if oad == ENDED else None

    @property
    def table(self) -> Oad:
        """The record table it stands in: attribute 2, or 6..8 by phase for class 24."""
        return self.kind.table(self.phase)

    @property
    def rcsd(self) -> Rcsd:
        return (*EVENT_BASE, *(oad for oad, _ in self.extras))

    def structure(self) -> Data:
        """All its columns in one structure, as attribute 2 holds it."""
        return Data(Tag.STRUCTURE, row_of(self, self.rcsd).columns)


class EventKind(NamedTuple):
    """A kind of event.

    `by_phase`: class 24, one record table for each phase; `source`: what column 2024 holds; `related`: OADs of its
    related data 关联对象属性表, of group 1 where they are a group's.
    """

    slug: str
    oi: int
    by_phase: bool
    source: str
    related: tuple[Oad, ...] = ()

    def table(self, phase: int | None) -> Oad:
        """The record table of a phase (0..2), or the only one."""
        attribute = 6 + (phase or 0) if self.by_phase else 2
        return Oad(self.oi << 16 | attribute << 8)

    @property
    def flag(self) -> int:
        """The attribute of the report flag 上报标识."""
        return 11 if self.by_phase else 8


EVENT_KINDS: dict[str, EventKind] = {
    kind.slug: kind
    for kind in (
        EventKind("voltage_loss", 0x3000, True, "meter"),
        EventKind("phase_break", 0x3003, True, "meter"),
        EventKind("reverse_phase_sequence", 0x300F, False, "meter"),
        EventKind("meter_cover_open", 0x301B, False, "meter"),
        EventKind("power_off", 0x3106, False, "supply"),
        EventKind("remote_trip", 0x3115, False, "relay"),
        EventKind("power_control_trip", 0x3200, False, "group", (Oad(0x23012300),)),
        EventKind("energy_control_trip", 0x3201, False, "group", (Oad(0x23014900),)),
        EventKind("purchase_parameters_set", 0x3202, False, "group", (Oad(0x810C2201),)),
        EventKind("energy_control_alarm", 0x3203, False, "group"),
    )
}
EVENT_OIS = {kind.oi: kind for kind in EVENT_KINDS.values()}


class EventLog:
    """The event tables of a terminal: at most `depth` records in each."""

    __slots__ = ("_counts", "_depth", "tables")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._counts: dict[Oad, int] = {}
        self.tables: dict[Oad, deque[Event]] = {}

    def record(
        self,
        slug: str,
        began: int,
        *,
        tsa: bytes = b"",
        meter: str | None = None,
        phase: int | None = None,
        source: Data | None = None,
        extras: tuple[tuple[Oad, Data], ...] = (),
    ) -> Event:
        """Enter an event that begins.

        `tsa` and `meter`: the meter it is about, where it is about one; else `source`, for a kind that has it from
        outside. `extras`: the columns that this kind adds.
        """
        kind = EVENT_KINDS[slug]
        phase = phase if kind.by_phase else None
        table = kind.table(phase)
        self._counts[table] = number = self._counts.get(table, 0) + 1
        if kind.source == "meter":
            source = Data(Tag.TSA, tsa)
        elif kind.source == "supply":
            source = enum(0)
            extras = ((Oad(0x33090600), Data(Tag.BIT_STRING, BitString(8, b"\xc0"))),)
        event = Event(
            kind, number, began, None, source or NULL, extras, meter if kind.source == "meter" else None, phase
        )
        self.tables.setdefault(table, deque(maxlen=self._depth)).append(event)
        return event

    def end(self, event: Event, ended: int) -> None:
        """The event is over."""
        event.ended = max(ended, event.began)
        if event.kind.source == "supply":
            event.source = enum(1)


def phase_number(name: str) -> int:
    """0..2 of `a`, `b`, `c`."""
    return PHASES.index(name)


# --- rows --------------------------------------------------------------------------------------------------------


def row_of(record: Record, rcsd: Rcsd) -> Row:
    """The row of a record under these columns."""
    return Row.of(tuple([record.cell(of, oad) for of, oad in columns_of(rcsd)]))


def table_of(records: Iterable[Record], rcsd: Rcsd) -> Table:
    """The rows of records under these columns; without a column there are none."""
    return Table.of([row_of(record, rcsd) for record in records]) if columns_of(rcsd) else EMPTY


R = TypeVar("R", bound=Record)


def select(rows: Iterable[R], rsd: Rsd, meters: Callable[[R, MeterSet], bool] | None = None) -> list[R]:
    """The rows (oldest first) that a selector (wire.md c.2) picks.

    `meters` tells whether a row belongs to a meter set; without it selectors 4..8 and 10 take every meter.
    """
    kept = list(rows)
    if rsd.meters is not None and meters is not None:
        chosen = rsd.meters
        kept = [row for row in kept if meters(row, chosen)]
    match rsd.selector:
        case 1:
            assert rsd.oad is not None
            oad, value = rsd.oad, rsd.value
            return [row for row in kept if row.cell(None, oad) == value]
        case 2 | 3:
            return [row for row in kept if all(_inside(row, part) for part in rsd.ranges)]
        case 4 | 5:
            at = read_date_time_s(rsd.at or b"")
            column = STARTED if rsd.selector == 4 else STORED
            return [row for row in kept if at is not None and row.stamp(column) == at]
        case 6 | 7 | 8:
            return _between(kept, rsd)
        case 9:
            n = rsd.last or 0
            return [kept[-n]] if 0 < n <= len(kept) else []
        case 10:
            n = rsd.last or 0
            return _latest(kept, n)
        case _:
            return kept


def _inside(row: Record, part: RangeSelector) -> bool:
    oad, start, end, _ = part
    value = row.cell(None, oad)
    if value.tag == Tag.NULL or value.tag != start.tag or value.tag != end.tag:
        return False
    return bool(start.value <= value.value < end.value)


def _between(rows: list[R], rsd: Rsd) -> list[R]:
    start, end = read_date_time_s(rsd.start or b""), read_date_time_s(rsd.end or b"")
    if start is None or end is None:
        return []
    column = {6: STARTED, 7: STORED, 8: SUCCEEDED}[rsd.selector]
    step = 0
    if rsd.interval is not None and rsd.interval.unit <= 3:
        step = rsd.interval.n * (1, 60, 3600, 86400)[rsd.interval.unit]
    kept = []
    for row in rows:
        at = row.stamp(column)
        if at is not None and start <= at < end and (step == 0 or (at - start) % step == 0):
            kept.append(row)
    return kept


def _latest(rows: Sequence[R], n: int) -> list[R]:
    """The latest n of each meter, in their order."""
    left: dict[Data, int] = {}
    kept = []
    for row in reversed(rows):
        meter = row.cell(None, METER)
        left[meter] = left.get(meter, n) - 1
        if left[meter] >= 0:
            kept.append(row)
    return kept[::-1]


def in_meter_set(row: Collected, meters: MeterSet) -> bool:
    """Whether a collected row is of a meter in the set (wire.md c.3)."""
    match meters.choice:
        case 0:
            return False
        case 1:
            return True
        case 2:
            return row.user_type in meters.items
        case 3:
            return row.tsa in meters.items
        case 4:
            return row.meter in meters.items
        case 5:
            return any(_in_region(row.user_type, region) for region in meters.items)
        case 6:
            return any(_in_region(row.tsa, region) for region in meters.items)
        case _:
            return any(_in_region(row.meter, region) for region in meters.items)


def _in_region(value: Any, region: Region) -> bool:
    start: Any = region.start.value
    end: Any = region.end.value
    if type(start) is not type(value) or type(end) is not type(value):
        return False
    above = value > start if region.kind in (1, 3) else value >= start
    below = value < end if region.kind in (0, 3) else value <= end
    return bool(above and below)


def upload_columns(of: Oad) -> tuple[Oad, ...]:
    """What of a freeze is uploaded: its values, and its time where the collection's start does not tell it."""
    return FREEZES[of] if of == MINUTE else (FREEZE_TIME, *FREEZES[of])


def upload_rcsd(of: Oad) -> Rcsd:
    """The columns of a task upload: meter, three times, and what the freeze keeps, hung on it (ROAD)."""
    return (METER, STARTED, SUCCEEDED, STORED, Road(of, upload_columns(of)))
