"""One connection of the publisher to the broker: the asyncio protocol under `gateway.publisher`.

It reads CONNACK, PUBACK, PINGRESP and DISCONNECT and nothing else, gathers what is written in one turn of
the loop into one write, and watches that the broker lives: a ping when nothing was sent for half the
keepalive time, the end when nothing came for one and a half, and the end when messages wait for a PUBACK
and none comes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from gateway.mqtt_packets import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    Connack,
    PacketError,
    PacketReader,
    encode_disconnect,
    parse_connack,
    parse_disconnect,
    parse_puback,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connection", "ConnectionRefused"]

_WRITE_NOW = 256 << 10  # octets gathered above which the transport gets them at once, so that it can pause us


class ConnectionRefused(Exception):  # noqa: N818 - what happened, like ConnectionRefusedError of a socket
    """The broker did not accept the connection, or closed it before it did."""


class Connection(asyncio.Protocol):
    """A connection that was, or will be, accepted. `accepted` gives the CONNACK, `closed` the reason of the
    end.

    `on_puback(packet_id, reason)` for each PUBACK, `on_read()` after the packets of one read, `on_resume()`
    when the transport takes octets again.
    """

    def __init__(
        self,
        version: int,
        clock: Callable[[], float],
        on_puback: Callable[[int, int], None],
        on_read: Callable[[], None],
        on_resume: Callable[[], None],
    ) -> None:
        self.version = version
        self.paused = False
        self.connack = Connack(0)
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[Connack] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._clock = clock
        self._on_puback = on_puback
        self._on_read = on_read
        self._on_resume = on_resume
        self._reader = PacketReader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_octets = 0
        self._reason = ""
        self._sent_at = self._heard_at = self._acked_at = clock()

    # -- writing -----------------------------------------------------------------------------------------

    def send(self, packet: bytes) -> None:
        """Queue a packet; all packets of one turn of the loop are one write, or some if they are large."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packet)
        self._out_octets += len(packet)
        if self._out_octets >= _WRITE_NOW:
            self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._out_octets = 0
        if self._transport is not None and out:
            self._sent_at = self._clock()
            self._transport.write(b"".join(out))

    def leave(self) -> None:
        """Send what is queued and DISCONNECT, then close."""
        self._out.append(encode_disconnect(self.version))
        self._flush()
        self._reason = self._reason or "we left"
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what is in the transport is dropped."""
        self._reason = self._reason or reason
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def set_write_limit(self, octets: int) -> None:
        """`paused` is true while the transport holds more octets than this."""
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=octets)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._out.clear()
        reason = self._reason or (f"{exc}" if exc else "broker closed the connection")
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionRefused(reason))
            self.accepted.exception()  # the connect may have been given up: nobody need look at it
        if not self.closed.done():
            self.closed.set_result(reason)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._on_resume()

    def data_received(self, data: bytes) -> None:
        if self._reason:
            return
        self._heard_at = self._clock()
        try:
            for head, body in self._reader.feed(data):
                if head == PUBACK and self.accepted.done():
                    packet_id, reason = parse_puback(body)
                    self._acked_at = self._heard_at
                    self._on_puback(packet_id, reason)
                else:
                    self._control(head, body)
        except PacketError as exc:
            self.abort(f"broker sent a malformed packet: {exc}")
            return
        self._on_read()

    def _control(self, head: int, body: bytes) -> None:
        if head == CONNACK and not self.accepted.done():
            self.connack = parse_connack(body, self.version)
            self.accepted.set_result(self.connack)
        elif head == DISCONNECT and self.version == 5:
            reason, text = parse_disconnect(body)
            self.abort(f"broker disconnected us: {reason:#04x} {text}".rstrip())
        elif head != PINGRESP or not self.accepted.done():
            raise PacketError(f"unexpected packet, first octet {head:#04x}")

    # -- life --------------------------------------------------------------------------------------------

    async def watch(self, keepalive_s: float, ack_timeout_s: float, waiting: Callable[[], bool]) -> str:
        """Keep alive until the end; returns its reason. `waiting()`: whether messages wait for a PUBACK."""
        self._acked_at = self._clock()
        step_s = min(keepalive_s / 4 if keepalive_s else 1.0, ack_timeout_s / 4, 1.0)
        while True:
            await asyncio.wait({self.closed}, timeout=step_s)
            if self.closed.done():
                return self.closed.result()
            now = self._clock()
            if not waiting():
                self._acked_at = now
            if now - self._acked_at > ack_timeout_s:
                self.abort(f"no PUBACK for {ack_timeout_s:g} s")
            elif keepalive_s and now - self._heard_at > 1.5 * keepalive_s:
                self.abort(f"broker silent for {1.5 * keepalive_s:g} s")
            elif keepalive_s and max(now - self._sent_at, now - self._heard_at) >= keepalive_s / 2:
                self.send(PINGREQ)
