"""Whatever the master sends, a terminal raises nothing, keeps its word on sizes, and stays usable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wire698 import access, model, proxy
from wire698.access import GetRecord
from wire698.values import ALL_METERS, NULL, Comdcb, Data, Oad, Omd, Piid, RangeSelector, Road, Rsd, Tag

P = Piid(1)
TIME = Data(Tag.DATE_TIME_S, bytes.fromhex("07EA0302080000"))
RECORDS = [
    GetRecord(oad=Oad(0x60120300), rsd=Rsd(10, last=5, meters=ALL_METERS), rcsd=(Road(Oad(0x50020200), ()),)),
    GetRecord(oad=Oad(0x50020200), rsd=Rsd(9, last=3), rcsd=()),
    GetRecord(
        oad=Oad(0x50020200),
        rsd=Rsd(2, ranges=(RangeSelector(Oad(0x20210200), TIME, TIME, NULL),)),
        rcsd=(Oad(0x20210200), Oad(0x00100200)),
    ),
]
REQUESTS = [
    model.build(apdu)
    for apdu in (
        access.GetRequestNormal(piid=P, oad=Oad(0x40010200)),
        access.GetRequestNormalList(piid=P, oads=(Oad(0x20000200), Oad(0x60120200))),
        *(access.GetRequestRecord(piid=P, record=record) for record in RECORDS),
        access.GetRequestNext(piid=P, block=1),
        access.GetRequestMd5(piid=P, oad=Oad(0x60000200)),
        access.SetRequestNormal(piid=P, oad=Oad(0x40000200), value=TIME),
        access.ActionRequestNormal(piid=P, omd=Omd(0x60127F00), param=Data(Tag.ARRAY, (TIME,))),
        access.ReportResponseRecordList(piid=P, oads=(Oad(0x60120300),)),
        proxy.ProxyGetRequestRecord(piid=P, timeout=1, tsa=b"\x05\x50\x00\x00\x00\x00\x01", record=RECORDS[1]),
        proxy.ProxyTransCommandRequest(
            piid=P,
            port=Oad(0xF2010201),
            comdcb=Comdcb(3, 2, 8, 1, 0),
            rx_timeout=1,
            byte_timeout=1,
            command=bytes.fromhex("68AAAAAAAAAAAA68110433333433AE16"),
        ),
    )
]


def usable(bench: Any) -> None:
    said = bench.ask(access.GetRequestNormal(piid=Piid(9), oad=Oad(0x40010200)))
    assert [a.result.data.value.hex() for a in said if a.piid == 9] == ["100000000001"]


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spoilt_requests(make_bench: Any, data: st.DataObject) -> None:
    bench = make_bench(frame_size=200, big_answers=data.draw(st.sampled_from(["blocks", "fragments"])))
    bench.run(61.0)
    bench.login()
    for _ in range(data.draw(st.integers(1, 4))):
        octets = bytearray(data.draw(st.sampled_from(REQUESTS)))
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(octets) - 1))
            octets[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 9, 10, 0xFF])))
        bench.take(bench.feed_raw(0x43, bytes(octets)))
        bench.now += 0.1
    usable(bench)
    assert all(len(frame.raw) <= 202 for frame in bench.sent)


@given(octets=st.binary(max_size=60), control=st.integers(0, 255))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_octets_under_any_control(make_bench: Any, octets: bytes, control: int) -> None:
    bench = make_bench()
    bench.login()
    bench.feed_raw(control & 0xF7, octets)
    bench.now += 0.1
    bench.tick()
    bench.terminal.disconnected()
    bench.login()
    usable(bench)


@pytest.mark.parametrize("octets", REQUESTS, ids=[octets[:2].hex() for octets in REQUESTS])
def test_every_request_of_these_is_answered_as_it_stands(make_bench: Any, octets: bytes) -> None:
    bench = make_bench(queue_limit=1)
    bench.run(61.0)
    bench.login()
    bench.sent.clear()
    said = bench.take(bench.feed_raw(0x43, octets))
    answers = [apdu for apdu in said if apdu.HEAD[0] == octets[0] | 0x80]
    assert len(answers) == (0 if octets[0] == 0x08 else 1)
