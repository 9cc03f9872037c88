"""What channels share that know their peers beforehand: links that expect somebody, the asyncio end of a stream, waits.

A terminal that is reached by dialling out, or over a line, may never log in: it listens, and answers when it is asked.
So the channel tells the session who is there, and the terminal may be asked before it has said a word.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from random import Random
from typing import Any, Final, Protocol, cast, runtime_checkable

from gateway.clock import Clock
from gateway.link import ChannelContext, Link, Transport
from gateway.logs import get_logger
from gateway.sessions import Session
from protocols.events import Event, Moment
from protocols.registry import TerminalProtocol
from wire698.frame import Garbage

__all__ = ["Backoff", "Expectant", "KnownLink", "LineLink", "StreamEnd", "StreamOwner", "split_frames"]

log = get_logger(__name__)

_LINGER_S: Final = 10.0
"""How long a peer may take to read what it was told before the end, s."""
_KEPT_OCTETS: Final = 262_144
"""Kept of what comes although reading was to stop: one read of any event loop."""
_ANY_FRAME: Final = 65_536
"""Our own frames are split whatever the limit for those that come, octets."""


class Backoff:
    """How long to wait before the next attempt, s: `first`, then twice as long each time, at most `longest`.

    Each wait is drawn between half of that and the whole, so that many who failed together do not come back together.
    """

    __slots__ = ("_first", "_longest", "_next", "_rng", "failures")

    def __init__(self, first: float, longest: float, rng: Random) -> None:
        self._first = first
        self._longest = max(first, longest)
        self._next = first
        self._rng = rng
        self.failures = 0
        """Failures in a row."""

    def failed(self) -> float:
        """Another failure: the wait that follows."""
        self.failures += 1
        wait, self._next = self._next, min(self._longest, self._next * 2)
        return wait * self._rng.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """It has worked: the next wait is a short one."""
        self.failures = 0
        self._next = self._first


def split_frames(protocol: TerminalProtocol, octets: bytes) -> list[bytes]:
    """The frames in what a link writes in one piece; octets that are no frame (there should be none) stay together."""
    framer = protocol.framer(_ANY_FRAME)
    pieces: list[bytes] = []
    at = 0
    for found in framer.feed(octets):
        size = found.octets if isinstance(found, Garbage) else len(found.raw)
        pieces.append(octets[at : at + size])
        at += size
    if at < len(octets):
        pieces.append(octets[at:])
    return pieces


# --- links that expect somebody --------------------------------------------------------------------------------------


@runtime_checkable
class Expectant(Protocol):
    """A machine that can be told that its terminal is there. One that cannot waits for the terminal to speak first."""

    def expect(self, moment: Moment) -> list[Event]:
        """The channel knows that this terminal is at the other end: until the link ends it may be asked at once."""


class KnownLink(Link):
    """A link whose channel knows who is at the other end: from the settings, not from what is said.

    `expected`: the terminals that are there. Others are served too where `others` says so, else counted and unheard.
    """

    __slots__ = ("_others", "expected")

    def __init__(self, context: ChannelContext, transport: Transport, expected: Iterable[str], *, others: bool) -> None:
        super().__init__(context, transport)
        self.expected = frozenset(expected)
        self._others = others

    def expect(self, moment: Moment) -> int:
        """Take the expected terminals that are on no link now, so that they can be asked; returns how many."""
        if self.closing:
            return 0
        context, taken = self.context, 0
        for terminal in sorted(self.expected):
            known = context.sessions.get(terminal)
            if known is not None and known.link is not None:
                continue
            session = context.sessions.of(terminal, context)
            if session is None:
                context.violation("no-room", b"", peer=self.peer)
                break
            taken += 1
            events = context.sessions.attach(session, self, moment)
            self._sessions[session] = session.epoch
            context.dispatch(session, events, moment)
            if isinstance(session.machine, Expectant):
                context.dispatch(session, session.machine.expect(moment), moment)
                context.arrived(session)
        self.flush()
        return taken

    def _taking(self, terminal: str, frame: Any, moment: Moment) -> Session | None:
        if terminal not in self.expected and not self._others:
            self.context.violation("unexpected-address", frame.raw, peer=self.peer)
            return None
        return super()._taking(terminal, frame, moment)


class LineLink(KnownLink):
    """The link of a line that is there whoever is on it: no terminal's end, silence or logout ends the line."""

    __slots__ = ()

    def taken(self, session: Session) -> None:
        log.info("taken over", channel=self.context.name, peer=self.peer, terminal=session.machine.terminal)
        self._sessions.pop(session, None)

    def let_go(self, session: Session, reason: str) -> None:
        """A terminal that is expected stays, to be asked again; another goes."""
        self.flush()
        if session.machine.terminal in self.expected:
            return
        epoch = self._sessions.pop(session, None)
        if epoch is not None:
            context = self.context
            log.info("let go", channel=context.name, terminal=session.machine.terminal, reason=reason)
            moment = context.clock.moment()
            context.dispatch(session, context.sessions.detach(session, self, epoch, moment), moment)


