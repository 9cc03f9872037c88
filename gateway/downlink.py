"""The downlink: what comes to the gateway over MQTT. Topic filters are routed to callbacks, each message is
acknowledged after its callback returned.

Theory of operation. The session is persistent, so what is said while the gateway is away comes when it is
back. The list of filters is the desired state: it is subscribed again at every connect, and every SUBACK
code is checked. A message is taken only into a bounded queue: on MQTT 5 the broker is told how many may be
unacknowledged (receive maximum); on 3.1.1 an overflow closes the connection, and the broker sends what was
not acknowledged again.

The inner paho client acknowledges by itself unless told otherwise BEFORE the connection is made; set later,
the first message of a resumed session would be acknowledged unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import aiomqtt
import structlog
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

if TYPE_CHECKING:
    from random import Random

    from gateway.publisher import BrokerOptions

__all__ = ["Callback", "Downlink", "DownlinkCounters", "Inbound", "Route", "replay_route"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from the broker. `retained`: an old one that the broker keeps, not one said now."""

    topic: str
    payload: bytes
    retained: bool


Callback = Callable[[Inbound], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """A topic filter and what is done with its messages. What the callback raises is logged; it is not
    repeated.
    """

    topic_filter: str
    callback: Callback


@dataclass(slots=True)
class DownlinkCounters:
    """What the metrics export. Totals since start, except `connected` (now)."""

    received: int = 0
    acknowledged: int = 0
    failed: int = 0
    deferred: int = 0
    unrouted: int = 0
    overflows: int = 0
    subscribe_refused: int = 0
    connects: int = 0
    connect_failures: int = 0
    connected: int = 0


class _BoundedQueue(asyncio.Queue[aiomqtt.Message]):
    """aiomqtt discards what does not fit; this remembers that it did."""

    overflowed = False

    def put_nowait(self, item: aiomqtt.Message) -> None:
        try:
            super().put_nowait(item)
        except asyncio.QueueFull:
            self.overflowed = True
            raise


class NotNow(Exception):  # noqa: N818 - a condition
    """A callback cannot take the message yet: it stays with the broker and comes again at the next connection."""


class SubscribeRefused(Exception):  # noqa: N818 - what happened
    """The broker refused every filter."""


class Downlink:
    """Receives for the routes until cancelled. `session_s`: how long the broker keeps messages while we are
    away; `queue`: unacknowledged messages at most; `callback_s`: a callback that takes longer is given up.
    """

    def __init__(
        self,
        options: BrokerOptions,
        routes: list[Route],
        *,
        rng: Random,
        session_s: int = 3_600,
        queue: int = 100,
        callback_s: float = 30.0,
    ) -> None:
        self.counters = DownlinkCounters()
        self.routes = routes
        self.subscribed = asyncio.Event()
        self._options = options
        self._rng = rng
        self._session_s = session_s
        self._queue = queue
        self._callback_s = callback_s
        self._protocol = options.protocol

    async def run(self) -> None:
        """Connect, subscribe, receive; and again, for ever. In the daemon's TaskGroup; ends by
        cancellation.
        """
        first, longest = self._options.backoff_s
        failures = 0
        while True:
            connects = self.counters.connects
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError, SubscribeRefused) as exc:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # aiomqtt may answer a cancellation with an error of its own.
                    raise asyncio.CancelledError from exc
                self._fall_back(exc)
                if self.counters.connects == connects:
                    self.counters.connect_failures += 1
                else:
                    failures = 0
                log.warning("downlink ended", host=self._options.host, port=self._options.port, error=str(exc))
            finally:
                self.counters.connected = 0
                self.subscribed.clear()
            await asyncio.sleep(min(longest, first * 2 ** min(failures, 16)) * self._rng.uniform(0.5, 1.0))
            failures += 1

    def _fall_back(self, error: Exception) -> None:
        code = getattr(error, "rc", None)
        if self._protocol == 5 and isinstance(code, ReasonCode) and code.value == 0x84:
            log.info("broker does not speak MQTT 5, going on with 3.1.1")
            self._protocol = 4

    def _client(self) -> aiomqtt.Client:
        options = self._options
        five = self._protocol == 5
        properties = None
        if five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._session_s
            properties.ReceiveMaximum = self._queue
        client = aiomqtt.Client(
            options.host,
            options.port,
            username=options.username,
            password=options.password,
            identifier=options.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
            clean_session=None if five else False,
            clean_start=False if five else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
            keepalive=options.keepalive_s,
            timeout=options.connect_timeout_s,
            tls_context=options.tls,
            queue_type=_BoundedQueue,
            max_queued_incoming_messages=self._queue,
        )
        client._client.manual_ack_set(True)
        return client

    async def _session(self) -> None:
        client = self._client()
        async with client:
            self.counters.connects += 1
            await self._subscribe(client)
            self.counters.connected = 1
            self.subscribed.set()
            queue = client._queue
            assert isinstance(queue, _BoundedQueue)
            async for message in client.messages:
                await self._take(client, message)
                if queue.overflowed and queue.empty():
                    self.counters.overflows += 1
                    raise aiomqtt.MqttError("queue overflow: connecting again for what was left unacknowledged")

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        refused = 0
        # On MQTT 5 a retained message is told from one said now also while we are connected.
        five = self._protocol == 5
        options = SubscribeOptions(qos=1, retainAsPublished=True) if five else None
        for route in self.routes:
            codes = await client.subscribe(route.topic_filter, qos=0 if five else 1, options=options)
            for code in codes:
                value = code.value if isinstance(code, ReasonCode) else int(code)
                if value >= 0x80:
                    refused += 1
                    log.error("broker refused a subscription", filter=route.topic_filter, reason=f"{value:#04x}")
        self.counters.subscribe_refused += refused
        if refused and refused == len(self.routes):
            raise SubscribeRefused("broker refused every subscription")

    async def _take(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        counters = self.counters
        counters.received += 1
        inbound = Inbound(str(message.topic), message.payload, message.retain)
        route = next((route for route in self.routes if message.topic.matches(route.topic_filter)), None)
        if route is None:
            counters.unrouted += 1
            log.warning("no route for a message", topic=inbound.topic)
        else:
            try:
                async with asyncio.timeout(self._callback_s):
                    await route.callback(inbound)
            except (NotNow, TimeoutError) as exc:
                counters.deferred += 1
                raise aiomqtt.MqttError(f"message on {inbound.topic} cannot be taken now: {exc}") from exc
            except Exception:
                counters.failed += 1
                log.exception("message was not handled", topic=inbound.topic, octets=len(message.payload))
        if message.qos and client._client.ack(message.mid, message.qos) == 0:
            counters.acknowledged += 1


def replay_route(topic: str, decode: Callable[[bytes], tuple[int, int]], replay: Callable[[int, int], bool]) -> Route:
    """The route of `{p}/node/{node}/replay`: `decode` gives (from_seq, to_seq) or raises, `replay` is the
    uplink's.

    A retained request is not obeyed: it would act again at every restart.
    """
    return Route(topic, partial(_on_replay, decode, replay))


async def _on_replay(
    decode: Callable[[bytes], tuple[int, int]], replay: Callable[[int, int], bool], message: Inbound
) -> None:
    if message.retained:
        log.warning("retained replay request is ignored", topic=message.topic)
        return
    from_seq, to_seq = decode(message.payload)
    replay(from_seq, to_seq)
