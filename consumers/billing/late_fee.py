"""Late fee 违约金 (滞纳金) on arrears of postpaid bills. Rule A.13; rounding point 4 (an adjustment line)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from consumers.billing.decimals import EXACT, HUNDRED, ZERO, money, product, quotient
from consumers.billing.validity import Dated, Value


class LateFeePolicy(Dated, frozen=True, kw_only=True):
    """Percent per day, from the day after the due date."""

    resident_percent: Decimal
    same_year_percent: Decimal
    """Others, arrears of this calendar year."""
    cross_year_percent: Decimal
    """Others, the days beyond the end of the year in which the arrears arose."""
    minimum: Decimal
    """What is owed at least once anything is, yuan."""


class Owed(Value, frozen=True, kw_only=True):
    """An amount that stood open for some days: `same_year` and `cross_year` of them."""

    amount: Decimal
    same_year: int
    cross_year: int = 0


def late_days(due: date, until: date) -> tuple[int, int]:
    """Days from the day after `due` up to and including `until`: (in the year of `due`, in later years)."""
    if until <= due:
        return 0, 0
    year_end = date(due.year, 12, 31)
    same = (min(until, year_end) - due).days
    return same, (until - due).days - same


def late_fee(owed: Sequence[Owed], policy: LateFeePolicy, *, resident: bool) -> Decimal:
    """违约金 in yuan (A48 to A50): `Σ amount x rate x days`, rounded once, at least the minimum; 0 if none late."""
    exact = ZERO
    for item in owed:
        if item.amount <= 0:
            continue
        same = policy.resident_percent if resident else policy.same_year_percent
        cross = policy.resident_percent if resident else policy.cross_year_percent
        weight = EXACT.add(product(same, Decimal(item.same_year)), product(cross, Decimal(item.cross_year)))
        exact = EXACT.add(exact, quotient(product(item.amount, weight), HUNDRED))
    return max(money(exact), policy.minimum) if exact > 0 else ZERO


def late_fee_on(
    principal: Decimal,
    due: date,
    on: date,
    policy: LateFeePolicy,
    *,
    resident: bool,
    payments: Sequence[tuple[date, Decimal]] = (),
) -> Decimal:
    """违约金 on day `on` of a debt paid in parts. The day of a payment still counts for what it paid.

    `payments`: (day, principal paid), any order; those up to the due date reduce what is late from the start.
    """
    open_amount = principal
    since = due
    owed: list[Owed] = []

    def stretch(until: date) -> Owed:
        same_a, cross_a = late_days(due, since)
        same_b, cross_b = late_days(due, until)
        return Owed(amount=open_amount, same_year=same_b - same_a, cross_year=cross_b - cross_a)

    for day, amount in sorted(payments):
        if day > on:
            break
        if day > since:
            owed.append(stretch(day))
            since = day
        open_amount = max(EXACT.subtract(open_amount, amount), ZERO)
    if on > since:
        owed.append(stretch(on))
    return late_fee(owed, policy, resident=resident)
