"""Data types and selectors of DL/T 698.45 in construct notation (wire.md, section c)."""

from __future__ import annotations

import math
from typing import Any

from construct import Construct

from .notation import (
    LENGTH,
    MAX_NESTING,
    BuildError,
    Choice,
    Fixed,
    Octets,
    Optional,
    Prefixed,
    SequenceOf,
    Tupled,
    Uint,
    parse_node,
)
from .values import (
    BitString,
    Comdcb,
    Data,
    MeterSet,
    Oad,
    Omd,
    RangeSelector,
    Region,
    Road,
    Rsd,
    ScalerUnit,
    Sid,
    SidMac,
    Tag,
    Ti,
    TimeTag,
)

NAN = math.nan
"""The one NaN: a value that is not a number equals itself in decoded data."""

U8 = Uint("B", "unsigned")
U16 = Uint("H", "long-unsigned")
U32 = Uint("I", "double-long-unsigned")
OI = Uint("H", "OI")
OAD = Uint("I", "OAD", Oad)
OMD = Uint("I", "OMD", Omd)
DATE_TIME_S = Fixed(7, "date_time_s")
DATE_TIME = Fixed(10, "date_time")
OCTET_STRING = Prefixed("octet-string")
VISIBLE_STRING = Prefixed("visible-string")
TSA = Prefixed("TSA")
MAC = Prefixed("MAC")
RN = Prefixed("RN")
TI = Tupled(Ti, ("unit", U8), ("n", U16))
SCALER_UNIT = Tupled(ScalerUnit, ("scaler", Uint("b", "scaler")), ("unit", U8))
SID = Tupled(Sid, ("id", U32), ("attach", OCTET_STRING))
SID_MAC = Tupled(SidMac, ("sid", SID), ("mac", MAC))
COMDCB = Tupled(Comdcb, ("baud", U8), ("parity", U8), ("data_bits", U8), ("stop_bits", U8), ("flow", U8))
TIME_TAG = Tupled(TimeTag, ("sent", DATE_TIME_S), ("delay", TI))


class Null(Construct):
    """Nothing on the wire."""

    def _parse(self, stream: Octets, context: Any, path: str) -> None:  # noqa: ARG002
        return None

    def _build(self, obj: None, stream: Octets, context: Any, path: str) -> None:  # noqa: ARG002
        if obj is not None:
            raise BuildError(f"NULL has no value, got {obj!r:.100}")


class Bool(Construct):
    """One octet; anything but 00 is true."""

    def _parse(self, stream: Octets, context: Any, path: str) -> bool:  # noqa: ARG002
        value = stream.octet("bool")
        if value > 1:
            stream.warn("bool-octet")
        return value != 0

    def _build(self, obj: bool, stream: Octets, context: Any, path: str) -> bool:  # noqa: ARG002
        stream.write(b"\x01" if obj else b"\x00")
        return obj


