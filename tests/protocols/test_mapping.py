"""Golden: octets in, normalized messages out, one entry for each kind of message (tests/data/mapping.json).

`columns` stand there as [name, unit, scale, oad]. The entries are what a terminal says at `START`; what all messages
have in common is checked once, here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from terminal_side import (
    TERMINAL,
    WALL,
    ZONE,
    Pair,
    array,
    checked,
    data_deliveries,
    dated,
    instant,
    messages_of,
    names,
    oad,
    of_kind,
    record,
    report,
    road,
    tsa,
    u16,
    u32,
    values_report,
)

from messages import Alarm, Reading, decode, encode
from protocols import mapping
from protocols.events import Oddity, Violation
from protocols.mapping import Mapper, Said, compile_plan
from protocols.plain import Printed, environment
from protocols.times import Instants
from wire698 import access, model
from wire698.errors import WireError
from wire698.frame import Address, parse_frame
from wire698.pieces import ResultNormal, ResultRecord, ServerApdu
from wire698.security import SecurityRequest, SecurityResponse
from wire698.values import Data, Tag

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "mapping.json").read_text(encoding="utf-8"))
BENCH = {entry["id"]: bytes.fromhex(entry["hex"]) for entry in json.loads((DATA / "bench.json").read_text())}
COMMON = {
    "v": 1,
    "seq": 0,
    "node": "",
    "terminal": TERMINAL,
    "protocol": "dlt698.45",
    "channel": "",
    "received_at": WALL,
}


def said(**how: Any) -> Said:
    return Said(TERMINAL, 0, WALL, **how)


def mapper() -> Mapper:
    return Mapper(Instants(ZONE))


def normal(message: Any) -> dict[str, Any]:
    """A message as the golden file has it."""
    plain = checked(message)
    assert {name: plain.pop(name) for name in COMMON} == COMMON
    if "columns" in plain:
        plain["columns"] = [
            [column["name"], column["unit"], column["scale"], column["oad"]] for column in plain["columns"]
        ]
    return plain


@pytest.mark.parametrize("entry", GOLDEN, ids=[entry["id"] for entry in GOLDEN])
def test_golden(entry: dict[str, Any]) -> None:
    pair = Pair()
    pair.log_in()
    events = pair.feed(entry["apdu"])
    assert [normal(message) for message in messages_of(events)] == entry["messages"]
    assert names(events, Oddity) == entry["oddities"]
    assert not of_kind(events, Violation)
    ids = [message.id for message in messages_of(events)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ["plain-1", "plain-10", "road-1"])
def test_golden_entries_of_the_bench_are_its_frames(name: str) -> None:
    (entry,) = [entry for entry in GOLDEN if entry["id"] == f"bench-{name}"]
    frame = parse_frame(BENCH[name])
    assert frame.data.hex().upper() == entry["apdu"]
    pair = Pair(frame.address.terminal)
    pair.attach()
    (reading,) = messages_of(pair.feed_frame(BENCH[name]))
    rows = [len(message["rows"]) for message in entry["messages"]]
    assert len(reading.rows) == sum(rows) == (10 if name == "plain-10" else 1)


def test_every_row_of_the_bench_has_a_meter_and_a_time() -> None:
    for raw in BENCH.values():
        frame = parse_frame(raw)
        pair = Pair(frame.address.terminal)
        pair.attach()
        for reading in messages_of(pair.feed_frame(raw)):
            assert reading.rows
            for row in reading.rows:
                assert isinstance(row[0], str)
                assert isinstance(row[1], int)


# --- public vectors ------------------------------------------------------------------------------------------------


def vectors() -> list[tuple[str, bytes]]:
    frames = json.loads((DATA / "frames.json").read_text(encoding="utf-8"))
    apdus = json.loads((DATA / "apdus.json").read_text(encoding="utf-8"))
    found = [(entry["id"], bytes.fromhex(entry["hex"])) for entry in apdus]
    for entry in frames:
        try:
            frame = parse_frame(bytes.fromhex(entry["hex"][entry["hex"].index("68") :]))
        except WireError:
            continue
        if not frame.is_fragment:
            found.append((entry["id"], frame.data))
    return found


def opened(octets: bytes) -> Any:
    apdu = model.parse(octets).apdu
    if isinstance(apdu, SecurityRequest | SecurityResponse):
        inner = model.inner_of(apdu)
        return opened(inner) if inner is not None else None
    return apdu


def results_of(apdu: Any) -> tuple[list[ResultRecord], list[ResultNormal]]:
    """All records and values in an APDU, whatever its service."""
    records: list[ResultRecord] = []
    values: list[ResultNormal] = []
    pending = [apdu]
    while pending:
        item = pending.pop()
        if isinstance(item, ResultRecord):
            records.append(item)
        elif isinstance(item, ResultNormal):
            values.append(item)
        elif isinstance(item, tuple | list):
            pending.extend(item)
        elif hasattr(item, "__dataclass_fields__"):
            pending.extend(getattr(item, name) for name in item.__dataclass_fields__)
    return records, values


def test_every_public_response_and_report_maps() -> None:
    made = 0
    sources = 0
    refused: list[str] = []
    for name, octets in vectors():
        try:
            apdu = opened(octets)
        except WireError:
            refused.append(name)
            continue
        if not isinstance(apdu, ServerApdu):
            continue
        sources += 1
        records, values = results_of(apdu)
        maps = mapper()
        messages = maps.of_records(records, said(cause="read", command_id="c1"))
        messages += maps.of_results(values, said())
        if isinstance(apdu, access.ReportNotificationTransData):
            messages += maps.of_octets(apdu.port, apdu.data, said())
        for message in messages:
            message.id = "0" * 16
            checked(message)
            made += 1
        assert messages or not (records or values) or all(not record.table for record in records), name
    assert len(refused) < 10, refused
    assert sources > 70
    assert made > 40


# --- what the golden file does not say -----------------------------------------------------------------------------


def test_an_answer_names_its_command_and_its_meter() -> None:
    how = said(cause="read", command_id="c-1", meter="000000000007")
    (reading,) = mapper().of_results(values_report().results, how)
    assert isinstance(reading, Reading)
    assert (reading.cause, reading.command_id) == ("read", "c-1")
    assert reading.rows[0][0] == "000000000007"
    (reading,) = mapper().of_records(
        [record("50040200", ["20210200", "20000201"], (instant("2025-11-25 00:00:00"), u16(1)))], how
    )
    assert isinstance(reading, Reading)
    assert reading.rows == [["000000000007", WALL, 0.1]]
    (alarm,) = mapper().of_records([record("31060200", ["20220200"], (u32(1),))], how)
    assert isinstance(alarm, Alarm)
    assert alarm.meter == "000000000007"


def test_a_logical_address_is_a_field_of_the_message() -> None:
    pair = Pair()
    pair.log_in()
    (message,) = messages_of(pair.feed(dated(), address=Address.of(TERMINAL, logical=1)))
    assert checked(message)["logical_address"] == 1
    (message,) = messages_of(pair.feed(dated(energy=5)))
    assert "logical_address" not in checked(message)


def test_rows_of_one_layout_share_their_columns() -> None:
    pair = Pair()
    pair.log_in()
    (first,), (second,) = (messages_of(pair.feed(dated(energy=energy))) for energy in (1, 2))
    pair.feed(dated(energy=3))
    (fourth,) = messages_of(pair.feed(dated(energy=4)))
    assert first.columns == second.columns == fourth.columns
    assert messages_of(pair.feed(dated(energy=5)))[0].columns is fourth.columns


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "_PLANS_KEPT", 8)
    maps = mapper()
    for n in range(50):
        (reading,) = maps.of_results(values_report(values={f"{0x2000 + n:04X}0201": u16(n)}).results, said())
        assert isinstance(reading, Reading)
        assert reading.columns[0].oad == f"{0x2000 + n:04X}0201"
        assert len(maps._plans) <= 8


def test_plans_for_large_layouts_are_not_kept() -> None:
    maps = mapper()
    wide = array(*[u16(n) for n in range(600)])
    (reading,) = maps.of_results(values_report(values={"F4010200": wide}).results, said())
    assert isinstance(reading, Reading)
    assert reading.rows[0][2] == list(range(600))
    many = record("50040200", ["20000201"] * 600, tuple([u16(1)] * 600))
    (reading,) = maps.of_records([many], said())
    assert isinstance(reading, Reading)
    assert len(reading.columns) == 600
    long_road = record("60120300", [road("50040200", *["20000201"] * 600)], (Data(Tag.NULL, None),), flat=False)
    (reading,) = maps.of_records([long_road], said())
    assert isinstance(reading, Reading)
    assert reading.rows == [[None, None, None]]
    assert not maps._plans


def test_equal_layouts_under_other_columns_have_their_own_plans() -> None:
    maps = mapper()
    one = record("50040200", ["20210200", "20000201"], (instant("2025-11-25 00:00:00"), u16(1000)))
    two = record("50040200", ["20210200", "20010201"], (instant("2025-11-25 00:00:00"), u16(1000)))
    readings = maps.of_records([one, two, one, two], said())
    assert [reading.rows[0][2] for reading in readings] == [100.0, 1.0, 100.0, 1.0]  # type: ignore[attr-defined]


def test_a_plan_is_taken_only_for_what_it_was_made_for() -> None:
    """An id() may be given again to other columns once the first are gone."""
    maps = mapper()
    made = record("50040200", ["20210200", "20000201"], (instant("2025-11-25 00:00:00"), u16(1000)))
    maps.of_records([made], said())
    ((key, plan),) = maps._plans.items()
    stale = plan._replace(key=((), plan.key[1]), convert=lambda _: [None, None, "stale"])
    for wrong in (stale, stale._replace(key=(plan.key[0], None))):
        maps._plans[key] = wrong
        (reading,) = maps.of_records([made], said())
        assert isinstance(reading, Reading)
        assert reading.rows == [[None, WALL, 100.0]]


def test_sources_of_a_plan_hold_nothing_from_the_wire() -> None:
    """What is compiled is made of shapes and the catalogue; a text that looks like code stays a text."""
    evil = Data(Tag.VISIBLE_STRING, b"]+[__import__('os')]+[")
    (reading,) = mapper().of_results(values_report(values={"F4010200": evil}).results, said())
    assert isinstance(reading, Reading)
    assert reading.rows == [[None, None, "]+[__import__('os')]+["]]
    columns, convert = compile_plan([(oad("20000200"), 18)], environment(Instants(ZONE), Printed()))
    assert columns[0].name == "voltage"
    with pytest.raises(NameError):
        eval("open", convert.__globals__)


def test_not_a_number_is_null() -> None:
    (reading,) = mapper().of_results(
        values_report(values={"F4010200": Data(Tag.FLOAT32, float("nan"))}).results, said()
    )
    reading.id = "0" * 16
    assert isinstance(reading, Reading)
    assert decode(encode(reading), Reading).rows == [[None, None, None]]


def test_alarm_transitions_follow_the_report_status() -> None:
    def alarm(end: Data, *flags: int) -> str:
        status = array(
            *[Data(Tag.STRUCTURE, (Data(Tag.OAD, oad("45000000")), Data(Tag.UNSIGNED, bits))) for bits in flags]
        )
        columns: list[Any] = ["20220200", "201E0200", "20200200", "33000200"]
        made = record("30110200", columns, (u32(1), instant("2025-11-25 00:00:00"), end, status))
        (message,) = mapper().of_records([made], said())
        assert isinstance(message, Alarm)
        return message.transition

    ended = instant("2025-11-25 00:10:00")
    still = Data(Tag.NULL, None)
    assert alarm(still) == "raised"
    assert alarm(still, 0b0001) == "raised"
    assert alarm(Data(Tag.DATE_TIME_S, b"\xff" * 7), 0b0001) == "raised"
    assert alarm(ended) == "recorded"
    assert alarm(ended, 0b0100) == "recorded"
    assert alarm(ended, 0b0101) == "cleared"
    assert alarm(ended, 0b0111) == "cleared"
    assert alarm(ended, 0b0001, 0b0100) == "cleared"
    assert alarm(ended, 0b0011) == "recorded"


def test_a_report_of_nothing_is_answered_at_once_and_not_delivered() -> None:
    pair = Pair()
    pair.log_in()
    events = pair.feed(report(record("50040200", ["20210200"]), piid=9))
    assert not data_deliveries(events)
    assert pair.out_hex() == ["0802090150040200" + "00"]


def test_meter_of_an_alarm() -> None:
    def meter(*members: tuple[str, Data]) -> str | None:
        columns: list[Any] = [name for name, _ in members]
        (message,) = mapper().of_records([record("30110200", columns, tuple([data for _, data in members]))], said())
        assert isinstance(message, Alarm)
        return message.meter

    own = ("20240200", tsa(TERMINAL))
    assert meter(("20240200", tsa("000000000001"))) == "000000000001"
    assert meter(("202A0200", tsa("000000000002")), ("20240200", tsa("000000000001"))) == "000000000002"
    assert meter(own) is None
    assert meter(("202A0200", Data(Tag.OCTET_STRING, bytes.fromhex("12345F")))) == "12345"
    assert meter(("202A0200", Data(Tag.OCTET_STRING, b"\xff" * 6))) is None
    assert meter(("20240200", Data(Tag.OI, 0x2301))) is None
