"""The publisher: against real mosquitto, and against a broker that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mqtt_packets import PacketError, PacketReader, parse_connack, parse_disconnect, parse_puback
from gateway.publisher import BrokerOptions, Publisher, Will

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gateway.mosquitto import Mosquitto

FAST = BrokerOptions(
    client_id="publisher", backoff_s=(0.01, 0.05), refused_backoff_s=(0.01, 0.05), connect_timeout_s=5.0
)
CONNACK_V5 = b"\x20\x03\x00\x00\x00"
CONNACK_V4 = b"\x20\x02\x00\x00"


class Feed:
    """A publisher that sends the given messages, and what became of each."""

    def __init__(self, options: BrokerOptions, messages: list[bytes], **more: object) -> None:
        self.acknowledged: list[int] = []
        self.dead: list[tuple[int, str]] = []
        self.most_in_flight = 0
        self._messages = messages
        self._next = 0
        self._changed = asyncio.Event()
        self.publisher = Publisher(
            options,
            rng=random.Random(1),
            on_room=self._pump,
            on_dead=lambda token, _topic, reason: self.dead.append((token, reason)),
            **more,  # type: ignore[arg-type]
        )

    def _pump(self) -> None:
        while self.publisher.room > 0 and self._next < len(self._messages):
            self.publisher.publish("t", self._messages[self._next], token=self._next, done=self.acknowledged.append)
            self._next += 1
        self.most_in_flight = max(self.most_in_flight, self.publisher.counters.in_flight)
        self._changed.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Feed]:
        task = asyncio.create_task(self.publisher.run())
        try:
            yield self
            await self.publisher.stop()
            async with asyncio.timeout(5):
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - counters tell nobody that they changed
            await asyncio.sleep(0.002)


def to(broker: Mosquitto | FakeBroker, **changes: object) -> BrokerOptions:
    return replace(FAST, host="127.0.0.1", port=broker.port, **changes)  # type: ignore[arg-type]


class FakeBroker:
    """Answers CONNECT with `connack`, then hands each PUBLISH (packet id, whole packet) to `on_publish`."""

    def __init__(self, connack: bytes, on_publish: Callable[[FakeBroker, int, bytes], bytes | None]) -> None:
        self.connack = connack
        self.on_publish = on_publish
        self.connects: list[bytes] = []
        self.published: list[bytes] = []
        self.others: list[int] = []
        self.retained = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        packets = PacketReader(1 << 20)
        try:
            while data := await reader.read(65_536):
                for head, body in packets.feed(data):
                    if head == 0x10:
                        self.connects.append(body)
                        writer.write(self.connack)
                    elif head & 0xF0 == 0x30:
                        at = 2 + int.from_bytes(body[:2], "big")
                        self.published.append(body)
                        self.retained += head & 1
                        answer = self.on_publish(self, int.from_bytes(body[at : at + 2], "big"), body)
                        if answer is None:
                            writer.transport.abort()
                            return
                        writer.write(answer)
                    else:
                        self.others.append(head)
        except ConnectionError:
            pass
        finally:
            writer.close()


def puback(packet_id: int, *reason: int) -> bytes:
    return bytes((0x40, 2 + len(reason))) + packet_id.to_bytes(2, "big") + bytes(reason)


@pytest.mark.parametrize("protocol", [4, 5])
async def test_every_message_once_in_order(broker: Mosquitto, protocol: int) -> None:
    messages = [b"%d" % number for number in range(3_000)]
    async with (
        broker.collect("t") as got,
        Feed(to(broker, protocol=protocol, window=100), messages).running() as feed,
    ):
        await feed.until(lambda: len(feed.acknowledged) == len(messages))
        await got.count(len(messages))
        assert got.payloads == messages
        assert feed.acknowledged == list(range(3_000))
        assert feed.most_in_flight == 100
        counters = feed.publisher.counters
        assert (counters.published, counters.acknowledged, counters.reconnects) == (3_000, 3_000, 0)


async def test_window_is_the_brokers_receive_maximum(make_broker: Callable[[str], Mosquitto]) -> None:
    broker = make_broker("max_inflight_messages 7")
    async with Feed(to(broker), [b"x"] * 500).running() as feed:
        await feed.until(lambda: len(feed.acknowledged) == 500)
        assert feed.publisher.window == 7
        assert feed.most_in_flight == 7


async def test_all_packet_ids_may_be_in_flight() -> None:
    async with (
        FakeBroker(CONNACK_V5, lambda *_: b"") as fake,
        Feed(to(fake, window=65_535), [b""] * 65_536).running() as feed,
    ):
        await feed.until(lambda: feed.publisher.counters.in_flight == 65_535)
        assert feed.publisher.room == 0
        with pytest.raises(RuntimeError, match="without room"):
            feed.publisher.publish("t", b"")


async def test_large_messages_wait_for_the_transport(broker: Mosquitto) -> None:
    messages = [bytes([number]) * 200_000 for number in range(60)]
    async with broker.collect("t") as got, Feed(to(broker), messages).running() as feed:
        await feed.until(lambda: len(feed.acknowledged) == len(messages))
        assert feed.most_in_flight < 60, "pause_writing is respected"
        await got.count(len(messages))
        assert got.payloads == messages


@pytest.mark.parametrize("protocol", [4, 5])
async def test_killed_broker_loses_nothing(broker: Mosquitto, protocol: int) -> None:
    """What the dead broker acknowledged is gone with it; what it did not is sent to the next one, in order."""
    messages = [b"%d" % number for number in range(20_000)]
    async with Feed(to(broker, protocol=protocol, window=200), messages).running() as feed:
        await feed.until(lambda: len(feed.acknowledged) >= 1_000)
        broker.stop(kill=True)
        before = set(feed.acknowledged)
        broker.start()
        async with broker.collect("t") as got:
            await feed.until(lambda: len(feed.acknowledged) == len(messages))
            assert sorted(feed.acknowledged) == list(range(len(messages)))
            assert feed.publisher.counters.reconnects == 1
            numbers = [int(payload) for payload in got.payloads]
            assert numbers == sorted(set(numbers)), "in order, once on this connection"
        assert len(before) < len(messages)


async def test_user_and_password(make_broker: Callable[[str], Mosquitto], tmp_path: object) -> None:
    password_file = f"{tmp_path}/passwords"
    process = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", "-c", password_file, "gate", "s:e/c")
    assert await process.wait() == 0
    broker = make_broker(f"password_file {password_file}\nallow_anonymous false")
    good = BrokerOptions.from_url(f"mqtt://gate:s%3Ae%2Fc@127.0.0.1:{broker.port}")
    async with Feed(replace(good, client_id="a", backoff_s=(0.01, 0.05)), [b"x"]).running() as feed:
        await feed.until(lambda: feed.acknowledged == [0])
    task_feed = Feed(to(broker, username="gate", password="wrong"), [b"x"])
    async with task_feed.running():
        await until(lambda: task_feed.publisher.counters.connect_failures >= 2)
        assert not task_feed.publisher.connected


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("mqtt://h", "h", 1883),
        ("mqtts://h", "h", 8883),
        ("mqtt://u:p@10.0.0.1:99/", "10.0.0.1", 99),
        ("mqtt://[::1]:99", "::1", 99),
    ],
)
def test_url(url: str, host: str, port: int) -> None:
    options = BrokerOptions.from_url(url)
    assert (options.host, options.port, options.tls is not None) == (host, port, url.startswith("mqtts"))


@pytest.mark.parametrize("url", ["http://u:geheim@h", "mqtt://", "mqtt://u:geheim@h/path", "mqtt://u:geheim@h:99999"])
def test_bad_url_is_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        BrokerOptions.from_url(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"protocol": 3}, {"window": 0}, {"window": 65_536}, {"keepalive_s": 0}])
def test_bad_options_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        BrokerOptions(**bad)  # type: ignore[arg-type]


async def test_will_is_published_when_we_die_and_not_when_we_leave(broker: Mosquitto) -> None:
    async with broker.collect("w") as got:
        async with Feed(to(broker), [b"x"], will=lambda: Will("w", b"gone")).running() as feed:
            await feed.until(lambda: feed.acknowledged == [0])
        dying = Feed(to(broker), [b"x"], will=lambda: Will("w", b"dead"))
        task = asyncio.create_task(dying.publisher.run())
        await dying.until(lambda: dying.acknowledged == [0])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await got.count(1)
        assert got.payloads == [b"dead"], "the first one left with DISCONNECT"
    async with broker.collect("w") as again:
        await again.count(1)
        assert again.messages[0].retain


async def test_refused_messages_are_sent_again_and_do_not_hold_up_the_others() -> None:
    refusals: dict[bytes, int] = {}

    def on_publish(_: FakeBroker, packet_id: int, body: bytes) -> bytes:
        payload = body[-1:]
        refusals[payload] = refusals.get(payload, 0) + 1
        if payload == b"2" and refusals[payload] <= 3:
            return puback(packet_id, 0x97, 0)  # quota exceeded
        return puback(packet_id, 0x10) if payload == b"3" else puback(packet_id)

    async with (
        FakeBroker(CONNACK_V5, on_publish) as fake,
        Feed(to(fake), [b"%d" % number for number in range(6)]).running() as feed,
    ):
        await feed.until(lambda: len(feed.acknowledged) == 6)
        assert feed.acknowledged == [0, 1, 3, 4, 5, 2]
        assert feed.publisher.counters.refused == 3
        assert feed.publisher.unfinished == 0


async def test_too_large_for_the_broker_is_a_dead_letter(make_broker: Callable[[str], Mosquitto]) -> None:
    broker = make_broker("max_packet_size 1000")
    messages = [b"a", b"b" * 2_000, b"c"]
    async with Feed(to(broker), messages).running() as feed:
        await feed.until(lambda: len(feed.acknowledged) == 2)
        assert feed.acknowledged == [0, 2]
        assert [token for token, _ in feed.dead] == [1]
        assert "1000" in feed.dead[0][1]
        assert feed.publisher.counters.reconnects == 0


async def test_message_at_which_the_broker_closes_does_not_block_for_ever(
    make_broker: Callable[[str], Mosquitto],
) -> None:
    """MQTT 3.1.1 has no maximum packet size in CONNACK: mosquitto just closes."""
    broker = make_broker("max_packet_size 1000")
    messages = [b"%d" % number for number in range(20)]
    messages[7] = b"x" * 2_000
    async with Feed(to(broker, protocol=4), messages).running() as feed:
        await feed.until(lambda: len(set(feed.acknowledged)) == 19 and len(feed.dead) == 1)
        assert [token for token, _ in feed.dead] == [7]
        assert sorted(set(feed.acknowledged)) == [number for number in range(20) if number != 7]


async def test_ill_broker_that_closes_at_everything_makes_no_dead_letters() -> None:
    well = False

    def on_publish(_: FakeBroker, packet_id: int, _body: bytes) -> bytes | None:
        return puback(packet_id) if well else None

    async with (
        FakeBroker(CONNACK_V5, on_publish) as fake,
        Feed(to(fake), [b"%d" % number for number in range(10)]).running() as feed,
    ):
        await until(lambda: len(fake.connects) >= 24)
        well = True
        await feed.until(lambda: len(feed.acknowledged) == 10)
        assert feed.dead == []


@pytest.mark.parametrize("connack", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00"])
async def test_falls_back_to_3_1_1(connack: bytes) -> None:
    async with FakeBroker(connack, lambda _, packet_id, __: puback(packet_id)) as fake:
        feed = Feed(to(fake), [b"x"])
        async with feed.running():
            await until(lambda: feed.publisher.protocol == 4)
            fake.connack = CONNACK_V4
            await feed.until(lambda: feed.acknowledged == [0])
        assert (fake.connects[0][6], fake.connects[-1][6]) == (5, 4)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x40\x01\x01",
        b"\x40\x02\x00\x00",
        b"\x40\xff\xff\xff\xff\x01",
        b"\x40\xff\xff\xff\x7f",
        b"\x30\x03\x00\x01t",
        b"\x20\x03\x00\x00\x00",
        b"\x00\x00",
        b"\xe0\x02\x8e\x05",
        b"\xe0\x01\x8b",
    ],
)
async def test_malformed_packet_closes_the_connection_and_is_survived(answer: bytes) -> None:
    answers = [answer]

    def on_publish(_: FakeBroker, packet_id: int, _body: bytes) -> bytes:
        return answers.pop() if answers else puback(packet_id)

    async with FakeBroker(CONNACK_V5, on_publish) as fake, Feed(to(fake), [b"x"]).running() as feed:
        await feed.until(lambda: feed.acknowledged == [0])
        assert feed.publisher.counters.reconnects == 1


@pytest.mark.parametrize(
    "connack",
    [
        b"\x20\x02\x00\x05",  # not authorized
        b"\x20\x03\x00\x87\x00",
        b"\x20\x06\x00\x00\x03\x21\x00\x00",  # receive maximum 0
        b"\x20\x05\x00\x00\x02\x24\x00",  # maximum QoS 0
        b"\x20\x03\x01\x00\x00",  # session present after a clean start
        b"\x20\x05\x00\x00\x02\x77\x00",  # unknown property
        b"\xd0\x00",
    ],
)
async def test_connack_that_will_not_do_is_not_a_connection(connack: bytes) -> None:
    async with FakeBroker(connack, lambda _, packet_id, __: puback(packet_id)) as fake:
        feed = Feed(to(fake), [b"x"])
        async with feed.running():
            await until(lambda: feed.publisher.counters.connect_failures >= 2)
            assert feed.publisher.counters.connects == 0
            fake.connack = CONNACK_V5
            await feed.until(lambda: feed.acknowledged == [0])


async def test_silent_broker_is_left() -> None:
    async with FakeBroker(b"", lambda *_: b"") as fake:
        feed = Feed(to(fake, connect_timeout_s=0.05), [b"x"])
        async with feed.running():
            await until(lambda: feed.publisher.counters.connect_failures >= 2)


async def test_broker_that_never_acknowledges_is_left() -> None:
    async with FakeBroker(CONNACK_V5, lambda *_: b"") as fake:
        async with Feed(to(fake, ack_timeout_s=0.1), [b"x"]).running():
            await until(lambda: len(fake.connects) >= 3)
        assert len(fake.published) >= 2, "sent again"


async def test_pings_when_idle_and_leaves_a_broker_that_does_not_answer() -> None:
    async with FakeBroker(CONNACK_V5, lambda _, packet_id, __: puback(packet_id)) as fake:
        async with Feed(to(fake, keepalive_s=1), [b"x"]).running():
            await until(lambda: len(fake.connects) >= 2)
        assert 0xC0 in fake.others


async def test_server_keepalive_and_retain_available_are_respected() -> None:
    connack = b"\x20\x08\x00\x00\x05\x13\x00\x01\x25\x00"
    async with FakeBroker(connack, lambda _, packet_id, __: puback(packet_id)) as fake:
        feed = Feed(to(fake, keepalive_s=600), [])
        done = asyncio.Event()
        async with feed.running():
            await feed.until(lambda: feed.publisher.connected)
            feed.publisher.publish("t", b"x", retain=True, done=lambda _: done.set())
            async with asyncio.timeout(10):
                await done.wait()
            await until(lambda: 0xC0 in fake.others)
            assert [packet[:3] for packet in fake.published] == [b"\0\1t"]
            assert fake.retained == 0


@given(st.binary(max_size=300), st.lists(st.integers(1, 20), max_size=30))
def test_any_octets_from_the_broker_raise_nothing_but_packet_error(data: bytes, cuts: list[int]) -> None:
    """And however they are cut, the packets are the same."""

    def packets(parts: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
        reader, found = PacketReader(200), []
        try:
            for part in parts:
                for packet in reader.feed(part):
                    found.append(packet)  # noqa: PERF402 - those before the error count
        except PacketError:
            return found, True
        return found, False

    parts, at = [], 0
    for cut in cuts:
        parts.append(data[at : at + cut])
        at += cut
    assert packets([*parts, data[at:]]) == packets([data])
    for parse in (parse_puback, parse_disconnect, lambda body: parse_connack(body, 5)):
        with contextlib.suppress(PacketError):
            parse(data)
