"""A fleet of simulated terminals in one asyncio loop, each with a TCP connection of its own.

Theory of operation. A Station is a terminal with its line. Everything it does is driven by two things, octets from the
master and one timer at the terminal's next deadline, so thousands of idle stations cost nothing. A task for each
station connects, waits for the end of the connection and connects again after a growing pause.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec

from wire698.frame import Frame, Framer

from .counters import Counters
from .faults import HOLD_S, Chunk, FaultyLine, LineFaults
from .scenario import FaultEntry, Scenario, concerns, settings_of, start_of
from .settings import TerminalSettings
from .stamps import Timebase
from .terminal import Terminal
from .truth import Truth

_CONNECT_S = 10.0
_LONGEST_WAIT_S = 3600.0
_SHORTEST_WAIT_S = 0.001
_GOODBYE_S = 1.0
_AT_ONCE = 64
"""Connections that are being opened at one time."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet is to do. `duration_s`, `drain_s`: real seconds.

    It ends when the stop event is set, after `duration_s`, or when each terminal has `reports_per_terminal` reports
    acknowledged; then it waits up to `drain_s` for the acknowledgements that are still owed.
    """

    host: str
    port: int
    scenario: Scenario = Scenario()
    rate: float | None = None
    duration_s: float | None = None
    reports_per_terminal: int | None = None
    drain_s: float = 10.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run. `acknowledged` and the others count reports; `rows`: of task uploads."""

    terminals: int
    seconds: float
    connections: int
    logins: int
    heartbeats: int
    reports: int
    acknowledged: int
    unacknowledged: int
    rows: int
    events: int
    retries: int
    withheld: int
    requests: int
    controls: int
    refused_controls: int
    switches: int
    garbage: int
    clock_offset_ms: float
    faults: dict[str, int]

    @property
    def complete(self) -> bool:
        """Every report was acknowledged and every terminal's queue took what was made."""
        return self.unacknowledged == 0 and self.withheld == 0


