"""Terminals that listen, with real sockets; time is moved by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from channel_side import SECOND, ChannelBench, answers, is_asked, logs_in, reports, running
from e2e_parts import LOOPBACK, Peer, free_port, until
from terminal_side import TERMINAL, dated, get_response, login

from gateway.channels.stream import Backoff
from gateway.channels.tcp_client import Place, TcpClient, TcpClientOptions
from wire698.frame import Address, build_frame


class Listening:
    """A terminal in server mode: waits for calls."""

    def __init__(self, terminal: str = TERMINAL) -> None:
        self.terminal = terminal
        self.port = 0
        self.calls = 0
        self._callers: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._called, LOOPBACK, port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        self._writers.append(writer)
        self._callers.put_nowait((reader, writer))

    async def caller(self) -> Peer:
        """The next call."""
        async with asyncio.timeout(10):
            reader, writer = await self._callers.get()
        return Peer(self.terminal, reader, writer)

    def cut(self) -> None:
        """End all calls."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def shut(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def place(self) -> Place:
        return Place(self.terminal, LOOPBACK, self.port)


@asynccontextmanager
async def listening(*terminals: str) -> AsyncIterator[list[Listening]]:
    sides = [Listening(terminal) for terminal in terminals or (TERMINAL,)]
    try:
        for side in sides:
            await side.open()
        yield sides
    finally:
        for side in sides:
            await side.shut()


def client(bench: ChannelBench, *places: Place, **options: Any) -> TcpClient:
    return TcpClient(bench.context, TcpClientOptions(places, **options), bench.clock, Random(1))


# --- the dialogue --------------------------------------------------------------------------------------------------


async def test_a_terminal_that_listens_is_called_logs_in_reports_and_is_asked() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place)
        async with running(channel):
            peer = await side.caller()
            await logs_in(peer)
            await reports(bench, peer)
            await is_asked(bench, peer)
            assert bench.shelf.states == [(TERMINAL, "online", "login")]
            assert (channel.counters.connections, channel.counters.connected) == (1, 1)
            assert channel.traits == ("stream", 16_385)
        await peer.closed()


async def test_a_terminal_that_never_logs_in_is_asked_at_once_and_its_answer_shows_it() -> None:
    bench = ChannelBench(unregistered="identify")
    async with listening() as (side,), running(client(bench, side.place)):
        peer = await side.caller()
        await until(lambda: bench.arrived == [TERMINAL])
        assert bench.shelf.states == []
        await is_asked(bench, peer)
        assert [presence for _, presence, _ in bench.shelf.states] == ["online"]
        (link,) = bench.context.links
        assert link.identified
        await reports(bench, peer)


async def test_split_octets_garbage_and_half_a_frame() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place, half_frame_timeout_s=5.0)
        async with running(channel):
            peer = await side.caller()
            for octet in b"\x00\x68noise" + peer.octets(login(), 0x81):
                peer.send(bytes((octet,)))
                await peer.drained()
            await peer.answer()
            assert bench.context.counters.garbage_octets == 7
            peer.send(peer.octets(dated())[:-3])
            await until(lambda: bench.context.half)
            bench.clock.forward(6)
            await until(lambda: channel.counters.half_frames == 1)
            await reports(bench, peer)


async def test_another_address_than_the_expected_is_counted_and_not_served() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place)
        async with running(channel):
            peer = await side.caller()
            stranger = Address.of(SECOND)
            peer.send(build_frame(0x81, stranger, 0x10, bytes.fromhex("010000012C07E90B19020000000000")))
            await logs_in(peer)
            assert bench.context.violations == {"unexpected-address": 1}
            assert bench.sessions.get(SECOND) is None


async def test_other_addresses_are_served_where_the_settings_say_so() -> None:
    bench = ChannelBench()
    async with listening() as (side,), running(client(bench, side.place, others=True)):
        peer = await side.caller()
        await logs_in(peer)
        peer.address = Address.of(SECOND)
        await logs_in(peer)
        assert {terminal for terminal, _, _ in bench.shelf.states} == {TERMINAL, SECOND}
        assert len(bench.context.links) == 1


# --- connections that come and go ----------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_is_made_again_and_the_report_comes_once() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place)
        async with running(channel):
            peer = await side.caller()
            await logs_in(peer)
            peer.say(dated(energy=7))
            await until(lambda: bench.shelf.data)
            side.cut()
            await until(lambda: channel.counters.connections == 0)
            bench.commit()
            assert side.calls == 1
            bench.clock.forward(1.0)
            peer = await side.caller()
            await logs_in(peer)
            # Not acknowledged before the cut, so said again, with a new PIID (oddity 29).
            peer.say(dated(energy=7, piid=9))
            answer = await peer.answer()
            assert answer.piid == 9
            assert len(bench.shelf.data) == 1
            assert (channel.counters.ended, channel.counters.connected) == (1, 2)


