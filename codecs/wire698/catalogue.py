"""The object catalogue 对象字典: what an OI or OAD means, and the name its values carry on MQTT.

The facts are in `objects.csv` beside this module, one line per object (DL/T 698.45 data dictionary as found
in public implementations; `sources` and `status` say how well each line is founded) and one per further
attribute. It is read once, at the first question. An OAD is the plain integer 0xOOOOAAEE: OI, attribute
octet (bits 0-4 attribute, bits 5-7 feature 属性特征), element index.

Names. `object[.attribute][.element][.time][@feature]`:

- `object` is the slug of the OI. Phase objects of the energy and demand families are objects of their own
  and have the phase in the slug: 0010 `active_energy_import`, 0011 `active_energy_import_a`; hence
  `active_energy_import_a.total`.
- `.attribute` for any attribute but the value attribute (2): its slug (`group_1.active_power`), or `.attr9`
  when the catalogue has none. Classes 5 and 24 have one value attribute per phase and name all of them:
  `voltage_loss.a`.
- `.element` names one member of an array: `.total .t1 .t2 …` (rates 费率), `.a .b .c` (phases),
  `.total .a .b .c`, `.total .h2 .h3 …` (harmonics), other words that the data file lists, else the position
  from 1. With element index 0 the column is the whole array, its name has no element and `cells(n)` names
  the members.
- `.time` is the instant of a maximum demand: `max_demand_import.total.time`.
- `@feature` is the moment at which an event record took the value: `@before`, `@after` (the start of the
  event), `@before_end`, `@after_end`; 5-7, which have no meaning yet, are `@feature5` and so on.
- An object that the catalogue does not know is `oad:40010200`, all eight digits, and is never split.

Data file. `object` is an OI, or `IC7`: the line then describes an attribute of every object of interface
class 7. A line with an interface class is the object itself (its `attribute` is the value attribute);
without, one attribute. The narrower line wins. `elements` is a keyword of `_LAYOUTS` or the words
themselves. Unit `=`: that of the object.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Kind = Literal["variable", "event", "param", "freeze", "collection", "control"]
ValueKind = Literal["number", "demand", "time", "address", "text", "bits", "other"]
"""How to read a value: `number`, or an array of them, times 10^scale; `demand` 需量 {number, time}, or an
array of them; `time` an instant; `address` octets that read as printed digits; `text`; `bits` a bit-string;
`other` anything else, among it structures whose members differ in unit: left as it is, never scaled."""
Severity = Literal["info", "warning", "critical"]
Series = Literal["instant", "minute", "hour", "day", "month", "event", "other"]

_KINDS: Final[Mapping[str, Kind]] = {word: word for word in get_args(Kind)}
_VALUE_KINDS: Final[Mapping[str, ValueKind]] = {word: word for word in get_args(ValueKind)}
_SEVERITIES: Final[Mapping[str, Severity]] = {word: word for word in get_args(Severity)}

_CACHED_COLUMNS: Final = 8192
_CACHED_CELLS: Final = 64  # longest array whose names are kept; a peer chooses the length
_NOMINAL_MEMBERS: Final = 5  # total and four rates, the usual array of rates

_FEATURES: Final = {
    1: "before",
    2: "after",
    3: "before_end",
    4: "after_end",
    5: "feature5",
    6: "feature6",
    7: "feature7",
}
_FEATURE_NUMBERS: Final = {word: number for number, word in _FEATURES.items()}

# Symbols as Scaler_Unit gives them (units.py), so that a unit from the catalogue and one from a terminal
# compare equal.
_UNIT_SYMBOLS: Final[Mapping[str, str | None]] = {
    "": None,
    "(none)": None,
    "min / %": None,
    "deg": "°",
    "degC": "°C",
}

# Freeze objects 冻结. Seconds, years, settlement days and tariff switches have no series of their own:
# `other`.
_FREEZE_SERIES: Final[Mapping[int, Series]] = {
    0x5000: "instant",
    0x5002: "minute",
    0x5003: "hour",
    0x5004: "day",
    0x5006: "month",
}
# Energy, demand, phase, power, harmonic and plain variables, pulse metering 脉冲计量, aggregation groups
# 总加组.
_MEASURED_CLASSES: Final = frozenset({1, 2, 3, 4, 5, 6, 12, 23})
_EVENT_CLASSES: Final = frozenset({7, 24})
_PHASE_TABLES_CLASS: Final = 24
_PHASES: Final = frozenset({"a", "b", "c", "total"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the members of an array: first `head`, then `prefix` with a number counting from `first`."""

    head: tuple[str, ...] = ()
    prefix: str = ""
    first: int = 1

    def suffix(self, position: int) -> str:
        """The name of the member at `position`, from 0."""
        if position < len(self.head):
            return self.head[position]
        return f"{self.prefix}{self.first + position - len(self.head)}"

    def position(self, suffix: str) -> int | None:
        """The position, from 0, of the member that `suffix` names; None when no member has that name."""
        if suffix in self.head:
            return self.head.index(suffix)
        if not suffix.startswith(self.prefix):
            return None
        number = _small_number(suffix.removeprefix(self.prefix))
        if number is None:
            return None
        position = number - self.first + len(self.head)
        return position if position >= len(self.head) and self.suffix(position) == suffix else None


