"""One conversation over many bad transports: every report arrives, once in effect, with its values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from e2e_parts import consuming, fleet_through, metric, running, settings_of

from gateway.link import Link
from protocols.events import Moment
from simulators.faults import Chunk, FaultyLine, LineFaults
from simulators.fleet import Fleet, Station
from simulators.scenario import Scenario, parse

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

TERMINALS, REPORTS = 10, 5
SCENARIO = parse(
    f"""
    seed = 3
    [fleet]
    terminals = {TERMINALS}
    meters = 3
    frame_size = 256
    protected = 0.2
    scrambled = 0.2
    login_timeout_s = 0.3
    retry_s = 0.3
    rest_s = 0.3
    backoff_s = 0.02
    backoff_limit_s = 0.05
    [time]
    start = 2026-03-02T09:00:00
    speed = 600
    [tasks]
    minute_s = 120
    spread_s = 0
    [[event]]
    kind = "voltage_loss"
    at_s = 120
    duration_s = 240
    """
)
EVERYTHING = LineFaults(
    split=0.3,
    merge=0.2,
    bad_checksum=0.1,
    duplicate=0.2,
    delay=0.1,
    delay_s=0.05,
    garbage=0.3,
    disconnect=0.05,
    lose=0.05,
    lose_answer=0.1,
)
TRANSPORTS = {
    "whole": LineFaults(),
    "split-anywhere": LineFaults(split=1.0),
    "merged": LineFaults(merge=0.7),
    "garbage-between": LineFaults(garbage=0.8),
    "bad-checksums": LineFaults(bad_checksum=0.2),
    "duplicates": LineFaults(duplicate=0.8),
    "delayed": LineFaults(delay=0.5, delay_s=0.1),
    "cut": LineFaults(disconnect=0.15),
    "lossy-both-ways": LineFaults(lose=0.15, lose_answer=0.15),
    "everything": EVERYTHING,
}
FAULT_OF = {
    "split-anywhere": "split",
    "merged": "merge",
    "garbage-between": "garbage",
    "bad-checksums": "bad_checksum",
    "duplicates": "duplicate",
    "delayed": "delay",
    "cut": "disconnect",
    "lossy-both-ways": "lose_answer",
}


class OctetLine(FaultyLine):
    """Writes one octet at a time."""

    def out(self, frames: list[bytes]) -> list[Chunk]:
        return [Chunk(0.0002, bytes((octet,))) for frame in frames for octet in frame]


class OctetFleet(Fleet):
    def _station(self, *given: object) -> Station:
        station = super()._station(*given)  # type: ignore[arg-type]
        station.line = OctetLine(LineFaults(), 1, self.counters)
        return station


async def told_over(
    broker: Mosquitto, directory: Path, scenario: Scenario, make: type[Fleet] = Fleet
) -> tuple[Fleet, dict[str, float]]:
    """A fleet's reports over a transport; checks what came, and returns what the gateway counted."""
    settings = settings_of(directory, broker.url, {"protocol.fragment_timeout_s": 0.5})
    async with running(settings) as gateway, consuming(broker) as consumer:
        fleet, summary = await fleet_through(
            gateway.channels[0].port, scenario, make=make, reports_per_terminal=REPORTS, drain_s=40.0
        )
        assert summary.complete
        assert summary.acknowledged == TERMINALS * REPORTS
        reports = fleet.truth.reports
        await consumer.all_of(reports)
        counted = {
            name: metric(gateway, f"loadgate_frames_{name}_total")
            for name in ("frames_in", "octets_in", "garbage_octets", "header_errors", "frame_errors")
        }
        counted["repeated"] = gateway.channels[0].context.counters.warnings.get("report-repeated", 0)
    assert {r.kind for r in reports} == {"task", "event"}
    assert consumer.doubled() == []
    return fleet, counted


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_every_report_arrives_once_in_effect(broker: Mosquitto, tmp_path: Path, name: str) -> None:
    faults = TRANSPORTS[name]
    fleet, counted = await told_over(broker, tmp_path, msgspec.structs.replace(SCENARIO, line=faults))
    if name in FAULT_OF:
        assert fleet.counters.faults[FAULT_OF[name]] >= 5
    if name == "everything":
        assert {"split", "merge", "bad_checksum", "duplicate", "garbage", "lose_answer"} <= set(fleet.counters.faults)
    if faults.garbage or faults.bad_checksum:
        assert counted["garbage_octets"] > 0
    if faults.bad_checksum:
        assert counted["header_errors"] + counted["frame_errors"] > 0
    if faults.duplicate or faults.lose_answer:
        assert counted["repeated"] > 0
    if faults.disconnect:
        assert fleet.counters.connections > TERMINALS


async def test_one_octet_at_a_time(broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received, pieces = Link.received, Counter[int]()

    def counted_received(link: Link, octets: bytes, moment: Moment) -> None:
        pieces[len(octets)] += 1
        received(link, octets, moment)

    monkeypatch.setattr(Link, "received", counted_received)
    _, counted = await told_over(broker, tmp_path, SCENARIO, OctetFleet)
    assert counted["garbage_octets"] == 0
    assert counted["frames_in"] > TERMINALS * REPORTS
    assert pieces[1] > 0.5 * pieces.total() > 1000
