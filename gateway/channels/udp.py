"""Channel `udp`: one socket, many terminals.

Theory of operation. There is no connection, so what stays the same is the terminal, not where it was last heard: each
terminal address has a link of its own, and the address of the network is only where that link writes to. (A link for
each network address would end the session, and with it requests and reports under way, whenever a NAT gives the
terminal another port.) Each datagram is searched for frames by itself: it may hold several, none spans two, and what
is left over at its end is garbage. A frame goes to its terminal's link; the first good one makes the link.

- The network address moves with every frame that the terminal's machine takes without complaint; a frame that has a
  wrong checksum, or that nobody can read, moves nothing and makes no link. This keeps strays and noise out. It does not
  keep a forger out, who can make good frames: where the network is not trusted, DL/T 698.45 needs a VPN or a private
  APN around it.
- Doubled and late datagrams are the machine's business: reports are told apart by content, answers by PIID, fragments
  by number.
- Nothing is paused: what cannot be taken (the journal has no room) is dropped and counted; the terminal says it again.
- We send one frame in a datagram, to where the terminal was heard last.

Bounds: links (a terminal that is offline gives way, the longest silent first), new ones a second, datagrams a second,
octets that wait to be sent. Each has a counter.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from gateway.channels.channel import Traits
from gateway.channels.stream import split_frames
from gateway.channels.tcp_server import TokenBucket
from gateway.clock import Clock
from gateway.link import ChannelContext, Link, count_garbage
from gateway.logs import get_logger
from protocols.events import Moment
from wire698.frame import Garbage

log = get_logger(__name__)

Source: TypeAlias = tuple[Any, ...]
"""A socket address: (host, port), for IPv6 with two numbers more."""

_LOOKED_AT: Final = 64
"""Terminals, the longest silent first, among which one is sought that gives way to a new one."""
_LINGER_S: Final = 10.0
"""How long the last datagrams may take to leave, s."""


@dataclass(frozen=True, slots=True)
class UdpOptions:
    """Settings of the channel. `max_datagram`: octets of the longest frame that is sent without link fragments."""

    host: str = "0.0.0.0"  # noqa: S104 (terminals come from anywhere; the settings say where to listen)
    port: int = 4000
    max_links: int = 20_000
    new_rate_per_s: float = 2000.0
    new_burst: int = 4000
    datagram_rate_per_s: float = 50_000.0
    datagram_burst: int = 100_000
    max_datagram: int = 1400
    receive_buffer_bytes: int = 4 << 20
    write_buffer_bytes: int = 4 << 20


@dataclass(slots=True)
class UdpCounters:
    """Totals since start, except `links` (now).

    links_made, evicted: terminals that came, and that gave way. refused: new ones for which there was no room;
    deferred: new ones above the rate. moves: a terminal was heard from another network address. over_rate, unread
    (journal full, or too much of one terminal waits for it), cut (ended in the middle of a frame): datagrams or
    frames dropped. unsent: datagrams dropped because the socket takes no more; errors: what the network complained.
    """

    links: int = 0
    datagrams_in: int = 0
    datagrams_out: int = 0
    links_made: int = 0
    evicted: int = 0
    refused: int = 0
    deferred: int = 0
    moves: int = 0
    over_rate: int = 0
    unread: int = 0
    cut: int = 0
    unsent: int = 0
    errors: int = 0


class _Correspondent:
    """A terminal and where it was heard last: what its link acts through."""

    __slots__ = ("_channel", "link", "peer", "source", "terminal", "unread")

    def __init__(self, channel: Udp, terminal: str, source: Source) -> None:
        self._channel = channel
        self.terminal = terminal
        self.source = source
        self.peer = _printed(source)
        self.unread = False
        self.link = Link(channel.context, self)

    def move(self, source: Source) -> None:
        """From now on the terminal is reached there."""
        self.source = source
        self.peer = _printed(source)

    def write(self, octets: bytes) -> None:
        self._channel.send(octets, self.source)

    def pause(self) -> None:
        self.unread = True

    def resume(self) -> None:
        self.unread = False

    def close(self, reason: str) -> None:
        self._channel.leave(self, reason)


class _Endpoint(asyncio.DatagramProtocol):
    """The asyncio side of the socket."""

    def __init__(self, channel: Udp) -> None:
        self._channel = channel
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Source) -> None:
        self._channel.received(data, addr)

    def error_received(self, exc: Exception) -> None:
        # A port that nobody listens on any more (ICMP) comes here: the terminal has moved or is away.
        self._channel.counters.errors += 1
        log.debug("network error", channel=self._channel.context.name, error=str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self._gone.done():
            self._gone.set_result(None)

    async def gone(self) -> None:
        """Wait until the socket is closed."""
        await self._gone


class Udp:
    """The socket and its terminals."""

    gauges = ("links",)

    def __init__(self, context: ChannelContext, options: UdpOptions, clock: Clock) -> None:
        self.context = context
        self.options = options
        self.clock = clock
        self.counters = UdpCounters()
        self.traits = Traits("datagram", min(context.max_frame, options.max_datagram))
        self._framer = context.protocol.framer(context.max_frame)
        self._correspondents: OrderedDict[str, _Correspondent] = OrderedDict()
        """By terminal address, the longest silent first."""
        mono = clock.moment().mono
        self._bucket = TokenBucket(options.datagram_rate_per_s, options.datagram_burst, mono)
        self._newcomers = TokenBucket(options.new_rate_per_s, options.new_burst, mono)
        self._transport: Any = None
        """An asyncio.DatagramTransport with `get_write_buffer_size`, which typeshed does not know."""
        self._endpoint: _Endpoint | None = None
        self._stopped = False

    @property
    def place(self) -> str:
        port = self.options.port if self._transport is None else self.port
        return f"{self.options.host}:{port}"

    @property
    def port(self) -> int:
        """The port that is listened on, once `start` has returned."""
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    async def start(self) -> None:
        """Bind the socket. Raises OSError where that cannot be."""
        options = self.options
        loop = asyncio.get_running_loop()
        made, self._endpoint = await loop.create_datagram_endpoint(
            lambda: _Endpoint(self), local_addr=(options.host, options.port)
        )
        self._transport = made
        sock = made.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer_bytes)

    async def run(self) -> None:
        """There is nothing to keep time for: until cancelled."""
        await asyncio.get_running_loop().create_future()

    # --- from the network ---------------------------------------------------------------------------------------

    def received(self, octets: bytes, source: Source) -> None:
        """A datagram."""
        counters, context, moment = self.counters, self.context, self.clock.moment()
        counters.datagrams_in += 1
        if not self._bucket.take(moment.mono):
            counters.over_rate += 1
            return
        if context.paused or self._stopped:
            counters.unread += 1
            return
        found = self._framer.feed(octets)
        cut = self._framer.discard()
        if cut is not None:
            counters.cut += 1
            found.append(cut)
        for item in found:
            if isinstance(item, Garbage):
                context.counters.octets_in += item.octets
                count_garbage(context.counters, item)
            else:
                self._frame(item, source, moment)

    def _frame(self, frame: Any, source: Source, moment: Moment) -> None:
        context = self.context
        terminal = context.protocol.terminal_of(frame)
        if terminal is None:
            context.counters.octets_in += len(frame.raw)
            context.counters.frames_in += 1
            context.violation("address-kind", frame.raw, peer=_printed(source))
            return
        known = self._correspondents.get(terminal)
        if known is None:
            known = self._enter(terminal, source, moment)
            if known is None:
                return
        elif known.unread:
            self.counters.unread += 1
            return
        before, complaints = known.source, context.counters.wire_errors
        if source != before:
            # Before it is fed: a State that comes of this frame tells the new place, an answer goes there.
            known.move(source)
        known.link.received(frame.raw, moment)
        if context.counters.wire_errors != complaints:
            if source != before:
                known.move(before)
        elif source != before:
            self.counters.moves += 1
            log.info("moved", channel=context.name, terminal=terminal, peer=known.peer, before=_printed(before))
        if terminal not in self._correspondents:
            return
        if known.link.identified:
            self._correspondents.move_to_end(terminal)
        else:
            self._forget(known)

    # --- terminals ----------------------------------------------------------------------------------------------

    def _enter(self, terminal: str, source: Source, moment: Moment) -> _Correspondent | None:
        """A terminal that was not here."""
        if len(self._correspondents) >= self.options.max_links and not self._evict():
            self.counters.refused += 1
            return None
        if not self._newcomers.take(moment.mono):
            self.counters.deferred += 1
            return None
        known = self._correspondents[terminal] = _Correspondent(self, terminal, source)
        self.counters.links_made += 1
        self.counters.links = len(self._correspondents)
        return known

    def _evict(self) -> bool:
        """Make room: one that is offline gives way, else one of which it is not sure whether it is there."""
        oldest = list(islice(self._correspondents.values(), _LOOKED_AT))
        for presence in ("offline", "suspect"):
            for known in oldest:
                session = self.context.sessions.get(known.terminal)
                if session is None or session.link is not known.link or session.machine.presence == presence:
                    self.counters.evicted += 1
                    known.link.close("gives way to another terminal")
                    return True
        return False

    def leave(self, known: _Correspondent, reason: str) -> None:
        """A link wants its end; what was to be said is on its way."""
        log.info("closing", channel=self.context.name, peer=known.peer, terminal=known.terminal, reason=reason)
        self._remove(known)
        # The link may be in the middle of a frame, so it is told later.
        asyncio.get_running_loop().call_soon(lambda: known.link.lost(self.clock.moment()))

    def _forget(self, known: _Correspondent) -> None:
        """Nobody has said who he is."""
        self._remove(known)
        known.link.lost(self.clock.moment())

    def _remove(self, known: _Correspondent) -> None:
        if self._correspondents.get(known.terminal) is known:
            del self._correspondents[known.terminal]
        self.counters.links = len(self._correspondents)

    # --- to the network -----------------------------------------------------------------------------------------

    def send(self, octets: bytes, to: Source) -> None:
        """Send each frame of what a link writes in a datagram of its own."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for frame in split_frames(self.context.protocol, octets):
            if transport.get_write_buffer_size() > self.options.write_buffer_bytes:
                self.counters.unsent += 1
                continue
            self.counters.datagrams_out += 1
            transport.sendto(frame, to)

    # --- the end ------------------------------------------------------------------------------------------------

    async def stop_accepting(self) -> None:
        """Read no more."""
        self._stopped = True

    async def close(self) -> None:
        """End all links, close the socket when what is written is out."""
        self._stopped = True
        for link in list(self.context.links):
            link.close("the gateway stops")
        if self._transport is not None and self._endpoint is not None:
            self._transport.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await self._endpoint.gone()


def _printed(source: Source) -> str:
    host, port = source[0], source[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
