"""The fleet over TCP against a small master: with every fault of the line on, every report arrives."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from simulators.fleet import Fleet, Options, Summary
from simulators.scenario import Scenario, parse
from simulators.truth import Truth
from wire698 import access, link, model
from wire698.frame import ACK, Frame, Framer, Reassembler, build_frame, parse_fragment
from wire698.security import SecurityRequest


class Links(Counter[tuple[str, int]]):
    """LINK-Requests that came, by terminal and type."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def came(self, address: str, kind: int) -> None:
        self[address, kind] += 1
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def reached(self, count: int) -> None:
        """So many different requests have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self) >= count)


class Master(asyncio.Protocol):
    """Logs in whoever calls, acknowledges every report, and keeps what it acknowledged."""

    def __init__(self, seen: list[Any], linked: Links, refuse: int = 0) -> None:
        self.seen = seen
        self.linked = linked
        self.refuse = refuse
        self.framer = Framer()
        self.pieces = Reassembler(1 << 20)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for item in self.framer.feed(data):
            if not isinstance(item, Frame):
                continue
            apdu: bytes | None = item.data
            if item.is_fragment:
                fragment = parse_fragment(item.data)
                if fragment.kind == ACK:
                    continue
                ack, apdu, _ = self.pieces.feed(fragment)
                if ack is not None:
                    self.write(0x23, item, ack)
            if apdu is not None:
                self.take(item, apdu)

    def take(self, frame: Frame, octets: bytes) -> None:
        apdu: Any = model.parse(octets).apdu
        if isinstance(apdu, SecurityRequest):
            apdu = model.parse(model.inner_of(apdu) or b"").apdu
        if isinstance(apdu, link.LinkRequest):
            self.linked.came(frame.address.text, apdu.type)
            times = {"request": apdu.time, "received": apdu.time, "response": apdu.time}
            response = link.LinkResponse(piid=apdu.piid, result=0x80 | self.refuse, **times)
            self.write(0x01, frame, model.build(response))
            if apdu.type == link.LOGOUT:
                self.transport.close()
            return
        kind: Any = access.ReportResponseRecordList
        results: Any = getattr(apdu, "records", None)
        if results is None:
            kind, results = access.ReportResponseList, apdu.results
        self.seen.append((frame.address.text, apdu))
        oads = tuple(result.oad for result in results)
        self.write(0x03, frame, model.build(kind(piid=apdu.piid, oads=oads)))

    def write(self, control: int, frame: Frame, data: bytes) -> None:
        self.transport.write(build_frame(control, frame.address, 0x10, data))


@asynccontextmanager
async def master(refuse: int = 0) -> AsyncIterator[tuple[int, list[Any], Links]]:
    seen: list[Any] = []
    linked = Links()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Master(seen, linked, refuse), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen, linked


def rows_of(seen: list[Any]) -> set[tuple[str, int, int]]:
    """(meter, number of the second, total energy register) of every curve row that arrived."""
    rows = set()
    for _, apdu in seen:
        for record in getattr(apdu, "records", ()):
            if record.oad == 0x60120300:
                for row in record.table.rows:
                    cells = row.columns
                    rows.add((cells[0].value[1:].hex(), cells[1].value, cells[4].value[0].value))
    return rows


async def run(scenario: Scenario, port: int, *, truth: Truth | None = None, **options: Any) -> tuple[Fleet, Summary]:
    fleet = Fleet(Options(host="127.0.0.1", port=port, scenario=scenario, **options), truth=truth)
    async with asyncio.timeout(50):
        return fleet, await fleet.run()


FAULTY = parse(
    """
    seed = 5
    [fleet]
    terminals = 12
    meters = 2
    frame_size = 180
    protected = 0.3
    login_timeout_s = 0.3
    retry_s = 0.3
    rest_s = 0.5
    backoff_s = 0.02
    backoff_limit_s = 0.05
    [time]
    start = 2026-03-02T09:00:00
    speed = 600
    [tasks]
    minute_s = 60
    spread_s = 0
    [line]
    split = 0.2
    merge = 0.1
    bad_checksum = 0.05
    duplicate = 0.05
    delay = 0.05
    delay_s = 0.02
    garbage = 0.1
    disconnect = 0.02
    lose = 0.03
    lose_answer = 0.03
    [[event]]
    kind = "voltage_loss"
    at_s = 120
    duration_s = 240
    terminals = [1, 2, 3, 4, 5, 6]
    [[event]]
    kind = "power_off"
    at_s = 300
    duration_s = 200
    terminals = [7]
    [[fault]]
    at_s = 200
    disconnect = true
    clock_step_s = 30
    clock_drift_ppm = 50
    terminals = [8]
    """
)


async def test_every_report_arrives_over_a_bad_line() -> None:
    async with master() as (port, seen, _):
        fleet, summary = await run(FAULTY, port, reports_per_terminal=12, drain_s=30.0)
    assert summary.complete, summary
    assert summary.reports == summary.acknowledged == 12 * 12
    assert summary.retries > 0
    assert summary.connections > 12
    assert {"split", "merge", "bad_checksum", "garbage", "disconnect", "lose", "clock_step"} <= set(summary.faults)
    told = {
        (row.meter, row.time, row.values["active_energy_import.total"])
        for report in fleet.truth.reports
        if report.kind == "task"
        for row in report.rows
    }
    assert len(rows_of(seen)) == len(told)
    assert {(meter, energy / 100) for meter, _, energy in rows_of(seen)} == {
        (meter, energy) for meter, _, energy in told
    }
    events = [r for r in fleet.truth.reports if r.kind == "event"]
    assert {r.series for r in events} == {"voltage_loss", "power_off"}
    assert all(r.acknowledged is not None for r in fleet.truth.reports)


async def test_a_clean_run_needs_no_retry_and_logs_out() -> None:
    scenario = parse("[fleet]\nterminals = 30\n[time]\nspeed = 300\n[tasks]\nminute_s = 60\nspread_s = 0")
    file = io.StringIO()
    async with master() as (port, seen, linked):
        _, summary = await run(scenario, port, truth=Truth(keep=False, file=file), rate=200.0, reports_per_terminal=3)
    assert summary.complete
    assert (summary.retries, summary.garbage, summary.logins) == (0, 0, 30)
    assert summary.acknowledged == len(seen) == 90
    assert sum(count for (_, kind), count in linked.items() if kind == link.LOGOUT) == 30
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert {line["acknowledged"] for line in lines if "acknowledged" in line} == set(range(1, 91))
    first = next(line["report"] for line in lines if "report" in line)
    assert first["terminal"].startswith("1000000000")
    assert first["rows"][0]["values"]["voltage.a"] > 200


async def test_it_ends_by_time_and_says_what_is_missing() -> None:
    scenario = parse("[time]\nspeed = 600\n[fleet]\nterminals = 2\nbackoff_s = 0.02\n[tasks]\nminute_s = 60")
    async with master() as (port, _, _):
        pass
    _, summary = await run(scenario, port, duration_s=0.5, drain_s=0.1)
    assert not summary.complete
    assert summary.unacknowledged == summary.reports > 0
    assert summary.connections == 0


async def test_it_ends_by_the_stop_event() -> None:
    async with master() as (port, _, linked):
        options = Options(host="127.0.0.1", port=port, scenario=parse("[fleet]\nterminals = 3"))
        fleet, stop = Fleet(options), asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(fleet.run(stop))
            await linked.reached(3)
            stop.set()
        assert running.result().complete
        assert sum(kind == link.LOGIN for _, kind in linked) == 3
        assert fleet.counters.online == 0


async def test_refused_terminals_come_back_slowly() -> None:
    scenario = parse("[fleet]\nterminals = 2\nbackoff_s = 0.05\nbackoff_limit_s = 0.2")
    async with master(refuse=2) as (port, seen, linked):
        fleet, summary = await run(scenario, port, duration_s=0.6, drain_s=0.1)
    assert seen == []
    assert summary.logins == 0
    assert 4 <= fleet.counters.refused_logins == sum(linked.values()) <= 26


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_truth_repeats_with_the_seed(seed: int) -> None:
    text = f"seed = {seed}\n[fleet]\nterminals = 3\n[time]\nspeed = 600\nstart = 2026-03-02T09:00:00\n"
    values = []
    for _ in range(2):
        async with master() as (port, _, _):
            fleet, _ = await run(parse(text + "[tasks]\nminute_s = 60"), port, reports_per_terminal=2)
        values.append(
            {(r.terminal, row.meter, row.time, str(row.values)) for r in fleet.truth.reports for row in r.rows}
        )
    assert values[0] == values[1]
