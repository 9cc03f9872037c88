"""The missing-freeze ladder, meter replacement, estimates, splits by calendar and by curve."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest

from consumers.billing.calendars import DayType, Holidays, Season, TouCalendar, split_by_curve
from consumers.billing.decimals import total
from consumers.billing.energy import (
    Candidate,
    Closing,
    DemandReading,
    EnergyPolicy,
    Rate,
    Segment,
    Source,
    Waiting,
    chain_energy,
    check_plausible,
    close_register,
    estimate,
    max_demand,
    missing_removal,
    split_by_registers,
    split_by_shares,
    terminal_energy,
)
from consumers.billing.registers import (
    LOCAL,
    Quality,
    Reading,
    Received,
    advance,
    freeze_quality,
    merge,
    multiplier,
    register_value,
)
from consumers.billing.validity import ArchiveError, BillHold, HoldReason

INSTANT = datetime(2026, 4, 1, tzinfo=LOCAL)
LATER = INSTANT + timedelta(days=10)


def reading(value: str, hours: float = 0, quality: Quality = Quality.NORMAL, name: str = "") -> Reading:
    return Reading(
        id=name or f"{value}@{hours}", value=Decimal(value), at=INSTANT + timedelta(hours=hours), quality=quality
    )


def candidate(source: Source, value: str, hours: float = 0, quality: Quality = Quality.NORMAL) -> Candidate:
    return Candidate(source=source, reading=reading(value, hours, quality))


MONTH = candidate(Source.MONTH_FREEZE, "1203.00")
DAY = candidate(Source.DAY_FREEZE, "1203.01")
LATE_DAY = candidate(Source.DAY_FREEZE, "1203.02", quality=Quality.SUPPLEMENT)
BEFORE = candidate(Source.CURVE, "1200.00", -6)
AFTER = candidate(Source.CURVE, "1206.00", 6)
FAR = candidate(Source.CURVE, "1300.00", 67)
MANUAL = candidate(Source.MANUAL, "1206.00", 20, Quality.MANUAL)
OLD = candidate(Source.DAY_FREEZE, "1000.00", -24 * 30)


@pytest.mark.parametrize(
    ("candidates", "value", "quality", "rung"),
    [
        ([BEFORE, AFTER, DAY, MONTH], "1203.00", Quality.NORMAL, "month_freeze:hit"),
        ([BEFORE, AFTER, DAY, LATE_DAY], "1203.01", Quality.NORMAL, "day_freeze:hit"),
        ([LATE_DAY, AFTER, BEFORE], "1203.02", Quality.SUPPLEMENT, "day_freeze:hit"),
        ([candidate(Source.HOUR_FREEZE, "1203.03"), MANUAL], "1203.03", Quality.NORMAL, "hour_freeze:hit"),
        ([AFTER, BEFORE, MANUAL, FAR], "1203.0000", Quality.DERIVED, "interpolate:hit"),
        ([MANUAL, BEFORE], "1201.3846", Quality.MANUAL, "manual:hit"),
        ([candidate(Source.MANUAL, "1203", 0, Quality.MANUAL)], "1203", Quality.MANUAL, "manual:hit"),
        ([MANUAL, OLD], "1200.4324", Quality.MANUAL, "manual:hit"),
    ],
)
def test_ladder(
    candidates: list[Candidate], value: str, quality: Quality, rung: str, energy_policy: EnergyPolicy
) -> None:
    closing = close_register(INSTANT, candidates, LATER, energy_policy)
    assert isinstance(closing, Closing)
    assert (closing.reading.value, closing.reading.quality) == (Decimal(value), quality)
    assert closing.reading.at == INSTANT
    assert closing.steps[-1] == rung
    assert all(step.endswith(":none") for step in closing.steps[:-1])


@pytest.mark.parametrize(
    "candidates",
    [
        [],
        [BEFORE],
        [BEFORE, FAR],  # 73 h apart
        [candidate(Source.MANUAL, "1206", 25, Quality.MANUAL), OLD],
        [BEFORE, candidate(Source.CURVE, "1206", 6, Quality.TERMINAL)],
        [MANUAL],
    ],
)
def test_ladder_without_a_rung(candidates: list[Candidate], energy_policy: EnergyPolicy) -> None:
    assert close_register(INSTANT, candidates, LATER, energy_policy) is None


def test_interpolation_waits_for_the_end_of_asking_again(energy_policy: EnergyPolicy) -> None:
    until = datetime(2026, 4, 5, tzinfo=LOCAL)  # D+3 24:00
    found = close_register(INSTANT, [BEFORE, AFTER], until - timedelta(seconds=1), energy_policy)
    assert found == Waiting(until=until)
    assert isinstance(close_register(INSTANT, [BEFORE, AFTER], until, energy_policy), Closing)
    assert isinstance(close_register(INSTANT, [MONTH], INSTANT, energy_policy), Closing)


def test_a_reading_of_the_future_holds(energy_policy: EnergyPolicy) -> None:
    with pytest.raises(BillHold) as caught:
        close_register(INSTANT, [FAR], INSTANT, energy_policy)
    assert caught.value.reason is HoldReason.FUTURE


def test_no_interpolation_over_a_fall(energy_policy: EnergyPolicy) -> None:
    with pytest.raises(BillHold) as caught:
        close_register(INSTANT, [AFTER, candidate(Source.CURVE, "1207", -6)], LATER, energy_policy)
    assert caught.value.reason is HoldReason.BACKWARD


def test_missing_removal_reading(energy_policy: EnergyPolicy) -> None:
    derived = missing_removal(reading("100", -48), reading("124", -24), INSTANT, energy_policy)
    assert (derived.value, derived.quality, derived.at) == (Decimal("148.0000"), Quality.DERIVED, INSTANT)
    with pytest.raises(BillHold):
        missing_removal(reading("100", -98), reading("124", -74), INSTANT, energy_policy)
    with pytest.raises(BillHold):
        missing_removal(reading("125", -48), reading("124", -24), INSTANT, energy_policy)


def test_segments_must_not_overlap_and_readings_stand_at_their_edges(segment: Callable[..., Segment]) -> None:
    one = segment(1, 2, start=INSTANT, end=INSTANT + timedelta(days=2))
    other = segment(1, 2, start=INSTANT + timedelta(days=1), end=LATER)
    with pytest.raises(ArchiveError, match="overlap"):
        chain_energy([one, other])
    astray = Segment(
        meter="m", multiplier=Decimal(1), first=reading("1", 1), last=reading("2", 240), start=INSTANT, end=LATER
    )
    with pytest.raises(BillHold) as caught:
        chain_energy([astray])
    assert caught.value.reason is HoldReason.STRADDLE
    with pytest.raises(ArchiveError):
        segment(1, 2, mult=0)


def test_residential_readings_are_cut_to_whole_kwh(segment: Callable[..., Segment]) -> None:
    assert chain_energy([segment("100.9", "200.1")], whole=True).kwh == 100
    assert chain_energy([segment("100.9", "200.1")]).kwh == 99


@pytest.mark.parametrize(("first", "last"), [("899999.99", "1"), ("900000", "100000.01"), ("5321.10", "5300.00")])
def test_a_fall_that_is_no_rollover(first: str, last: str) -> None:
    assert advance(Decimal(first), Decimal(last)).delta is None


def test_a_register_beyond_its_digits_holds() -> None:
    assert advance(Decimal(900000), Decimal(100000)).delta == 200000
    for value in ("-1", "1000000"):
        with pytest.raises(BillHold) as caught:
            advance(Decimal(0), Decimal(value))
        assert caught.value.reason is HoldReason.REGISTER_RANGE


def test_plausibility_is_inclusive() -> None:
    check_plausible(Decimal(86400), Decimal(100), Decimal(720), Decimal("1.2"))
    with pytest.raises(BillHold) as caught:
        check_plausible(Decimal(86401), Decimal(100), Decimal(720), Decimal("1.2"))
    assert caught.value.reason is HoldReason.IMPLAUSIBLE


@pytest.mark.parametrize("text", ["", "10/", "0/5", "10/5/2", "nan", "-10/5", "ten"])
def test_a_ratio_that_is_none(text: str) -> None:
    with pytest.raises(ArchiveError):
        multiplier(text, "1")


def test_the_invalid_pattern_is_that_of_the_field() -> None:
    assert register_value(0xFFFF, -2) == Decimal("655.35")
    assert register_value(0xFFFF, -2, bits=16) is None


def test_a_newer_equal_value_is_a_no_op_that_is_remembered() -> None:
    first = Received(seq=1, key="k", quality=Quality.NORMAL, value=Decimal(1))
    kept, changed = merge(first, Received(seq=3, key="k", quality=Quality.NORMAL, value=Decimal("1.0")))
    assert (kept.seq, changed) == (3, False)
    assert merge(kept, Received(seq=2, key="k", quality=Quality.NORMAL, value=Decimal(9)))[0] is kept
    with pytest.raises(ValueError, match="different readings"):
        merge(first, Received(seq=2, key="other", quality=Quality.NORMAL, value=Decimal(1)))


def test_a_clock_that_is_off_makes_a_freeze_derived() -> None:
    limit = timedelta(minutes=10)
    assert freeze_quality(Quality.NORMAL, limit, limit) == (Quality.NORMAL, False)
    assert freeze_quality(Quality.NORMAL, -limit - timedelta(seconds=1), limit) == (Quality.DERIVED, True)
    assert freeze_quality(Quality.ESTIMATED, 2 * limit, limit) == (Quality.ESTIMATED, True)


def test_terminal_energy_is_calibrated() -> None:
    history = [(Decimal(990), Decimal(1000)), (Decimal(1010), Decimal(1000))]
    found = terminal_energy(Decimal(500), history)
    assert found is not None
    assert (found.kwh, found.quality.provisional) == (Decimal(500), True)
    assert terminal_energy(Decimal(500), []) is None


def test_estimates() -> None:
    assert estimate([], 30, paused=True).kwh == 0
    with pytest.raises(BillHold) as caught:
        estimate([(Decimal(1), 30)], 30, already=2)
    assert caught.value.reason is HoldReason.ESTIMATES_EXHAUSTED
    with pytest.raises(BillHold) as caught:
        estimate([], 30)
    assert caught.value.reason is HoldReason.MISSING_READING


def test_rates_beyond_the_total_are_scaled_to_it() -> None:
    parts = split_by_registers(Decimal(100), {Rate.PEAK: Decimal(90), Rate.VALLEY: Decimal(60)})
    assert parts == {Rate.PEAK: 60, Rate.VALLEY: 40, Rate.FLAT: 0}


def test_a_residual_is_never_below_zero_by_rounding() -> None:
    weights = {Rate.PEAK: Decimal(1), Rate.VALLEY: Decimal(1), Rate.SHARP: Decimal(1)}
    parts = split_by_shares(Decimal(2), weights)
    assert total(parts.values()) == 2
    assert min(parts.values()) >= 0


def test_max_demand_of_a_replaced_meter() -> None:
    end = INSTANT + timedelta(days=30)
    old = DemandReading(reading=reading("0.5"), multiplier=Decimal(60), reached=INSTANT)
    new = DemandReading(reading=reading("0.4"), multiplier=Decimal(80), reached=end)
    assert max_demand([old, new], INSTANT, end) == 32
    with pytest.raises(BillHold) as caught:
        max_demand([old, new], INSTANT + timedelta(seconds=1), end)
    assert caught.value.reason is HoldReason.DEMAND_NOT_RESET
    with pytest.raises(BillHold):
        max_demand([], INSTANT, end)


DAY_TABLE = "V" * 16 + "P" * 8 + "F" * 24
SUMMER = "V" * 16 + "T" * 8 + "F" * 24
HOLIDAYS = Holidays(
    id="h",
    version="2026",
    valid_from=date(2026, 1, 1),
    holidays=frozenset({date(2026, 5, 1)}),
    worked=frozenset({date(2026, 5, 9)}),
)
CALENDAR = TouCalendar(
    id="c",
    version="1",
    valid_from=date(2026, 1, 1),
    seasons=(
        Season(name="summer", first="06-01", last="08-31", workday=SUMMER, weekend="D" * 48),
        Season(name="rest", first="09-01", last="05-31", workday=DAY_TABLE, holiday="V" * 48),
    ),
)


@pytest.mark.parametrize(
    ("at", "rate"),
    [
        ("2026-04-01T07:59", Rate.VALLEY),
        ("2026-04-01T08:00", Rate.PEAK),
        ("2026-04-01T11:59", Rate.PEAK),
        ("2026-04-01T12:00", Rate.FLAT),
        ("2026-05-01T09:00", Rate.VALLEY),  # a holiday
        ("2026-06-01T09:00", Rate.SHARP),
        ("2026-06-06T09:00", Rate.DEEP_VALLEY),  # a Saturday
        ("2026-12-31T09:00", Rate.PEAK),  # a season over the year's end
    ],
)
def test_rate_at(at: str, rate: Rate) -> None:
    instant = datetime.fromisoformat(at + "+08:00")
    assert CALENDAR.rate_at(instant, HOLIDAYS) is rate


def test_day_types_and_eves() -> None:
    assert HOLIDAYS.day_type(date(2026, 5, 9)) is DayType.WORKDAY  # a Saturday worked 调休
    assert HOLIDAYS.day_type(date(2026, 5, 10)) is DayType.WEEKEND
    assert [HOLIDAYS.free_or_eve(date(2026, 5, day)) for day in (6, 7, 8, 9, 10)] == [False, False, False, True, True]
    assert CALENDAR.rates() == set(Rate)
    assert Rate.DEEP_VALLEY.register == "t5"


@pytest.mark.parametrize(
    "seasons",
    [
        [("01-01", "12-30")],
        [("01-01", "12-31"), ("02-01", "02-02")],
        [("01-01", "02-30")],
        [],
    ],
)
def test_seasons_cover_each_day_once(seasons: list[tuple[str, str]]) -> None:
    with pytest.raises(ArchiveError):
        TouCalendar(
            id="c",
            version="1",
            valid_from=date(2026, 1, 1),
            seasons=tuple(Season(name=a, first=a, last=b, workday=DAY_TABLE) for a, b in seasons),
        )


def test_a_day_has_48_half_hours() -> None:
    with pytest.raises(ArchiveError, match="48 letters"):
        Season(name="s", first="01-01", last="12-31", workday="V" * 47)


def curve(points: int) -> list[tuple[datetime, Decimal | None]]:
    quarter = timedelta(minutes=15)
    return [(INSTANT + n * quarter, Decimal(1) if n < points else None) for n in range(96)]


def test_split_by_curve() -> None:
    end = INSTANT + timedelta(days=1)
    shares = {Rate.PEAK: Decimal(1), Rate.VALLEY: Decimal(1)}
    split = split_by_curve(Decimal(960), curve(96), INSTANT, end, CALENDAR, HOLIDAYS)
    assert split.parts == {Rate.VALLEY: 320, Rate.PEAK: 160, Rate.FLAT: 480}
    assert split.completeness == 1
    # 91 of 96 are 94.8 %: the shares of last month; 92 are enough.
    thin = split_by_curve(Decimal(960), curve(91), INSTANT, end, CALENDAR, HOLIDAYS, last_month=shares)
    assert thin.parts == {Rate.PEAK: 480, Rate.VALLEY: 480, Rate.FLAT: 0}
    assert split_by_curve(Decimal(960), curve(92), INSTANT, end, CALENDAR, HOLIDAYS).parts != thin.parts
    with pytest.raises(BillHold) as caught:
        split_by_curve(Decimal(960), curve(91), INSTANT, end, CALENDAR, HOLIDAYS)
    assert caught.value.reason is HoldReason.CURVE_INCOMPLETE