class Float(Construct):
    """IEEE-754; every NaN is the same NAN."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._number = Uint(code, "float")

    def _parse(self, stream: Octets, context: Any, path: str) -> float:
        value: float = self._number._parse(stream, context, path)
        if value != value:  # noqa: PLR0124
            stream.warn("float-nan")
            return NAN
        return value

    def _build(self, obj: float, stream: Octets, context: Any, path: str) -> float:
        self._number._build(obj, stream, context, path)
        return obj


class Bits(Construct):
    """Bit count, then the octets that hold them."""

    def _parse(self, stream: Octets, context: Any, path: str) -> BitString:
        bits = LENGTH._parse(stream, context, path)
        return BitString(bits, stream.take((bits + 7) // 8, "bit-string"))

    def _build(self, obj: BitString, stream: Octets, context: Any, path: str) -> BitString:
        bits, octets = obj
        if len(octets) != (bits + 7) // 8:
            raise BuildError(f"{bits} bits take {(bits + 7) // 8} octets, not {len(octets)}")
        LENGTH._build(bits, stream, context, path)
        stream.write(octets)
        return obj


class DataBlock(Construct):
    """Tag octet, then the value of that type; nesting is bounded."""

    def _parse(self, stream: Octets, context: Any, path: str) -> Data:
        number = stream.octet("data type tag")
        block = DATA_TYPES.get(number)
        if block is None:
            raise stream.refuse(f"data type tag {number:02X} is not known")
        if stream.nesting >= MAX_NESTING:
            raise stream.refuse(f"data is nested deeper than {MAX_NESTING}")
        tag = Tag(number)
        stream.nesting += 1
        if stream.trace is None:
            value = block._parse(stream, context, path)
        else:
            value = parse_node(block, stream, context, path, tag.label)
        stream.nesting -= 1
        return Data(tag, value)

    def _build(self, obj: Data, stream: Octets, context: Any, path: str) -> Data:
        tag, value = obj
        block = DATA_TYPES.get(tag)
        if block is None:
            raise BuildError(f"data type tag {tag} is not known")
        if stream.nesting >= MAX_NESTING:
            raise BuildError(f"data is nested deeper than {MAX_NESTING}")
        stream.nesting += 1
        stream.write(bytes((tag,)))
        block._build(value, stream, context, path)
        stream.nesting -= 1
        return obj


DATA = DataBlock()

ROAD = Tupled(Road, ("oad", OAD), ("oads", SequenceOf(OAD)))
CSD = Choice(
    "CSD",
    {0: OAD, 1: ROAD},
    lambda _, value: value,
    lambda obj: (1, obj) if isinstance(obj, Road) else (0, obj),
)
RCSD = SequenceOf(CSD)
REGION = Tupled(Region, ("kind", U8), ("start", DATA), ("end", DATA))

MS = Choice(
    "MS",
    {
        0: None,
        1: None,
        2: SequenceOf(U8),
        3: SequenceOf(TSA),
        4: SequenceOf(U16),
        5: SequenceOf(REGION),
        6: SequenceOf(REGION),
        7: SequenceOf(REGION),
    },
    lambda number, items: MeterSet(number, items or ()),
    lambda obj: (obj.choice, obj.items),
)

_RANGE = Tupled(RangeSelector, ("oad", OAD), ("start", DATA), ("end", DATA), ("interval", DATA))
_EQUAL = Tupled(lambda *parts: parts, ("oad", OAD), ("value", DATA))
_AT = Tupled(lambda *parts: parts, ("at", DATE_TIME_S), ("meters", MS))
_BETWEEN = Tupled(lambda *parts: parts, ("start", DATE_TIME_S), ("end", DATE_TIME_S), ("interval", TI), ("meters", MS))
_LAST = Tupled(lambda *parts: parts, ("last", U8), ("meters", MS))


def _rsd_decode(selector: int, value: Any) -> Rsd:
    match selector:
        case 0:
            return Rsd(0)
        case 1:
            return Rsd(1, oad=value[0], value=value[1])
        case 2:
            return Rsd(2, ranges=(value,))
        case 3:
            return Rsd(3, ranges=value)
        case 4 | 5:
            return Rsd(selector, at=value[0], meters=value[1])
        case 6 | 7 | 8:
            return Rsd(selector, start=value[0], end=value[1], interval=value[2], meters=value[3])
        case 9:
            return Rsd(9, last=value)
        case _:
            return Rsd(10, last=value[0], meters=value[1])


def _rsd_encode(rsd: Rsd) -> tuple[int, Any]:
    match rsd.selector:
        case 0:
            return 0, None
        case 1:
            return 1, (rsd.oad, rsd.value)
        case 2:
            return 2, rsd.ranges[0]
        case 3:
            return 3, rsd.ranges
        case 4 | 5:
            return rsd.selector, (rsd.at, rsd.meters)
        case 6 | 7 | 8:
            return rsd.selector, (rsd.start, rsd.end, rsd.interval, rsd.meters)
        case 9:
            return 9, rsd.last
        case _:
            return rsd.selector, (rsd.last, rsd.meters)


RSD = Choice(
    "RSD",
    {
        0: None,
        1: _EQUAL,
        2: _RANGE,
        3: SequenceOf(_RANGE),
        4: _AT,
        5: _AT,
        6: _BETWEEN,
        7: _BETWEEN,
        8: _BETWEEN,
        9: U8,
        10: _LAST,
    },
    _rsd_decode,
    _rsd_encode,
)

_ITEMS = SequenceOf(DATA)

DATA_TYPES: dict[int, Construct] = {
    Tag.NULL: Null(),
    Tag.ARRAY: _ITEMS,
    Tag.STRUCTURE: _ITEMS,
    Tag.BOOL: Bool(),
    Tag.BIT_STRING: Bits(),
    Tag.DOUBLE_LONG: Uint("i", "double-long"),
    Tag.DOUBLE_LONG_UNSIGNED: U32,
    Tag.OCTET_STRING: OCTET_STRING,
    Tag.VISIBLE_STRING: VISIBLE_STRING,
    Tag.UTF8_STRING: Prefixed("UTF8-string"),
    Tag.INTEGER: Uint("b", "integer"),
    Tag.LONG: Uint("h", "long"),
    Tag.UNSIGNED: U8,
    Tag.LONG_UNSIGNED: U16,
    Tag.LONG64: Uint("q", "long64"),
    Tag.LONG64_UNSIGNED: Uint("Q", "long64-unsigned"),
    Tag.ENUM: Uint("B", "enum"),
    Tag.FLOAT32: Float("f"),
    Tag.FLOAT64: Float("d"),
    Tag.DATE_TIME: DATE_TIME,
    Tag.DATE: Fixed(5, "date"),
    Tag.TIME: Fixed(3, "time"),
    Tag.DATE_TIME_S: DATE_TIME_S,
    Tag.OI: OI,
    Tag.OAD: OAD,
    Tag.ROAD: ROAD,
    Tag.OMD: OMD,
    Tag.TI: TI,
    Tag.TSA: TSA,
    Tag.MAC: MAC,
    Tag.RN: RN,
    Tag.REGION: REGION,
    Tag.SCALER_UNIT: SCALER_UNIT,
    Tag.RSD: RSD,
    Tag.CSD: CSD,
    Tag.MS: MS,
    Tag.SID: SID,
    Tag.SID_MAC: SID_MAC,
    Tag.COMDCB: COMDCB,
    Tag.RCSD: RCSD,
}

OPTIONAL_DATA = Optional(DATA)
OPTIONAL_TIME_TAG = Optional(TIME_TAG, tail=True)
