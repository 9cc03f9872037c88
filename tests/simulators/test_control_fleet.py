"""Load control over TCP: a trip makes the reported power fall, a close lets it come back; the truth tells of both."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from simulators.fleet import Fleet, Options
from simulators.scenario import parse
from simulators.truth import Truth
from wire698 import access, link, model
from wire698.frame import Frame, Framer, build_frame
from wire698.security import SecurityRequest

TRIP = bytes.fromhex("0701068000810001010204 51F2050201 1100 120000 0300 00")
CLOSE = bytes.fromhex("0701078000820001010202 51F2050201 1601 00")
GUARANTEE_ON = bytes.fromhex("070105 80017F00 00 00")
MESSAGE = bytes.fromhex("070109 80047F00 0203 1107 1C07EA0302080000 0A08 C3F7CCECCDA3B5E7 00")


class Master(asyncio.Protocol):
    """Logs terminals in, acknowledges their reports, sends what the test wants and keeps what it hears."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.framer = Framer()
        self.frame: Frame | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for frame in self.framer.feed(data):
            if isinstance(frame, Frame):
                self.frame = frame
                self.take(frame.address.text, frame.data)

    def take(self, terminal: str, octets: bytes) -> None:
        apdu: Any = model.parse(octets).apdu
        if isinstance(apdu, SecurityRequest):
            apdu = model.parse(model.inner_of(apdu) or b"").apdu
        if isinstance(apdu, link.LinkRequest):
            times = {"request": apdu.time, "received": apdu.time, "response": apdu.time}
            self.write(0x01, model.build(link.LinkResponse(piid=apdu.piid, result=0x80, **times)))
            self.desk.lines[terminal] = self
            if apdu.type == link.LOGOUT:
                self.transport.close()
        elif isinstance(apdu, access.ReportNotificationRecordList):
            oads = tuple(record.oad for record in apdu.records)
            self.write(0x03, model.build(access.ReportResponseRecordList(piid=apdu.piid, oads=oads)))
        self.desk.heard.append((terminal, apdu))
        self.desk.news.set()

    def write(self, control: int, data: bytes) -> None:
        assert self.frame is not None
        self.transport.write(build_frame(control, self.frame.address, 0x10, data))


class Desk:
    """What a master knows: lines by terminal, and all that was heard."""

    def __init__(self) -> None:
        self.lines: dict[str, Master] = {}
        self.heard: list[tuple[str, Any]] = []
        self.news = asyncio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                self.news.clear()
                await self.news.wait()

    def send(self, terminal: str, apdu: bytes) -> None:
        self.lines[terminal].write(0x43, apdu)

    def answers(self, terminal: str) -> list[Any]:
        kinds = access.ActionResponseNormal | access.GetResponseNormal
        return [apdu for who, apdu in self.heard if who == terminal and isinstance(apdu, kinds)]

    async def ask(self, terminal: str, apdu: bytes) -> Any:
        had = len(self.answers(terminal))
        self.send(terminal, apdu)
        await self.until(lambda: len(self.answers(terminal)) > had)
        return self.answers(terminal)[-1]

    def powers(self, terminal: str) -> list[int]:
        """Total active power (0.1 W) of the first meter in each curve row reported, the oldest first."""
        return [
            report.records[0].table.rows[0].columns[-2].value[0].value
            for who, report in self.heard
            if who == terminal
            and isinstance(report, access.ReportNotificationRecordList)
            and report.records[0].oad == 0x60120300
        ]

    def events(self, terminal: str, oad: int) -> list[Any]:
        return [
            report.records[0].table.rows[0].columns
            for who, report in self.heard
            if who == terminal
            and isinstance(report, access.ReportNotificationRecordList)
            and report.records[0].oad == oad
        ]


@asynccontextmanager
async def running(text: str, truth: Truth | None = None) -> AsyncIterator[tuple[Desk, Fleet]]:
    desk, loop = Desk(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Master(desk), "127.0.0.1", 0)
    async with server, asyncio.timeout(50), asyncio.TaskGroup() as tasks:
        options = Options(host="127.0.0.1", port=server.sockets[0].getsockname()[1], scenario=parse(text))
        fleet, stop = Fleet(options, truth=truth), asyncio.Event()
        task = tasks.create_task(fleet.run(stop))
        try:
            await desk.until(lambda: len(desk.lines) == len(fleet.settings))
            yield desk, fleet
        finally:
            stop.set()
        await task


