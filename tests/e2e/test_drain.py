"""SIGTERM: accept no more, settle what is committed, publish, say `offline`, exit 0, within bounds."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from e2e_parts import LOOPBACK, Node, Peer, Watched, consuming, fleet_through
from terminal_side import dated, login

from simulators.scenario import parse

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

SCENARIO = parse(
    """
    seed = 8
    [fleet]
    terminals = 40
    backoff_s = 0.05
    backoff_limit_s = 0.2
    [time]
    speed = 600
    start = 2026-03-02T09:00:00
    """
)


async def test_it_drains_under_load(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    node = make_node(url=broker.url)
    truth, stop = Watched(), asyncio.Event()
    await node.start()
    async with consuming(broker) as consumer, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            fleet_through(node.port, SCENARIO, truth=truth, rate=300.0, duration_s=60.0, drain_s=0.0, stop=stop)
        )
        await truth.more(200)
        assert consumer.statuses == ["online"]
        began = time.monotonic()
        node.terminate()
        assert await node.ended(10.0) == 0
        assert time.monotonic() - began < 5.0
        stop.set()
        await running
        acknowledged = [report for report in truth.reports if report.acknowledged is not None]
        await consumer.said("online", "offline")
        # `offline` is the last thing said: what was acknowledged stands before it.
        assert consumer.tally.judge(acknowledged).missing == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(LOOPBACK, node.port)
    assert [line["event"] for line in node.log if line["event"] in {"draining", "drained"}] == ["draining", "drained"]


async def test_without_a_broker_it_ends_in_time_and_publishes_at_the_next_start(
    broker: Mosquitto, make_node: Callable[..., Node]
) -> None:
    node = make_node(url=broker.url, mqtt__drain_timeout_s=0.5)
    await node.start()
    broker.stop()
    async with Peer.on(node.port) as peer:
        await peer.ask(login(), 0x81)
        for energy in range(20):
            await peer.ask(dated(energy=energy))
        began = time.monotonic()
        node.terminate()
        await peer.closed()
        assert await node.ended(10.0) == 0
        assert 0.4 < time.monotonic() - began < 5.0
    assert any(line["event"] == "stopped with rows unpublished" for line in node.log)
    broker.start()
    async with consuming(broker) as consumer:
        await node.start()
        await consumer.until(lambda: len(consumer.readings) == 20)
        assert [reading.rows[0][2] for reading in consumer.readings] == [energy / 100 for energy in range(20)]


@pytest.mark.parametrize("then", ["freeze", "kill"])
async def test_a_broker_that_is_ill_does_not_keep_it_from_ending(
    broker: Mosquitto, make_node: Callable[..., Node], then: str
) -> None:
    """The goodbye to a frozen broker is not answered; one that dies in the middle of it answers with an error."""
    node = make_node(url=broker.url, mqtt__drain_timeout_s=0.5)
    await node.start()
    async with Peer.on(node.port) as peer:
        await peer.ask(login(), 0x81)
        os.kill(broker.pid, signal.SIGSTOP)
        await peer.ask(dated())
        node.terminate()
        await node.logged("draining")
        await peer.closed()
        if then == "kill":
            broker.stop(kill=True)
        assert await node.ended(12.0) == 0
    broker.stop(kill=True)


async def test_the_will_says_offline_after_a_kill(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    node = make_node(url=broker.url)
    async with consuming(broker) as consumer:
        await node.start()
        await consumer.said("online")
        await node.kill()
        await consumer.said("online", "offline")
    async with consuming(broker) as later:
        await later.said("offline")  # retained
