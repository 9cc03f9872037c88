"""What callers name: points, objects, columns, meters, ports, groups."""

from __future__ import annotations

import difflib
from typing import Any, Final

from wire698 import catalogue
from wire698.values import Csd, Oad, Road

from .arguments import SHOWN, Arguments, items_of, shown, text_of
from .encoding import tsa
from .errors import bad

_HEX: Final = frozenset("0123456789abcdefABCDEF")
COLUMNS: Final = 64


def oad_of(value: Any, place: str) -> Oad:
    """A contract name (`voltage.a`, `active_energy_import.total`), `oad:20000200`, or the eight digits alone."""
    name = text_of(value, place)
    if len(name) == 8 and _HEX.issuperset(name):
        return Oad(int(name, 16))
    try:
        return Oad(catalogue.find(name))
    except LookupError as error:
        raise bad(place, f"{str(error.args[0])[: 5 * SHOWN]}{_hint(name)}") from None


def _hint(name: str) -> str:
    if name.startswith("oad:"):
        return ""
    slugs = [info.slug for info in catalogue.objects()]
    slug = name[:SHOWN].split(".", maxsplit=1)[0].split("@", maxsplit=1)[0]
    close = [] if slug in slugs else difflib.get_close_matches(slug, slugs, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def points_of(value: Any, place: str, most: int) -> tuple[Oad, ...]:
    """Points to be read, each once, in their order; one alone may stand without a list."""
    if isinstance(value, str):
        return (oad_of(value, place),)
    return tuple(dict.fromkeys(items_of(value, place, oad_of, 1, most)))


def column_of(value: Any, place: str) -> Csd:
    """A column: a name, or `{object, columns}` for the columns of a record object inside a record (ROAD)."""
    if not isinstance(value, dict):
        return oad_of(value, place)
    args = Arguments(value, place, ("object", "columns"))
    return Road(args.read("object", oad_of), tuple(args.items("columns", oad_of, COLUMNS)))


def meter_of(value: Any, place: str, meters: frozenset[str] | None) -> str:
    """The printed address of a meter behind the terminal; with `meters`, one of those."""
    digits = text_of(value, place)
    tsa(digits, place)
    if meters is not None and digits not in meters:
        raise bad(place, f"no meter {digits} behind this terminal")
    return digits


_PORTS: Final = {"rs485": 0xF201, "plc": 0xF209}


def port_of(value: Any, place: str) -> Oad:
    """A port: `rs485-1`, `plc-1`, or an OAD F2xx02nn."""
    name = text_of(value, place)
    kind, _, number = name.partition("-")
    if kind in _PORTS and number.isascii() and number.isdecimal() and 1 <= len(number) <= 3 and 1 <= int(number) <= 255:
        return Oad(_PORTS[kind] << 16 | 0x0200 | int(number))
    if len(name) == 8 and _HEX.issuperset(name) and name.upper().startswith("F2"):
        return Oad(int(name, 16))
    raise bad(place, f"a port such as rs485-1, plc-1 or F2010201 expected, got {shown(value)}")
