"""Values of the wire as the contract writes them: engineering numbers, instants, printed addresses, text, bits.

The conversions are given both as functions and as Python expressions over the cells of a row: a layout is thought
about once, and its rows then cost what the expressions cost.
"""

from __future__ import annotations

from typing import Any, Final

from wire698.catalogue import ValueKind
from wire698.data import DATA
from wire698.forms import value_form
from wire698.notation import build_all
from wire698.rows import Shape
from wire698.values import Data, Tag

_UNSIGNED_BITS: Final = {
    Tag.UNSIGNED: 8,
    Tag.LONG_UNSIGNED: 16,
    Tag.DOUBLE_LONG_UNSIGNED: 32,
    Tag.LONG64_UNSIGNED: 64,
}
NUMBERS: Final = frozenset({*_UNSIGNED_BITS, Tag.INTEGER, Tag.LONG, Tag.DOUBLE_LONG, Tag.LONG64})
_CONTAINERS: Final = frozenset({Tag.ARRAY, Tag.STRUCTURE})
_PRINTED_KEPT: Final = 65536


def text_of(octets: bytes) -> str:
    """Best-effort text: padding NULs off, GBK as terminals write Chinese, replacement marks for the rest (oddity 9)."""
    return octets.rstrip(b"\x00").decode("gbk", "replace")


def utf8_of(octets: bytes) -> str:
    """Text of a UTF8-string, NULs at its end off; replacement marks for what is none."""
    return octets.rstrip(b"\x00").decode("utf-8", "replace")


def bits_of(octets: bytes, bits: int) -> str:
    """A bit string as `0` and `1`, first bit first."""
    return f"{int.from_bytes(octets):0{len(octets) * 8}b}"[:bits] if octets else ""


def address_of(octets: bytes) -> str | None:
    """Printed digits of an address in octets; None where there is none (empty, or all FF)."""
    digits = octets.hex().upper().removesuffix("F") if octets else ""
    return digits if digits.strip("F") else None


class Printed(dict[bytes, "str | None"]):
    """TSA (descriptor octet and address) -> printed digits of the meter, kept by its octets."""

    def __missing__(self, tsa: bytes) -> str | None:
        if len(self) >= _PRINTED_KEPT:
            self.clear()
        # A TSA without its descriptor octet is an address as it stands (oddity 6).
        described = len(tsa) > 1 and (tsa[0] & 0x0F) + 2 == len(tsa)
        printed = self[tsa] = address_of(tsa[1:] if described else tsa)
        return printed


def date_of(octets: bytes) -> str | None:
    """A date as `2025-11-24`, `*` for what is any (FF: `*-01-01` is every new year's day); None for FF throughout."""
    year, month, day = octets[0] << 8 | octets[1], octets[2], octets[3]
    if (year, month, day) == (0xFFFF, 0xFF, 0xFF):
        return None
    parts = ("*" if year == 0xFFFF else f"{year:04d}", _two_digits(month), _two_digits(day))
    return "-".join(parts)


def _two_digits(number: int) -> str:
    return "*" if number == 0xFF else f"{number:02d}"


def time_of(octets: bytes) -> str | None:
    """A time of day as `10:30:00`, `*` for what is any (FF); None for FF throughout."""
    return None if octets == b"\xff\xff\xff" else ":".join(map(_two_digits, octets))


def is_absent(data: Data) -> bool:
    """Whether a number is an all-FF pattern: no value."""
    bits = _UNSIGNED_BITS.get(data.tag)
    return bits is not None and data.value == (1 << bits) - 1


_FORM_NESTING: Final = 12
"""Levels of lists and maps that a described value may have; with 16 of data around it, messages allow 32."""


def form_of(tag: int, value: Any) -> Any:
    """A selector, region or other value of several parts as lists and maps; as its octets where it nests too deep."""
    form = value_form(Tag(tag), value)
    if _nesting(form) <= _FORM_NESTING:
        return form
    return build_all(DATA, Data(Tag(tag), value)).hex().upper()


def _nesting(form: Any) -> int:
    if isinstance(form, dict):
        return 1 + max(map(_nesting, form.values()), default=0)
    return 1 + max(map(_nesting, form), default=0) if isinstance(form, list) else 0


def number_expression(cell: str, tag: Tag, scale: int | None) -> str:
    """A number times ten to `scale`, as the nearest double of the exact decimal; an all-FF pattern is None.

    Division by an exact power of ten rounds once, so it gives that double. A signed -1 is FF too, and a true value:
    it stays.
    """
    if scale is None or scale == 0:
        scaled = cell
    elif scale < 0:
        scaled = f"{cell}/{10**-scale}"
    else:
        scaled = f"{cell}*{10**scale}"
    bits = _UNSIGNED_BITS.get(tag)
    return scaled if bits is None else f"None if {cell}=={(1 << bits) - 1} else {scaled}"


def leaf_expression(cell: str, part: Shape, kind: ValueKind, scale: int | None) -> str:
    """The value of a leaf as an expression of its cell, in the names of `environment`."""
    tag, detail = (Tag(part[0]), part[1]) if isinstance(part, tuple) else (Tag(part), None)
    if tag in NUMBERS:
        return number_expression(cell, tag, scale) if kind in ("number", "demand") else cell
    match tag:
        case Tag.NULL:
            return "None"
        case Tag.BOOL | Tag.ENUM | Tag.FLOAT32 | Tag.FLOAT64:
            return cell
        case Tag.DATE_TIME | Tag.DATE_TIME_S:
            return f"t[{cell}]"
        case Tag.DATE:
            return f"date({cell})"
        case Tag.TIME:
            return f"time({cell})"
        case Tag.BIT_STRING:
            return f"bits({cell},{detail})"
        case Tag.TSA:
            return f"p[{cell}]"
        case Tag.OCTET_STRING:
            return f"address({cell})" if kind == "address" else f"{cell}.hex().upper()"
        case Tag.VISIBLE_STRING:
            return f"text({cell})"
        case Tag.UTF8_STRING:
            return f"utf8({cell})"
        case Tag.OAD | Tag.OMD:
            return f"'%08X'%{cell}"
        case Tag.OI:
            return f"'%04X'%{cell}"
        case _:
            return f"form({int(tag)},{cell})"


class CellNames:
    """Hands out the expressions `c[0]`, `c[1]`, ... in the order in which a layout numbers its cells."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, part: Shape) -> str:
        """The cell of the next leaf; NULL has none."""
        if part == Tag.NULL:
            return ""
        self._next += 1
        return f"c[{self._next - 1}]"


def nested_expression(part: Shape, names: CellNames, kind: ValueKind, scale: int | None) -> str:
    """Any part of a row as one expression: containers become lists."""
    if isinstance(part, tuple) and part[0] in _CONTAINERS:
        return f"[{', '.join(nested_expression(item, names, kind, scale) for item in part[1])}]"
    return leaf_expression(names.take(part), part, kind, scale)


def environment(instants: Any, printed: Printed) -> dict[str, Any]:
    """What the expressions may name, and nothing else."""
    return {
        "__builtins__": {},
        "t": instants,
        "p": printed,
        "address": address_of,
        "text": text_of,
        "utf8": utf8_of,
        "bits": bits_of,
        "date": date_of,
        "time": time_of,
        "form": form_of,
        "None": None,
    }
