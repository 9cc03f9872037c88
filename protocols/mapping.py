"""APDUs -> messages: Readings and Alarms as the contract has them.

Theory of operation. What a row means depends on its columns and its layout only, and those repeat. A `Plan` is made for
each pair once: the names, units and scales of the columns, and one compiled expression that turns the cells of a row
into the row of a Reading. A plan holds no value of any terminal, so all terminals of a channel share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from messages import Alarm, Column, Reading, Up
from wire698.catalogue import ColumnInfo, column, event, lookup, series_of
from wire698.pieces import ResultNormal, ResultRecord
from wire698.rows import LARGEST_KEPT, Cells, Layout, Row, Shape, worth_keeping
from wire698.values import Data, Oad, Road, Tag, columns_of

from .plain import (
    NUMBERS,
    CellNames,
    Printed,
    address_of,
    environment,
    is_absent,
    leaf_expression,
    nested_expression,
)
from .times import Instants

Cause = Literal["report", "read", "poll", "backfill"]

TARGET_ADDRESS, OWN_ADDRESS = 0x202A, 0x4001
FREEZE_TIME, COLLECTION_START, COLLECTION_STORE = 0x2021, 0x6040, 0x6042
RECORD_NO, START_TIME, END_TIME, SOURCE, REPORT_STATUS = 0x2022, 0x201E, 0x2020, 0x2024, 0x3300
POWER_OFF_ON, SWITCHED_ON = 0x3106, 1
TASK_RECORDS = 0x6012

_BASE_COLUMNS = (RECORD_NO, START_TIME, END_TIME, SOURCE, REPORT_STATUS)
"""Columns of an event record that comes without their OADs (reports.md 3.3)."""
_TIME_TAGS = frozenset({Tag.DATE_TIME_S, Tag.DATE_TIME})
_METER_TAGS = frozenset({Tag.TSA, Tag.OCTET_STRING})
_FITTING: dict[int, frozenset[Tag]] = {
    RECORD_NO: NUMBERS | {Tag.NULL},
    START_TIME: _TIME_TAGS | {Tag.NULL},
    END_TIME: _TIME_TAGS | {Tag.NULL},
    SOURCE: frozenset(Tag),
    REPORT_STATUS: frozenset({Tag.ARRAY, Tag.NULL}),
    TARGET_ADDRESS: _METER_TAGS | {Tag.NULL},
}
"""Types in which the columns that an Alarm has fields for are read; in another one they are `values`."""
_ELEMENTS = 255
"""Longest array whose members become columns: the element index is an octet."""
_PLANS_KEPT = 2048


class Plan(NamedTuple):
    """How rows of one layout under one list of columns become rows of a Reading."""

    key: tuple[Any, ...]
    columns: tuple[Column, ...]
    convert: Callable[[Cells], list[Any]]


class Said(NamedTuple):
    """Where messages come from: the terminal's address, its logical address, the receipt, and why."""

    terminal: str
    logical_address: int
    received_at: int
    cause: Cause = "report"
    command_id: str | None = None
    meter: str | None = None


