"""Channel `serial`: one line (RS-232, RS-485) with one terminal or several on it, opened with `serialx`.

Theory of operation. The line has one link for as long as the port is open, whoever comes and goes on it. Octets are
searched for frames here, before the link, because a line is not a network: a preamble of FE stands before each frame
(前导字节; wire.md a.5, oddity 20) and is no noise; our own frames may come back (an RS-485 adapter hears itself); and a
frame of which no octet comes for longer than the gap is given up, so that the next one is not taken for its rest.

When the device is gone (an adapter is unplugged, a server on the network closes) the link ends, and the port is opened
again, with waits that grow up to a bound. Terminals named in the settings are taken whenever they are on no other
link, and may be asked though they have never said a word.

Whoever wants another serial library writes an `Opener`; nothing else knows `serialx`.

Bounds: the framer's one frame, octets that wait to be written, echoes remembered, time to open. Where a port has more
to write than it takes, the frame is dropped and counted; the machine asks again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal, Protocol, TypeAlias

import serialx

from gateway.channels.channel import Traits
from gateway.channels.stream import Backoff, LineLink, split_frames
from gateway.clock import Clock
from gateway.link import ChannelContext, count_garbage
from gateway.logs import get_logger
from protocols.events import Moment
from protocols.registry import TerminalProtocol
from wire698.frame import Garbage

log = get_logger(__name__)

PREAMBLE: Final = 0xFE
_TURN_S: Final = 0.05
"""The line's times are kept to this precision, s."""
_LINGER_S: Final = 10.0
"""How long the last octets may take to leave, s."""
_ECHO_FRAMES: Final = 32
"""Frames of ours that may still come back."""
_PORT_ERRORS: Final = (OSError, serialx.SerialException)
"""What opening a port or writing to it may raise; a timeout is an OSError."""


# --- the port ------------------------------------------------------------------------------------------------------


class SerialPort(Protocol):
    """An open port."""

    def write(self, octets: bytes) -> None:
        """Send octets. Raises one of the port's errors when it is broken."""

    def pending(self) -> int:
        """Octets that wait to be sent."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close when what was written is out; `lost` is called then."""


@dataclass(frozen=True, slots=True)
class PortSettings:
    """How to open a port. url: a device, `socket://HOST:PORT` (octets as they are), `rfc2217://HOST:PORT`."""

    url: str
    bit_rate: int = 9600
    parity: Literal["N", "E", "O"] = "E"
    stop_bits: Literal[1, 2] = 1
    open_timeout_s: float = 10.0

    @property
    def octet_s(self) -> float:
        """Time that an octet takes, s: start bit, 8 bits, parity, stop bits."""
        return (1 + 8 + (self.parity != "N") + self.stop_bits) / self.bit_rate


Received: TypeAlias = Callable[[bytes], None]
Lost: TypeAlias = Callable[[Exception | None], None]
Opener: TypeAlias = Callable[[PortSettings, Received, Lost], Awaitable[SerialPort]]
"""Opens a port that calls `received` with octets, and once, at its end, `lost`. Raises what `_PORT_ERRORS` names."""


class _SerialxPort(asyncio.Protocol):
    """A port of `serialx`."""

    def __init__(self, received: Received, lost: Lost) -> None:
        self._received = received
        self._lost = lost
        self._transport: Any = None
        self._ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._ending is None:
            self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._lost(exc)

    def write(self, octets: bytes) -> None:
        self._transport.write(octets)

    def pending(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        return size

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)
            # An RFC 2217 server is asked whether all octets are out, so its answer must be read.
            self.resume()
            self._transport.close()


async def open_serialx(settings: PortSettings, received: Received, lost: Lost) -> SerialPort:
    """Open a port with `serialx`. Raises OSError, TimeoutError or SerialException."""
    port = _SerialxPort(received, lost)
    async with asyncio.timeout(settings.open_timeout_s):
        await serialx.create_serial_connection(
            asyncio.get_running_loop(),
            lambda: port,
            settings.url,
            baudrate=settings.bit_rate,
            parity=serialx.Parity(settings.parity),
            stopbits=serialx.StopBits(settings.stop_bits),
            byte_size=8,
            close_timeout=_LINGER_S,
        )
    return port


# --- finding frames on a line --------------------------------------------------------------------------------------


