"""Tariffs 电价: classes, price components, rate coefficients, funds; and the bill lines of energy and funds.

Rules A.5 and A.8. Rounding point 3: each price line `kWh x price`, 2 places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum

from consumers.billing.decimals import EXACT, ZERO, money, product, quotient, total
from consumers.billing.energy import Rate
from consumers.billing.validity import ArchiveError, Dated, Value

ONE = Decimal(1)


class Line(Value, frozen=True, kw_only=True):
    """One line of a bill 账单行. `amount = round(qty x price x coeff / per, 2)`: points 3 and 4 of A.0.

    `per` keeps a quotient exact (20 of 30 days; percent). `pf_base`: whether it counts for the power-factor
    adjustment. `rule`: the clause of the rules; `note`: how price or quantity came about, for `explain`.
    `sources`: readings, tariff versions and archives that it rests on.
    """

    code: str
    qty: Decimal
    unit: str
    price: Decimal
    amount: Decimal
    rule: str
    coeff: Decimal = ONE
    per: Decimal = ONE
    pf_base: bool = False
    note: str = ""
    sources: tuple[str, ...] = ()


def line(
    code: str,
    qty: Decimal,
    unit: str,
    price: Decimal,
    rule: str,
    *,
    coeff: Decimal = ONE,
    per: Decimal = ONE,
    pf_base: bool = False,
    note: str = "",
    sources: Sequence[str] = (),
) -> Line:
    """A line with its amount worked out: the only place where an amount is rounded (points 3 and 4 of A.0)."""
    return Line(
        code=code,
        qty=qty,
        unit=unit,
        price=price,
        amount=money(quotient(product(qty, price, coeff), per)),
        rule=rule,
        coeff=coeff,
        per=per,
        pf_base=pf_base,
        note=note,
        sources=tuple(sources),
    )


def sum_of(lines: Sequence[Line]) -> Decimal:
    """The total of rounded lines, not rounded again (rounding point 5)."""
    return total(item.amount for item in lines)


class TariffClass(StrEnum):
    """用电价格类别; versioned by date, never inferred from the capacity (A.6)."""

    SINGLE_PART = "single_part"
    """单一制."""
    TWO_PART = "two_part"
    """两部制."""
    RESIDENTIAL = "residential"
    """居民生活."""


class ClassPolicy(Dated, frozen=True, kw_only=True):
    """Capacity limits of the classes (A.5)."""

    single_part_up_to_kva: Decimal
    two_part_from_kva: Decimal

    def allowed(self, capacity_kva: Decimal, *, grandfathered: bool = False) -> frozenset[TariffClass]:
        """The classes that a non-residential customer of this capacity may have.

        `grandfathered`: an old single-part customer, who may keep it.
        """
        if capacity_kva <= self.single_part_up_to_kva:
            return frozenset({TariffClass.SINGLE_PART})
        if capacity_kva < self.two_part_from_kva or grandfathered:
            return frozenset({TariffClass.SINGLE_PART, TariffClass.TWO_PART})
        return frozenset({TariffClass.TWO_PART})


class Component(Value, frozen=True, kw_only=True):
    """价格组成: agent purchase 代理购电, line loss 上网环节线损, transmission 输配电, system 系统运行, or a fund 基金.

    `price`: yuan/kWh. `by_rate`: prices published per rate instead of `price` times coefficient. `tou_float`: the rate
    coefficient applies. `pf_base`: counts for the power-factor adjustment. `multiplied`: the customer's purchase
    multiplier (1.5 x) applies. `fund`: a line of its own on all energy, neither floated nor adjusted (A.8).
    """

    code: str
    price: Decimal
    by_rate: dict[Rate, Decimal] = {}  # noqa: RUF012 - msgspec copies an empty default
    tou_float: bool = False
    pf_base: bool = True
    multiplied: bool = False
    fund: bool = False

    def __post_init__(self) -> None:
        if self.fund and (self.tou_float or self.multiplied or self.by_rate or self.pf_base):
            raise ArchiveError(f"fund {self.code}: funds are neither floated nor multiplied nor a base of adjustment")

    def at(self, rate: Rate, coefficient: Decimal, multiplier: Decimal) -> Decimal:
        """The effective price at a rate, not rounded."""
        price = self.by_rate.get(rate, self.price)
        if self.tou_float and rate not in self.by_rate:
            price = product(price, coefficient)
        return product(price, multiplier) if self.multiplied else price


class Tariff(Dated, frozen=True, kw_only=True):
    """One version of a tariff 电价版本. `coefficients`: 浮动系数 by rate; a rate without one has 1."""

    tariff_class: TariffClass
    components: tuple[Component, ...]
    coefficients: dict[Rate, Decimal] = {}  # noqa: RUF012 - msgspec copies an empty default
    residual: Rate = Rate.FLAT
    """The rate that takes the rest of a split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        codes = [component.code for component in self.components]
        if len(set(codes)) != len(codes):
            raise ArchiveError(f"{self.ref}: a component twice: {codes}")
        if any(coefficient < 0 for coefficient in self.coefficients.values()):
            raise ArchiveError(f"{self.ref}: a negative coefficient")

    def coefficient(self, rate: Rate) -> Decimal:
        """浮动系数 of a rate."""
        return self.coefficients.get(rate, ONE)


