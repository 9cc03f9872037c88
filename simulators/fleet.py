"""A fleet of simulated terminals in one asyncio loop, which reach their master by a way of any kind.

Theory of operation. A Station is a terminal with its line (see station); a Way (see ways and lines) gives stations
their connections. The fleet makes both from the scenario, plays the scenario's faults, and knows when it is the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from .counters import Counters
from .faults import FaultyLine, LineFaults
from .lines import SERIAL_PREAMBLE, RadioWay, SerialWay
from .radio import RadioSettings
from .scenario import FaultEntry, Scenario, concerns, settings_of, start_of
from .settings import TerminalSettings
from .stamps import Timebase
from .station import Station
from .terminal import Terminal
from .truth import Truth
from .ways import Datagrams, Dial, Listening, Way

__all__ = ["Fleet", "Options", "Station", "Summary"]

_GOODBYE_S = 1.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet is to do. `duration_s`, `drain_s`: real seconds.

    transport: terminals dial host:port over `tcp`, send it datagrams over `udp`, or `listen` there, each on a port of
    its own from `port` on (0: free ones, see `Fleet.places`); or they are at one `serial` line, or on one `radio`
    channel behind it, whose other side is `place` (see wire.Wire) at `bit_rate` bit/s. There they answer and say
    nothing more, unless they are to speak `unasked`.

    It ends when the stop event is set, after `duration_s`, or when each terminal has `reports_per_terminal` reports
    acknowledged; then it waits up to `drain_s` for the acknowledgements that are still owed.
    """

    transport: Literal["tcp", "udp", "listen", "serial", "radio"] = "tcp"
    host: str = ""
    port: int = 0
    place: str = ""
    bit_rate: int = 9600
    unasked: bool = False
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


_SHARED = ("serial", "radio")


def _way(options: Options, counters: Counters) -> Way:
    """How the terminals reach their master. Raises ValueError for a place that is none."""
    scenario = options.scenario
    pauses = scenario.fleet.backoff_s, scenario.fleet.backoff_limit_s
    match options.transport:
        case "tcp":
            return Dial(options.host, options.port, pauses, counters)
        case "udp":
            return Datagrams(options.host, options.port, pauses, counters)
        case "listen":
            return Listening(options.host, options.port)
        case "serial":
            return SerialWay(options.place, options.bit_rate, pauses, counters)
        case "radio":
            air = msgspec.structs.asdict(scenario.radio)
            settings = RadioSettings(bit_rate=options.bit_rate, seed=scenario.seed, **air)
            return RadioWay(options.place, settings, pauses, counters)


class Fleet:
    """Runs terminals against a master. `counters` and `truth` may be read at any time; `ready` is set when it runs."""

    def __init__(self, options: Options, *, truth: Truth | None = None, wall: Callable[[], float] = time.time) -> None:
        self.options = options
        self.counters = Counters()
        self.truth = truth if truth is not None else Truth()
        self.settings: list[TerminalSettings] = settings_of(
            options.scenario, rate=options.rate, report_limit=options.reports_per_terminal
        )
        self.stations: list[Station] = []
        self.ready = asyncio.Event()
        self.way = _way(options, self.counters)
        self._wall = wall
        self._finished = asyncio.Event()
        self._settled = asyncio.Event()
        self._draining = False

    @property
    def terminals(self) -> list[Terminal]:
        """The terminals, once the fleet runs."""
        return [station.terminal for station in self.stations]

    @property
    def places(self) -> dict[str, str]:
        """Where terminals listen, HOST:PORT by address."""
        return self.way.places if isinstance(self.way, Listening) else {}

    async def run(self, stop: asyncio.Event | None = None) -> Summary:
        """Run to the end (see Options) and say how it was. Raises OSError where the way cannot be opened."""
        loop = asyncio.get_running_loop()
        stop = stop if stop is not None else asyncio.Event()
        began = loop.time()
        scenario = self.options.scenario
        base = Timebase(start_of(scenario, self._wall()), began, scenario.time.speed)
        self.stations = [self._station(settings, base, loop) for settings in self.settings]
        try:
            await self.way.open(self.stations)
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self.way.keep(self.stations))
                script = tasks.create_task(self._play_faults(base))
                self.ready.set()
                await self._until_end(stop)
                await self._drain()
                script.cancel()
                keeping.cancel()
            await self._part()
        finally:
            for station in self.stations:
                station.sleep()
            self.way.close()
        return self._summary(loop.time() - began)

    def _station(self, settings: TerminalSettings, base: Timebase, loop: asyncio.AbstractEventLoop) -> Station:
        terminal = Terminal(settings, base, self.truth, self.counters)
        line = FaultyLine(self.options.scenario.line, settings.seed + 1, self.counters)
        options = self.options
        station = Station(
            terminal,
            line,
            self.counters,
            loop,
            self._changed,
            asked_only=options.transport in _SHARED and not options.unasked,
            each_alone=options.transport in ("udp", *_SHARED),
            preamble=SERIAL_PREAMBLE if options.transport == "serial" else b"",
        )
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
        if self.way.goodbye:
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
