"""Hypothesis strategies for everything that DL/T 698.45 can say, read off the model's own notation."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from wire698 import access, data, notation, pieces
from wire698.frame import Address, build_frame
from wire698.pieces import SERVICES, Apdu, ResultNormal, ResultRecord
from wire698.rows import Row, Table
from wire698.values import BitString, Dar, Data, Oad, Road, Tag, columns_of

DATA = Path(__file__).parent.parent / "data"
DEPTH = 2
"""Containers within containers in generated Data."""


def vectors(name: str) -> list[dict[str, Any]]:
    """The entries of a file of vectors."""
    entries: list[dict[str, Any]] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return entries


def law(examples: int = 100) -> settings:
    """How the laws are tested: no deadline, since machines are shared."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


# --- any value of a block -----------------------------------------------------------------------------------------

_HOLD_DATA = frozenset({Tag.ARRAY, Tag.STRUCTURE, Tag.REGION, Tag.RSD, Tag.MS})
_octets = st.one_of(
    st.binary(max_size=12), st.binary(min_size=126, max_size=130), st.binary(min_size=254, max_size=258)
)
oads = st.one_of(
    st.sampled_from([Oad(0x20000200), Oad(0x00100200), Oad(0x40010200), Oad(0x20210200), Oad(0x33000200), Oad(0)]),
    st.integers(0, 0xFFFFFFFF).map(Oad),
)


def _numbers(block: notation.Uint) -> st.SearchStrategy[Any]:
    code = block._struct.format[1]
    if code in "fd":
        width = 32 if code == "f" else 64
        return st.floats(width=width, allow_nan=False)
    bits = 8 * block._struct.size
    numbers = st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if code.islower() else st.integers(0, (1 << bits) - 1)
    return numbers if block._kind is None else numbers.map(block._kind)


@cache
def values(block: Any, depth: int = DEPTH) -> st.SearchStrategy[Any]:
    """Any value that `block` can build; `depth` bounds nested Data."""
    match block:
        case notation.Uint():
            return oads if block._kind is Oad else _numbers(block)
        case notation.Fixed():
            return st.binary(min_size=block._count, max_size=block._count)
        case notation.Prefixed():
            return _octets
        case notation.SequenceOf():
            return st.lists(values(block.subcon, depth), max_size=3).map(tuple)
        case notation.Optional():
            return st.none() | values(block.subcon, depth)
        case notation.Choice():
            return st.one_of([_chosen(block, number, depth) for number in sorted(block._blocks)])
        case notation.Tupled():
            parts = [values(part, depth) for _, part in block._parts]
            return st.tuples(*parts).map(lambda found: block._kind(*found))
        case notation.RecordBlock():
            fields = {name: values(part, depth) for name, part, _ in block._fields}
            return st.builds(block.kind, **fields)
        case data.DataBlock():
            return datas(depth)
        case data.Null():
            return st.none()
        case data.Bool():
            return st.booleans()
        case data.Float():
            return _numbers(block._number)
        case data.Bits():
            return st.integers(0, 140).flatmap(_bits)
        case pieces._ValueBlock():
            return datas(depth).map(lambda found: Row.of((found,)))
        case pieces.RecordResultBlock():
            return records(depth)
    raise AssertionError(f"no strategy for {block!r}")


def _chosen(block: notation.Choice, number: int, depth: int) -> st.SearchStrategy[Any]:
    inner = block._blocks[number]
    chosen = st.none() if inner is None else values(inner, depth)
    return chosen.map(lambda value: block._decode(number, value))


def _bits(count: int) -> st.SearchStrategy[BitString]:
    size = (count + 7) // 8
    return st.binary(min_size=size, max_size=size).map(lambda octets: BitString(count, octets))


@cache
def datas(depth: int = DEPTH) -> st.SearchStrategy[Data]:
    """Data of every type."""
    tags = [tag for tag in Tag if depth or tag not in _HOLD_DATA]

    def of(tag: Tag) -> st.SearchStrategy[Data]:
        return values(data.DATA_TYPES[tag], max(0, depth - (tag in _HOLD_DATA))).map(lambda value: Data(tag, value))

    return st.one_of([of(tag) for tag in tags])


@st.composite
def records(draw: st.DrawFn, depth: int = DEPTH) -> ResultRecord:
    """A-ResultRecord with rows that fit its columns."""
    rcsd = draw(values(data.RCSD))
    if draw(st.integers(0, 4)) == 0:
        return ResultRecord(draw(oads), rcsd, Dar(draw(st.integers(0, 255))))
    width = len(columns_of(rcsd))
    rows = draw(st.lists(st.tuples(*[datas(min(depth, 1))] * width), max_size=2 if width else 0))
    return ResultRecord(draw(oads), rcsd, Table.of([Row.of(row) for row in rows]))


def apdus() -> st.SearchStrategy[Apdu]:
    """An APDU of any service."""
    return st.one_of([values(kind.WIRE) for kind in SERVICES.values()])


def apdu_of(kind: type[Apdu]) -> st.SearchStrategy[Apdu]:
    """An APDU of one service."""
    return values(kind.WIRE)


# --- frames and streams -------------------------------------------------------------------------------------------

