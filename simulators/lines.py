"""Lines that terminals share: a serial line, and a radio channel. Each answers by its address.

On a line terminals speak when they are spoken to; `unasked` ones also log in when it opens, and report. The wire is
opened again whenever its other side is gone. A serial line is as fast as its wire; on the radio octets take their time,
and two at once destroy each other (see radio).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from wire698.frame import Frame, Framer

from .counters import Counters
from .radio import PREAMBLE, Radio, RadioServer, RadioSettings, Saying
from .station import Station
from .ways import Pauses
from .wire import Wire

SERIAL_PREAMBLE: Final = PREAMBLE * 4
"""What stands before each frame on a serial line (前导字节); on the radio that is a setting."""
_SILENCE_S: Final = 0.5
"""A silence so long ends a frame."""


class _Tap:
    """A station's place at the line: what it writes to."""

    def __init__(self, line: SerialWay, station: Station) -> None:
        self._line = line
        self.station = station
        self.name = station.terminal.settings.address
        self._closed = False

    def write(self, octets: bytes) -> None:
        if not self._closed:
            self._line.say(octets)

    def close(self) -> None:
        """The station leaves the line."""
        if not self._closed:
            self._closed = True
            self._line.leave(self)
            asyncio.get_running_loop().call_soon(self.station.connection_lost, None)

    abort = close


class SerialWay:
    """A serial line with terminals on it."""

    goodbye = False

    def __init__(self, place: str, bit_rate: int, pauses: tuple[float, float], counters: Counters) -> None:
        """Raises ValueError for a place that is none."""
        self.wire = Wire(place, bit_rate, self._received, self._ended)
        self.taps: list[_Tap] = []
        self._pauses = pauses
        self._counters = counters
        self._framer = Framer()
        self._heard = 0.0
        self._up = asyncio.Event()
        self._down = asyncio.Event()

    async def open(self, stations: Sequence[Station]) -> None:
        """Open the wire, where it is no server on the network, which may come later. Raises OSError."""
        del stations
        if "://" not in self.wire.place:
            await self.wire.open()

    async def keep(self, stations: Sequence[Station]) -> None:
        """Keep the wire open, and the stations that have power at it."""
        async with asyncio.TaskGroup() as tasks:
            for station in stations:
                tasks.create_task(self._attend(station))
            pauses, failures = Pauses(stations[0], *self._pauses), 0
            while True:
                if await self._opened():
                    failures = 0
                    self._down.clear()
                    self._up.set()
                    await self._down.wait()
                else:
                    failures += 1
                    self._counters.connect_failures += 1
                await asyncio.sleep(pauses.after(failures))

    async def _opened(self) -> bool:
        if not self.wire.is_open:
            try:
                await self.wire.open()
            except (OSError, TimeoutError):
                return False
        return True

    async def _attend(self, station: Station) -> None:
        pauses = Pauses(station, *self._pauses)
        while True:
            await station.power.wait()
            await self._up.wait()
            tap = self._tap(station)
            self.taps.append(tap)
            station.begin(tap)
            await station.closed.wait()
            await asyncio.sleep(pauses.after(0))

    def _tap(self, station: Station) -> _Tap:
        return _Tap(self, station)

    def leave(self, tap: _Tap) -> None:
        """A station is at the line no more."""
        self.taps.remove(tap)

    def close(self) -> None:
        """Close the wire."""
        self.wire.close()

    def _ended(self) -> None:
        """The other side of the wire is gone."""
        self._up.clear()
        self._down.set()
        self._framer = Framer()
        for tap in list(self.taps):
            tap.close()

    def say(self, octets: bytes) -> None:
        """A station speaks."""
        self.wire.write(octets)

    def _received(self, octets: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if self._framer.waiting and now - self._heard > _SILENCE_S:
            self._counters.garbage += self._framer.discard() is not None
        self._heard = now
        for item in self._framer.feed(octets):
            if isinstance(item, Frame):
                for tap in list(self.taps):
                    tap.station.take([item])
            elif item.reason != "noise":  # a preamble is no garbage
                self._counters.garbage += 1


# --- radio -----------------------------------------------------------------------------------------------------------


class _Channel(Radio):
    """A radio channel on which a station may speak at any time, as its own timer says."""

    def speak(self, station: _AirTap, octets: bytes, now: float) -> None:
        """Said unasked, or late: it listens first."""
        self._advance(now)
        self._say(station, Saying(0.0, (octets,)), now, asked=False)


class _Server(RadioServer):
    """The channel in real time, behind a wire."""

    def __init__(self, radio: _Channel, wire: Wire) -> None:
        super().__init__(radio)
        self._wire = wire

    def _give(self, octets: bytes) -> None:
        self._wire.write(octets)

    def heard(self, octets: bytes) -> None:
        """The master sends."""
        self._take(octets)

    def wake(self) -> None:
        """The channel has more to do than it had."""
        self._woken.set()


class _AirTap(_Tap):
    """A station's radio. Frames said in answer, before any time has passed, are one transmission."""

    def __init__(self, line: RadioWay, station: Station) -> None:
        super().__init__(line, station)
        self._air = line
        self._answering: list[bytes] | None = None

    def write(self, octets: bytes) -> None:
        if self._answering is not None:
            self._answering.append(octets)
        elif not self._closed:
            self._air.speak(self, octets)

    def take(self, frame: Frame, now: float) -> list[Saying]:
        """A frame of the master was heard."""
        del now
        self._answering = []
        try:
            self.station.take([frame])
            said = tuple(self._answering)
        finally:
            self._answering = None
        return [Saying(0.0, said)] if said else []

    def tick(self, now: float) -> list[Saying]:
        """The station keeps its own time."""
        del now
        return []

    def deadline(self) -> float | None:
        return None


class RadioWay(SerialWay):
    """A radio channel with terminals on it. `radio` tells of carriers and violations."""

    def __init__(self, place: str, settings: RadioSettings, pauses: tuple[float, float], counters: Counters) -> None:
        """Raises ValueError for a place that is none."""
        super().__init__(place, settings.bit_rate, pauses, counters)
        self.radio = _Channel(settings, ())
        self._server = _Server(self.radio, self.wire)

    async def keep(self, stations: Sequence[Station]) -> None:
        """Keep the wire, the stations and the channel's time."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._server.run())
            await super().keep(stations)

    def _tap(self, station: Station) -> _Tap:
        tap = _AirTap(self, station)
        self.radio.stations.append(tap)
        return tap

    def leave(self, tap: _Tap) -> None:
        super().leave(tap)
        if isinstance(tap, _AirTap):
            # The list may be gone through just now.
            self.radio.stations = [station for station in self.radio.stations if station is not tap]

    def speak(self, tap: _AirTap, octets: bytes) -> None:
        """A station speaks without being asked just now."""
        self.radio.speak(tap, octets, asyncio.get_running_loop().time())
        self._server.wake()

    def _received(self, octets: bytes) -> None:
        self._server.heard(octets)
