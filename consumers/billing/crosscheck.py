"""Cross-check 核抄: remote registers against manual readings, and the plan of who is read by hand when. Rule A.15."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

from consumers.billing.decimals import EXACT, HUNDRED, product, quotient
from consumers.billing.energy import interpolate
from consumers.billing.registers import Quality, Reading
from consumers.billing.validity import BillHold, Dated, HoldReason, Value

_SAMPLE_STEPS = 10_000


class CrossCheckPolicy(Dated, frozen=True, kw_only=True):
    """Tolerance and plan of manual readings."""

    tolerance: Decimal
    """Least tolerance, secondary kWh (0.50)."""
    tolerance_percent: Decimal
    """... or this much of the period's register advance (1 %), whichever is larger."""
    lv_months: int
    hv_months: int
    sample_percent: Decimal
    """Random sample of all points in each period."""


class CrossCheck(Value, frozen=True, kw_only=True):
    """The verdict. All in secondary kWh, not rounded; `ok` False: RECON_MISMATCH, evidence for inspection."""

    remote: Decimal
    manual: Decimal
    diff: Decimal
    tolerance: Decimal
    ok: bool

    @property
    def times_tolerance(self) -> Decimal:
        """How many tolerances they differ by: the severity of the evidence."""
        return quotient(self.diff, self.tolerance)

    def require(self) -> None:
        """Raise BillHold(RECON_MISMATCH) unless they agree."""
        if not self.ok:
            detail = f"remote {self.remote}, manual {self.manual}, tolerance {self.tolerance}"
            raise BillHold(HoldReason.RECON_MISMATCH, detail)


def compare(remote: Decimal, manual: Decimal, period_advance: Decimal, policy: CrossCheckPolicy) -> CrossCheck:
    """Compare aligned values: `tol = max(0.50, 1 % of the period's advance)`, inclusive (A51, A52)."""
    share = quotient(product(period_advance, policy.tolerance_percent), HUNDRED)
    tolerance = max(policy.tolerance, share)
    diff = EXACT.subtract(remote, manual).copy_abs()
    return CrossCheck(remote=remote, manual=manual, diff=diff, tolerance=tolerance, ok=diff <= tolerance)


def align(remote: Sequence[Reading], instant: datetime) -> Reading | None:
    """The remote register at the time of the manual reading, interpolated from true readings around it; None if none.

    Manual, terminal and estimated values are no remote readings and are left out.
    """
    true = [reading for reading in remote if reading.quality <= Quality.DERIVED]
    exact = [reading for reading in true if reading.at == instant]
    if exact:
        return min(exact, key=lambda reading: (reading.quality, reading.id))
    before = max((r for r in true if r.at < instant), key=lambda r: (r.at, r.id), default=None)
    after = min((r for r in true if r.at > instant), key=lambda r: (r.at, r.id), default=None)
    return interpolate(before, after, instant) if before is not None and after is not None else None


def check(
    remote: Sequence[Reading], manual: Reading, period_advance: Decimal, policy: CrossCheckPolicy
) -> CrossCheck | None:
    """Align and compare; None when the remote readings do not reach around the manual one."""
    aligned = align(remote, manual.at)
    return None if aligned is None else compare(aligned.value, manual.value, period_advance, policy)


def months_between(first: date, last: date) -> int:
    """Whole months from one day to another."""
    return (last.year - first.year) * 12 + last.month - first.month - (last.day < first.day)


def manual_due(
    point: str,
    period: str,
    last_match: date | None,
    today: date,
    policy: CrossCheckPolicy,
    *,
    high_voltage: bool,
    held: bool = False,
) -> str | None:
    """Why this point is to be read by hand now: `hold`, `never`, `interval`, `sample`; None if it is not.

    A match resets the clock. The sample is drawn by a hash of point and period, so that a replay draws the same.
    """
    if held:
        return "hold"
    if last_match is None:
        return "never"
    if months_between(last_match, today) >= (policy.hv_months if high_voltage else policy.lv_months):
        return "interval"
    digest = hashlib.sha256(f"{point}|{period}".encode()).digest()
    drawn = int.from_bytes(digest[:8], "big") % _SAMPLE_STEPS
    return "sample" if drawn < product(policy.sample_percent, Decimal(_SAMPLE_STEPS)) / HUNDRED else None