class Mapper:
    """Makes messages of results and records. One for each channel, as it holds the channel's time zone."""

    def __init__(self, instants: Instants) -> None:
        self._instants = instants
        self._printed = Printed()
        self._names = environment(instants, self._printed)
        self._plans: dict[tuple[int, int], Plan] = {}

    # --- readings -----------------------------------------------------------------------------------------------

    def of_records(self, records: Iterable[ResultRecord], said: Said) -> list[Up]:
        """A Reading, or Alarms, for each record with rows."""
        messages: list[Up] = []
        for record in records:
            if holds_events(record):
                messages.extend(self._alarms_of_record(record, said))
            else:
                messages.extend(self._readings_of_record(record, said))
        return messages

    def _readings_of_record(self, record: ResultRecord, said: Said) -> list[Up]:
        """One Reading for the rows; several where layouts in one record name different columns."""
        readings: list[Up] = []
        columns: tuple[Column, ...] | None = None
        rows: list[list[Any]] = []
        for layout, cells in record.table.runs:
            plan = self._plan(record, layout)
            if plan.columns != columns:
                columns, rows = plan.columns, []
                readings.append(self._reading(said, record_series(record), columns, rows))
            rows.extend(map(plan.convert, cells))
        for row in (row for reading in readings for row in reading.rows):  # type: ignore[attr-defined]
            if row[0] is None:
                row[0] = said.meter
            elif row[0] == said.terminal:
                row[0] = None
        return readings

    def of_results(self, results: Iterable[ResultNormal], said: Said) -> list[Up]:
        """One Reading with one row for all values that are no event records, and the Alarms of those that are."""
        columns: list[Column] = []
        row: list[Any] = [said.meter, None]
        alarms: list[Up] = []
        series: set[Any] = set()
        for result in results:
            if isinstance(result.result, Row) and is_event_table(result.oad) and _is_records(result.result.layout):
                alarms.extend(self._alarms_of_value(result.oad, result.result.data, said))
                continue
            series.add(series_of(result.oad))
            if isinstance(result.result, Row):
                layout, cells = result.result
                plan = self._plan_of(result.oad, layout)
                columns.extend(plan.columns)
                row.extend(plan.convert(cells)[2:])
            else:
                info = meaning(result.oad)
                columns.append(Column(name=info.name, unit=info.unit, scale=info.scale, oad=str(result.oad)))
                row.append(None)
        if not columns:
            return alarms
        common = series.pop() if len(series) == 1 else "instant" if "instant" in series else "other"
        return [self._reading(said, common, tuple(columns), [row]), *alarms]

    def of_octets(self, port: Oad, items: Iterable[bytes], said: Said) -> list[Up]:
        """Transparent data 透明数据: a row with the octets of each item, under the port that they came from."""
        columns = (Column(name=f"transparent.{port}", oad=str(port)),)
        rows = [[said.meter, None, item.hex().upper()] for item in items]
        return [self._reading(said, "other", columns, rows)] if rows else []

    @staticmethod
    def _reading(said: Said, series: Any, columns: tuple[Column, ...], rows: list[list[Any]]) -> Reading:
        reading = Reading(
            id="",
            terminal=said.terminal,
            received_at=said.received_at,
            logical_address=said.logical_address,
            cause=said.cause,
            series=series,
            columns=columns,
            rows=rows,
        )
        if said.command_id is not None:
            reading.command_id = said.command_id
        return reading

    # --- plans --------------------------------------------------------------------------------------------------

    def _plan(self, record: ResultRecord, layout: Layout) -> Plan:
        """The plan for rows of a record; found by the identity of what it is made for, which it keeps alive."""
        rcsd = record.rcsd
        plan = self._plans.get((id(rcsd), id(layout)))
        if plan is not None and plan.key[0] is rcsd and plan.key[1] is layout:
            return plan
        if record.flat:
            flat = [oad for _, oad in columns_of(rcsd)]
            parts = list(zip(flat, layout.shape, strict=True))
        else:
            parts = [pair for csd, part in zip(rcsd, layout.shape, strict=True) for pair in _opened(csd, part)]
        return self._keep((rcsd, layout), compile_plan(parts, self._names, task=record.oad.oi == TASK_RECORDS))

    def _plan_of(self, oad: Oad, layout: Layout) -> Plan:
        plan = self._plans.get((oad, id(layout)))
        if plan is not None and plan.key[1] is layout:
            return plan
        return self._keep((oad, layout), compile_plan([(oad, layout.shape[0])], self._names, rowless=True))

    def _keep(self, key: tuple[Any, Layout], made: tuple[tuple[Column, ...], Callable[[Cells], list[Any]]]) -> Plan:
        plan = Plan(key, *made)
        what, layout = key
        if not worth_keeping(layout.shape) or (not isinstance(what, Oad) and len(columns_of(what)) > LARGEST_KEPT):
            return plan  # a peer must not fill the memory with large ones
        if len(self._plans) >= _PLANS_KEPT:
            self._plans.clear()
        self._plans[key[0] if isinstance(key[0], Oad) else id(key[0]), id(key[1])] = plan
        return plan

    # --- alarms -------------------------------------------------------------------------------------------------

    def _alarms_of_record(self, record: ResultRecord, said: Said) -> list[Up]:
        columns = (
            [oad for _, oad in columns_of(record.rcsd)]
            if record.flat
            else [csd.oad if isinstance(csd, Road) else csd for csd in record.rcsd]
        )
        return [
            self._alarm(record.oad, list(zip(columns, row.columns, strict=True)), said) for row in record.table.rows
        ]

    def _alarms_of_value(self, oad: Oad, data: Data, said: Said) -> list[Up]:
        """An event given as one attribute: a record, or an array of them."""
        records = data.value if data.tag == Tag.ARRAY else (data,)
        alarms: list[Up] = []
        for record in records:
            members = record.value if record.tag == Tag.STRUCTURE else (record,)
            named = [
                (Oad(_BASE_COLUMNS[n] << 16 | 0x0200) if n < len(_BASE_COLUMNS) else None, member)
                for n, member in enumerate(members)
            ]
            alarms.append(self._alarm(oad, named, said))
        return alarms

    def _alarm(self, table: Oad, members: list[tuple[Oad | None, Data]], said: Said) -> Alarm:
        known: dict[int, Data] = {}
        values: dict[str, Any] = {}
        times: dict[str, int] = {}
        for number, (oad, data) in enumerate(members):
            if oad is not None and oad.oi not in known and data.tag in _FITTING.get(oad.oi, ()):
                known[oad.oi] = data
                continue
            for name, value in (
                self._named(oad, data) if oad is not None else [(f"column_{number + 1}", self.value(data))]
            ):
                # The same column twice is two values.
                times[name] = times.get(name, 0) + 1
                values[name if times[name] == 1 else f"{name}#{times[name]}"] = value
        source = known.get(SOURCE)
        meter = self._meter(known.get(TARGET_ADDRESS), source)
        info = event(table.oi)
        ended_at = self._instant(known.get(END_TIME))
        record_no = known.get(RECORD_NO)
        phase = info.phases.get(table.attribute) if info is not None else None
        return Alarm(
            id="",
            terminal=said.terminal,
            received_at=said.received_at,
            logical_address=said.logical_address,
            event=info.slug if info is not None else f"event:{table.oi:04X}",
            oi=f"{table.oi:04X}",
            phase=phase if phase in ("a", "b", "c") else None,  # type: ignore[arg-type]
            meter=(meter if meter != said.terminal else None) or said.meter,
            record_no=None if record_no is None or is_absent(record_no) else record_no.value,
            transition=self._transition(table, ended_at, source, known.get(REPORT_STATUS)),
            occurred_at=self._instant(known.get(START_TIME)),
            ended_at=ended_at,
            source=None if source is None else self.value(source),
            severity=info.severity if info is not None else "warning",
            values=values,
        )

    def _meter(self, target: Data | None, source: Data | None) -> str | None:
        for data in (target, source):
            if data is not None and data.tag == Tag.TSA:
                return self._printed[data.value]
        if target is not None and target.tag == Tag.OCTET_STRING:
            return address_of(target.value)
        return None

    def _instant(self, data: Data | None) -> int | None:
        if data is None or data.tag not in _TIME_TAGS:
            return None
        return self._instants[data.value]

    @staticmethod
    def _transition(
        table: Oad, ended_at: int | None, source: Data | None, status: Data | None
    ) -> Literal["raised", "cleared", "recorded"]:
        """raised: still open. cleared: its beginning was told before, now its end. recorded: told as a whole.

        The report status 3300 has bits 0 beginning reported, 1 confirmed, 2 end reported, 3 confirmed, a channel each.
        """
        if table.oi == POWER_OFF_ON and source is not None and source.tag == Tag.ENUM and ended_at is None:
            return "cleared" if source.value == SWITCHED_ON else "raised"
        if ended_at is None:
            return "raised"
        flags = 0
        if status is not None and status.tag == Tag.ARRAY:
            for channel in status.value:
                if channel.tag == Tag.STRUCTURE and len(channel.value) > 1 and isinstance(channel.value[1].value, int):
                    flags |= channel.value[1].value
        return "cleared" if flags & 0b0100 and flags & 0b0011 else "recorded"

    # --- single values ------------------------------------------------------------------------------------------

    def _named(self, oad: Oad, data: Data) -> list[tuple[str, Any]]:
        """The values of one column by name."""
        layout, cells = Row.of((data,))
        columns, convert = compile_plan([(oad, layout.shape[0])], self._names, rowless=True)
        return [(name.name, value) for name, value in zip(columns, convert(cells)[2:], strict=True)]

    def value(self, data: Data) -> Any:
        """Plain value of any Data; containers become lists."""
        layout, cells = Row.of((data,))
        source = nested_expression(layout.shape[0], CellNames(), "other", None)
        return eval(f"lambda c: {source}", self._names)(cells)  # noqa: S307 (see compile_plan)


