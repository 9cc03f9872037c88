"""The state machine of limits (control.md 6) as tables: power in, rounds out; no clock but the table's."""

from __future__ import annotations

import pytest

from simulators.groups import FIRST_GROUP, Groups
from simulators.limits import (
    CYCLE,
    FLOAT_DOWN,
    IDLE,
    MONTHLY,
    PERIOD,
    PURCHASE,
    REST,
    SUSPENSION,
    UNIT_SHAPES,
    Limits,
    Verdict,
    period_of,
)
from simulators.shapes import SUCCESS, bits, enum, i64, members_of, oi, refusal, structure, u8, u16
from simulators.stamps import date_time_s
from simulators.world import Meter, Premises
from wire698.values import BitString, Data, Tag

MONDAY = 1772380800
"""2026-03-02 00:00 local."""
G = FIRST_GROUP
HOUR, MINUTE = 3600, 60
LIMIT = 100_0000
"""100 kW."""


class Known(Groups):
    """Groups whose power and energy the test says."""

    def __init__(self) -> None:
        super().__init__(Premises([Meter("500000000001", "office", 1, MONDAY)]), bytes.fromhex, MONDAY, MONDAY)
        self.now = self.mean = self.total = self.used = 0

    def power(self, oi: int, at: float) -> tuple[int, int]:
        return self.now, 0

    def average(self, oi: int, at: float, seconds: float) -> tuple[int, int]:
        return self.mean, 0

    def energy(self, oi: int, at: float) -> int:
        return self.total

    def month(self, oi: int, at: float) -> tuple[list[int], list[int]]:
        return [self.used, 0, 0, 0, 0], []


def dts(at: int) -> Data:
    return Data(Tag.DATE_TIME_S, date_time_s(at))


def percent(value: int) -> Data:
    return Data(Tag.INTEGER, value)


def period_unit(*limits: int, valid: int = 0xFF, coefficient: int = 0) -> Data:
    """All three sets: set 1 as given, set 2 twice, set 3 three times as much."""
    sets = [structure(bits(valid), *(i64(n * limit) for limit in (limits * 8)[:8])) for n in (1, 2, 3)]
    return structure(oi(G), bits(7), *sets, percent(coefficient))


@pytest.fixture
def groups() -> Known:
    return Known()


@pytest.fixture
def limits(groups: Known) -> Limits:
    return Limits(groups)


def give(limits: Limits, control: int, unit: Data) -> None:
    assert refusal(unit, UNIT_SHAPES[control]) == SUCCESS
    limits.units[control, G] = unit
    limits.put_in(control, G)


def judged(limits: Limits, at: float, *, guaranteed: bool = False) -> list[Verdict]:
    return limits.judge(at, at, guaranteed=guaranteed)


