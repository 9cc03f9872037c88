"""The worked cases A01-A33 of the rules (energy, base fee, power factor, whole bills), exact decimals.

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

from consumers.billing import bill, demand, losses, power_factor
from consumers.billing.decimals import total
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
    advance,
    multiplier,
    unbalance,
)
from consumers.billing.tariff import Component, Tariff, TariffClass, sum_of
from consumers.billing.validity import BillHold, HoldReason

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "data" / "consumers_cases.json").read_text("utf-8"))["cases"]
    if "A01" <= case["id"] <= "A33"
}
ADAPTERS: dict[str, Callable[[Any, Any], None]] = {}

DAY = date(2026, 4, 1)
START = datetime(2026, 4, 1, tzinfo=LOCAL)
END = datetime(2026, 5, 1, tzinfo=LOCAL)
BOOK = default_policies()
ENERGY = pick(BOOK.energy, DAY)
DEMAND = pick(BOOK.demand, DAY)
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
    assert len(CASES) == 33


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


@case("A23", "A24", "A25", "A28", "A29")
def _(given: Any, expected: Any) -> None:
    # A25, A28 and A29 state no standard; 0.90 is the one their rates belong to.
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
