"""The serial line: pseudo-terminals, a socket, an RFC 2217 server, and a port by hand for its bounds."""

from __future__ import annotations

import asyncio
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from channel_side import SECOND, ChannelBench, PtySpeaker, Speaker, is_asked, logs_in, reports, running
from e2e_parts import LOOPBACK, Peer, until
from rfc2217_side import Rfc2217Server
from terminal_side import ANSWER, TERMINAL, dated, get_response, login

from gateway.channels.serial import Lost, PortSettings, Received, SerialLine, SerialOptions, Sieve, open_serialx
from protocols.registry import PROTOCOLS
from wire698.frame import Frame, Framer, Garbage

FE = b"\xfe"


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[PtySpeaker]:
    """A terminal on a line, plugged in."""
    speaker = PtySpeaker(tmp_path / "line")
    speaker.plug()
    yield speaker
    speaker.unplug()


def line(bench: ChannelBench, url: object, **options: Any) -> SerialLine:
    port = {
        name: options.pop(name) for name in ("bit_rate", "parity", "stop_bits", "open_timeout_s") if name in options
    }
    return SerialLine(bench.context, SerialOptions(PortSettings(str(url), **port), **options), bench.clock, Random(1))


@asynccontextmanager
async def opened(channel: SerialLine) -> AsyncIterator[None]:
    async with running(channel):
        await until(lambda: channel.counters.open)
        yield


# --- the dialogue over pseudo-terminals ------------------------------------------------------------------------------


@pytest.mark.parametrize("bit_rate", [2400, 115_200])
async def test_login_report_and_request(peer: PtySpeaker, bit_rate: int) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path, bit_rate=bit_rate)
    async with opened(channel):
        await logs_in(peer)
        await reports(bench, peer)
        await is_asked(bench, peer)
        speeds = termios.tcgetattr(peer.device)[4:6]
        assert speeds == [getattr(termios, f"B{bit_rate}")] * 2
        assert bench.context.counters.garbage_octets == 0
        assert channel.traits == ("stream", 16_385)