_LAYOUTS: Final[Mapping[str, Layout | None]] = {
    "": None,
    "rates": Layout(("total",), "t"),
    "tariffs": Layout((), "t"),
    "phases": Layout(("a", "b", "c"), first=4),
    "total_phases": Layout(("total", "a", "b", "c"), first=5),
    "harmonics": Layout(("total",), "h", first=2),
    "list": Layout(),
}
_PLAIN: Final = Layout()
_OPEN_LAYOUTS: Final = frozenset({"rates", "tariffs", "harmonics", "list"})


@dataclass(frozen=True, slots=True)
class AttributeInfo:
    """One attribute 属性 of an object. `slug` is empty for the value attribute, which the object's own name
    stands for.

    `elements` is the data file's word, `layout` what it means (None: a single value). `scale` is a power of
    ten, `unit` a symbol; both None when unknown. `status`: empty, or how weakly the line is founded.
    """

    number: int
    slug: str
    english: str
    chinese: str
    data_type: str
    elements: str
    layout: Layout | None
    scale: int | None
    unit: str | None
    value_kind: ValueKind
    status: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object 对象: its OI, slug, names, interface class 接口类 and attributes by number."""

    oi: int
    slug: str
    english: str
    chinese: str
    interface_class: int
    value_attribute: int
    element_count: str
    kind: Kind
    severity: Severity | None
    sources: str
    status: str
    note: str
    attributes: Mapping[int, AttributeInfo] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EventInfo:
    """An event object 事件: alarm slug, default severity and, for class 24, the phase of each record table.

    `phases` maps attributes 6 to 9 to `a`, `b`, `c`, `total`; it is empty for class 7 and where unknown.
    """

    oi: int
    slug: str
    severity: Severity
    english: str
    chinese: str
    phases: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """What one OAD stands for, as a column of a record or the answer to a GET; the module text explains the
    names.

    `name` is complete. `element` is the member that the OAD's element index picks; `elements` are the
    members of a whole array in their usual number, empty for a single value. `scale` is a power of ten,
    None where the value must not be scaled, and so is `unit` then. `info` and `attribute` are None for what
    the catalogue does not know.
    """

    oad: int
    name: str
    base: str
    feature: str | None
    element: str | None
    elements: tuple[str, ...]
    english: str
    chinese: str
    unit: str | None
    scale: int | None
    kind: Kind | None
    value_kind: ValueKind
    info: ObjectInfo | None
    attribute: AttributeInfo | None

    @property
    def is_array(self) -> bool:
        """Whether an array here is members with names of their own, to be taken apart by `cells`."""
        return bool(self.elements)

    def cell(self, element: str | None = None, *, time: bool = False) -> str:
        """The full name of one member, or of the instant of a demand: `voltage.a@before`."""
        tokens = [self.base, self.element or element, "time" if time else None]
        name = ".".join(token for token in tokens if token)
        return f"{name}@{self.feature}" if self.feature else name

    def cells(self, count: int) -> tuple[str, ...]:
        """The full names of the members of an array of `count` members."""
        if count > _CACHED_CELLS:
            return _cell_names(self, count)
        return _cached_cell_names(self.oad, count)


class _Catalogue(NamedTuple):
    by_oi: Mapping[int, ObjectInfo]
    by_slug: Mapping[str, ObjectInfo]


def lookup(oi: int) -> ObjectInfo | None:
    """The object of an OI, None when the catalogue does not have it."""
    return _catalogue().by_oi.get(oi)


def objects() -> Iterable[ObjectInfo]:
    """All objects of the catalogue, by OI."""
    return _catalogue().by_oi.values()


@lru_cache(maxsize=_CACHED_COLUMNS)
def column(oad: int) -> ColumnInfo:
    """Name, unit, scale and shape of an OAD (0xOOOOAAEE); never fails for 32 bits, see the module text for
    unknown ones.

    Raises ValueError for a number that is not 32 bits.
    """
    if not 0 <= oad <= 0xFFFFFFFF:
        raise ValueError(f"not an OAD: {oad:#x}")
    info = lookup(oad >> 16)
    number = oad >> 8 & 0x1F
    if info is None:
        name = f"oad:{oad:08X}"
        return ColumnInfo(oad, name, name, None, None, (), "", "", None, None, None, "other", None, None)
    feature = _FEATURES.get(oad >> 13 & 7)
    index = oad & 0xFF
    attribute = info.attributes.get(number)
    layout = attribute.layout if attribute is not None else None
    slug = attribute.slug if attribute is not None else f"attr{number}"
    base = f"{info.slug}.{slug}" if slug else info.slug
    element = (layout or _PLAIN).suffix(index - 1) if index else None
    name = f"{base}.{element}" if element else base
    if feature:
        name = f"{name}@{feature}"
    if attribute is None:
        english, chinese = f"{info.english}, attribute {number}", f"{info.chinese} 属性{number}"
        return ColumnInfo(
            oad,
            name,
            base,
            feature,
            element,
            (),
            english,
            chinese,
            None,
            None,
            info.kind,
            "other",
            info,
            None,
        )
    scaled = attribute.value_kind != "other"
    return ColumnInfo(
        oad=oad,
        name=name,
        base=base,
        feature=feature,
        element=element,
        elements=() if index or layout is None else _nominal(attribute.elements, layout),
        english=attribute.english,
        chinese=attribute.chinese,
        unit=attribute.unit if scaled else None,
        scale=attribute.scale if scaled else None,
        kind=info.kind,
        value_kind=attribute.value_kind,
        info=info,
        attribute=attribute,
    )


def event(oi: int) -> EventInfo | None:
    """The event of an OI, None when the OI is no event object.

    An event that the catalogue does not know is `event:30FF`, of severity warning so that no filter hides
    it. The record units 33xx 事件记录单元 hold columns of events and are none themselves.
    """
    info = lookup(oi)
    if info is None:
        if not 0x3000 <= oi <= 0x3FFF or oi >> 8 == 0x33:
            return None
        return EventInfo(oi, f"event:{oi:04X}", "warning", "", "")
    if info.interface_class not in _EVENT_CLASSES or info.severity is None:
        return None
    phases: dict[int, str] = {}
    if info.interface_class == _PHASE_TABLES_CLASS:
        phases = {
            number: attribute.slug
            for number, attribute in info.attributes.items()
            if 6 <= number <= 9 and attribute.slug in _PHASES
        }
    return EventInfo(oi, info.slug, info.severity, info.english, info.chinese, MappingProxyType(phases))


def series_of(oad: int) -> Series:
    """The series of data read from the object of `oad`: the record object of a ROAD or of a record GET.

    A freeze object gives its period (5001 second, 5005 settlement day, 5007 year and the tariff switches:
    `other`), an event object `event`, a measured variable on its own `instant` (the present value);
    everything else `other`.
    """
    oi = oad >> 16
    if oi in _FREEZE_SERIES:
        return _FREEZE_SERIES[oi]
    if event(oi) is not None:
        return "event"
    info = lookup(oi)
    if info is not None and info.kind == "variable" and info.interface_class in _MEASURED_CLASSES:
        return "instant"
    return "other"


def find(name: str) -> int:
    """The OAD that a name stands for, the reverse of `column(oad).name`; also takes `oad:20000200`.

    A bare object name is its value attribute; `.time` of a demand is the OAD of the demand; a position
    stands for any element (`voltage.2` is `voltage.b`). Raises LookupError saying which part is unknown or
    ambiguous.
    """
    if name.startswith("oad:"):
        return _find_hex(name)
    path, _, feature = name.partition("@")
    if "@" in name and feature not in _FEATURE_NUMBERS:
        raise LookupError(f"{name!r}: no feature {feature!r}, expected one of {', '.join(_FEATURE_NUMBERS)}")
    slug, *tokens = path.split(".")
    info = _catalogue().by_slug.get(slug)
    if info is None:
        raise LookupError(f"{name!r}: no object {slug!r}")
    number = _find_attribute(info, tokens[0]) if tokens else None
    if number is not None:
        tokens = tokens[1:]
    else:
        number = info.value_attribute
        if info.attributes[number].slug:
            choices = ", ".join(f"{slug}.{item.slug}" for item in info.attributes.values() if item.slug)
            raise LookupError(f"{name!r}: which attribute? one of {choices}")
    attribute = info.attributes.get(number)
    if attribute is not None and attribute.value_kind == "demand" and tokens[-1:] == ["time"]:
        tokens = tokens[:-1]
    index = 0
    if tokens:
        found = _find_element(attribute, tokens[0])
        if found is None or len(tokens) > 1:
            raise LookupError(f"{name!r}: no attribute or element {'.'.join(tokens)!r} of {info.slug}")
        index = found
    return info.oi << 16 | _FEATURE_NUMBERS.get(feature, 0) << 13 | number << 8 | index


def _find_hex(name: str) -> int:
    digits = name.removeprefix("oad:")
    try:
        octets = bytes.fromhex(digits)
    except ValueError:
        octets = b""
    if len(octets) != 4 or len(digits) != 8:
        raise LookupError(f"{name!r}: expected oad: and eight hexadecimal digits")
    return int.from_bytes(octets, "big")


def _find_attribute(info: ObjectInfo, token: str) -> int | None:
    for number, attribute in info.attributes.items():
        if attribute.slug == token:
            return number
    if not token.startswith("attr"):
        return None
    written = _small_number(token.removeprefix("attr"))
    return written if written is not None and written <= 0x1F else None


def _small_number(digits: str) -> int | None:
    """Up to four decimal digits as a number; a name in a command may hold anything."""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 4 else None


def _find_element(attribute: AttributeInfo | None, token: str) -> int | None:
    layout = attribute.layout if attribute is not None else None
    position = layout.position(token) if layout is not None else None
    if position is None:
        position = _PLAIN.position(token)
    return position + 1 if position is not None and position < 0xFF else None


def _nominal(elements: str, layout: Layout) -> tuple[str, ...]:
    count = _NOMINAL_MEMBERS if elements in _OPEN_LAYOUTS else len(layout.head)
    return tuple(layout.suffix(position) for position in range(count))


def _cell_names(info: ColumnInfo, count: int) -> tuple[str, ...]:
    layout = info.attribute.layout if info.attribute is not None else None
    return tuple(info.cell((layout or _PLAIN).suffix(position)) for position in range(count))


@lru_cache(maxsize=_CACHED_COLUMNS)
def _cached_cell_names(oad: int, count: int) -> tuple[str, ...]:
    return _cell_names(column(oad), count)


@cache
def _catalogue() -> _Catalogue:
    text = files(__package__).joinpath("objects.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    of_class: dict[int, dict[int, AttributeInfo]] = {}
    own: dict[int, dict[int, AttributeInfo]] = {}
    for row in rows:
        if row["interface_class"]:
            continue
        attribute = _read_attribute(row)
        if row["object"].startswith("IC"):
            of_class.setdefault(int(row["object"][2:]), {})[attribute.number] = attribute
        else:
            own.setdefault(int(row["object"], 16), {})[attribute.number] = attribute
    by_oi: dict[int, ObjectInfo] = {}
    for row in rows:
        if row["interface_class"]:
            oi = int(row["object"], 16)
            by_class = of_class.get(int(row["interface_class"][2:]), {})
            by_oi[oi] = _read_object(row, {**by_class, **own.get(oi, {})})
    return _Catalogue(MappingProxyType(by_oi), MappingProxyType({info.slug: info for info in by_oi.values()}))


def _read_attribute(row: Mapping[str, str]) -> AttributeInfo:
    words = row["elements"]
    return AttributeInfo(
        number=int(row["attribute"]),
        slug=row["slug"],
        english=row["english_name"],
        chinese=row["chinese_name"],
        data_type=row["data_type"],
        elements=words,
        layout=_LAYOUTS[words] if words in _LAYOUTS else _explicit(words),
        scale=int(row["scaler"]) if row["scaler"] else None,
        unit=_UNIT_SYMBOLS.get(row["unit"], row["unit"]),
        value_kind=_VALUE_KINDS[row["value_kind"]],
        status=row["status"],
        note=row["note"],
    )


def _explicit(words: str) -> Layout:
    head = tuple(words.split())
    return Layout(head, first=len(head) + 1)


def _read_object(row: Mapping[str, str], narrower: Mapping[int, AttributeInfo]) -> ObjectInfo:
    """The object of its line; `narrower` are the lines of its attributes, class lines first."""
    value = _read_attribute(row)
    attributes: dict[int, AttributeInfo] = {
        number: replace(
            item,
            english=f"{value.english}, {item.english}",
            chinese=f"{value.chinese} {item.chinese}",
            unit=value.unit if item.unit == "=" else item.unit,
        )
        for number, item in narrower.items()
    }
    # A value attribute that has a line of its own is one of several (class 5, class 24): it keeps its slug
    # and names.
    named = attributes.get(value.number)
    attributes[value.number] = (
        replace(value, slug="")
        if named is None
        else replace(value, slug=named.slug, english=named.english, chinese=named.chinese)
    )
    return ObjectInfo(
        oi=int(row["object"], 16),
        slug=row["slug"],
        english=value.english,
        chinese=value.chinese,
        interface_class=int(row["interface_class"][2:]),
        value_attribute=value.number,
        element_count=row["element_count"],
        kind=_KINDS[row["kind"]],
        severity=_SEVERITIES[row["severity"]] if row["severity"] else None,
        sources=row["sources"],
        status=row["status"],
        note=row["note"],
        attributes=MappingProxyType(dict(sorted(attributes.items()))),
    )