addresses = st.builds(
    lambda af, sa: Address(af & 0xF0 | len(sa) - 1, sa), st.integers(0, 255), st.binary(min_size=1, max_size=16)
)


@st.composite
def frames(draw: st.DrawFn, most: int = 60) -> bytes:
    """A good frame around any octets."""
    return build_frame(
        draw(st.integers(0, 255)) & ~0x08,
        draw(addresses),
        draw(st.integers(0, 255)),
        draw(st.binary(max_size=most)),
        scrambled=draw(st.booleans()),
    )


@st.composite
def cut(draw: st.DrawFn, octets: bytes) -> list[bytes]:
    """`octets` in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(octets)), max_size=12)))
    return [octets[a:b] for a, b in zip([0, *places], [*places, len(octets)], strict=True)]


@st.composite
def mutated(draw: st.DrawFn, octets: bytes) -> bytes:
    """`octets` with up to three things done to them: an octet changed, a piece lost, doubled, put in, cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(octets)))
        to = draw(st.integers(at, min(len(octets), at + 6)))
        match draw(st.integers(0, 4)):
            case 0 if at < len(octets):
                octets = octets[:at] + bytes((draw(st.integers(0, 255)),)) + octets[at + 1 :]
            case 1:
                octets = octets[:at] + octets[to:]
            case 2:
                octets = octets[:to] + octets[at:]
            case 3:
                octets = octets[:at] + draw(st.binary(max_size=4)) + octets[at:]
            case _:
                octets = octets[:at]
    return octets


# --- rows that repeat ---------------------------------------------------------------------------------------------


def like(example: Data) -> st.SearchStrategy[Data]:
    """Data of the same shape with other values."""
    tag, value = example
    if tag in (Tag.ARRAY, Tag.STRUCTURE):
        return st.tuples(*[like(item) for item in value]).map(lambda items: Data(tag, items))
    if tag == Tag.BIT_STRING:
        return _bits(value.bits).map(lambda bits: Data(tag, bits))
    if isinstance(value, bytes):
        return st.binary(min_size=len(value), max_size=len(value)).map(lambda octets: Data(tag, octets))
    block = data.DATA_TYPES[tag]
    return values(block, 0).map(lambda other: Data(tag, other))


@st.composite
def streams_of_reports(draw: st.DrawFn) -> list[bytes]:
    """APDUs as one terminal sends them: few columns and layouts, other values each time, now and then odd ones."""
    heads = draw(st.lists(st.tuples(oads, values(data.RCSD)), min_size=1, max_size=3))
    shapes = [
        draw(st.lists(st.tuples(*[datas(1)] * len(columns_of(rcsd))), min_size=1, max_size=3)) for _, rcsd in heads
    ]
    singles = draw(st.lists(st.tuples(oads, datas(1)), min_size=1, max_size=3))
    sent: list[bytes] = []

    def record() -> ResultRecord:
        number = draw(st.integers(0, len(heads) - 1))
        oad, rcsd = heads[number]
        examples = draw(st.lists(st.sampled_from(shapes[number]), max_size=4)) if columns_of(rcsd) else []
        rows = [Row.of(tuple([_cell(draw, item) for item in example])) for example in examples]
        return ResultRecord(oad, rcsd, Table.of(rows))

    def single() -> ResultNormal:
        oad, example = draw(st.sampled_from(singles))
        if draw(st.integers(0, 9)) == 0:
            return ResultNormal(oad, Dar(draw(st.integers(0, 255))))
        return ResultNormal(oad, Row.of((_cell(draw, example),)))

    for _ in range(draw(st.integers(2, 8))):
        piid = draw(values(pieces.PIID))
        tails = (
            [None, None]
            if draw(st.integers(0, 5))
            else [draw(values(pieces.FOLLOW)), draw(values(data.OPTIONAL_TIME_TAG))]
        )
        apdu: Apdu
        match draw(st.integers(0, 4)):
            case 0 | 1:
                found = tuple([record() for _ in range(draw(st.integers(0, 3)))])
                apdu = access.ReportNotificationRecordList(piid, found, *tails)
            case 2:
                apdu = access.GetResponseRecord(piid, record(), *tails)
            case 3:
                apdu = access.GetResponseNormal(piid, single(), *tails)
            case _:
                kind = draw(st.sampled_from([access.ReportNotificationList, access.GetResponseNormalList]))
                apdu = kind(piid, tuple([single() for _ in range(draw(st.integers(0, 3)))]), *tails)
        octets = apdu.HEAD + notation.build_all(apdu.WIRE, apdu)
        sent.append(draw(mutated(octets)) if draw(st.integers(0, 5)) == 0 else octets)
    return sent


def _cell(draw: st.DrawFn, example: Data) -> Data:
    if draw(st.integers(0, 11)) == 0:
        return Data(Tag.NULL, None)
    return draw(like(example))


def road(oad: int, *columns: int) -> Road:
    """A ROAD written short."""
    return Road(Oad(oad), tuple([Oad(column) for column in columns]))


def float32(value: float) -> float:
    """The nearest number that four octets hold."""
    (number,) = struct.unpack(">f", struct.pack(">f", value))
    return float(number)