FAST = """
[fleet]
terminals = 3
meters = 1
kinds = { factory = 1.0 }
protected = 0.0
array_events = 0.0
structure_events = 0.0
[time]
start = 2026-03-02T09:30:00
speed = 300
[tasks]
minute_s = 60
spread_s = 0
[[quirk]]
relay_shares = [0.8, 0.2]
"""


async def test_a_trip_makes_the_reported_power_fall_and_a_close_brings_it_back() -> None:
    async with running(FAST) as (desk, fleet):
        one, other, _ = desk.lines
        await desk.until(lambda: len(desk.powers(one)) >= 3)
        assert (await desk.ask(one, TRIP)).dar == 0
        before = desk.powers(one)[-1]
        await desk.until(lambda: desk.powers(one)[-1] < 0.5 * before)
        assert desk.powers(one)[-1] == pytest.approx(0.2 * before, rel=0.25)
        assert desk.powers(other)[-1] > 0.5 * desk.powers(other)[0]
        await desk.until(lambda: bool(desk.events(one, 0x31150200)))
        assert (await desk.ask(one, CLOSE)).dar == 0
        await desk.until(lambda: desk.powers(one)[-1] > 0.5 * before)
    truth = fleet.truth
    assert [(c.terminal, c.omd, c.piid, c.accepted) for c in truth.controls] == [
        (one, "80008100", 6, True),
        (one, "80008200", 7, True),
    ]
    opened, closed = truth.switches
    assert (opened.terminal, opened.is_open, closed.is_open) == (one, True, False)
    assert opened.after_kw == pytest.approx(0.2 * opened.before_kw, rel=1e-3)
    assert closed.before_kw == pytest.approx(0.2 * closed.after_kw, rel=1e-3)
    (event,) = desk.events(one, 0x31150200)
    assert event[3].value == 0xF2050201
    # Two minutes after the trip the group had what the truth says it fell to, but for the drift of a factory's load.
    assert event[5].value[0].value / 10_000 == pytest.approx(opened.after_kw, rel=0.25)
    told = [r.event for r in truth.reports if r.kind == "event"]
    assert [e["event"] for e in told if e is not None] == ["remote_trip"]


async def test_quirks_of_a_fleet() -> None:
    quirks = FAST + "[[quirk]]\nterminals = [2]\nsilent = true\n[[quirk]]\nterminals = [3]\nround_bits_lsb_first = true"
    async with running(quirks) as (desk, fleet):
        one, silent, reversed_ = sorted(desk.lines)
        desk.send(silent, TRIP)
        for terminal in (one, reversed_):
            assert (await desk.ask(terminal, TRIP)).dar == 0
        got = {}
        for terminal in (one, reversed_):
            answer = await desk.ask(terminal, bytes.fromhex("050108 80000500 00"))
            got[terminal] = answer.result.data.value.octets
        assert got == {one: b"\x80", reversed_: b"\x01"}
    assert {c.terminal for c in fleet.truth.controls} == {one, reversed_}
    assert fleet.counters.ignored == 1
    assert desk.answers(silent) == []


async def test_the_truth_is_written_and_watched() -> None:
    file = io.StringIO()
    seen: list[Any] = []
    truth = Truth(keep=False, file=file, watch=seen.append)
    async with running(FAST, truth) as (desk, _):
        one = min(desk.lines)
        for request in (TRIP, MESSAGE, GUARANTEE_ON):
            assert (await desk.ask(one, request)).dar == 0
        async with asyncio.timeout(20):
            while not any(getattr(entry, "kind", None) == "guarantee" for entry in seen):
                desk.news.clear()
                await desk.news.wait()
    names = [type(entry).__name__ for entry in seen]
    assert names.count("TrueControl") == truth.executed == 3
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    told = [line["message"]["text"] for line in lines if "message" in line]
    assert "明天停电" in told
    assert [line["control"]["omd"] for line in lines if "control" in line] == ["80008100", "80047F00", "80017F00"]
    assert not truth.controls
    assert not truth.switches
    assert not truth.messages
