"""Objects 8000 遥控, 8001 保电, 8002 催费告警, 8003 and 8004 中文信息, F205 继电器输出 (control.md 1 to 4)."""

from __future__ import annotations

from collections.abc import Callable

from wire698.values import Dar, Data, Oad, Omd, Tag

from .control import RELAY_OI, Control
from .display import IMPORTANT, MOST_OCTETS, NORMAL, Note
from .shapes import (
    MISSING,
    NOT_WRITABLE,
    NOTHING,
    OUT_OF_RANGE,
    REFUSED,
    SUCCESS,
    WRONG_TYPE,
    Kind,
    Many,
    Shape,
    array,
    bits,
    element,
    enum,
    refusal,
    structure,
    text,
    u8,
    u16,
    up_to,
)
from .stamps import read_date_time_s

REMOTE, GUARANTEE, ARREARS_ALARM = 0x8000, 0x8001, 0x8002
CONTROL_OIS = frozenset({REMOTE, GUARANTEE, ARREARS_ALARM, NORMAL, IMPORTANT, RELAY_OI})

_RELAY = Kind(Tag.OAD)
_TRIP: Shape = Many((_RELAY, Kind(Tag.UNSIGNED), Kind(Tag.LONG_UNSIGNED), Kind(Tag.BOOL)))
_CLOSE: Shape = Many((_RELAY, up_to(Tag.ENUM, 1)))
_SWITCH: Shape = (_RELAY, up_to(Tag.ENUM, 1))
_THRESHOLDS: Shape = (Kind(Tag.DOUBLE_LONG_UNSIGNED), Kind(Tag.LONG_UNSIGNED))
_HOURS: Shape = Many((up_to(Tag.UNSIGNED, 23), up_to(Tag.UNSIGNED, 23)), most=24)
_TEXT = Kind(Tag.VISIBLE_STRING, lambda data: len(data.value) <= MOST_OCTETS)
_ARREARS: Shape = (Kind(Tag.OCTET_STRING, lambda data: len(data.value) == 3), _TEXT)
_NUMBER = Kind(Tag.UNSIGNED)
_NOTE: Shape = (_NUMBER, Kind(Tag.DATE_TIME_S, lambda data: read_date_time_s(data.value) is not None), _TEXT)