def table(**levels: int) -> bytes:
    """8101 from `h08=1`: the level of an hour, `h08_30=2` of its second half."""
    half_hours = [0] * 48
    for name, level in levels.items():
        hour, _, half = name[1:].partition("_")
        half_hours[2 * int(hour) + bool(half)] = level
        if not half:
            half_hours[2 * int(hour) + 1] = level
    octets = bytearray(12)
    for k, level in enumerate(half_hours):
        octets[k // 4] |= level << 2 * (k % 4)
    return bytes(octets)


def test_half_hours_are_counted_from_the_least_significant_bits() -> None:
    assert table(h00=1) == bytes((0b0101, *[0] * 11))
    assert table(h23_30=2) == bytes((*[0] * 11, 0b10000000))


@pytest.mark.parametrize(
    ("levels", "numbers"),
    [
        ({}, {0: 0, 47: 0}),
        ({"h08": 1, "h09": 1}, {15: 0, 16: 1, 19: 1, 20: 0}),
        # A change from 1 to 2 begins a new period, and so does the next 1 after a gap.
        ({"h08": 1, "h09": 2, "h12": 1}, {16: 1, 18: 2, 20: 0, 24: 3}),
        # 3 is reserved: not controlled.
        ({"h08": 3, "h09": 1}, {16: 0, 18: 1}),
        ({"h08_30": 1}, {16: 0, 17: 1, 18: 0}),
    ],
)
def test_periods_of_the_day(levels: dict[str, int], numbers: dict[int, int]) -> None:
    octets = table(**levels)
    assert {k: period_of(octets, k) for k in numbers} == numbers


def run(limits: Limits, groups: Known, steps: list[tuple[float, float, int]], start: int) -> None:
    """Steps of (minute, power in kW, rounds expected); judged every CYCLE between them."""
    at = float(start)
    for minute, kilowatts, rounds in steps:
        while at < start + minute * 60:
            judged(limits, at)
            at += CYCLE
        groups.now = round(kilowatts * 10_000)
        judged(limits, at)
        assert limits.output() == rounds, f"at minute {minute}"


OVER = [
    # Alarm from minute 0; 8102 says 1, 2, 1, 1 minutes.
    (0.0, 150, 0b0000),
    (0.9, 150, 0b0000),
    (1.0, 150, 0b0001),
    (2.9, 150, 0b0001),
    (3.0, 150, 0b0011),
    (4.0, 150, 0b0111),
    (5.0, 150, 0b1111),
    (9.0, 150, 0b1111),
]


@pytest.mark.parametrize(
    ("configured", "steps"),
    [
        (0b1111, OVER),
        # Power exactly at the limit counts; just below it does not.
        (0b1111, [(0.0, 100, 0), (1.0, 100, 0b1), (1.5, 99.9999, 0b1), (9.0, 99.9999, 0b1)]),
        # Only configured rounds, each with its own time: 2 minutes before round 2, 1 before round 4.
        (0b1010, [(0.0, 150, 0), (1.9, 150, 0), (2.0, 150, 0b0010), (3.0, 150, 0b1010), (9.0, 150, 0b1010)]),
        (0b0000, [(0.0, 150, 0), (9.0, 150, 0)]),
        # Below the limit in time: the alarm begins anew.
        (0b1111, [(0.0, 150, 0), (0.5, 90, 0), (0.6, 150, 0), (1.5, 150, 0), (1.6, 150, 0b1)]),
        # The trip helps: the next round waits for the next excess, and nothing returns within the period.
        (0b1111, [(0.0, 150, 0), (1.0, 150, 1), (1.1, 80, 1), (20.0, 80, 1), (20.1, 150, 1), (22.1, 150, 3)]),
    ],
)
def test_rounds_follow_each_other(
    limits: Limits, groups: Known, configured: int, steps: list[tuple[float, float, int]]
) -> None:
    limits.parameters.periods = table(h08=1, h09=1)
    limits.parameters.waits = (1, 2, 1, 1, 1, 1, 1, 1)
    groups.all[G].power_rounds = configured
    give(limits, PERIOD, period_unit(LIMIT))
    run(limits, groups, steps, MONDAY + 8 * HOUR)


def test_the_alarm_and_the_verdicts(limits: Limits, groups: Known) -> None:
    limits.parameters.periods = table(h08=1)
    give(limits, PERIOD, period_unit(LIMIT))
    at = MONDAY + 8 * HOUR
    groups.now = 120_0000
    assert judged(limits, at) == []
    assert limits.look(PERIOD, G).alarm
    assert judged(limits, at + 60) == [Verdict(PERIOD, G, 0b1, LIMIT, 120_0000)]
    assert limits.cause_of(1) == "period"
    assert limits.cause_of(2) is None
    groups.now = 90_0000
    judged(limits, at + 65)
    assert not limits.look(PERIOD, G).alarm


def test_output_returns_with_the_next_period(limits: Limits, groups: Known) -> None:
    limits.parameters.periods = table(h08=1, h09=2)
    give(limits, PERIOD, period_unit(LIMIT, 5 * LIMIT))
    groups.now = 150_0000
    at = MONDAY + 8 * HOUR
    for second in (0, 60, 120):
        judged(limits, at + second)
    assert limits.output() == 0b11
    judged(limits, at + HOUR - 1)
    assert limits.output() != 0
    # Period 2 has a limit of 500 kW.
    judged(limits, at + HOUR)
    assert limits.output() == 0
    judged(limits, at + 2 * HOUR)
    assert limits.acting == {}
    assert limits.interval() == IDLE


def test_staged_restore_gives_the_rounds_back_one_by_one(groups: Known) -> None:
    limits = Limits(groups, restore="staged")
    limits.parameters.periods = table(h08=1)
    give(limits, PERIOD, period_unit(LIMIT))
    groups.all[G].power_rounds = 0b11
    steps = [(0, 150, 0), (1, 150, 1), (2, 150, 3), (2.5, 50, 3), (3.4, 50, 3), (3.5, 50, 1), (4.5, 50, 0)]
    run(limits, groups, [(float(m), p, r) for m, p, r in steps], MONDAY + 8 * HOUR)


@pytest.mark.parametrize(
    ("coefficient", "floor", "scheme", "limit"),
    [(0, 0, 0, 100), (10, 0, 0, 110), (-20, 0, 0, 80), (-20, 95, 0, 95), (0, 0, 1, 200), (50, 0, 2, 450)],
)
def test_the_limit_floats_and_has_a_floor(
    limits: Limits, coefficient: int, floor: int, scheme: int, limit: int
) -> None:
    limits.parameters.periods = table(h08=1)
    limits.parameters.floor = floor * 10_000
    limits.parameters.schemes[G] = scheme
    give(limits, PERIOD, period_unit(LIMIT, coefficient=coefficient))
    judged(limits, MONDAY + 8 * HOUR)
    assert limits.acting[G].limit == limit * 10_000


def test_a_period_counts_only_when_its_set_and_method_127_have_it(limits: Limits) -> None:
    limits.parameters.periods = table(h08=1, h09=2)
    give(limits, PERIOD, period_unit(LIMIT, valid=0b10))
    judged(limits, MONDAY + 8 * HOUR)
    assert limits.acting == {}
    judged(limits, MONDAY + 9 * HOUR)
    assert limits.acting[G].oi == PERIOD
    limits.parameters.flags[G] = 0b01
    judged(limits, MONDAY + 9 * HOUR + 5)
    assert limits.acting == {}


def rest_unit(days: int, hour: int, minutes: int) -> Data:
    return structure(oi(G), i64(LIMIT), dts(MONDAY + hour * HOUR), u16(minutes), bits(days))


@pytest.mark.parametrize(
    ("day", "hour", "acts"),
    [(0, 7, False), (0, 8, True), (0, 11, True), (0, 12, False), (1, 9, False), (6, 9, True)],
)
def test_rest_days(limits: Limits, day: int, hour: int, acts: bool) -> None:
    """Bit 1 is Monday, bit 7 Sunday (control.md 6.2)."""
    give(limits, REST, rest_unit(1 << 1 | 1 << 7, 8, 240))
    judged(limits, MONDAY + day * 24 * HOUR + hour * HOUR)
    assert (G in limits.acting) is acts


def test_a_rest_window_goes_on_after_midnight(limits: Limits) -> None:
    give(limits, REST, rest_unit(1 << 1, 22, 240))
    for at, acts in ((22, True), (25, True), (26, False), (46, False)):
        judged(limits, MONDAY + at * HOUR)
        assert (G in limits.acting) is acts, at


def test_suspension_lasts_from_its_start_to_its_end(limits: Limits) -> None:
    give(limits, SUSPENSION, structure(oi(G), dts(MONDAY + HOUR), dts(MONDAY + 30 * HOUR), i64(LIMIT)))
    for at, acts in ((0.9, False), (1, True), (29.9, True), (30, False)):
        judged(limits, MONDAY + at * HOUR)
        assert (G in limits.acting) is acts, at


FLOAT_UNIT = structure(oi(G), structure(u8(10), percent(-20), u8(3), u8(1), u8(2), u8(1), u8(1), u8(1)))


def test_float_down_takes_its_limit_from_the_average(limits: Limits, groups: Known) -> None:
    groups.mean, groups.now = 200_0000, 210_0000
    limits.units[FLOAT_DOWN, G] = FLOAT_UNIT
    limits.float_down(G, MONDAY)
    # 200 kW less 20 %; its own alarm minutes 2, 1, ...; it ends after half an hour.
    run(limits, groups, [(0, 210, 0), (1.9, 210, 0), (2, 210, 1), (3, 210, 3), (3.1, 150, 3), (29, 150, 3)], MONDAY)
    assert limits.acting[G].limit == 160_0000
    assert groups.all[G].frozen == 210_0000
    judged(limits, MONDAY + 1800)
    assert limits.output() == 0
    assert not limits.is_input(FLOAT_DOWN, G)
    assert limits.interval() is None


def test_priority(limits: Limits, groups: Known) -> None:
    """Float-down over suspension over rest over period (control.md 6.7)."""
    at = MONDAY + 8 * HOUR
    limits.parameters.periods = table(h08=1)
    groups.mean, groups.now = 200_0000, 300_0000
    give(limits, PERIOD, period_unit(LIMIT))
    give(limits, REST, rest_unit(0xFF, 8, 60))
    give(limits, SUSPENSION, structure(oi(G), dts(MONDAY), dts(MONDAY + 24 * HOUR), i64(LIMIT)))
    limits.units[FLOAT_DOWN, G] = FLOAT_UNIT
    limits.float_down(G, at)
    for control in (FLOAT_DOWN, SUSPENSION, REST, PERIOD):
        judged(limits, at)
        judged(limits, at + 180)
        assert limits.acting[G].oi == control
        assert limits.output() == 0b1
        limits.release(control, G)
        assert limits.output() == 0
    assert limits.interval() is None


def test_a_guarantee_resets_and_afterwards_it_begins_with_the_alarm(limits: Limits, groups: Known) -> None:
    limits.parameters.periods = table(h08=1)
    give(limits, PERIOD, period_unit(LIMIT))
    groups.now = 150_0000
    at = MONDAY + 8 * HOUR
    judged(limits, at)
    judged(limits, at + 60)
    assert limits.output() == 1
    judged(limits, at + 65, guaranteed=True)
    assert limits.output() == 0
    assert not limits.look(PERIOD, G).alarm
    assert limits.is_input(PERIOD, G)
    judged(limits, at + 600)
    assert (limits.output(), limits.look(PERIOD, G).alarm) == (0, True)
    judged(limits, at + 660)
    assert limits.output() == 1


def test_the_guarantees_end_ends_the_float_down(limits: Limits, groups: Known) -> None:
    limits.units[FLOAT_DOWN, G] = FLOAT_UNIT
    limits.float_down(G, MONDAY)
    limits.guarantee_ends()
    assert not limits.is_input(FLOAT_DOWN, G)


def test_a_round_that_the_operator_closed_rests_until_the_next_period(limits: Limits, groups: Known) -> None:
    limits.parameters.periods = table(h08=1, h09=2)
    give(limits, PERIOD, period_unit(LIMIT))
    groups.now = 150_0000
    at = MONDAY + 8 * HOUR
    judged(limits, at)
    judged(limits, at + 60)
    limits.excuse(0b1)
    assert limits.output() == 0
    for minute in range(2, 50):
        judged(limits, at + 60 * minute)
    assert limits.output() == 0b1110
    judged(limits, at + HOUR)
    judged(limits, at + HOUR + 60)
    assert limits.output() == 0b1


def purchase_unit(trip: int, alarm: int) -> Data:
    return structure(
        oi(G),
        Data(Tag.DOUBLE_LONG_UNSIGNED, 7),
        enum(0),
        enum(0),
        i64(1000_0000),
        i64(alarm * 10_000),
        i64(trip * 10_000),
        enum(0),
    )


@pytest.mark.parametrize("configured", [0b1111, 0b0110])
def test_a_purchase_alarms_then_trips_all_configured_rounds(limits: Limits, groups: Known, configured: int) -> None:
    groups.all[G].energy_rounds = configured
    groups.buy(G, MONDAY, 1000_0000, append=False, price=None)
    give(limits, PURCHASE, purchase_unit(10, 200))
    groups.total = 799_9999
    assert judged(limits, MONDAY) == []
    groups.total = 800_0000
    assert judged(limits, MONDAY) == [Verdict(PURCHASE, G, 0, 200_0000, 0)]
    assert judged(limits, MONDAY) == []
    groups.total = 990_0000
    assert judged(limits, MONDAY) == [Verdict(PURCHASE, G, configured, 10_0000, 0)]
    assert limits.output() == configured
    assert judged(limits, MONDAY) == []
    groups.total = 9999_0000
    assert groups.remaining(G, MONDAY) == 0
    # More is bought: what remained, nothing, and 500 kWh.
    groups.buy(G, MONDAY, 500_0000, append=True, price=None)
    assert groups.remaining(G, MONDAY) == 500_0000
    judged(limits, MONDAY)
    assert limits.output() == 0
    assert not limits.look(PURCHASE, G).alarm


def test_a_fee_falls_by_the_price(groups: Known) -> None:
    groups.buy(G, MONDAY, 100_0000, append=False, price=0.5)
    groups.total = 80_0000
    assert groups.remaining(G, MONDAY) == 60_0000


def test_the_month(limits: Limits, groups: Known) -> None:
    """Limit 1000 kWh and 10 %, alarm above 80 % of that."""
    give(limits, MONTHLY, structure(oi(G), i64(1000_0000), u8(80), percent(10)))
    groups.all[G].energy_rounds = 0b11
    found = []
    for used in (880_0000, 880_0001, 1100_0000, 1100_0001, 0):
        groups.used = used
        found.append((judged(limits, MONDAY), limits.output(), limits.look(MONTHLY, G).alarm))
    assert found == [
        ([], 0, False),
        ([Verdict(MONTHLY, G, 0, 880_0000, 0)], 0, True),
        ([], 0, True),
        ([Verdict(MONTHLY, G, 0b11, 1100_0000, 0)], 0b11, True),
        ([], 0, False),
    ]


def test_outputs_of_several_controls_are_joined(limits: Limits, groups: Known) -> None:
    limits.parameters.periods = table(h08=1)
    groups.all[G].energy_rounds = 0b1000
    give(limits, PERIOD, period_unit(LIMIT))
    give(limits, MONTHLY, structure(oi(G), i64(10_0000), u8(80), percent(0)))
    groups.now, groups.used = 150_0000, 11_0000
    judged(limits, MONDAY + 8 * HOUR)
    judged(limits, MONDAY + 8 * HOUR + 60)
    assert limits.output() == 0b1001
    assert (limits.cause_of(1), limits.cause_of(4)) == ("period", "monthly")


@pytest.mark.parametrize("members", [0, 1, 0b11, 0b10000001, 0xFF])
def test_bits_in_both_orders(members: int) -> None:
    assert members_of(bits(members)) == members
    assert members_of(bits(members, lsb_first=True), lsb_first=True) == members
    assert bits(0b11).value == BitString(8, b"\xc0")
    assert bits(0b11, lsb_first=True).value == BitString(8, b"\x03")


def test_energies_of_the_real_groups_follow_the_meters() -> None:
    meters = [Meter(f"50000000000{n}", "factory", n, MONDAY, number=n) for n in (1, 2)]
    groups = Groups(Premises(meters), bytes.fromhex, MONDAY, MONDAY)
    at = MONDAY + 10 * HOUR
    first = [meter.read(MONDAY) for meter in meters]
    groups.date_is(at, MONDAY + 24 * HOUR)
    noon = [meter.read(at + 2 * HOUR) for meter in meters]
    active, reactive = groups.month(G, at + 2 * HOUR)
    wanted = sum(
        100 * meter.curve.ct * (now.energy_import[0] - then.energy_import[0])
        for meter, now, then in zip(meters, noon, first, strict=True)
    )
    assert active[0] == wanted
    assert len(active) == len(reactive) == 5
    assert 0 < groups.day(G, at + 2 * HOUR)[0][0] < active[0]
    assert groups.power(G + 1, at) == (0, 0)
