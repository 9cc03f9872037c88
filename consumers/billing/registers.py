"""Registers 示度 and readings 抄表读数: what a meter shows, how good the reading is, and how far the register advanced.

Rules A.0, A.1, D.1, D.2. A register value is secondary (CT and PT not applied) and keeps its wire scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import ROUND_DOWN, Decimal
from enum import IntEnum, StrEnum
from typing import Final

from consumers.billing.decimals import EXACT, product, quotient, total
from consumers.billing.validity import ArchiveError, BillHold, HoldReason, Value

LOCAL: Final = timezone(timedelta(hours=8), "+08:00")
"""The time zone of bills (A.0)."""

ROLLOVER_FROM: Final = Decimal("0.9")
ROLLOVER_TO: Final = Decimal("0.1")


class Quality(IntEnum):
    """数据质量, best first: the order in which a reading replaces another (D.2)."""

    NORMAL = 0
    SUPPLEMENT = 1
    """补抄: the freeze, read later."""
    DERIVED = 2
    """Interpolated, or shared out by a curve."""
    MANUAL = 3
    """人工抄表."""
    TERMINAL = 4
    """交采: from the terminal's own metering. Provisional."""
    ESTIMATED = 5
    """估抄. Provisional."""

    @property
    def provisional(self) -> bool:
        """No disconnection, penalty or bad record may rest on it; its bill needs approval (A.3)."""
        return self >= Quality.TERMINAL


def worst(qualities: Iterable[Quality]) -> Quality:
    """The quality of something made of several readings; NORMAL of none."""
    return max(qualities, default=Quality.NORMAL)


class Reading(Value, frozen=True, kw_only=True):
    """One register at one instant. `id`: the message it came in; `value` in kWh, kvarh or kW, secondary."""

    id: str
    value: Decimal
    at: datetime
    quality: Quality = Quality.NORMAL

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ArchiveError(f"reading {self.id}: its time {self.at} names no zone")
        if not self.value.is_finite():
            raise ArchiveError(f"reading {self.id}: {self.value} is no number")


class Received(Value, frozen=True, kw_only=True):
    """A value as it came in. `seq`: the receiver's own running number; `key`: the business key (D.2)."""

    seq: int
    key: str
    quality: Quality
    value: Decimal


def register_value(raw: int | None, scale: int, bits: int = 32) -> Decimal | None:
    """`raw x 10^scale` with all its places; None for null and for the pattern of all one bits, never 0 (D.1, D02).

    `bits`: the width of the field on the wire, 8 to 64.
    """
    if raw is None or raw == (1 << bits) - 1:
        return None
    return Decimal(raw).scaleb(scale, EXACT)


def closed_period(freeze: datetime, zone: timezone = LOCAL) -> str:
    """The billing period `YYYY-MM` that a month freeze 月冻结 closes: the month that ended with it (A.0, D01)."""
    last = freeze.astimezone(zone) - timedelta(microseconds=1)
    return f"{last.year:04d}-{last.month:02d}"


def merge(kept: Received | None, new: Received) -> tuple[Received, bool]:
    """Which of two values of one key stays, and whether anything of effect changed (D.2, D03).

    The better quality wins, then the newer receive number; the same value in the same quality is a no-op, though the
    newer number is remembered, so that the outcome does not depend on the order of arrival.
    """
    if kept is None:
        return new, True
    if kept.key != new.key:
        raise ValueError(f"{kept.key!r} and {new.key!r} are different readings")
    if (new.quality, -new.seq) >= (kept.quality, -kept.seq):
        return kept, False
    return new, (new.quality, new.value) != (kept.quality, kept.value)


def best_readings(arrivals: Iterable[Received]) -> dict[str, Received]:
    """The value that stays for each key."""
    best: dict[str, Received] = {}
    for arrival in arrivals:
        best[arrival.key], _ = merge(best.get(arrival.key), arrival)
    return best


def freeze_quality(quality: Quality, clock_offset: timedelta | None, limit: timedelta) -> tuple[Quality, bool]:
    """The quality of a freeze of a clock that is off, and whether time-of-use bills are flagged (D.2).

    Beyond `limit` the freeze is at best DERIVED.
    """
    if clock_offset is None or abs(clock_offset) <= limit:
        return quality, False
    return max(quality, Quality.DERIVED), True


def transformer_ratio(text: str) -> Decimal:
    """A ratio 变比 `10/5` or `80`. Raises ArchiveError when it is none or not above zero."""
    try:
        parts = [Decimal(part) for part in text.split("/")]
    except ArithmeticError:
        raise ArchiveError(f"not a ratio: {text!r}") from None
    if len(parts) > 2 or not all(part.is_finite() and part > 0 for part in parts):
        raise ArchiveError(f"not a ratio: {text!r}")
    return quotient(parts[0], parts[1]) if len(parts) == 2 else parts[0]


def multiplier(ct: str, pt: str) -> Decimal:
    """倍率 M = CT x PT (A.1, A01)."""
    return product(transformer_ratio(ct), transformer_ratio(pt))


class AdvanceKind(StrEnum):
    """How a register went from one reading to the next."""

    NORMAL = "NORMAL"
    ROLLOVER = "ROLLOVER"
    """翻转: passed its largest value."""
    BACKWARD = "BACKWARD"
    """示度下降: fell; no bill, evidence for inspection."""


class Advance(Value, frozen=True, kw_only=True):
    """示度差 of a register, secondary, not rounded (rounding point 1). `delta` is None when it fell."""

    delta: Decimal | None
    kind: AdvanceKind


def advance(first: Decimal, last: Decimal, integer_digits: int = 6, *, whole: bool = False) -> Advance:
    """How far a register advanced (A.1). `whole`: truncate both readings to whole kWh first (residential mode, A.0).

    Raises BillHold(REGISTER_RANGE) for a value that `integer_digits` digits cannot show.
    """
    modulus = Decimal(1).scaleb(integer_digits)
    for value in (first, last):
        if not 0 <= value < modulus:
            raise BillHold(HoldReason.REGISTER_RANGE, f"{value} in a register of {integer_digits} integer digits")
    if whole:
        first = first.to_integral_value(ROUND_DOWN)
        last = last.to_integral_value(ROUND_DOWN)
    if last >= first:
        return Advance(delta=EXACT.subtract(last, first), kind=AdvanceKind.NORMAL)
    if first >= product(modulus, ROLLOVER_FROM) and last <= product(modulus, ROLLOVER_TO):
        return Advance(delta=EXACT.add(EXACT.subtract(last, first), modulus), kind=AdvanceKind.ROLLOVER)
    return Advance(delta=None, kind=AdvanceKind.BACKWARD)


class Unbalance(Value, frozen=True, kw_only=True):
    """示值不平: the total register against the sum of its rates, secondary kWh. `flag`: beyond tolerance."""

    diff: Decimal
    flag: bool


def unbalance(whole: Decimal, rates: Sequence[Decimal] | Mapping[object, Decimal], tolerance: Decimal) -> Unbalance:
    """`|R_total - ΣR_rate|` (A.4, A10). Beyond `tolerance` it is evidence; the bill still goes by the total."""
    values = rates.values() if isinstance(rates, Mapping) else rates
    diff = EXACT.subtract(whole, total(values)).copy_abs()
    return Unbalance(diff=diff, flag=diff > tolerance)
