"""The worked cases A34-A59, D01-D04 and E01-E05 of the rules (tiers, losses, prepaid, audit, messages, KPIs).

One adapter for each case: it says which functions the case is about and gives them the case's numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.billing import audit, crosscheck, demand, kpi, late_fee, losses, power_factor, prepaid, tiers
from consumers.billing.calendars import Holidays
from consumers.billing.decimals import money, rounded, total
from consumers.billing.disconnect import Block, CommandGate, DisconnectPolicy, decide, may_reconnect
from consumers.billing.energy import (
    Rate,
)
from consumers.billing.policies import default_policies, pick
from consumers.billing.registers import (
    LOCAL,
    Quality,
    Received,
    best_readings,
    closed_period,
    register_value,
)
from consumers.billing.tariff import Component, Tariff, TariffClass, energy_lines, line, sum_of

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "data" / "consumers_cases.json").read_text("utf-8"))["cases"]
    if "A34" <= case["id"] <= "A59" or case["id"][0] in "DE"
}
ADAPTERS: dict[str, Callable[[Any, Any], None]] = {}

DAY = date(2026, 4, 1)
START = datetime(2026, 4, 1, tzinfo=LOCAL)
END = datetime(2026, 5, 1, tzinfo=LOCAL)
BOOK = default_policies()
DEMAND = pick(BOOK.demand, DAY)
PREPAID = pick(BOOK.prepaid, DAY)
LATE = pick(BOOK.late_fee, DAY)
CUT = pick(BOOK.disconnect, DAY, "prepaid-lv")
CHECK = pick(BOOK.crosscheck, DAY)
TABLES = {std: BOOK.power_factor_table(Decimal(std), DAY) for std in ("0.90", "0.85", "0.80")}


def case(*ids: str) -> Callable[[Callable[[Any, Any], None]], Callable[[Any, Any], None]]:
    def keep(adapter: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        for id_ in ids:
            assert id_ not in ADAPTERS
            ADAPTERS[id_] = adapter
        return adapter

    return keep


def dec(value: Any) -> Decimal:
    return Decimal(str(value))


def flat_tariff(*components: Component, coefficients: dict[Rate, Decimal] | None = None) -> Tariff:
    return Tariff(
        id="t",
        version="1",
        valid_from=date(2020, 1, 1),
        tariff_class=TariffClass.TWO_PART,
        components=components,
        coefficients=coefficients or {},
    )


def test_every_case_has_an_adapter() -> None:
    assert set(ADAPTERS) == set(CASES)
    assert len(CASES) == 26 + 4 + 5


@pytest.mark.parametrize("id_", sorted(CASES), ids=lambda id_: id_)
def test_case(id_: str) -> None:
    ADAPTERS[id_](CASES[id_]["input"], CASES[id_]["expected"])


TIERS = {"t": [2760, 4800], "prices": ["0.538", "0.588", "0.838"]}
"""What A36, A37 and A40 leave out: the Zhejiang tiers of A34."""
TIER_BASE: dict[str, Any] = {"id": "tiers", "version": "1", "valid_from": date(2020, 1, 1)}


def tier_tariff(thresholds: Any, tou: tiers.TouMode, **prices: Any) -> tiers.TierTariff:
    return tiers.TierTariff(
        **TIER_BASE,
        accumulation=tiers.Accumulation.YEARLY,
        tou=tou,
        thresholds=tuple(dec(limit) for limit in thresholds),
        **prices,
    )


@case("A34", "A35", "A38", "A40")
def _(given: Any, expected: Any) -> None:
    given = {**TIERS, **given}
    tariff = tier_tariff(given["t"], tiers.TouMode.NONE, prices=tuple(map(dec, given["prices"])))
    terms = tiers.TierTerms(tariff=tariff, before=dec(given["ytd"]))
    fee = sum_of(tiers.tier_lines(terms, {Rate.FLAT: dec(given["kwh"])}))
    if isinstance(expected, dict):
        assert list(tiers.tier_quantities(terms.before, dec(given["kwh"]), terms.thresholds())) == expected["q"]
        expected = expected["fee"]
    assert fee == dec(expected)


@case("A36")
def _(given: Any, expected: Any) -> None:
    matrix = {Rate.PEAK: tuple(map(dec, given["pp"])), Rate.VALLEY: tuple(map(dec, given["pv"]))}
    terms = tiers.TierTerms(
        tariff=tier_tariff(TIERS["t"], tiers.TouMode.MATRIX, matrix=matrix), before=dec(given["ytd"])
    )
    parts = {Rate.PEAK: dec(given["peak"]), Rate.VALLEY: dec(given["valley"])}
    assert list(tiers.tier_quantities(terms.before, total(parts.values()), terms.thresholds())) == expected["q"]
    assert sum_of(tiers.tier_lines(terms, parts)) == dec(expected["fee"])


@case("A37")
def _(given: Any, expected: Any) -> None:
    # The case gives the adders only; its rate prices are those of the first tier of A36.
    tariff = tier_tariff(
        TIERS["t"],
        tiers.TouMode.ADDER,
        adders=tuple(map(dec, given["adders"])),
        rate_prices={Rate.PEAK: dec("0.568"), Rate.VALLEY: dec("0.288")},
    )
    terms = tiers.TierTerms(tariff=tariff, before=dec(given["ytd"]))
    parts = {Rate.PEAK: dec(given["peak"]), Rate.VALLEY: dec(given["valley"])}
    assert sum_of(tiers.tier_lines(terms, parts)) == dec(expected)


@case("A39")
def _(given: Any, expected: Any) -> None:
    assert tiers.months_open(2026, date(2026, 9, 12), None) == given["months"]
    assert list(tiers.part_year([dec(limit) for limit in given["t"]], given["months"])) == expected


@case("A41")
def _(given: Any, expected: Any) -> None:
    unit = losses.Transformer(
        id="s13",
        sn=dec(given["Sn"]),
        p0=dec(given["P0"]),
        pk=dec(given["Pk"]),
        i0=dec(given["I0"]),
        uk=dec(given["Uk"]),
        hours=dec(given["hours"]),
    )
    terms = losses.LossTerms(transformers=(unit,), load_shape=dec(given["K"]))
    lost = losses.losses(terms, dec(given["Wp"]), dec(given["Wq"]))
    assert [lost.active, lost.reactive] == [dec(value) for value in expected]


@case("A42")
def _(given: Any, expected: Any) -> None:
    assert losses.percent_loss(dec(given["metered"]) + dec(given["tr_loss"]), dec(given["rate_pct"])) == dec(expected)


@case("A43")
def _(given: Any, expected: Any) -> None:
    # The case states no standard; 0.90 is the one its rate belongs to.
    assessed = power_factor.assess(dec(given["P"]), [dec(given["Q"])], TABLES["0.90"])
    assert (assessed.power_factor, assessed.rate) == (dec(expected["pf"]), dec(expected["rate"]))


@case("A44")
def _(given: Any, expected: Any) -> None:
    energy = energy_lines(
        flat_tariff(Component(code="p", price=dec(given["avg_price"]))), {Rate.FLAT: dec(given["kwh"])}
    )
    charge = prepaid.running_charge(
        energy, PREPAID, base_fee_month=dec(given["kva"]) * dec(given["price"]), days=given["days"]
    )
    balance = prepaid.Balance(cash=dec(given["cash"]), as_of=END, running=charge.amount)
    assert balance.available == dec(expected["balance"])
    assert prepaid.stage_of(balance.available, prepaid.thresholds(None, PREPAID)).name == expected["state"]


@case("A45")
def _(given: Any, expected: Any) -> None:
    limits = prepaid.thresholds(dec(given["avg_day"]), PREPAID)
    assert [limits.warn1, limits.warn2] == expected["thr"]
    assert [prepaid.stage_of(dec(value), limits).name for value in given["balances"]] == expected["st"]


@case("A46")
def _(given: Any, expected: Any) -> None:
    assert prepaid.days_left(dec(given["balance"]), dec(given["avg_day"])) == expected


def blocks_in(facts: dict[str, Any]) -> frozenset[Block]:
    return frozenset(block for block in Block if facts.get(block.value))


@case("A47")
def _(given: Any, expected: Any) -> None:
    policy: DisconnectPolicy = CUT
    assert (policy.grace_days, policy.notice_leads_minutes) == (given["grace_days"], (given["notice_min"],))
    assert [f"{hour:02d}:00" for hour in given["window"]] == [policy.window_from, policy.window_to]
    workday = datetime(2026, 4, 14, tzinfo=LOCAL)
    found = []
    for override in given["overrides"]:
        facts = {**given["base"], **override}
        found.append(
            str(
                decide(
                    blocks=blocks_in(facts),
                    available=dec(facts["balance"]),
                    grace_days=facts["grace_days"],
                    noticed=facts["notified"] and facts["notice_min"] >= policy.notice_leads_minutes[0],
                    in_window=policy.in_window(workday.replace(hour=facts["hour"])),
                    free_or_eve=facts["holiday_or_eve"],
                    policy=policy,
                )
            )
        )
    assert found == expected


@case("A48", "A49", "A50")
def _(given: Any, expected: Any) -> None:
    owed = late_fee.Owed(
        amount=dec(given["arrears"]),
        same_year=given.get("days", given.get("days_same")),
        cross_year=given.get("days_cross", 0),
    )
    resident = given.get("resident", False)
    assert late_fee.late_fee([owed], LATE, resident=resident) == dec(expected)
    due = date(2025, 12, 31) - timedelta(days=owed.same_year)
    until = due + timedelta(days=owed.same_year + owed.cross_year)
    assert late_fee.late_fee_on(owed.amount, due, until, LATE, resident=resident) == dec(expected)


@case("A51", "A52")
def _(given: Any, expected: Any) -> None:
    result = crosscheck.compare(dec(given["remote"]), dec(given["manual"]), dec(given["period_advance"]), CHECK)
    assert (result.tolerance, result.ok) == (dec(expected["tol"]), expected["ok"])


@case("A53")
def _(given: Any, expected: Any) -> None:
    def lines(amount: str) -> list[Any]:
        return [line("x", dec(amount), "CNY", dec(1), "A.16")]

    key = audit.bill_key("a", "2026-04", "regular")
    issued = audit.settle([], key, "hash-1", lines(given["v1"]), status=audit.RowStatus.ISSUED)
    corrected = audit.settle(issued.append, key, "hash-2", lines(given["v2"]))
    rows = [*issued.append, *corrected.append]
    assert [row.total for row in rows] == [dec(given["v1"]), -dec(given["v1"]), dec(given["v2"])]
    assert len(rows) == expected["rows"]
    assert audit.net(rows) == dec(expected["net"])


@case("A54")
def _(given: Any, expected: Any) -> None:
    assert [audit.input_hash(one) == audit.input_hash(other) for one, other in given["pairs"]] == expected


@case("A55")
def _(given: Any, expected: Any) -> None:
    assert [str(money(dec(value))) for value in given] == expected


@case("A56")
def _(given: Any, expected: Any) -> None:
    for paid, (after, reconnect) in zip(given["pay"], expected, strict=True):
        available = dec(given["balance"]) + dec(paid)
        assert str(available) == after
        assert may_reconnect(available, CUT) is reconnect


@case("A57")
def _(given: Any, expected: Any) -> None:
    active, reactive = dec(10000), dec(given["ratio"]) * 10000
    assert power_factor.cos_phi(active, reactive) == dec(expected["cos"])
    assert power_factor.cos_phi(active, reactive, power_factor.PowerFactorMethod.RATIO_TABLE) == dec("0.63")
    assert rounded(power_factor.ratio_bound(dec("0.63")), 7) == dec(expected["bound"])


@case("A58")
def _(given: Any, expected: Any) -> None:
    contract = demand.contract_value(dec(given["requested"]), dec(given["capacity"]), DEMAND)
    assert contract == dec(expected["contract"])
    fee = demand.BaseFee(
        mode=demand.FeeMode.CONTRACT_DEMAND,
        price=dec(given["price"]),
        capacity_kva=dec(given["capacity"]),
        lines=(
            demand.SupplyLine(
                code="1",
                demand=dec(given["md"]),
                requested=dec(given["requested"]),
                capacity_kva=dec(given["capacity"]),
            ),
        ),
    )
    assert sum_of(demand.base_fee_lines(fee, START.date(), END.date(), dec(0), DEMAND)) == dec(expected["fee"])


@case("A59")
def _(given: Any, expected: Any) -> None:
    differing = []
    for row in given["table"].split("|"):
        low, high, shown = row.split()
        for ratio in (low, high):
            active, reactive = dec(10000), dec(ratio) * 10000
            by_table = power_factor.cos_phi(active, reactive, power_factor.PowerFactorMethod.RATIO_TABLE)
            assert by_table == dec(shown), ratio
            if power_factor.cos_phi(active, reactive) != dec(shown):
                differing.append(ratio)
    assert differing == expected


@case("D01")
def _(given: Any, expected: Any) -> None:
    assert [closed_period(datetime.fromisoformat(text)) for text in given] == expected


@case("D02")
def _(given: Any, expected: Any) -> None:
    found = [register_value(raw, scale) for raw, scale in given]
    assert [None if value is None else str(value) for value in found] == expected


@case("D03")
def _(given: Any, expected: Any) -> None:
    arrivals = [Received(seq=seq, key=key, quality=Quality[name], value=dec(text)) for seq, key, name, text in given]
    for order in (arrivals, arrivals[::-1]):
        best = best_readings(order)
        assert {key: [kept.quality.name, str(kept.value)] for key, kept in best.items()} == expected


@case("D04")
def _(given: Any, expected: Any) -> None:
    issued = START
    until = issued + timedelta(seconds=given["valid_s"])
    for arrivals, verdicts in zip(given["arrivals"], expected, strict=True):
        gate = CommandGate()
        found = []
        for seconds in arrivals:
            gate, verdict = gate.judge("c1", until, issued + timedelta(seconds=seconds))
            found.append(verdict)
        assert found == verdicts


@case("E01")
def _(given: Any, expected: Any) -> None:
    counts = kpi.DayCounts(freezes_by_deadline=given["ok"], freezes_due=given["due"])
    assert kpi.day_kpis(counts).collection_success == dec(expected)


@case("E02")
def _(given: Any, expected: Any) -> None:
    counts = kpi.DayCounts(curve_points_valid=given["got"], curve_points_due=given["due"])
    assert kpi.day_kpis(counts).collection_completeness == dec(expected)


@case("E03")
def _(given: Any, expected: Any) -> None:
    # 997 of the case are both correctly executed and verified.
    counts = kpi.DayCounts(
        controls_issued=given["issued"],
        controls_executed=given["executed"],
        controls_correct=given["correct"],
        controls_verified=given["correct"],
    )
    found = kpi.day_kpis(counts)
    assert found.control_correctness == dec(expected["correct"])
    assert found.control_success == dec(expected["success"])


@case("E04")
def _(given: Any, expected: Any) -> None:
    counts = kpi.DayCounts(messages_in_time=given["n"], messages=given["due"])
    assert kpi.day_kpis(counts).timeliness == dec(expected)


@case("E05")
def _(given: Any, expected: Any) -> None:
    counts = kpi.DayCounts(paid=dec(given["paid"]), receivable=dec(given["due"]))
    assert kpi.day_kpis(counts).recovery_rate == dec(expected)


def test_holidays_of_a47() -> None:
    """`holiday_or_eve` of A47 comes from the holiday list: a Thursday before a free Friday is an eve."""
    days = Holidays(id="h", version="1", valid_from=DAY, holidays=frozenset({date(2026, 4, 17)}))
    assert days.free_or_eve(date(2026, 4, 16))
    assert not days.free_or_eve(date(2026, 4, 15))