class FloatPolicy(Dated, frozen=True, kw_only=True):
    """What the regulator asks of the coefficients (A.4)."""

    wide_gap_percent: Decimal
    """System peak-valley difference beyond which the wider ratio is due."""
    wide_ratio: Decimal
    narrow_ratio: Decimal
    sharp_over_peak: Decimal

    def complaints(self, coefficients: Mapping[Rate, Decimal], system_gap_percent: Decimal) -> list[str]:
        """How the coefficients of a tariff fall short, in words; empty when they do not."""
        found = []
        peak, valley = coefficients.get(Rate.PEAK, ONE), coefficients.get(Rate.VALLEY, ONE)
        ratio = self.wide_ratio if system_gap_percent > self.wide_gap_percent else self.narrow_ratio
        if peak < product(valley, ratio):
            found.append(f"peak : valley {peak} : {valley} is below {ratio} : 1")
        sharp = coefficients.get(Rate.SHARP)
        if sharp is not None and sharp < product(peak, self.sharp_over_peak):
            found.append(f"sharp {sharp} is below {self.sharp_over_peak} times peak {peak}")
        return found


def energy_lines(
    tariff: Tariff,
    parts: Mapping[Rate, Decimal],
    *,
    purchase_multiplier: Decimal = ONE,
    sources: Sequence[str] = (),
    prefix: str = "",
) -> list[Line]:
    """电度电费: a line for each rate, all components with the same `pf_base` in one price (A.5, A32, A33).

    A rate without energy has no line. Point 3 rounding, once per line, on the summed price.
    """
    found = []
    for rate in Rate:
        kwh = parts.get(rate, ZERO)
        if not kwh:
            continue
        coefficient = tariff.coefficient(rate)
        for pf_base in (True, False):
            chosen = [part for part in tariff.components if not part.fund and part.pf_base is pf_base]
            if not chosen:
                continue
            prices = [(part.code, part.at(rate, coefficient, purchase_multiplier)) for part in chosen]
            price = total(value for _, value in prices)
            note = f"{rate} x{coefficient}: " + " + ".join(f"{code} {value}" for code, value in prices)
            code = f"{prefix}energy.{rate}" + ("" if pf_base else ".outside_pf")
            found.append(line(
                code, kwh, "kWh", price, "A.5", pf_base=pf_base, note=note, sources=(tariff.ref, *sources)
            ))  # fmt: skip
    return found


def fund_lines(tariff: Tariff, kwh: Decimal, *, sources: Sequence[str] = (), prefix: str = "") -> list[Line]:
    """代征·政府性基金及附加: `kWh x rate` per fund on energy incl. losses, not floated, not adjusted (A.8)."""
    if not kwh:
        return []
    return [
        line(f"{prefix}fund.{part.code}", kwh, "kWh", part.price, "A.8", sources=(tariff.ref, *sources))
        for part in tariff.components
        if part.fund
    ]


def average_price(lines: Sequence[Line], kwh: Decimal) -> Decimal | None:
    """平均电价, not rounded; None without energy."""
    return quotient(sum_of(lines), kwh) if kwh else None


def shares_of(parts: Mapping[Rate, Decimal]) -> dict[Rate, Decimal]:
    """The shares of the rates of a month, as weights for an estimate of the next (A.3)."""
    whole = total(parts.values())
    return {rate: quotient(kwh, whole) for rate, kwh in parts.items()} if whole else {}


def difference(new: Sequence[Line], old: Sequence[Line]) -> Decimal:
    """How much dearer the new lines are."""
    return EXACT.subtract(sum_of(new), sum_of(old))
