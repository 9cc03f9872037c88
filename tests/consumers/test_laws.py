"""Laws of the billing rules, by Hypothesis: what must hold for all numbers, not only for the worked ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.billing import late_fee, power_factor, tiers
from consumers.billing.audit import canonical, input_hash
from consumers.billing.bill import Bill as ComputedBill
from consumers.billing.bill import BillInputs, Metering, Part, PowerFactorTerms, compute
from consumers.billing.decimals import apportion, money, plain, quotient, rounded, total
from consumers.billing.demand import DemandPolicy, OverRule, billed_demand
from consumers.billing.energy import Rate, Segment, chain_energy, split_by_registers
from consumers.billing.losses import join_losses
from consumers.billing.policies import default_policies, pick
from consumers.billing.registers import LOCAL, Quality, Reading, Received, advance, best_readings
from consumers.billing.tariff import Component, Tariff, TariffClass

DAY = date(2026, 3, 1)
START = datetime(2026, 3, 1, tzinfo=LOCAL)
BOOK = default_policies()
ENERGY = pick(BOOK.energy, DAY)
LATE = pick(BOOK.late_fee, DAY)
TABLES = [BOOK.power_factor_table(Decimal(std), DAY) for std in ("0.90", "0.85", "0.80")]

registers = st.decimals(0, Decimal("999999.99"), places=2)
kwh = st.integers(0, 2_000_000).map(Decimal)
prices = st.decimals(0, 2, places=6)
multipliers = st.integers(1, 6000).map(Decimal)


def segment_of(first: Decimal, last: Decimal, mult: Decimal, start: datetime, end: datetime) -> Segment:
    return Segment(
        meter="m",
        multiplier=mult,
        first=Reading(id=f"r{first}", value=first, at=start),
        last=Reading(id=f"r{last}", value=last, at=end),
        start=start,
        end=end,
    )


@given(st.lists(registers, min_size=2, max_size=8).map(sorted), multipliers)
def test_energy_is_additive_over_segments(values: list[Decimal], mult: Decimal) -> None:
    days = [START + timedelta(days=n) for n in range(len(values))]
    chain = [segment_of(a, b, mult, s, e) for (a, b), (s, e) in zip(pairwise(values), pairwise(days), strict=True)]
    whole = chain_energy([segment_of(values[0], values[-1], mult, days[0], days[-1])])
    assert chain_energy(chain).kwh == whole.kwh
    assert total(chain_energy([part]).exact for part in chain) == whole.exact


@given(registers, st.decimals(0, 99_999, places=2))
def test_a_register_advances_by_what_was_used(first: Decimal, used: Decimal) -> None:
    last = (first + used) % Decimal(1_000_000)
    moved = advance(first, last)
    if moved.delta is not None:
        assert moved.delta == used
    else:
        # Only a use that passes the end from below 90 % or to above 10 % is not told from a fall.
        assert last < first
        assert first < 900_000 or last > 100_000


@given(st.decimals(-1_000_000, 1_000_000, places=5), st.integers(0, 4))
def test_rounding_is_half_away_from_zero(value: Decimal, places: int) -> None:
    unit = Decimal(1).scaleb(-places)
    result = rounded(value, places)
    assert abs(result - value) <= unit / 2
    assert rounded(-value, places) == -result
    if abs(value) % unit == unit / 2:
        assert abs(result) > abs(value)


@given(st.decimals(-100_000, 100_000, places=3), st.lists(kwh, min_size=1, max_size=5))
def test_shares_sum_to_the_whole(whole: Decimal, weights: list[Decimal]) -> None:
    whole = rounded(whole, 0)
    keys = list(Rate)[: len(weights)]
    shares = apportion(whole, dict(zip(keys, weights, strict=True)), keys[0])
    assert total(shares.values()) == whole
    # A share is never more than a unit for each other share away from its proportion.
    for key, weight in zip(keys, weights, strict=True):
        if any(weights):
            assert abs(shares[key] - quotient(whole * weight, total(weights))) <= len(keys)


rate_energies = st.dictionaries(st.sampled_from(list(Rate)), st.decimals(0, 100_000, places=2), min_size=1)


@given(rate_energies, st.decimals(0, 400_000, places=2))
def test_time_of_use_parts_sum_to_the_total(rates: dict[Rate, Decimal], whole: Decimal) -> None:
    whole = rounded(whole, 0)
    parts = split_by_registers(whole, rates)
    assert total(parts.values()) == whole
    assert all(part >= 0 for part in parts.values())
    lost = join_losses(parts, Decimal(17))
    assert total(lost.values()) == whole + 17


limits = st.tuples(st.integers(1, 400), st.integers(1, 400)).map(
    lambda steps: (Decimal(steps[0] * 12), Decimal((steps[0] + steps[1]) * 12))
)


@given(kwh, kwh, limits)
def test_tier_quantities_sum_and_compose(before: Decimal, used: Decimal, thresholds: tuple[Decimal, ...]) -> None:
    whole = tiers.tier_quantities(before, used, thresholds)
    assert total(whole) == used
    assert all(qty >= 0 for qty in whole)
    part = rounded(used / 3, 0)
    halves = zip(
        tiers.tier_quantities(before, part, thresholds),
        tiers.tier_quantities(before + part, used - part, thresholds),
        strict=True,
    )
    assert tuple(a + b for a, b in halves) == whole
    back = tiers.tier_quantities(before + used, -used, thresholds)
    assert tuple(-qty for qty in back) == whole


@given(kwh, kwh, limits, st.lists(prices, min_size=3, max_size=3).map(sorted))
def test_tier_fee_is_monotone_and_continuous(
    before: Decimal, used: Decimal, thresholds: tuple[Decimal, ...], tier_prices: list[Decimal]
) -> None:
    tariff = tiers.TierTariff(
        id="t",
        version="1",
        valid_from=DAY,
        accumulation=tiers.Accumulation.YEARLY,
        tou=tiers.TouMode.NONE,
        thresholds=thresholds,
        prices=tuple(tier_prices),
    )
    terms = tiers.TierTerms(tariff=tariff, before=before)

    def fee(amount: Decimal) -> Decimal:
        return total(item.amount for item in tiers.tier_lines(terms, {Rate.FLAT: amount}))

    one_more = fee(used + 1) - fee(used)
    # One kWh costs at least nothing and at most the highest price; two lines may each round by half a cent.
    assert Decimal("-0.01") <= one_more <= tier_prices[-1] + Decimal("0.02")
    assert fee(used) >= money(used * tier_prices[0]) - Decimal("0.02")


@given(kwh, kwh, kwh, limits)
def test_matrix_rows_are_tiers_and_columns_are_rates(
    before: Decimal, peak: Decimal, valley: Decimal, thresholds: tuple[Decimal, ...]
) -> None:
    parts = {Rate.PEAK: peak, Rate.FLAT: Decimal(3), Rate.VALLEY: valley}
    quantities = tiers.tier_quantities(before, total(parts.values()), thresholds)
    rows = tiers.matrix_quantities(quantities, parts)
    assert [total(row.values()) for row in rows] == list(quantities)
    assert {rate: total(row[rate] for row in rows) for rate in parts} == parts
    assert all(cell >= 0 for row in rows for cell in row.values())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.standard))
def test_power_factor_table_is_total_and_falls(table: power_factor.PowerFactorTable) -> None:
    rates = [table.rate(Decimal(n).scaleb(-2)) for n in range(101)]
    assert all(worse >= better for worse, better in pairwise(rates))
    assert table.rate(table.standard) == 0


@given(kwh, st.lists(st.integers(-2_000_000, 2_000_000).map(Decimal), max_size=4), st.sampled_from(TABLES))
def test_power_factor_never_nets_and_always_has_a_rate(
    active: Decimal, reactive: list[Decimal], table: power_factor.PowerFactorTable
) -> None:
    by_cos = power_factor.assess(active, reactive, table)
    by_table = power_factor.assess(active, reactive, table, power_factor.PowerFactorMethod.RATIO_TABLE)
    assert by_cos.rate == power_factor.assess(active, [abs(value) for value in reactive], table).rate
    if by_cos.power_factor is None:
        assert not active
        assert not any(reactive)
        assert by_table.power_factor is None
    else:
        assert 0 <= by_cos.power_factor <= 1
        assert by_table.power_factor is not None
        assert abs(by_table.power_factor - by_cos.power_factor) <= Decimal("0.01")


@given(st.integers(1, 5000).map(Decimal), st.integers(0, 20000).map(Decimal), st.sampled_from(OverRule))
def test_billed_demand_is_monotone(contract: Decimal, md: Decimal, rule: OverRule) -> None:
    fields = {name: getattr(pick(BOOK.demand, DAY), name) for name in DemandPolicy.__struct_fields__}
    policy = DemandPolicy(**{**fields, "over_rule": rule})
    billed = billed_demand(contract, md, policy)
    assert billed >= contract
    step = billed_demand(contract, md + 1, policy) - billed
    assert step >= 0
    if rule is OverRule.C_PLUS_2X_OVER105:
        assert step <= 2  # continuous at 105 %


arrivals = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(Quality), st.integers(0, 3).map(Decimal)), max_size=8
).map(
    lambda rows: [
        Received(seq=n, key=key, quality=quality, value=value) for n, (key, quality, value) in enumerate(rows)
    ]
)


@given(arrivals, st.randoms(use_true_random=False))
def test_the_best_reading_does_not_depend_on_the_order_of_arrival(received: list[Received], random: object) -> None:
    shuffled = list(received)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert best_readings(shuffled) == best_readings(received)
    assert best_readings([*received, *received]) == best_readings(received)


@given(st.decimals(1, 100_000, places=2), st.integers(0, 800), st.booleans(), st.integers(0, 365))
def test_late_fee_grows_by_the_day_and_parts_sum_up(
    principal: Decimal, days: int, resident: bool, due_day: int
) -> None:
    due = date(2025, 1, 1) + timedelta(days=due_day)
    on = due + timedelta(days=days)
    fee = late_fee.late_fee_on(principal, due, on, LATE, resident=resident)
    assert (fee == 0) == (days == 0)
    assert late_fee.late_fee_on(principal, due, on + timedelta(days=1), LATE, resident=resident) >= fee
    # A payment on the day asked about changes nothing yet; one before the due date leaves nothing to be late.
    assert fee == late_fee.late_fee_on(principal, due, on, LATE, resident=resident, payments=[(on, principal)])
    assert not late_fee.late_fee_on(principal, due, on, LATE, resident=resident, payments=[(due, principal)])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.decimals(-1000, 1000, places=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_canonical_form_forgets_order_and_trailing_zeros(value: object) -> None:
    def other(item: object) -> object:
        if isinstance(item, Decimal):
            return item.quantize(Decimal("0.00000"))
        if isinstance(item, dict):
            return {key: other(item[key]) for key in reversed(item)}
        return [other(part) for part in item] if isinstance(item, list) else item

    assert canonical(other(value)) == canonical(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_plain_text_is_the_number(value: Decimal) -> None:
    assert Decimal(plain(value)) == value
    assert "E" not in plain(value)


@st.composite
def bills(draw: st.DrawFn) -> BillInputs:
    end = START + timedelta(days=31)
    count = draw(st.integers(1, 3))
    parts = []
    for n in range(count):
        mult = draw(multipliers)

        def chain(least: Decimal = Decimal(0), mult: Decimal = mult) -> tuple[Segment, ...]:
            low = draw(registers)
            high = draw(st.decimals(min_value=low, max_value=Decimal("999999.99"), places=2))
            return (segment_of(min(low, least) if least else low, high, mult, START, end),)

        coefficients = {rate: draw(st.decimals(0, 3, places=2)) for rate in (Rate.PEAK, Rate.VALLEY)}
        tariff = Tariff(
            id="t",
            version=str(n),
            valid_from=DAY,
            tariff_class=TariffClass.SINGLE_PART,
            components=(
                Component(code="agent", price=draw(prices), tou_float=True),
                Component(code="system", price=draw(prices), pf_base=draw(st.booleans())),
                Component(code="fund", price=draw(prices), fund=True, pf_base=False),
            ),
            coefficients=coefficients,
        )
        whole = chain()
        parts.append(
            Part(
                code=f"p{n}",
                start=START,
                end=end,
                metering=Metering(total=whole, rates={Rate.PEAK: chain()}, reactive=(chain(), chain())),
                tariff=tariff,
                group=draw(st.sampled_from([None, "g"])),
            )
        )
    return BillInputs(
        account="a",
        period="2026-03",
        first=DAY,
        until=date(2026, 4, 1),
        parts=tuple(parts),
        energy_policy=ENERGY,
        power_factor=(PowerFactorTerms(group="g", table=draw(st.sampled_from(TABLES))),),
    )


@given(bills())
def test_a_bill_is_the_sum_of_its_lines_and_a_function_of_its_inputs(inputs: BillInputs) -> None:
    computed = compute(inputs)
    with localcontext() as context:  # a caller's context must not reach into a bill
        context.prec = 5
        again = compute(inputs)
    assert again == computed
    assert computed.input_hash == input_hash(inputs)
    if isinstance(computed, ComputedBill):
        assert isinstance(again, ComputedBill)
        assert again.encoded() == computed.encoded()
        assert computed.total == total(item.amount for item in computed.lines)
        for item in computed.lines:
            assert item.amount == money(quotient(item.qty * item.price * item.coeff, item.per))
        billed = total(energy.kwh for energy in computed.energy)
        funds = total(item.qty for item in computed.lines if ":fund." in item.code)
        assert funds == billed


def test_segments_of_two_meters_round_once(segment: Callable[..., Segment]) -> None:
    half = START + timedelta(days=10)
    first = segment("0", "0.01", 40, START, half)
    second = segment("0", "0.01", 40, half, START + timedelta(days=31), "m2")
    assert chain_energy([first]).kwh == 0
    assert chain_energy([first, second]).kwh == 1
