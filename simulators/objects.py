"""The objects of a terminal and of its meters: what GET, SET and ACTION find behind an OAD or OMD.

Those of load control stand in control_objects and limit_objects.
"""

from __future__ import annotations

from typing import Protocol

from wire698.access import GetRecord
from wire698.pieces import ResultNormal, ResultRecord
from wire698.rows import Row
from wire698.values import (
    NULL,
    Comdcb,
    Dar,
    Data,
    Oad,
    Omd,
    Rcsd,
    Road,
    ScalerUnit,
    Tag,
    Ti,
)

from .body import Body, tsa_of
from .control_objects import CONTROL_OIS, ControlObjects
from .limit_objects import LIMIT_OIS, LimitObjects
from .records import (
    DAILY,
    EVENT_OIS,
    MINUTE,
    MONTHLY,
    REPORT_CHANNELS,
    SERIES,
    TASKS,
    FreezeTable,
    in_meter_set,
    select,
    table_of,
    upload_rcsd,
)
from .registers import data_of, knows, scaler_of
from .shapes import (
    MISSING,
    OUT_OF_RANGE,
    REFUSED,
    SUCCESS,
    UNDEFINED,
    WRONG_TYPE,
    array,
    enum,
    octets,
    structure,
    text,
    u8,
    u16,
)
from .stamps import date_time_s, read_date_time_s
from .world import Meter

_CLOCK = Oad(0x40000200)
_FREEZE_OIS = {table.oi: table for table in (MINUTE, DAILY, MONTHLY)}
_WIRELESS, _ETHERNET = 0x4500, 0x4510
_CENTURY = (946656000, 4102416000)
"""The clock can be set from 2000 to 2099."""
_FIRMWARE = (b"LGSM", b"0100", b"260101", b"0100", b"260101", b"00000000")


class Objects(Protocol):
    """What can be asked of a terminal or a meter; `at` is the simulated instant."""

    def get(self, oad: Oad, at: float) -> Data | Dar: ...

    def set(self, oad: Oad, value: Data, at: float) -> Dar: ...

    def act(self, omd: Omd, parameter: Data, at: float) -> Dar: ...

    def records(self, wanted: GetRecord) -> ResultRecord: ...


def result_of(oad: Oad, value: Data | Dar) -> ResultNormal:
    """A-ResultNormal of what `get` gave."""
    return ResultNormal(oad=oad, result=value if isinstance(value, Dar) else Row.of((value,)))


