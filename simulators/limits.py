"""Limits of power 功控 (8103 to 8106) and energy 电控 (8107, 8108): when they alarm, trip and restore (control.md 6).

Theory of operation. Nothing here knows of relays, messages or timers. `judge` is called every CYCLE while a control is
in its time, every IDLE while one is only input; it moves the stages and tells what tripped or alarmed. In a group the
power control of the highest priority that is in its time acts, the others begin anew when their turn comes; what
several groups and the energy controls trip is joined. A stage is

    idle -> power at or above the limit -> alarm -> 8102 minutes -> the next configured round trips -> alarm -> ...

and ends with the period or window that it belongs to (`restore`: next_period), or gives its rounds back one by one,
after the same minutes below the limit (staged).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from wire698.values import Data, Tag

from .groups import GROUPS, Groups
from .shapes import BITS8, GROUP, MOMENT, PERCENT, POWER, Kind, Shape, members_of, up_to
from .stamps import DAY, ZONE_SECONDS, local, read_date_time_s

PERIOD, REST, SUSPENSION, FLOAT_DOWN, PURCHASE, MONTHLY = range(0x8103, 0x8109)
SLUGS = {
    PERIOD: "period",
    REST: "rest",
    SUSPENSION: "suspension",
    FLOAT_DOWN: "float_down",
    PURCHASE: "purchase",
    MONTHLY: "monthly",
}
POWER_CONTROLS = (FLOAT_DOWN, SUSPENSION, REST, PERIOD)
"""By priority."""
ENERGY_CONTROLS = (PURCHASE, MONTHLY)
TYPE_BITS = {PERIOD: 1, REST: 2, SUSPENSION: 4, FLOAT_DOWN: 8, MONTHLY: 1, PURCHASE: 2}
"""Members of the sets 功控 and 电控 of attributes 16 and 17 (control.md 0)."""

CYCLE, IDLE = 5.0, 60.0
HALF_HOUR = 1800

_SET: Shape = (BITS8, *(POWER,) * 8)
_MINUTES = Kind(Tag.UNSIGNED)
_START_OF_DAY = Kind(Tag.DATE_TIME_S, lambda data: data.value[4] < 24 and data.value[5] < 60 and data.value[6] < 60)
"""A date_time_s of which only the time of day counts."""
_APPEND, _REFRESH = (0, 0x55), (1, 0xAA)
_ORDER = Kind(Tag.ENUM, lambda data: data.value in _APPEND + _REFRESH)
FLOAT_PLAN: Shape = (_MINUTES, PERCENT, *(_MINUTES,) * 6)
UNIT_SHAPES: dict[int, Shape] = {
    PERIOD: (GROUP, BITS8, _SET, _SET, _SET, PERCENT),
    REST: (GROUP, POWER, _START_OF_DAY, Kind(Tag.LONG_UNSIGNED), BITS8),
    SUSPENSION: (GROUP, MOMENT, MOMENT, POWER),
    FLOAT_DOWN: (GROUP, FLOAT_PLAN),
    PURCHASE: (
        GROUP,
        Kind(Tag.DOUBLE_LONG_UNSIGNED),
        _ORDER,
        up_to(Tag.ENUM, 1),
        POWER,
        POWER,
        POWER,
        up_to(Tag.ENUM, 1),
    ),
    MONTHLY: (GROUP, POWER, up_to(Tag.UNSIGNED, 100), PERCENT),
}
OLD_PURCHASE: Shape = (GROUP, Kind(Tag.DOUBLE_LONG_UNSIGNED), _ORDER, POWER, POWER, POWER, up_to(Tag.ENUM, 1))
"""The unit of seven members of earlier firmware."""


class Order(NamedTuple):
    """A purchase order 购电单; amounts in 10^-4 kWh or yuan."""

    number: int
    append: bool
    fee: bool
    amount: int
    alarm: int
    trip: int

    @classmethod
    def of(cls, unit: Data) -> Order:
        """The order in a unit of eight or seven members."""
        values = [item.value for item in unit.value]
        kind = values.pop(3) if len(values) == 8 else 0
        return cls(values[1], values[2] in _APPEND, kind == 1, *values[3:6])


def period_of(table: bytes, half_hour: int) -> int:
    """Number (1..) of the period 时段 that half-hour 0..47 belongs to by 8101, 0 where it is not controlled."""
    number = before = 0
    for k in range(half_hour + 1):
        level = table[k // 4] >> 2 * (k % 4) & 3
        if level in (1, 2) and level != before:
            number += 1
        before = level
    return number if before in (1, 2) else 0


def scaled(limit: int, percent: int) -> int:
    """A limit changed by a float coefficient 浮动系数."""
    return limit * (100 + percent) // 100


class Acting(NamedTuple):
    """The power control that acts on a group: its limit, what its stage belongs to, alarm minutes of each round."""

    oi: int
    limit: int
    key: Hashable
    waits: tuple[int, ...]


class Floating(NamedTuple):
    """A down-float 下浮控 that is in force."""

    limit: int
    until: float | None
    freezes: float


class Verdict(NamedTuple):
    """A control tripped `rounds` of a group, or (rounds 0) began to alarm. before: the group's power until then."""

    oi: int
    group: int
    rounds: int
    limit: int
    before: int


