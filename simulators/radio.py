"""A shared radio channel 共用无线信道 with terminals on it: half-duplex, slow, and unforgiving.

Theory of operation. Octets take their time on the air. A transmission is a carrier with octets in it; while two
carriers overlap both are destroyed, and that is a violation, kept for whoever asks. So is a master that talks before a
station's radio has switched back to receive. Each octet may be hit by a bit error. `Radio` has no clock and no socket:
time is an argument (s, any monotonic clock); `RadioServer` puts it behind a pseudo-terminal or a TCP port.

A station is a simulated terminal or a script: it takes frames, and says something after a while.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import tty
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from wire698.frame import Frame, Framer

from .terminal import Terminal

MASTER: Final = "master"
PREAMBLE: Final = b"\xfe"
_KEPT: Final = 100_000
"""Carriers and violations that are remembered, the latest."""
_BACKOFF_S: Final = 0.5
"""A station with something to say waits up to so long behind another's end."""


class RadioSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The channel and the radios on it; times in s.

    character_bits: 11 for 8E1. turn_s: from the end of a request to the carrier of its answer; key_up_s: from a
    station's carrier to its first octet; switch_s: so long after its own end a station cannot hear. piece: octets that
    come out of a receiver at once. bit_error_rate: of each bit, both ways. echo: the master hears itself.
    """

    bit_rate: int = 9600
    character_bits: int = 11
    propagation_s: float = 0.0001
    turn_s: float = 0.02
    key_up_s: float = 0.05
    switch_s: float = 0.01
    preamble: int = 4
    piece: int = 16
    bit_error_rate: float = 0.0
    seed: int = 0
    echo: bool = False

    @property
    def octet_s(self) -> float:
        """Time of one octet."""
        return self.character_bits / self.bit_rate


class Saying(NamedTuple):
    """Frames that a station says `after` s, each with its preamble."""

    after: float
    frames: tuple[bytes, ...]


class Station(Protocol):
    """Somebody on the channel."""

    name: str

    def take(self, frame: Frame, now: float) -> list[Saying]:
        """A frame of the master was heard; what is said to it."""

    def tick(self, now: float) -> list[Saying]:
        """Time has passed; what is said unasked."""

    def deadline(self) -> float | None:
        """When `tick` has something to do."""


class TerminalStation:
    """A simulated terminal with a radio. It answers; unasked it says only what a terminal says that has logged in."""

    def __init__(self, terminal: Terminal) -> None:
        self.name = terminal.settings.address
        self.terminal = terminal

    def take(self, frame: Frame, now: float) -> list[Saying]:
        frames = self.terminal.feed(frame, now)
        return [Saying(0.0, tuple(frames))] if frames else []

    def tick(self, now: float) -> list[Saying]:
        frames = self.terminal.tick(now)
        return [Saying(0.0, tuple(frames))] if frames else []

    def deadline(self) -> float | None:
        return self.terminal.deadline()


class Violation(NamedTuple):
    """The rules of the medium were broken. `rule`: `collision`, or `turnaround` (talked before others could hear)."""

    at: float
    rule: Literal["collision", "turnaround"]
    talkers: tuple[str, str]


class Carrier(NamedTuple):
    """Who was on the air, from when to when, with how many octets."""

    talker: str
    begins: float
    ends: float
    octets: int


class _Transmission:
    """A carrier under way. Octet i is out at `base` + (i + 1) octet times."""

    __slots__ = ("base", "begins", "keyed", "octets", "out", "ruined", "talker")

    def __init__(self, talker: str, begins: float, base: float, octets: bytes, *, keyed: bool = False) -> None:
        self.talker = talker
        self.begins = begins
        self.base = base
        self.octets = bytearray(octets)
        self.out = 0
        self.ruined = False
        self.keyed = keyed

    def ends(self, octet_s: float) -> float:
        return self.base + len(self.octets) * octet_s


class Radio:
    """The channel. The master's side: `key` (where its carrier is known), `write`, and what `tick` returns."""

    def __init__(self, settings: RadioSettings, stations: Iterable[Station]) -> None:
        self.settings = settings
        self.stations = list(stations)
        self.violations: deque[Violation] = deque(maxlen=_KEPT)
        self.carriers: deque[Carrier] = deque(maxlen=_KEPT)
        self.bit_errors = 0
        self._rng = Random(settings.seed)  # noqa: S311 (noise, no secret)
        self._air: list[_Transmission] = []
        self._plans: list[tuple[float, int, str, bytes, bool]] = []
        self._number = itertools.count()
        self._master: _Transmission | None = None
        self._framer = Framer()
        self._heard: list[bytes] = []
        self._station_end = -1e9
        self._hits_at = self._next_hit()
        self._octet_s = settings.octet_s
        self._due: list[tuple[float, int, Station]] = []
        for station in self.stations:
            self._schedule(station)

    # --- the master ---------------------------------------------------------------------------------------------

    def key(self, on: bool, now: float) -> None:
        """The master's carrier. Without it the carrier lasts as long as the octets do."""
        self._advance(now)
        if on and self._master is None:
            self._master = _Transmission(MASTER, now, now, b"", keyed=True)
            self._begin(self._master, now)
        elif on and self._master is not None:
            self._master.keyed = True
        elif self._master is not None:
            self._master.keyed = False
            self._finish(now)

    def write(self, octets: bytes, now: float) -> None:
        """The master sends octets: at once, or behind those that it is sending."""
        self._advance(now)
        master = self._master
        if master is None:
            master = self._master = _Transmission(MASTER, now, now, b"")
            self._begin(master, now)
        if master.ends(self._octet_s) < now:
            master.base = now - len(master.octets) * self._octet_s
        master.octets += octets

    # --- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When something happens next on the air."""
        dues = [self._next_piece(sending) for sending in self._air if sending.out < len(sending.octets)]
        dues += [
            sending.ends(self._octet_s)
            for sending in self._air
            if sending.out == len(sending.octets) and not sending.keyed
        ]
        if self._plans:
            dues.append(self._plans[0][0])
        if self._due:
            dues.append(self._due[0][0])
        return min(dues, default=None)

    def tick(self, now: float) -> bytes:
        """Let things happen up to `now`; the octets that the master has heard since the last call."""
        self._advance(now)
        heard, self._heard = b"".join(self._heard), []
        return heard

    def _advance(self, now: float) -> None:
        while True:
            due = self.deadline()
            if due is None or due > now:
                return
            self._happen(due)

    def _happen(self, at: float) -> None:
        """Everything of one instant."""
        for sending in list(self._air):
            while sending.out < len(sending.octets) and self._next_piece(sending) <= at:
                self._carry(sending, at)
        self._finish(at)
        while self._plans and self._plans[0][0] <= at:
            _, _, name, octets, asked = heapq.heappop(self._plans)
            if self._air and not asked:
                # Unasked, it listens first, and waits its time.
                later = max(other.ends(self._octet_s) for other in self._air) + self._rng.uniform(0.1, 1) * _BACKOFF_S
                self._plan(later, name, octets, asked=False)
                continue
            self._begin(_Transmission(name, at, at + self.settings.key_up_s, octets), at)
        while self._due and self._due[0][0] <= at:
            station = heapq.heappop(self._due)[2]
            for saying in station.tick(at):
                self._say(station, saying, at, asked=False)
            self._schedule(station)

    def _schedule(self, station: Station) -> None:
        due = station.deadline()
        if due is not None:
            heapq.heappush(self._due, (due, next(self._number), station))

    def _say(self, station: Station, saying: Saying, now: float, *, asked: bool) -> None:
        settings = self.settings
        octets = b"".join(PREAMBLE * settings.preamble + frame for frame in saying.frames)
        self._plan(now + settings.turn_s + saying.after, station.name, octets, asked=asked)

    def _plan(self, at: float, name: str, octets: bytes, *, asked: bool) -> None:
        heapq.heappush(self._plans, (at, next(self._number), name, octets, asked))

    # --- carriers -----------------------------------------------------------------------------------------------

    def _begin(self, sending: _Transmission, now: float) -> None:
        """A carrier goes up."""
        for other in self._air:
            other.ruined = sending.ruined = True
            self.violations.append(Violation(now, "collision", (other.talker, sending.talker)))
        if sending.talker == MASTER:
            if now < self._station_end + self.settings.switch_s:
                sending.ruined = True
                self.violations.append(Violation(now, "turnaround", (MASTER, "stations")))
            self._framer.discard()
        self._air.append(sending)

    def _finish(self, now: float) -> None:
        """Carriers whose octets are out go down."""
        for sending in list(self._air):
            if sending.keyed or sending.out < len(sending.octets) or sending.ends(self._octet_s) > now:
                continue
            self._air.remove(sending)
            self.carriers.append(Carrier(sending.talker, sending.begins, now, len(sending.octets)))
            if sending is self._master:
                self._master = None
            else:
                self._station_end = now

    def _next_piece(self, sending: _Transmission) -> float:
        size = min(self.settings.piece, len(sending.octets) - sending.out)
        return sending.base + (sending.out + size) * self._octet_s + self.settings.propagation_s

    def _carry(self, sending: _Transmission, now: float) -> None:
        """The next piece arrives."""
        piece = bytes(sending.octets[sending.out : sending.out + self.settings.piece])
        sending.out += len(piece)
        heard = self._rng.randbytes(len(piece)) if sending.ruined else self._hit(piece)
        if sending.talker != MASTER:
            self._heard.append(heard)
            return
        if self.settings.echo:
            self._heard.append(piece)
        for found in self._framer.feed(heard):
            if isinstance(found, Frame):
                for station in self.stations:
                    for saying in station.take(found, now):
                        self._say(station, saying, now, asked=True)

    def _next_hit(self) -> int:
        """Bits until the next error."""
        rate = self.settings.bit_error_rate
        return int(self._rng.expovariate(rate)) if rate > 0 else -1

    def _hit(self, piece: bytes) -> bytes:
        bits = len(piece) * 8
        if self._hits_at < 0 or self._hits_at >= bits:
            if self._hits_at >= 0:
                self._hits_at -= bits
            return piece
        octets = bytearray(piece)
        while 0 <= self._hits_at < bits:
            octets[self._hits_at // 8] ^= 1 << self._hits_at % 8
            self.bit_errors += 1
            self._hits_at += 1 + self._next_hit()
        self._hits_at -= bits
        return bytes(octets)


# --- a radio that a gateway can open ---------------------------------------------------------------------------------


class RadioServer:
    """A radio behind a device or a port: whoever opens it is the master. `run` in a TaskGroup, then `close`.

    There is no carrier to be seen from here: it lasts as long as the octets do.
    """

    def __init__(self, radio: Radio) -> None:
        self.radio = radio
        self._woken = asyncio.Event()
        self._pty: tuple[int, int] | None = None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    def open_pty(self) -> str:
        """Make a pseudo-terminal; the path of the device to be opened."""
        ours, theirs = self._pty = os.openpty()
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        asyncio.get_running_loop().add_reader(ours, self._readable, ours)
        return os.ttyname(theirs)

    async def open_tcp(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen for one master, as a TCP-to-serial server does; the port."""
        self._server = await asyncio.start_server(self._connected, host, port)
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    def _readable(self, descriptor: int) -> None:
        with suppress(BlockingIOError, OSError):
            self._take(os.read(descriptor, 4096))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()
            return
        self._writer = writer
        try:
            while octets := await reader.read(4096):
                self._take(octets)
        except ConnectionError:
            pass
        finally:
            self._writer = None
            writer.close()

    def _take(self, octets: bytes) -> None:
        self.radio.write(octets, asyncio.get_running_loop().time())
        self._woken.set()

    def _give(self, octets: bytes) -> None:
        if self._pty is not None:
            # A master that reads nothing loses it, as on the air.
            with suppress(BlockingIOError):
                os.write(self._pty[0], octets)
        elif self._writer is not None:
            self._writer.write(octets)

    async def run(self) -> None:
        """Keep the radio's time until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            octets = self.radio.tick(loop.time())
            if octets:
                self._give(octets)
            due = self.radio.deadline()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._woken.wait()

    def close(self) -> None:
        """Close what was opened."""
        if self._pty is not None:
            asyncio.get_running_loop().remove_reader(self._pty[0])
            for descriptor in self._pty:
                os.close(descriptor)
            self._pty = None
        if self._server is not None:
            self._server.close()
