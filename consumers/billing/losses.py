"""Transformer and line losses 变损·线损 under HV supply with LV metering 高供低计.

Rule A.10. Losses are energies: each is rounded to whole kWh or kvarh once (point 2 of A.0), on the sum of all units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from consumers.billing.decimals import EXACT, HUNDRED, ZERO, apportion, product, quotient, rounded, total
from consumers.billing.energy import Rate
from consumers.billing.validity import ArchiveError, Value


class Transformer(Value, frozen=True, kw_only=True):
    """变压器: `p0` iron loss kW, `pk` copper loss kW, `i0` no-load current %, `uk` impedance %, `sn` kVA.

    `hours`: how long it was energized in the period; a paused one 暂停 has no iron loss for the hours it was off.
    """

    id: str
    sn: Decimal
    p0: Decimal
    pk: Decimal
    i0: Decimal
    uk: Decimal
    hours: Decimal

    def __post_init__(self) -> None:
        if self.sn <= 0 or min(self.p0, self.pk, self.i0, self.uk, self.hours) < 0:
            raise ArchiveError(f"transformer {self.id}: {self}")


class Losses(Value, frozen=True, kw_only=True):
    """Losses of a period: active kWh, reactive kvarh, whole numbers."""

    active: Decimal
    reactive: Decimal


class LossTerms(Value, frozen=True, kw_only=True):
    """How the losses of a metering point are computed. At most one of the first three.

    `transformers`: by formula. `table_month_kwh` with `days`: a table value per month, by days/30 (A30). `percent`: of
    the metered energy. `line_percent`: line loss on top, of metered plus transformer loss.
    """

    transformers: tuple[Transformer, ...] = ()
    load_shape: Decimal = Decimal("1.05")
    """K of the copper loss; the common value, a contract may state another."""
    table_month_kwh: Decimal | None = None
    table_month_kvarh: Decimal = ZERO
    days: int = 30
    percent: Decimal | None = None
    line_percent: Decimal | None = None

    def __post_init__(self) -> None:
        ways = [bool(self.transformers), self.table_month_kwh is not None, self.percent is not None]
        if sum(ways) > 1:
            raise ArchiveError("transformer loss is by formula, by table or by percent, not by two of them")


def formula_loss(
    transformers: Sequence[Transformer], active_kwh: Decimal, reactive_kvarh: Decimal, load_shape: Decimal
) -> Losses:
    """Losses of parallel transformers, each with the share of the load that its capacity has (A.10, A41).

    `active = P0·T + Pk·b·K`, `reactive = I0%/100·Sn·T + Uk%/100·Sn·b·K`, `b = (Wp² + Wq²)/(Sn²·T)`. The shares of
    one load in proportion to capacity give every unit in service the same `Wp/Sn`; a unit that was never on carries
    nothing.
    """
    working = [unit for unit in transformers if unit.hours > 0]
    capacity = total(unit.sn for unit in working)
    squares = EXACT.add(product(active_kwh, active_kwh), product(reactive_kvarh, reactive_kvarh))
    active = reactive = ZERO
    for unit in working:
        load = quotient(squares, product(capacity, capacity, unit.hours))
        active = total((active, product(unit.p0, unit.hours), product(unit.pk, load, load_shape)))
        magnetizing = quotient(product(unit.i0, unit.sn, unit.hours), HUNDRED)
        leakage = quotient(product(unit.uk, unit.sn, load, load_shape), HUNDRED)
        reactive = total((reactive, magnetizing, leakage))
    return Losses(active=rounded(active, 0), reactive=rounded(reactive, 0))


def table_loss(month_kwh: Decimal, month_kvarh: Decimal, days: int) -> Losses:
    """The table's loss of a month times `days/30`, at most a whole month (A.10, A30: 304 x 20/30 = 203)."""
    share = min(days, 30)
    return Losses(
        active=rounded(quotient(product(month_kwh, Decimal(share)), Decimal(30)), 0),
        reactive=rounded(quotient(product(month_kvarh, Decimal(share)), Decimal(30)), 0),
    )


def percent_loss(base_kwh: Decimal, percent: Decimal) -> Decimal:
    """A loss in percent of an energy, whole kWh: fixed transformer loss, or line loss (A.10, A42 = 303)."""
    return rounded(quotient(product(base_kwh, percent), HUNDRED), 0)


def losses(terms: LossTerms, active_kwh: Decimal, reactive_kvarh: Decimal) -> Losses:
    """All losses of a metering point. A dedicated transformer owes its iron loss at zero use too."""
    if terms.transformers:
        transformer = formula_loss(terms.transformers, active_kwh, reactive_kvarh, terms.load_shape)
    elif terms.table_month_kwh is not None:
        transformer = table_loss(terms.table_month_kwh, terms.table_month_kvarh, terms.days)
    elif terms.percent is not None:
        transformer = Losses(active=percent_loss(active_kwh, terms.percent), reactive=ZERO)
    else:
        transformer = Losses(active=ZERO, reactive=ZERO)
    if terms.line_percent is None:
        return transformer
    line = percent_loss(EXACT.add(active_kwh, transformer.active), terms.line_percent)
    return Losses(active=EXACT.add(transformer.active, line), reactive=transformer.reactive)


def join_losses(parts: Mapping[Rate, Decimal], active_loss: Decimal, residual: Rate = Rate.FLAT) -> dict[Rate, Decimal]:
    """Losses join the rates in proportion to the metered parts, the residual takes the rest (A.10)."""
    shares = apportion(active_loss, parts, residual)
    return {rate: EXACT.add(parts.get(rate, ZERO), share) for rate, share in shares.items()}
