"""Values of the objects of load control, named and in engineering units (control.md).

Every decoder gives None for a value that is not as the object should be, so whatever a terminal says is either
understood or does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from messages import Value
from protocols.plain import text_of
from wire698.forms import date_time_s
from wire698.values import BitString, Data, Oad, Tag

from .encoding import FIRST_GROUP, GROUPS, numbers_of
from .quirks import Quirks

GUARANTEE_STATES: Final = ("released", "guaranteed", "automatic")
POWER_TYPES: Final = ("period", "rest", "suspension", "float_down")
"""Power-control type bits 功控 (control.md 0)."""
ENERGY_TYPES: Final = ("monthly", "purchase")
"""Energy-control type bits 电控."""
CONTROLS: Final[dict[str, int]] = {
    "period": 0x8103,
    "rest": 0x8104,
    "suspension": 0x8105,
    "float_down": 0x8106,
    "purchase": 0x8107,
    "monthly": 0x8108,
}
"""Control objects 负荷控制对象, class 13."""
_UNITS: Final[dict[int, tuple[str, ...]]] = {
    0x8103: ("group", "scheme_flags", "scheme_1", "scheme_2", "scheme_3", "coefficient_percent"),
    0x8104: ("group", "limit_kw", "start", "duration_min", "rest_days"),
    0x8105: ("group", "start", "end", "limit_kw"),
    0x8106: ("group", "settings"),
    0x8107: ("group", "order", "operation", "kind", "amount", "alarm_threshold", "trip_threshold", "mode"),
    0x8108: ("group", "limit_kwh", "alarm_percent", "coefficient_percent"),
}
"""Members of the configuration unit 控制单元 of each control object (control.md 6)."""


def numbers_in(data: Data, *, lsb_first: bool) -> list[int] | None:
    """The bits that are set, from 0."""
    if data.tag != Tag.BIT_STRING:
        return None
    value: BitString = data.value
    if len(value.octets) * 8 < value.bits:
        return None
    return numbers_of(value.octets, value.bits, lsb_first=lsb_first)


def rounds_in(data: Data, quirks: Quirks) -> list[int] | None:
    """Relays or rounds 轮次 whose bit is set, from 1."""
    numbers = numbers_in(data, lsb_first=quirks.round_bits_lsb_first)
    return None if numbers is None else [number + 1 for number in numbers]


def types_in(data: Data, names: tuple[str, ...], quirks: Quirks) -> list[str] | None:
    """Kinds of control whose bit is set; a bit without a name is `bit<n>`."""
    numbers = numbers_in(data, lsb_first=quirks.control_bits_lsb_first)
    if numbers is None:
        return None
    return [names[number] if number < len(names) else f"bit{number}" for number in numbers]


def number_in(data: Data, *tags: Tag) -> int | None:
    """A whole number in one of some types."""
    return int(data.value) if data.tag in tags else None


def scaled_in(data: Data) -> float | None:
    """kW, kWh or yuan of a long64 in 10^-4."""
    number = number_in(data, Tag.LONG64, Tag.LONG64_UNSIGNED)
    return None if number is None else number / 10_000


def group_in(data: Data) -> int | None:
    """Number 1..8 of an aggregation group's OI."""
    if data.tag != Tag.OI or not FIRST_GROUP <= data.value < FIRST_GROUP + GROUPS:
        return None
    return int(data.value) - FIRST_GROUP + 1


def structures_in(data: Data) -> list[tuple[Data, ...]] | None:
    """The structures of an array; one alone may stand without it, and NULL is an empty one."""
    if data.tag == Tag.NULL:
        return []
    if data.tag == Tag.STRUCTURE:
        return [data.value]
    if data.tag != Tag.ARRAY or any(item.tag != Tag.STRUCTURE for item in data.value):
        return None
    return [item.value for item in data.value]


def by_group(data: Data, read: Callable[[Data], Any]) -> dict[int, Any] | None:
    """Group to state, of an array of structure{OI, state}; None when it is none, or a state cannot be read."""
    found: dict[int, Any] = {}
    structures = structures_in(data)
    if structures is None:
        return None
    for members in structures:
        group = group_in(members[0]) if len(members) == 2 else None
        state = read(members[1]) if group is not None else None
        if group is None or state is None:
            return None
        found[group] = state
    return found


def units_by_group(data: Data) -> dict[int, tuple[Data, ...]] | None:
    """Group to the members of its configuration unit 控制单元, of attribute 2 of a control object."""
    found: dict[int, tuple[Data, ...]] = {}
    structures = structures_in(data)
    if structures is None:
        return None
    for members in structures:
        group = group_in(members[0]) if members else None
        if group is None:
            return None
        found[group] = members
    return found


def yes_no(data: Data) -> bool | None:
    number = number_in(data, Tag.ENUM, Tag.UNSIGNED, Tag.BOOL)
    return bool(number) if number in (0, 1) else None


