"""From the journal to a real broker, and back by replay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import aiomqtt
import pytest

from gateway.downlink import Downlink, Inbound, Route, replay_route
from gateway.journal import Journal, JournalLimits, Row
from gateway.uplink import BrokerOptions, NodeStatusTopic, Uplink, UplinkLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.gateway.mosquitto import Mosquitto

FAST = BrokerOptions(client_id="n1-up", backoff_s=(0.01, 0.05), refused_backoff_s=(0.01, 0.05), window=50)
STATUS = NodeStatusTopic("node/n1/status", lambda: b"online", lambda: b"offline")


def to(broker: Mosquitto, **changes: object) -> BrokerOptions:
    return replace(FAST, host=broker.host, port=broker.port, **changes)  # type: ignore[arg-type]


def fail(error: BaseException) -> None:
    raise error


class Node:
    """A journal and its uplink, running."""

    def __init__(self, journal: Journal, uplink: Uplink) -> None:
        self.journal = journal
        self.uplink = uplink

    def say(self, count: int, topic: str = "r", *, retain: bool = False) -> None:
        seq = self.journal.next_seq
        self.journal.append([Row(seq + n, topic, b"%d" % (seq + n), retain) for n in range(count)])


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - counters tell nobody that they changed
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def node(
    path: Path,
    options: BrokerOptions,
    *,
    limits: UplinkLimits | None = None,
    status: NodeStatusTopic | None = None,
    drain_s: float = 5.0,
    keep_s: float = 1e9,
    drained: bool = True,
) -> AsyncIterator[Node]:
    journal = await Journal.open(
        path / "journal.db", JournalLimits(tick_s=0.05, keep_s=keep_s), clock=lambda: 1e9, on_death=fail
    )
    uplink = Uplink(journal, options, rng=random.Random(1), status=status, limits=limits)
    task = asyncio.create_task(uplink.run())
    try:
        yield Node(journal, uplink)
        assert await uplink.stop(drain_s) is drained
        async with asyncio.timeout(5):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await journal.close()


@pytest.mark.parametrize("protocol", [4, 5])
async def test_every_row_once_in_order_in_the_steady_state(broker: Mosquitto, tmp_path: Path, protocol: int) -> None:
    async with broker.collect("r") as got, node(tmp_path, to(broker, protocol=protocol)) as one:
        for _ in range(300):
            one.say(10)
            await asyncio.sleep(0)
        await got.count(3_000)
        await until(lambda: one.journal.cursor == 3_000)
        assert [int(payload) for payload in got.payloads] == list(range(1, 3_001))
        counters = one.uplink.counters
        assert (counters.published, counters.acknowledged, counters.behind) == (3_000, 3_000, 0)


async def test_broker_down_then_up_nothing_is_lost_and_memory_is_bounded(broker: Mosquitto, tmp_path: Path) -> None:
    broker.stop()
    limits = UplinkLimits(memory_rows=100, read_rows=70)
    async with node(tmp_path, to(broker), limits=limits) as one:
        for _ in range(50):
            one.say(37)
            await until(lambda: one.journal.committed_seq == one.journal.next_seq - 1)
        assert len(one.uplink._memory) <= 100
        assert one.uplink.counters.behind == 1_850
        broker.start()
        async with broker.collect("r") as got:
            one.say(20)
            await until(lambda: one.journal.cursor == 1_870)
            numbers = [int(payload) for payload in got.payloads]
            assert numbers == sorted(set(numbers))
        counters = one.uplink.counters
        assert (counters.published, counters.acknowledged) == (1_870, 1_870)


async def test_broker_killed_in_mid_stream(broker: Mosquitto, tmp_path: Path) -> None:
    """All rows reach a broker in order; those without PUBACK are sent again."""
    async with node(tmp_path, to(broker), limits=UplinkLimits(memory_rows=500)) as one:
        seen: list[int] = []
        for _ in range(2):
            async with broker.collect("r") as got:
                for _ in range(100):
                    one.say(100)
                await got.count(500)
                assert not one.uplink.idle
                broker.stop(kill=True)
                seen += [int(payload) for payload in got.payloads]
            broker.start()
        await until(lambda: one.uplink.idle)
        assert one.journal.cursor == 20_000
        assert one.uplink.counters.acknowledged == 20_000
        assert one.uplink.counters.reconnects == 2
        assert seen


async def test_restart_goes_on_at_the_cursor(broker: Mosquitto, tmp_path: Path) -> None:
    broker.stop()
    async with node(tmp_path, to(broker), drain_s=0.01, drained=False) as one:
        one.say(500)
        await until(lambda: one.journal.committed_seq == 500)
    broker.start()
    async with broker.collect("r") as got:
        async with node(tmp_path, to(broker)) as one:
            await got.count(500)
        async with node(tmp_path, to(broker)) as one:
            one.say(1)
            await got.count(501)
        assert [int(payload) for payload in got.payloads] == list(range(1, 502))


async def test_stop_drains_what_is_committed(broker: Mosquitto, tmp_path: Path) -> None:
    async with broker.collect("r") as got:
        async with node(tmp_path, to(broker)) as one:
            one.say(2_000)
            await until(lambda: one.journal.committed_seq == 2_000)
        await got.count(2_000)


async def test_content_type_says_what_the_payload_is(broker: Mosquitto, tmp_path: Path) -> None:
    async with broker.collect("r") as got, node(tmp_path, to(broker)) as one:
        one.journal.append([Row(1, "r", b'{"v":1}'), Row(2, "r", b"\x81\xa1v\x01")])
        await got.count(2)
        types = [vars(message.properties)["ContentType"] for message in got.messages]
        assert types == ["application/json", "application/vnd.msgpack"]


async def test_status_online_offline_and_last_will(broker: Mosquitto, tmp_path: Path) -> None:
    said = [b"online"]
    status = replace(STATUS, online=lambda: said[0])
    async with broker.collect("node/#") as got:
        async with node(tmp_path, to(broker), status=status) as one:
            await got.count(1)
            said[0] = b"online, one more channel"
            one.uplink.refresh_status()
            await got.count(2)
            broker.stop(kill=True)
        assert got.payloads == [b"online", b"online, one more channel"]
    broker.start()
    async with broker.collect("node/#") as got:
        async with node(tmp_path, to(broker), status=status):
            await got.count(1)
        await got.count(2)
        assert got.payloads[1] == b"offline", "a clean stop says so itself"
        with contextlib.suppress(asyncio.CancelledError):
            async with node(tmp_path, to(broker), status=status):
                await got.count(3)
                raise asyncio.CancelledError
        await got.count(4)
        assert got.payloads[3] == b"offline", "the last will"
    async with broker.collect("node/#") as late:
        assert (await late.count(1))[0].retain


async def test_row_that_is_too_large_goes_to_the_dead_letters_and_the_cursor_goes_on(
    make_broker: Callable[[str], Mosquitto], tmp_path: Path
) -> None:
    broker = make_broker("max_packet_size 1000")
    async with node(tmp_path, to(broker)) as one:
        one.say(1)
        one.journal.append([Row(2, "r", bytes(2_000))])
        one.say(1)
        await until(lambda: one.journal.cursor == 3)
        assert (one.journal.counters.dead_letters, one.uplink.counters.dead_letters) == (1, 1)


async def test_refused_row_holds_the_cursor_but_only_so_many_rows_go_ahead(
    make_broker: Callable[[str], Mosquitto], tmp_path: Path
) -> None:
    """An access list that forbids a topic answers 0x87 on MQTT 5, until the operator allows it."""
    rules = tmp_path / "rules"
    rules.write_text("topic write r\ntopic read #\n")
    broker = make_broker(f"acl_file {rules}")
    async with node(tmp_path, to(broker), limits=UplinkLimits(max_ahead=200)) as one:
        one.say(1, "forbidden")
        one.say(999)
        await until(lambda: one.uplink.counters.acknowledged == 199)
        await until(lambda: one.uplink.counters.refused >= 3)
        assert one.journal.cursor == 0
        assert one.uplink.counters.behind == 800
        rules.write_text("topic readwrite #\n")
        os.kill(broker.pid, signal.SIGHUP)
        await until(lambda: one.journal.cursor == 1_000)


async def test_replay_publishes_stored_rows_again_not_retained(broker: Mosquitto, tmp_path: Path) -> None:
    async with node(tmp_path, to(broker)) as one:
        one.say(300, retain=True)
        await until(lambda: one.journal.cursor == 300)
        async with broker.collect("r") as got:
            await got.count(1)  # the retained one
            assert one.uplink.replay(100, 250)
            await got.count(152)
            assert [int(payload) for payload in got.payloads[1:]] == list(range(100, 251))
            assert not any(message.retain for message in got.messages[1:])
            assert one.uplink.replay(299, 10_000), "up to what there is"
            await got.count(154)
        await until(lambda: one.uplink.counters.replayed == 153)
        assert one.journal.cursor == 300
    async with broker.collect("r") as late:
        assert (await late.count(1))[0].payload == b"300", "the newest state is still the retained one"


async def test_replay_is_bounded(broker: Mosquitto, tmp_path: Path) -> None:
    broker.stop()
    limits = UplinkLimits(replay_rows=100, replay_requests=2)
    async with node(tmp_path, to(broker), limits=limits, drain_s=0.01, drained=False) as one:
        one.say(300)
        await until(lambda: one.journal.committed_seq == 300)
        for from_seq, to_seq in ((0, 5), (5, 4), (301, 301), (1, 101)):
            assert not one.uplink.replay(from_seq, to_seq)
        assert one.uplink.counters.replay_refused == 4
        assert one.uplink.replay(1, 100)
        assert one.uplink.replay(1, 1)
        assert not one.uplink.replay(2, 2), "two wait, none could be sent"


async def test_replay_of_purged_rows_ends(broker: Mosquitto, tmp_path: Path) -> None:
    async with node(tmp_path, to(broker), keep_s=0.0) as one:
        one.say(10)
        await until(lambda: one.journal.counters.purged == 10)
        one.uplink.replay(1, 10)
        one.say(5)
        await until(lambda: one.journal.cursor == 15)
        assert one.uplink.counters.replayed == 0


def decode(payload: bytes) -> tuple[int, int]:
    first, last = payload.split(b"-")
    return int(first), int(last)


@contextlib.asynccontextmanager
async def listening(options: BrokerOptions, routes: list[Route], **more: int) -> AsyncIterator[Downlink]:
    downlink = Downlink(
        replace(options, client_id="n1-down"),
        routes,
        rng=random.Random(2),
        **more,
    )
    task = asyncio.create_task(downlink.run())
    try:
        async with asyncio.timeout(10):
            await downlink.subscribed.wait()
        yield downlink
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def nothing_open(down: Downlink) -> bool:
    return down.counters.acknowledged == down.counters.received


async def publish(broker: Mosquitto, topic: str, *payloads: bytes, retain: bool = False) -> None:
    async with aiomqtt.Client(broker.host, broker.port) as client:
        for payload in payloads:
            await client.publish(topic, payload, qos=1, retain=retain)


@pytest.mark.parametrize("protocol", [4, 5])
async def test_replay_request_over_mqtt(broker: Mosquitto, tmp_path: Path, protocol: int) -> None:
    options = to(broker, protocol=protocol)
    async with node(tmp_path, options) as one:
        one.say(20)
        await until(lambda: one.journal.cursor == 20)
        route = replay_route("node/n1/replay", decode, one.uplink.replay)
        async with listening(options, [route]) as down, broker.collect("r") as got:
            await publish(broker, "node/n1/replay", b"nonsense", b"5-9")
            await got.count(5)
            assert [int(payload) for payload in got.payloads] == [5, 6, 7, 8, 9]
            await until(lambda: down.counters.acknowledged == 2)
            assert down.counters.failed == 1


async def test_retained_replay_request_is_ignored(broker: Mosquitto) -> None:
    asked: list[tuple[int, int]] = []
    await publish(broker, "replay", b"1-2", retain=True)

    def replay(first: int, last: int) -> bool:
        asked.append((first, last))
        return True

    route = replay_route("replay", decode, replay)
    async with listening(to(broker), [route]) as down:
        await until(lambda: down.counters.acknowledged == 1)
        await publish(broker, "replay", b"3-4")
        await until(lambda: down.counters.acknowledged == 2)
    assert asked == [(3, 4)]


@pytest.mark.parametrize("protocol", [4, 5])
async def test_downlink_message_that_was_not_handled_comes_again(broker: Mosquitto, protocol: int) -> None:
    """The process dies inside the callback: the persistent session brings the message back, once."""
    started = asyncio.Event()

    async def hang(_: Inbound) -> None:
        started.set()
        await asyncio.Event().wait()

    async with listening(to(broker, protocol=protocol), [Route("c/#", hang)]) as down:
        await publish(broker, "c/1", b"a", b"b")
        async with asyncio.timeout(10):
            await started.wait()
        assert down.counters.acknowledged == 0
    await publish(broker, "c/1", b"c")  # said while nobody is there
    got: list[bytes] = []

    async def take(message: Inbound) -> None:
        got.append(message.payload)

    for _ in range(2):
        async with listening(to(broker, protocol=protocol), [Route("c/#", take)]) as down:
            await until(lambda: len(got) == 3)
            await publish(broker, "c/2", b"end")
            await until(lambda: got[-1] == b"end")
            await until(partial(nothing_open, down))
        assert got == [b"a", b"b", b"c", b"end"]
        del got[3]


@pytest.mark.parametrize("protocol", [4, 5])
async def test_downlink_queue_is_bounded_and_nothing_is_lost(broker: Mosquitto, protocol: int) -> None:
    got: list[int] = []
    gate = asyncio.Event()

    async def take(message: Inbound) -> None:
        await gate.wait()
        got.append(int(message.payload))

    async with listening(to(broker, protocol=protocol), [Route("c", take)], queue=10) as down:
        await publish(broker, "c", *(b"%d" % number for number in range(50)))
        gate.set()
        await until(lambda: set(got) == set(range(50)))
        if protocol == 4:  # on MQTT 5 it depends on how well the broker heeds the receive maximum
            assert down.counters.overflows > 0


async def test_refused_subscription_is_counted_and_the_others_live() -> None:
    """The broker answers the filter `no` with 0x87 and the others with QoS 1."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while head := await reader.read(2):
                body = await reader.readexactly(head[1])
                if head[0] == 0x10:
                    writer.write(b"\x20\x03\x00\x00\x00")
                elif head[0] == 0x82:
                    writer.write(b"\x90\x04" + body[:2] + b"\x00" + (b"\x87" if b"no" in body else b"\x01"))

    got: list[bytes] = []

    async def take(message: Inbound) -> None:
        got.append(message.payload)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        options = replace(FAST, port=server.sockets[0].getsockname()[1])
        async with listening(options, [Route("no", take), Route("yes", take)]) as down:
            assert down.counters.subscribe_refused == 1
            assert down.counters.connected == 1
        alone = Downlink(options, [Route("no", take)], rng=random.Random(3))
        task = asyncio.create_task(alone.run())
        await until(lambda: alone.counters.subscribe_refused >= 2)
        assert not alone.subscribed.is_set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_subscriptions_are_made_again_after_the_broker_restarts(broker: Mosquitto) -> None:
    got: list[bytes] = []

    async def take(message: Inbound) -> None:
        got.append(message.payload)

    async with listening(to(broker), [Route("a/+", take)]) as down:
        broker.stop(kill=True)  # it forgets the session, it has no persistence
        broker.start()
        await until(lambda: down.counters.connects >= 2 and down.subscribed.is_set())
        await publish(broker, "a/b", b"x")
        await until(lambda: got == [b"x"])


