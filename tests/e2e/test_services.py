"""What a running gateway offers besides its road: replay over MQTT, probes, `loadgate watch`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e_parts import LOOPBACK, Node, Peer, consuming, metric, running, settings_of, until
from terminal_side import TERMINAL, dated, login

from messages import ReplayRequest, Topics, encode

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto


async def test_a_consumer_that_came_late_asks_for_what_it_missed(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url)
    async with running(settings) as gateway, Peer.on(gateway.channels[0].port) as peer:
        assert gateway.uplink is not None
        uplink = gateway.uplink
        await peer.ask(login(), 0x81)
        for energy in range(20):
            await peer.ask(dated(energy=energy))
        await until(lambda: uplink.idle)
        async with consuming(broker) as consumer, broker.collect("#") as collected:
            for energy in range(20, 25):
                await peer.ask(dated(energy=energy))
            await consumer.until(lambda: len(consumer.readings) == 5)
            (gap,) = consumer.gaps(max(consumer.seqs))
            assert gap == (2, 21)  # the retained State is row 1
            await consumer.ask(*gap)
            await consumer.until(lambda: len(consumer.readings) == 25)
            assert consumer.gaps(26) == []
            assert sorted(r.rows[0][2] for r in consumer.readings) == [n / 100 for n in range(25)]  # type: ignore[type-var]
            assert consumer.tally.repeated == 0
            # Twice asked is twice sent, with the same ids; and what is refused is counted.
            await consumer.ask(2, 3)
            await consumer.until(lambda: consumer.tally.repeated == 2)
            await consumer.ask(5, 1_000)
            await consumer.until(lambda: consumer.tally.repeated == 24)
            await consumer.ask(900, 1_000)
            await until(lambda: metric(gateway, "loadgate_uplink_replay_refused_total") == 1)
            assert metric(gateway, "loadgate_uplink_replayed_total") == 44
            assert not any(m.retain for m in collected.messages if m.topic.value.endswith("/reading"))


async def test_a_replay_request_that_cannot_be_read_hurts_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    topic = Topics().replay("n1")
    async with running(settings_of(tmp_path, broker.url)) as gateway, consuming(broker) as consumer:
        assert consumer._client is not None
        await until(lambda: metric(gateway, "loadgate_downlink_connected") == 1)
        await until(lambda: gateway.uplink is not None and gateway.uplink.publisher.connected)
        for payload in (b"", b"{", b"\xc1", b'{"v":2}', encode(ReplayRequest(from_seq=5, to_seq=2))):
            await consumer._client.publish(topic, payload, qos=1)
        await until(lambda: metric(gateway, "loadgate_downlink_acknowledged_total") == 5)
        assert metric(gateway, "loadgate_downlink_failed_total") >= 4
        async with Peer.on(gateway.channels[0].port) as peer:
            await peer.ask(login(), 0x81)
            await peer.ask(dated())
            await consumer.until(lambda: consumer.readings)


async def test_probes_of_a_running_gateway(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    node = make_node(url=broker.url)
    await node.start()
    async with Peer.on(node.port) as peer:
        await peer.ask(login(), 0x81)
        await peer.ask(dated())
        for path in ("/healthz", "/readyz"):
            status, body = await node.get(path)
            assert (status, json.loads(body)) == (200, {"ok": True, "reasons": []})
        status, page = await node.get("/metrics")
        assert status == 200
        assert await node.metric("loadgate_sessions_known") == 1
        assert await node.metric("loadgate_tcp_connections", channel="tcp") == 1
        assert await node.metric("loadgate_messages_total", kind="readings") == 1
        assert await node.metric("loadgate_frames_frames_in_total", channel="tcp") == 2
        assert await node.metric("loadgate_acknowledgement_seconds_count", channel="tcp") == 1
        assert await node.metric("process_resident_memory_bytes") > 1e6
        # Low cardinality: nothing names a terminal.
        assert TERMINAL not in page
        assert (await node.get("/nothing"))[0] == 404
    node.terminate()
    assert await node.ended() == 0


async def watch(broker: Mosquitto, *arguments: str, count: int = 2) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "watch", *arguments, "--mqtt", broker.url, "--count", str(count)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> list[str]:
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode().splitlines()


@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_watch_prints_messages_decoded(broker: Mosquitto, tmp_path: Path, form: str) -> None:
    """`watch` subscribes at a moment of its own; the first it is sure to see are the two retained messages."""
    settings = settings_of(tmp_path, broker.url, {"mqtt.format": form})
    async with running(settings) as gateway, Peer.on(gateway.channels[0].port) as peer:
        await peer.ask(login(), 0x81)
        assert gateway.uplink is not None
        uplink = gateway.uplink
        await until(lambda: uplink.idle)
        text, raw, one = await asyncio.gather(
            watch(broker), watch(broker, "--json"), watch(broker, TERMINAL, "--json", count=3)
        )
        finished = asyncio.gather(*(ended(process) for process in (text, raw, one)))
        energy = 0
        while not finished.done():
            # Readings go on until the one that waits for three messages of this terminal has them.
            await peer.ask(dated(energy=energy))
            energy += 1
        lines, objects, of_one = await finished
    assert any(f"{TERMINAL}  state     online (login) 127.0.0.1:" in line for line in lines)
    assert any("n1  status" in line and '"status": "online"' in line for line in lines)
    decoded = [json.loads(line) for line in objects]
    assert {entry["topic"].rsplit("/", 1)[-1] for entry in decoded} == {"state", "status"}
    said: list[dict[str, Any]] = [json.loads(line) for line in of_one]
    assert [entry["topic"].rsplit("/", 1)[-1] for entry in said] == ["state", "reading", "reading"]
    reading = said[1]["message"]
    assert reading["terminal"] == TERMINAL
    assert reading["columns"][0] == {
        "name": "active_energy_import.total",
        "unit": "kWh",
        "scale": -2,
        "oad": "00100201",
    }


async def test_watch_without_a_broker_says_so() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "watch", "--mqtt", f"mqtt://{LOOPBACK}:1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"Does the broker run there?" in err
    assert b"Traceback" not in err
