"""The daemon: how it ends, what it tells, in which order it stops."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e_parts import BASE, HandClock, Peer, consuming, metric, running, settings_of, until
from terminal_side import TERMINAL, dated, login

from gateway.daemon import Gateway, JournalDied
from gateway.downlink import Downlink
from gateway.journal_store import JournalLocked, Row, Store
from gateway.settings import load

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

NOBODY = "mqtt://127.0.0.1:1"


async def test_it_ends_when_the_journal_cannot_write_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a gateway that is half alive: the terminal is not acknowledged, the process goes."""
    commit = Store.commit

    def failing(store: Store, rows: Sequence[Row], **how: Any) -> int:
        if any(row.topic.endswith("/reading") for row in rows):
            raise RuntimeError("the disk is on fire")
        return commit(store, rows, **how)

    monkeypatch.setattr(Store, "commit", failing)
    gateway = Gateway(settings_of(tmp_path, NOBODY))
    running_gateway = asyncio.create_task(gateway.run(asyncio.Event()))
    await gateway.started.wait()
    async with Peer.on(gateway.channels[0].port) as peer:
        await peer.ask(login(), 0x81)
        peer.say(dated())
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(10):
                await running_gateway
        assert caught.group_contains(JournalDied, match="on fire")
        assert gateway._health() == ["the journal's writer is dead"]
        assert len(peer.heard) == 1


