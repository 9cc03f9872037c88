"""Whole bills: holds, losses, nested meters, estimates and their true-up, validity, tiers, the ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from consumers.billing import audit, demand, losses, tiers
from consumers.billing.bill import (
    Adjustment,
    BaseFeeTerms,
    Bill,
    BillInputs,
    DemandPoint,
    Held,
    Metering,
    Part,
    PowerFactorTerms,
    compute,
    verify,
)
from consumers.billing.energy import DemandReading, EnergyPolicy, Rate, Segment, Substitute
from consumers.billing.policies import PolicyBook, pick
from consumers.billing.registers import LOCAL, Quality, Reading
from consumers.billing.tariff import Component, Tariff, TariffClass, line
from consumers.billing.validity import ArchiveError, HoldReason

START = datetime(2026, 3, 1, tzinfo=LOCAL)
END = datetime(2026, 4, 1, tzinfo=LOCAL)
Make = Callable[..., Segment]


@pytest.fixture
def part(segment: Make, tariff: Callable[..., Tariff]) -> Callable[..., Part]:
    def make(kwh: str = "1000", code: str = "p", **changes: Any) -> Part:
        metering = Metering(**{"total": (segment("0", kwh),), **changes.pop("metering", {})})
        prices = (
            Component(code="price", price=Decimal("0.5")),
            Component(code="f", price=Decimal("0.01"), fund=True, pf_base=False),
        )
        base: dict[str, Any] = {"start": START, "end": END, "metering": metering, "tariff": tariff(*prices)}
        return Part(code=code, **{**base, **changes})

    return make


@pytest.fixture
def inputs(energy_policy: EnergyPolicy) -> Callable[..., BillInputs]:
    def make(*parts: Part, **changes: Any) -> BillInputs:
        base: dict[str, Any] = {
            "account": "a",
            "period": "2026-03",
            "first": START.date(),
            "until": END.date(),
            "energy_policy": energy_policy,
        }
        return BillInputs(parts=parts, **{**base, **changes})

    return make


def made(given: BillInputs) -> Bill:
    computed = compute(given)
    assert isinstance(computed, Bill), computed
    return computed


def reason(given: BillInputs) -> HoldReason:
    held = compute(given)
    assert isinstance(held, Held), held
    return held.reason


def amounts(bill: Bill) -> dict[str, str]:
    return {item.code: str(item.amount) for item in bill.lines}


def test_a_line_names_its_readings_tariff_and_rule(part: Any, inputs: Any) -> None:
    bill = made(inputs(part()))
    energy, fund = bill.lines
    assert energy.sources == ("tariff@1", "m1-0301", "m1-0401")
    assert (energy.rule, fund.rule) == ("A.5", "A.8")
    assert amounts(bill) == {"p:energy.flat": "500.00", "p:fund.f": "10.00"}


def test_holds(part: Any, inputs: Any, segment: Make, book: PolicyBook) -> None:
    table = PowerFactorTerms(group="g", table=book.power_factor_table(Decimal("0.90"), START.date()))
    short = segment("0", "1", end=END - timedelta(days=1))
    cases = {
        HoldReason.BACKWARD: inputs(part(metering={"total": (segment("10", "9"),)})),
        HoldReason.REGISTER_RANGE: inputs(part(metering={"total": (segment("0", "1000000"),)})),
        HoldReason.IMPLAUSIBLE: inputs(part(capacity_kva=Decimal(1))),
        HoldReason.STRADDLE: inputs(part(metering={"total": (short,)})),
        HoldReason.MISSING_READING: inputs(part(metering={"total": ()})),
        HoldReason.POWER_FACTOR_REVIEW: inputs(
            part("0", group="g", metering={"reactive": ((segment("0", "5"),),)}), power_factor=(table,)
        ),
        HoldReason.NEGATIVE_ENERGY: inputs(part(metering={"estimated_before": {Rate.FLAT: Decimal(1001)}})),
    }
    for expected, given in cases.items():
        assert reason(given) is expected
    no_register = inputs(part(group="g"), power_factor=(table,))
    assert reason(no_register) is HoldReason.MISSING_READING


def test_archives_that_contradict_themselves(part: Any, inputs: Any, book: PolicyBook) -> None:
    old = Tariff(
        id="old",
        version="1",
        valid_from=date(2020, 1, 1),
        valid_to=date(2026, 3, 31),
        tariff_class=TariffClass.SINGLE_PART,
        components=(),
    )
    broken = [
        inputs(part(), part()),
        inputs(part(tariff=old)),
        inputs(part(group="g")),
        inputs(part(nested=("q",))),
        inputs(part(), first=END.date()),
        inputs(part(), first=START.date() + timedelta(days=1)),
    ]
    for given in broken:
        with pytest.raises(ArchiveError):
            compute(given)
    made(inputs(part(tariff=replace(old, valid_to=date(2026, 4, 1)))))


def test_a_part_needs_a_tariff_and_a_fund_is_no_base(part: Any) -> None:
    with pytest.raises(ArchiveError):
        part(tariff=None)
    with pytest.raises(ArchiveError):
        Component(code="f", price=Decimal(1), fund=True)


def test_losses_join_energy_funds_and_power_factor(part: Any, inputs: Any, segment: Make, book: PolicyBook) -> None:
    unit = losses.Transformer(
        id="t",
        sn=Decimal(315),
        p0=Decimal("0.48"),
        pk=Decimal("3.65"),
        i0=Decimal("0.3"),
        uk=Decimal(4),
        hours=Decimal(720),
    )
    terms = losses.LossTerms(transformers=(unit,), line_percent=Decimal("0.5"))
    metering = {
        "total": (segment("0", "60000"),),
        "rates": {Rate.PEAK: (segment("0", "30000"),), Rate.VALLEY: (segment("0", "10000"),)},
        "reactive": ((segment("0", "30000"),),),
    }
    table = PowerFactorTerms(group="g", table=book.power_factor_table(Decimal("0.90"), START.date()))
    bill = made(inputs(part(metering=metering, losses=terms, group="g"), power_factor=(table,)))
    [energy] = bill.energy
    assert energy.parts == {Rate.PEAK: 30445, Rate.FLAT: 20297, Rate.VALLEY: 10148}
    assert [str(n) for n in (energy.kwh, energy.active_loss, energy.reactive)] == ["60890", "890", "31514"]
    assert bill.assessments["g"].power_factor == Decimal("0.89")
    assert bill.lines[-1].qty == 60890  # the fund


def test_an_idle_transformer_owes_its_iron_loss(part: Any, inputs: Any) -> None:
    unit = losses.Transformer(
        id="t", sn=Decimal(100), p0=Decimal("0.2"), pk=Decimal(1), i0=Decimal(1), uk=Decimal(4), hours=Decimal(744)
    )
    bill = made(inputs(part("0", losses=losses.LossTerms(transformers=(unit,)))))
    assert bill.energy[0].parts == {Rate.FLAT: 149}
    parallel = losses.formula_loss(
        [unit, replace(unit, id="off", hours=Decimal(0))], Decimal(0), Decimal(0), Decimal(1)
    )
    assert parallel.active == 149
    with pytest.raises(ArchiveError):
        losses.LossTerms(transformers=(unit,), percent=Decimal(1))


def test_two_equal_transformers_share_the_load() -> None:
    unit = losses.Transformer(
        id="t", sn=Decimal(100), p0=Decimal(0), pk=Decimal(10), i0=Decimal(0), uk=Decimal(0), hours=Decimal(100)
    )
    one = losses.formula_loss([unit], Decimal(5000), Decimal(0), Decimal(1))
    two = losses.formula_loss([unit, replace(unit, id="u")], Decimal(5000), Decimal(0), Decimal(1))
    assert [str(one.active), str(two.active)] == ["250", "125"]


def test_nested_meter_is_taken_out_and_counts_for_the_power_factor(
    part: Any, inputs: Any, segment: Make, tariff: Callable[..., Tariff], book: PolicyBook
) -> None:
    reactive = {"reactive": ((segment("0", "600"),),)}
    table = PowerFactorTerms(group="g", table=book.power_factor_table(Decimal("0.90"), START.date()))
    main = part("1000", "main", metering=reactive, group="g", nested=("light",))
    light = part("200", "light", group="g", tariff=tariff(Component(code="price", price=Decimal(1))))
    bill = made(inputs(main, light, power_factor=(table,)))
    assert [energy.kwh for energy in bill.energy] == [800, 200]
    assert bill.assessments["g"].active == 1000
    base = next(item for item in bill.lines if item.code == "g:power_factor")
    assert base.qty == 600  # 800 x 0.5 + 200 x 1
    over = part("2000", "light", group="g")
    assert reason(inputs(main, over, power_factor=(table,))) is HoldReason.NEGATIVE_ENERGY


def test_an_estimate_is_provisional_and_trued_up(part: Any, inputs: Any, segment: Make, book: PolicyBook) -> None:
    guess = Substitute(kwh=Decimal(6010), quality=Quality.ESTIMATED)
    metering = {"total": (), "substitute": guess, "shares": {Rate.PEAK: Decimal(1), Rate.FLAT: Decimal(1)}}
    table = PowerFactorTerms(group="g", table=book.power_factor_table(Decimal("0.90"), START.date()))
    given = inputs(part(metering=metering, group="g"), power_factor=(replace(table, assumed=Decimal("0.95")),))
    estimated = made(given)
    assert estimated.provisional
    assert estimated.needs_approval
    assert estimated.assessments["g"].rate == Decimal("-0.75")
    billed = estimated.energy[0].parts
    assert billed == {Rate.PEAK: 3005, Rate.FLAT: 3005}
    two_months = segment("0", "12500", start=datetime(2026, 2, 1, tzinfo=LOCAL))
    peak = segment("0", "6000", start=datetime(2026, 2, 1, tzinfo=LOCAL))
    true = {"total": (two_months,), "rates": {Rate.PEAK: (peak,)}, "estimated_before": billed}
    bill = made(inputs(part(metering=true)))
    assert bill.energy[0].parts == {Rate.PEAK: 2995, Rate.FLAT: 3495}
    assert bill.energy[0].kwh == 6490
    assert not bill.provisional


def test_a_derived_removal_reading_needs_approval(part: Any, inputs: Any, segment: Make) -> None:
    change = START + timedelta(days=10)
    old, new = segment("0", "10", start=START, end=change), segment("0", "5", start=change, name="m2")
    assert not made(inputs(part(metering={"total": (old, new)}))).needs_approval
    guessed = replace(old, last=replace(old.last, quality=Quality.DERIVED))
    bill = made(inputs(part(metering={"total": (guessed, new)})))
    assert bill.needs_approval
    assert not bill.provisional


def test_unbalanced_rates_are_evidence_and_billed_by_total(part: Any, inputs: Any, segment: Make) -> None:
    rates = {Rate.PEAK: (segment("0", "400"),), Rate.FLAT: (segment("0", "599.89"),)}
    bill = made(inputs(part(metering={"rates": rates})))
    assert [evidence.code for evidence in bill.evidence] == ["REGISTER_UNBALANCE"]
    assert bill.energy[0].kwh == 1000
    rates[Rate.FLAT] = (segment("0", "599.90"),)
    assert not made(inputs(part(metering={"rates": rates}))).evidence


def test_base_fee_with_an_unreset_demand_holds(part: Any, inputs: Any, book: PolicyBook) -> None:
    def with_demand(reached: datetime) -> BillInputs:
        shown = DemandReading(
            reading=Reading(id="md", value=Decimal("0.5"), at=END), multiplier=Decimal(100), reached=reached
        )
        given: BillInputs = inputs(
            part(),
            base_fee=BaseFeeTerms(
                mode=demand.FeeMode.ACTUAL_DEMAND,
                price=Decimal(40),
                capacity_kva=Decimal(100),
                policy=pick(book.demand, START.date()),
                points=(DemandPoint(code="1", readings=(shown,)),),
            ),
        )
        return given

    assert amounts(made(with_demand(START)))["base.demand.1"] == "2000.00"
    assert reason(with_demand(START - timedelta(seconds=1))) is HoldReason.DEMAND_NOT_RESET


@pytest.mark.parametrize(
    ("first", "until", "days"),
    [
        (date(2026, 2, 20), date(2026, 3, 7), 25),
        (date(2026, 2, 20), date(2026, 3, 6), 31),
        (date(2026, 3, 10), date(2026, 5, 1), 9),
    ],
)
def test_pauses_of_15_days_and_more_count(first: date, until: date, days: int, book: PolicyBook) -> None:
    unit = demand.Unit(id="u", kva=Decimal(1), pauses=(demand.Pause(first=first, until=until),))
    assert demand.service_days(unit, START.date(), END.date(), pick(book.demand, START.date())) == days


def test_february_is_a_whole_month(book: PolicyBook) -> None:
    policy = pick(book.demand, START.date())
    whole = demand.capacity_line(Decimal(100), Decimal(30), 28, 28, policy)
    part = demand.capacity_line(Decimal(100), Decimal(30), 27, 28, policy)
    assert (whole.amount, part.amount) == (Decimal("3000.00"), Decimal("2700.00"))


def test_residential_bill_with_tiers_late_fee_and_correction(part: Any, inputs: Any) -> None:
    tariff = tiers.TierTariff(
        id="zj",
        version="1",
        valid_from=date(2020, 1, 1),
        accumulation=tiers.Accumulation.YEARLY,
        tou=tiers.TouMode.NONE,
        thresholds=(Decimal(2760), Decimal(4800)),
        prices=(Decimal("0.538"), Decimal("0.588"), Decimal("0.838")),
        family_kwh_month=Decimal(100),
    )
    terms = tiers.TierTerms(tariff=tariff, before=Decimal(2600))
    late = Adjustment(code="late_fee", amount=Decimal("2.00"), rule="A.13")
    back = Adjustment(code="correction", amount=Decimal("-10.00"), rule="A.16")
    bill = made(inputs(part("400", tariff=None, tiers=terms), adjustments=(late, back)))
    assert amounts(bill) == {"p:tier1": "86.08", "p:tier2": "141.12", "late_fee": "2.00", "correction": "-10.00"}
    assert bill.total == Decimal("219.20")
    assert replace(terms, large_family=True).thresholds() == (Decimal(3960), Decimal(6000))
    monthly = replace(terms, tariff=replace(tariff, accumulation=tiers.Accumulation.MONTHLY), months=5)
    assert monthly.thresholds() == (Decimal(2760), Decimal(4800))


def test_a_correction_moves_the_tiers_of_later_months() -> None:
    old = [("2026-01", Decimal(2000)), ("2026-02", Decimal(700)), ("2026-03", Decimal(100)), ("2026-04", Decimal(10))]
    new = [("2026-01", Decimal(1900)), *old[1:]]
    limits = (Decimal(2760), Decimal(4800))
    assert tiers.moved_months(old, new, limits) == ["2026-01", "2026-03", "2026-04"]
    assert tiers.moved_months(old, old, limits) == []


def test_impossible_tiers_are_refused() -> None:
    base: dict[str, Any] = {"id": "t", "version": "1", "valid_from": START.date(), "tou": tiers.TouMode.NONE}
    yearly = {**base, "accumulation": tiers.Accumulation.YEARLY}
    for changes in (
        {"thresholds": (Decimal(2761),), "prices": (Decimal(1),) * 2},
        {"thresholds": (Decimal(24), Decimal(12)), "prices": (Decimal(1),) * 3},
        {"thresholds": (Decimal(24),), "prices": (Decimal(1),)},
        {"thresholds": (Decimal(24),), "tou": tiers.TouMode.MATRIX},
    ):
        with pytest.raises(ArchiveError):
            tiers.TierTariff(**{**yearly, **changes})
    with pytest.raises(ArchiveError):
        tiers.months_open(2026, date(2027, 1, 1), None)
    assert tiers.months_open(2026, date(2025, 5, 1), date(2026, 3, 2)) == 3


def test_a_bill_that_does_not_sum_is_never_issued(part: Any, inputs: Any) -> None:
    bill = made(inputs(part()))
    for broken in (
        replace(bill, total=bill.total + Decimal("0.01")),
        replace(bill, lines=(*bill.lines, bill.lines[0]), total=bill.total + bill.lines[0].amount),
        replace(bill, lines=(replace(bill.lines[0], qty=Decimal(7)), bill.lines[1])),
    ):
        with pytest.raises(RuntimeError):
            verify(broken)


def test_the_hash_sees_readings_quality_tariff_and_accumulators(part: Any, inputs: Any, segment: Make) -> None:
    base = inputs(part())
    first = base.parts[0].metering.total[0]
    hashes = {audit.input_hash(base)}
    changed = [
        replace(first, last=replace(first.last, id="other")),
        replace(first, last=replace(first.last, quality=Quality.SUPPLEMENT)),
        replace(first, last=replace(first.last, value=Decimal("1000.01"))),
        replace(first, multiplier=Decimal(2)),
    ]
    hashes |= {audit.input_hash(inputs(part(metering={"total": (item,)}))) for item in changed}
    hashes.add(audit.input_hash(inputs(part(tariff=replace(base.parts[0].tariff, version="2")))))
    assert len(hashes) == 6
    stored = replace(first, last=replace(first.last, value=Decimal("1000.0000"), at=END.astimezone()))
    assert audit.input_hash(inputs(part(metering={"total": (stored,)}))) == audit.input_hash(base)
    with pytest.raises(TypeError):
        audit.input_hash({"a": 1.5})


def test_the_ledger() -> None:
    key = audit.bill_key("a", "2026-03", "regular")

    def lines(amount: str) -> list[Any]:
        return [line("x", Decimal(amount), "CNY", Decimal(1), "A.16")]

    draft = audit.settle([], key, "h1", lines("10"))
    assert (draft.outcome, draft.row.version, draft.row.status) == ("new", 1, "draft")
    replaced = audit.settle([draft.row], key, "h2", lines("11"))
    assert (replaced.outcome, replaced.drop, replaced.row.version) == ("replaced", 1, 2)
    issued = audit.settle([replaced.row], key, "h2", lines("11"), status=audit.RowStatus.ISSUED)
    assert (issued.outcome, issued.row.status) == ("replaced", "issued")
    rows = [issued.row]
    for _ in range(2):
        again = audit.settle(rows, key, "h2", lines("11"), status=audit.RowStatus.ISSUED)
        assert (again.outcome, again.append, again.row) == ("unchanged", (), issued.row)
    rows += audit.settle(rows, key, "h3", lines("12")).append
    rows += audit.settle(rows, key, "h2", lines("11")).append
    assert [row.version for row in rows] == [3, 4, 5, 6, 7]
    assert [row.refers_to for row in rows] == [None, 3, None, 5, None]
    assert audit.net(rows) == 11
    standing = audit.standing(rows)
    assert standing is not None
    assert standing.version == 7
    with pytest.raises(ValueError, match="rows of another bill"):
        audit.settle(rows, "b|2026-03|regular", "h", [])
    with pytest.raises(ValueError, match="bill key"):
        audit.bill_key("a|b", "2026-03", "regular")


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("100.00", "100.00", "none"),
        ("100.00", "100.01", "automatic"),
        ("100.00", "95.00", "automatic"),
        ("100.00", "94.99", "approval"),
        ("10000.00", "10100.00", "automatic"),
        ("10000.00", "10100.01", "approval"),
        ("0.00", "0.01", "approval"),
    ],
)
def test_corrections(old: str, new: str, verdict: str, book: PolicyBook) -> None:
    policy = pick(book.correction, START.date())
    assert audit.judge_correction(Decimal(old), Decimal(new), policy) == verdict
