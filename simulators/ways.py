"""Ways on which each terminal has a connection of its own: it dials, it sends datagrams, or it listens.

A way opens what it needs before anything happens, keeps the stations connected until it is cancelled, and is closed
when they have parted. After an end it waits before the next beginning: longer after each failure, up to a bound.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol, cast

from .counters import Counters
from .station import Station

_CONNECT_S = 10.0
_AT_ONCE = 64
"""Connections that are being opened at one time."""


class Way(Protocol):
    """How stations reach their master. `goodbye`: each ends its own connection when it parts."""

    goodbye: bool

    async def open(self, stations: Sequence[Station]) -> None:
        """Prepare. Raises OSError where that cannot be."""

    async def keep(self, stations: Sequence[Station]) -> None:
        """Keep the stations connected, until cancelled."""

    def close(self) -> None:
        """Close what `open` has opened."""


class Pauses:
    """Waits of one station, s: between half and all of `first`, twice as long after each failure, up to `longest`."""

    def __init__(self, station: Station, first: float, longest: float) -> None:
        self._dice = random.Random(station.terminal.settings.seed + 2)  # noqa: S311
        self._first = first
        self._longest = longest

    def after(self, failures: int) -> float:
        """The wait after so many failures in a row."""
        pause = min(self._longest, self._first * 2.0 ** min(failures, 16))
        return pause * self._dice.uniform(0.5, 1.0)


class Dial:
    """Each station dials its master over TCP."""

    goodbye = True

    def __init__(self, host: str, port: int, pauses: tuple[float, float], counters: Counters) -> None:
        self._place = (host, port)
        self._pauses = pauses
        self._counters = counters
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def open(self, stations: Sequence[Station]) -> None:
        """Nothing is opened before it is dialled."""

    async def keep(self, stations: Sequence[Station]) -> None:
        """Dial for each, again whenever its connection has ended."""
        async with asyncio.TaskGroup() as tasks:
            for station in stations:
                tasks.create_task(self._keep(station))

    async def _keep(self, station: Station) -> None:
        pauses, failures = Pauses(station, *self._pauses), 0
        while True:
            await station.power.wait()
            if await self._connect(station):
                await station.closed.wait()
                failures = failures + 1 if station.terminal.refused else 0
            else:
                failures += 1
                self._counters.connect_failures += 1
            await asyncio.sleep(pauses.after(failures))

    async def _connect(self, station: Station) -> bool:
        try:
            async with self._gate, asyncio.timeout(_CONNECT_S):
                await self._begin(station, *self._place)
        except (OSError, TimeoutError):
            return False
        return True

    async def _begin(self, station: Station, host: str, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: station, host, port)

    def close(self) -> None:
        """Connections are the stations' own."""


class Datagrams(Dial):
    """Each station sends its master datagrams from a socket of its own; a new beginning is a new socket."""

    async def _begin(self, station: Station, host: str, port: int) -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Socket(station), remote_addr=(host, port))


class _Socket(asyncio.DatagramProtocol):
    """The socket of one station."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._station.begin(self)

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        self._station.datagram(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there (ICMP): a datagram that is lost, as others are."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._station.connection_lost(exc)

    def write(self, octets: bytes) -> None:
        if octets and not self._transport.is_closing():
            self._transport.sendto(octets)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class Listening:
    """Each station listens (服务器模式) on a port of its own and serves one master at a time.

    Terminal n, counted from 1, listens on `port` + n - 1; on a free one where `port` is 0.
    """

    goodbye = True

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._servers: list[asyncio.Server] = []
        self.places: dict[str, str] = {}
        """HOST:PORT by terminal, once open."""

    async def open(self, stations: Sequence[Station]) -> None:
        """Listen. Raises OSError where a port is taken or there are not so many."""
        if self._port and self._port + len(stations) - 1 > 65_535:
            raise OSError(f"{len(stations)} terminals from port {self._port} on: there are not so many ports")
        loop = asyncio.get_running_loop()
        try:
            for number, station in enumerate(stations):
                port = self._port + number if self._port else 0
                server = await loop.create_server(_Caller.answering(station), self._host, port)
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
                host = f"[{self._host}]" if ":" in self._host else self._host
                self.places[station.terminal.settings.address] = f"{host}:{port}"
        except OSError:
            self.close()
            raise

    async def keep(self, stations: Sequence[Station]) -> None:
        """The master comes by itself."""
        del stations
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # Nobody is taken any more; who is here may still part.
            self.close()

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        self._servers.clear()


class _Caller(asyncio.Protocol):
    """A master that calls: the station's, if it has power and no other master."""

    def __init__(self, station: Station) -> None:
        self._station: Station | None = station

    @classmethod
    def answering(cls, station: Station) -> Any:
        """What makes the protocols of a server."""
        return lambda: cls(station)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        station = self._station
        if station is None or station.connected or not station.power.is_set():
            self._station = None
            cast("asyncio.Transport", transport).abort()
            return
        station.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._station is not None:
            self._station.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._station is not None:
            self._station.connection_lost(exc)
