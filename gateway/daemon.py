"""The daemon: makes the parts from the settings, runs them, stops them in the order that loses nothing.

Up:   channel -> link -> machine -> outlet -> journal -> uplink -> broker.
Stop: accept no more, read no more; write what is queued and tell the terminals; publish for a while; say `offline`; go.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from random import Random
from typing import Any, Final

from gateway.channels.assembly import Surroundings, all_channels, make_channel, terminals_at_most
from gateway.channels.channel import Channel
from gateway.clock import Clock
from gateway.collecting import make_collector
from gateway.collection import Ask, Collector
from gateway.desk import CommandDesk
from gateway.downlink import Downlink, replay_route
from gateway.journal import Journal, JournalFull, JournalLimits
from gateway.link import ChannelContext, Link
from gateway.logs import get_logger
from gateway.medium import Medium, MediumCounters
from gateway.metrics import Metrics, Sample, counters_source
from gateway.outlet import Outlet
from gateway.probes import Probes
from gateway.publisher import BrokerOptions
from gateway.sessions import Session, Sessions
from gateway.settings import Settings
from gateway.uplink import NodeStatusTopic, Uplink
from messages import CollectionQuality, NodeStatus, ReplayRequest, Topics, decode, encode
from protocols.events import Answered, Failure, Late, Moment

log = get_logger(__name__)

_TICK_S: Final = 0.1
"""The machines' deadlines are kept to this precision."""
_SYNC_CHECK_S: Final = 60.0
_CANCEL_AGAIN_S: Final = 1.0


class JournalDied(Exception):  # noqa: N818 (what happened)
    """The journal's writer is gone: the process ends, rather than acknowledge what it cannot store."""


