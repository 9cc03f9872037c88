"""Our MQTT publisher: QoS 1, pipelined, for MQTT 3.1.1 and 5. It publishes and does nothing else.

Theory of operation. A message that was given to `publish` is held until its PUBACK says that it is
published (reason below 0x80); then its `done` is called. At most `window` messages wait for a PUBACK, never
more than the broker's receive maximum; `room` says how many more are taken now, and `on_room` is called
when there is room again. Packets made in one turn of the loop go out in one write. The session is clean:
after a reconnect everything that waits is sent again in its order, as new messages.

What cannot be published never blocks the rest for ever:
- refused by the broker (reason >= 0x80): sent again later with backoff; it keeps its place in the window
  meanwhile.
- larger than the broker's maximum packet size: dead letter, never sent.
- the broker closes the connection at it (MQTT 3.1.1 has no other way to refuse). After two connections that
  ended without one PUBACK, messages go one at a time; a message at which the connection ends three times is set
  aside. If another one is acknowledged then, it is tried again, and three more ends make it a dead letter; if
  none is, it comes back into the line: the broker is ill, not the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

import structlog

from gateway.mqtt_connection import Connection, ConnectionRefused
from gateway.mqtt_packets import (
    PacketError,
    Will,
    content_type_property,
    encode_connect,
    encode_publish,
    encode_publish_at_most_once,
)

if TYPE_CHECKING:
    from random import Random

    from gateway.mqtt_packets import Connack

__all__ = ["BrokerOptions", "DeadLetter", "Done", "Publisher", "UplinkCounters", "Will"]

log = structlog.get_logger(__name__)

Done = Callable[[int], None]
DeadLetter = Callable[[int, str, str], None]

_BARREN = 2  # connections without a PUBACK, after which messages go one at a time
_STRIKES = 3  # connections that end at one message, after which it is set aside
_SUSPECTS = 4  # messages set aside without one PUBACK: it is not them
_WRITE_HIGH = 1 << 20  # octets in the transport above which nothing more is written


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """How to reach the broker. Seconds; `protocol` 5 falls back to 4 (MQTT 3.1.1) where 5 is not spoken.

    A broker must say so in its CONNACK; for one that only keeps silent (amqtt does), set 4.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    client_id: str = ""
    protocol: int = 5
    keepalive_s: int = 30
    window: int = 4_096
    connect_timeout_s: float = 10.0
    ack_timeout_s: float = 30.0
    backoff_s: tuple[float, float] = (0.2, 15.0)
    refused_backoff_s: tuple[float, float] = (1.0, 60.0)

    def __post_init__(self) -> None:
        if self.protocol not in {4, 5}:
            raise ValueError(f"MQTT protocol level {self.protocol}: 4 (3.1.1) or 5")
        if not 1 <= self.window <= 65_535:
            raise ValueError(f"window of {self.window} messages: 1 to 65535")
        if not 1 <= self.keepalive_s <= 65_535:
            raise ValueError(f"keepalive of {self.keepalive_s} s: 1 to 65535")

    @classmethod
    def from_url(cls, url: str, *, tls: ssl.SSLContext | None = None) -> Self:
        """From `mqtt://user:password@host:port` or `mqtts://...`; raises `ValueError`, never showing the
        password.

        For mqtts without `tls` the system's certificate authorities are trusted.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ValueError(f"broker URL is not readable: {exc}") from None
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
            raise ValueError(f"broker URL {parts.scheme}://{parts.hostname or ''}: expected mqtt[s]://host[:port]")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError(f"broker URL for {parts.hostname}: nothing may follow the port")
        secure = parts.scheme == "mqtts"
        return cls(
            host=parts.hostname,
            port=port or (8883 if secure else 1883),
            username=unquote(parts.username) if parts.username is not None else None,
            password=unquote(parts.password) if parts.password is not None else None,
            tls=(tls or ssl.create_default_context()) if secure else None,
        )


@dataclass(slots=True)
class UplinkCounters:
    """What the metrics export. Totals since start, except `connected`, `in_flight`, `behind` (now).

    `behind`: committed rows that were not yet sent. `stray`: PUBACKs that belong to nothing.
    """

    published: int = 0
    acknowledged: int = 0
    refused: int = 0
    dead_letters: int = 0
    connects: int = 0
    reconnects: int = 0
    connect_failures: int = 0
    stray: int = 0
    connected: int = 0
    in_flight: int = 0
    behind: int = 0
    replayed: int = 0
    replay_refused: int = 0


@dataclass(slots=True)
class _Message:
    order: int
    topic: str
    payload: bytes
    retain: bool
    token: int
    done: Done | None
    volatile: bool
    attempts: int = 0
    strikes: int = 0
    on_trial: bool = False


class Publisher:
    """One connection to the broker, made again for as long as `run` runs. Methods belong to the loop's
    thread.

    `will` is called at each connect. `content_type` gives the MQTT 5 content type of a payload.
    `on_room()` is called when `room` may have changed; `on_connected()` before anything else is sent on a
    new connection; `on_dead(token, topic, reason)` when a message can never be published.
    """

    def __init__(
        self,
        options: BrokerOptions,
        *,
        rng: Random,
        will: Callable[[], Will | None] = lambda: None,
        content_type: Callable[[bytes], str] | None = None,
        on_room: Callable[[], None] = lambda: None,
        on_connected: Callable[[], None] = lambda: None,
        on_dead: DeadLetter = lambda _token, _topic, _reason: None,
        counters: UplinkCounters | None = None,
    ) -> None:
        self.options = options
        self.counters = counters or UplinkCounters()
        self.protocol = options.protocol
        self._rng = rng
        self._will = will
        self._content_type = content_type
        self._on_room = on_room
        self._on_connected = on_connected
        self._on_dead = on_dead
        self._properties: dict[str, bytes] = {}
        self._connection: Connection | None = None
        self._window = 0  # for messages in flight: 1 while one at a time
        self._most = 0  # for those that were refused too
        self._in_flight: dict[int, _Message] = {}
        self._backlog: deque[_Message] = deque()
        self._refused: dict[int, tuple[_Message, asyncio.TimerHandle]] = {}
        self._suspects: list[_Message] = []
        self._packet_id = 0
        self._order = 0
        self._barren = 0
        self._fruitful = False
        self._stopping = asyncio.Event()

    # -- publishing --------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many messages `publish` takes now: 0 while disconnected or while older ones wait to be sent."""
        return 0 if self._backlog else self._free

    @property
    def _free(self) -> int:
        connection = self._connection
        if connection is None or connection.paused:
            return 0
        sent = len(self._in_flight)
        return min(self._window - sent, self._most - sent - len(self._refused))

    @property
    def window(self) -> int:
        """How many messages may wait for a PUBACK on this connection, or on the last one; 0 before the
        first.
        """
        return self._window

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._connection is not None

    @property
    def unfinished(self) -> int:
        """Messages taken and neither published nor dead."""
        return len(self._in_flight) + len(self._backlog) + len(self._refused) + len(self._suspects)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        token: int = 0,
        done: Done | None = None,
        volatile: bool = False,
    ) -> None:
        """Send with QoS 1; `done(token)` is called after a PUBACK below 0x80. Only while `room` is not 0.

        A `volatile` message is forgotten when the connection ends (it is made anew at the next), and may go
        ahead of those that wait to be sent again. Raises `RuntimeError` without room.
        """
        if (self._free if volatile else self.room) <= 0:
            raise RuntimeError("publish without room")
        self._order += 1
        self._send(_Message(self._order, topic, payload, retain, token, done, volatile))

    def _send(self, message: _Message) -> None:
        connection = self._connection
        assert connection is not None
        properties = self._property_block(message.payload) if connection.version == 5 else b""
        packet_id = self._packet_id
        while True:
            packet_id = packet_id % 65_535 + 1
            if packet_id not in self._in_flight:
                break
        self._packet_id = packet_id
        limits = connection.connack
        retain = message.retain and limits.retain_available
        packet = encode_publish(message.topic, message.payload, packet_id, retain, properties)
        if limits.max_packet and len(packet) > limits.max_packet:
            self._bury(message, f"packet of {len(packet)} octets, the broker takes {limits.max_packet}")
            return
        self._in_flight[packet_id] = message
        self.counters.published += 1
        self.counters.in_flight = len(self._in_flight)
        connection.send(packet)

    def say(self, topic: str, payload: bytes) -> bool:
        """Send with QoS 0, at once or not at all; returns whether it was sent."""
        connection = self._connection
        if connection is None or connection.paused:
            return False
        properties = self._property_block(payload) if connection.version == 5 else b""
        packet = encode_publish_at_most_once(topic, payload, properties)
        if connection.connack.max_packet and len(packet) > connection.connack.max_packet:
            return False
        connection.send(packet)
        return True

    def _property_block(self, payload: bytes) -> bytes:
        if self._content_type is None:
            return b"\0"
        name = self._content_type(payload)
        block = self._properties.get(name)
        if block is None:
            block = self._properties[name] = content_type_property(name)
        return block

    def _bury(self, message: _Message, reason: str) -> None:
        self.counters.dead_letters += 1
        log.error("message cannot be published", topic=message.topic, octets=len(message.payload), reason=reason)
        self._on_dead(message.token, message.topic, reason)

    def _send_backlog(self) -> None:
        while self._backlog and self._free > 0:
            self._send(self._backlog.popleft())

    def _make_room(self) -> None:
        self._send_backlog()
        if not self._backlog:
            self._on_room()

    # -- what the connection reports ---------------------------------------------------------------------

    def _acknowledged(self, packet_id: int, reason: int) -> None:
        message = self._in_flight.pop(packet_id, None)
        counters = self.counters
        if message is None:
            counters.stray += 1
            return
        if reason >= 0x80:
            self._retry_later(message, reason)
            return
        counters.acknowledged += 1
        if not self._fruitful and not message.volatile:
            self._prove()
        if message.done is not None:
            message.done(message.token)

    def _prove(self) -> None:
        """The first PUBACK of a connection: the broker is well, so what was set aside is put on trial."""
        self._fruitful = True
        self._barren = 0
        self._widen()
        suspects, self._suspects = self._suspects, []
        for message in suspects:
            message.on_trial = True
        self._backlog.extend(suspects)

    def _widen(self) -> None:
        connection = self._connection
        if connection is not None:
            self._most = self._window = min(self.options.window, connection.connack.receive_maximum)

    def _retry_later(self, message: _Message, reason: int) -> None:
        first, longest = self.options.refused_backoff_s
        wait_s = min(longest, first * 2 ** min(message.attempts, 16)) * self._rng.uniform(0.5, 1.0)
        message.attempts += 1
        self.counters.refused += 1
        log.warning("broker refused a message", topic=message.topic, reason=f"{reason:#04x}", retry_s=round(wait_s, 3))
        timer = asyncio.get_running_loop().call_later(wait_s, self._retry, message.order)
        self._refused[message.order] = (message, timer)

    def _retry(self, order: int) -> None:
        message, _ = self._refused.pop(order)
        self._backlog.append(message)
        self._make_room()

    def _received(self) -> None:
        """All packets of one read were handled."""
        self.counters.in_flight = len(self._in_flight)
        self._make_room()

    # -- the connection's life ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, serve, connect again; returns after `stop`."""
        try:
            await self._connect_forever()
        finally:
            for _, timer in self._refused.values():
                timer.cancel()

    async def _connect_forever(self) -> None:
        first, longest = self.options.backoff_s
        failures = 0
        while not self._stopping.is_set():
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, PacketError, ConnectionRefused) as exc:
                self.counters.connect_failures += 1
                error = str(exc) or "no answer in time"
                log.warning("broker not reached", host=self.options.host, port=self.options.port, error=error)
            else:
                reason = await self._serve(connection)
                if self._fruitful:
                    failures = 0
                if not self._stopping.is_set():
                    log.warning("connection to the broker ended", reason=reason, unfinished=self.unfinished)
            wait_s = min(longest, first * 2 ** min(failures, 16)) * self._rng.uniform(0.5, 1.0)
            failures += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _connect(self) -> Connection:
        options = self.options
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(options.connect_timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(self.protocol, loop.time, self._acknowledged, self._received, self._resumed),
                options.host,
                options.port,
                ssl=options.tls,
            )
            connection.set_write_limit(_WRITE_HIGH)
            connection.send(
                encode_connect(
                    options.client_id,
                    version=self.protocol,
                    keepalive_s=options.keepalive_s,
                    username=options.username,
                    password=options.password,
                    will=self._will(),
                )
            )
            try:
                connack = await connection.accepted
                self._check(connack)
            except BaseException:
                connection.abort("not accepted")
                raise
        return connection

    def _check(self, connack: Connack) -> None:
        if connack.unsupported_version and self.protocol == 5:
            self.protocol = 4
            raise ConnectionRefused("broker does not speak MQTT 5, going on with 3.1.1")
        if connack.reason:
            raise ConnectionRefused(f"broker refused the connection: {connack.reason:#04x} {connack.text}".rstrip())
        if connack.max_qos < 1:
            raise ConnectionRefused("broker does not take QoS 1")

    async def _serve(self, connection: Connection) -> str:
        counters = self.counters
        counters.connects += 1
        counters.reconnects = counters.connects - 1
        counters.connected = 1
        log.info("connected to the broker", host=self.options.host, port=self.options.port, protocol=self.protocol)
        self._connection = connection
        self._fruitful = False
        self._widen()
        if self._barren >= _BARREN:
            self._window = 1
        keepalive_s = connection.connack.keepalive_s
        try:
            self._on_connected()
            self._make_room()
            return await connection.watch(
                self.options.keepalive_s if keepalive_s is None else keepalive_s,
                self.options.ack_timeout_s,
                lambda: bool(self._in_flight),
            )
        finally:
            connection.abort("publisher stopped")
            self._connection = None
            counters.connected = 0
            self._take_back()
            self._on_room()

    def _take_back(self) -> None:
        """The connection is gone: what was in flight waits for the next one, in its order; what was refused
        still waits for its time (mosquitto 2.0.11 also closes the connection when it refuses).
        """
        lasting = [(key, message) for key, message in self._in_flight.items() if not message.volatile]
        if lasting and not self._fruitful and not self._stopping.is_set():
            self._barren += 1
            if len(lasting) == 1:
                self._strike(*lasting[0])
        for order, (message, timer) in list(self._refused.items()):
            if message.volatile:
                timer.cancel()
                del self._refused[order]
        waiting = [*self._in_flight.values(), *self._backlog]
        if len(self._suspects) >= _SUSPECTS:
            waiting += self._suspects
            self._suspects = []
        waiting.sort(key=lambda message: message.order)
        self._backlog = deque(message for message in waiting if not message.volatile)
        self._in_flight.clear()
        self.counters.in_flight = 0

    def _strike(self, packet_id: int, message: _Message) -> None:
        """Blame the message that was alone in flight when the broker closed the connection."""
        message.strikes += 1
        if message.strikes >= _STRIKES:
            message.strikes = 0
            del self._in_flight[packet_id]
            if message.on_trial:
                self._bury(message, "the broker closes the connection at it")
            else:
                self._suspects.append(message)

    def _resumed(self) -> None:
        if self._connection is not None:
            self._make_room()

    async def stop(self, leave_s: float = 1.0) -> None:
        """Take leave of the broker (it drops the will), in `leave_s` seconds; `run` returns soon after."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.leave()
            await asyncio.wait({connection.closed}, timeout=leave_s)
            connection.abort("no goodbye from the broker")