class Station(asyncio.Protocol):
    """A terminal at its line; also the protocol of its present connection."""

    def __init__(
        self,
        terminal: Terminal,
        line: FaultyLine,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
    ) -> None:
        self.terminal = terminal
        self.line = line
        self.power = asyncio.Event()
        self.power.set()
        self.closed = asyncio.Event()
        self._counters = counters
        self._loop = loop
        self._changed = changed
        self._asleep = False
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pending: deque[Chunk] = deque()
        self._pending_timer: asyncio.TimerHandle | None = None
        self._hold_timer: asyncio.TimerHandle | None = None

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._framer = Framer()
        self.closed.clear()
        self.line.reset()
        self._counters.connections += 1
        self._write(self.terminal.connected(self._loop.time()))
        self._after()

    def data_received(self, data: bytes) -> None:
        """Frames of the master."""
        now = self._loop.time()
        frames: list[bytes] = []
        for item in self._framer.feed(data):
            if isinstance(item, Frame):
                if self.line.hears():
                    frames += self.terminal.feed(item, now)
            else:
                self._counters.garbage += 1
        self._write(frames)
        self._after()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Whoever ended it; a terminal does not ask why."""
        self._transport = None
        self._drop_pending()
        self._counters.disconnects += 1
        self.terminal.disconnected()
        self.closed.set()
        self._after()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def close(self, *, abort: bool = False) -> None:
        """End the connection, if there is one."""
        if self._transport is not None:
            if abort:
                self._transport.abort()
            else:
                self._transport.close()

    def say_goodbye(self) -> None:
        """Log out before the end."""
        self._write(self.terminal.logout(self._loop.time()))

    # --- time ---

    def wake(self) -> None:
        """Do what fell due and set the timer for what comes next."""
        self._timer = None
        self._write(self.terminal.tick(self._loop.time()))
        self._after()

    def wake_now(self) -> None:
        """Something outside changed: look again."""
        if self._timer is not None:
            self._timer.cancel()
        self.terminal.look_again()
        self.wake()

    def sleep(self) -> None:
        """No more timers, for good."""
        self._asleep = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_pending()

    def _after(self) -> None:
        terminal = self.terminal
        if terminal.powered:
            self.power.set()
        else:
            self.power.clear()
        if terminal.close_wanted:
            self.close(abort=not terminal.powered)
        if self._asleep:
            return
        now = self._loop.time()
        wait = min(max(terminal.deadline() - now, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
        if self._timer is None:
            self._timer = self._loop.call_at(now + wait, self.wake)
        elif self._timer.when() > now + wait:
            self._timer.cancel()
            self._timer = self._loop.call_at(now + wait, self.wake)
        self._changed()

    # --- writing ---

    def _write(self, frames: list[bytes]) -> None:
        if not frames or self._transport is None:
            return
        self._queue(self.line.out(frames))
        if self.line.held and self._hold_timer is None:
            self._hold_timer = self._loop.call_later(HOLD_S, self._release)

    def _release(self) -> None:
        self._hold_timer = None
        if self._transport is not None:
            self._queue(self.line.release())

    def _queue(self, chunks: list[Chunk]) -> None:
        self._pending.extend(chunks)
        if self._pending_timer is None:
            self._flush()

    def _flush(self, *, waited: bool = False) -> None:
        """Write what needs not wait; wait for the next, in order."""
        self._pending_timer = None
        while self._pending and self._transport is not None:
            chunk = self._pending[0]
            if chunk.wait > 0.0 and not waited:
                self._pending_timer = self._loop.call_later(chunk.wait, self._waited)
                return
            waited = False
            self._pending.popleft()
            self._transport.write(chunk.octets)
            if chunk.cut:
                self._pending.clear()
                self._transport.close()
                return

    def _waited(self) -> None:
        self._flush(waited=True)

    def _drop_pending(self) -> None:
        self._pending.clear()
        for timer in (self._pending_timer, self._hold_timer):
            if timer is not None:
                timer.cancel()
        self._pending_timer = self._hold_timer = None


class Fleet:
    """Runs terminals against a master. `counters` and `truth` may be read at any time."""

    def __init__(self, options: Options, *, truth: Truth | None = None, wall: Callable[[], float] = time.time) -> None:
        self.options = options
        self.counters = Counters()
        self.truth = truth if truth is not None else Truth()
        self.settings: list[TerminalSettings] = settings_of(
            options.scenario, rate=options.rate, report_limit=options.reports_per_terminal
        )
        self.stations: list[Station] = []
        self._wall = wall
        self._finished = asyncio.Event()
        self._settled = asyncio.Event()
        self._draining = False

    @property
    def terminals(self) -> list[Terminal]:
        """The terminals, once the fleet runs."""
        return [station.terminal for station in self.stations]

    async def run(self, stop: asyncio.Event | None = None) -> Summary:
        """Run to the end (see Options) and say how it was."""
        loop = asyncio.get_running_loop()
        stop = stop if stop is not None else asyncio.Event()
        began = loop.time()
        scenario = self.options.scenario
        base = Timebase(start_of(scenario, self._wall()), began, scenario.time.speed)
        self.stations = [self._station(settings, base, loop) for settings in self.settings]
        gate = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            connectors = [tasks.create_task(self._keep_connected(station, gate)) for station in self.stations]
            script = tasks.create_task(self._play_faults(base))
            await self._until_end(stop)
            await self._drain()
            script.cancel()
            for connector in connectors:
                connector.cancel()
        await self._part()
        return self._summary(loop.time() - began)

    def _station(self, settings: TerminalSettings, base: Timebase, loop: asyncio.AbstractEventLoop) -> Station:
        terminal = Terminal(settings, base, self.truth, self.counters)
        line = FaultyLine(self.options.scenario.line, settings.seed + 1, self.counters)
        station = Station(terminal, line, self.counters, loop, self._changed)
        station.wake()
        return station

    def _changed(self) -> None:
        """Something happened to a station: is it the end?"""
        counters = self.counters
        limit = self.options.reports_per_terminal
        if (
            limit is not None
            and counters.acknowledged >= limit * len(self.settings)
            and all(station.terminal.finished for station in self.stations)
        ):
            self._finished.set()
        if self._draining and self.truth.unacknowledged == 0:
            self._settled.set()

    async def _until_end(self, stop: asyncio.Event) -> None:
        ends = [asyncio.ensure_future(event.wait()) for event in (stop, self._finished)]
        try:
            await asyncio.wait(ends, timeout=self.options.duration_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def _drain(self) -> None:
        """Make no more; wait for the acknowledgements that are owed."""
        self._draining = True
        for station in self.stations:
            station.terminal.make_no_more()
        self._changed()
        await _within(self._settled.wait(), self.options.drain_s)

    async def _part(self) -> None:
        """Log out and close. The master closes after a logout; one that does not is left."""
        for station in self.stations:
            station.say_goodbye()
        await self._all_closed()
        for station in self.stations:
            station.sleep()
            station.close()
        await self._all_closed()

    async def _all_closed(self) -> None:
        open_ones = [station.closed.wait() for station in self.stations if station.connected]
        await _within(asyncio.gather(*open_ones), _GOODBYE_S)

    async def _keep_connected(self, station: Station, gate: asyncio.Semaphore) -> None:
        fleet = self.options.scenario.fleet
        dice = random.Random(station.terminal.settings.seed + 2)  # noqa: S311
        failures = 0
        while True:
            await station.power.wait()
            if await self._connect(station, gate):
                await station.closed.wait()
                failures = failures + 1 if station.terminal.refused else 0
            else:
                failures += 1
                self.counters.connect_failures += 1
            pause = min(fleet.backoff_limit_s, fleet.backoff_s * 2.0 ** min(failures, 16))
            await asyncio.sleep(pause * dice.uniform(0.5, 1.0))

    async def _connect(self, station: Station, gate: asyncio.Semaphore) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with gate, asyncio.timeout(_CONNECT_S):
                await loop.create_connection(lambda: station, self.options.host, self.options.port)
        except (OSError, TimeoutError):
            return False
        return True

    # --- the scenario's faults ---

    async def _play_faults(self, base: Timebase) -> None:
        """Put faults on and take them off at their times."""
        loop = asyncio.get_running_loop()
        plan: list[tuple[float, FaultEntry, bool]] = []
        for entry in self.options.scenario.fault:
            plan.append((entry.at_s, entry, True))
            if entry.line is not None and entry.duration_s > 0:
                plan.append((entry.at_s + entry.duration_s, entry, False))
        for at_s, entry, on in sorted(plan, key=lambda step: step[0]):
            await asyncio.sleep(base.real(base.start + at_s) - loop.time())
            for number, station in enumerate(self.stations, start=1):
                if concerns(entry.terminals, number):
                    self._fault(station, entry, base.start + at_s, on=on)

    def _fault(self, station: Station, entry: FaultEntry, at: float, *, on: bool) -> None:
        if entry.line is not None:
            usual: LineFaults = self.options.scenario.line
            station.line.faults = entry.line if on else usual
        if not on:
            return
        body = station.terminal.body
        if entry.clock_step_s is not None:
            self.counters.fault("clock_step")
            body.set_clock(at, body.clock.read(at) + entry.clock_step_s)
        if entry.clock_drift_ppm is not None:
            self.counters.fault("clock_drift")
            body.clock.run_off(at, entry.clock_drift_ppm)
        if entry.disconnect and station.connected:
            self.counters.fault("disconnect")
            station.close(abort=True)
        station.wake_now()

    def _summary(self, seconds: float) -> Summary:
        counters, truth = self.counters, self.truth
        return Summary(
            terminals=len(self.settings),
            seconds=round(seconds, 3),
            connections=counters.connections,
            logins=counters.logins,
            heartbeats=counters.heartbeats,
            reports=truth.made,
            acknowledged=truth.acknowledged,
            unacknowledged=truth.unacknowledged,
            rows=truth.rows,
            events=counters.events,
            retries=counters.retries,
            withheld=counters.withheld,
            requests=counters.requests,
            controls=counters.controls,
            refused_controls=counters.refused_controls,
            switches=counters.switches,
            garbage=counters.garbage,
            clock_offset_ms=round(counters.clock_offset_ms, 1),
            faults=dict(sorted(counters.faults.items())),
        )


async def _within(what: Awaitable[object], seconds: float) -> None:
    """Wait for it, but not longer."""
    try:
        async with asyncio.timeout(seconds):
            await what
    except TimeoutError:
        return
