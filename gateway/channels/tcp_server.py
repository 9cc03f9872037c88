"""Channel `tcp_server`: terminals connect to us.

Bounds: connections (more are closed at once), new connections a second (a token bucket: a storm after an outage waits
its turn unread, in the order of arrival), time to say who one is, octets that a slow peer leaves unread, time for
those octets once the connection is to be closed, octets said before one's turn.

An event loop may begin to read a new connection whatever `connection_made` asked for (uvloop does). What comes by that
before the connection's turn, one read at most, is kept until then.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final, cast

from gateway.channels.channel import Traits
from gateway.clock import Clock
from gateway.link import ChannelContext, Link
from gateway.logs import get_logger
from protocols.events import Moment

log = get_logger(__name__)

_TURN_S: Final = 0.01
"""How often waiting connections are let in, s."""
_LINGER_S: Final = 10.0
"""How long a peer may take to read what it was told before the end, s."""
_EARLY_OCTETS: Final = 65_536
"""Kept of what a peer says before its turn; an honest one waits for the answer to its login after some 40."""


@dataclass(frozen=True, slots=True)
class TcpServerOptions:
    """Settings of the channel; times in s."""

    host: str = "0.0.0.0"  # noqa: S104 (terminals come from anywhere; the settings say where to listen)
    port: int = 4000
    backlog: int = 4096
    max_connections: int = 20_000
    login_rate_per_s: float = 2000.0
    login_burst: int = 4000
    login_timeout_s: float = 30.0
    half_frame_timeout_s: float = 30.0
    write_buffer_bytes: int = 262_144


@dataclass(slots=True)
class TcpServerCounters:
    """Totals since start, except `connections` and `waiting` (now). `early`: closed for too much before their turn."""

    connections: int = 0
    waiting: int = 0
    accepted: int = 0
    refused: int = 0
    login_timeouts: int = 0
    half_frames: int = 0
    slow_peers: int = 0
    deferred: int = 0
    early: int = 0


class TokenBucket:
    """`rate` a second, `burst` at once. Time is an argument (mono, s)."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, mono: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = mono

    def take(self, mono: float) -> bool:
        """Whether one more may pass now."""
        self._tokens = min(self._burst, self._tokens + max(0.0, mono - self._at) * self._rate)
        self._at = mono
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class _Connection(asyncio.Protocol):
    """One connection: the asyncio side of a link."""

    __slots__ = ("_channel", "_early", "_halted", "_transport", "link", "peer", "waits")

    def __init__(self, channel: TcpServer) -> None:
        self._channel = channel
        self._transport: asyncio.Transport | None = None
        self._halted = False
        self._early = b""
        self.link: Link | None = None
        self.peer = ""
        self.waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        transport = self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else ""
        channel = self._channel
        if not channel.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=channel.options.write_buffer_bytes)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.link = Link(channel.context, self)
        if channel.context.paused:
            self.link.halt(True)
        channel.begin(self)

    def data_received(self, data: bytes) -> None:
        if self.link is None or self.link.closing:
            return
        if self.waits or self._halted:
            self._keep(data)
        else:
            self.link.received(data, self._channel.clock.moment())

    def _keep(self, data: bytes) -> None:
        """What came although nobody wanted to read waits for its turn."""
        assert self._transport is not None
        self._transport.pause_reading()
        self._early += data
        if len(self._early) > _EARLY_OCTETS:
            self._channel.counters.early += 1
            self._early = b""
            log.warning("talks too much before its turn", channel=self._channel.context.name, peer=self.peer)
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._channel.counters.slow_peers += 1
        log.warning("slow peer is closed", channel=self._channel.context.name, peer=self.peer)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.lost(self._channel.clock.moment())
            self._channel.ended(self)
        if exc is not None:
            log.info("connection lost", channel=self._channel.context.name, peer=self.peer, error=str(exc))

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
        self._read()

    def enter(self) -> None:
        """The connection's turn has come: read it."""
        self.waits = False
        self._read()

    def _read(self) -> None:
        """Read, if nothing is against it; first what came too early."""
        if self._early and self.link is not None and not (self.waits or self._halted):
            early, self._early = self._early, b""
            self.data_received(early)
        if self._transport is not None and not (self.waits or self._halted or self._transport.is_closing()):
            self._transport.resume_reading()

    def wait(self) -> None:
        """Leave what it sends in the kernel until its turn."""
        self.waits = True
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self, reason: str) -> None:
        log.info("closing", channel=self._channel.context.name, peer=self.peer, reason=reason)
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)