NODE = """
    import asyncio, os, pathlib, random, sys
    from gateway.journal import Journal, Row
    from gateway.uplink import BrokerOptions, Uplink

    async def main():
        journal = await Journal.open(
            pathlib.Path(sys.argv[1]) / "journal.db", clock=lambda: 1e9, on_death=lambda error: os._exit(3)
        )
        uplink = Uplink(journal, BrokerOptions(port=int(sys.argv[2]), client_id="n"), rng=random.Random(1))
        task = asyncio.create_task(uplink.run())
        while True:
            seq = journal.next_seq
            journal.append([Row(seq, "r", b"%d" % seq)], lambda seq=seq: os.write(1, b"%d\\n" % seq))
            await asyncio.sleep(0)
            while not journal.writable or uplink.counters.behind > 200 or seq > 8000:
                await asyncio.sleep(0.001)

    asyncio.run(main())
"""


async def test_killed_node_loses_nothing_that_was_committed(broker: Mosquitto, tmp_path: Path) -> None:
    reported = 0
    async with broker.collect("r") as got:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(NODE), str(tmp_path), str(broker.port), stdout=subprocess.PIPE
        )
        try:
            await got.count(2_000)
        finally:
            process.kill()
            out, _ = await process.communicate()
        lines = [line for line in out.split(b"\n") if b"[" not in line]  # a log line
        reported = max(map(int, lines[:-1]))
        async with node(tmp_path, to(broker)) as one:
            assert one.journal.committed_seq >= reported
            await until(lambda: one.uplink.idle)
            last = one.journal.committed_seq
            await got.until(lambda messages: int(messages[-1].payload) == last)
        assert {int(payload) for payload in got.payloads} == set(range(1, last + 1))