async def test_a_request_that_a_cut_takes_away_ends_as_lost() -> None:
    bench = ChannelBench()
    async with listening() as (side,), running(client(bench, side.place)):
        peer = await side.caller()
        await logs_in(peer)
        bench.ask()
        await peer.answer()
        side.cut()
        await until(lambda: bench.results() == ["lost"])


async def test_who_does_not_listen_is_called_ever_more_rarely_and_served_when_it_does() -> None:
    bench = ChannelBench()
    side = Listening()
    port = free_port()
    channel = client(bench, Place(TERMINAL, LOOPBACK, port), reconnect_min_s=1.0, reconnect_max_s=8.0)
    async with running(channel):
        await until(lambda: channel.counters.failures == 1)
        for number, wait in enumerate((1.0, 2.0, 4.0, 8.0, 8.0), 1):
            await until(lambda: channel.counters.dialling == 0 and channel._later)
            left = channel._later[0][0] - bench.clock.moment().mono
            assert wait / 2 <= left <= wait
            bench.clock.forward(left)
            await until(lambda number=number: channel.counters.failures == number + 1)  # type: ignore[misc]
        await until(lambda: channel._later)
        await side.open(port)
        bench.clock.forward(8.0)
        await logs_in(await side.caller())
        await side.shut()
        # It has shown itself, so the next wait is a short one.
        await until(lambda: channel._later)
        assert channel._later[0][0] - bench.clock.moment().mono <= 1.0


async def test_a_connection_on_which_nobody_speaks_counts_as_a_failure() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place, reconnect_min_s=1.0, reconnect_max_s=64.0)
        async with running(channel):
            for number in range(1, 5):
                await side.caller()
                side.cut()
                await until(lambda number=number: channel.counters.ended == number)  # type: ignore[misc]
                bench.clock.forward(channel._later[0][0] - bench.clock.moment().mono)
            assert channel.sites[TERMINAL].backoff.failures == 4


async def test_a_call_that_nobody_takes_ends_in_time() -> None:
    bench = ChannelBench()
    # Nobody accepts here, and there is room for one only: the kernel lets further calls wait.
    with socket.socket() as deaf:
        deaf.bind((LOOPBACK, 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        with socket.socket() as first, socket.socket() as second:
            for sock in (first, second):
                sock.setblocking(False)
                sock.connect_ex((LOOPBACK, port))
            channel = client(bench, Place(TERMINAL, LOOPBACK, port), connect_timeout_s=0.05)
            async with running(channel):
                await until(lambda: channel.counters.failures == 1)
                assert channel.counters.connected == 0


async def test_a_host_name_that_cannot_be_is_a_failure_like_others() -> None:
    bench = ChannelBench()
    channel = client(bench, Place(TERMINAL, "a..b", 4000))
    async with running(channel):
        await until(lambda: channel.counters.failures == 1)


async def test_the_kernel_is_asked_to_look_after_silent_connections() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place, keepalive_idle_s=33, keepalive_interval_s=7, keepalive_probes=2)
        async with running(channel):
            await logs_in(await side.caller())
            end = channel.sites[TERMINAL].end
            assert end is not None
            assert end._transport is not None
            sock = end._transport.get_extra_info("socket")
            asked = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_NODELAY)
            asked += [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            assert asked == [1, 33, 7, 2, 1]


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_no_more_connections_than_the_bound_and_the_others_come_in_their_turn() -> None:
    bench = ChannelBench()
    terminals = [f"{number:012d}" for number in range(4)]
    async with listening(*terminals) as sides:
        channel = client(bench, *[side.place for side in sides], max_connections=2)
        async with running(channel):
            first, second = await sides[0].caller(), await sides[1].caller()
            await logs_in(first)
            await logs_in(second)
            await until(lambda: channel.counters.waiting == 2)
            sides[0].cut()
            await logs_in(await sides[2].caller())
            assert [side.calls for side in sides] == [1, 1, 1, 0]
            await until(lambda: channel.counters.connections == 2)
            assert channel.counters.waiting == 1


async def test_no_more_calls_at_once_than_the_bound() -> None:
    bench = ChannelBench()
    places = [Place(f"{number:012d}", LOOPBACK, free_port()) for number in range(5)]
    channel = client(bench, *places, max_dialling=1)
    async with asyncio.TaskGroup() as channel._tasks:
        channel.tick(bench.clock.moment())
        assert (channel.counters.dialling, channel.counters.waiting) == (1, 4)
        channel.tick(bench.clock.moment())
        assert (channel.counters.dialling, channel.counters.waiting) == (1, 4)
    assert (channel.counters.dialling, channel.counters.failures) == (0, 1)


async def test_a_terminal_that_does_not_read_is_cut_off() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place, write_buffer_bytes=16_384)
        async with running(channel):
            peer = await side.caller()
            await logs_in(peer)
            (link,) = bench.context.links
            async with asyncio.timeout(20):
                while channel.counters.slow_peers == 0:
                    link.broadcast(b"\x00" * 100_000)
                    await asyncio.sleep(0)
            await until(lambda: channel.counters.connections == 0)