def setting_in(data: Data, quirks: Quirks) -> dict[str, Any] | None:
    """2301 attribute 16 控制设置状态."""
    if data.tag != Tag.STRUCTURE or len(data.value) != 6:
        return None
    scheme, periods, power, energy, power_rounds, energy_rounds = data.value
    numbers = numbers_in(periods, lsb_first=quirks.control_bits_lsb_first)
    return {
        "scheme": number_in(scheme, Tag.UNSIGNED),
        "periods": None if numbers is None else [number + 1 for number in numbers],
        "power_types": types_in(power, POWER_TYPES, quirks),
        "energy_types": types_in(energy, ENERGY_TYPES, quirks),
        "power_rounds": rounds_in(power_rounds, quirks),
        "energy_rounds": rounds_in(energy_rounds, quirks),
    }


def state_in(data: Data, quirks: Quirks) -> dict[str, Any] | None:
    """2301 attribute 17 当前控制状态."""
    if data.tag != Tag.STRUCTURE or len(data.value) != 7:
        return None
    limit, coefficient, power, monthly, purchase, power_alarm, energy_alarm = data.value
    return {
        "limit_kw": scaled_in(limit),
        "coefficient_percent": number_in(coefficient, Tag.INTEGER),
        "power_output": rounds_in(power, quirks),
        "monthly_output": rounds_in(monthly, quirks),
        "purchase_output": rounds_in(purchase, quirks),
        "power_alarm": types_in(power_alarm, POWER_TYPES, quirks),
        "energy_alarm": types_in(energy_alarm, ENERGY_TYPES, quirks),
    }


def relays_in(data: Data) -> list[dict[str, Any]] | None:
    """F205 attribute 2 继电器输出."""
    structures = structures_in(data)
    if structures is None or any(len(members) != 4 for members in structures):
        return None
    return [
        {
            "name": text_of(name.value) if name.tag in (Tag.VISIBLE_STRING, Tag.OCTET_STRING) else None,
            "state": number_in(state, Tag.ENUM, Tag.UNSIGNED),
            "attribute": {0: "pulse", 1: "hold"}.get(number_in(kind, Tag.ENUM, Tag.UNSIGNED) or 0),
            "connected": None if (wired := number_in(wiring, Tag.ENUM, Tag.UNSIGNED)) is None else wired == 0,
        }
        for name, state, kind, wiring in structures
    ]


def _with_groups(found: dict[int, Any] | None, name: str) -> list[dict[str, Any]] | None:
    return None if found is None else [{"group": group, name: state} for group, state in found.items()]


def plain(data: Data) -> Value:
    """Any value for people: long64 in 10^-4, as everywhere in load control; bit-strings as the bits set, from 1."""
    match data.tag:
        case Tag.ARRAY | Tag.STRUCTURE:
            return [plain(item) for item in data.value]
        case Tag.LONG64 | Tag.LONG64_UNSIGNED:
            return scaled_in(data)
        case Tag.BIT_STRING:
            numbers = numbers_in(data, lsb_first=False)
            return None if numbers is None else [number + 1 for number in numbers]
        case Tag.OI:
            return group_in(data) or f"{data.value:04X}"
        case Tag.DATE_TIME_S:
            return date_time_s(data.value)
        case Tag.VISIBLE_STRING:
            return text_of(data.value)
        case Tag.OAD | Tag.OMD:
            return str(data.value)
    if isinstance(data.value, bytes):
        return data.value.hex().upper()
    return data.value if isinstance(data.value, bool | int | float | None) else str(data.value)


def units_in(oi: int, data: Data) -> list[dict[str, Any]] | None:
    """The configuration units 控制方案集 of a control object; a unit of another size is not named."""
    names = _UNITS[oi]
    structures = structures_in(data)
    if structures is None:
        return None
    if oi == 0x8107 and all(len(members) == 7 for members in structures):
        names = tuple(name for name in names if name != "kind")
    if any(len(members) != len(names) for members in structures):
        return None
    return [{name: plain(member) for name, member in zip(names, members, strict=True)} for members in structures]


def decoded(target: Oad, data: Data, quirks: Quirks) -> Value:
    """The value of an attribute of load control, named and in engineering units; None for any other."""
    oi, attribute = target.oi, target.attribute
    if target.index or target.feature:
        return None
    if oi == 0x8000 and attribute in (3, 4, 5):
        return rounds_in(data, quirks)
    if oi == 0x8001 and attribute == 2:
        number = number_in(data, Tag.ENUM, Tag.UNSIGNED)
        return GUARANTEE_STATES[number] if number is not None and number < 3 else None
    if oi == 0x8002 and attribute == 2:
        return yes_no(data)
    if oi == 0xF205 and attribute == 2:
        return relays_in(data)
    if oi in _UNITS and attribute == 2:
        return units_in(oi, data)
    if 0x8103 <= oi <= 0x8108 and attribute in (3, 4, 5):
        read, name = {
            3: (yes_no, "input"),
            4: (lambda item: rounds_in(item, quirks), "rounds"),
            5: (yes_no, "alarm"),
        }[attribute]
        return _with_groups(by_group(data, read), name)
    if FIRST_GROUP <= oi < FIRST_GROUP + GROUPS:
        if attribute in (14, 15):
            return rounds_in(data, quirks)
        if attribute == 16:
            return setting_in(data, quirks)
        if attribute == 17:
            return state_in(data, quirks)
        if attribute == 11:
            return scaled_in(data)
    return None
