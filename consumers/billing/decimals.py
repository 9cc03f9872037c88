"""Exact decimals 精确小数: the one place where numbers are rounded, divided and shared out.

Rules A.0: no binary floats; `round(x, n)` is half up, away from zero; rounding happens at five points and nowhere else
(energy per register, price line, adjustment line; a register difference and a total are not rounded). Functions that
round name their point. Everything else is exact: sums and products of the sizes met here need fewer than the 50
digits of `EXACT`; a quotient or root is correct to 50 digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Final, TypeVar

EXACT: Final = Context(
    prec=50, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, traps=[InvalidOperation, DivisionByZero, Overflow]
)
"""Arithmetic that does not depend on the context of the caller's thread."""

ZERO: Final = Decimal(0)
HUNDRED: Final = Decimal(100)

K = TypeVar("K")


def rounded(value: Decimal, places: int) -> Decimal:
    """`round(x, n)`: half up, away from zero (A.0, A55). Minus zero comes back as zero."""
    result = value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=EXACT)
    return result or result.copy_abs()


def money(value: Decimal) -> Decimal:
    """An amount 金额 in yuan, 2 places (rounding points 3 and 4 of A.0)."""
    return rounded(value, 2)


def product(*factors: Decimal) -> Decimal:
    """The product, not rounded."""
    result = Decimal(1)
    for factor in factors:
        result = EXACT.multiply(result, factor)
    return result


def total(values: Iterable[Decimal]) -> Decimal:
    """The sum, not rounded."""
    result = ZERO
    for value in values:
        result = EXACT.add(result, value)
    return result


def quotient(numerator: Decimal, denominator: Decimal) -> Decimal:
    """The quotient to 50 digits. Raises decimal.DivisionByZero or InvalidOperation for a zero denominator."""
    return EXACT.divide(numerator, denominator)


def root(value: Decimal) -> Decimal:
    """The square root to 50 digits; exact where the root is."""
    return EXACT.sqrt(value)


def plain(value: Decimal) -> str:
    """The shortest plain text: equal values have equal text whatever their exponent (`1.50`, `1.5` -> `1.5`)."""
    if not value.is_finite():
        raise ValueError(f"not a finite number: {value}")
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def apportion(whole: Decimal, weights: Mapping[K, Decimal], residual: K, places: int = 0) -> dict[K, Decimal]:
    """Share `whole` in proportion to `weights`; each share rounded, `residual` takes the rest (A.4, A.10).

    The shares sum to `whole` exactly. Where all weights are zero the residual takes all. If rounding would leave the
    residual below zero (its own weight is next to nothing), the largest share takes the rest in its place.
    Raises ValueError for a negative weight.
    """
    if any(weight < 0 for weight in weights.values()):
        raise ValueError(f"a negative weight cannot have a share: {dict(weights)}")
    weight_sum = total(weights.values())
    shares = dict.fromkeys(weights, ZERO)
    shares.setdefault(residual, ZERO)
    if not weight_sum:
        shares[residual] = whole
        return shares
    for key, weight in weights.items():
        shares[key] = rounded(quotient(product(whole, weight), weight_sum), places)
    rest_to = residual
    shares[residual] = EXACT.subtract(whole, total(share for key, share in shares.items() if key != residual))
    if product(shares[residual], whole) < 0:
        shares[residual] = ZERO
        rest_to = max(weights, key=lambda key: weights[key])
        shares[rest_to] = EXACT.subtract(whole, total(share for key, share in shares.items() if key != rest_to))
    return shares
