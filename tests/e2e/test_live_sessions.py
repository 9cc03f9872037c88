"""Sessions with real sockets: takeover, shared links, who may come in, presence by heartbeats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e_parts import Consumer, HandClock, Peer, consuming, metric, running, settings_of, until
from terminal_side import TERMINAL, dated, login

from messages import Raw

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto


def presences(consumer: Consumer, terminal: str = TERMINAL) -> list[tuple[str, str]]:
    return [(state.presence, state.reason) for state in consumer.states if state.terminal == terminal]


async def test_a_second_login_takes_over(broker: Mosquitto, tmp_path: Path) -> None:
    async with running(settings_of(tmp_path, broker.url)) as gateway, consuming(broker) as consumer:
        port = gateway.channels[0].port
        async with Peer.on(port) as old:
            await old.ask(login(), 0x81)
            await old.ask(dated(energy=1))
            async with Peer.on(port) as new:
                await new.ask(login(), 0x81)
                await old.closed()
                await until(lambda: gateway.channels[0].counters.connections == 1)
                for energy in range(2, 12):
                    assert int((await new.ask(dated(piid=energy, energy=energy))).piid) == energy
                await consumer.until(lambda: len(consumer.readings) == 11)
                assert metric(gateway, "loadgate_sessions_takeovers_total") == 1
        await until(lambda: gateway.channels[0].counters.connections == 0)
    # Its socket is gone as well, but presence follows heartbeats: no State said `offline`.
    assert presences(consumer) == [("online", "login"), ("online", "login")]
    assert len({state.peer for state in consumer.states}) == 2


async def test_many_terminals_on_one_connection(broker: Mosquitto, tmp_path: Path) -> None:
    terminals = [f"{number:012d}" for number in range(1, 101)]
    async with running(settings_of(tmp_path, broker.url)) as gateway, consuming(broker) as consumer:
        async with Peer.on(gateway.channels[0].port) as peer:
            for terminal in terminals:
                peer.address = peer.address.of(terminal)
                await peer.ask(login(), 0x81)
            for number, terminal in enumerate(terminals):
                peer.address = peer.address.of(terminal)
                peer.say(dated(energy=number))
            for _ in terminals:
                await peer.answer()
            assert sorted(frame.address.text for frame in peer.heard[100:]) == terminals
            assert (metric(gateway, "loadgate_tcp_connections"), len(gateway.sessions)) == (1, 100)
        await consumer.until(lambda: len(consumer.readings) == 100)
        told = {reading.terminal: reading.rows[0][2] for reading in consumer.readings}
        assert told == {terminal: number / 100 for number, terminal in enumerate(terminals)}


async def test_a_terminal_outside_the_allow_list(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url, {"terminals.allow": ["1122*"]})
    async with running(settings) as gateway, consuming(broker) as consumer:
        port = gateway.channels[0].port
        async with Peer.on(port, "990000000001") as stranger:
            answer = await stranger.ask(login(), 0x81)
            assert answer.result & 7 == 2
            await stranger.closed()
        async with Peer.on(port, "990000000001") as rude:
            rude.say(dated())
            await rude.closed()
            assert rude.heard == []
        async with Peer.on(port) as known:
            assert (await known.ask(login(), 0x81)).result & 7 == 0
            await known.ask(dated())
        await consumer.until(lambda: consumer.readings)
    assert {getattr(message, "terminal", TERMINAL) for message in consumer.messages} == {TERMINAL}


@pytest.mark.parametrize("way", ["identify", "refuse"])
async def test_a_report_without_a_login(broker: Mosquitto, tmp_path: Path, way: str) -> None:
    settings = settings_of(tmp_path, broker.url, {"terminals.without_login": way})
    async with (
        running(settings) as gateway,
        consuming(broker) as consumer,
        Peer.on(gateway.channels[0].port) as peer,
    ):
        peer.say(dated(piid=3))
        if way == "refuse":
            await peer.closed()
            assert peer.heard == []
            assert metric(gateway, "loadgate_violations_total", reason="not-logged-in") == 1
            assert len(consumer.readings) == 0
        else:
            assert int((await peer.answer()).piid) == 3
            await consumer.until(lambda: consumer.readings)
            assert presences(consumer) == [("online", "report")]


async def test_missed_heartbeats_make_suspect_then_offline_and_close(broker: Mosquitto, tmp_path: Path) -> None:
    clock = HandClock()
    async with running(settings_of(tmp_path, broker.url), clock) as gateway, consuming(broker) as consumer:
        port = gateway.channels[0].port
        async with Peer.on(port) as silent, Peer.on(port, "000000000002") as lively:
            await silent.ask(login(period=60), 0x81)
            await lively.ask(login(period=60), 0x81)
            clock.forward(59)
            await lively.ask(login(period=60, kind=1), 0x81)
            clock.forward(31)
            await consumer.until(lambda: presences(consumer)[1:] == [("suspect", "heartbeat_late")])
            clock.forward(58)
            await lively.ask(login(period=60, kind=1), 0x81)
            clock.forward(2)
            await silent.closed()
            await consumer.until(lambda: presences(consumer)[2:] == [("offline", "heartbeat_missed")])
            last = consumer.states[-1]
            assert (last.terminal, last.since - (last.last_seen or 0), last.heartbeat_s) == (TERMINAL, 150_000, 60)
            await lively.ask(dated())
            async with Peer.on(port) as back:
                await back.ask(login(period=60), 0x81)
                await consumer.until(lambda: presences(consumer)[3:] == [("online", "login")])
    assert presences(consumer, "000000000002") == [("online", "login")]


async def test_raw_frames_are_published_for_chosen_terminals(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url, {"terminals.raw": ["1122*"]})
    raws: list[tuple[str, str, int, Any]] = []
    async with running(settings) as gateway, consuming(broker) as consumer, broker.collect() as collected:
        assert gateway.uplink is not None
        uplink = gateway.uplink
        await until(lambda: uplink.publisher.connected)
        port = gateway.channels[0].port
        async with Peer.on(port) as peer, Peer.on(port, "990000000001") as other:
            await peer.ask(login(), 0x81)
            await other.ask(login(), 0x81)
            await other.ask(dated())
            said = peer.octets(dated(piid=7))
            await peer.ask(dated(piid=7))
            heard = [frame.raw for frame in peer.heard]
            await consumer.until(lambda: sum(isinstance(m, Raw) for m in consumer.messages) == 4)
        await collected.until(lambda messages: sum("/raw/" in m.topic.value for m in messages) == 4)
        raws = [(m.topic.value, "", m.qos, m.retain) for m in collected.messages if "/raw/" in m.topic.value]
    frames = [(m.terminal, m.direction, m.frame) for m in consumer.messages if isinstance(m, Raw)]
    assert frames[2] == (TERMINAL, "up", said.hex().upper())
    assert [frame for _, way, frame in frames if way == "down"] == [octets.hex().upper() for octets in heard]
    assert {(topic.split(f"terminal/{TERMINAL}/")[1], qos, retain) for topic, _, qos, retain in raws} == {
        ("raw/up", 0, False),
        ("raw/down", 0, False),
    }
    assert metric(gateway, "loadgate_raw_unsaid_total") == 0