async def test_a_stop_settles_what_is_on_its_way_to_the_disk(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes while a commit hangs: accept no more, wait for it, tell the terminal, publish, say offline."""
    gate, hanging, commit = threading.Event(), threading.Event(), Store.commit

    def held(store: Store, rows: Sequence[Row], **how: Any) -> int:
        if any(row.topic.endswith("/reading") for row in rows):
            hanging.set()
            assert gate.wait(20)
        return commit(store, rows, **how)

    monkeypatch.setattr(Store, "commit", held)
    gateway, stop = Gateway(settings_of(tmp_path, broker.url)), asyncio.Event()
    task = asyncio.create_task(gateway.run(stop))
    await gateway.started.wait()
    port = gateway.channels[0].port
    try:
        async with consuming(broker) as consumer, Peer.on(port) as peer:
            await peer.ask(login(), 0x81)
            for energy in range(3):
                peer.say(dated(piid=energy, energy=energy))
            assert await asyncio.to_thread(hanging.wait, 10)
            await until(lambda: gateway.outlet is not None and gateway.outlet.readings == 3)
            stop.set()
            await until(
                lambda: gateway.channels[0].context.links and not next(iter(gateway.channels[0].context.links)).reading
            )
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            peer.say(dated(piid=9, energy=9))  # too late: not read, so not acknowledged
            gate.set()
            await peer.closed()
            assert [frame.data[2] for frame in peer.heard[1:]] == [0, 1, 2]
            async with asyncio.timeout(10):
                await task
            await consumer.said("online", "offline")
            assert sorted(r.rows[0][2] for r in consumer.readings) == [0, 0.01, 0.02]  # type: ignore[type-var]
    finally:
        gate.set()


async def test_a_part_that_does_not_heed_a_cancellation_is_cancelled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An MQTT client's goodbye may raise its own error in the place of the cancellation: seen at a broker's restart."""
    cancelled = 0

    async def stubborn(_: Downlink) -> None:
        nonlocal cancelled
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled > 1:
                    raise

    monkeypatch.setattr(Downlink, "run", stubborn)
    gateway, stop = Gateway(settings_of(tmp_path, NOBODY, {"mqtt.drain_timeout_s": 0.1})), asyncio.Event()
    task = asyncio.create_task(gateway.run(stop))
    await gateway.started.wait()
    stop.set()
    async with asyncio.timeout(10):
        await task
    assert cancelled == 2


@pytest.mark.parametrize(("said", "trusted"), [("yes", True), ("no", False), ("auto", True)])
async def test_whether_our_clock_may_be_trusted(tmp_path: Path, said: str, trusted: bool) -> None:
    settings = settings_of(tmp_path, NOBODY, {"protocol.clock_trusted": said, "mqtt.drain_timeout_s": 0.1})
    async with running(settings, HandClock()) as gateway, Peer.on(gateway.channels[0].port) as peer:
        answer = await peer.ask(login(), 0x81)
        assert (answer.result & 0x80 != 0) is trusted


async def test_silence_on_a_shared_link_lets_go_of_one_terminal_only(broker: Mosquitto, tmp_path: Path) -> None:
    clock = HandClock()
    async with (
        running(settings_of(tmp_path, broker.url), clock) as gateway,
        consuming(broker) as consumer,
        Peer.on(gateway.channels[0].port) as peer,
    ):
        peer.address = peer.address.of("000000000001")
        await peer.ask(login(period=10), 0x81)
        peer.address = peer.address.of(TERMINAL)
        await peer.ask(login(period=1000), 0x81)
        clock.forward(100)
        await consumer.until(lambda: any(state.presence == "offline" for state in consumer.states))
        silent = gateway.sessions.get("000000000001")
        assert silent is not None
        await until(lambda: silent.link is None)
        await peer.ask(dated())
        assert metric(gateway, "loadgate_tcp_connections") == 1
    assert [state.terminal for state in consumer.states if state.presence == "offline"] == ["000000000001"]


async def test_what_is_not_read_is_not_called_silent(tmp_path: Path) -> None:
    """Links that wait for the journal keep their connection, however late their heartbeats are read."""
    clock = HandClock()
    settings = settings_of(tmp_path, NOBODY, {"mqtt.drain_timeout_s": 0.1})
    async with running(settings, clock) as gateway, Peer.on(gateway.channels[0].port) as peer:
        await peer.ask(login(period=10), 0x81)
        gateway.channels[0].context.pause(True)
        peer.say(login(period=10, kind=1), 0x81)
        session = gateway.sessions.get(TERMINAL)
        assert session is not None
        clock.forward(100)
        await until(lambda: session.machine.presence == "offline")
        assert session.link is not None
        gateway.channels[0].context.pause(False)
        await peer.answer()
        assert session.machine.presence == "online"


async def test_two_gateways_do_not_share_a_journal(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, NOBODY, {"mqtt.drain_timeout_s": 0.1})
    async with running(settings):
        with pytest.raises(JournalLocked):
            async with running(settings):
                pass


async def test_a_port_in_use_keeps_it_from_starting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = settings_of(tmp_path, NOBODY, {"channels.0.listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        gateway = Gateway(settings)
        with pytest.raises(ExceptionGroup) as caught:
            await gateway.run(asyncio.Event())
        assert caught.group_contains(OSError, match="in use")
        assert "the channels do not listen" in gateway._ready()


async def test_channels_have_their_own_bounds_and_names(broker: Mosquitto, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[[channels]]\n[[channels]]\nname = 'south'\nlisten = '127.0.0.1:0'\ntime_zone = '+00:00'\n")
    given = {**BASE, "channels.0.name": "north", "channels.0.max_connections": 1}
    settings = load(file, {**given, "node.data_dir": str(tmp_path), "mqtt.url": broker.url})
    async with running(settings) as gateway, consuming(broker) as consumer:
        north, south = gateway.channels
        async with Peer.on(north.port, "000000000001") as one, Peer.on(south.port, "000000000002") as other:
            await one.ask(login(), 0x81)
            await other.ask(login(), 0x81)
            async with Peer.on(north.port, "000000000003") as third:
                with pytest.raises(ConnectionError):
                    await third.ask(login(), 0x81)
            await one.ask(dated())
            await other.ask(dated())
        await consumer.until(lambda: len(consumer.readings) == 2)
        assert metric(gateway, "loadgate_tcp_refused_total", channel="north") == 1
        assert metric(gateway, "loadgate_tcp_refused_total", channel="south") == 0
    first, second = sorted(consumer.readings, key=lambda reading: reading.channel)
    assert (first.channel, second.channel) == ("north", "south")
    # The same local time in two zones: eight hours apart.
    assert int(str(second.rows[0][1])) - int(str(first.rows[0][1])) == 8 * 3_600_000
