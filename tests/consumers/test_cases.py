"""The worked cases A01-A59, D01-D04 and E01-E05 of the rules, exact decimals, by the public functions.

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

from consumers.billing import audit, bill, crosscheck, demand, kpi, late_fee, losses, power_factor, prepaid, tiers
from consumers.billing.calendars import Holidays
from consumers.billing.decimals import money, rounded, total
from consumers.billing.disconnect import Block, CommandGate, DisconnectPolicy, decide, may_reconnect
from consumers.billing.energy import (
    DemandReading,
    Rate,
    Segment,
    chain_energy,
    estimate,
    interpolate,
    max_demand,
    split_by_registers,
    true_up,
)
from consumers.billing.policies import default_policies, pick
from consumers.billing.registers import (
    LOCAL,
    Quality,
    Reading,
    Received,
    advance,
    best_readings,
    closed_period,
    multiplier,
    register_value,
    unbalance,
)
from consumers.billing.tariff import Component, Tariff, TariffClass, energy_lines, line, sum_of
from consumers.billing.validity import BillHold, HoldReason

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "data" / "consumers_cases.json").read_text("utf-8"))["cases"]
    if case["id"][0] in "ADE"
}
ADAPTERS: dict[str, Callable[[Any, Any], None]] = {}

DAY = date(2026, 4, 1)
START = datetime(2026, 4, 1, tzinfo=LOCAL)
END = datetime(2026, 5, 1, tzinfo=LOCAL)
BOOK = default_policies()
ENERGY = pick(BOOK.energy, DAY)
DEMAND = pick(BOOK.demand, DAY)
PREPAID = pick(BOOK.prepaid, DAY)
LATE = pick(BOOK.late_fee, DAY)
CUT = pick(BOOK.disconnect, DAY, "prepaid-lv")
CHECK = pick(BOOK.crosscheck, DAY)
TABLES = {std: BOOK.power_factor_table(Decimal(std), DAY) for std in ("0.90", "0.85", "0.80")}
LETTER = {"T": Rate.SHARP, "P": Rate.PEAK, "F": Rate.FLAT, "V": Rate.VALLEY}


def case(*ids: str) -> Callable[[Callable[[Any, Any], None]], Callable[[Any, Any], None]]:
    def keep(adapter: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        for id_ in ids:
            assert id_ not in ADAPTERS
            ADAPTERS[id_] = adapter
        return adapter

    return keep


def dec(value: Any) -> Decimal:
    return Decimal(str(value))


def chain(
    first: Any, last: Any, mult: Any = 1, start: datetime = START, end: datetime = END, name: str = "m"
) -> Segment:
    return Segment(
        meter=name,
        multiplier=dec(mult),
        first=Reading(id=f"{name}a", value=dec(first), at=start),
        last=Reading(id=f"{name}b", value=dec(last), at=end),
        start=start,
        end=end,
    )


def flat_tariff(*components: Component, coefficients: dict[Rate, Decimal] | None = None) -> Tariff:
    return Tariff(
        id="t",
        version="1",
        valid_from=date(2020, 1, 1),
        tariff_class=TariffClass.TWO_PART,
        components=components,
        coefficients=coefficients or {},
    )


def amounts(computed: bill.Bill) -> dict[str, Decimal]:
    return {item.code: item.amount for item in computed.lines}


def made(inputs: bill.BillInputs) -> bill.Bill:
    computed = bill.compute(inputs)
    assert isinstance(computed, bill.Bill), computed
    return computed


def test_every_case_has_an_adapter() -> None:
    assert set(ADAPTERS) == set(CASES)
    assert len(CASES) == 59 + 4 + 5


@pytest.mark.parametrize("id_", sorted(CASES), ids=lambda id_: id_)
def test_case(id_: str) -> None:
    ADAPTERS[id_](CASES[id_]["input"], CASES[id_]["expected"])


@case("A01")
def _(given: Any, expected: Any) -> None:
    assert multiplier(given["ct"], given["pt"]) == dec(expected)


@case("A02", "A03", "A04")
def _(given: Any, expected: Any) -> None:
    moved = advance(dec(given["r0"]), dec(given["r1"]), given.get("int_digits", 6))
    assert moved.kind == expected[1]
    segments = [chain(given["r0"], given["r1"], given["mult"])]
    if expected[0] is None:
        assert moved.delta is None
        with pytest.raises(BillHold) as caught:
            chain_energy(segments)
        assert caught.value.reason is HoldReason.BACKWARD
    else:
        assert chain_energy(segments).kwh == dec(expected[0])


@case("A05")
def _(given: Any, expected: Any) -> None:
    change = START + timedelta(days=12)
    times = [(START, change), (change, END)]
    segments = [
        chain(first, last, mult, start, end, f"m{start:%d}")
        for (first, last, mult), (start, end) in zip(given["segments"], times, strict=True)
    ]
    assert chain_energy(segments).kwh == dec(expected)


@case("A06")
def _(given: Any, expected: Any) -> None:
    first, last, instant = (START + timedelta(hours=given[key]) for key in ("t0_h", "t1_h", "t_h"))
    derived = interpolate(
        Reading(id="a", value=dec(given["r0"]), at=first), Reading(id="b", value=dec(given["r1"]), at=last), instant
    )
    assert str(derived.value) == expected
    assert derived.quality is Quality.DERIVED


@case("A07")
def _(given: Any, expected: Any) -> None:
    guessed = estimate([(dec(kwh), days) for kwh, days in given["history"]], given["days"])
    assert (guessed.kwh, guessed.quality) == (dec(expected), Quality.ESTIMATED)


@case("A08")
def _(given: Any, expected: Any) -> None:
    assert true_up(dec(given["actual_two_months"]), dec(given["estimated"])) == dec(expected)


@case("A09")
def _(given: Any, expected: Any) -> None:
    whole = chain_energy([chain(0, given["total"], given["mult"])])
    rates = {LETTER[key]: chain_energy([chain(0, given[key], given["mult"])]).exact for key in "TPV"}
    parts = split_by_registers(whole.kwh, rates)
    assert {key: parts[LETTER[key]] for key in "TPV"} == {key: dec(expected[key]) for key in "TPV"}
    assert parts[Rate.FLAT] == dec(expected["flat"])
    assert total(parts.values()) == dec(expected["total"])


@case("A10")
def _(given: Any, expected: Any) -> None:
    found = unbalance(dec(given["total"]), [dec(rate) for rate in given["rates"]], dec(given["tol"]))
    assert (found.diff, found.flag) == (dec(expected["diff"]), expected["flag"])
    assert dec(given["tol"]) == ENERGY.unbalance_tolerance


@case("A11", "A12")
def _(given: Any, expected: Any) -> None:
    # A11 gives no length of the month; its 30 days are the full month of the title.
    month = given.get("month_days", given["days"])
    item = demand.capacity_line(dec(given["kva"]), dec(given["price"]), given["days"], month, DEMAND)
    assert item.amount == dec(expected)


@case("A13")
def _(given: Any, expected: Any) -> None:
    april = [demand.Pause(first=date(2026, 4, 10), until=date(2026, 4, 25))]
    units = [
        demand.Unit(id=f"u{kva}", kva=dec(kva), pauses=tuple(april if days < month else ()))
        for kva, days, month in given["items"]
    ]
    for unit, (_kva, days, _month) in zip(units, given["items"], strict=True):
        assert demand.service_days(unit, START.date(), END.date(), DEMAND) == days
    fee = demand.BaseFee(
        mode=demand.FeeMode.CAPACITY, price=dec(given["price"]), capacity_kva=dec(1400), units=tuple(units)
    )
    assert sum_of(demand.base_fee_lines(fee, START.date(), END.date(), dec(0), DEMAND)) == dec(expected)


@case("A14")
def _(given: Any, expected: Any) -> None:
    found = [
        demand.capacity_line(dec(given["kva"]), dec(given["price"]), days, 31, DEMAND).amount for days in given["days"]
    ]
    assert found == [dec(value) for value in expected]


def demand_fee(
    contract: Any, md: Any, price: Any, *, kva: Any = 0, kwh: Any = 0, policy: demand.DemandPolicy = DEMAND
) -> Decimal:
    fee = demand.BaseFee(
        mode=demand.FeeMode.CONTRACT_DEMAND,
        price=dec(price),
        capacity_kva=dec(kva),
        lines=(demand.SupplyLine(code="1", demand=dec(md), requested=dec(contract)),),
    )
    return sum_of(demand.base_fee_lines(fee, START.date(), END.date(), dec(kwh), policy))


@case("A15", "A16", "A17", "A18", "A20", "A21")
def _(given: Any, expected: Any) -> None:
    policy = DEMAND
    if "md_rule" in given:
        fields = {name: getattr(DEMAND, name) for name in DEMAND.__struct_fields__}
        policy = demand.DemandPolicy(**{**fields, "over_rule": demand.OverRule(given["md_rule"])})
    fee = demand_fee(
        given["contract"],
        given["md"],
        given["price"],
        kva=given.get("kva", 0),
        kwh=given.get("kwh", 0),
        policy=policy,
    )
    assert fee == dec(expected)


@case("A19")
def _(given: Any, expected: Any) -> None:
    shown = Reading(id="md", value=dec(given["md_reading"]), at=END)
    reached = DemandReading(reading=shown, multiplier=dec(given["mult"]), reached=START + timedelta(days=3))
    md = max_demand([reached], START, END)
    assert md == dec(expected["md"])
    fee = demand.BaseFee(
        mode=demand.FeeMode.ACTUAL_DEMAND,
        price=dec(given["price"]),
        capacity_kva=dec(0),
        lines=(demand.SupplyLine(code="1", demand=md),),
    )
    assert sum_of(demand.base_fee_lines(fee, START.date(), END.date(), dec(0), DEMAND)) == dec(expected["fee"])


@case("A22")
def _(given: Any, expected: Any) -> None:
    fee = demand.BaseFee(
        mode=demand.FeeMode.CONTRACT_DEMAND,
        price=dec(given["price"]),
        capacity_kva=dec(0),
        lines=tuple(
            demand.SupplyLine(code=str(n), requested=dec(contract), demand=dec(md))
            for n, (contract, md) in enumerate(given["lines"])
        ),
    )
    assert sum_of(demand.base_fee_lines(fee, START.date(), END.date(), dec(0), DEMAND)) == dec(expected)


@case("A23", "A24", "A25", "A28", "A29", "A43")
def _(given: Any, expected: Any) -> None:
    # A25, A28, A29 and A43 state no standard; 0.90 is the one their rates belong to.
    reactive = given.get("Q", given.get("Q_net"))
    parts = [dec(value) for value in (reactive if isinstance(reactive, list) else [reactive])]
    assessed = power_factor.assess(dec(given["P"]), parts, TABLES[given.get("std", "0.90")])
    assert assessed.power_factor == (None if expected["pf"] is None else dec(expected["pf"]))
    assert assessed.rate == dec(expected["rate"])
    assert assessed.review == (given["P"] == 0 and parts != [0])
    if "Q_net" in given:  # netting would give this; the signed parts must not
        signed = CASES["A24"]["input"]["Q"]
        assert sum(signed) == given["Q_net"]
        right = power_factor.assess(dec(given["P"]), [dec(value) for value in signed], TABLES["0.90"])
        assert right.rate != assessed.rate


@case("A26")
def _(given: Any, expected: Any) -> None:
    for method in power_factor.PowerFactorMethod:
        found = [power_factor.cos_phi(dec(10000), dec(ratio) * 10000, method) for ratio in given]
        assert found == [dec(value) for value in expected]


@case("A27")
def _(given: Any, expected: Any) -> None:
    for shown, row in zip(given, expected, strict=True):
        assert [table.rate(dec(shown)) for table in TABLES.values()] == [dec(rate) for rate in row], shown


@case("A30")
def _(given: Any, expected: Any) -> None:
    # The exam says nothing of dates: 20 days of the first segment, then the rest of a 30-day month.
    change = START + timedelta(days=20)
    one, two = given["seg1"], given["seg2"]
    simple = Component(code="price", price=dec(one["price"]))
    floating = Component(code="price", price=dec(two["price"]), tou_float=True)
    zero = dec(0)
    first = bill.Part(
        code="one",
        start=START,
        end=change,
        metering=bill.Metering(total=(chain(one["r0"], one["r1"], one["mult"], START, change),)),
        tariff=flat_tariff(simple),
        losses=losses.LossTerms(table_month_kwh=dec(one["table_loss_month"]), days=one["days"]),
    )
    mult = two["mult"]
    second = bill.Part(
        code="two",
        start=change,
        end=END,
        metering=bill.Metering(
            total=(chain(zero, two["d_total"], mult, change),),
            rates={
                Rate.PEAK: (chain(zero, two["d_peak"], mult, change),),
                Rate.VALLEY: (chain(zero, two["d_valley"], mult, change),),
            },
            reactive=((chain(zero, two["d_reactive"], mult, change),),),
        ),
        tariff=flat_tariff(
            floating, coefficients={Rate.PEAK: dec(two["peak_coeff"]), Rate.VALLEY: dec(two["valley_coeff"])}
        ),
        group="g",
    )
    computed = made(
        bill.BillInputs(
            account="a",
            period="2026-04",
            first=START.date(),
            until=END.date(),
            parts=(first, second),
            energy_policy=ENERGY,
            power_factor=(bill.PowerFactorTerms(group="g", table=TABLES[two["std"]]),),
        )
    )
    assert computed.energy[0].active_loss == dec(expected["loss"])
    assert amounts(computed) == {
        "one:energy.flat": dec(expected["seg1"]),
        "two:energy.peak": dec(expected["peak"]),
        "two:energy.valley": dec(expected["valley"]),
        "two:energy.flat": dec(expected["flat"]),
        "g:power_factor": dec(expected["pf_adj"]),
    }
    assert computed.total == dec(expected["total"])


@case("A31")
def _(given: Any, expected: Any) -> None:
    # The case gives cosφ 0.52 and not the reactive energy: 4353 kvarh make 0.52 with 2650 kWh.
    reactive = 4353
    assert power_factor.cos_phi(dec(given["kwh"]), dec(reactive)) == dec(given["pf"])
    part = bill.Part(
        code="p",
        start=START,
        end=END,
        metering=bill.Metering(total=(chain(0, given["kwh"]),), reactive=((chain(0, reactive),),)),
        tariff=flat_tariff(Component(code="price", price=dec(given["price"]))),
        group="g",
    )
    computed = made(
        bill.BillInputs(
            account="a",
            period="2026-04",
            first=START.date(),
            until=END.date(),
            parts=(part,),
            energy_policy=ENERGY,
            base_fee=bill.BaseFeeTerms(
                mode=demand.FeeMode.CAPACITY,
                price=dec(given["cap_price"]),
                capacity_kva=dec(given["kva"]),
                policy=DEMAND,
                units=(demand.Unit(id="t1", kva=dec(given["kva"])),),
                group="g",
            ),
            power_factor=(bill.PowerFactorTerms(group="g", table=TABLES["0.90"]),),
        )
    )
    assert amounts(computed) == {
        "base.capacity.t1": dec(expected["base"]),
        "p:energy.flat": dec(expected["energy"]),
        "g:power_factor": dec(expected["pf_adj"]),
    }
    assert computed.assessments["g"].rate == dec(expected["rate"])
    assert computed.total == dec(expected["total"])


@case("A32")
def _(given: Any, expected: Any) -> None:
    prices = {key: dec(value) for key, value in given["price"].items()}
    tariff = flat_tariff(
        *(
            Component(code=key, price=prices[key], tou_float=key in given["tou_floats"])
            for key in prices
            if key != "fund"
        ),
        Component(code="fund", price=prices["fund"], fund=True, pf_base=False),
        coefficients={LETTER[key]: dec(value) for key, value in given["coeff"].items()},
    )
    # A register of six digits shows at most 999999: with M = 1 it holds the case's energies.
    part = bill.Part(
        code="p",
        start=START,
        end=END,
        metering=bill.Metering(
            total=(chain(0, sum(given["kwh"].values())),),
            rates={LETTER[key]: (chain(0, value),) for key, value in given["kwh"].items()},
            reactive=((chain(0, given["Q"]),),),
        ),
        tariff=tariff,
        group="g",
    )
    shown = DemandReading(reading=Reading(id="md", value=dec(given["md"]), at=END), multiplier=dec(1))
    computed = made(
        bill.BillInputs(
            account="a",
            period="2026-04",
            first=START.date(),
            until=END.date(),
            parts=(part,),
            energy_policy=ENERGY,
            base_fee=bill.BaseFeeTerms(
                mode=demand.FeeMode.CONTRACT_DEMAND,
                price=dec(given["md_price"]),
                # The case gives no capacity; one at which neither the 260 kWh/kVA rule nor the 40 % floor applies.
                capacity_kva=dec(2500),
                policy=DEMAND,
                points=(
                    bill.DemandPoint(
                        code="1", readings=(shown,), requested=dec(given["contract"]), capacity_kva=dec(2500)
                    ),
                ),
                group="g",
            ),
            power_factor=(bill.PowerFactorTerms(group="g", table=TABLES[given["std"]]),),
        )
    )
    found = amounts(computed)
    assert {key: found[f"p:energy.{LETTER[key]}"] for key in LETTER} == {key: dec(expected[key]) for key in LETTER}
    assert total(found[f"p:energy.{rate}"] for rate in LETTER.values()) == dec(expected["energy"])
    assert found["base.demand.1"] == dec(expected["base"])
    assert computed.assessments["g"].power_factor == dec(expected["pf"])
    assert computed.assessments["g"].rate == dec(expected["rate"])
    assert found["g:power_factor"] == dec(expected["pf_adj"])
    assert found["p:fund.fund"] == dec(expected["fund"])
    assert computed.total == dec(expected["total"])


@case("A33")
def _(given: Any, expected: Any) -> None:
    parts = [
        Component(code=key, price=dec(given[key]), multiplied=key == "agent") for key in ("agent", "loss", "td", "sys")
    ]
    tariff = flat_tariff(*parts, Component(code="fund", price=dec(given["fund"]), fund=True, pf_base=False))
    for factor, fee in zip(("1", "1.5"), expected, strict=True):
        part = bill.Part(
            code="p",
            start=START,
            end=END,
            metering=bill.Metering(total=(chain(0, given["kwh"]),)),
            tariff=tariff,
            purchase_multiplier=dec(factor),
        )
        inputs = bill.BillInputs(
            account="a", period="2026-04", first=DAY, until=END.date(), parts=(part,), energy_policy=ENERGY
        )
        assert made(inputs).total == dec(fee)


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
