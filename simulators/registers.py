"""What the registers of a meter are on the wire: objects 0010, 2000 ... as Data, and the same as named numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wire698.values import NULL, Data, Oad, Tag

from .stamps import date_time_s
from .world import Reading

_RATES = ("total", "t1", "t2", "t3", "t4")
_PHASES = ("a", "b", "c")
_TOTAL_PHASES = ("total", "a", "b", "c")


class Quantity(NamedTuple):
    """One object: its slug, the names of its members (none: a single value), the power of ten, its values."""

    slug: str
    members: tuple[str, ...]
    scale: int
    tag: Tag
    values: Callable[[Reading], tuple[int, ...]]


QUANTITIES: dict[int, Quantity] = {
    0x0010: Quantity("active_energy_import", _RATES, -2, Tag.DOUBLE_LONG_UNSIGNED, lambda r: r.energy_import),
    0x0020: Quantity("active_energy_export", _RATES, -2, Tag.DOUBLE_LONG_UNSIGNED, lambda r: r.energy_export),
    0x0050: Quantity("reactive_energy_q1", _RATES, -2, Tag.DOUBLE_LONG_UNSIGNED, lambda r: r.reactive_q1),
    0x2000: Quantity("voltage", _PHASES, -1, Tag.LONG_UNSIGNED, lambda r: r.voltage),
    0x2001: Quantity("current", _PHASES, -3, Tag.DOUBLE_LONG, lambda r: r.current),
    0x2004: Quantity("active_power", _TOTAL_PHASES, -1, Tag.DOUBLE_LONG, lambda r: r.active),
    0x2005: Quantity("reactive_power", _TOTAL_PHASES, -1, Tag.DOUBLE_LONG, lambda r: r.reactive),
    0x2006: Quantity("apparent_power", _TOTAL_PHASES, -1, Tag.DOUBLE_LONG, lambda r: r.apparent),
    0x200A: Quantity("power_factor", _TOTAL_PHASES, -3, Tag.LONG, lambda r: r.power_factor),
    0x200F: Quantity("frequency", (), -2, Tag.LONG_UNSIGNED, lambda r: (r.frequency,)),
}
DEMAND_OI = 0x1010
"""Maximum demand 正向有功最大需量: each member is a value and the instant it occurred."""

_NOTHING = Reading(*(((0,) * 5,) * 3), ((0, 0),) * 5, *(((0,) * 3,) * 2), *(((0,) * 4,) * 4), 0)
"""A reading with as many members as any, for its names."""

Cell = float | int | None


def knows(oad: Oad) -> bool:
    """Whether a meter has this object."""
    return oad.oi == DEMAND_OI or oad.oi in QUANTITIES


def data_of(oad: Oad, reading: Reading | None) -> Data:
    """The value of an attribute; an element where the OAD names one; NULL where there is none.

    Without a reading (the meter did not answer) everything is NULL.
    """
    if reading is None or oad.attribute != 2 or not knows(oad):
        return NULL
    if oad.oi == DEMAND_OI:
        items = tuple(
            Data(
                Tag.STRUCTURE,
                (
                    Data(Tag.DOUBLE_LONG_UNSIGNED, value),
                    Data(Tag.DATE_TIME_S, date_time_s(at)) if value else NULL,
                ),
            )
            for value, at in reading.demand
        )
    else:
        quantity = QUANTITIES[oad.oi]
        items = tuple(Data(quantity.tag, value) for value in quantity.values(reading))
        if not quantity.members:
            return items[0]
    if oad.index == 0:
        return Data(Tag.ARRAY, items)
    return items[oad.index - 1] if oad.index <= len(items) else NULL


def named(oad: Oad, reading: Reading | None) -> dict[str, Cell]:
    """The same as engineering values by name: `voltage.a` in V, `max_demand_import.total.time` in ms since 1970.

    Without a reading the names are there and the values are None.
    """
    if reading is None:
        return dict.fromkeys(named(oad, _NOTHING))
    cells: dict[str, Cell] = {}
    if oad.oi == DEMAND_OI:
        for name, (value, at) in zip(_RATES, reading.demand, strict=True):
            cells[f"max_demand_import.{name}"] = round(value * 1e-4, 4)
            cells[f"max_demand_import.{name}.time"] = at * 1000 if value else None
        return _picked(cells, oad.index, 2)
    quantity = QUANTITIES[oad.oi]
    values = quantity.values(reading)
    names = [f"{quantity.slug}.{member}" for member in quantity.members] or [quantity.slug]
    for name, value in zip(names, values, strict=True):
        cells[name] = round(value * 10.0**quantity.scale, -quantity.scale)
    return _picked(cells, oad.index if quantity.members else 0, 1)


def _picked(cells: dict[str, Cell], index: int, width: int) -> dict[str, Cell]:
    if index == 0:
        return cells
    return dict(list(cells.items())[(index - 1) * width : index * width])


def scaler_of(oad: Oad) -> tuple[int, int] | None:
    """(scaler, unit code) that attribute 3 of the object tells; None where it has none."""
    if oad.oi == DEMAND_OI:
        return -4, 28
    quantity = QUANTITIES.get(oad.oi)
    if quantity is None:
        return None
    units = {0x0050: 35, 0x2000: 38, 0x2001: 36, 0x2004: 27, 0x2005: 31, 0x2006: 29, 0x200A: 255, 0x200F: 47}
    return quantity.scale, units.get(oad.oi, 33)
