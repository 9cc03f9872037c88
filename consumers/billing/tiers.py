"""Residential tiers 阶梯电价: positions, thresholds, prices, and their combination with peak and valley 先峰谷、后阶梯.

Rule A.9. Lines are rounded at point 3; in MATRIX mode the peak part of a tier's energy is an energy (point 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise

from consumers.billing.decimals import EXACT, ZERO, product, quotient, rounded, total
from consumers.billing.energy import Rate
from consumers.billing.tariff import Line, line
from consumers.billing.validity import ArchiveError, Dated, Value

_MONTHS = Decimal(12)


class Accumulation(StrEnum):
    """What the position in the tiers counts from."""

    YEARLY = "YEARLY"
    """年阶梯: from January's bill."""
    MONTHLY = "MONTHLY"
    """月阶梯."""


class TouMode(StrEnum):
    """How time of use and tiers combine; both give the same in A36 and A37."""

    NONE = "NONE"
    """合表 or single rate: tier prices on all energy."""
    ADDER = "ADDER"
    """Rate prices on all energy, then a surcharge 加价 by tier."""
    MATRIX = "MATRIX"
    """A price for each tier and rate; tier energy divided by the month's shares."""


class TierTariff(Dated, frozen=True, kw_only=True):
    """One version of a residential tariff. `thresholds`: upper ends, inclusive, of all tiers but the last, kWh.

    `prices`: by tier (NONE). `rate_prices` with `adders` by tier (ADDER), or `matrix`: prices by tier for each rate
    (MATRIX). Yearly thresholds must divide by 12, so that a part year has whole thresholds. `family_kwh_month`: what a
    household of five or more gets on top where granted.
    """

    accumulation: Accumulation
    tou: TouMode
    thresholds: tuple[Decimal, ...]
    prices: tuple[Decimal, ...] = ()
    rate_prices: dict[Rate, Decimal] = {}  # noqa: RUF012 - msgspec copies an empty default
    adders: tuple[Decimal, ...] = ()
    matrix: dict[Rate, tuple[Decimal, ...]] = {}  # noqa: RUF012 - msgspec copies an empty default
    family_kwh_month: Decimal = ZERO

    def __post_init__(self) -> None:
        super().__post_init__()
        tiers = len(self.thresholds) + 1
        if any(later <= earlier for earlier, later in pairwise((ZERO, *self.thresholds))):
            raise ArchiveError(f"{self.ref}: thresholds must rise from above 0: {self.thresholds}")
        if self.accumulation is Accumulation.YEARLY and any(limit % 12 for limit in self.thresholds):
            raise ArchiveError(f"{self.ref}: yearly thresholds must divide by 12: {self.thresholds}")
        rows = {
            TouMode.NONE: [self.prices],
            TouMode.ADDER: [self.adders],
            TouMode.MATRIX: list(self.matrix.values()) or [()],
        }[self.tou]
        if any(len(row) != tiers for row in rows) or (self.tou is TouMode.ADDER and not self.rate_prices):
            raise ArchiveError(f"{self.ref}: {self.tou} needs a price for each of {tiers} tiers")


def part_year(thresholds: Sequence[Decimal], months: int) -> tuple[Decimal, ...]:
    """Thresholds of an account that was open `months` months of the year: x months/12 (A39)."""
    if not 1 <= months <= 12:
        raise ValueError(f"{months} months of a year")
    return tuple(quotient(product(limit, Decimal(months)), _MONTHS) for limit in thresholds)


def months_open(year: int, opened: date | None, closed: date | None) -> int:
    """Months of the year that the account was open; the months of opening and of closing count (A.9)."""
    first = opened.month if opened is not None and opened.year == year else 1
    last = closed.month if closed is not None and closed.year == year else 12
    if (opened is not None and opened.year > year) or (closed is not None and closed.year < year) or last < first:
        raise ArchiveError(f"the account was not open in {year}: {opened} to {closed}")
    return last - first + 1


def tier_quantities(before: Decimal, kwh: Decimal, thresholds: Sequence[Decimal]) -> tuple[Decimal, ...]:
    """The energy in each tier of `kwh` used after `before` (A34, A35); thresholds inclusive (A40).

    Sums to `kwh` exactly. A negative `kwh` (a true-up) gives back from the upper tiers first.
    """
    after = EXACT.add(before, kwh)
    edges = [None, *thresholds, None]

    def clip(position: Decimal, low: Decimal | None, high: Decimal | None) -> Decimal:
        if low is not None and position < low:
            position = low
        return high if high is not None and position > high else position

    return tuple(EXACT.subtract(clip(after, low, high), clip(before, low, high)) for low, high in pairwise(edges))


