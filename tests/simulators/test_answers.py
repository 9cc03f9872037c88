"""Services: GET in all kinds, SET, ACTION, PROXY, blocks; the answers come from the same records as the reports."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from simulators.records import DAILY, FREEZE_TIME, MINUTE, NUMBER, TASKS, upload_rcsd
from simulators.registers import data_of
from simulators.settings import EventPlan
from simulators.stamps import date_time_s, read_date_time_s
from wire698 import access, link, model, proxy
from wire698.access import GetRecord
from wire698.data import DATA
from wire698.notation import build_all
from wire698.security import PLAIN, REFUSED, Check, SecurityRequest, SecurityResponse, Unit
from wire698.values import (
    ALL_METERS,
    NULL,
    Comdcb,
    Dar,
    Data,
    MeterSet,
    Oad,
    Omd,
    Piid,
    Road,
    Rsd,
    Tag,
    Ti,
    TimeTag,
)

P = Piid(5)
METERS = ("500000000001", "500000000002")
START = 1772409600.0
"""As the bench has them."""
TSA = tuple(b"\x05" + bytes.fromhex(meter) for meter in METERS)
ABSENT = b"\x05\x99\x99\x99\x99\x99\x99"


@pytest.fixture
def bench(make_bench: Any) -> Any:
    """Logged in, with ten curve points behind it; reporting is switched off so that only answers are seen."""
    bench = make_bench()
    bench.login()
    off = access.SetRequestNormal(piid=P, oad=Oad(0x43000800), value=Data(Tag.BOOL, False))
    bench.ask(off)
    bench.run(15.0 * 10 + 1)
    return bench


def one(bench: Any, apdu: Any) -> Any:
    (answer,) = bench.ask(apdu)
    return answer


def get(bench: Any, oad: int) -> Any:
    answer = one(bench, access.GetRequestNormal(piid=P, oad=Oad(oad)))
    assert (answer.piid, answer.result.oad) == (P, Oad(oad))
    return answer.result.result


def rows(bench: Any, oad: Oad, rsd: Rsd, rcsd: Any = ()) -> Any:
    answer = one(bench, access.GetRequestRecord(piid=P, record=GetRecord(oad=oad, rsd=rsd, rcsd=rcsd)))
    assert answer.record.oad == oad
    return answer.record


def test_get_normal(bench: Any) -> None:
    assert get(bench, 0x40010200).data == Data(Tag.OCTET_STRING, bytes.fromhex("100000000001"))
    clock = read_date_time_s(get(bench, 0x40000200).data.value)
    assert clock == int(START + bench.now * 60)
    reading = bench.terminal.body.premises.meters[0].read(START + bench.now * 60)
    for oad in (0x00100200, 0x00100201, 0x20000200, 0x20010202, 0x200A0200, 0x10100200, 0x200F0200):
        assert get(bench, oad).data == data_of(Oad(oad), reading)
    assert get(bench, 0x20000300).data.value == (-1, 38)


@pytest.mark.parametrize(
    ("oad", "dar"),
    [
        (0x99990200, 4),
        (0x80000600, 6),
        (0x80030700, 6),
        (0x81030900, 6),
        (0x81090200, 4),
        (0x23090200, 4),
        (0x23011300, 6),
        (0xF2050205, 6),
        (0x40001F00, 6),
        (0x43001E00, 6),
        (0x45001E00, 6),
        (0x20001E00, 6),
        (0x2000020A, 6),
        (0x60120300, 3),
        (0x50040200, 3),
        (0x31061E00, 6),
        (0x31060201, 0),
    ],
)
def test_get_of_what_is_not_there(bench: Any, oad: int, dar: int) -> None:
    assert get(bench, oad) == Dar(dar)


@pytest.mark.parametrize(
    "oad",
    [
        0x40000300,
        0x40000400,
        0x43000200,
        0x43000300,
        0x43000700,
        0x43000800,
        0x43000A00,
        0x45000200,
        0x45000300,
        0x45100200,
        0x50020300,
        0x60000200,
        0x60120200,
        0x31060200,
        0x31060400,
        0x31060500,
        0x31060900,
        0x30000B00,
        0xF1010200,
        0xF2010200,
    ],
)
def test_parameters_can_be_read(bench: Any, oad: int) -> None:
    assert isinstance(get(bench, oad).data, Data)


def test_get_list_keeps_the_order(bench: Any) -> None:
    oads = tuple(map(Oad, (0x20000200, 0x99990200, 0x40010200)))
    answer = one(bench, access.GetRequestNormalList(piid=P, oads=oads))
    assert tuple(result.oad for result in answer.results) == oads
    assert answer.results[1].result == Dar(4)


def test_get_record_reads_what_was_frozen(bench: Any) -> None:
    table = bench.terminal.body.tables[1][MINUTE]
    assert len(table.rows) == 10
    record = rows(bench, MINUTE, Rsd(9, last=1))
    assert record.rcsd == (NUMBER, FREEZE_TIME, *table.columns)
    (row,) = record.table.rows
    last = table.rows[-1]
    assert row.columns[1] == Data(Tag.DATE_TIME_S, date_time_s(int(START) + 9000))
    assert row.columns[2:] == tuple(data_of(oad, last.reading) for oad in table.columns)
    some = (FREEZE_TIME, Oad(0x20000201), Oad(0x12340200))
    record = rows(bench, MINUTE, Rsd(10, last=2, meters=ALL_METERS), some)
    assert [r.columns[2] for r in record.table.rows] == [NULL, NULL]
    assert rows(bench, DAILY, Rsd(9, last=1)).table.rows == ()
    assert rows(bench, Oad(0x50110200), Rsd(0)).result == Dar(4)


def test_get_record_of_collected_data_is_what_was_uploaded(make_bench: Any) -> None:
    bench = make_bench()
    bench.now = 16.0
    (report,) = bench.login()
    (uploaded,) = report.records
    (answer,) = bench.ask(
        access.GetRequestRecord(
            piid=P, record=GetRecord(oad=TASKS, rsd=Rsd(10, last=1, meters=ALL_METERS), rcsd=upload_rcsd(MINUTE))
        )
    )
    assert answer.record == uploaded
    of_day = rows(bench, TASKS, Rsd(0), upload_rcsd(DAILY))
    assert of_day.table.rows == ()
    picked = rows(bench, TASKS, Rsd(10, last=1, meters=MeterSet(3, (TSA[1],))), (Oad(0x202A0200),))
    assert [row.columns[0].value for row in picked.table.rows] == [TSA[1]]
    columns = (Oad(0x202A0200), Road(MINUTE, (Oad(0x20000201),)))
    at = date_time_s(int(START) + 900)
    narrow = rows(bench, TASKS, Rsd(4, at=at, meters=ALL_METERS), columns)
    assert [len(row.columns) for row in narrow.table.rows] == [2, 2]


def test_record_list_and_events(make_bench: Any) -> None:
    bench = make_bench(events=(EventPlan(kind="power_off", at_s=60, duration_s=60),))
    bench.run(5.0)
    (report,) = bench.login()
    wanted = tuple(GetRecord(oad=Oad(oad), rsd=Rsd(9, last=1), rcsd=()) for oad in (0x31060200, 0x30000600, 0x50040200))
    answer = one(bench, access.GetRequestRecordList(piid=P, records=wanted))
    assert [len(record.table) for record in answer.records] == [1, 0, 0]
    columns = answer.records[0].table.rows[0].columns
    assert columns[1] == report.records[0].table.rows[0].columns[1]
    assert columns[2].tag == Tag.DATE_TIME_S
    whole = get(bench, 0x31060200).data
    assert get(bench, 0x31060201).data == whole.value[0]
    assert whole.value[0].value == columns


def test_md5(bench: Any) -> None:
    answer = one(bench, access.GetRequestMd5(piid=P, oad=Oad(0x60120200)))
    assert answer.md5 == hashlib.md5(build_all(DATA, get(bench, 0x60120200).data)).digest()
    assert one(bench, access.GetRequestMd5(piid=P, oad=Oad(0x99990200))).md5 == Dar(4)


@pytest.mark.parametrize("first", [0, 1])
def test_a_long_answer_comes_in_blocks(make_bench: Any, first: int) -> None:
    bench = make_bench(frame_size=300, first_block=first, queue_limit=1)
    bench.run(15.0 * 10 + 1)
    bench.login()
    ask = access.GetRequestRecord(piid=P, record=GetRecord(oad=MINUTE, rsd=Rsd(0), rcsd=()))
    answers = [a for a in bench.ask(ask) if a.piid == P]
    got, times = [], 0
    (block,) = answers
    assert isinstance(block, access.GetResponseNext)
    while True:
        times += 1
        assert block.block == first + times - 1
        content: Any = block.content
        got += [row for record in content for row in record.table.rows]
        if block.last:
            break
        block = one(bench, access.GetRequestNext(piid=P, block=block.block))
    assert times > 3
    assert got == list(make_rows(bench))
    assert all(len(frame.raw) <= 302 for frame in bench.sent if frame.control == 0xC3)
    # The last again; a number that never was; the one before the last, because its answer was lost.
    assert one(bench, access.GetRequestNext(piid=P, block=first + 90)).content == Dar(14)
    again = one(bench, access.GetRequestNext(piid=P, block=block.block - 1))
    assert again == block


def make_rows(bench: Any) -> Any:
    wanted = GetRecord(oad=MINUTE, rsd=Rsd(0), rcsd=())
    return bench.terminal.services.objects.records(wanted).table.rows


def test_next_without_a_transfer(bench: Any) -> None:
    assert one(bench, access.GetRequestNext(piid=P, block=0)).content == Dar(11)


def test_the_same_answer_as_link_fragments(make_bench: Any) -> None:
    bench = make_bench(frame_size=300, big_answers="fragments", queue_limit=1)
    bench.run(15.0 * 10 + 1)
    bench.login()
    ask = access.GetRequestRecord(piid=P, record=GetRecord(oad=MINUTE, rsd=Rsd(0), rcsd=()))
    # The report in flight may share the line; it is another APDU.
    answers = [a for a in bench.ask(ask) if isinstance(a, access.GetResponseRecord)]
    assert [a.record.table.rows for a in answers] == [make_rows(bench)]


def test_time_tags_are_echoed(bench: Any) -> None:
    tag = TimeTag(date_time_s(int(START)), Ti(0, 60))
    answer = one(bench, access.GetRequestNormal(piid=P, oad=Oad(0x40010200), timetag=tag))
    assert answer.timetag == tag


def test_set(bench: Any) -> None:
    def put(oad: int, value: Data) -> int:
        return int(one(bench, access.SetRequestNormal(piid=P, oad=Oad(oad), value=value)).dar)

    clock = Data(Tag.DATE_TIME_S, date_time_s(int(START) + 86400))
    assert put(0x40000200, clock) == 0
    assert get(bench, 0x40000200).data == clock
    assert put(0x40000200, Data(Tag.BOOL, True)) == 7
    assert put(0x40000200, Data(Tag.DATE_TIME_S, b"\xff" * 7)) == 8
    assert put(0x40010200, Data(Tag.OCTET_STRING, b"x")) == 3
    assert put(0x99990200, NULL) == 4
    assert put(0x43000700, NULL) == 7
    settings = get(bench, 0x45000200).data
    changed = Data(Tag.STRUCTURE, (*settings.value[:-1], Data(Tag.LONG_UNSIGNED, 15)))
    assert put(0x45000200, Data(Tag.STRUCTURE, settings.value[1:])) == 7
    assert put(0x45000200, changed) == 0
    assert get(bench, 0x45000200).data == changed
    assert bench.terminal.body.heartbeat_s == 15


def test_set_list_and_set_then_get(bench: Any) -> None:
    clock, flag = Oad(0x40000200), Oad(0x301B0800)
    value = Data(Tag.DATE_TIME_S, date_time_s(int(START)))
    sets = (access.SetItem(oad=clock, value=value), access.SetItem(oad=flag, value=NULL))
    answer = one(bench, access.SetRequestNormalList(piid=P, sets=sets))
    assert [(r.oad, r.dar) for r in answer.results] == [(clock, 0), (flag, 7)]
    both = (access.SetThenGet(oad=flag, value=Data(Tag.ENUM, 1), get=flag, delay=0),)
    (result,) = one(bench, access.SetThenGetRequest(piid=P, sets=both)).results
    assert (result.dar, result.get.data) == (0, Data(Tag.ENUM, 1))


def test_action(bench: Any) -> None:
    def act(omd: int, param: Data = NULL) -> int:
        return int(one(bench, access.ActionRequestNormal(piid=P, omd=Omd(omd), param=param)).dar)

    assert act(0x40007F00, Data(Tag.DATE_TIME_S, date_time_s(int(START)))) == 0
    assert act(0x80008100) == 7
    assert act(0x80000200) == act(0x81037E00) == 6
    assert act(0x81067F00) == 7
    assert act(0x81060600) == act(0x81090600) == 4
    assert act(0x40000900) == 6
    stop = Data(Tag.STRUCTURE, (Data(Tag.UNSIGNED, 1), Data(Tag.ENUM, 2)))
    assert act(0x60128200, stop) == 0
    assert not bench.terminal.body.tasks[1].active
    (unit, *_) = get(bench, 0x60120200).data.value
    members = list(unit.value)
    members[1], members[8] = Data(Tag.TI, Ti(1, 30)), Data(Tag.ENUM, 1)
    assert act(0x60127F00, Data(Tag.ARRAY, (Data(Tag.STRUCTURE, tuple(members)),))) == 0
    assert (bench.terminal.body.tasks[1].active, bench.terminal.body.tasks[1].period) == (True, 1800)
    assert act(0x60127F00, NULL) == 7
    assert act(0x60128000, Data(Tag.ARRAY, (Data(Tag.UNSIGNED, 2),))) == 0
    assert act(0x60128100) == 0
    assert not any(task.active for task in bench.terminal.body.tasks.values())
    assert not bench.terminal.close_wanted
    assert act(0x43000100) == 0
    assert bench.terminal.close_wanted


def test_action_lists(bench: Any) -> None:
    items = (access.ActionItem(omd=Omd(0x80008100), param=NULL),)
    (result,) = one(bench, access.ActionRequestNormalList(piid=P, actions=items)).results
    assert (result.dar, result.data) == (7, None)
    both = (access.ActionThenGet(omd=Omd(0x80008100), param=NULL, get=Oad(0x40010200), delay=0),)
    (done,) = one(bench, access.ActionThenGetRequest(piid=P, actions=both)).results
    assert done.get.data.tag == Tag.OCTET_STRING


def test_proxy_reads_the_meters(bench: Any) -> None:
    oads = (Oad(0x00100200), Oad(0x40010200))
    targets = tuple(proxy.ProxyGet(tsa=tsa, timeout=0, items=oads) for tsa in (TSA[1], ABSENT))
    answer = one(bench, proxy.ProxyGetRequestList(piid=P, timeout=30, targets=targets))
    there, absent = answer.targets
    meter = bench.terminal.body.premises.meters[1]
    assert there.results[0].data == data_of(oads[0], meter.read(START + bench.now * 60))
    assert there.results[1].data.value == bytes.fromhex(METERS[1])
    assert [result.result for result in absent.results] == [Dar(33)] * 2
    record = GetRecord(oad=MINUTE, rsd=Rsd(9, last=2), rcsd=(NUMBER,))
    answer = one(bench, proxy.ProxyGetRequestRecord(piid=P, timeout=30, tsa=TSA[1], record=record))
    assert [row.columns[0].value for row in answer.record.table.rows] == [9]
    answer = one(bench, proxy.ProxyGetRequestRecord(piid=P, timeout=30, tsa=ABSENT, record=record))
    assert answer.record.result == Dar(33)


def test_proxy_writes_and_acts(bench: Any) -> None:
    value = Data(Tag.DATE_TIME_S, date_time_s(int(START)))
    clock, act = Oad(0x40000200), Omd(0x80008100)
    common: dict[str, Any] = {"tsa": TSA[0], "timeout": 0}
    sets = (access.SetItem(oad=clock, value=value), access.SetItem(oad=Oad(0x00100200), value=value))
    answer = one(bench, proxy.ProxySetRequestList(piid=P, timeout=9, targets=(proxy.ProxySet(items=sets, **common),)))
    assert [r.dar for r in answer.targets[0].results] == [0, 3]
    gets = (access.SetThenGet(oad=clock, value=value, get=clock, delay=0),)
    target: Any = proxy.ProxySetThenGet(items=gets, **common)
    answer = one(bench, proxy.ProxySetThenGetRequestList(piid=P, timeout=9, targets=(target,)))
    assert answer.targets[0].results[0].get.data.tag == Tag.DATE_TIME_S
    target = proxy.ProxyAction(items=(access.ActionItem(omd=act, param=NULL),), **common)
    answer = one(bench, proxy.ProxyActionRequestList(piid=P, timeout=9, targets=(target,)))
    assert answer.targets[0].results[0].dar == 4
    then = (access.ActionThenGet(omd=act, param=NULL, get=Oad(0x20000200), delay=0),)
    target = proxy.ProxyActionThenGet(items=then, **common)
    answer = one(bench, proxy.ProxyActionThenGetRequestList(piid=P, timeout=9, targets=(target,)))
    assert answer.targets[0].results[0].get.data.tag == Tag.ARRAY


def command_645(address: str, identifier: int) -> bytes:
    body = b"\x68" + bytes.fromhex(address)[::-1] + b"\x68\x11\x04"
    body += bytes((octet + 0x33) & 0xFF for octet in identifier.to_bytes(4, "little"))
    return b"\xfe\xfe\xfe\xfe" + body + bytes((sum(body) & 0xFF, 0x16))


def transparent(bench: Any, command: bytes) -> Any:
    request = proxy.ProxyTransCommandRequest(
        piid=P, port=Oad(0xF2010201), comdcb=Comdcb(3, 2, 8, 1, 0), rx_timeout=10, byte_timeout=100, command=command
    )
    return one(bench, request).result


def test_transparent_forwarding_reaches_a_645_meter(bench: Any) -> None:
    reading = bench.terminal.body.premises.meters[0].read(START + bench.now * 60)
    got = transparent(bench, command_645(METERS[0], 0x00010000))
    frame = got.lstrip(b"\xfe")
    assert frame[8:10] == b"\x91\x08"
    assert sum(frame[:-2]) & 0xFF == frame[-2]
    value = bytes((octet - 0x33) & 0xFF for octet in frame[14:18])[::-1].hex()
    assert int(value) == reading.energy_import[0]
    volts = transparent(bench, command_645(METERS[0], 0x02010100)).lstrip(b"\xfe")
    assert int(bytes((o - 0x33) & 0xFF for o in volts[14:16])[::-1].hex()) == reading.voltage[0]
    assert transparent(bench, command_645(METERS[0], 0x04000409)).lstrip(b"\xfe")[8:11] == b"\xd1\x01\x35"
    assert transparent(bench, command_645("AAAAAAAAAAAA", 0x00010000)) == got
    assert transparent(bench, command_645("999999999999", 0x00010000)) == Dar(33)
    assert transparent(bench, b"\x68\x11\x04\x33\x33\x34\x33\x16") == Dar(33)
    spoilt = bytearray(command_645(METERS[0], 0x00010000))
    spoilt[-2] ^= 1
    assert transparent(bench, bytes(spoilt)) == Dar(33)


def test_answers_wait_and_keep_their_order(make_bench: Any) -> None:
    bench = make_bench(answer_delay_s=0.1, proxy_delay_s=2.0, minute_s=1e6)
    bench.login()
    target = proxy.ProxyGet(tsa=TSA[0], timeout=0, items=(Oad(0x20000200),))
    assert bench.ask(proxy.ProxyGetRequestList(piid=P, timeout=30, targets=(target,))) == []
    assert bench.ask(access.GetRequestNormal(piid=Piid(6), oad=Oad(0x40010200))) == []
    assert bench.run(1.9) == []
    assert [a.piid for a in bench.run(2.1)] == [5, 6]


def test_protected_requests_are_answered_in_kind(bench: Any) -> None:
    inner = model.build(access.GetRequestNormal(piid=P, oad=Oad(0x40010200)))
    answer = one(bench, SecurityRequest(unit=Unit(PLAIN, inner), check=Check(1, bytes(16))))
    assert isinstance(answer, SecurityResponse)
    assert len(answer.mac or b"") == 4
    assert isinstance(answer.unit.content, bytes)
    assert model.parse(answer.unit.content).apdu.HEAD == b"\x85\x01"
    refused = one(bench, SecurityRequest(unit=Unit(1, b"secret"), check=Check(1, bytes(16))))
    assert refused.unit == Unit(REFUSED, Dar(22))
    broken = one(bench, SecurityRequest(unit=Unit(PLAIN, b"\x05\x01\x09"), check=Check(1, bytes(16))))
    assert model.parse(broken.unit.content).apdu == link.ServerError(piid=Piid(9), error=1)


def test_release(bench: Any) -> None:
    assert one(bench, link.ReleaseRequest(piid=P)).result == 0
    assert one(bench, access.GetRequestNormal(piid=P, oad=Oad(0x40010200))).piid == P
