"""The data side of a terminal: clock, meters, tasks that freeze and collect, events that happen to the premises.

Theory of operation. `advance` goes through everything that fell due up to a simulated instant, in its order: tasks at
the boundaries of the terminal's own clock, and planned actions (the start and end of events, uploads that wait for
their delay) at instants of the world. What the master may want to hear of comes back as Uploads and Occurrences.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

from wire698.values import Data, Oad, Tag

from .control import Control, remote_trip_columns
from .curves import share
from .groups import Groups
from .happenings import Happening, Occurrence, Upload
from .records import (
    DAILY,
    EVENT_KINDS,
    MINUTE,
    MONTHLY,
    Collected,
    Event,
    EventLog,
    FreezeTable,
    phase_number,
)
from .settings import EventPlan, EventSlug, PhaseName, TerminalSettings
from .stamps import TerminalClock, next_day, next_month
from .world import Meter, Premises

_REMAINING = {"voltage_loss": 0.35, "phase_break": 0.04}
"""What is left of the voltage of the phase."""
_PHASES: tuple[PhaseName, ...] = ("a", "b", "c")
_DICE: tuple[EventSlug, ...] = (
    ("voltage_loss",) * 4 + ("meter_cover_open",) * 3 + ("phase_break", "reverse_phase_sequence", "power_off")
)
USER_TYPES = {"office": 3, "factory": 2, "home": 6}


class Task:
    """A collection task: freeze all meters every `period` seconds (or day, month) and upload after `delay`."""

    __slots__ = ("active", "delay", "next", "number", "of", "period", "phase")

    def __init__(self, number: int, of: Oad, period: float, delay: float, phase: float = 0.0) -> None:
        self.number = number
        self.of = of
        self.period = period
        self.delay = delay
        self.phase = phase
        self.active = True
        self.next = 0.0

    def after(self, shown: float) -> float:
        """The first boundary after the clock shows `shown`."""
        if self.of == DAILY:
            return next_day(shown)
        if self.of == MONTHLY:
            return next_month(shown)
        return ((shown - self.phase) // self.period + 1) * self.period + self.phase


class Body:
    """One terminal's body. `seed` decides its load, its meters and its accidents."""

    def __init__(self, settings: TerminalSettings, start: float) -> None:
        self.settings = settings
        self.powered = True
        self.clock = TerminalClock(start, offset=settings.clock_offset_s, drift_ppm=settings.clock_drift_ppm)
        begin = start - settings.history_s
        self.premises = Premises(
            [
                Meter(address, settings.kind, settings.seed * 1009 + number, begin, number=number)
                for number, address in enumerate(settings.meters, start=1)
            ],
            settings.relay_shares,
        )
        self.tables = {
            meter.number: {
                MINUTE: FreezeTable(MINUTE, settings.curve_depth),
                DAILY: FreezeTable(DAILY, 62),
                MONTHLY: FreezeTable(MONTHLY, 12),
            }
            for meter in self.premises.meters
        }
        self.collected: deque[Collected] = deque(maxlen=settings.collected_depth)
        self.log = EventLog(settings.event_depth)
        self.flags: dict[int, int] = {kind.oi: 3 for kind in EVENT_KINDS.values()}
        self.reporting = True
        self.heartbeat_s = settings.heartbeat_s
        self.tasks = {
            task.number: task
            for task in (
                Task(1, MINUTE, settings.minute_s, settings.upload_delay_s, settings.phase_s),
                Task(2, DAILY, 0.0, settings.upload_delay_s + 1),
                Task(3, MONTHLY, 0.0, settings.upload_delay_s + 2),
            )
        }
        shown = self.clock.read(begin)
        for task in self.tasks.values():
            task.next = task.after(shown)
        self._live_from = self.clock.read(start)
        self._actions: list[tuple[float, int, Callable[[float], list[Happening]]]] = []
        self._order = 0
        self.groups = Groups(self.premises, tsa_of, begin, shown)
        self.control = Control(settings, self.premises, self.clock, self.log, self.groups, begin, self.do_at)
        self._dice = random.Random(settings.seed)  # noqa: S311
        if settings.events_per_day > 0:
            self._plan_accident(start)
        for plan in settings.events:
            self.plan(start + plan.at_s, plan)

    def user_type(self) -> int:
        """User type 用户类型 of the meters in the collection archive."""
        return USER_TYPES[self.settings.kind]

    # --- time ---

    def deadline(self) -> float:
        """The simulated instant at which something falls due next."""
        due = min((self.clock.when(task.next) for task in self.tasks.values() if task.active), default=1e18)
        return min(due, self._actions[0][0]) if self._actions else due

    def advance(self, at: float) -> list[Happening]:
        """Everything that fell due up to `at`, in its order."""
        happened: list[Happening] = []
        while True:
            task = min((t for t in self.tasks.values() if t.active), key=lambda t: t.next, default=None)
            due = 1e18 if task is None else self.clock.when(task.next)
            if self._actions and self._actions[0][0] <= due:
                if self._actions[0][0] > at:
                    return happened
                when, _, action = heapq.heappop(self._actions)
                happened += action(when)
            elif task is None or due > at:
                return happened
            else:
                self._run(task, due)

    def do_at(self, when: float, action: Callable[[float], list[Happening]]) -> None:
        """Have `action` called when the world reaches `when`; what it returns counts as having happened."""
        self._order += 1
        heapq.heappush(self._actions, (when, self._order, action))

    def set_clock(self, at: float, shown: float) -> None:
        """The master sets the clock (对时). A boundary that was taken is never taken twice."""
        self.clock.set(at, shown)
        for task in self.tasks.values():
            task.next = max(task.next, task.after(shown))
        self.control.clock_was_set(at)

    # --- tasks ---

    def _run(self, task: Task, at: float) -> None:
        boundary = task.next
        task.next = task.after(boundary)
        if task.next <= boundary:
            # Rounding of a fractional period.
            task.next = boundary + task.period
        if not self.powered:
            return
        stamp = int(boundary)
        rows = []
        delay = round(task.delay)
        for meter in self.premises.meters:
            silent = share(self.settings.seed + meter.number, stamp) < self.settings.missed
            freeze = self.tables[meter.number][task.of].take(stamp, None if silent else meter.read(at))
            tsa = tsa_of(meter.address)
            rows.append(
                Collected(
                    tsa,
                    meter.number,
                    self.user_type(),
                    task.of,
                    freeze,
                    stamp,
                    None if silent else stamp + delay // 2,
                    stamp + delay,
                )
            )
        if boundary < self._live_from:
            # What happened before the simulation is history: it can be read but nobody is told.
            self.collected.extend(rows)
            return
        upload = Upload(task.of, tuple(rows))

        def collect(_: float) -> list[Happening]:
            self.collected.extend(upload.rows)
            return [upload]

        self.do_at(at + task.delay, collect)

    # --- events ---

    def plan(self, at: float, plan: EventPlan) -> None:
        """An event of a scenario; meters are counted from 1 as they stand behind the terminal."""
        if plan.meter <= len(self.premises.meters):
            self.do_at(at, lambda when: self.begin(when, plan))

    def begin(self, at: float, plan: EventPlan) -> list[Happening]:
        """The event begins now and ends after its duration, if it has one."""
        if plan.kind == "power_off" and not self.powered:
            return []
        meter = self.premises.meters[plan.meter - 1]
        phase = phase_number(plan.phase)
        stamp = int(self.clock.read(at))
        if plan.kind == "remote_trip":
            relay = Data(Tag.OAD, Oad(0xF2050201))
            columns = remote_trip_columns(self.groups.powers(at))
            event = self.log.record(plan.kind, stamp, source=relay, extras=columns)
        else:
            event = self.log.record(plan.kind, stamp, tsa=tsa_of(meter.address), meter=meter.address, phase=phase)
        if plan.duration_s > 0:
            self.do_at(at + plan.duration_s, lambda when: self._end(when, event, meter, phase))
        return [Occurrence(event, "raised"), *self._strike(at, event, meter, phase)]

    def _strike(self, at: float, event: Event, meter: Meter, phase: int) -> list[Happening]:
        slug = event.kind.slug
        if slug in _REMAINING:
            meter.break_phase(at, phase, _REMAINING[slug])
        elif slug == "power_off":
            self.premises.supply(at, on=False)
            self.powered = False
            return self.control.power(at, on=False)
        elif slug == "remote_trip":
            return self.control.locally(at, 1, is_open=True)
        return []

    def _end(self, at: float, event: Event, meter: Meter, phase: int) -> list[Happening]:
        slug = event.kind.slug
        self.log.end(event, int(self.clock.read(at)))
        happened: list[Happening] = [Occurrence(event, "cleared")]
        if slug in _REMAINING:
            meter.break_phase(at, phase, None)
        elif slug == "power_off":
            self.premises.supply(at, on=True)
            self.powered = True
            happened += self.control.power(at, on=True)
        elif slug == "remote_trip":
            happened += self.control.locally(at, 1, is_open=False)
        return happened

    def _plan_accident(self, at: float) -> None:
        wait = self._dice.expovariate(self.settings.events_per_day / 86400.0)
        plan = EventPlan(
            kind=self._dice.choice(_DICE),
            meter=self._dice.randint(1, len(self.premises.meters)),
            phase=self._dice.choice(_PHASES),
            duration_s=self._dice.uniform(60, 1800),
        )

        def accident(when: float) -> list[Happening]:
            self._plan_accident(when)
            return self.begin(when, plan)

        self.do_at(at + wait, accident)

    def wants_report(self, occurrence: Occurrence) -> bool:
        """Whether 4300 and the event's report flag 上报标识 let it be told."""
        flag = self.flags[occurrence.event.kind.oi]
        return self.reporting and flag in ((1, 3) if occurrence.transition == "raised" else (2, 3))


def tsa_of(address: str) -> bytes:
    """The TSA of a meter address: descriptor octet, then the digits."""
    octets = bytes.fromhex(address)
    return bytes((len(octets) - 1,)) + octets
