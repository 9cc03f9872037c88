"""The channel with real sockets, on asyncio's loop and on uvloop; time is moved by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from e2e_parts import Peer, until
from link_side import Bench, frame
from terminal_side import dated, login

from gateway.channels import tcp_server
from gateway.channels.tcp_server import TcpServer, TcpServerOptions, TokenBucket


@asynccontextmanager
async def serving(bench: Bench, **options: Any) -> AsyncIterator[TcpServer]:
    """A listening channel whose time stands still."""
    server = TcpServer(bench.context, TcpServerOptions(host="127.0.0.1", port=0, **options), bench.clock)
    await server.start()
    try:
        yield server
    finally:
        await server.stop_accepting()
        await server.close()
        await until(lambda: server.counters.connections == 0)


def tick(bench: Bench, server: TcpServer, seconds: float = 0.0) -> None:
    bench.clock.forward(seconds)
    server.tick(bench.clock.moment())


def shrink(connection: Any) -> asyncio.Transport:
    """Make the kernel keep little of what is written to a peer, so that a test need not write megabytes."""
    transport: asyncio.Transport = connection._transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return transport


def test_the_bucket_gives_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(8.0, 3, 100.0)
    assert [bucket.take(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(100.125) for _ in range(2)] == [True, False]
    assert [bucket.take(200.0) for _ in range(4)] == [True, True, True, False]


async def test_connections_beyond_the_bound_are_closed_at_once() -> None:
    bench = Bench()
    async with serving(bench, max_connections=2) as server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer.on(server.port, f"{n:012d}")) for n in range(2)]
        for peer in peers:
            await peer.ask(login(), 0x81)
        third = await stack.enter_async_context(Peer.on(server.port, "000000000009"))
        with pytest.raises(ConnectionError):
            await third.answer()
        assert (server.counters.refused, server.counters.connections) == (1, 2)
        # Those inside are served, and a place that becomes free is given again.
        await peers[0].ask(login(kind=2), 0x81)
        await until(lambda: server.counters.connections == 1)
        fourth = await stack.enter_async_context(Peer.on(server.port, "000000000009"))
        await fourth.ask(login(), 0x81)


async def test_logins_beyond_the_rate_wait_unread_in_their_order() -> None:
    bench = Bench()
    async with serving(bench, login_rate_per_s=1.0, login_burst=2) as server, AsyncExitStack() as stack:
        peers = []
        for number in range(6):
            peer = await stack.enter_async_context(Peer.on(server.port, f"{number:012d}"))
            peer.say(login(), 0x81)
            peers.append(peer)
            await until(lambda: server.counters.accepted == len(peers))
        for peer in peers[:2]:
            await peer.answer()
        counters = server.counters
        assert (counters.deferred, counters.waiting, len(bench.sessions)) == (4, 4, 2)
        for number in range(2, 6):
            tick(bench, server, 1.0)
            await peers[number].answer()
            assert len(bench.sessions) == number + 1
            assert counters.waiting == 5 - number
        assert [session.machine.terminal for session in bench.sessions] == [f"{n:012d}" for n in range(6)]


async def test_one_that_waits_has_its_login_time_from_its_turn_on() -> None:
    bench = Bench()
    async with (
        serving(bench, login_rate_per_s=0.1, login_burst=1, login_timeout_s=5.0) as server,
        Peer.on(server.port, "000000000001") as first,
        Peer.on(server.port, "000000000002") as second,
    ):
        await first.ask(login(), 0x81)
        second.say(login(), 0x81)
        await until(lambda: server.counters.waiting == 1)
        tick(bench, server, 9.0)
        assert server.counters.login_timeouts == 0
        tick(bench, server, 2.0)
        await second.answer()
        tick(bench, server, 6.0)
        assert (server.counters.login_timeouts, server.counters.connections) == (0, 2)


async def test_one_that_talks_much_before_its_turn_is_closed() -> None:
    bench = Bench()
    async with serving(bench, login_rate_per_s=0.1, login_burst=1) as server, AsyncExitStack() as stack:
        await (await stack.enter_async_context(Peer.on(server.port))).ask(login(), 0x81)
        flood = await stack.enter_async_context(Peer.on(server.port, "000000000002"))
        await until(lambda: server.counters.waiting == 1)
        flood.send(b"\x00" * 200_000)
        connection = next(c for c in server._connections if c.waits)
        # How much one read brings is the system's choice: what counts is that no more than the bound is ever kept.
        connection.data_received(b"\x00" * (tcp_server._EARLY_OCTETS + 1))
        with pytest.raises(ConnectionError):
            await flood.answer()
        assert server.counters.early == 1
        assert bench.context.counters.octets_in < 1000


async def test_who_never_logs_in_is_closed_in_time_and_who_does_is_not() -> None:
    bench = Bench()
    async with (
        serving(bench, login_timeout_s=30.0) as server,
        Peer.on(server.port, "000000000001") as silent,
        Peer.on(server.port, "000000000002") as mumbling,
        Peer.on(server.port, "000000000003") as honest,
    ):
        await honest.ask(login(), 0x81)
        mumbling.send(b"\x55" * 100)
        await until(lambda: bench.context.counters.garbage_octets == 100)
        tick(bench, server, 29.9)
        assert server.counters.login_timeouts == 0
        tick(bench, server, 0.2)
        await silent.closed()
        await mumbling.closed()
        assert server.counters.login_timeouts == 2
        await until(lambda: server.counters.connections == 1)
        assert len(await asyncio.gather(honest.ask(login(kind=1), 0x81))) == 1
        assert len(server._unidentified) == 0


async def test_half_a_frame_is_dropped_in_time_and_the_connection_goes_on() -> None:
    bench = Bench()
    async with serving(bench, half_frame_timeout_s=10.0) as server, Peer.on(server.port) as peer:
        await peer.ask(login(), 0x81)
        octets = peer.octets(dated())
        peer.send(octets[:-4])
        await until(lambda: bench.context.half)
        tick(bench, server, 9.0)
        assert server.counters.half_frames == 0
        tick(bench, server, 2.0)
        assert server.counters.half_frames == 1
        assert bench.context.counters.garbage_octets == len(octets) - 4
        peer.send(octets)
        await until(lambda: bench.shelf.data)
        bench.commit()
        await peer.answer()


async def test_a_link_that_comes_while_the_journal_has_no_room_waits_too() -> None:
    bench = Bench()
    async with serving(bench) as server, Peer.on(server.port, "000000000001") as old:
        await old.ask(login(), 0x81)
        bench.context.pause(True)
        async with Peer.on(server.port, "000000000002") as new:
            new.say(login(), 0x81)
            old.say(dated())
            await until(lambda: server.counters.connections == 2)
            # A third that is let in later shows that the loop had time to read the others.
            assert (len(bench.sessions), bench.shelf.data) == (1, [])
            tick(bench, server, 31.0)
            assert server.counters.login_timeouts == 0
            bench.context.pause(False)
            await new.answer()
            await until(lambda: bench.shelf.data)
            assert len(bench.sessions) == 2


async def test_a_slow_peer_is_closed() -> None:
    """It sends heartbeats and never reads the answers, until the kernel's buffers and ours are full."""
    bench = Bench()
    async with (
        serving(bench, write_buffer_bytes=16_384) as server,
        Peer.on(server.port, receive_buffer=4096) as peer,
        Peer.on(server.port, "000000000002") as honest,
    ):
        await peer.ask(login(), 0x81)
        for connection in server._connections:
            shrink(connection)
        many = frame(login(kind=1), 0x81) * 500
        async with asyncio.timeout(20):
            while server.counters.slow_peers == 0:
                peer.send(many)
                with suppress(ConnectionError):
                    await peer.drained()
        assert server.counters.slow_peers == 1
        await until(lambda: server.counters.connections == 1)
        await honest.ask(login(), 0x81)


async def test_a_peer_that_does_not_read_its_goodbye_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_server, "_LINGER_S", 0.05)
    bench = Bench()
    async with serving(bench, write_buffer_bytes=1 << 24) as server, Peer.on(server.port, receive_buffer=4096) as peer:
        await peer.ask(login(), 0x81)
        (connection,) = server._connections
        transport = shrink(connection)
        many = frame(login(kind=1), 0x81) * 500
        async with asyncio.timeout(20):
            while transport.get_write_buffer_size() == 0:
                peer.send(many)
                await peer.drained()
                await asyncio.sleep(0)
        assert connection.link is not None
        connection.link.close("test")
        await until(lambda: server.counters.connections == 0)


async def test_a_stop_closes_the_door_and_then_the_connections() -> None:
    bench = Bench()
    async with serving(bench) as server, Peer.on(server.port) as peer:
        await peer.ask(login(), 0x81)
        peer.say(dated())
        await until(lambda: bench.shelf.data)
        port = server.port
        await server.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        bench.commit()
        await server.close()
        assert type(await peer.answer()).__name__ == "ReportResponseRecordList"
        await peer.closed()
