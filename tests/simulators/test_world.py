"""The physical world: energy is the integral of power, quantities agree, days look like days, seeds repeat."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.curves import PROFILES, Curve, noise
from simulators.world import TARIFF_HOURS, Meter, Premises

MONDAY = 1772380800
"""2026-03-02 00:00 local."""
SATURDAY = MONDAY + 5 * 86400
HOUR = 3600


def mean_kw(kind: str, day: int, first: int, last: int, seeds: int = 8) -> float:
    """Relative power from hour `first` to `last`, over several consumers."""
    total, count = 0.0, 0
    for seed in range(seeds):
        curve = Curve(kind, seed)
        for at in range(day + first * HOUR, day + last * HOUR, 300):
            total += curve.kilowatts(at) / curve.peak_kw
            count += 1
    return total / count


@pytest.mark.parametrize("kind", sorted(PROFILES))
def test_energy_is_the_integral_of_power(kind: str) -> None:
    meter = Meter("500000000001", kind, 3, MONDAY)
    before = meter.read(MONDAY).energy_import[0]
    after = meter.read(MONDAY + 86400).energy_import[0]
    # An integration of its own: Simpson at 30 s.
    h = 30.0
    values = [meter.kilowatts(MONDAY + n * h) for n in range(2 * 1440 + 1)]
    area = values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])
    kwh = area * h / 3 / 3600
    assert kwh > 5
    assert (after - before) / 100 == pytest.approx(kwh, abs=0.011 + kwh * 1e-4)


@given(cuts=st.lists(st.floats(0, 7200), max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_reading_does_not_depend_on_who_looked_before(cuts: list[float]) -> None:
    quiet, watched = (Meter("1", "home", 5, MONDAY + 17) for _ in range(2))
    for at in sorted(cuts):
        watched.read(MONDAY + 17 + at)
    assert watched.read(MONDAY + 7300) == quiet.read(MONDAY + 7300)


def test_tariffs_add_up_to_the_total_and_follow_the_hours() -> None:
    meter = Meter("1", "factory", 2, MONDAY)
    last = meter.read(MONDAY).energy_import
    for hour in range(24):
        now = meter.read(MONDAY + (hour + 1) * HOUR).energy_import
        grown = [n - before for n, before in zip(now, last, strict=True)]
        rate = int(TARIFF_HOURS[hour])
        assert grown[rate] > 0
        assert [n for n in (1, 2, 3, 4) if grown[n] > 0] == [rate]
        assert abs(now[0] - sum(now[1:])) <= 4
        last = now


@pytest.mark.parametrize("kind", sorted(PROFILES))
def test_quantities_agree_with_each_other(kind: str) -> None:
    meter = Meter("1", kind, 11, MONDAY)
    for at in range(MONDAY, MONDAY + 86400, 1800):
        r = meter.read(at)
        assert abs(r.active[0] - sum(r.active[1:])) <= 2
        for phase in range(3):
            volts, amps = r.voltage[phase] / 10, r.current[phase] / 1000
            p, q, s = (row[phase + 1] / 10 for row in (r.active, r.reactive, r.apparent))
            assert 200 < volts < 240
            assert s == pytest.approx(volts * amps, rel=0.01, abs=0.5)
            assert s == pytest.approx(math.hypot(p, q), abs=0.3)
            assert r.power_factor[phase + 1] / 1000 == pytest.approx(p / s, abs=0.005)
        assert 4990 <= r.frequency <= 5010


def test_an_office_works_by_day_and_rests_at_weekends() -> None:
    assert mean_kw("office", MONDAY, 10, 16) > 3 * mean_kw("office", MONDAY, 0, 5)
    assert mean_kw("office", MONDAY, 10, 16) > 2.5 * mean_kw("office", SATURDAY, 10, 16)
    assert mean_kw("office", MONDAY, 12, 13) < mean_kw("office", MONDAY, 10, 12)


def test_a_home_peaks_in_the_evening() -> None:
    hours = {hour: mean_kw("home", MONDAY, hour, hour + 1) for hour in range(24)}
    assert max(hours, key=lambda hour: hours[hour]) in (19, 20, 21)
    assert hours[20] > 2 * hours[3]
    assert mean_kw("home", SATURDAY, 9, 16) > mean_kw("home", MONDAY, 9, 16)


def test_a_factory_runs_shifts_through_the_night() -> None:
    assert mean_kw("factory", MONDAY, 0, 5) > 0.35
    assert mean_kw("factory", MONDAY, 9, 11) > mean_kw("factory", MONDAY, 18, 21) > mean_kw("factory", MONDAY, 0, 5)
    assert mean_kw("factory", MONDAY, 16, 17) < mean_kw("factory", MONDAY, 14, 15)


def test_the_same_seed_is_the_same_world_and_another_is_not() -> None:
    def day(seed: int) -> list[object]:
        meter = Meter("1", "office", seed, MONDAY)
        return [meter.read(MONDAY + n * 900) for n in range(96)]

    assert day(1) == day(1)
    assert day(1) != day(2)


@given(seed=st.integers(0, 2**63), x=st.floats(-1e6, 1e6))
def test_noise_is_smooth_and_bounded(seed: int, x: float) -> None:
    assert -1 <= noise(seed, x) <= 1
    assert abs(noise(seed, x) - noise(seed, x + 0.01)) < 0.05


def test_demand_is_the_largest_quarter_hour_and_starts_anew_each_month() -> None:
    meter = Meter("1", "office", 4, MONDAY)
    energies = [meter.read(MONDAY + n * 900).energy_import[0] for n in range(97)]
    averages = [(b - a) / 100 * 4 for a, b in pairwise(energies)]
    value, at = meter.read(MONDAY + 86400).demand[0]
    assert value / 10000 == pytest.approx(max(averages), abs=0.05)
    # The instants that come out equal within the rounding of energies are few.
    assert averages[(at - MONDAY) // 900 - 1] == pytest.approx(max(averages), abs=0.05)
    april = MONDAY + 30 * 86400
    assert meter.read(april).demand[0][0] >= value
    assert meter.read(april + 1000).demand[0][0] < value


def test_all_relays_open_leave_nothing_and_averages_remember_it() -> None:
    meter = Meter("1", "factory", 4, MONDAY)
    premises = Premises([meter])
    at = MONDAY + 36000
    assert premises.kilowatts(at) == pytest.approx(meter.kilowatts(at) * meter.curve.ct)
    whole, vars_ = meter.average(at, 600)
    assert whole == pytest.approx(sum(meter.kilowatts(at - 30 - 60 * n) for n in range(10)) / 10)
    assert 0 < vars_ < whole
    for relay in (2, 1, 4, 3):
        premises.switch(at, relay, is_open=True)
    assert meter.kilowatts(at) == meter.kilovars(at) == 0.0
    before = meter.read(at)
    assert meter.read(at + 1800).energy_import == before.energy_import
    # Half of the last ten minutes without load.
    assert meter.average(at + 300, 600)[0] == pytest.approx(whole / 2, rel=0.1)
    for relay in (2, 1, 4, 3):
        premises.switch(at + 1800, relay, is_open=False)
    assert meter.kilowatts(at + 1800) > 0.5 * whole


def test_events_and_relays_take_load_off() -> None:
    meter = Meter("1", "factory", 4, MONDAY)
    premises = Premises([meter], (0.4, 0.3))
    at = MONDAY + 36000
    whole = meter.kilowatts(at)
    premises.switch(at, 1, is_open=True)
    assert meter.kilowatts(at) == pytest.approx(0.6 * whole)
    premises.switch(at, 2, is_open=True)
    assert meter.kilowatts(at) == pytest.approx(0.3 * whole)
    assert premises.open_relays == {1, 2}
    assert premises.relays == 2
    premises.switch(at, 1, is_open=False)
    premises.switch(at, 2, is_open=False)
    meter.break_phase(at, 1, 0.3)
    reading = meter.read(at)
    assert reading.active[2] == reading.current[1] == 0
    assert reading.voltage[1] < 800 < reading.voltage[0]
    assert reading.active[0] / 10000 == pytest.approx(meter.kilowatts(at), abs=0.001)
    meter.break_phase(at, 1, None)
    premises.supply(at, on=False)
    dark = meter.read(at + 3600)
    assert dark.voltage == dark.current == (0, 0, 0)
    assert dark.energy_import == meter.read(at + 1).energy_import
    with pytest.raises(IndexError):
        premises.switch(at, 3, is_open=True)
