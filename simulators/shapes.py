"""Values as objects hold them: short constructors of Data, results, and the comparison of a parameter with its type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from wire698.values import BitString, Dar, Data, Tag

from .stamps import read_date_time_s

SUCCESS, REFUSED, UNDEFINED, BAD_GROUP, MISSING, WRONG_TYPE, OUT_OF_RANGE = map(Dar, (0, 3, 4, 5, 6, 7, 8))
NOT_WRITABLE, REPEATED_ORDER = Dar(13), Dar(21)


def structure(*items: Data) -> Data:
    return Data(Tag.STRUCTURE, items)


def array(items: Iterable[Data]) -> Data:
    return Data(Tag.ARRAY, tuple(items))


def u8(value: int) -> Data:
    return Data(Tag.UNSIGNED, value)


def u16(value: int) -> Data:
    return Data(Tag.LONG_UNSIGNED, value)


def i64(value: float) -> Data:
    """A long64 power, energy or fee, already in 10^-4."""
    return Data(Tag.LONG64, int(value))


def enum(value: int) -> Data:
    return Data(Tag.ENUM, value)


def oi(value: int) -> Data:
    return Data(Tag.OI, value)


def octets(value: bytes) -> Data:
    return Data(Tag.OCTET_STRING, value)


def text(value: bytes) -> Data:
    return Data(Tag.VISIBLE_STRING, value)


# --- bits --------------------------------------------------------------------------------------------------------

# Within the simulator a set of rounds, periods or control types is an int: 1 for the first, 2 for the second, ...


def reversed_bits(octet: int) -> int:
    """The octet with its bits in the opposite order."""
    return int(f"{octet & 0xFF:08b}"[::-1], 2)


def bits(members: int, *, lsb_first: bool = False) -> Data:
    """bit-string(8) of a set: the first member is 80H, or 01H for `lsb_first` (control.md 0)."""
    octet = members & 0xFF if lsb_first else reversed_bits(members)
    return Data(Tag.BIT_STRING, BitString(8, bytes((octet,))))


def members_of(value: Data, *, lsb_first: bool = False) -> int:
    """The set in a bit-string(8): the reverse of `bits`."""
    octet = value.value.octets[0]
    return octet if lsb_first else reversed_bits(octet)


# --- types -------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A type of Data: its tag and what more its value must be (for OUT_OF_RANGE)."""

    tag: Tag
    allows: Callable[[Data], bool] | None = None


class Many(NamedTuple):
    """An array of at most `most` members, or of `exactly` so many."""

    of: Shape
    most: int = 255
    exactly: int | None = None


Shape: TypeAlias = Kind | Many | tuple["Shape", ...]
"""What a parameter must look like; a tuple is a structure."""


def up_to(tag: Tag, most: int, least: int = 0) -> Kind:
    """A number or enumeration from `least` to `most`."""
    return Kind(tag, lambda data: least <= data.value <= most)


BITS8 = Kind(Tag.BIT_STRING, lambda data: data.value.bits == 8)
POWER = Kind(Tag.LONG64, lambda data: data.value >= 0)
PERCENT = Kind(Tag.INTEGER)
MOMENT = Kind(Tag.DATE_TIME_S, lambda data: read_date_time_s(data.value) is not None)
"""A date_time_s that is one."""
GROUP = Kind(Tag.OI)
NOTHING = Kind(Tag.NULL)


def refusal(value: Data, shape: Shape) -> Dar:
    """SUCCESS where the value has the shape; WRONG_TYPE where tags or counts differ, OUT_OF_RANGE for what it holds."""
    if isinstance(shape, Kind):
        if value.tag != shape.tag:
            return WRONG_TYPE
        return SUCCESS if shape.allows is None or shape.allows(value) else OUT_OF_RANGE
    if isinstance(shape, Many):
        if value.tag != Tag.ARRAY:
            return WRONG_TYPE
        size = len(value.value)
        worst = _worst(refusal(item, shape.of) for item in value.value)
        if worst == WRONG_TYPE:
            return worst
        return OUT_OF_RANGE if size > shape.most or shape.exactly not in (None, size) else worst
    if value.tag != Tag.STRUCTURE or len(value.value) != len(shape):
        return WRONG_TYPE
    return _worst(refusal(item, part) for item, part in zip(value.value, shape, strict=True))


def _worst(found: Iterable[Dar]) -> Dar:
    results = set(found)
    return next((dar for dar in (WRONG_TYPE, OUT_OF_RANGE) if dar in results), SUCCESS)


def element(value: Data | Dar, index: int) -> Data | Dar:
    """The element `index` of an array or structure, 0 for all of it; MISSING where there is none."""
    if index == 0 or isinstance(value, Dar):
        return value
    if value.tag not in (Tag.ARRAY, Tag.STRUCTURE) or index > len(value.value):
        return MISSING
    found: Data = value.value[index - 1]
    return found