# --- the asyncio end of a stream -------------------------------------------------------------------------------------


class StreamOwner(Protocol):
    """A channel that has streams."""

    context: ChannelContext
    clock: Clock

    def begun(self, end: StreamEnd) -> Link | None:
        """A stream is there; its link, or None to close it at once."""

    def slow(self, end: StreamEnd) -> None:
        """The peer does not read what it is sent; it is being closed."""

    def ended(self, end: StreamEnd, link: Link) -> None:
        """A stream is gone, and its link has been told."""


class StreamEnd(asyncio.Protocol):
    """One connection: the asyncio side of a link, and what the link acts through."""

    __slots__ = ("_halted", "_kept", "_owner", "_transport", "_write_buffer", "link", "peer")

    def __init__(self, owner: StreamOwner, write_buffer: int) -> None:
        self._owner = owner
        self._write_buffer = write_buffer
        self._transport: asyncio.Transport | None = None
        self._halted = False
        self._kept = b""
        self.link: Link | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        made = self._transport = cast("asyncio.Transport", transport)
        peer = made.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else ""
        made.set_write_buffer_limits(high=self._write_buffer)
        self.link = self._owner.begun(self)
        if self.link is None:
            made.abort()
        elif self._owner.context.paused:
            self.link.halt(True)

    def keep_alive(self, idle_s: int, interval_s: int, probes: int) -> None:
        """Have the kernel ask a silent peer whether it is there (TCP keepalive), and send small frames at once."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if sock is None:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)

    def data_received(self, data: bytes) -> None:
        if self.link is None or self.link.closing:
            return
        if not self._halted:
            self.link.received(data, self._owner.clock.moment())
            return
        # An event loop may read once more whatever it was told (uvloop does): that waits here.
        self._kept += data
        if len(self._kept) > _KEPT_OCTETS:
            self._kept = b""
            self._abort("talks on while it is not read")

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._owner.slow(self)
        self._abort("slow peer")

    def connection_lost(self, exc: Exception | None) -> None:
        link, self.link = self.link, None
        self._kept = b""
        if exc is not None:
            log.info("connection lost", channel=self._owner.context.name, peer=self.peer, error=str(exc))
        if link is not None:
            link.lost(self._owner.clock.moment())
            self._owner.ended(self, link)

    def _abort(self, reason: str) -> None:
        log.warning("aborting", channel=self._owner.context.name, peer=self.peer, reason=reason)
        if self._transport is not None:
            self._transport.abort()

    # --- what a link may do -------------------------------------------------------------------------------------

    def write(self, octets: bytes) -> None:
        if self._transport is not None:
            self._transport.write(octets)

    def pause(self) -> None:
        self._halted = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._halted = False
        if self._kept:
            kept, self._kept = self._kept, b""
            self.data_received(kept)
        if self._transport is not None and not (self._halted or self._transport.is_closing()):
            self._transport.resume_reading()

    def close(self, reason: str) -> None:
        log.info("closing", channel=self._owner.context.name, peer=self.peer, reason=reason)
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)