class MeterObjects:
    """A meter behind the terminal, as a PROXY reaches it."""

    def __init__(self, body: Body, meter: Meter) -> None:
        self._body = body
        self.meter = meter
        self._tables = body.tables[meter.number]

    def get(self, oad: Oad, at: float) -> Data | Dar:
        """An attribute of the meter at the instant `at`."""
        if oad == _CLOCK:
            return Data(Tag.DATE_TIME_S, date_time_s(int(self._body.clock.read(at))))
        if oad.oi in (0x4001, 0x4002) and oad.attribute == 2:
            return octets(bytes.fromhex(self.meter.address))
        if oad.oi in _FREEZE_OIS:
            return self._freeze_settings(oad)
        if not knows(oad):
            return UNDEFINED
        if oad.attribute == 3:
            scaler, unit = scaler_of(oad) or (0, 255)
            return Data(Tag.SCALER_UNIT, ScalerUnit(scaler, unit))
        value = data_of(oad, self.meter.read(at))
        return MISSING if value == NULL else value

    def _freeze_settings(self, oad: Oad) -> Data | Dar:
        if oad.attribute == 2:
            # A table of records is read as records.
            return REFUSED
        if oad.attribute != 3:
            return MISSING
        table = self._tables[_FREEZE_OIS[oad.oi]]
        period = max(1, round(self._body.settings.minute_s / 60)) if table.oad == MINUTE else 1
        depth = table.rows.maxlen or 0
        return array(structure(u16(period), Data(Tag.OAD, column), u16(depth)) for column in table.columns)

    def set(self, oad: Oad, value: Data, at: float) -> Dar:  # noqa: ARG002
        """The clock alone can be set; the meter keeps the terminal's."""
        if oad == _CLOCK:
            return SUCCESS if value.tag == Tag.DATE_TIME_S else WRONG_TYPE
        return REFUSED if knows(oad) else UNDEFINED

    def act(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        """No method of a meter does anything here."""
        return MISSING if knows(Oad(omd)) else UNDEFINED

    def records(self, wanted: GetRecord) -> ResultRecord:
        """Freezes of this meter."""
        table = self._tables.get(Oad(wanted.oad & 0xFFFFFF00))
        if table is None:
            return ResultRecord(wanted.oad, wanted.rcsd, UNDEFINED)
        return freeze_rows(table, wanted)


def freeze_rows(table: FreezeTable, wanted: GetRecord) -> ResultRecord:
    """The rows of a freeze table that a request wants, under its columns or all."""
    rcsd: Rcsd = wanted.rcsd or table.rcsd
    rows = select(table.rows, wanted.rsd)
    return ResultRecord(wanted.oad, rcsd, table_of(rows, rcsd))


class TerminalObjects:
    """The terminal's own objects. Energies and voltages are those of its first meter (交采)."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.meters = {tsa_of(m.address): MeterObjects(body, m) for m in body.premises.meters}
        self._own = next(iter(self.meters.values()))
        self._remote = ControlObjects(body.control)
        self._limits = LimitObjects(body.control)
        self._flags = {7: True, 9: True}
        self._settings: dict[Oad, Data] = {}
        self.restart_wanted = False

    # --- GET ---

    def get(self, oad: Oad, at: float) -> Data | Dar:
        """An attribute of the terminal at the instant `at`; DAR 4 for an unknown object, 6 for an attribute."""
        kept = self._settings.get(oad)
        if kept is not None:
            return kept
        oi, attribute = oad.oi, oad.attribute
        if oi in CONTROL_OIS:
            return self._remote.get(oad)
        if oi in LIMIT_OIS:
            return self._limits.get(oad, at)
        match oi:
            case 0x4000:
                return self._clock(attribute, at)
            case 0x4001 | 0x4002 | 0x4003:
                address = bytes.fromhex(self._body.settings.address)
                return octets(address) if attribute == 2 else MISSING
            case 0x4300:
                return self._device(attribute)
            case 0x4500 | 0x4510:
                return self._channel(oi, attribute)
            case 0x6000:
                return self._archive() if attribute == 2 else MISSING
            case 0x6012:
                return self._tasks() if attribute == 2 else (REFUSED if attribute == 3 else MISSING)
            case 0xF101:
                return enum(0) if attribute == 2 else MISSING
            case 0xF201:
                line = structure(text(b"RS485-1"), Data(Tag.COMDCB, Comdcb(3, 2, 8, 1, 0)), enum(1))
                return array([line]) if attribute == 2 else MISSING
        if oi in EVENT_OIS:
            return self._event(oad)
        return self._own.get(oad, at)

    def _clock(self, attribute: int, at: float) -> Data | Dar:
        match attribute:
            case 2:
                return Data(Tag.DATE_TIME_S, date_time_s(int(self._body.clock.read(at))))
            case 3:
                return enum(0)
            case 4:
                return structure(*(u8(value) for value in (10, 2, 2, 5, 6)))
        return MISSING

    def _device(self, attribute: int) -> Data | Dar:
        match attribute:
            case 2:
                return text(b"LOADGATE-SIM")
            case 3:
                return structure(*(text(part) for part in _FIRMWARE))
            case 7 | 9:
                return Data(Tag.BOOL, self._flags[attribute])
            case 8:
                return Data(Tag.BOOL, self._body.reporting)
            case 10:
                return array(Data(Tag.OAD, channel) for channel in REPORT_CHANNELS)
        return MISSING

    def _channel(self, oi: int, attribute: int) -> Data | Dar:
        if attribute == 3:
            return array([structure(octets(bytes((127, 0, 0, 1))), u16(9000))])
        if attribute != 2:
            return MISSING
        mode, ports = (enum(1), enum(0), enum(0)), array([u16(9001)])
        proxy = (octets(bytes(4)), u16(0), u8(30 << 2 | 3), u16(self._body.heartbeat_s))
        if oi == _WIRELESS:
            login = (text(b"CMNET"), text(b""), text(b""))
            return structure(enum(1), *mode, ports, *login, *proxy)
        return structure(*mode, ports, *proxy)

    def _archive(self) -> Data:
        """Collection archive 采集档案: a unit for each meter."""
        units = []
        for tsa, objects in self.meters.items():
            basic = structure(
                Data(Tag.TSA, tsa),
                enum(3),
                enum(3),
                Data(Tag.OAD, Oad(0xF2010201)),
                octets(b""),
                u8(4),
                u8(self._body.user_type()),
                enum(3),
                u16(2200),
                u16(15),
            )
            ratio = u16(objects.meter.curve.ct)
            extended = structure(Data(Tag.TSA, b""), octets(b""), u16(1), ratio)
            units.append(structure(u16(objects.meter.number), basic, extended, array([])))
        return array(units)

    def _tasks(self) -> Data:
        """Task configuration 任务配置表: a unit of twelve for each task."""
        units = []
        for task in self._body.tasks.values():
            ti = Ti(0, min(65535, max(1, round(task.period))))
            if task.of != MINUTE:
                ti = Ti(3, 1) if task.of == DAILY else Ti(4, 1)
            day = structure(u8(0), u8(0), u8(23), u8(59))
            units.append(
                structure(
                    u8(task.number),
                    Data(Tag.TI, ti),
                    enum(1),
                    u8(task.number),
                    Data(Tag.DATE_TIME_S, date_time_s(946656000)),
                    Data(Tag.DATE_TIME_S, date_time_s(4070880000)),
                    Data(Tag.TI, Ti(0, min(65535, round(task.delay)))),
                    u8(2),
                    enum(1 if task.active else 2),
                    u16(0),
                    u16(0),
                    structure(enum(0), array([day])),
                )
            )
        return array(units)

    def _event(self, oad: Oad) -> Data | Dar:
        kind = EVENT_OIS[oad.oi]
        attribute = oad.attribute
        tables = [kind.table(phase) for phase in range(3)] if kind.by_phase else [kind.table(None)]
        table = Oad(oad & 0xFFFFFF00)
        rows = self._body.log.tables.get(table, ())
        if table in tables:
            if oad.index:
                return rows[-oad.index].structure() if oad.index <= len(rows) else SUCCESS
            return array(row.structure() for row in rows)
        if attribute == kind.flag:
            return enum(self._body.flags[kind.oi])
        if attribute == kind.flag + 1:
            return Data(Tag.BOOL, True)
        if not kind.by_phase and attribute == 3:
            return array(Data(Tag.OAD, related) for related in kind.related)
        if not kind.by_phase and attribute == 4:
            return u16(len(self._body.log.tables.get(tables[0], ())))
        if attribute == (3 if kind.by_phase else 5):
            return u16(self._body.settings.event_depth)
        return MISSING

    # --- SET ---

    def set(self, oad: Oad, value: Data, at: float) -> Dar:
        """Write an attribute: clock, reporting switches, event flags, channel settings, parameters of load control."""
        if oad.oi in CONTROL_OIS:
            return self._remote.set(oad, value, at)
        if oad.oi in LIMIT_OIS:
            return self._limits.set(oad, value, at)
        if oad == _CLOCK:
            return self._set_clock(value, at)
        if oad.oi == 0x4300 and oad.attribute in (7, 8, 9):
            if value.tag != Tag.BOOL:
                return WRONG_TYPE
            if oad.attribute == 8:
                self._body.reporting = bool(value.value)
            else:
                self._flags[oad.attribute] = bool(value.value)
            return SUCCESS
        kind = EVENT_OIS.get(oad.oi)
        if kind is not None and oad.attribute == kind.flag:
            if value.tag != Tag.ENUM:
                return WRONG_TYPE
            self._body.flags[kind.oi] = value.value
            return SUCCESS
        if oad.oi in (_WIRELESS, _ETHERNET) and oad.attribute in (2, 3):
            return self._set_channel(oad, value)
        return REFUSED if isinstance(self.get(oad, at), Data) else UNDEFINED

    def _set_clock(self, value: Data, at: float) -> Dar:
        if value.tag != Tag.DATE_TIME_S:
            return WRONG_TYPE
        shown = read_date_time_s(value.value)
        if shown is None or not _CENTURY[0] <= shown < _CENTURY[1]:
            return OUT_OF_RANGE
        self._body.set_clock(at, shown)
        return SUCCESS

    def _set_channel(self, oad: Oad, value: Data) -> Dar:
        present = self._channel(oad.oi, oad.attribute)
        if not isinstance(present, Data) or value.tag != present.tag:
            return WRONG_TYPE
        if oad.attribute == 2:
            tags = [item.tag for item in value.value]
            if tags != [item.tag for item in present.value]:
                return WRONG_TYPE
            self._body.heartbeat_s = value.value[-1].value or 300
        self._settings[oad] = value
        return SUCCESS

    # --- ACTION ---

    def act(self, omd: Omd, parameter: Data, at: float) -> Dar:
        """Carry out a method: broadcast time 4000/127, restart 4300/1, tasks 6012/127..130, load control."""
        if omd.oi in CONTROL_OIS:
            return self._remote.act(omd, parameter, at)
        if omd.oi in LIMIT_OIS:
            return self._limits.act(omd, parameter, at)
        match omd.oi, omd.method:
            case 0x4000, 127:
                return self._set_clock(parameter, at)
            case 0x4300, 1:
                self.restart_wanted = True
                return SUCCESS
            case 0x6012, 127:
                return self._change_tasks(parameter, at)
            case 0x6012, 128 | 129 | 130:
                return self._stop_tasks(omd.method, parameter)
        known = isinstance(self.get(Oad(omd.oi << 16 | 0x0200), at), Data)
        return MISSING if known or omd.oi in EVENT_OIS or omd.oi in _FREEZE_OIS else UNDEFINED

    def _change_tasks(self, parameter: Data, at: float) -> Dar:
        """Tasks 1 to 3 are there for good; their period (task 1) and state can be changed."""
        if parameter.tag != Tag.ARRAY:
            return WRONG_TYPE
        for unit in parameter.value:
            if unit.tag != Tag.STRUCTURE or len(unit.value) != 12 or unit.value[1].tag != Tag.TI:
                return WRONG_TYPE
            task = self._body.tasks.get(unit.value[0].value)
            if task is None:
                return OUT_OF_RANGE
            ti: Ti = unit.value[1].value
            if task.of == MINUTE and ti.unit <= 3 and ti.n:
                task.period = float(ti.n * (1, 60, 3600, 86400)[ti.unit])
                task.next = task.after(max(self._body.clock.read(at), task.next - task.period))
            task.active = unit.value[8].value == 1
        return SUCCESS

    def _stop_tasks(self, method: int, parameter: Data) -> Dar:
        if method == 130:
            if parameter.tag != Tag.STRUCTURE or len(parameter.value) != 2:
                return WRONG_TYPE
            number, state = (item.value for item in parameter.value)
            if number not in self._body.tasks:
                return OUT_OF_RANGE
            self._body.tasks[number].active = state == 1
            return SUCCESS
        if method == 128 and parameter.tag != Tag.ARRAY:
            return WRONG_TYPE
        numbers = [n.value for n in parameter.value] if method == 128 else list(self._body.tasks)
        for number in numbers:
            if number in self._body.tasks:
                self._body.tasks[number].active = False
        return SUCCESS

    # --- records ---

    def records(self, wanted: GetRecord) -> ResultRecord:
        """Rows of a freeze table, an event table or the task record table; DAR 4 where there is no such table."""
        oad, rcsd = Oad(wanted.oad & 0xFFFFFF00), wanted.rcsd
        if oad in SERIES:
            return self._own.records(wanted)
        if oad == TASKS:
            return self._collected(wanted)
        kind = EVENT_OIS.get(oad.oi)
        if kind is None:
            return ResultRecord(wanted.oad, rcsd, UNDEFINED)
        rows = select(self._body.log.tables.get(oad, ()), wanted.rsd)
        if not rcsd and rows:
            rcsd = rows[0].rcsd
        return ResultRecord(wanted.oad, rcsd, table_of(rows, rcsd))

    def _collected(self, wanted: GetRecord) -> ResultRecord:
        rcsd = wanted.rcsd or upload_rcsd(MINUTE)
        hung = {csd.oad for csd in rcsd if isinstance(csd, Road)}
        rows = [row for row in self._body.collected if not hung or row.of in hung]
        rows = select(rows, wanted.rsd, in_meter_set)
        return ResultRecord(wanted.oad, rcsd, table_of(rows, rcsd))