def is_event_table(oad: Oad) -> bool:
    """Whether an OAD names a table of event records 事件记录表, whose rows are Alarms."""
    if not 0x3000 <= oad.oi <= 0x32FF:
        return False
    info = event(oad.oi)
    return oad.attribute in info.phases if info is not None and info.phases else oad.attribute == 2


def holds_events(record: ResultRecord) -> bool:
    """Whether the rows of a record are event records: by their table, or by their columns where a terminal names the
    event by attribute 2 whatever its class (reports.md 4).
    """
    oad = record.oad
    if not 0x3000 <= oad.oi <= 0x32FF:
        return False
    if is_event_table(oad):
        return True
    return event(oad.oi) is not None and any(o.oi in (RECORD_NO, START_TIME) for _, o in columns_of(record.rcsd))


def _is_records(layout: Layout) -> bool:
    """Whether the only value of a row is an event record, or an array of them."""
    part = layout.shape[0]
    if not _is_container(part):
        return False
    return part[0] == Tag.STRUCTURE or all(isinstance(item, tuple) and item[0] == Tag.STRUCTURE for item in part[1])


def record_series(record: ResultRecord) -> Any:
    """The series of a record: that of the freeze object its columns hang on, else its own."""
    for csd in record.rcsd:
        if isinstance(csd, Road):
            return series_of(csd.oad)
    return series_of(record.oad)


