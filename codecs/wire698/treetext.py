"""What the fields of the annotated tree say, in words (see tree.py)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from . import data, link
from .catalogue import ColumnInfo, column, lookup
from .dar import describe
from .data import DATA_TYPES
from .forms import ADDRESS_KINDS, LINK_KINDS, value_form
from .notation import Optional
from .pieces import Apdu, Records, ResultRecord
from .rows import Row, Table
from .security import Check, Unit
from .units import unit_symbol
from .values import Dar, MeterSet, Oad, Omd, Piid, Road, Rsd, Tag

_LONGEST: Final = 60
_INTEGERS = frozenset(
    {
        Tag.DOUBLE_LONG,
        Tag.DOUBLE_LONG_UNSIGNED,
        Tag.INTEGER,
        Tag.LONG,
        Tag.UNSIGNED,
        Tag.LONG_UNSIGNED,
        Tag.LONG64,
        Tag.LONG64_UNSIGNED,
    }
)
_TIMES = ("s", "min", "h", "day", "month", "year")
_BAUDS = (300, 600, 1200, 2400, 4800, 7200, 9600, 19200, 38400, 57600, 115200)
_PARITIES = ("no parity", "odd", "even")
_FLOWS = ("no flow control", "hardware flow control", "software flow control")
_REGIONS = ("[start, end)", "(start, end]", "[start, end]", "(start, end)")
_SELECTORS = (
    "no selection",
    "column equals value",
    "column in range",
    "columns in ranges",
    "collection start time",
    "collection store time",
    "collection start time in range",
    "collection store time in range",
    "collection success time in range",
    "n-th latest record",
    "latest n records",
)
_METER_SETS = (
    "no meters",
    "all meters",
    "user types",
    "addresses",
    "archive numbers",
    "ranges of user types",
    "ranges of addresses",
    "ranges of archive numbers",
)
_UNIT_MODES = ("plaintext 明文", "ciphertext 密文", "DAR")
_CHECKS = ("SID_MAC", "RN", "RN_MAC", "SID")
_ERRORS = {1: "APDU cannot be parsed", 2: "service not supported", 255: "other"}

_WORDS: Final[dict[tuple[type[Apdu], str], dict[int, str]]] = {
    (link.LinkRequest, "type"): dict(enumerate(LINK_KINDS)),
    (link.ClientError, "error"): _ERRORS,
    (link.ServerError, "error"): _ERRORS,
    (link.ConnectResponse, "result"): {
        0: "permitted",
        1: "password wrong",
        2: "symmetric decryption error",
        3: "asymmetric decryption error",
        4: "signature error",
        5: "protocol version mismatch",
        255: "other",
    },
    (link.ReleaseResponse, "result"): {0: "success"},
}
_LINK_RESULTS = ("success", "address duplicate", "illegal device", "insufficient capacity", "other")
_SECONDS = {"period": "s", "timeout": "s", "rx_timeout": "s", "byte_timeout": "ms", "delay": "s"}

_TAG_OF: dict[int, Tag] = {id(block): Tag(number) for number, block in DATA_TYPES.items()}
# Blocks that several types share stand for the plain number or octets, whatever their tag.
for _block in (data.U8, data.U16, data.U32, data.OCTET_STRING, data.VISIBLE_STRING):
    _TAG_OF.pop(id(_block), None)
_TAG_OF[id(data.VISIBLE_STRING)] = Tag.VISIBLE_STRING


def escaped(octets: bytes) -> str:
    """Text of a visible-string (GBK in practice) in quotes, with nothing in it that a terminal would obey."""
    text = octets.decode("gbk", "backslashreplace")
    return _cut('"' + "".join(char if char.isprintable() else f"\\x{ord(char):02X}" for char in text) + '"')


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _hex(octets: bytes) -> str:
    return _cut(octets.hex(" ").upper()) if octets else "empty"


def oad_text(oad: Oad) -> str:
    """An OAD with the name of what it stands for."""
    info = column(oad)
    return f"{oad} {info.name} {info.chinese}" if info.info is not None else str(oad)


def omd_text(omd: Omd) -> str:
    """An OMD with its object and method number."""
    info = lookup(omd.oi)
    name = f" {info.english} {info.chinese}," if info is not None else ""
    return f"{omd}{name} method {omd.method}"


def _oi_text(oi: int) -> str:
    info = lookup(oi)
    return f"{oi:04X} {info.english} {info.chinese}" if info is not None else f"{oi:04X}"


def tsa_text(octets: bytes) -> str:
    """A TSA: the printed address and what its descriptor octet says; odd ones as they are (oddity 6)."""
    if not octets:
        return "empty"
    if len(octets) != (octets[0] & 0x0F) + 2:
        return f"{octets.hex().upper()} (no descriptor octet)"
    kind, logical = ADDRESS_KINDS[octets[0] >> 6], octets[0] >> 4 & 3
    return f"{octets[1:].hex().upper()} ({kind}{f', logical {logical}' if logical else ''})"


def scaled(value: float, about: ColumnInfo | None) -> str:
    """` → 220.0 V`, empty where the catalogue knows neither scale nor unit."""
    if about is None or about.value_kind not in ("number", "demand") or about.scale is None:
        return ""
    if not about.scale and not about.unit:
        return ""
    number = Decimal(str(value)).scaleb(about.scale)
    return f" → {number:f}{f' {about.unit}' if about.unit else ''}"


def data_text(tag: Tag, value: Any, about: ColumnInfo | None) -> str:
    """The value of a data type; `about` is the object that it belongs to, where that is known."""
    match tag:
        case Tag.NULL:
            return "NULL"
        case Tag.ARRAY | Tag.STRUCTURE:
            noun = "item" if tag == Tag.ARRAY else "member"
            return f"{len(value)} {noun}{'' if len(value) == 1 else 's'}"
        case Tag.BOOL:
            return "true" if value else "false"
        case Tag.BIT_STRING:
            bits = "".join(f"{octet:08b}" for octet in value.octets)[: value.bits]
            return _cut(f"{value.bits} bits {bits}")
        case Tag.VISIBLE_STRING | Tag.UTF8_STRING:
            return escaped(value)
        case Tag.OCTET_STRING if about is not None and about.value_kind == "address":
            return str(value.hex().upper())
        case Tag.OCTET_STRING | Tag.MAC | Tag.RN:
            return _hex(value)
        case Tag.TSA:
            return tsa_text(value)
        case Tag.OI:
            return _oi_text(value)
        case Tag.OAD:
            return oad_text(value)
        case Tag.OMD:
            return omd_text(value)
        case Tag.ROAD | Tag.CSD:
            return f"{oad_text(value.oad)}: {len(value.oads)} columns" if isinstance(value, Road) else oad_text(value)
        case Tag.RCSD:
            return f"{len(value)} columns" if value else "all columns"
        case Tag.TI:
            unit = _TIMES[value.unit] if value.unit < len(_TIMES) else f"of unit {value.unit}"
            return f"{value.n} {unit}"
        case Tag.SCALER_UNIT:
            return f"10^{value.scaler} {unit_symbol(value.unit) or 'no unit'}"
        case Tag.COMDCB:
            return _comdcb_text(value)
        case Tag.SID:
            return f"{value.id:08X}, {_hex(value.attach)}"
        case Tag.SID_MAC:
            return f"{value.sid.id:08X}, {_hex(value.sid.attach)}, MAC {_hex(value.mac)}"
        case Tag.REGION:
            return _REGIONS[value.kind] if value.kind < len(_REGIONS) else f"kind {value.kind}"
        case Tag.RSD:
            return _rsd_text(value)
        case Tag.MS:
            return _ms_text(value)
        case Tag.FLOAT32 | Tag.FLOAT64:
            return f"{value!r}{scaled(value, about) if value - value == 0 else ''}"
        case Tag.DATE_TIME | Tag.DATE_TIME_S | Tag.DATE | Tag.TIME:
            return str(value_form(tag, value))
        case _:
            return f"{value}{scaled(value, about) if tag in _INTEGERS else ''}"


def _comdcb_text(comdcb: Any) -> str:
    def word(words: tuple[Any, ...], code: int) -> Any:
        return words[code] if code < len(words) else f"code {code}"

    baud = "auto" if comdcb.baud == 255 else f"{word(_BAUDS, comdcb.baud)} bit/s"
    return (
        f"{baud}, {word(_PARITIES, comdcb.parity)}, {comdcb.data_bits} data bits, "
        f"{comdcb.stop_bits} stop bits, {word(_FLOWS, comdcb.flow)}"
    )


def _rsd_text(rsd: Rsd) -> str:
    text = f"selector {rsd.selector}: {_SELECTORS[rsd.selector]}"
    if rsd.last is not None:
        text += f", n = {rsd.last}"
    return text


def _ms_text(meters: MeterSet) -> str:
    text = _METER_SETS[meters.choice]
    if meters.choice < 2:
        return text
    if meters.choice == 3:
        return _cut(f"{text} {', '.join(tsa_text(tsa) for tsa in meters.items)}")
    if meters.choice in (2, 4):
        return _cut(f"{text} {', '.join(map(str, meters.items))}")
    return f"{text}: {len(meters.items)}"


def field_text(kind: type[Apdu], name: str, block: Any, value: Any) -> str:
    """The value of a field that is not tagged Data."""
    if block is link.MECHANISM:
        return _mechanism_text(value)
    if value is None:
        return "absent" if isinstance(block, Optional) else ""
    words = _WORDS.get((kind, name))
    if words is not None:
        return f"{value} {words.get(value, 'unknown')}"
    tag = _TAG_OF.get(id(block))
    if tag is not None:
        return data_text(tag, value, None)
    if kind is link.LinkResponse and name == "result":
        result = value & 7
        told = _LINK_RESULTS[result] if result < len(_LINK_RESULTS) else "unknown"
        return f"{value:02X}: clock {'' if value & 0x80 else 'not '}trusted, {result} {told}"
    match value:
        case Piid():
            marks = (", high priority" if value.priority else "") + (", ACD" if value.acd else "")
            return f"{value.number}{marks}"
        case Dar():
            row = describe(value)
            return f"DAR {row.code} {row.name} {row.zh}"
        case Unit():
            size = f", {len(value.content)} octets" if isinstance(value.content, bytes) else ""
            told = field_text(kind, name, None, value.content) if isinstance(value.content, Dar) else ""
            return told or f"{_UNIT_MODES[value.mode]}{size}"
        case Check():
            return f"{_CHECKS[value.kind]} {_check_text(value)}"
        case Oad():
            return oad_text(value)
        case Table():
            return f"{len(value)} rows"
        case Row():
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value} {_SECONDS[name]}" if name in _SECONDS else str(value)
        case bytes():
            return octets_text(name, value)
        case ResultRecord():
            return f"{len(value.rcsd)} columns, {len(value.table)} rows"
        case tuple() if type(value) in (tuple, Records):
            return f"{len(value)}"
    return ""


def _mechanism_text(mechanism: Any) -> str:
    match mechanism:
        case None:
            return "0 public connection 公共连接"
        case bytes():
            return f"1 password {escaped(mechanism)}"
        case link.SymmetrySecurity():
            return "2 symmetric encryption 对称加密"
        case _:
            return "3 digital signature 数字签名"


def _check_text(check: Check) -> str:
    value: Any = check.value
    if check.kind in (0, 3):
        return data_text(Tag.SID_MAC if check.kind == 0 else Tag.SID, value, None)
    return _hex(value) if check.kind == 1 else f"RN {_hex(value[0])}, MAC {_hex(value[1])}"


def octets_text(name: str, value: bytes) -> str:
    """Octets of a field: printed text for the factory version, an address for a TSA, hexadecimal otherwise."""
    if name == "factory":
        return escaped(value)
    return tsa_text(value) if name == "tsa" else _hex(value)
