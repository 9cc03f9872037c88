"""Channel `tcp_client`: terminals listen (server mode 服务器模式 of 4500/4510), and we keep one connection to each.

Theory of operation. A `Site` is a terminal and the place where it listens. It waits until its time has come, is then
dialled in its turn, and stays connected until the connection ends; then it waits again. After a failure the wait is
longer each time, up to a bound, with jitter; after a connection on which the terminal has shown itself it is short
again. A terminal that is on another link already (it dials in as well) is left in peace until it is not.

Bounds: connections, connections being made at once, time for one of them, octets that a slow peer leaves unread, time
that half a frame may wait for its rest.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from gateway.channels.channel import Traits
from gateway.channels.stream import Backoff, KnownLink, StreamEnd
from gateway.clock import Clock
from gateway.link import ChannelContext, Link
from gateway.logs import get_logger
from protocols.events import Moment

log = get_logger(__name__)

_TURN_S: Final = 0.1
"""Places whose time has come are looked for this often, s."""
_ELSEWHERE_S: Final = 30.0
"""When to look again after a terminal that is on another link, s."""


class Place(NamedTuple):
    """Where a terminal listens: its address as printed digits, host name or IP address, port."""

    terminal: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class TcpClientOptions:
    """Settings of the channel; times in s. `others`: serve terminals that are not expected on a connection, too."""

    places: tuple[Place, ...]
    others: bool = False
    max_connections: int = 20_000
    max_dialling: int = 64
    connect_timeout_s: float = 10.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 300.0
    keepalive_idle_s: int = 60
    keepalive_interval_s: int = 15
    keepalive_probes: int = 4
    half_frame_timeout_s: float = 30.0
    write_buffer_bytes: int = 262_144


@dataclass(slots=True)
class TcpClientCounters:
    """Totals since start, except `connections`, `dialling` and `waiting` (for room, now).

    `elsewhere`: not dialled, because the terminal was on another link. `failures`: no connection came about.
    """

    connections: int = 0
    dialling: int = 0
    waiting: int = 0
    connected: int = 0
    failures: int = 0
    ended: int = 0
    elsewhere: int = 0
    half_frames: int = 0
    slow_peers: int = 0


class Site:
    """A place, and how it goes there."""

    __slots__ = ("backoff", "end", "place", "waits")

    def __init__(self, place: Place, backoff: Backoff) -> None:
        self.place = place
        self.backoff = backoff
        self.end: StreamEnd | None = None
        self.waits = True
        """It is to be dialled, now or later."""


class _SiteEnd(StreamEnd):
    """The connection to one site."""

    __slots__ = ("site",)

    def __init__(self, channel: TcpClient, site: Site) -> None:
        super().__init__(channel, channel.options.write_buffer_bytes)
        self.site = site


class TcpClient:
    """All sites of one channel. `run` in the daemon's TaskGroup; `stop_accepting` before draining."""

    gauges = ("connections", "dialling", "waiting")

    def __init__(self, context: ChannelContext, options: TcpClientOptions, clock: Clock, rng: Random) -> None:
        """Raises ValueError for a terminal with two places."""
        self.context = context
        self.options = options
        self.clock = clock
        self.counters = TcpClientCounters()
        self.traits = Traits("stream", context.max_frame)
        self.place = f"{len(options.places)} places"
        self.sites = {
            place.terminal: Site(place, Backoff(options.reconnect_min_s, options.reconnect_max_s, rng))
            for place in options.places
        }
        if len(self.sites) != len(options.places):
            raise ValueError("a terminal has one place")
        self._pushed = 0
        self._later: list[tuple[float, int, Site]] = []
        self._now: deque[Site] = deque(self.sites.values())
        self._stopped = False
        self._tasks: asyncio.TaskGroup | None = None

    async def start(self) -> None:
        """Nothing can fail here: what cannot be reached now is tried again."""

    async def run(self) -> None:
        """Dial and keep time until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                self.tick(self.clock.moment())
                await asyncio.sleep(_TURN_S)

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self, moment: Moment) -> None:
        """Dial those whose time has come, as far as there is room; drop half frames."""
        while self._later and self._later[0][0] <= moment.mono:
            self._now.append(heapq.heappop(self._later)[2])
        counters, options = self.counters, self.options
        while self._now and not self._stopped and self._tasks is not None:
            if counters.dialling >= options.max_dialling:
                break
            if counters.connections + counters.dialling >= options.max_connections:
                break
            site = self._now.popleft()
            site.waits = False
            if self._elsewhere(site):
                counters.elsewhere += 1
                self._wait(site, _ELSEWHERE_S, moment)
                continue
            counters.dialling += 1
            self._tasks.create_task(self._dial(site))
        counters.waiting = len(self._now)
        limit = moment.mono - options.half_frame_timeout_s
        for link in [link for link in self.context.half if link.heard <= limit]:
            counters.half_frames += 1
            link.stale()

    def _elsewhere(self, site: Site) -> bool:
        session = self.context.sessions.get(site.place.terminal)
        return session is not None and session.link is not None

    def _wait(self, site: Site, seconds: float, moment: Moment) -> None:
        if site.waits:
            return
        site.waits = True
        self._pushed += 1
        heapq.heappush(self._later, (moment.mono + seconds, self._pushed, site))

    async def _dial(self, site: Site) -> None:
        place = site.place
        try:
            async with asyncio.timeout(self.options.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: _SiteEnd(self, site), place.host, place.port)
        except (OSError, UnicodeError) as error:  # a timeout is an OSError, a host name that cannot be is the other
            self.counters.failures += 1
            wait = site.backoff.failed()
            if site.backoff.failures <= 2:  # an end that was no failure counts as the first
                log.warning(
                    "cannot connect",
                    channel=self.context.name,
                    terminal=place.terminal,
                    peer=f"{place.host}:{place.port}",
                    error=str(error) or "no connection in time",
                )
            if site.end is None:
                self._wait(site, wait, self.clock.moment())
        finally:
            self.counters.dialling -= 1

    # --- from connections ---------------------------------------------------------------------------------------

    def begun(self, end: StreamEnd) -> Link | None:
        """A connection is there: its terminal may be asked at once."""
        assert isinstance(end, _SiteEnd)
        site, moment = end.site, self.clock.moment()
        if self._stopped:
            return None
        if self._elsewhere(site):
            self.counters.elsewhere += 1
            self._wait(site, _ELSEWHERE_S, moment)
            return None
        site.end = end
        self.counters.connected += 1
        self.counters.connections += 1
        options = self.options
        end.keep_alive(options.keepalive_idle_s, options.keepalive_interval_s, options.keepalive_probes)
        log.info("connected", channel=self.context.name, terminal=site.place.terminal, peer=end.peer)
        link = KnownLink(self.context, end, (site.place.terminal,), others=options.others)
        link.expect(moment)
        return link

    def slow(self, end: StreamEnd) -> None:
        """The terminal does not read what it is sent."""
        del end
        self.counters.slow_peers += 1

    def ended(self, end: StreamEnd, link: Link) -> None:
        """A connection is gone: dial again, soon if the terminal has shown itself on it."""
        assert isinstance(end, _SiteEnd)
        site = end.site
        site.end = None
        self.counters.connections -= 1
        self.counters.ended += 1
        if link.identified:
            site.backoff.succeeded()
        self._wait(site, site.backoff.failed(), self.clock.moment())

    # --- the end ------------------------------------------------------------------------------------------------

    async def stop_accepting(self) -> None:
        """Dial no more, and read no more from those that are there."""
        self._stopped = True
        for link in list(self.context.links):
            link.halt(True)

    async def close(self) -> None:
        """Close all connections when what is written is out."""
        self._stopped = True
        for link in list(self.context.links):
            link.close("the gateway stops")