async def test_while_the_journal_has_no_room_nothing_is_read_and_then_all_of_it() -> None:
    bench = ChannelBench()
    async with listening() as (side,), running(client(bench, side.place)):
        peer = await side.caller()
        await logs_in(peer)
        bench.context.pause(True)
        peer.say(dated())
        await peer.drained()
        # One that says something later is heard: the loop had time to read this one.
        async with listening(SECOND) as (later,):
            _, writer = await asyncio.open_connection(LOOPBACK, later.port)
            await later.caller()
            writer.close()
        assert bench.shelf.data == []
        bench.context.pause(False)
        await until(lambda: bench.shelf.data)


# --- who is where ----------------------------------------------------------------------------------------------------


async def test_a_terminal_that_is_on_another_link_is_not_called_until_it_is_gone() -> None:
    bench = ChannelBench()
    end = bench.link()
    end.log_in()
    async with listening() as (side,):
        channel = client(bench, side.place)
        async with running(channel):
            await until(lambda: channel.counters.elsewhere == 1)
            assert side.calls == 0
            end.lost()
            bench.clock.forward(30.0)
            await logs_in(await side.caller())


async def test_a_terminal_that_dials_in_meanwhile_is_taken_over_and_not_called_back() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place)
        async with running(channel):
            await logs_in(await side.caller())
            end = bench.link()
            end.log_in()
            await until(lambda: channel.counters.connections == 0)
            bench.clock.forward(1.0)
            await until(lambda: channel.counters.elsewhere == 1)
            assert side.calls == 1
            end.lost()


async def test_a_terminal_has_one_place() -> None:
    bench = ChannelBench()
    with pytest.raises(ValueError, match="one place"):
        client(bench, Place(TERMINAL, LOOPBACK, 1), Place(TERMINAL, LOOPBACK, 2))


async def test_a_stop_answers_what_is_committed_and_calls_nobody_any_more() -> None:
    bench = ChannelBench()
    async with listening() as (side,):
        channel = client(bench, side.place)
        async with running(channel):
            peer = await side.caller()
            await logs_in(peer)
            peer.say(dated())
            await until(lambda: bench.shelf.data)
            await channel.stop_accepting()
            bench.commit()
            await channel.close()
            assert type(await peer.answer()).__name__ == "ReportResponseRecordList"
            await peer.closed()
            bench.clock.forward(400.0)
            channel.tick(bench.clock.moment())
            assert (channel.counters.dialling, side.calls) == (0, 1)


def test_waits_grow_with_jitter_up_to_a_bound_and_begin_anew_after_success() -> None:
    backoff = Backoff(1.0, 10.0, Random(2))
    waits = [backoff.failed() for _ in range(6)]
    for wait, most in zip(waits, (1, 2, 4, 8, 10, 10), strict=True):
        assert most / 2 <= wait <= most
    assert len({wait / most for wait, most in zip(waits, (1, 2, 4, 8, 10, 10), strict=True)}) == 6
    assert backoff.failures == 6
    backoff.succeeded()
    assert (backoff.failures, backoff.failed() <= 1.0) == (0, True)


async def test_late_answers_are_told_apart() -> None:
    """A request that was given up: its answer comes after all, and changes nothing."""
    bench = ChannelBench(request_timeout_s=2.0, request_retries=0)
    async with listening() as (side,), running(client(bench, side.place)):
        peer = await side.caller()
        await until(lambda: bench.arrived == [TERMINAL])
        bench.ask()
        asked = await peer.answer()
        bench.clock.forward(3.0)
        bench.tick()
        assert bench.results() == ["timed_out"]
        peer.say(get_response(asked.piid), 0xC3)
        await until(lambda: len(bench.answered) == 2)
        assert [type(event).__name__ for _, event in bench.answered] == ["Answered", "Late"]
        bench.ask()
        await answers(peer)
        await until(lambda: len(bench.answered) == 3)
