"""kill -9 of the gateway and of the broker under load: what was acknowledged to a terminal comes on MQTT."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from e2e_parts import Consumer, Node, Peer, Watched, consuming, fleet_through
from terminal_side import dated, login

from messages import Reading
from simulators.scenario import Scenario, parse

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

RATE = 500.0


def scenario(terminals: int = 40) -> Scenario:
    return parse(
        f"""
        seed = 21
        [fleet]
        terminals = {terminals}
        meters = 2
        login_timeout_s = 1
        retry_s = 1
        rest_s = 1
        backoff_s = 0.05
        backoff_limit_s = 0.2
        queue_limit = 5000
        [time]
        start = 2026-03-02T09:00:00
        speed = 600
        [tasks]
        spread_s = 0
        [[event]]
        kind = "voltage_loss"
        at_s = 300
        duration_s = 900
        """
    )


async def filled(consumer: Consumer, node: Node, truth: Watched) -> None:
    """Wait until all that was acknowledged has come; ask for gaps as a consumer must."""
    last = int(await node.metric("loadgate_journal_rows_total"))
    assert last >= truth.made
    async with asyncio.timeout(20):
        while consumer.gaps(last):
            # A request is lost where the gateway has not subscribed yet at a broker that is new; so it is repeated.
            for first, end in consumer.gaps(last):
                await consumer.ask(first, end)
            with suppress(TimeoutError):
                await consumer.until(lambda: not consumer.gaps(last), 1.0)
    assert truth.unacknowledged == 0
    await consumer.all_of(truth.reports)
    assert consumer.doubled() == []


async def test_the_gateway_is_killed_under_load(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    """Four times; what had been acknowledged by the moment of the kill comes too, or came before, with the same id."""
    node = make_node(url=broker.url)
    truth, stop = Watched(), asyncio.Event()
    await node.start()
    async with consuming(broker) as consumer, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            fleet_through(node.port, scenario(), truth=truth, rate=RATE, duration_s=60.0, drain_s=30.0, stop=stop)
        )
        for number in range(4):
            await truth.more(150)
            await node.kill()
            owed = [report for report in truth.reports if report.acknowledged is not None]
            await consumer.said(*["online", "offline"] * (number + 1))
            await node.start()
            assert len(owed) >= 150 * (number + 1)
            await consumer.all_of(owed)
        await truth.more(100)
        stop.set()
        _, summary = await running
        assert summary.complete
        assert truth.acknowledged > 700
        assert {report.kind for report in truth.reports} == {"task", "event"}
        await consumer.all_of(truth.reports)
        assert consumer.doubled() == []
        assert summary.connections > 2 * 40


async def test_the_broker_is_killed_under_load(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    """Terminals notice nothing; what the broker lost with its memory is a gap, and comes by replay."""
    node = make_node(url=broker.url)
    truth, stop = Watched(), asyncio.Event()
    await node.start()
    async with consuming(broker) as consumer, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            fleet_through(node.port, scenario(), truth=truth, rate=RATE, duration_s=60.0, drain_s=30.0, stop=stop)
        )
        for _ in range(2):
            await truth.more(100)
            broker.stop(kill=True)
            await truth.more(150)
            broker.start()
            async with asyncio.timeout(10):
                await consumer.ready.wait()
            await truth.more(50)
        stop.set()
        _, summary = await running
        assert summary.complete
        assert summary.retries == 0
        assert await node.metric("loadgate_uplink_reconnects_total") >= 2
        await filled(consumer, node, truth)


async def test_the_broker_dies_with_what_it_had_not_acknowledged(
    make_broker: Callable[[str], Mosquitto], make_node: Callable[..., Node], tmp_path: Path
) -> None:
    """Frozen first, so that rows are sent and get no PUBACK; then killed. They are sent again without a request."""
    broker = make_broker(
        f"persistence true\npersistence_location {tmp_path}/\nautosave_on_changes true\nautosave_interval 1"
    )
    node = make_node(url=broker.url)
    await node.start()
    said = 0

    async def say(peer: Peer, number: int) -> None:
        nonlocal said
        for energy in range(said, said + number):
            await peer.ask(dated(energy=energy))
        said += number

    async with consuming(broker, lasting=True) as consumer, Peer.on(node.port) as peer:
        await peer.ask(login(), 0x81)
        for _ in range(2):
            await say(peer, 20)
            await consumer.until(lambda: len(consumer.readings) >= said)
            os.kill(broker.pid, signal.SIGSTOP)
            await say(peer, 100)
            assert await node.metric("loadgate_uplink_in_flight") >= 100
            broker.stop(kill=True)
            broker.start()
        await consumer.until(lambda: len({reading.id for reading in consumer.readings}) == said)
        assert {reading.rows[0][2] for reading in consumer.readings} == {energy / 100 for energy in range(said)}
        assert await node.metric("loadgate_uplink_replayed_total") == 0


async def test_the_broker_is_absent_from_the_start(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    """Terminals are served and acknowledged all the same; all of it is published when the broker comes."""
    broker.stop()
    node = make_node(url=broker.url)
    await node.start()
    truth = Watched()
    _, summary = await fleet_through(
        node.port, scenario(), truth=truth, rate=RATE, reports_per_terminal=5, drain_s=10.0
    )
    assert summary.complete
    assert summary.acknowledged == 200
    assert await node.metric("loadgate_uplink_connected") == 0.0
    assert (await node.get("/readyz"))[0] == 200
    behind = await node.metric("loadgate_uplink_behind")
    assert behind >= 200
    broker.start()
    async with consuming(broker) as consumer:
        await filled(consumer, node, truth)
        assert sum(isinstance(message, Reading) for message in consumer.contents.values()) > 100
