"""Scenario files: the make-up of a fleet, its time, its tasks, and events and faults at given times (TOML).

An unknown key is an error. Times `at_s`, `duration_s` of events and faults are simulated seconds after the start.
"""

from __future__ import annotations

import math
import random
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from .curves import mix, share
from .faults import LineFaults
from .settings import EventPlan, EventSlug, PhaseName, RequestKind, TerminalSettings
from .stamps import instant

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
FromZero = Annotated[float, msgspec.Meta(ge=0.0)]
Which = Literal["all"] | list[Count]
"""`all`, or numbers of terminals counted from 1."""


class ScenarioError(ValueError):
    """A scenario that says something it cannot mean; the text names the place."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FleetPart(_Part, frozen=True, kw_only=True):
    """Who is there. Shares (0..1) say how many terminals are of a sort; the seed says which."""

    terminals: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 20
    first_address: Annotated[str, msgspec.Meta(pattern="^([0-9]{2}){1,8}$")] = "100000000001"
    first_meter: Annotated[str, msgspec.Meta(pattern="^([0-9]{2}){1,8}$")] = "500000000001"
    meters: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 2
    kinds: dict[Literal["office", "factory", "home"], Share] = msgspec.field(
        default_factory=lambda: {"office": 0.4, "factory": 0.3, "home": 0.3}
    )
    heartbeat_s: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 60
    frame_size: Annotated[int, msgspec.Meta(ge=64, le=16383)] = 1024
    protected: Share = 0.1
    scrambled: Share = 0.0
    connect_first: Share = 0.0
    array_events: Share = 0.2
    structure_events: Share = 0.1
    fragment_answers: Share = 0.3
    answer_delay_s: FromZero = 0.0
    proxy_delay_s: FromZero = 0.0
    clock_offset_s: FromZero = 0.0
    clock_drift_ppm: FromZero = 20.0
    login_timeout_s: Positive = 30.0
    retry_s: Positive = 5.0
    resends: Annotated[int, msgspec.Meta(ge=0)] = 3
    rest_s: Positive = 60.0
    queue_limit: Count = 1000
    backoff_s: Positive = 0.5
    backoff_limit_s: Positive = 30.0


class TimePart(_Part, frozen=True, kw_only=True):
    """When. `start`: simulated local date and time (now, if absent); `speed`: simulated seconds in a real one."""

    start: datetime | None = None
    speed: Positive = 1.0
    history_s: FromZero = 0.0


class TaskPart(_Part, frozen=True, kw_only=True):
    """What is uploaded: every `minute_s` a curve point of each meter, `rows_per_report` meters in one report.

    `spread_s`: terminals take up to so long before they upload; `missed`: share of readings that a meter does not
    answer, NULL in the upload.
    """

    minute_s: Annotated[float, msgspec.Meta(ge=1.0)] = 900.0
    rows_per_report: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    spread_s: FromZero = 30.0
    missed: Share = 0.0
    events_per_day: FromZero = 0.0


class RadioPart(_Part, frozen=True, kw_only=True):
    """A radio channel, where that is the way; the keys are those of radio.RadioSettings, where they are explained."""

    propagation_s: FromZero = 0.0001
    turn_s: FromZero = 0.02
    key_up_s: FromZero = 0.05
    switch_s: FromZero = 0.01
    bit_error_rate: Share = 0.0
    echo: bool = False


class EventEntry(_Part, frozen=True, kw_only=True):
    """An event at a given time on some terminals."""

    kind: EventSlug
    at_s: FromZero
    terminals: Which = "all"
    meter: Count = 1
    phase: PhaseName = "a"
    duration_s: FromZero = 600.0


class FaultEntry(_Part, frozen=True, kw_only=True):
    """Faults of the line, or of the clock, for some time on some terminals.

    `line` replaces the scenario's own chances for `duration_s` (0: to the end); `disconnect` breaks the connection
    once; `clock_step_s` and `clock_drift_ppm` put the terminal's clock wrong.
    """

    at_s: FromZero
    duration_s: FromZero = 0.0
    terminals: Which = "all"
    line: LineFaults | None = None
    disconnect: bool = False
    clock_step_s: float | None = None
    clock_drift_ppm: float | None = None


class QuirkEntry(_Part, frozen=True, kw_only=True):
    """What some terminals do otherwise than the rest; the keys are those of TerminalSettings, where they are explained.

    `customer_closes_s` below 0: never. A later entry overrules an earlier one.
    """

    terminals: Which = "all"
    silent: bool | None = None
    answers_late_s: dict[RequestKind, FromZero] | None = None
    relay_shares: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=8)] | None = None
    round_bits_lsb_first: bool | None = None
    control_bits_lsb_first: bool | None = None
    relays_by_place: bool | None = None
    relay_open_state: Literal[0, 1] | None = None
    customer_closes_s: float | None = None
    message_read_s: FromZero | None = None
    restore: Literal["next_period", "staged"] | None = None
    trip_ends_at_midnight: bool | None = None
    purchase_price: Positive | None = None

    def applied(self, settings: TerminalSettings) -> TerminalSettings:
        """The settings with what this entry says."""
        said = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        del said["terminals"]
        if said.get("customer_closes_s", 0.0) < 0:
            said["customer_closes_s"] = None
        return msgspec.structs.replace(settings, **said)


class Scenario(_Part, frozen=True, kw_only=True):
    """A whole scenario."""

    seed: int = 1
    fleet: FleetPart = FleetPart()
    time: TimePart = TimePart()
    tasks: TaskPart = TaskPart()
    line: LineFaults = LineFaults()
    radio: RadioPart = RadioPart()
    event: tuple[EventEntry, ...] = ()
    fault: tuple[FaultEntry, ...] = ()
    quirk: tuple[QuirkEntry, ...] = ()


def parse(text: str, source: str = "scenario") -> Scenario:
    """The scenario in a TOML text. Raises ScenarioError naming the source and the key."""
    try:
        scenario = msgspec.toml.decode(text, type=Scenario)
    except msgspec.MsgspecError as error:
        raise ScenarioError(f"{source}: {error}") from None
    check(scenario, source)
    return scenario


def load(path: Path) -> Scenario:
    """The scenario in a file. Raises ScenarioError, OSError."""
    return parse(path.read_text(encoding="utf-8"), str(path))


def check(scenario: Scenario, source: str = "scenario") -> None:
    """What the types cannot say. Raises ScenarioError."""
    fleet = scenario.fleet
    if not fleet.kinds or sum(fleet.kinds.values()) <= 0:
        raise ScenarioError(f"{source}: fleet.kinds names no kind with a share above 0")
    entries: dict[str, tuple[EventEntry | FaultEntry | QuirkEntry, ...]] = {
        "event": scenario.event,
        "fault": scenario.fault,
        "quirk": scenario.quirk,
    }
    for section, listed in entries.items():
        for number, entry in enumerate(listed, start=1):
            over = [n for n in entry.terminals if n > fleet.terminals] if entry.terminals != "all" else []
            if over:
                raise ScenarioError(
                    f"{source}: {section} {number}: terminal {over[0]}, but the fleet has {fleet.terminals}"
                )
    for number, quirk in enumerate(scenario.quirk, start=1):
        total = sum(quirk.relay_shares or (1.0,))
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ScenarioError(f"{source}: quirk {number}: relay_shares add up to {total:g}, not to 1")
    for number, event in enumerate(scenario.event, start=1):
        if event.meter > fleet.meters:
            raise ScenarioError(
                f"{source}: event {number}: meter {event.meter}, but there are {fleet.meters} behind a terminal"
            )
    for name, first, count in (
        ("first_address", fleet.first_address, fleet.terminals),
        ("first_meter", fleet.first_meter, fleet.terminals * fleet.meters),
    ):
        if len(str(int(first) + count - 1)) > len(first):
            raise ScenarioError(f"{source}: fleet.{name} {first} leaves no room for {count} addresses")


def concerns(which: Which, number: int) -> bool:
    """Whether an entry is about terminal `number`, counted from 1."""
    return which == "all" or number in which


def start_of(scenario: Scenario, wall: float) -> float:
    """The simulated instant at which the run begins; `wall`: seconds since 1970 now."""
    start = scenario.time.start
    return float(int(wall)) if start is None else instant(start)


def settings_of(
    scenario: Scenario, *, rate: float | None = None, report_limit: int | None = None
) -> list[TerminalSettings]:
    """The settings of every terminal. `rate`: task reports a second of real time over the whole fleet.

    Raises ScenarioError where the rate asks for more than one curve point of a meter in a simulated second.
    """
    fleet, tasks, speed = scenario.fleet, scenario.tasks, scenario.time.speed
    period, spread = tasks.minute_s, tasks.spread_s
    if rate is not None:
        reports = fleet.terminals * math.ceil(fleet.meters / tasks.rows_per_report)
        period, spread = reports / rate * speed, 0.0
        if period < 1.0:
            raise ScenarioError(
                f"{rate:g} reports a second from {fleet.terminals} terminals need a speed of at least "
                f"{math.ceil(speed / period)}: a meter has one curve point in a simulated second"
            )
    made = []
    for index in range(fleet.terminals):
        number = index + 1
        seed = mix(scenario.seed, number)
        events = tuple(
            EventPlan(kind=e.kind, at_s=e.at_s, meter=e.meter, phase=e.phase, duration_s=e.duration_s)
            for e in scenario.event
            if concerns(e.terminals, number)
        )
        form = share(seed, 51)
        made.append(
            TerminalSettings(
                address=_digits(fleet.first_address, index),
                seed=seed,
                meters=tuple(_digits(fleet.first_meter, index * fleet.meters + m) for m in range(fleet.meters)),
                kind=_kind(fleet, seed),
                minute_s=period,
                phase_s=period * index / fleet.terminals if rate is not None else 0.0,
                upload_delay_s=spread * share(seed, 52),
                missed=tasks.missed,
                rows_per_report=tasks.rows_per_report,
                history_s=scenario.time.history_s,
                clock_offset_s=fleet.clock_offset_s * (2 * share(seed, 53) - 1),
                clock_drift_ppm=fleet.clock_drift_ppm * (2 * share(seed, 54) - 1),
                events_per_day=tasks.events_per_day,
                events=events,
                heartbeat_s=fleet.heartbeat_s,
                login_timeout_s=fleet.login_timeout_s,
                retry_s=fleet.retry_s,
                resends=fleet.resends,
                rest_s=fleet.rest_s,
                queue_limit=fleet.queue_limit,
                report_limit=report_limit,
                frame_size=fleet.frame_size,
                big_answers="fragments" if share(seed, 55) < fleet.fragment_answers else "blocks",
                first_block=mix(seed, 56) % 2,
                event_form="array"
                if form < fleet.array_events
                else "structure"
                if form < fleet.array_events + fleet.structure_events
                else "record",
                protected=share(seed, 57) < fleet.protected,
                scrambled=share(seed, 58) < fleet.scrambled,
                connect_first=share(seed, 59) < fleet.connect_first,
                answer_delay_s=fleet.answer_delay_s,
                proxy_delay_s=fleet.proxy_delay_s,
            )
        )
    for entry in scenario.quirk:
        made = [
            entry.applied(settings) if concerns(entry.terminals, number) else settings
            for number, settings in enumerate(made, start=1)
        ]
    return made


def _digits(first: str, index: int) -> str:
    return f"{int(first) + index:0{len(first)}d}"


def _kind(fleet: FleetPart, seed: int) -> Literal["office", "factory", "home"]:
    kinds = list(fleet.kinds)
    weights = list(fleet.kinds.values())
    return random.Random(seed).choices(kinds, weights)[0]  # noqa: S311
