"""The values that DL/T 698.45 data types stand for, as plain immutable Python values (wire.md, section c).

Octet strings, times and server addresses stay octets: real devices send BCD dates, FF patterns and texts in any
encoding, and what is not kept cannot be sent back. The helpers here read them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias


class Tag(IntEnum):
    """Data type tags 数据类型 (wire.md c.1); `label` is the name in the standard's notation."""

    NULL = 0
    ARRAY = 1
    STRUCTURE = 2
    BOOL = 3
    BIT_STRING = 4
    DOUBLE_LONG = 5
    DOUBLE_LONG_UNSIGNED = 6
    OCTET_STRING = 9
    VISIBLE_STRING = 10
    UTF8_STRING = 12
    INTEGER = 15
    LONG = 16
    UNSIGNED = 17
    LONG_UNSIGNED = 18
    LONG64 = 20
    LONG64_UNSIGNED = 21
    ENUM = 22
    FLOAT32 = 23
    FLOAT64 = 24
    DATE_TIME = 25
    DATE = 26
    TIME = 27
    DATE_TIME_S = 28
    OI = 80
    OAD = 81
    ROAD = 82
    OMD = 83
    TI = 84
    TSA = 85
    MAC = 86
    RN = 87
    REGION = 88
    SCALER_UNIT = 89
    RSD = 90
    CSD = 91
    MS = 92
    SID = 93
    SID_MAC = 94
    COMDCB = 95
    RCSD = 96

    @property
    def label(self) -> str:
        """The name of the type in the standard's notation, e.g. `double-long-unsigned`."""
        return TAG_LABELS[self]


_KEEP_CASE = {
    "OI",
    "OAD",
    "ROAD",
    "OMD",
    "TI",
    "TSA",
    "MAC",
    "RN",
    "RSD",
    "CSD",
    "MS",
    "SID",
    "COMDCB",
    "RCSD",
}
_IRREGULAR = {
    Tag.UTF8_STRING: "UTF8-string",
    Tag.DATE_TIME: "date_time",
    Tag.DATE_TIME_S: "date_time_s",
    Tag.REGION: "Region",
    Tag.SCALER_UNIT: "Scaler_Unit",
    Tag.SID_MAC: "SID_MAC",
    Tag.FLOAT32: "float32",
    Tag.FLOAT64: "float64",
}
TAG_LABELS: dict[Tag, str] = {
    tag: _IRREGULAR.get(tag) or (tag.name if tag.name in _KEEP_CASE else tag.name.lower().replace("_", "-"))
    for tag in Tag
}
TAG_BY_LABEL: dict[str, Tag] = {label: tag for tag, label in TAG_LABELS.items()}


_DIGITS = frozenset("0123456789abcdefABCDEF")