@dataclass(slots=True)
class Stage:
    """How far a control has gone in a group; `since`: when the present wait began."""

    alarm: bool = False
    rounds: int = 0
    since: float | None = None
    key: Hashable = None

    def reset(self, key: Hashable = None) -> None:
        self.alarm, self.rounds, self.since, self.key = False, 0, None, key


@dataclass(slots=True)
class Parameters:
    """8100 safety value 保安定值, 8101 periods, 8102 alarm minutes; the scheme and periods of 8103 by group."""

    floor: int = 0
    periods: bytes = bytes(12)
    waits: tuple[int, ...] = (1,) * 8
    schemes: dict[int, int] = field(default_factory=dict)
    flags: dict[int, int] = field(default_factory=dict)


class Limits:
    """Units, input states and stages of all class 13 controls, each by (control OI, group OI)."""

    def __init__(
        self, groups: Groups, *, bits_lsb_first: bool = False, restore: Literal["next_period", "staged"] = "next_period"
    ) -> None:
        self.parameters = Parameters()
        self.units: dict[tuple[int, int], Data] = {}
        self.inputs: dict[tuple[int, int], bool] = {}
        self.stages: dict[tuple[int, int], Stage] = {}
        self.acting: dict[int, Acting] = {}
        self.floating: dict[int, Floating] = {}
        self._groups = groups
        self._lsb_first = bits_lsb_first
        self._staged = restore == "staged"
        self._excused = 0
        self._excused_in: dict[int, tuple[int, Hashable]] = {}

    # --- what the master says ---

    def put_in(self, oi: int, group: int) -> None:
        """Control input 控制投入."""
        self.inputs[oi, group] = True
        self.stage(oi, group).reset()

    def release(self, oi: int, group: int) -> None:
        """Control release 控制解除: its alarm and outputs end."""
        self.inputs[oi, group] = False
        self.stage(oi, group).reset()
        if oi == FLOAT_DOWN:
            self.floating.pop(group, None)

    def float_down(self, group: int, at: float) -> None:
        """Start the down-float of the group's unit: its limit comes from the average over the sliding time."""
        sliding, percent, freeze, half_hours, *_ = (item.value for item in self.units[FLOAT_DOWN, group].value[1].value)
        average, _ = self._groups.average(group, at, max(1, sliding) * 60)
        limit = max(self.parameters.floor, scaled(average, percent))
        until = at + half_hours * HALF_HOUR if half_hours else None
        self.floating[group] = Floating(limit, until, at + freeze * 60)
        self.put_in(FLOAT_DOWN, group)

    def excuse(self, rounds: int) -> None:
        """The operator closed these rounds: no power control trips them again in the same period."""
        self._excused |= rounds
        self._excused_in = self._keys()
        for (oi, _), stage in self.stages.items():
            if oi in POWER_CONTROLS:
                stage.rounds &= ~rounds

    def guarantee_ends(self) -> None:
        """The down-float does not outlive a power guarantee."""
        for group in list(self.floating):
            self.release(FLOAT_DOWN, group)

    # --- what is ---

    def stage(self, oi: int, group: int) -> Stage:
        return self.stages.setdefault((oi, group), Stage())

    def look(self, oi: int, group: int) -> Stage:
        """The stage for reading; an idle one where the control never was input."""
        return self.stages.get((oi, group)) or Stage()

    def is_input(self, oi: int, group: int) -> bool:
        return self.inputs.get((oi, group), False)

    def interval(self) -> float | None:
        """Seconds to the next `judge`; None while no control is input."""
        if not any(self.inputs.values()):
            return None
        return CYCLE if self.acting else IDLE

    def output(self) -> int:
        """Rounds that are tripped."""
        rounds = 0
        for stage in self.stages.values():
            rounds |= stage.rounds
        return rounds

    def cause_of(self, relay: int) -> str | None:
        """The control that has this relay tripped."""
        for oi in POWER_CONTROLS + ENERGY_CONTROLS:
            if any(stage.rounds >> relay - 1 & 1 for (control, _), stage in self.stages.items() if control == oi):
                return SLUGS[oi]
        return None

    def _keys(self) -> dict[int, tuple[int, Hashable]]:
        return {group: (acting.oi, acting.key) for group, acting in self.acting.items()}

    # --- the state machine ---

    def judge(self, at: float, shown: float, *, guaranteed: bool) -> list[Verdict]:
        """Move every stage to the instant `at`, at which the terminal's clock shows `shown`."""
        self._freeze_and_end(at)
        self.acting = {group: acting for group in GROUPS if (acting := self._acting_on(group, shown)) is not None}
        if self._excused and self._keys() != self._excused_in:
            self._excused = 0
        verdicts: list[Verdict] = []
        for (oi, group), stage in self.stages.items():
            acting = self.acting.get(group)
            if guaranteed:
                stage.reset()
            elif oi in ENERGY_CONTROLS:
                verdicts += self._energy(oi, group, stage, at)
            elif acting is None or acting.oi != oi:
                stage.reset()
            else:
                if stage.key != acting.key:
                    stage.reset(acting.key)
                verdicts += self._power(group, acting, stage, at)
        return verdicts

    def _freeze_and_end(self, at: float) -> None:
        for group, floating in list(self.floating.items()):
            if at >= floating.freezes:
                self._groups.all[group].frozen = self._groups.power(group, at)[0]
                self.floating[group] = floating._replace(freezes=float("inf"))
            if floating.until is not None and at >= floating.until:
                self.release(FLOAT_DOWN, group)

    def _power(self, group: int, acting: Acting, stage: Stage, at: float) -> list[Verdict]:
        power = self._groups.power(group, at)[0]
        usable = self._groups.all[group].power_rounds & ~self._excused
        if power < acting.limit:
            if stage.alarm or stage.since is None:
                stage.alarm, stage.since = False, at
            number = stage.rounds.bit_length()
            if self._staged and number and at - stage.since >= acting.waits[number - 1] * 60:
                stage.rounds &= ~(1 << number - 1)
                stage.since = at
            return []
        if not stage.alarm or stage.since is None:
            stage.alarm, stage.since = True, at
        left = usable & ~stage.rounds
        if not left:
            return []
        number = (left & -left).bit_length()
        if at - stage.since < acting.waits[number - 1] * 60:
            return []
        stage.rounds |= 1 << number - 1
        stage.since = at
        return [Verdict(acting.oi, group, 1 << number - 1, acting.limit, power)]

    def _energy(self, oi: int, group: int, stage: Stage, at: float) -> list[Verdict]:
        unit = self.units.get((oi, group))
        if not self.is_input(oi, group) or unit is None:
            stage.reset()
            return []
        if oi == PURCHASE:
            order = Order.of(unit)
            remaining = self._groups.remaining(group, at)
            trips, alarms = remaining <= order.trip, remaining <= order.alarm
            trip_at, alarm_at = order.trip, order.alarm
        else:
            limit, percent, floating = (item.value for item in unit.value[1:])
            used = self._groups.month(group, at)[0][0]
            trip_at = scaled(limit, floating)
            alarm_at = trip_at * percent // 100
            trips, alarms = used > trip_at, used > alarm_at
        verdicts = []
        if (alarms or trips) and not stage.alarm:
            verdicts.append(Verdict(oi, group, 0, alarm_at, 0))
        stage.alarm = alarms or trips
        rounds = self._groups.all[group].energy_rounds if trips else 0
        if rounds & ~stage.rounds:
            verdicts.append(Verdict(oi, group, rounds, trip_at, 0))
        stage.rounds = rounds
        return verdicts

    # --- which control acts ---

    def _acting_on(self, group: int, shown: float) -> Acting | None:
        for oi in POWER_CONTROLS:
            unit = self.units.get((oi, group))
            if unit is not None and self.is_input(oi, group):
                acting = self._in_time(oi, group, unit, shown)
                if acting is not None:
                    return acting
        return None

    def _in_time(self, oi: int, group: int, unit: Data, shown: float) -> Acting | None:
        values = [item.value for item in unit.value]
        waits = self.parameters.waits
        if oi == FLOAT_DOWN:
            floating = self.floating.get(group)
            if floating is None:
                return None
            own = tuple(item.value for item in values[1][4:])
            return Acting(oi, floating.limit, floating.until, own + own[-1:] * 4)
        if oi == SUSPENSION:
            start, end = read_date_time_s(values[1]), read_date_time_s(values[2])
            if start is None or end is None or not start <= shown < end:
                return None
            return Acting(oi, max(self.parameters.floor, values[3]), start, waits)
        if oi == REST:
            began = self._rest_began(values, shown)
            return None if began is None else Acting(oi, max(self.parameters.floor, values[1]), began, waits)
        return self._period(group, unit, shown)

    def _rest_began(self, values: list[object], shown: float) -> float | None:
        """When the window began that `shown` lies in; it may have been yesterday."""
        _, _, start, minutes, _ = values
        assert isinstance(start, bytes)
        assert isinstance(minutes, int)
        days = members_of(Data(Tag.BIT_STRING, values[4]), lsb_first=self._lsb_first)
        midnight = (shown + ZONE_SECONDS) // DAY * DAY - ZONE_SECONDS
        for day in (midnight, midnight - DAY):
            began = day + start[4] * 3600 + start[5] * 60 + start[6]
            if began <= shown < began + minutes * 60 and days >> local(day).isoweekday() & 1:
                return began
        return None

    def _period(self, group: int, unit: Data, shown: float) -> Acting | None:
        parameters = self.parameters
        day, second = divmod(shown + ZONE_SECONDS, DAY)
        number = period_of(parameters.periods, int(second) // HALF_HOUR)
        scheme = parameters.schemes.get(group, 0)
        valid, *limits = unit.value[2 + scheme].value
        flags = members_of(valid, lsb_first=self._lsb_first) & parameters.flags.get(group, 0xFF)
        if not 1 <= number <= 8 or not flags >> number - 1 & 1:
            return None
        limit = max(parameters.floor, scaled(limits[number - 1].value, unit.value[5].value))
        return Acting(PERIOD, limit, (day, number, scheme), parameters.waits)