def meaning(oad: Oad) -> ColumnInfo:
    """What a column stands for. The fixed columns of an event record unit 事件记录单元 are written as elements of its
    attribute 2 (33090206), and described as its attributes (reports.md 3.3).
    """
    if oad.oi >> 8 == 0x33 and oad.attribute == 2 and 2 < oad.index < 0x20:
        info = lookup(oad.oi)
        if info is not None and oad.index in info.attributes:
            return column(oad & ~0x1FFF | oad.index << 8)
    return column(oad)


def _opened(csd: Oad | Road, part: Shape) -> list[tuple[Oad, Shape]]:
    """The columns in one Data that stands for a whole ROAD (wire.md b.6): its members, where they are as many."""
    if not isinstance(csd, Road):
        return [(csd, part)]
    if isinstance(part, tuple) and part[0] in (Tag.ARRAY, Tag.STRUCTURE) and len(part[1]) == len(csd.oads):
        return list(zip(csd.oads, part[1], strict=True))
    return [(csd.oad, part)]


def compile_plan(
    parts: list[tuple[Oad, Shape]], names: dict[str, Any], *, task: bool = False, rowless: bool = False
) -> tuple[tuple[Column, ...], Callable[[Cells], list[Any]]]:
    """Columns, and the function from cells to `[meter, time, value, ...]`.

    `task`: a terminal's address among the columns is the meter's. `rowless`: a single value, which has no meter or time
    of its own. Only shapes and the catalogue go into the source that is compiled, never a value from the wire.
    """
    meter_at = time_at = None
    if not rowless:
        meter_at = _first(parts, (TARGET_ADDRESS, OWN_ADDRESS) if task else (TARGET_ADDRESS,), _METER_TAGS)
        time_at = _first(parts, (FREEZE_TIME, COLLECTION_START, COLLECTION_STORE), _TIME_TAGS)
    cells = CellNames()
    columns: list[Column] = []
    values: list[str] = []
    meter = time = "None"
    for number, (oad, part) in enumerate(parts):
        info = meaning(oad)
        if number == meter_at:
            meter = nested_expression(part, cells, "address", None)
        elif number == time_at:
            time = nested_expression(part, cells, "time", None)
        else:
            for name, index, expression, numeric in _members(info, part, cells):
                columns.append(
                    Column(
                        name=name,
                        unit=info.unit if numeric else None,
                        scale=info.scale if numeric else None,
                        oad=f"{oad | index if info.oad == oad else oad:08X}",
                    )
                )
                values.append(expression)
    source = f"lambda c: [{', '.join([meter, time, *values])}]"
    return tuple(columns), eval(source, names)  # noqa: S307