class Sieve:
    """Finds frames in a line's octets, and tells the preamble before them from noise."""

    __slots__ = ("_framer", "_kept", "preamble")

    def __init__(self, protocol: TerminalProtocol, limit: int) -> None:
        self._framer = protocol.framer(limit)
        self._kept = b""
        self.preamble = 0
        """FE octets that came between frames; no garbage."""

    @property
    def waiting(self) -> bool:
        """Whether a frame waits for its rest."""
        return bool(self._kept)

    def feed(self, octets: bytes) -> list[Any]:
        """Take octets as they come; frames and garbage in the order of the line."""
        data, at, kept = self._kept + octets, 0, []
        for item in self._framer.feed(octets):
            if not isinstance(item, Garbage):
                at += len(item.raw)
            else:
                piece = data[at : at + item.octets]
                at += item.octets
                if item.reason == "noise":
                    noise = piece.rstrip(bytes((PREAMBLE,)))
                    self.preamble += len(piece) - len(noise)
                    if noise:
                        kept.append(Garbage("noise", len(noise)))
                    continue
            kept.append(item)
        self._kept = data[at:]
        return kept

    def discard(self) -> Garbage | None:
        """Give up a frame whose rest has not come."""
        self._kept = b""
        lost: Garbage | None = self._framer.discard()
        return lost


# --- the channel ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SerialOptions:
    """Settings of the channel; times in s.

    preamble: FE octets before each frame that we send. gap_octets, gap_min_s: a frame is given up when for so many
    octets' time, and at least so long, none has come. shared: half-duplex, one talks at a time. echo: our own frames
    come back. terminals: who is on the line; others: serve those that are not named, too.
    """

    port: PortSettings
    preamble: int = 4
    gap_octets: int = 50
    gap_min_s: float = 0.25
    shared: bool = False
    echo: bool = False
    terminals: tuple[str, ...] = ()
    others: bool = True
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 30.0
    write_buffer_bytes: int = 65_536

    @property
    def gap_s(self) -> float:
        """Silence within a frame that ends it, s."""
        return max(self.gap_min_s, self.gap_octets * self.port.octet_s)


@dataclass(slots=True)
class SerialCounters:
    """Totals since start, except `open` (now). `unsent`: frames dropped because the port takes no more or is away."""

    open: int = 0
    opened: int = 0
    failures: int = 0
    lost: int = 0
    half_frames: int = 0
    preamble_octets: int = 0
    echoes: int = 0
    unsent: int = 0


class _LineEnd:
    """What the link of a line acts through."""

    __slots__ = ("_channel", "_port", "peer")

    def __init__(self, channel: SerialLine, port: SerialPort, peer: str) -> None:
        self._channel = channel
        self._port = port
        self.peer = peer

    def write(self, octets: bytes) -> None:
        self._channel.send(octets)

    def pause(self) -> None:
        self._port.pause()

    def resume(self) -> None:
        self._port.resume()

    def close(self, reason: str) -> None:
        self._channel.renew(reason)