class Oad(int):
    """Object attribute descriptor 对象属性描述符, as the 32-bit number it is on the wire: `Oad(0x40010200)`."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> Oad:
        """From eight hexadecimal digits, e.g. `40010200`."""
        if len(text) != 8 or not _DIGITS.issuperset(text):
            raise ValueError(f"an OAD is 8 hexadecimal digits, not {text!r}")
        return cls(int(text, 16))

    @property
    def oi(self) -> int:
        """Object identifier 对象标识."""
        return self >> 16

    @property
    def attribute(self) -> int:
        """Attribute number 属性编号, 0..31; 0 means the whole object."""
        return self >> 8 & 0x1F

    @property
    def feature(self) -> int:
        """Attribute feature 属性特征, 0..7: before / after an event in record columns."""
        return self >> 13 & 7

    @property
    def index(self) -> int:
        """Element index 元素索引: 0 all, n the n-th element (the n-th latest record of a record table)."""
        return self & 0xFF

    def __str__(self) -> str:
        return f"{int(self):08X}"

    __repr__ = __str__


class Omd(int):
    """Object method descriptor 对象方法描述符: OI, method number, operation mode."""

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> Omd:
        """From eight hexadecimal digits, e.g. `80008100` (remote control 8000, method 129)."""
        if len(text) != 8 or not _DIGITS.issuperset(text):
            raise ValueError(f"an OMD is 8 hexadecimal digits, not {text!r}")
        return cls(int(text, 16))

    @property
    def oi(self) -> int:
        return self >> 16

    @property
    def method(self) -> int:
        """Method number 方法编号; not an attribute: 129 is written 81H."""
        return self >> 8 & 0xFF

    def __str__(self) -> str:
        return f"{int(self):08X}"

    __repr__ = __str__


class Piid(int):
    """Priority and invoke id 序号及优先标志 (wire.md b.2), the whole octet."""

    __slots__ = ()

    @property
    def number(self) -> int:
        """Invoke number 服务序号, 0..63."""
        return self & 0x3F

    @property
    def priority(self) -> int:
        """1: high priority."""
        return self >> 7

    @property
    def acd(self) -> int:
        """Bit 6: in a server's APDU, 请求访问 - the terminal has something to be read; reserved in a client's."""
        return self >> 6 & 1


class BitString(NamedTuple):
    """`bits` bits, the first in the most significant place of `octets`; unused bits are kept as received."""

    bits: int
    octets: bytes

    def bit(self, number: int) -> bool:
        """Bit `number`, 0 first."""
        return bool(self.octets[number >> 3] >> (7 - (number & 7)) & 1)


class Road(NamedTuple):
    """Record object with its columns 记录型对象属性描述符."""

    oad: Oad
    oads: tuple[Oad, ...]


Csd: TypeAlias = Oad | Road  # column selection 列选择描述符
Rcsd: TypeAlias = tuple[Csd, ...]


class Ti(NamedTuple):
    """Time interval 时间间隔: `n` units, 0 s, 1 min, 2 h, 3 day, 4 month, 5 year."""

    unit: int
    n: int


class ScalerUnit(NamedTuple):
    """Power of ten and unit code 换算及单位 (wire.md e)."""

    scaler: int
    unit: int


class Data(NamedTuple):
    """A tagged value. The value's type follows the tag:

    NULL None; ARRAY, STRUCTURE tuple of Data; BOOL bool; integers, ENUM, OI int; FLOAT float; BIT_STRING BitString;
    strings, times, TSA (with its descriptor octet), MAC, RN bytes; OAD Oad; OMD Omd; ROAD Road; TI Ti;
    REGION Region; SCALER_UNIT ScalerUnit; RSD Rsd; CSD Csd; MS MeterSet; SID Sid; SID_MAC SidMac;
    COMDCB Comdcb; RCSD tuple of Csd.
    """

    tag: Tag
    value: Any


NULL = Data(Tag.NULL, None)


class Region(NamedTuple):
    """An interval of Data 区间; kind 0 [a,b), 1 (a,b], 2 [a,b], 3 (a,b)."""

    kind: int
    start: Data
    end: Data


class Sid(NamedTuple):
    """Security identifier 安全标识."""

    id: int
    attach: bytes


class SidMac(NamedTuple):
    sid: Sid
    mac: bytes


class Comdcb(NamedTuple):
    """Serial port settings 端口通信控制块, each as its code (wire.md c.1)."""

    baud: int
    parity: int
    data_bits: int
    stop_bits: int
    flow: int


class MeterSet(NamedTuple):
    """Meter set 电能表集合 MS (wire.md c.3).

    choice 0 none, 1 all (items empty); 2 user types; 3 server addresses; 4 archive numbers; 5, 6, 7 Regions of those.
    """

    choice: int
    items: tuple[Any, ...] = ()


ALL_METERS = MeterSet(1)


class RangeSelector(NamedTuple):
    """One column range, half-open [start, end) 选择方法2; interval is Data of TI or NULL."""

    oad: Oad
    start: Data
    end: Data
    interval: Data


class Rsd(NamedTuple):
    """Record selector 记录行选择描述符 (wire.md c.2). Only the members of the selector in use are set.

    0 nothing; 1 oad, value; 2 ranges (one); 3 ranges; 4, 5 at, meters; 6, 7, 8 start, end, interval, meters;
    9 last (the n-th latest); 10 last (the latest n), meters. at, start, end are 7-octet date_time_s.
    """

    selector: int
    oad: Oad | None = None
    value: Data | None = None
    ranges: tuple[RangeSelector, ...] = ()
    at: bytes | None = None
    start: bytes | None = None
    end: bytes | None = None
    interval: Ti | None = None
    last: int | None = None
    meters: MeterSet | None = None


NO_SELECTION = Rsd(0)


class TimeTag(NamedTuple):
    """Time tag 时间标签: send time (date_time_s octets) and the delay that is allowed."""

    sent: bytes
    delay: Ti


class Dar(int):
    """Data access result 数据访问结果 (wire.md d); 0 is success."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Dar({int(self)})"


def columns_of(rcsd: Rcsd) -> tuple[tuple[Oad | None, Oad], ...]:
    """The flat columns of a record row: (record object the column hangs on or None, the column's OAD)."""
    flat: list[tuple[Oad | None, Oad]] = []
    for csd in rcsd:
        if isinstance(csd, Road):
            flat.extend((csd.oad, oad) for oad in csd.oads)
        else:
            flat.append((None, csd))
    return tuple(flat)