class ControlObjects:
    """What GET, SET and ACTION find behind the objects of CONTROL_OIS."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lsb_first = control.settings.round_bits_lsb_first
        self._thresholds = structure(Data(Tag.DOUBLE_LONG_UNSIGNED, 0), u16(0))
        self._switches = [1] * control.premises.relays

    # --- GET ---

    def get(self, oad: Oad) -> Data | Dar:
        """An attribute, or an element of it."""
        read = _READ[oad.oi]
        value = read(self, oad)
        return element(value, oad.index)

    def _remote(self, oad: Oad) -> Data | Dar:
        control = self._control
        match oad.attribute:
            case 2:
                return self._thresholds
            case 3:
                return bits(control.output, lsb_first=self._lsb_first)
            case 4:
                return bits(control.alarm, lsb_first=self._lsb_first)
            case 5:
                return bits(control.command, lsb_first=self._lsb_first)
        return MISSING

    def _guarantee(self, oad: Oad) -> Data | Dar:
        plan = self._control.automatic
        match oad.attribute:
            case 2:
                return enum(self._control.guarantee)
            case 3:
                return u16(plan.silence_min)
            case 4:
                return u16(plan.power_up_min)
            case 5:
                return array(structure(u8(start), u8(end)) for start, end in plan.hours)
        return MISSING

    def _arrears(self, oad: Oad) -> Data | Dar:
        return enum(self._control.display.arrears is not None) if oad.attribute == 2 else MISSING

    def _notes(self, oad: Oad) -> Data | Dar:
        if oad.attribute != 2:
            return MISSING
        return array(
            structure(u8(note.number), Data(Tag.DATE_TIME_S, note.issued), Data(Tag.BOOL, note.read), text(note.text))
            for note in self._control.display.notes[oad.oi]
        )

    def _relays(self, oad: Oad) -> Data | Dar:
        if oad.attribute != 2:
            return MISSING
        opened = self._control.settings.relay_open_state
        output = self._control.output
        return array(
            structure(
                text(b"RELAY%d" % (n + 1)),
                enum(opened if output >> n & 1 else 1 - opened),
                enum(self._switches[n]),
                enum(0),
            )
            for n in range(self._control.premises.relays)
        )

    # --- SET ---

    def set(self, oad: Oad, value: Data, at: float) -> Dar:
        """Write a parameter; states cannot be written."""
        plan = self._control.automatic
        place = oad.oi, oad.attribute
        if place == (REMOTE, 2):
            dar = refusal(value, _THRESHOLDS)
            if dar == SUCCESS:
                self._thresholds = value
            return dar
        if place == (GUARANTEE, 2):
            return NOT_WRITABLE
        if place in ((GUARANTEE, 3), (GUARANTEE, 4)):
            dar = refusal(value, Kind(Tag.LONG_UNSIGNED))
            if dar != SUCCESS:
                return dar
            if oad.attribute == 3:
                plan.silence_min = value.value
            else:
                plan.power_up_min = value.value
        elif place == (GUARANTEE, 5):
            dar = refusal(value, _HOURS)
            if dar != SUCCESS:
                return dar
            hours = tuple((pair.value[0].value, pair.value[1].value) for pair in value.value)
            if any(start > end for start, end in hours):
                return WRONG_TYPE
            plan.hours = hours
        else:
            return REFUSED if isinstance(self.get(oad), Data) else MISSING
        self._control.watch(at)
        return SUCCESS

    # --- ACTION ---

    def act(self, omd: Omd, parameter: Data, at: float) -> Dar:
        """Carry out a method; MISSING for one that there is not."""
        found = _METHODS.get((omd.oi, omd.method))
        if found is None:
            return MISSING
        shape, method = found
        dar = refusal(parameter, shape)
        return method(self, omd, parameter, at) if dar == SUCCESS else dar

    def _relay_of(self, oad: Oad, place: int) -> int:
        """The relay that an entry means, 0 for none: index 0 (all) is not accepted."""
        if oad.oi != RELAY_OI or oad.attribute != 2:
            return 0
        relay = place if self._control.settings.relays_by_place else oad.index
        return relay if relay <= self._control.premises.relays else 0

    def _entries(self, parameter: Data) -> list[tuple[int, list[object]]]:
        """(relay, further values) of each entry; empty where one of them is no relay of this terminal."""
        entries = [[item.value for item in entry.value] for entry in parameter.value]
        relays = [self._relay_of(entry[0], place) for place, entry in enumerate(entries, start=1)]
        return [] if 0 in relays else [(relay, entry[1:]) for relay, entry in zip(relays, entries, strict=True)]

    def _trip(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        entries = self._entries(parameter)
        for relay, (delay, limit, auto_close) in entries:
            assert isinstance(delay, int)
            assert isinstance(limit, int)
            self._control.trip(at, relay, delay, limit, auto_close=bool(auto_close))
        return SUCCESS if entries else OUT_OF_RANGE

    def _close(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        entries = self._entries(parameter)
        for relay, (command,) in entries:
            self._control.close(at, relay, direct=command == 1)
        return SUCCESS if entries else OUT_OF_RANGE

    def _sound(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        self._control.sound(on=omd.method == 127)
        return SUCCESS

    def _guarantee_method(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        if omd.method == 129:
            self._control.release_automatic(at)
        else:
            self._control.set_guarantee(at, on=omd.method == 127)
        return SUCCESS

    def _arrears_on(self, omd: Omd, parameter: Data, at: float) -> Dar:
        hours, said = (item.value for item in parameter.value)
        self._control.display.arrears = hours, said
        self._control.show(at, omd.oi, None, said)
        return SUCCESS

    def _arrears_off(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        self._control.display.arrears = None
        return SUCCESS

    def _add_note(self, omd: Omd, parameter: Data, at: float) -> Dar:
        number, issued, said = (item.value for item in parameter.value)
        self._control.note(at, omd.oi, Note(number, issued, said))
        return SUCCESS

    def _delete_note(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        return SUCCESS if self._control.display.delete(omd.oi, parameter.value) else MISSING

    def _change_switch(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        oad, attribute = (item.value for item in parameter.value)
        relay = self._relay_of(oad, oad.index)
        if not relay:
            return OUT_OF_RANGE
        self._switches[relay - 1] = attribute
        return SUCCESS


_READ: dict[int, Callable[[ControlObjects, Oad], Data | Dar]] = {
    REMOTE: ControlObjects._remote,
    GUARANTEE: ControlObjects._guarantee,
    ARREARS_ALARM: ControlObjects._arrears,
    NORMAL: ControlObjects._notes,
    IMPORTANT: ControlObjects._notes,
    RELAY_OI: ControlObjects._relays,
}
_Method = Callable[[ControlObjects, Omd, Data, float], Dar]
_METHODS: dict[tuple[int, int], tuple[Shape, _Method]] = {
    (REMOTE, 127): (NOTHING, ControlObjects._sound),
    (REMOTE, 128): (NOTHING, ControlObjects._sound),
    (REMOTE, 129): (_TRIP, ControlObjects._trip),
    (REMOTE, 130): (_CLOSE, ControlObjects._close),
    (GUARANTEE, 127): (NOTHING, ControlObjects._guarantee_method),
    (GUARANTEE, 128): (NOTHING, ControlObjects._guarantee_method),
    (GUARANTEE, 129): (NOTHING, ControlObjects._guarantee_method),
    (ARREARS_ALARM, 127): (_ARREARS, ControlObjects._arrears_on),
    (ARREARS_ALARM, 128): (NOTHING, ControlObjects._arrears_off),
    (NORMAL, 127): (_NOTE, ControlObjects._add_note),
    (NORMAL, 128): (_NUMBER, ControlObjects._delete_note),
    (IMPORTANT, 127): (_NOTE, ControlObjects._add_note),
    (IMPORTANT, 128): (_NUMBER, ControlObjects._delete_note),
    (RELAY_OI, 127): (_SWITCH, ControlObjects._change_switch),
}