class SerialLine:
    """One line. `run` in the daemon's TaskGroup; `stop_accepting` before draining."""

    gauges = ("open",)

    def __init__(
        self,
        context: ChannelContext,
        options: SerialOptions,
        clock: Clock,
        rng: Random,
        opener: Opener = open_serialx,
    ) -> None:
        self.context = context
        self.options = options
        self.clock = clock
        self.counters = SerialCounters()
        self.traits = Traits("shared" if options.shared else "stream", context.max_frame)
        self.place: str = serialx.redact_uri(options.port.url)
        self.link: LineLink | None = None
        self._opener = opener
        self._backoff = Backoff(options.reconnect_min_s, options.reconnect_max_s, rng)
        self._sieve = Sieve(context.protocol, context.max_frame)
        self._heard = 0.0
        self._echoes: deque[bytes] = deque(maxlen=_ECHO_FRAMES)
        self._port: SerialPort | None = None
        self._opening = False
        self._due = 0.0
        self._stopped = False
        self._gone = asyncio.Event()
        self._gone.set()
        self._tasks: asyncio.TaskGroup | None = None

    async def start(self) -> None:
        """Nothing can fail here: a port that is not there now is tried again."""

    async def run(self) -> None:
        """Open the port, again whenever it is gone, and keep time, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                self.tick(self.clock.moment())
                await asyncio.sleep(_TURN_S)

    def tick(self, moment: Moment) -> None:
        """Open when it is time; give up half a frame; take the expected terminals that are on no link."""
        if self._port is None:
            if self._tasks is not None and not (self._opening or self._stopped) and moment.mono >= self._due:
                self._opening = True
                self._tasks.create_task(self._open())
            return
        self._silence(moment)
        if self.link is not None:
            self.link.expect(moment)

    # --- the port -----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        ended: list[Exception | None] = []

        def lost(error: Exception | None) -> None:
            ended.append(error)
            if port is not None and self._port is port:
                self._lost(error)

        port: SerialPort | None = None
        try:
            port = await self._opener(self.options.port, self._received, lost)
        except _PORT_ERRORS as error:
            self._failed(error)
            return
        finally:
            self._opening = False
        if ended:
            self._failed(ended[0])
            return
        self._port = port
        self._gone.clear()
        if self._stopped:
            port.close()
            return
        self.counters.open = 1
        self.counters.opened += 1
        log.info("line open", channel=self.context.name, peer=self.place)
        self._begin()

    def _failed(self, error: Exception | None) -> None:
        """It could not be opened: later."""
        self.counters.failures += 1
        self._due = self.clock.moment().mono + self._backoff.failed()
        if self._backoff.failures <= 2:  # an end that was no failure counts as the first
            log.warning("cannot open", channel=self.context.name, peer=self.place, error=str(error) or repr(error))

    def _lost(self, error: Exception | None) -> None:
        """The device is gone, or is closed."""
        tell = log.info if self._stopped else log.warning
        tell("line lost", channel=self.context.name, peer=self.place, error=str(error or "closed"))
        moment = self.clock.moment()
        self._port = None
        self.counters.open = 0
        self.counters.lost += 1
        self._give_up()
        self._end()
        self._due = moment.mono + self._backoff.failed()
        self._gone.set()

    def _begin(self) -> None:
        """A link for the open port."""
        assert self._port is not None
        options = self.options
        end = _LineEnd(self, self._port, self.place)
        self.link = LineLink(self.context, end, options.terminals, others=options.others)
        if self.context.paused:
            self.link.halt(True)
        self.link.expect(self.clock.moment())

    def _end(self) -> None:
        """The link is over."""
        link, self.link = self.link, None
        if link is not None:
            if link.identified:
                self._backoff.succeeded()
            link.lost(self.clock.moment())

    def renew(self, reason: str) -> None:
        """The link wants its end: another takes its place, unless the channel ends. The port stays open."""
        log.info("closing", channel=self.context.name, peer=self.place, reason=reason)
        # The link may be in the middle of a frame, so it is told later.
        asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        if self.link is not None and self.link.closing:
            self._end()
            if self._port is not None and not self._stopped:
                self._begin()

    # --- octets -------------------------------------------------------------------------------------------------

    def _received(self, octets: bytes) -> None:
        moment = self.clock.moment()
        self._silence(moment)
        self._heard = moment.mono
        for item in self._sieve.feed(octets):
            if isinstance(item, Garbage):
                self._garbage(item)
            elif self.options.echo and item.raw in self._echoes:
                self._echoes.remove(item.raw)
                self.counters.echoes += 1
            elif self.link is not None and not self.link.closing:
                self.link.received(item.raw, moment)
        self.counters.preamble_octets = self._sieve.preamble

    def _silence(self, moment: Moment) -> None:
        """Too long a silence within a frame ends it."""
        if self._sieve.waiting and moment.mono - self._heard >= self.options.gap_s:
            self.counters.half_frames += 1
            self._give_up()

    def _give_up(self) -> None:
        lost = self._sieve.discard()
        if lost is not None:
            self._garbage(lost)

    def _garbage(self, garbage: Garbage) -> None:
        self.context.counters.octets_in += garbage.octets
        count_garbage(self.context.counters, garbage)

    def send(self, octets: bytes) -> None:
        """Send frames, each behind its preamble."""
        port = self._port
        for frame in split_frames(self.context.protocol, octets):
            if port is None or port.pending() > self.options.write_buffer_bytes:
                self.counters.unsent += 1
                continue
            if self.options.echo:
                self._echoes.append(frame)
            try:
                port.write(bytes((PREAMBLE,)) * self.options.preamble + frame)
            except _PORT_ERRORS as error:
                # Its end is on its way through `lost`.
                self.counters.unsent += 1
                log.warning("cannot write", channel=self.context.name, peer=self.place, error=str(error))

    # --- the end ------------------------------------------------------------------------------------------------

    async def stop_accepting(self) -> None:
        """Open no more, and read no more."""
        self._stopped = True
        for link in list(self.context.links):
            link.halt(True)

    async def close(self) -> None:
        """Close the port when what is written is out."""
        self._stopped = True
        if self.link is not None and not self.link.closing:
            self.link.close("the gateway stops")
        port = self._port
        if port is not None:
            port.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _LINGER_S):
                    await self._gone.wait()