async def test_the_line_is_8e1_as_far_as_a_pseudo_terminal_can_tell(
    peer: PtySpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pseudo-terminals drop the parity bit, so what is asked of the system is looked at, too."""
    asked: list[int] = []
    real = termios.tcsetattr

    def set_attributes(descriptor: int, when: int, attributes: list[Any]) -> None:
        asked.append(attributes[2])
        real(descriptor, when, attributes)

    monkeypatch.setattr("serialx.platforms.serial_posix.tcsetattr", set_attributes)
    async with opened(line(ChannelBench(), peer.path)):
        assert asked[-1] & termios.PARENB
        assert not asked[-1] & (termios.PARODD | termios.CSTOPB)
        assert asked[-1] & termios.CSIZE == termios.CS8
    assert PortSettings("x", 2400).octet_s == pytest.approx(11 / 2400)
    assert PortSettings("x", 9600, "N").octet_s == pytest.approx(10 / 9600)


async def test_a_terminal_that_never_speaks_first_is_asked(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    async with opened(line(bench, peer.path, terminals=(TERMINAL,))):
        assert bench.arrived == [TERMINAL]
        await is_asked(bench, peer)
        assert [presence for _, presence, _ in bench.shelf.states] == ["online"]


async def test_the_preamble_is_sent_and_what_comes_is_no_garbage(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(channel):
        for count in range(8):  # oddity 20: none to seven
            peer.send(FE * count + peer.frame(login(kind=1), 0x81))
            peer.octets_heard = b""
            frame = await peer.heard()
            assert peer.octets_heard == FE * 4 + frame.raw
        assert bench.context.counters.garbage_octets == 0
        assert channel.counters.preamble_octets == 28


async def test_several_frames_written_at_once_each_have_their_preamble(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    async with opened(line(bench, peer.path, preamble=2)):
        await logs_in(peer)
        peer.octets_heard = b""
        for number in range(3):
            peer.say(dated(energy=number, piid=number))
        await until(lambda: len(bench.shelf.data) == 3)
        bench.commit()
        raws = [(await peer.heard()).raw for _ in range(3)]
        assert peer.octets_heard == b"".join(FE * 2 + raw for raw in raws)


async def test_split_octets_and_noise(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    async with opened(line(bench, peer.path)):
        for octet in b"\x00\xffAB" + FE * 4 + peer.frame(login(), 0x81):
            peer.send(bytes((octet,)))
        await peer.answer()
        assert bench.context.counters.garbage_octets == 4
        await reports(bench, peer)


async def test_half_a_frame_is_given_up_after_the_gap_and_the_next_is_not_taken_for_its_rest(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path, bit_rate=2400, gap_octets=100, gap_min_s=0.1)
    assert channel.options.gap_s == pytest.approx(100 * 11 / 2400)
    assert replace(channel.options, gap_octets=10).gap_s == 0.1
    async with opened(channel):
        await logs_in(peer)
        octets = peer.frame(dated())
        peer.send(octets[:40])
        await until(lambda: channel._sieve.waiting)
        bench.clock.forward(channel.options.gap_s * 0.9)
        channel.tick(bench.clock.moment())
        assert channel.counters.half_frames == 0
        bench.clock.forward(channel.options.gap_s * 0.2)
        await until(lambda: channel.counters.half_frames == 1)
        assert bench.context.counters.garbage_octets == 40
        await reports(bench, peer)


async def test_the_gap_counts_where_octets_come_before_the_clock_was_looked_at(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(channel):
        await logs_in(peer)
        octets = peer.frame(dated())
        channel._received(octets[:40])
        bench.clock.forward(1.0)
        channel._received(octets)
        assert (channel.counters.half_frames, len(bench.shelf.data)) == (1, 1)


async def test_own_echo_is_no_answer(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path, echo=True, shared=True, terminals=(TERMINAL,))
    peer.echo = True
    async with opened(channel):
        await is_asked(bench, peer)
        assert channel.counters.echoes == 1
        await reports(bench, peer)
        await until(lambda: channel.counters.echoes == 2)
        assert bench.context.violations == {}
        assert channel.traits.kind == "shared"


async def test_an_echo_that_is_not_filtered_hurts_nobody(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    peer.echo = True
    async with opened(line(bench, peer.path, terminals=(TERMINAL,))):
        await is_asked(bench, peer)
        assert bench.context.violations == {"service": 1}


# --- several terminals on one line -----------------------------------------------------------------------------------


async def test_terminals_share_a_line_and_one_that_leaves_does_not_end_it(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    async with opened(line(bench, peer.path, terminals=(TERMINAL,))):
        peer.send(peer.frame(login(), 0x81) + FE * 4 + peer.frame(login(), 0x81, SECOND))
        assert {(await peer.heard()).address.terminal for _ in range(2)} == {TERMINAL, SECOND}
        (link,) = bench.context.links
        # Both log out: the one that is expected may be asked again, the other is gone.
        for terminal in (TERMINAL, SECOND):
            peer.send(peer.frame(login(kind=2), 0x81, terminal))
            await peer.heard()
        assert bench.context.links == {link}
        kept, gone = bench.sessions.get(TERMINAL), bench.sessions.get(SECOND)
        assert kept is not None
        assert gone is not None
        assert (kept.link, gone.link) == (link, None)
        await is_asked(bench, peer)


async def test_a_terminal_that_is_not_named_is_not_served_where_the_settings_say_so(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    async with opened(line(bench, peer.path, terminals=(SECOND,), others=False)):
        peer.say(login(), 0x81)
        await until(lambda: bench.context.violations == {"unexpected-address": 1})
        assert bench.sessions.get(TERMINAL) is None


async def test_an_expected_terminal_comes_back_to_the_line_when_its_other_link_ends(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    async with opened(line(bench, peer.path, terminals=(TERMINAL,))):
        end = bench.link()
        end.log_in()
        session = bench.sessions.get(TERMINAL)
        assert session is not None
        assert session.link is end.link
        end.lost()
        await until(lambda: session.link is not None)
        await is_asked(bench, peer)


async def test_a_link_that_is_closed_is_followed_by_another_on_the_same_port(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(channel):
        await logs_in(peer)
        (old,) = bench.context.links
        old.close("test")
        await until(lambda: old not in bench.context.links)
        await logs_in(peer)
        assert channel.counters.opened == 1


# --- the port comes and goes -----------------------------------------------------------------------------------------


async def test_unplugged_and_plugged_in_again(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path, reconnect_min_s=1.0, reconnect_max_s=4.0)
    async with opened(channel):
        await logs_in(peer)
        bench.ask()
        await peer.answer()
        peer.say(dated(energy=4))
        await until(lambda: bench.shelf.data)
        peer.unplug()
        await until(lambda: channel.counters.lost == 1)
        assert (channel.counters.open, bench.context.links, bench.results()) == (0, set(), ["lost"])
        bench.clock.forward(1.0)
        await until(lambda: channel.counters.failures == 1)
        bench.commit()
        peer.plug()
        bench.clock.forward(4.0)
        await until(lambda: channel.counters.open)
        await logs_in(peer)
        # Not acknowledged before the cut, so said again.
        peer.say(dated(energy=4, piid=2))
        assert (await peer.answer()).piid == 2
        assert len(bench.shelf.data) == 1
        await is_asked(bench, peer)
        assert channel.counters.opened == 2


async def test_half_a_frame_from_before_the_cut_is_not_part_of_one_after_it(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(channel):
        peer.send(peer.frame(login(), 0x81)[:20])
        await until(lambda: channel._sieve.waiting)
        peer.unplug()
        await until(lambda: channel.counters.lost == 1)
        peer.plug()
        bench.clock.forward(1.0)
        await until(lambda: channel.counters.open)
        await logs_in(peer)
        assert bench.context.counters.garbage_octets == 20


async def test_a_device_that_is_not_there_at_the_start_is_waited_for(tmp_path: Path) -> None:
    bench = ChannelBench()
    speaker = PtySpeaker(tmp_path / "line")
    channel = line(bench, speaker.path, reconnect_min_s=1.0, reconnect_max_s=4.0)
    async with running(channel):
        for number in range(1, 4):
            await until(lambda number=number: channel.counters.failures == number)  # type: ignore[misc]
            assert channel._due - bench.clock.moment().mono <= min(4.0, 2.0 ** (number - 1))
            bench.clock.forward(4.0)
        speaker.plug()
        await until(lambda: channel._due > bench.clock.moment().mono or channel.counters.open)
        bench.clock.forward(4.0)
        await until(lambda: channel.counters.open)
        await logs_in(speaker)
    speaker.unplug()


async def test_a_device_that_another_program_holds_is_a_failure(peer: PtySpeaker) -> None:
    holder = line(ChannelBench(), peer.path)
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(holder), running(channel):
        await until(lambda: channel.counters.failures == 1)
        assert channel.counters.open == 0


async def test_what_is_committed_at_the_end_is_still_said(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(channel):
        await logs_in(peer)
        peer.say(dated())
        await until(lambda: bench.shelf.data)
        await channel.stop_accepting()
        bench.commit()
        await channel.close()
        assert (await peer.answer()).piid == 1
        assert (channel.counters.open, channel._port) == (0, None)
        bench.clock.forward(100.0)
        channel.tick(bench.clock.moment())
        assert channel.counters.opened == 1


async def test_while_the_journal_has_no_room_the_line_is_not_read(peer: PtySpeaker) -> None:
    bench = ChannelBench()
    channel = line(bench, peer.path)
    async with opened(channel):
        await logs_in(peer)
        bench.context.pause(True)
        other = PtySpeaker(peer.path.with_name("other"), SECOND)
        other.plug()
        second = line(ChannelBench(), other.path)
        peer.say(dated())
        # A second line that is opened and heard shows that the loop had time to read the first.
        async with opened(second):
            await logs_in(other)
        other.unplug()
        assert bench.shelf.data == []
        bench.context.pause(False)
        await until(lambda: bench.shelf.data)


# --- ports on the network --------------------------------------------------------------------------------------------


class Accepting:
    """A server that takes calls and does nothing by itself."""

    def __init__(self) -> None:
        self.port = 0
        self._callers: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._callers.put_nowait((reader, writer))

    async def caller(self) -> Peer:
        async with asyncio.timeout(10):
            return Peer(TERMINAL, *await self._callers.get())

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    @classmethod
    @asynccontextmanager
    async def on(cls) -> AsyncIterator[Accepting]:
        side = cls()
        server = await asyncio.start_server(side._called, LOOPBACK, 0)
        side.port = server.sockets[0].getsockname()[1]
        try:
            yield side
        finally:
            for writer in side._writers:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
            server.close()
            await server.wait_closed()


async def test_a_socket_is_a_port_that_can_be_cut_and_made_again() -> None:
    bench = ChannelBench()
    async with Accepting.on() as side:
        channel = line(bench, f"socket://{LOOPBACK}:{side.port}")
        async with opened(channel):
            remote = await side.caller()
            await logs_in(remote)
            await reports(bench, remote)
            await is_asked(bench, remote)
            side.cut()
            await until(lambda: channel.counters.lost == 1)
            bench.clock.forward(1.0)
            await until(lambda: channel.counters.open)
            await logs_in(await side.caller())


async def test_an_rfc_2217_server_sets_the_line_and_carries_the_octets() -> None:
    bench = ChannelBench()
    server = Rfc2217Server()
    await server.open()
    channel = line(bench, f"rfc2217://{LOOPBACK}:{server.port}", bit_rate=2400)
    try:
        async with opened(channel):
            assert server.settings == {"bit_rate": 2400, "data_bits": 8, "parity": 3, "stop_bits": 1}
            await logs_in(server)
            # FF is a command octet of Telnet, and doubled when it is data.
            await reports(bench, server, energy=0xFFFFFF)
            await is_asked(bench, server)
            server.cut()
            await until(lambda: channel.counters.lost == 1)
            bench.clock.forward(1.0)
            await until(lambda: channel.counters.open)
            await logs_in(server)
    finally:
        await server.shut()


async def test_a_server_that_does_not_say_that_all_is_out_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.channels.serial._LINGER_S", 0.05)
    bench = ChannelBench()
    server = Rfc2217Server()
    await server.open()
    channel = line(bench, f"rfc2217://{LOOPBACK}:{server.port}")
    try:
        async with opened(channel):
            await logs_in(server)
            server.deaf = True
            await channel.close()
            assert channel.counters.open == 0
    finally:
        await server.shut()


async def test_a_server_that_does_not_speak_rfc_2217_is_a_failure_in_time() -> None:
    bench = ChannelBench()
    async with Accepting.on() as side:
        channel = line(bench, f"rfc2217://{LOOPBACK}:{side.port}", open_timeout_s=0.05)
        async with running(channel):
            await until(lambda: channel.counters.failures == 1)
            assert channel.counters.open == 0


def test_the_place_tells_no_secret() -> None:
    assert "hush" not in line(ChannelBench(), "esphome://host:6053/?key=hush").place


# --- a port by hand --------------------------------------------------------------------------------------------------


class HandPort:
    """A port that does what a test says; `opener` gives it out."""

    def __init__(self) -> None:
        self.written = b""
        self.waiting = 0
        self.broken = False
        self.reading = True
        self.received: Received
        self.lost: Lost

    async def opener(self, settings: PortSettings, received: Received, lost: Lost) -> HandPort:
        self.received, self.lost = received, lost
        return self

    def write(self, octets: bytes) -> None:
        if self.broken:
            raise OSError("gone")
        self.written += octets

    def pending(self) -> int:
        return self.waiting

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.lost(None)


def by_hand(bench: ChannelBench, **options: Any) -> tuple[SerialLine, HandPort]:
    port = HandPort()
    settings = SerialOptions(PortSettings("hand"), **options)
    return SerialLine(bench.context, settings, bench.clock, Random(1), port.opener), port


async def test_a_port_that_takes_no_more_loses_the_frame_and_it_is_counted() -> None:
    bench = ChannelBench()
    channel, port = by_hand(bench, write_buffer_bytes=1000)
    async with opened(channel):
        speaker = Speaker()
        port.waiting = 1001
        port.received(speaker.frame(login(), 0x81))
        assert (port.written, channel.counters.unsent) == (b"", 1)
        port.waiting = 1000
        port.received(speaker.frame(login(kind=1), 0x81))
        assert len(port.written) == 54
        port.broken = True
        port.received(speaker.frame(login(kind=1), 0x81))
        assert channel.counters.unsent == 2


async def test_a_line_that_opens_while_the_journal_has_no_room_is_not_read() -> None:
    bench = ChannelBench()
    bench.context.pause(True)
    channel, port = by_hand(bench)
    async with opened(channel):
        assert not port.reading
        bench.context.pause(False)
        assert port.reading


async def test_a_port_that_ends_while_it_is_opened_is_a_failure() -> None:
    bench = ChannelBench()
    channel, port = by_hand(bench)

    async def opener(settings: PortSettings, received: Received, lost: Lost) -> HandPort:
        lost(OSError("pulled out"))
        return port

    channel._opener = opener
    async with running(channel):
        await until(lambda: channel.counters.failures == 1)
        assert (channel.counters.open, channel.counters.lost) == (0, 0)


async def test_echoes_remembered_are_bounded() -> None:
    bench = ChannelBench()
    channel, _ = by_hand(bench, echo=True)
    async with opened(channel):
        speaker = Speaker()
        for number in range(100):
            channel.send(speaker.frame(get_response(number), ANSWER))
        assert len(channel._echoes) == 32


async def test_serialx_says_that_a_device_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_serialx(PortSettings(str(tmp_path / "none")), lambda _: None, lambda _: None)


# --- the sieve -------------------------------------------------------------------------------------------------------


def _pieces(octets: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(octets), size):
        yield octets[at : at + size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 4096])
def test_the_sieve_finds_what_the_framer_finds_and_takes_the_preamble_out(size: int) -> None:
    speaker = Speaker()
    inner = bytes.fromhex("FEFEFEFE68AAAAAAAAAAAA6811")  # a preamble inside a frame is no preamble
    frames = [speaker.frame(login(), 0x81), speaker.frame(inner), speaker.frame(dated())]
    broken = bytearray(frames[0])
    broken[-2] ^= 1
    stream = FE * 4 + frames[0] + FE * 3 + frames[1] + b"\x01\x02" + FE * 2 + bytes(broken) + FE + frames[2]
    sieve, framer = Sieve(PROTOCOLS["dlt698.45"], 16_385), Framer()
    found: list[Any] = []
    plain: list[Any] = []
    for piece in _pieces(stream, size):
        found += sieve.feed(piece)
        plain += framer.feed(piece)
    assert [item.raw for item in found if isinstance(item, Frame)] == frames
    garbage = sum(item.octets for item in found if isinstance(item, Garbage))
    assert garbage + sieve.preamble == sum(item.octets for item in plain if isinstance(item, Garbage))
    assert sieve.preamble >= 9
    assert not sieve.waiting