class Gateway:
    """One node. `run(stop)` runs it until the event is set."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, rng: Random | None = None) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self.metrics = Metrics()
        self.started = asyncio.Event()
        """Set when the channels listen."""
        self.sessions = Sessions(terminals_at_most(settings))
        self.channels: list[Channel] = []
        self.probes: Probes | None = None
        self._rng = rng or Random()  # noqa: S311 (jitter)
        self._topics = Topics(settings.mqtt.prefix)
        self._unflushed: set[Link] = set()
        self._synchronized = False
        self._fatal: asyncio.Future[None] | None = None
        self.journal: Journal | None = None
        self.uplink: Uplink | None = None
        self.outlet: Outlet | None = None
        self.desk: CommandDesk | None = None
        self.collector: Collector | None = None

    # --- parts --------------------------------------------------------------------------------------------------

    def _trusted(self) -> bool:
        """Whether terminals may set their clocks by ours."""
        said = self.settings.protocol.clock_trusted
        return self._synchronized if said == "auto" else said == "yes"

    def _broker(self) -> BrokerOptions:
        mqtt = self.settings.mqtt
        tls = None
        if mqtt.url.startswith("mqtts:"):
            tls = ssl.create_default_context(cafile=mqtt.tls_ca or None)
            if mqtt.tls_cert:
                tls.load_cert_chain(mqtt.tls_cert, mqtt.tls_key)
        return replace(
            BrokerOptions.from_url(mqtt.url, tls=tls),
            client_id=self.settings.mqtt_client_id,
            protocol=mqtt.version,
            keepalive_s=mqtt.keepalive_s,
            window=mqtt.window,
            backoff_s=(mqtt.reconnect_min_s, mqtt.reconnect_max_s),
        )

    def _status(self, presence: Any) -> bytes:
        settings = self.settings
        status = NodeStatus(
            node=settings.node.id,
            status=presence,
            version=version("loadgate"),
            channels=[channel.name for channel in all_channels(settings)],
            control="off" if self.desk is not None and not self.desk.control else "on",
        )
        return encode(status, settings.mqtt.format)

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then drain. Raises what keeps it from starting, and JournalDied."""
        settings = self.settings
        journal_path = settings.journal_path
        journal_path.parent.mkdir(parents=True, exist_ok=True)
        self._fatal = asyncio.get_running_loop().create_future()
        self._synchronized = self.clock.synchronized()
        limits = JournalLimits(
            queue_rows=settings.journal.queue_rows,
            queue_bytes=settings.journal.queue_bytes,
            max_bytes=settings.journal.max_bytes,
            keep_s=settings.journal.keep_s,
        )
        journal = await Journal.open(journal_path, limits, clock=self.clock.wall, on_death=self._on_death)
        self.journal = journal
        try:
            await self._run(journal, stop)
        finally:
            await journal.close()

    def _on_death(self, error: BaseException) -> None:
        if self._fatal is not None and not self._fatal.done():
            self._fatal.set_exception(JournalDied(str(error)))

    async def _run(self, journal: Journal, stop: asyncio.Event) -> None:
        settings = self.settings
        broker = self._broker()
        topic = self._topics.node_status(settings.node.id)
        status = NodeStatusTopic(topic, lambda: self._status("online"), lambda: self._status("offline"))
        uplink = self.uplink = Uplink(journal, broker, rng=self._rng, status=status)
        outlet = Outlet(journal, self._topics, settings.node.id, settings.mqtt.format, uplink.say)
        self.outlet = outlet
        around = Surroundings(
            settings=settings,
            sessions=self.sessions,
            outlet=outlet,
            clock=self.clock,
            rng=self._rng,
            clock_trusted=self._trusted,
            flush_soon=self._flush_soon,
            answered=self._answered,
            arrived=self._arrived,
        )
        self.channels = [make_channel(channel, around) for channel in all_channels(settings)]
        contexts = [channel.context for channel in self.channels]
        desk = self.desk = CommandDesk(settings, journal, outlet, self.sessions, self.clock, contexts)
        desk.on_switched = uplink.refresh_status
        await desk.open()
        collector = self.collector = make_collector(
            settings, journal, outlet, self.sessions, contexts[0].dialogue, desk.quirks, self._tell_quality
        )
        outlet.marks = collector.note
        await collector.open(self.clock.moment())
        replay = replay_route(self._topics.replay(settings.node.id), _replay_range, uplink.replay)
        downlink = Downlink(
            replace(broker, client_id=f"{settings.mqtt_client_id}-down"),
            [replay, *desk.routes(self._topics)],
            rng=self._rng,
        )
        self._register(journal, uplink, downlink, outlet)
        self.probes = Probes(settings.http.listen, self.metrics, self._health, self._ready)
        unwatch = journal.watch_writable(self._on_writable)
        try:
            async with self.probes, asyncio.TaskGroup() as tasks:
                parts = [tasks.create_task(part) for part in (uplink.run(), downlink.run(), self._keep_time())]
                try:
                    for channel in self.channels:
                        await channel.start()
                        parts.append(tasks.create_task(channel.run()))
                    log.info(
                        "listening",
                        node=settings.node.id,
                        channels={channel.context.name: channel.place for channel in self.channels},
                        probes=self.probes.address,
                    )
                    self.started.set()
                    await self._until(stop)
                    await self._drain(journal, uplink)
                finally:
                    await _end(parts)
        finally:
            unwatch()
            self.started.clear()
            for channel in self.channels:
                # Also where it ends by an error: nobody may stay connected to a gateway that is no more.
                await channel.close()

    async def _until(self, stop: asyncio.Event) -> None:
        """Wait for the stop; an end of the journal's writer is raised."""
        assert self._fatal is not None
        waiting = asyncio.ensure_future(stop.wait())
        either: set[asyncio.Future[Any]] = {waiting, self._fatal}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._fatal.done():
            self._fatal.result()

    async def _drain(self, journal: Journal, uplink: Uplink) -> None:
        """Settle what is committed, publish what can be, leave."""
        log.info("draining", queued=journal.counters.queue_rows, unpublished=uplink.counters.behind)
        for channel in self.channels:
            await channel.stop_accepting()
        if self.collector is not None:
            self.collector.close(self.clock.moment())
        committed = asyncio.Event()
        with contextlib.suppress(TimeoutError, JournalFull):
            async with asyncio.timeout(self.settings.mqtt.drain_timeout_s):
                journal.append((), committed.set)
                await committed.wait()
        self._flush()
        for channel in self.channels:
            await channel.close()
        drained = await uplink.stop(self.settings.mqtt.drain_timeout_s)
        log.info("drained" if drained else "stopped with rows unpublished", unpublished=uplink.counters.behind)

    # --- between the parts --------------------------------------------------------------------------------------

    def _flush_soon(self, link: Link) -> None:
        """One write a link for all that a batch of the journal settles."""
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed.add(link)

    def _flush(self) -> None:
        links, self._unflushed = self._unflushed, set()
        for link in links:
            link.flush()

    def _on_writable(self, writable: bool) -> None:
        full = bool(self.journal and self.journal.full)
        log.warning("links go on" if writable else "links wait for the journal", full=full)
        for channel in self.channels:
            # At the bound on the disk nothing is settled, but heartbeats are answered: terminals keep data and link.
            channel.context.pause(not writable and not full)

    def _answered(self, session: Session, event: Answered | Late, moment: Moment) -> None:
        """An answer to a request goes to whoever asked."""
        ask = event.request.context
        if self.collector is not None and isinstance(ask, Ask):
            if isinstance(event, Late):
                self.collector.late(ask, event.result, moment)
            else:
                self.collector.answered(ask, event.result, moment)
        elif self.desk is not None:
            self.desk.answered(session, event, moment)

    def _arrived(self, session: Session) -> None:
        """A terminal has shown itself: what waits for it may go."""
        if self.desk is not None:
            self.desk.arrived(session)
        if self.collector is not None:
            self.collector.arrived(session.machine.terminal, self.clock.moment())

    def _collect(self, collector: Collector, moment: Moment) -> None:
        """Ask what is to be polled or fetched now."""
        for ask in collector.tick(moment):
            session = self.sessions.get(ask.terminal)
            if session is None or session.link is None:
                collector.answered(ask, Failure("lost", "the terminal is not connected"), moment)
            else:
                session.context.air.ask(session, ask.request, ask.priority, until=ask.until)

    def _tell_quality(self, quality: CollectionQuality) -> None:
        """The hourly quality of collection, on the node's topic."""
        if self.outlet is not None:
            self.outlet.tell(self._topics.collection(self.settings.node.id), quality)

    async def _keep_time(self) -> None:
        """Tick the machines whose deadline has come."""
        checked = self.clock.moment().mono
        while True:
            moment = self.clock.moment()
            if moment.mono - checked >= _SYNC_CHECK_S:
                checked = moment.mono
                self._synchronized = self.clock.synchronized()
            overdue = self.sessions.overdue(moment)
            for session in overdue:
                before = session.machine.presence
                session.context.dispatch(session, session.machine.tick(moment), moment)
                link = session.link
                if link is None:
                    continue
                link.flush()
                if before != "offline" and session.machine.presence == "offline" and link.reading:
                    # Its connection is dead, though nobody has said so (a NAT forgot it, a modem lost power).
                    link.let_go(session, "no heartbeat in time")
            if self.desk is not None:
                self.desk.tick(moment)
            if self.collector is not None:
                self._collect(self.collector, moment)
            await asyncio.sleep(0 if overdue else _TICK_S)

    # --- what others see ----------------------------------------------------------------------------------------

    def _health(self) -> list[str]:
        return ["the journal's writer is dead"] if self._fatal is not None and self._fatal.done() else []

    def _ready(self) -> list[str]:
        """Whether terminals should come here. A broker that is away is no reason: the journal keeps what comes."""
        reasons = [] if self.started.is_set() else ["the channels do not listen"]
        if self.journal is not None and not self.journal.writable:
            reasons.append("the journal has no room" if self.journal.full else "the journal is behind")
        return reasons

    def _register(self, journal: Journal, uplink: Uplink, downlink: Downlink, outlet: Outlet) -> None:
        metrics = self.metrics
        if self.desk is not None:
            counters = self.desk.commands.counters
            metrics.register("commands", counters_source("commands", counters, gauges=("open", "untold")))
        now = ("queue_rows", "queue_bytes", "disk_bytes", "full", "stalled")
        metrics.register("journal", counters_source("journal", journal.counters, gauges=now))
        flow = ("connected", "in_flight", "behind")
        metrics.register("uplink", counters_source("uplink", uplink.counters, gauges=flow))
        metrics.register("downlink", counters_source("downlink", downlink.counters, gauges=("connected",)))
        metrics.register("sessions", counters_source("sessions", self.sessions.counters, gauges=("known",)))
        metrics.register("messages", lambda: _messages(outlet))
        if self.collector is not None:
            metrics.register("collection", self.collector.metrics)
        for channel in self.channels:
            context = channel.context
            labels = {"channel": context.name}
            metrics.register(f"frames.{context.name}", counters_source("frames", context.counters, labels=labels))
            prefix = type(channel).__name__.lower().removesuffix("server")
            source = counters_source(prefix, channel.counters, gauges=channel.gauges, labels=labels)
            metrics.register(f"channel.{context.name}", source)
            if isinstance(context.air, Medium):
                air = counters_source("medium", context.air.counters, gauges=MediumCounters.GAUGES, labels=labels)
                metrics.register(f"medium.{context.name}", air)
            metrics.register(f"link.{context.name}", lambda context=context: _link(context))  # type: ignore[misc]


