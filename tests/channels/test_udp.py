"""One socket, many terminals: real datagrams over loopback; time is moved by hand."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

from channel_side import SECOND, ChannelBench, DatagramSpeaker, is_asked, logs_in, reports, running
from e2e_parts import LOOPBACK, until
from terminal_side import TERMINAL, dated, get_response, login, values_report

from gateway.channels.udp import Udp, UdpOptions
from messages import State
from wire698 import model
from wire698.frame import WILDCARD, Address, build_frame, split_fragments

on = DatagramSpeaker.on


def udp(bench: ChannelBench, **options: Any) -> Udp:
    return Udp(bench.context, UdpOptions(host=LOOPBACK, port=0, **options), bench.clock)


def peers_told(bench: ChannelBench) -> list[str | None]:
    """The peer of each State."""
    return [message.peer for message in bench.shelf.messages if isinstance(message, State)]


# --- the dialogue --------------------------------------------------------------------------------------------------


async def test_login_report_and_request() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        await reports(bench, peer)
        await is_asked(bench, peer)
        assert peers_told(bench) == [peer.peer]
        assert channel.traits == ("datagram", 1400)


async def test_many_terminals_on_one_socket_each_have_their_own_link_and_answers() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(on(channel.port, f"{number:012d}")) for number in range(30)]
        await asyncio.gather(*[logs_in(peer) for peer in peers])
        for peer in peers:
            peer.say(dated())
        await until(lambda: len(bench.shelf.data) == 30)
        bench.commit()
        for peer in peers:
            frame = await peer.heard()
            assert frame.address == peer.address
        assert channel.counters.links == 30


async def test_several_terminals_behind_one_source() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        peer.send(peer.frame(login(), 0x81) + peer.frame(login(), 0x81, SECOND))
        terminals = {(await peer.heard()).address.terminal for _ in range(2)}
        assert terminals == {TERMINAL, SECOND}
        assert len(peer.datagrams) == 2


async def test_several_frames_in_a_datagram_with_garbage_between_them() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        peer.send(
            b"\xfe\xfe" + peer.frame(dated(energy=1)) + b"\x00" + peer.frame(dated(energy=2, piid=2)) + b"\x68\x17"
        )
        await until(lambda: len(bench.shelf.data) == 2)
        bench.commit()
        assert [(await peer.answer()).piid for _ in range(2)] == [1, 2]
        assert bench.context.counters.garbage_octets == 5
        assert channel.counters.cut == 1
        said = (peer.frame(login(), 0x81), peer.frame(dated()), peer.frame(dated()))
        assert bench.context.counters.octets_in == sum(map(len, said)) + 5


async def test_a_frame_never_spans_datagrams() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        octets = peer.frame(dated())
        peer.send(octets[:30])
        peer.send(octets[30:])
        await reports(bench, peer, energy=2, piid=2)
        assert len(bench.shelf.data) == 1
        assert bench.context.counters.garbage_octets == len(octets)


async def test_an_empty_datagram_and_pure_noise_make_nobody() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        bad = bytearray(peer.frame(login(), 0x81))
        bad[-2] ^= 1
        for octets in (b"\x55" * 1400, bytes(bad)):
            peer.send(octets)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.sendto(b"", (LOOPBACK, channel.port))
        await until(lambda: channel.counters.datagrams_in == 3)
        assert (channel.counters.links, len(bench.sessions), len(bench.context.links)) == (0, 0, 0)
        assert bench.context.counters.frame_errors == 1
        await logs_in(peer)


async def test_a_good_frame_that_says_nothing_makes_no_link() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        peer.say(b"\xff\xff\xff")
        await until(lambda: channel.counters.datagrams_in == 1)
        assert (channel.counters.links, len(bench.context.links)) == (0, 0)
        peer.send(build_frame(0x81, Address.of("AAAAAAAAAAAA", WILDCARD), 0x10, model.build(login())))
        await until(lambda: channel.counters.datagrams_in == 2)
        assert channel.counters.links == 0
        assert bench.context.violations == {"apdu": 1, "address-kind": 1}
        await logs_in(peer)


# --- what a network does ---------------------------------------------------------------------------------------------


async def test_doubled_datagrams_are_answered_again_and_stored_once() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        peer.say(dated())
        peer.say(dated())
        await until(lambda: channel.counters.datagrams_in == 3)
        assert len(bench.shelf.data) == 1
        bench.commit()
        await peer.answer()
        peer.say(dated())
        assert (await peer.answer()).piid == 1
        assert len(bench.shelf.data) == 1
        assert bench.context.counters.warnings["report-repeated"] == 2


async def test_a_doubled_answer_is_taken_once() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        await is_asked(bench, peer)
        last = peer.frame(login(kind=1), 0x81)
        peer.send(last)
        await peer.answer()
        assert bench.results() == ["GetResponseNormal"]


async def test_a_report_in_fragments_that_come_doubled_and_late_is_stored_once() -> None:
    """Whatever happens to fragments on the way, the terminal that repeats itself gets its report through, once."""
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        pieces = split_fragments(model.build(dated(energy=5)), 20)
        assert len(pieces) >= 3
        for number in (0, 0, 1, 1):
            peer.say(pieces[number], 0xA3)
            assert (await peer.heard()).data == pieces[number][:1] + bytes((pieces[number][1] & 0x0F | 0x80,))
        # A late copy of the first one: the reassembly begins anew, and the next is out of order, so not acknowledged.
        peer.say(pieces[0], 0xA3)
        await peer.heard()
        peer.say(pieces[2], 0xA3)
        await until(lambda: bench.context.violations.get("fragment-out-of-order"))
        assert bench.shelf.data == []
        for piece in pieces:
            peer.say(piece, 0xA3)
        await until(lambda: len(bench.shelf.data) == 1)
        bench.commit()
        await until(lambda: peer.unheard >= len(pieces))
        peer.say(dated(energy=5, piid=2))
        await until(lambda: bench.context.counters.warnings.get("report-repeated") == 1)
        assert len(bench.shelf.data) == 1


async def test_a_terminal_that_a_nat_gives_another_port_keeps_its_session() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        session = bench.sessions.get(TERMINAL)
        assert session is not None
        link, epoch = session.link, session.epoch
        bench.ask()
        asked = await peer.answer()
        peer.say(dated(energy=3))
        await until(lambda: bench.shelf.data)
        await peer.rebind()
        # A request under way and a report that waits for the journal live on; what follows goes to the new port.
        peer.say(get_response(asked.piid), 0xC3)
        await until(lambda: bench.results() == ["GetResponseNormal"])
        bench.commit()
        assert type(await peer.answer()).__name__ == "ReportResponseRecordList"
        await is_asked(bench, peer)
        assert (session.link, session.epoch, channel.counters.moves, channel.counters.links) == (link, epoch, 1, 1)
        await logs_in(peer)
        assert peers_told(bench)[-1] == peer.peer


async def test_only_a_frame_that_is_understood_moves_a_terminal() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer, on(channel.port) as other:
        await logs_in(peer)
        broken = bytearray(other.frame(dated()))
        broken[-2] ^= 0xFF
        other.send(bytes(broken))
        other.say(b"\xff\xff")  # good checksums, and no APDU
        other.say(b"\x05\x01\x01\x40\x01\x02\x00\x00", 0x43)  # a master's request
        await until(lambda: channel.counters.datagrams_in == 4)
        assert channel.counters.moves == 0
        await is_asked(bench, peer)
        assert other.unheard == 0
        # A good one does: whoever can make it is taken for the terminal.
        await logs_in(other)
        await is_asked(bench, other)
        assert (channel.counters.moves, peer.unheard) == (1, 0)


async def test_what_the_network_refuses_is_counted_and_hurts_nobody() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        (link,) = bench.context.links
        link.broadcast(b"\x00" * 70_000)  # more than a datagram holds
        await until(lambda: channel.counters.errors == 1)
        await logs_in(peer)


async def test_a_logout_ends_the_link_and_the_next_login_makes_another() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        peer.say(login(kind=2), 0x81)
        await peer.answer()
        await until(lambda: not bench.context.links)
        assert channel.counters.links == 0
        await logs_in(peer)
        assert (channel.counters.links, channel.counters.links_made) == (1, 2)


async def test_a_terminal_that_comes_by_another_channel_leaves_this_one() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        end = bench.link()
        end.log_in()
        await until(lambda: channel.counters.links == 0)
        end.lost()
        await logs_in(peer)


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_an_offline_terminal_gives_way_and_an_online_one_does_not() -> None:
    bench = ChannelBench(heartbeat_default_s=60)
    channel = udp(bench, max_links=2)
    async with running(channel), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(on(channel.port, f"{number:012d}")) for number in range(3)]
        await logs_in(peers[0])
        await logs_in(peers[1])
        peers[2].say(login(), 0x81)
        await until(lambda: channel.counters.refused == 1)
        # The first falls silent, the second does not.
        for _ in range(4):
            bench.clock.forward(300)
            peers[1].say(login(kind=1), 0x81)
            await peers[1].answer()
        bench.tick()
        await logs_in(peers[2])
        assert set(channel._correspondents) == {"000000000001", "000000000002"}
        assert (channel.counters.evicted, channel.counters.links) == (1, 2)
        await until(lambda: len(bench.context.links) == 2)


async def test_new_terminals_above_the_rate_wait_for_their_next_try() -> None:
    bench = ChannelBench()
    channel = udp(bench, new_rate_per_s=1.0, new_burst=1)
    async with running(channel), on(channel.port) as first, on(channel.port, SECOND) as second:
        await logs_in(first)
        second.say(login(), 0x81)
        await until(lambda: channel.counters.deferred == 1)
        await logs_in(first)
        bench.clock.forward(1.0)
        await logs_in(second)


async def test_datagrams_above_the_rate_are_dropped_and_counted() -> None:
    bench = ChannelBench()
    channel = udp(bench, datagram_rate_per_s=10.0, datagram_burst=5)
    async with running(channel), on(channel.port) as peer:
        for _ in range(20):
            peer.send(b"\x55")
        await until(lambda: channel.counters.datagrams_in == 20)
        assert (channel.counters.over_rate, bench.context.counters.garbage_octets) == (15, 5)
        bench.clock.forward(0.1)
        await logs_in(peer)


async def test_while_the_journal_has_no_room_datagrams_are_dropped_and_said_again() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        bench.context.pause(True)
        peer.say(dated())
        await until(lambda: channel.counters.unread == 1)
        assert bench.shelf.data == []
        bench.context.pause(False)
        await reports(bench, peer)


async def test_one_terminal_of_which_too_much_waits_is_not_heard_and_others_are() -> None:
    bench = ChannelBench(max_unsettled=2)
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer, on(channel.port, SECOND) as other:
        await logs_in(peer)
        for number in range(4):
            peer.say(dated(energy=number, piid=number))
        await until(lambda: channel.counters.datagrams_in == 5)
        assert (len(bench.shelf.data), channel.counters.unread) == (2, 2)
        await logs_in(other)
        bench.commit()
        for _ in range(2):
            await peer.answer()
        await reports(bench, peer, energy=2, piid=2)


async def test_what_the_socket_does_not_take_is_dropped_and_counted() -> None:
    bench = ChannelBench()
    channel = udp(bench, write_buffer_bytes=-1)
    async with running(channel), on(channel.port) as peer:
        peer.say(login(), 0x81)
        await until(lambda: channel.counters.unsent == 1)
        assert channel.counters.datagrams_out == 0


async def test_each_frame_goes_in_a_datagram_of_its_own() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        await logs_in(peer)
        for number in range(3):
            peer.say(values_report(piid=number + 1))
        await until(lambda: bench.context.counters.frames_in == 4)
        peer.datagrams.clear()
        bench.commit()
        await until(lambda: len(peer.datagrams) == 3)
        assert [(await peer.answer()).piid for _ in range(3)] == [1, 2, 3]


async def test_a_stop_answers_what_is_committed_and_frees_the_port() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    async with running(channel), on(channel.port) as peer:
        port = channel.port
        await logs_in(peer)
        peer.say(dated())
        await until(lambda: bench.shelf.data)
        await channel.stop_accepting()
        peer.say(dated(energy=2, piid=2))
        await until(lambda: channel.counters.unread == 1)
        bench.commit()
        await channel.close()
        assert (await peer.answer()).piid == 1
    again = Udp(bench.context, UdpOptions(host=LOOPBACK, port=port), bench.clock)
    async with running(again):
        assert again.port == port


def test_the_place_of_an_ipv6_source_is_printed_with_brackets() -> None:
    bench = ChannelBench()
    channel = udp(bench)
    channel.send = lambda octets, to: None  # type: ignore[method-assign]
    speaker = DatagramSpeaker()
    loop = asyncio.new_event_loop()
    try:
        channel.received(speaker.frame(login(), 0x81), ("2001:db8::1", 4001, 0, 0))
    finally:
        loop.close()
    assert peers_told(bench) == ["[2001:db8::1]:4001"]