class TcpServer:
    """The listening socket and its connections. `run` in the daemon's TaskGroup; `stop_accepting` before draining."""

    def __init__(self, context: ChannelContext, options: TcpServerOptions, clock: Clock) -> None:
        self.context = context
        self.options = options
        self.clock = clock
        self.counters = TcpServerCounters()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._unidentified: OrderedDict[_Connection, float] = OrderedDict()
        self._queue: deque[_Connection] = deque()
        self._bucket = TokenBucket(options.login_rate_per_s, options.login_burst, clock.moment().mono)

    @property
    def port(self) -> int:
        """The port that is listened on, once `start` has returned."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def traits(self) -> Traits:
        return Traits("stream", self.context.max_frame)

    @property
    def gauges(self) -> tuple[str, ...]:
        return ("connections", "waiting")

    @property
    def place(self) -> str:
        return f"{self.options.host}:{self.port}" if self._server is not None else self.options.host

    async def start(self) -> None:
        """Listen. Raises OSError where that cannot be."""
        options = self.options
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), options.host, options.port, backlog=options.backlog, reuse_address=True
        )

    # --- from connections ---------------------------------------------------------------------------------------

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for one more connection."""
        if len(self._connections) >= self.options.max_connections:
            self.counters.refused += 1
            log.warning("too many connections", channel=self.context.name, peer=connection.peer)
            return False
        return True

    def begin(self, connection: _Connection) -> None:
        """A connection is there: read it now, or in its turn."""
        moment = self.clock.moment()
        self._connections.add(connection)
        self.counters.accepted += 1
        self.counters.connections = len(self._connections)
        self._unidentified[connection] = moment.mono + self.options.login_timeout_s
        if self._queue or not self._bucket.take(moment.mono):
            connection.wait()
            self._queue.append(connection)
            self.counters.deferred += 1
            self.counters.waiting = len(self._queue)

    def ended(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._unidentified.pop(connection, None)
        self.counters.connections = len(self._connections)

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self, moment: Moment) -> None:
        """Let in those whose turn has come; close those that have not said who they are; drop half frames."""
        while self._queue and self._bucket.take(moment.mono):
            connection = self._queue.popleft()
            if connection.link is not None:
                connection.enter()
        self.counters.waiting = len(self._queue)
        while self._unidentified:
            connection, due = next(iter(self._unidentified.items()))
            if due > moment.mono:
                break
            del self._unidentified[connection]
            link = connection.link
            if link is None or link.identified or link.closing:
                continue
            if connection.waits or not link.reading:
                # It has not been read yet: its time begins with its turn.
                self._unidentified[connection] = moment.mono + self.options.login_timeout_s
                continue
            self.counters.login_timeouts += 1
            link.close("no login in time")
        limit = moment.mono - self.options.half_frame_timeout_s
        for link in [link for link in self.context.half if link.heard <= limit]:
            self.counters.half_frames += 1
            link.stale()

    async def run(self) -> None:
        """Keep time until cancelled."""
        while True:
            self.tick(self.clock.moment())
            await asyncio.sleep(_TURN_S if self._queue else 0.25)

    # --- the end ------------------------------------------------------------------------------------------------

    async def stop_accepting(self) -> None:
        """Listen no more, and read no more from those that are there."""
        if self._server is not None:
            self._server.close()
        for link in list(self.context.links):
            link.halt(True)

    async def close(self) -> None:
        """Close all connections when what is written is out."""
        for link in list(self.context.links):
            link.close("the gateway stops")
        if self._server is not None:
            self._server.close()