async def _end(parts: list[asyncio.Task[None]]) -> None:
    """Cancel parts until they have ended.

    Once is not enough: a library that is cancelled while it says goodbye to a broker that is ill may answer with an
    error of its own, and who called it goes on.
    """
    running = {part for part in parts if not part.done()}
    while running:
        for part in running:
            part.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)


def _messages(outlet: Outlet) -> Iterator[Sample]:
    for kind in ("readings", "alarms", "states"):
        yield Sample("messages", "counter", "messages stored", getattr(outlet, kind), {"kind": kind})
    yield Sample("raw_unsaid", "counter", "raw frames that could not be sent", outlet.unsaid)


def _link(context: ChannelContext) -> Iterator[Sample]:
    labels = {"channel": context.name}
    for kind, number in list(context.violations.items()):
        yield Sample("violations", "counter", "peers' faults", number, {**labels, "reason": kind})
    yield Sample("link_holds", "counter", "links that waited for their own reports", context.holds, labels)
    yield Sample("link_pauses", "counter", "times that all links waited for the journal", context.pauses, labels)
    yield Sample(
        "acknowledgement_seconds", "histogram", "from report to acknowledgement", context.acknowledgement, labels
    )


def _replay_range(payload: bytes) -> tuple[int, int]:
    request = decode(payload, ReplayRequest)
    return request.from_seq, request.to_seq
