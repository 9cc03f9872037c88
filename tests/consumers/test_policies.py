"""Policies and archives by date, tariff checks, prepaid stages, cross-checks, late fees, KPIs: the small rules."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from consumers.billing import crosscheck, kpi, late_fee, prepaid
from consumers.billing.energy import Rate
from consumers.billing.policies import PolicyBook, default_policies, pick, read_policies
from consumers.billing.power_factor import ReactiveMode, SupplyKind, counted_reactive
from consumers.billing.registers import LOCAL, Quality, Reading
from consumers.billing.tariff import TariffClass
from consumers.billing.validity import ArchiveError, BillHold, check_validity, in_force

DAY = date(2026, 4, 1)
NOON = datetime(2026, 4, 1, 12, tzinfo=LOCAL)
LATE_FEE = """
[[late_fee]]
id = "late-fee"
version = "{version}"
valid_from = {first}
resident_percent = "0.1"
same_year_percent = "0.2"
cross_year_percent = "0.3"
minimum = "1.00"
"""


def test_a_version_holds_from_its_first_day_until_the_next() -> None:
    old = LATE_FEE.format(version="1", first="2000-01-01").replace("minimum", "valid_to = 2026-04-01\nminimum")
    book = read_policies(old + LATE_FEE.format(version="2", first="2026-04-01"))
    assert pick(book.late_fee, date(2026, 3, 31)).version == "1"
    assert pick(book.late_fee, DAY).version == "2"
    with pytest.raises(ArchiveError, match="no version"):
        pick(book.late_fee, date(1999, 12, 31))


@pytest.mark.parametrize(
    "text",
    [
        LATE_FEE.format(version="1", first="2000-01-01") + LATE_FEE.format(version="2", first="2026-04-01"),
        LATE_FEE.format(version="1", first="2000-01-01") + "surprise = 1\n",
        LATE_FEE.format(version="1", first="'yesterday'"),
        LATE_FEE.format(version="1", first="2000-01-01").replace('"0.1"', '"much"'),
        LATE_FEE.format(version="1", first="2000-01-01").replace("minimum", "valid_to = 1999-01-01\nminimum"),
        "[[late_fee]",
    ],
    ids=["overlap", "unknown key", "date", "decimal", "backwards", "syntax"],
)
def test_a_broken_book_is_refused(text: str) -> None:
    with pytest.raises(ArchiveError):
        read_policies(text)


def test_overlap_is_found_on_a_day_and_in_a_list(book: PolicyBook) -> None:
    [policy] = book.late_fee
    twice = [policy, replace(policy, version="x")]
    with pytest.raises(ArchiveError, match="more than one"):
        in_force(twice, DAY)
    with pytest.raises(ArchiveError, match="overlap"):
        check_validity(twice)


def test_every_policy_of_the_package_has_a_source() -> None:
    book = default_policies()
    versions = [version for name in book.__struct_fields__ for version in getattr(book, name)]
    assert len(versions) == 15
    assert all(version.source for version in versions)


def test_classes_by_capacity(book: PolicyBook) -> None:
    policy = pick(book.tariff_class, DAY)
    single, two = TariffClass.SINGLE_PART, TariffClass.TWO_PART
    assert policy.allowed(Decimal(100)) == {single}
    assert policy.allowed(Decimal("100.1")) == policy.allowed(Decimal("314.9")) == {single, two}
    assert policy.allowed(Decimal(315)) == {two}
    assert policy.allowed(Decimal(315), grandfathered=True) == {single, two}


def test_coefficients_against_the_regulator(book: PolicyBook) -> None:
    policy = pick(book.rate_float, DAY)
    good = {Rate.PEAK: Decimal("1.6"), Rate.VALLEY: Decimal("0.4"), Rate.SHARP: Decimal("1.92")}
    assert policy.complaints(good, Decimal(50)) == []
    assert len(policy.complaints({**good, Rate.PEAK: Decimal("1.7")}, Decimal(50))) == 1
    assert len(policy.complaints({**good, Rate.VALLEY: Decimal("0.41")}, Decimal(50))) == 1
    assert policy.complaints({**good, Rate.VALLEY: Decimal("0.41")}, Decimal(40)) == []


@pytest.mark.parametrize(
    ("kind", "kva", "standard"),
    [
        (SupplyKind.HV_INDUSTRIAL, "160.1", "0.90"),
        (SupplyKind.HV_INDUSTRIAL, "160", "0.85"),
        (SupplyKind.HV_PUMPING, "3200", "0.90"),
        (SupplyKind.HV_PUMPING, "3199", "0.85"),
        (SupplyKind.AGRICULTURE, "100", "0.80"),
        (SupplyKind.INDUSTRIAL, "99.9", None),
        (SupplyKind.RESIDENTIAL, "5000", None),
    ],
)
def test_power_factor_standards(kind: SupplyKind, kva: str, standard: str | None, book: PolicyBook) -> None:
    found = pick(book.power_factor_standard, DAY).standard(kind, Decimal(kva))
    assert found == (None if standard is None else Decimal(standard))


def test_quadrants() -> None:
    quadrants = (Decimal(1), Decimal(2), Decimal(3), Decimal(4))
    assert counted_reactive(quadrants, ReactiveMode.IMPORT) == (Decimal(1), Decimal(4))
    assert sum(counted_reactive(quadrants, ReactiveMode.ALL)) == 10


def test_a_stage_speaks_once_until_it_is_armed_again(book: PolicyBook) -> None:
    policy = pick(book.prepaid, DAY)
    limits = prepaid.thresholds(Decimal(30), policy)
    known = prepaid.Warnings()
    said = []
    for balance in (
        "200",
        "150",
        "149",
        "151",
        "149",
        "165",
        "150",
        "165.01",
        "150",
        "-1",
        "-2",
        "20",
        "-1",
        "0",
        "-1",
    ):
        known, stage = prepaid.warn(known, Decimal(balance), limits, policy)
        said.append(None if stage is None else stage.name)
    n = None
    assert said == [n, "WARN1", n, n, n, n, n, n, "WARN1", "ARREARS", n, n, "ARREARS", n, n]


def test_thresholds_without_and_with_little_use(book: PolicyBook) -> None:
    policy = pick(book.prepaid, DAY)
    assert prepaid.thresholds(None, policy) == prepaid.thresholds(Decimal(10), policy)
    assert prepaid.thresholds(None, policy).warn2 == 20
    assert prepaid.average_day([Decimal(100)] + [Decimal(7)] * 7, policy) == 7
    assert prepaid.average_day([], policy) is None
    assert prepaid.days_left(Decimal(10), None) is None
    assert prepaid.days_left(Decimal(10), Decimal(0)) is None
    assert prepaid.days_left(Decimal(-10), Decimal(3)) == 0


def test_balance_and_staleness(book: PolicyBook) -> None:
    policy = pick(book.prepaid, DAY)
    balance = prepaid.Balance(
        cash=Decimal(100),
        as_of=NOON,
        credit_limit=Decimal(50),
        unpaid_bills=Decimal(30),
        late_fees=Decimal(2),
        running=Decimal(20),
    )
    assert balance.available == 98
    assert not balance.stale(NOON + timedelta(hours=24), policy)
    assert balance.stale(NOON + timedelta(hours=24, seconds=1), policy)


def test_running_charge_has_last_months_power_factor(book: PolicyBook) -> None:
    policy = pick(book.prepaid, DAY)
    charge = prepaid.running_charge(
        [], policy, base_fee_month=Decimal(3000), days=31, power_factor_rate=Decimal("-0.75")
    )
    assert charge.amount == Decimal("2977.50")


def test_payments_count_once() -> None:
    paid = prepaid.Payment(channel="app", txn_id="1", account="a", amount=Decimal("10.00"), at=NOON)
    assert prepaid.judge_payment(None, paid) == "new"
    assert prepaid.judge_payment(paid, replace(paid, at=NOON + timedelta(hours=1))) == "duplicate"
    assert prepaid.judge_payment(paid, replace(paid, amount=Decimal("10.01"))) == "conflict"
    with pytest.raises(ArchiveError):
        replace(paid, amount=Decimal(0))


def test_late_fee_over_a_year_end_and_with_a_part_payment(book: PolicyBook) -> None:
    policy = pick(book.late_fee, DAY)
    due = date(2025, 12, 16)
    assert late_fee.late_days(due, date(2026, 1, 5)) == (15, 5)
    assert late_fee.late_days(due, due) == (0, 0)
    fee = late_fee.late_fee_on(
        Decimal(5000), due, date(2026, 1, 5), policy, resident=False, payments=[(date(2025, 12, 31), Decimal(5000))]
    )
    assert fee == Decimal("150.00")
    half = late_fee.late_fee_on(
        Decimal(5000), due, date(2026, 1, 5), policy, resident=False, payments=[(date(2025, 12, 31), Decimal(2500))]
    )
    assert half == Decimal("187.50")


def read(value: str, hours: int, quality: Quality = Quality.NORMAL) -> Reading:
    return Reading(id=f"{value}", value=Decimal(value), at=NOON + timedelta(hours=hours), quality=quality)


def test_cross_check_aligns_to_the_time_of_the_manual_reading(book: PolicyBook) -> None:
    policy = pick(book.crosscheck, DAY)
    remote = [read("100", -12), read("124", 12), read("500", 1, Quality.ESTIMATED)]
    manual = read("112.51", 0, Quality.MANUAL)
    result = crosscheck.check(remote, manual, Decimal(40), policy)
    assert result is not None
    assert (result.remote, result.tolerance, result.ok) == (Decimal(112), Decimal("0.50"), False)
    assert result.times_tolerance == Decimal("1.02")
    with pytest.raises(BillHold, match="RECON_MISMATCH"):
        result.require()
    crosscheck.compare(Decimal(112), Decimal("112.5"), Decimal(40), policy).require()
    assert crosscheck.check(remote[:1], manual, Decimal(40), policy) is None


def test_plan_of_manual_readings(book: PolicyBook) -> None:
    policy = pick(book.crosscheck, DAY)
    no_sample = replace(policy, sample_percent=Decimal(0))

    def due(last: date | None, *, hv: bool = False, held: bool = False) -> str | None:
        return crosscheck.manual_due("p", "2026-04", last, DAY, no_sample, high_voltage=hv, held=held)

    assert due(None) == "never"
    assert due(date(2025, 4, 1)) == "interval"
    assert due(date(2025, 4, 2)) is None
    assert due(date(2026, 1, 1), hv=True) == "interval"
    assert due(date(2026, 3, 31), held=True) == "hold"
    drawn = [
        point
        for point in range(5000)
        if crosscheck.manual_due(str(point), "2026-04", DAY, DAY, policy, high_voltage=False)
    ]
    assert 25 <= len(drawn) <= 80  # 1 % of 5000, drawn the same in every run


def test_rates_of_nothing_are_null_and_paused_points_are_not_due() -> None:
    nothing = kpi.day_kpis(kpi.DayCounts())
    assert all(getattr(nothing, name) is None for name in nothing.__struct_fields__)
    life = kpi.PointLife(
        point="a", installed=DAY, removed=DAY + timedelta(days=9), pauses=((date(2026, 4, 3), date(2026, 4, 5)),)
    )
    due = [bool(kpi.due_points([life], DAY + timedelta(days=n))) for n in range(-1, 10)]
    assert due == [False, True, True, False, False, True, True, True, True, True, False]


def test_percentile_is_a_value_that_was_seen() -> None:
    values = [Decimal(n) for n in range(20, 0, -1)]
    assert kpi.percentile(values, Decimal("0.95")) == 19
    assert kpi.percentile(values[:1], Decimal("0.95")) == 20
