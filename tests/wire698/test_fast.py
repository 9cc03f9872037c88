"""The law that joins fast and model: equal values, or both refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies698 import apdus, law, mutated, road, streams_of_reports, vectors

from wire698 import jsonform, model, rows
from wire698.access import GetResponseNormal, ReportNotificationList, ReportNotificationRecordList
from wire698.errors import WireError
from wire698.fast import FastDecoder
from wire698.frame import parse_frame
from wire698.pieces import ResultNormal, ResultRecord
from wire698.rows import Row, Table
from wire698.values import BitString, Data, Oad, Piid, Tag

U32 = Tag.DOUBLE_LONG_UNSIGNED


def check(decoder: FastDecoder, octets: bytes) -> None:
    """Fast gives what the model gives."""
    try:
        parsed = model.parse(octets)
    except WireError as error:
        with pytest.raises(WireError) as caught:
            decoder.parse(octets)
        assert (caught.value.offset, caught.value.reason) == (error.offset, error.reason)  # noqa: PT017
        return
    apdu, warnings = decoder.parse(octets)
    assert apdu == parsed.apdu
    assert type(apdu) is type(parsed.apdu)
    assert (warnings or []) == parsed.warnings
    assert jsonform.apdu_form(apdu) == jsonform.apdu_form(parsed.apdu)


@law(250)
@given(streams_of_reports())
def test_reports_and_responses_of_a_terminal(sent: list[bytes]) -> None:
    decoder = FastDecoder()
    for octets in sent * 4:
        check(decoder, octets)


@law(100)
@given(streams_of_reports(), st.integers(1, 3))
def test_with_hardly_any_room_to_keep_layouts(sent: list[bytes], capacity: int) -> None:
    decoder = FastDecoder(capacity)
    for octets in sent * 4:
        check(decoder, octets)
    assert len(decoder._wholes) <= capacity
    assert len(decoder._records) <= capacity
    assert len(decoder._values) <= capacity
    assert len(decoder._prefixes) <= capacity


@law(150)
@given(streams_of_reports(), st.data())
def test_changed_octets_after_layouts_are_learnt(sent: list[bytes], source: st.DataObject) -> None:
    decoder = FastDecoder()
    for octets in sent * 3:
        check(decoder, octets)
    for octets in sent:
        check(decoder, source.draw(mutated(octets)))


@law(60)
@given(streams_of_reports(), st.data())
def test_truncations_after_layouts_are_learnt(sent: list[bytes], source: st.DataObject) -> None:
    decoder = FastDecoder()
    for octets in sent * 3:
        check(decoder, octets)
    for octets in sent:
        for size in source.draw(st.lists(st.integers(0, len(octets)), max_size=8)):
            check(decoder, octets[:size])
            # Octets that look like tails, whatever was before them.
            check(decoder, octets[:size] + b"\0\0")


@law(150)
@given(st.lists(apdus(), max_size=4))
def test_every_service(found: list[object]) -> None:
    decoder = FastDecoder()
    for apdu in [*found, *found]:
        check(decoder, model.build(apdu))  # type: ignore[arg-type]


def test_all_vectors_twice() -> None:
    decoder = FastDecoder()
    octets = [bytes.fromhex(entry["hex"]) for entry in vectors("apdus.json")]
    frames = [parse_frame(bytes.fromhex(entry["hex"])) for entry in vectors("frames.json") + vectors("bench.json")]
    octets += [frame.data for frame in frames if not frame.is_fragment]
    for _ in range(2):
        for apdu in octets:
            check(decoder, apdu)
    assert decoder.hits > 80


# --- what is learnt -----------------------------------------------------------------------------------------------


def report(*values: int, oad: int = 0x60120300, time: bytes | None = bytes(7)) -> bytes:
    """One record with a ROAD of a time (None: NULL) and an array."""
    stamp = Data(Tag.NULL, None) if time is None else Data(Tag.DATE_TIME_S, time)
    row = Row.of((stamp, Data(Tag.ARRAY, tuple([Data(U32, value) for value in values]))))
    record = ResultRecord(Oad(oad), (road(0x50020200, 0x20210200, 0x00100200),), Table.of([row, row]))
    return model.build(ReportNotificationRecordList(Piid(1), (record,)))


def test_hits_are_counted_once_a_layout_is_known() -> None:
    decoder = FastDecoder()
    for number in range(10):
        check(decoder, report(number, number + 1))
    assert (decoder.hits, decoder.misses) == (9, 1)
    check(decoder, report(1, 2, time=None))
    check(decoder, report(1, 2, time=None))
    check(decoder, report(3, 4))
    assert (decoder.hits, decoder.misses) == (11, 2)


@pytest.mark.parametrize("entry", vectors("bench.json"), ids=lambda entry: entry["id"])
def test_bench_frames_hit_the_second_time(entry: dict[str, str]) -> None:
    decoder = FastDecoder()
    data = parse_frame(bytes.fromhex(entry["hex"])).data
    for _ in range(3):
        check(decoder, data)
    assert (decoder.hits, decoder.misses) == (2, 1)


@pytest.mark.parametrize(
    ("what", "octets"),
    [
        ("a time tag", report(1, 2)[:-1] + bytes.fromhex("0107E90B180A1E0000003C")),
        ("a follow report", report(1, 2)[:-2] + bytes.fromhex("010101 20150200 01 0420 00000010 00")),
        ("a surplus octet", report(1, 2) + b"\0"),
        ("a missing tail", report(1, 2)[:-1]),
    ],
)
def test_what_is_not_plain_goes_to_the_model(what: str, octets: bytes) -> None:
    decoder = FastDecoder()
    check(decoder, report(1, 2))
    check(decoder, octets)
    check(decoder, octets)
    assert decoder.hits == 0, what


def test_a_head_that_ends_where_the_octets_end() -> None:
    # The last column's OAD ends in 00 00 as tails do; nothing may be read behind it.
    decoder = FastDecoder()
    octets = bytes.fromhex("880205 01 60120300 01 00 20000000 01 01 1200 01 0000")
    check(decoder, octets)
    for size in range(len(octets)):
        check(decoder, octets[:size])


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("cells", [(), (1,), (1, 2)])
def test_reports_known_as_a_whole(count: int, cells: tuple[int, ...]) -> None:
    decoder = FastDecoder()
    columns = (Oad(0x202A0200), Oad(0x60400200), Oad(0x60410200))
    row = Row.of(tuple([Data(U32, cell) for cell in cells] + [Data(Tag.NULL, None)] * (3 - len(cells))))
    record = ResultRecord(Oad(0x60120300), columns, Table.of([row] * count))
    octets = model.build(ReportNotificationRecordList(Piid(2), (record,)))
    for _ in range(4):
        check(decoder, octets)
    assert decoder.hits == 3
    other = octets.replace(b"\x06\0\0\0\1", b"\x06\xff\xff\xff\xff")
    check(decoder, other[:2] + b"\xff" + other[3:])
    for at in range(len(octets)):
        check(decoder, octets[:at] + bytes((octets[at] ^ 1,)) + octets[at + 1 :])


def test_heads_that_share_their_first_octets() -> None:
    decoder = FastDecoder()
    common = (Oad(0x202A0200), Oad(0x60400200), Oad(0x60410200))
    sent = []
    for last in (0x00100200, 0x00200200):
        row = Row.of(tuple([Data(U32, 7)] * 4))
        record = ResultRecord(Oad(0x60120300), (*common, Oad(last)), Table.of([row]))
        sent.append(model.build(ReportNotificationRecordList(Piid(2), (record,))))
    for octets in sent * 3:
        check(decoder, octets)
    assert (decoder.hits, decoder.misses) == (4, 2)


def test_ten_thousand_layouts_keep_the_caches_bounded() -> None:
    decoder = FastDecoder()
    for number in range(10_000):
        octets = report(*range(number % 7), oad=0x60120000 + number)
        value = Data(Tag.OCTET_STRING, bytes(number % 200))
        single = GetResponseNormal(Piid(0), ResultNormal(Oad(number), Row.of((value,))))
        decoder.parse(octets)
        decoder.parse(model.build(single))
    assert len(decoder._records) == len(decoder._values) == 512
    assert len(decoder._prefixes) <= 512
    assert len(decoder._wholes) <= 512
    assert all(len(head.layouts) <= 4 for head in [*decoder._records.values(), *decoder._values.values()])
    assert rows._kept_layout.cache_info().currsize <= 1024
    # What came last is still known.
    before = decoder.hits
    check(decoder, octets)
    assert decoder.hits == before + 1


def test_one_head_with_many_shapes_keeps_four() -> None:
    decoder = FastDecoder()
    for size in range(50):
        check(decoder, report(*range(size)))
    (head,) = decoder._records.values()
    assert len(head.layouts) == 4


@pytest.mark.parametrize("item", [Data(Tag.NULL, None), Data(Tag.ARRAY, ()), Data(Tag.BOOL, True)])
def test_large_shapes_are_read_and_not_kept(item: Data) -> None:
    decoder = FastDecoder()
    many = Data(Tag.ARRAY, (item,) * (rows.LARGEST_KEPT + 1))
    octets = model.build(ReportNotificationList(Piid(0), (ResultNormal(Oad(0x20000200), Row.of((many,))),)))
    before = rows._kept_layout.cache_info().misses
    check(decoder, octets)
    check(decoder, octets)
    assert rows._kept_layout.cache_info().misses == before
    assert decoder.hits == 0
    assert all(not head.layouts for head in decoder._values.values())


def test_rows_group_in_runs_and_expand() -> None:
    first = Row.of((Data(U32, 1), Data(Tag.BIT_STRING, BitString(8, b"\xc0"))))
    other = Row.of((Data(Tag.NULL, None), Data(Tag.OAD, Oad(5))))
    table = Table.of([first, first, other, first])
    assert [len(cells) for _, cells in table.runs] == [2, 1, 1]
    assert len(table) == 4
    assert table.rows == (first, first, other, first)
    assert other.columns == (Data(Tag.NULL, None), Data(Tag.OAD, Oad(5)))
    assert [(leaf.column, leaf.path, leaf.tag, leaf.cell) for leaf in other.layout.leaves] == [
        (0, (), Tag.NULL, None),
        (1, (), Tag.OAD, 0),
    ]