class TierTerms(Value, frozen=True, kw_only=True):
    """An account's place in the tiers. `before`: kWh of the accumulation so far (prior-month accumulator)."""

    tariff: TierTariff
    before: Decimal
    months: int = 12
    large_family: bool = False

    def thresholds(self) -> tuple[Decimal, ...]:
        """The thresholds that apply to this account, kWh of its accumulation."""
        limits = self.tariff.thresholds
        extra = self.tariff.family_kwh_month if self.large_family else ZERO
        if self.tariff.accumulation is Accumulation.MONTHLY:
            return tuple(EXACT.add(limit, extra) for limit in limits)
        extra = product(extra, Decimal(self.months))
        return tuple(EXACT.add(limit, extra) for limit in part_year(limits, self.months))


def tier_lines(
    terms: TierTerms, parts: Mapping[Rate, Decimal], *, sources: Sequence[str] = (), prefix: str = ""
) -> list[Line]:
    """The energy lines of a residential bill (A34 to A38). `parts`: whole kWh by rate; one rate without time of use.

    A tier or rate without energy has no line.
    """
    tariff = terms.tariff
    kwh = total(parts.values())
    quantities = tier_quantities(terms.before, kwh, terms.thresholds())
    refs = (tariff.ref, *sources)
    note = f"position {terms.before} + {kwh} kWh, thresholds {', '.join(map(str, terms.thresholds()))}"

    def tier_line(name: str, qty: Decimal, price: Decimal) -> Line:
        return line(f"{prefix}{name}", qty, "kWh", price, "A.9", note=note, sources=refs)

    if tariff.tou is TouMode.NONE:
        found = [
            tier_line(f"tier{n}", qty, price)
            for n, (qty, price) in enumerate(zip(quantities, tariff.prices, strict=True), 1)
        ]
    elif tariff.tou is TouMode.ADDER:
        found = [tier_line(f"tou.{rate}", qty, _price(tariff, rate)) for rate, qty in parts.items()]
        found += [
            tier_line(f"tier{n}.adder", qty, adder)
            for n, (qty, adder) in enumerate(zip(quantities, tariff.adders, strict=True), 1)
            if adder
        ]
    else:
        found = []
        for n, by_rate in enumerate(matrix_quantities(quantities, parts), 1):
            for rate, qty in by_rate.items():
                if rate not in tariff.matrix:
                    raise ArchiveError(f"{tariff.ref} has no prices for {rate}")
                found.append(tier_line(f"tier{n}.{rate}", qty, tariff.matrix[rate][n - 1]))
    return [item for item in found if item.qty]


def _price(tariff: TierTariff, rate: Rate) -> Decimal:
    if rate not in tariff.rate_prices:
        raise ArchiveError(f"{tariff.ref} has no price for {rate}")
    return tariff.rate_prices[rate]


def matrix_quantities(quantities: Sequence[Decimal], parts: Mapping[Rate, Decimal]) -> list[dict[Rate, Decimal]]:
    """Each tier's energy divided by the month's shares of the rates (A36): rows sum to tiers, columns to rates.

    Rounded to whole kWh; within a tier the last rate takes the rest, and the last non-empty tier takes the rest of
    each rate. No cell is negative: a share gives way where rounding would make another one so.
    """
    whole = total(parts.values())
    rates = list(parts)
    rows: list[dict[Rate, Decimal]] = [dict.fromkeys(rates, ZERO) for _ in quantities]
    filled = [n for n, qty in enumerate(quantities) if qty]
    left = dict(parts)
    for n in filled[:-1]:
        rest = quantities[n]
        for index, rate in enumerate(rates):
            least = EXACT.subtract(rest, total(left[later] for later in rates[index + 1 :]))
            share = rounded(quotient(product(quantities[n], parts[rate]), whole), 0)
            share = min(max(share, least, ZERO), rest, left[rate])
            rows[n][rate] = share
            rest = EXACT.subtract(rest, share)
            left[rate] = EXACT.subtract(left[rate], share)
    if filled:
        rows[filled[-1]] = left
    return rows


def year_chain(
    energies: Sequence[tuple[str, Decimal]], thresholds: Sequence[Decimal]
) -> dict[str, tuple[Decimal, ...]]:
    """Tier quantities of each month of a year in turn, {period: (kWh, ...)}.

    A correction of one month moves the position of all later ones: compare the chain before and after it (A.9, A.16).
    """
    position = ZERO
    chain = {}
    for period, kwh in energies:
        chain[period] = tier_quantities(position, kwh, thresholds)
        position = EXACT.add(position, kwh)
    return chain


def moved_months(
    old: Sequence[tuple[str, Decimal]], new: Sequence[tuple[str, Decimal]], thresholds: Sequence[Decimal]
) -> list[str]:
    """The periods whose tier quantities differ after a correction: each needs a reversal and a new bill (A.16)."""
    before, after = year_chain(old, thresholds), year_chain(new, thresholds)
    return [period for period in after if before.get(period) != after[period]]