def _first(parts: list[tuple[Oad, Shape]], wanted: tuple[int, ...], tags: frozenset[Tag]) -> int | None:
    """The place of the column, in one of `tags`, of the first object of `wanted` that there is."""
    for oi in wanted:
        for number, (oad, part) in enumerate(parts):
            if oad.oi == oi and oad.attribute == 2 and (part[0] if isinstance(part, tuple) else part) in tags:
                return number
    return None


def _is_container(part: Shape) -> bool:
    return isinstance(part, tuple) and part[0] in (Tag.ARRAY, Tag.STRUCTURE)


def _members(info: ColumnInfo, part: Shape, cells: CellNames) -> list[tuple[str, int, str, bool]]:
    """(name, element index, expression, is a number) for each value that a column of this shape holds."""
    kind, scale = info.value_kind, info.scale
    if _is_demand(info, part):
        return _demand(info, part, 0, None, cells)
    if _is_container(part) and info.element is None and 0 < len(part[1]) <= _ELEMENTS:
        items = part[1]
        if kind == "demand" and all(_is_demand(info, item) or item == Tag.NULL for item in items):
            members = []
            for n, (item, name) in enumerate(zip(items, info.cells(len(items)), strict=True)):
                element = name.removeprefix(info.base + ".").split("@")[0]
                members.extend(_demand(info, item, n + 1, element, cells))
            return members
        if info.is_array and not any(_is_container(item) for item in items):
            return [
                (name, n + 1, leaf_expression(cells.take(item), item, kind, scale), True)
                for n, (item, name) in enumerate(zip(items, info.cells(len(items)), strict=True))
            ]
    if _is_container(part):
        return [(info.name, 0, nested_expression(part, cells, kind, scale), kind in ("number", "demand"))]
    return [(info.name, 0, leaf_expression(cells.take(part), part, kind, scale), kind in ("number", "demand"))]


def _is_demand(info: ColumnInfo, part: Shape) -> bool:
    """Structure {number, time}."""
    return (
        info.value_kind == "demand"
        and isinstance(part, tuple)
        and part[0] == Tag.STRUCTURE
        and len(part[1]) == 2
        and not any(_is_container(item) for item in part[1])
    )


def _demand(
    info: ColumnInfo, part: Shape, index: int, element: str | None, cells: CellNames
) -> list[tuple[str, int, str, bool]]:
    if part == Tag.NULL:
        return [(info.cell(element), index, "None", True), (info.cell(element, time=True), index, "None", False)]
    value, at = part[1]
    return [
        (info.cell(element), index, leaf_expression(cells.take(value), value, "demand", info.scale), True),
        (info.cell(element, time=True), index, leaf_expression(cells.take(at), at, "time", None), False),
    ]
