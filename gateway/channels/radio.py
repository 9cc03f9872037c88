"""Channel `radio`: a 230 MHz data radio (230 MHz 无线数传电台) behind a serial port or a TCP-to-serial server.

The line is the serial channel's: opened, lost and opened again, searched for frames, with one link for all terminals.
What differs is who may talk when: everything that the link writes goes through a `Medium`, which keys the transmitter,
writes octets in their time, and listens. So octets are never written ahead of the air by more than a little, whatever
a server on the network would buffer.

The journal without room does not stop the reading, for what is said on the air now cannot be said later: it stops the
asking. A slow medium cannot flood anybody.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal, Protocol, runtime_checkable

import serialx

from gateway.channels.channel import Traits
from gateway.channels.serial import (
    Lost,
    Opener,
    PortSettings,
    Received,
    SerialCounters,
    SerialLine,
    SerialOptions,
    SerialPort,
    _LineEnd,
    _SerialxPort,
)
from gateway.channels.stream import LineLink
from gateway.clock import Clock
from gateway.link import ChannelContext
from gateway.logs import get_logger
from gateway.medium import Medium, MediumOptions
from protocols.events import Moment
from wire698.frame import Garbage

log = get_logger(__name__)

_LINGER_S: Final = 10.0
"""How long the last octets may take to leave, s."""
_KEYINGS: Final = 64
"""Changes of the carrier that wait to be made."""


@dataclass(frozen=True, slots=True)
class RadioOptions:
    """Settings of the channel; times in s.

    keying: what raises the carrier: `auto` the radio itself, from the octets; `rts` the RTS line. terminals: who is
    on the air; others: serve those that are not named, too. medium: see there; its bit rate is that of the air, and no
    higher than the port's.
    """

    port: PortSettings
    medium: MediumOptions
    keying: Literal["auto", "rts"] = "auto"
    terminals: tuple[str, ...] = ()
    others: bool = True
    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 30.0


@runtime_checkable
class KeyedPort(SerialPort, Protocol):
    """A port that can raise a carrier."""

    async def key(self, on: bool) -> None:
        """Set RTS. Raises one of the port's errors."""


class _RtsPort(_SerialxPort):
    """A port of `serialx` with its RTS line."""

    async def key(self, on: bool) -> None:
        await self._transport.set_modem_pins(rts=on)


async def open_rts(settings: PortSettings, received: Received, lost: Lost) -> SerialPort:
    """Open a port with `serialx` for keying by RTS. Raises OSError, TimeoutError or SerialException."""
    port = _RtsPort(received, lost)
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
        await port.key(False)
    return port


class _RadioEnd(_LineEnd):
    """What the link acts through: it never stops reading, but asking."""

    __slots__ = ("_medium",)

    def __init__(self, channel: RadioLine, port: SerialPort, peer: str) -> None:
        super().__init__(channel, port, peer)
        self._medium = channel.medium

    def pause(self) -> None:
        self._medium.hold(True)

    def resume(self) -> None:
        self._medium.hold(False)


class RadioLine(SerialLine):
    """One radio, and all terminals on its frequency. `run` in the daemon's TaskGroup."""

    gauges = ("open",)

    def __init__(
        self,
        context: ChannelContext,
        options: RadioOptions,
        clock: Clock,
        rng: Random,
        opener: Opener | None = None,
    ) -> None:
        """`opener`: None for `serialx`, with RTS where that keys the radio."""
        medium = options.medium
        line = SerialOptions(
            port=options.port,
            preamble=medium.preamble,
            gap_min_s=medium.gap_s,
            gap_octets=medium.gap_octets,
            shared=True,
            terminals=options.terminals,
            others=options.others,
            reconnect_min_s=options.reconnect_min_s,
            reconnect_max_s=options.reconnect_max_s,
        )
        keyed = options.keying == "rts"
        arguments: dict[str, Any] = {"opener": opener or open_rts} if opener is not None or keyed else {}
        super().__init__(context, line, clock, rng, **arguments)
        self.traits = Traits("shared", min(context.max_frame, medium.max_frame))
        self.counters: SerialCounters
        self._woken = asyncio.Event()
        self._keyings: asyncio.Queue[bool] = asyncio.Queue(_KEYINGS)
        self._keyed = keyed
        self.medium = Medium(context, medium, self, clock, self._woken.set)

    @property
    def air(self) -> Medium:
        """How the terminals of this channel are asked."""
        return self.medium

    async def run(self) -> None:
        """Keep the line and the medium's time until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run())
            if self._keyed:
                tasks.create_task(self._key())
            while True:
                self._woken.clear()
                if self.link is not None:
                    self.medium.tick(self.clock.moment())
                due = self.medium.deadline() if self.link is not None else None
                wait = None if due is None else max(0.0, due - self.clock.moment().mono)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._woken.wait()

    # --- from the line ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        assert self._port is not None
        options = self.options
        self.link = LineLink(
            self.context, _RadioEnd(self, self._port, self.place), options.terminals, others=options.others
        )
        self.medium.link = self.link
        self.medium.hold(self.context.paused)
        if self.context.paused:
            self.link.halt(True)
        self.link.expect(self.clock.moment())
        self._woken.set()

    def _end(self) -> None:
        super()._end()
        self.medium.link = None
        self.medium.lost(self.clock.moment())

    def _received(self, octets: bytes) -> None:
        self.medium.received(octets, self.clock.moment())
        self._woken.set()

    def send(self, octets: bytes) -> None:
        """Frames of the link: each waits for its turn."""
        self.medium.say(octets)

    # --- what the medium acts with ------------------------------------------------------------------------------

    def key(self, on: bool) -> None:
        if self._keyed:
            try:
                self._keyings.put_nowait(on)
            except asyncio.QueueFull:
                # The port has been stuck for many turns: its end is near, and ends every carrier.
                self.counters.unsent += 1

    async def _key(self) -> None:
        """Raise and drop the carrier, one change after another."""
        while True:
            on = await self._keyings.get()
            port = self._port
            if not isinstance(port, KeyedPort):
                continue
            try:
                await port.key(on)
            except (OSError, serialx.SerialException) as error:
                log.warning("cannot key", channel=self.context.name, peer=self.place, error=str(error))

    def write(self, octets: bytes) -> None:
        port = self._port
        if port is None or port.pending() > self.options.write_buffer_bytes:
            self.counters.unsent += 1
            return
        try:
            port.write(octets)
        except (OSError, serialx.SerialException) as error:
            # Its end is on its way through `lost`.
            self.counters.unsent += 1
            log.warning("cannot write", channel=self.context.name, peer=self.place, error=str(error))

    def deliver(self, octets: bytes, moment: Moment) -> None:
        self._silence(moment)
        self._heard = moment.mono
        for item in self._sieve.feed(octets):
            if isinstance(item, Garbage):
                self._garbage(item)
            elif self.link is not None and not self.link.closing:
                self.link.received(item.raw, moment)
        self.counters.preamble_octets = self._sieve.preamble
