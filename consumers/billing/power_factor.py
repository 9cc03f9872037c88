"""Power-factor adjustment 功率因数调整电费 (力调电费), after the tables of 83水电财字215号.

Rule A.7. cosφ is rounded to 2 places because the table has that step; the adjustment is rounding point 4 of A.0. The
table itself is configuration: steps, not a list of 101 rates, so that it is total over 0.00 to 1.00.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Final

from consumers.billing.decimals import EXACT, HUNDRED, ZERO, product, quotient, root, rounded, total
from consumers.billing.tariff import Line, line
from consumers.billing.validity import ArchiveError, Dated, Value

_STEP: Final = Decimal("0.01")
_HALF: Final = Decimal("0.005")
_RATIO_PLACES: Final = 4


class Band(Value, frozen=True, kw_only=True):
    """Steps of 0.01 from the standard's side towards `to` (inclusive), each changing the rate by `step` percent."""

    to: Decimal
    step: Decimal


class PowerFactorTable(Dated, frozen=True, kw_only=True):
    """The rate table of one standard 功率因数标准 (0.90, 0.85, 0.80).

    `surcharge`: bands downwards from the standard to 0.00; `discount`: bands upwards to 1.00, steps negative.
    """

    standard: Decimal
    surcharge: tuple[Band, ...]
    discount: tuple[Band, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        downwards = [self.standard, *(band.to for band in self.surcharge)]
        upwards = [self.standard, *(band.to for band in self.discount)]
        ordered = all(a > b for a, b in pairwise(downwards)) and all(a < b for a, b in pairwise(upwards))
        if not ordered or downwards[-1] != 0 or upwards[-1] != 1:
            raise ArchiveError(f"{self.ref}: bands must run from the standard to 0 and to 1: {downwards}, {upwards}")

    def rate(self, power_factor: Decimal) -> Decimal:
        """调整率 in percent of the base: above 0 a surcharge, below 0 a discount. `power_factor`: 2 places, 0 to 1."""
        if not 0 <= power_factor <= 1 or power_factor % _STEP:
            raise ValueError(f"cosφ is a multiple of 0.01 from 0 to 1, not {power_factor}")
        below = power_factor < self.standard
        rate, edge = ZERO, self.standard
        for band in self.surcharge if below else self.discount:
            stop = max(band.to, power_factor) if below else min(band.to, power_factor)
            rate = EXACT.add(rate, product(quotient(EXACT.subtract(edge, stop).copy_abs(), _STEP), band.step))
            edge = stop
            if edge == power_factor:
                break
        return rate


class PowerFactorMethod(StrEnum):
    """How cosφ comes from P and Q."""

    COS = "COS"
    """By the formula."""
    RATIO_TABLE = "RATIO_TABLE"
    """By the printed table of Q/P, 4 places; differs from the formula at a hairline (A57, A59)."""


class ReactiveMode(StrEnum):
    """pf_q_mode: which quadrants of a four-quadrant meter count."""

    IMPORT = "IMPORT"
    """|QI| + |QIV|: an import-only customer."""
    ALL = "ALL"


def counted_reactive(quadrants: tuple[Decimal, Decimal, Decimal, Decimal], mode: ReactiveMode) -> tuple[Decimal, ...]:
    """The reactive energies that count, of quadrants I to IV, kvarh."""
    first, second, third, fourth = quadrants
    return (first, fourth) if mode is ReactiveMode.IMPORT else (first, second, third, fourth)


def reactive_sum(energies: Iterable[Decimal]) -> Decimal:
    """Σ|Q_k|: reverse reactive 倒送 adds in absolute value and never nets (A24, not A25)."""
    return total(value.copy_abs() for value in energies)


def cos_phi(active: Decimal, reactive: Decimal, method: PowerFactorMethod = PowerFactorMethod.COS) -> Decimal | None:
    """`round(P/√(P²+Q²), 2)`; None for P = Q = 0: no assessment (A28). P and Q incl. losses, not negative."""
    if active < 0 or reactive < 0:
        raise ValueError(f"P {active} and Q {reactive} must not be negative")
    if not active and not reactive:
        return None
    if method is PowerFactorMethod.RATIO_TABLE and active:
        return _by_ratio(rounded(quotient(reactive, active), _RATIO_PLACES))
    squares = EXACT.add(product(active, active), product(reactive, reactive))
    return rounded(quotient(active, root(squares)), 2)


def ratio_bound(power_factor: Decimal) -> Decimal:
    """The largest Q/P that still rounds to this cosφ, exact to 50 digits: `√(1/(cosφ - 0.005)² - 1)`."""
    edge = EXACT.subtract(power_factor, _HALF)
    return root(EXACT.subtract(quotient(Decimal(1), product(edge, edge)), Decimal(1)))


PRINTED_BOUNDS: Final = {Decimal("0.63"): Decimal("1.2490")}
"""Where the printed ratio table is not the exact bound cut to 4 places (A57): 1.2489996 is printed 1.2490."""


def _by_ratio(ratio: Decimal) -> Decimal:
    """The printed table: upper bounds are the exact ones cut to 4 places, but for `PRINTED_BOUNDS`."""
    cut = Decimal(1).scaleb(-_RATIO_PLACES)
    for step in range(100, 0, -1):
        power_factor = product(Decimal(step), _STEP)
        bound = PRINTED_BOUNDS.get(power_factor)
        if bound is None:
            bound = ratio_bound(power_factor).quantize(cut, rounding=ROUND_FLOOR, context=EXACT)
        if ratio <= bound:
            return power_factor
    return Decimal("0.00")


class Assessment(Value, frozen=True, kw_only=True):
    """功率因数考核 of a month. `power_factor` None: none. `review`: P = 0 with Q > 0 goes to a person (A29)."""

    active: Decimal
    reactive: Decimal
    power_factor: Decimal | None
    rate: Decimal
    review: bool = False


def assess(
    active: Decimal,
    reactive: Sequence[Decimal],
    table: PowerFactorTable,
    method: PowerFactorMethod = PowerFactorMethod.COS,
) -> Assessment:
    """cosφ and rate. `active`: all billed active energy incl. losses and nested lighting; `reactive`: signed parts."""
    sum_q = reactive_sum(reactive)
    power_factor = cos_phi(active, sum_q, method)
    rate = ZERO if power_factor is None else table.rate(power_factor)
    return Assessment(
        active=active,
        reactive=sum_q,
        power_factor=power_factor,
        rate=rate,
        review=not active and bool(sum_q),
    )


def adjustment_line(
    lines: Sequence[Line], assessed: Assessment, table: PowerFactorTable, *, prefix: str = ""
) -> Line | None:
    """力调电费 on the base fee and the flagged energy lines; funds are outside (A.7). Point 4 rounding.

    None without an assessment.
    """
    if assessed.power_factor is None:
        return None
    base = total(item.amount for item in lines if item.pf_base)
    return line(
        f"{prefix}power_factor",
        base,
        "CNY",
        assessed.rate,
        "A.7",
        per=HUNDRED,
        note=f"cosφ {assessed.power_factor}, standard {table.standard}, P {assessed.active} Q {assessed.reactive}",
        sources=(table.ref,),
    )


class SupplyKind(StrEnum):
    """Which standard applies (A.7)."""

    HV_INDUSTRIAL = "hv_industrial"
    """高压供电工业 > 160 kVA."""
    HV_TAP_CHANGER = "hv_tap_changer"
    """装有带负荷调整电压装置的高压用户."""
    HV_PUMPING = "hv_pumping"
    """高压电力排灌站 >= 3200 kVA."""
    INDUSTRIAL = "industrial"
    """其他工业 >= 100 kVA(kW)."""
    NON_INDUSTRIAL = "non_industrial"
    """非工业 >= 100 kVA."""
    PUMPING = "pumping"
    """电力排灌站 >= 100 kVA."""
    AGRICULTURE = "agriculture"
    """农业 >= 100 kVA."""
    RESALE = "resale"
    """趸售."""
    LARGE_INDUSTRY_RESALE = "large_industry_resale"
    """大工业 resale that is not managed by the utility directly: 0.85."""
    RESIDENTIAL = "residential"
    """居民: none."""


class StandardRow(Value, frozen=True, kw_only=True):
    """A row of the rule that gives a kind of supply its standard. `over`: strictly above the capacity."""

    kind: SupplyKind
    kva: Decimal
    standard: Decimal
    over: bool = False


class StandardPolicy(Dated, frozen=True, kw_only=True):
    """功率因数标准 by kind and capacity."""

    rows: tuple[StandardRow, ...]

    def standard(self, kind: SupplyKind, capacity_kva: Decimal) -> Decimal | None:
        """The highest standard whose row applies; None below all of them."""
        fitting = [
            row.standard
            for row in self.rows
            if row.kind is kind and (capacity_kva > row.kva if row.over else capacity_kva >= row.kva)
        ]
        return max(fitting, default=None)
