"""Laws of the mapping for whatever a terminal may report: it maps, fits the contract, and nothing is dropped.

Fast = model: what a machine says does not depend on what its decoder has learnt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from terminal_side import TERMINAL, WALL, ZONE, Pair, checked, data_deliveries, names, octets_of

from messages import Reading, Up
from protocols.events import Oddity, Violation
from protocols.mapping import Mapper, Said
from protocols.times import Instants
from wire698 import catalogue, model
from wire698.access import ReportNotificationList, ReportNotificationRecordList
from wire698.fast import FastDecoder
from wire698.notation import BuildError
from wire698.pieces import ResultNormal, ResultRecord
from wire698.rows import Row, Table
from wire698.values import (
    BitString,
    Comdcb,
    Dar,
    Data,
    MeterSet,
    Oad,
    Omd,
    Piid,
    Region,
    Road,
    Rsd,
    ScalerUnit,
    Sid,
    SidMac,
    Tag,
    Ti,
    TimeTag,
    columns_of,
)

SLOW = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=80
)
OBJECTS = sorted(info.oi for info in catalogue.objects())
SAID = Said(TERMINAL, 0, WALL)


def sized(tag: Tag, bits: int, *, signed: bool) -> st.SearchStrategy[Data]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.integers(low, high).map(lambda value: Data(tag, value))


def octets(tag: Tag, least: int, most: int) -> st.SearchStrategy[Data]:
    return st.binary(min_size=least, max_size=most).map(lambda value: Data(tag, value))


oads = st.builds(
    lambda oi, attribute, feature, index: Oad(oi << 16 | feature << 13 | attribute << 8 | index),
    st.one_of(st.sampled_from(OBJECTS), st.integers(0, 0xFFFF)),
    st.one_of(st.just(2), st.integers(0, 31)),
    st.one_of(st.just(0), st.integers(0, 7)),
    st.one_of(st.just(0), st.integers(0, 255)),
)
DATE_TIME_S = st.one_of(
    st.binary(min_size=7, max_size=7),
    st.builds(
        lambda y, mo, d, h: y.to_bytes(2) + bytes((mo, d, h, 0, 0)),
        st.integers(1990, 2100),
        st.integers(1, 12),
        st.integers(1, 31),
        st.integers(0, 23),
    ),
)
bit_strings = st.integers(0, 40).flatmap(
    lambda bits: st.binary(min_size=-(-bits // 8), max_size=-(-bits // 8)).map(
        lambda value: Data(Tag.BIT_STRING, BitString(bits, value))
    )
)
roads = st.builds(Road, oads, st.lists(oads, max_size=3).map(tuple))
sids = st.builds(Sid, st.integers(0, 2**32 - 1), st.binary(max_size=4))
numbers = st.one_of(
    sized(Tag.DOUBLE_LONG, 32, signed=True),
    sized(Tag.DOUBLE_LONG_UNSIGNED, 32, signed=False),
    sized(Tag.INTEGER, 8, signed=True),
    sized(Tag.LONG, 16, signed=True),
    sized(Tag.UNSIGNED, 8, signed=False),
    sized(Tag.LONG_UNSIGNED, 16, signed=False),
    sized(Tag.LONG64, 64, signed=True),
    sized(Tag.LONG64_UNSIGNED, 64, signed=False),
)
leaves = st.one_of(
    st.just(Data(Tag.NULL, None)),
    numbers,
    st.booleans().map(lambda value: Data(Tag.BOOL, value)),
    sized(Tag.ENUM, 8, signed=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda value: Data(Tag.FLOAT32, value)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: Data(Tag.FLOAT64, value)),
    bit_strings,
    *(octets(tag, 0, 9) for tag in (Tag.OCTET_STRING, Tag.VISIBLE_STRING, Tag.UTF8_STRING, Tag.TSA, Tag.MAC, Tag.RN)),
    DATE_TIME_S.map(lambda value: Data(Tag.DATE_TIME_S, value)),
    octets(Tag.DATE_TIME, 10, 10),
    octets(Tag.DATE, 5, 5),
    octets(Tag.TIME, 3, 3),
    sized(Tag.OI, 16, signed=False),
    oads.map(lambda value: Data(Tag.OAD, value)),
    st.integers(0, 2**32 - 1).map(lambda value: Data(Tag.OMD, Omd(value))),
    st.builds(Ti, st.integers(0, 5), st.integers(0, 0xFFFF)).map(lambda value: Data(Tag.TI, value)),
    st.builds(ScalerUnit, st.integers(-8, 8), st.integers(0, 255)).map(lambda value: Data(Tag.SCALER_UNIT, value)),
    roads.map(lambda value: Data(Tag.ROAD, value)),
    st.one_of(oads, roads).map(lambda value: Data(Tag.CSD, value)),
    st.lists(st.one_of(oads, roads), max_size=2).map(lambda value: Data(Tag.RCSD, tuple(value))),
    st.integers(0, 255).map(lambda value: Data(Tag.RSD, Rsd(10, last=value, meters=MeterSet(1)))),
    st.lists(st.binary(min_size=1, max_size=8), max_size=2).map(lambda value: Data(Tag.MS, MeterSet(3, tuple(value)))),
    sids.map(lambda value: Data(Tag.SID, value)),
    st.builds(SidMac, sids, st.binary(max_size=4)).map(lambda value: Data(Tag.SID_MAC, value)),
    st.just(Data(Tag.COMDCB, Comdcb(6, 2, 8, 1, 0))),
)


def grown(inner: st.SearchStrategy[Data]) -> st.SearchStrategy[Data]:
    containers = st.tuples(st.sampled_from([Tag.ARRAY, Tag.STRUCTURE]), st.lists(inner, max_size=5).map(tuple))
    regions = st.builds(Region, st.integers(0, 3), inner, inner).map(lambda value: Data(Tag.REGION, value))
    return st.one_of(containers.map(lambda pair: Data(*pair)), regions)


datas = st.recursive(leaves, grown, max_leaves=12)


@st.composite
def records(draw: st.DrawFn, values: st.SearchStrategy[Data] = datas) -> ResultRecord:
    table = draw(st.one_of(st.sampled_from([Oad(0x60120300), Oad(0x50040200), Oad(0x31060200), Oad(0x30000600)]), oads))
    rcsd = tuple(draw(st.lists(st.one_of(oads, oads, roads), min_size=1, max_size=5)))
    flat = draw(st.booleans()) or not any(isinstance(csd, Road) and len(csd.oads) != 1 for csd in rcsd)
    width = len(columns_of(rcsd)) if flat else len(rcsd)
    rows = [tuple([draw(values) for _ in range(width)]) for _ in range(draw(st.integers(0, 3)) if width else 0)]
    return ResultRecord(table, rcsd, Table.of([Row.of(row) for row in rows]), flat)


results = st.builds(
    ResultNormal,
    oads,
    st.one_of(st.integers(0, 255).map(Dar), datas.map(lambda data: Row.of((data,)))),
)
reports = st.one_of(
    st.builds(ReportNotificationRecordList, st.integers(0, 255).map(Piid), st.lists(records(), max_size=3).map(tuple)),
    st.builds(ReportNotificationList, st.integers(0, 255).map(Piid), st.lists(results, max_size=4).map(tuple)),
)


def mapped(apdu: Any) -> list[Up]:
    maps = Mapper(Instants(ZONE))
    made = maps.of_records(apdu.records, SAID) if hasattr(apdu, "records") else maps.of_results(apdu.results, SAID)
    for message in made:
        message.id = "0" * 16
    return made


@SLOW
@given(reports)
def test_whatever_is_reported_becomes_messages_of_the_contract(apdu: Any) -> None:
    for message in mapped(apdu):
        checked(message)
        if isinstance(message, Reading):
            assert all(len(row) == 2 + len(message.columns) for row in message.rows)
            assert all(len(column.oad) == 8 for column in message.columns)


@SLOW
@given(st.integers(1, 16), st.sampled_from([Tag.REGION, Tag.ARRAY, Tag.STRUCTURE]), st.booleans(), leaves)
def test_the_deepest_data_still_fits_a_message(depth: int, tag: Tag, event: bool, leaf: Data) -> None:
    data = leaf
    for _ in range(depth - 1):
        data = Data(tag, Region(0, data, leaf)) if tag == Tag.REGION else Data(tag, (data, leaf))
    apdu = ReportNotificationRecordList(
        Piid(1),
        (ResultRecord(Oad(0x31060200 if event else 0x50040200), (Oad(0xF4010200),), Table.of([Row.of((data,))])),),
    )
    assert model.parse(model.build(apdu)).apdu == apdu
    (message,) = mapped(apdu)
    checked(message)


def flattened(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from flattened(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flattened(item)
    else:
        yield value


texts: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["text", "text", "null"]),
    lambda inner: st.lists(inner, min_size=1, max_size=4).map(tuple),
    max_leaves=10,
)


def numbered(form: Any, count: Iterator[int], tag: Tag) -> Data:
    """Data of texts, each with a number of its own."""
    if isinstance(form, tuple):
        return Data(tag, tuple([numbered(item, count, tag) for item in form]))
    return Data(Tag.NULL, None) if form == "null" else Data(Tag.VISIBLE_STRING, f"x{next(count)}".encode())


@SLOW
@given(
    records(values=st.just(Data(Tag.NULL, None))), st.data(), st.sampled_from([Tag.ARRAY, Tag.STRUCTURE]), st.booleans()
)
def test_no_value_of_a_report_is_dropped(shape: ResultRecord, data: st.DataObject, tag: Tag, single: bool) -> None:
    """Texts, which are no address or time of a row: each is found in the messages exactly once."""
    count = iter(range(10**6))
    if single:
        values = [numbered(data.draw(texts), count, tag) for _ in range(3)]
        oad = shape.oad
        apdu: Any = ReportNotificationList(Piid(1), tuple([ResultNormal(oad, Row.of((value,))) for value in values]))
    else:
        width = len(columns_of(shape.rcsd)) if shape.flat else len(shape.rcsd)
        rows = [
            Row.of(tuple([numbered(data.draw(texts), count, tag) for _ in range(width)]))
            for _ in range(2 * (width > 0))
        ]
        apdu = ReportNotificationRecordList(Piid(1), (ResultRecord(shape.oad, shape.rcsd, Table.of(rows), shape.flat),))
    said = [f"x{n}" for n in range(next(count))]
    found = Counter(
        item
        for message in mapped(apdu)
        for item in flattened(checked(message))
        if isinstance(item, str) and item[:1] == "x"
    )
    assert found == Counter(said)


@SLOW
@given(
    st.lists(st.tuples(oads, st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6)), min_size=1, max_size=4),
    st.booleans(),
)
def test_scaled_numbers_give_the_raw_ones_back(columns: list[tuple[Oad, list[int]]], arrays: bool) -> None:
    kept = [(oad, values) for oad, values in columns if not 0x3000 <= oad.oi <= 0x32FF]
    items = [
        (oad, Data(Tag.ARRAY, tuple([Data(Tag.DOUBLE_LONG, value) for value in values])))
        if arrays or len(values) != 1
        else (oad, Data(Tag.DOUBLE_LONG, values[0]))
        for oad, values in kept
    ]
    apdu = ReportNotificationList(Piid(1), tuple([ResultNormal(oad, Row.of((data,))) for oad, data in items]))
    raw: list[int] = []
    for reading in mapped(apdu):
        assert isinstance(reading, Reading)
        for column, cell in zip(reading.columns, reading.rows[0][2:], strict=True):
            for value in flattened(cell):
                exact = Decimal(repr(value)).scaleb(-(column.scale or 0))
                assert exact == exact.to_integral_value()
                raw.append(int(exact))
    assert raw == [value for _, values in kept for value in values]


# --- fast = model --------------------------------------------------------------------------------------------------


class ModelOnly(FastDecoder):
    """Decodes everything by the model."""

    __slots__ = ()

    def _take(self, octets: bytes) -> None:
        return None


def deliveries(pair: Pair, said: bytes) -> list[Any]:
    events = pair.feed(said)
    found = data_deliveries(events)
    for delivery in found:
        if delivery.token is not None:
            pair.settle(delivery.token)
    return [[checked(message) for message in delivery.messages] for delivery in found] + [
        pair.out_hex(),
        names(events, Violation),
        names(events, Oddity),
    ]


tails: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"timetag": TimeTag(bytes.fromhex("07E90B180A1E00"), Ti(0, 60))}),
    results.map(lambda result: {"follow": (result,)}),
)


@SLOW
@given(st.lists(st.tuples(reports, tails), min_size=1, max_size=4))
def test_what_is_delivered_does_not_depend_on_what_was_learnt(said: list[tuple[Any, dict[str, Any]]]) -> None:
    """Each is said three times, more than a repetition window apart, so that the decoder has learnt its shapes."""
    learning, plain = Pair(), Pair(decoder=ModelOnly())
    for pair in (learning, plain):
        pair.log_in(65535)
    learnt = learning.machine._decoder
    for n in range(3):
        for apdu, more in said:
            for name, value in more.items():
                setattr(apdu, name, value)
            try:
                octets = octets_of(apdu)
            except BuildError:
                continue
            for pair in (learning, plain):
                pair.after(1000.0 * (n + 1))
            assert deliveries(learning, octets) == deliveries(plain, octets)
    assert plain.machine._decoder.hits == 0
    assert learnt.hits + learnt.misses > 0


def test_the_fast_path_was_taken() -> None:
    """So that the law above says something."""
    from itertools import pairwise

    pair = Pair()
    pair.log_in()
    hits = []
    for energy in range(4):
        apdu = ReportNotificationRecordList(
            Piid(1),
            (
                ResultRecord(
                    Oad(0x50040200),
                    (Oad(0x20210200), Oad(0x00100201)),
                    Table.of([Row.of((Data(Tag.DATE_TIME_S, bytes(7)), Data(Tag.DOUBLE_LONG_UNSIGNED, energy)))]),
                ),
            ),
        )
        pair.feed(apdu)
        hits.append(pair.machine._decoder.hits)
    assert all(after == before + 1 for before, after in pairwise(hits[1:]))
    assert math.isclose(hits[-1] - hits[0], 3)
