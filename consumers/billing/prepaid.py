"""Prepaid 费控: payments, the estimated balance 测算余额, average day, days left, warning stages. Rule A.13.

Amounts are yuan. The parts of the estimated charge are bill lines (points 3 and 4 of A.0); the balance is their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from enum import IntEnum, StrEnum

from consumers.billing.decimals import EXACT, HUNDRED, ZERO, product, quotient, total
from consumers.billing.tariff import Line, line, sum_of
from consumers.billing.validity import ArchiveError, Dated, Value


class PrepaidPolicy(Dated, frozen=True, kw_only=True):
    """Warning stages and data age; company policy, by contract."""

    warn1_floor: Decimal
    warn1_days: Decimal
    """WARN1 at `max(floor, days x average day)`."""
    warn2_floor: Decimal
    warn2_days: Decimal
    rearm_percent: Decimal
    """A stage warns again after the balance was above its threshold by so much."""
    average_days: int
    stale_hours: int
    base_month_days: int
    """30: a day of the base fee 基本电费 is this part of a month while it is estimated."""


class Payment(Value, frozen=True, kw_only=True):
    """缴费. Keyed by (channel, txn_id) (A.16)."""

    channel: str
    txn_id: str
    account: str
    amount: Decimal
    at: datetime

    def __post_init__(self) -> None:
        if not self.amount.is_finite() or self.amount <= 0:
            raise ArchiveError(f"payment {self.channel}/{self.txn_id}: amount {self.amount}")

    @property
    def key(self) -> tuple[str, str]:
        """What makes it one payment however often it arrives."""
        return self.channel, self.txn_id


class PaymentVerdict(StrEnum):
    """What to do with an arriving payment."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    """The same key with another account or amount: to a person, not to the balance."""


def judge_payment(known: Payment | None, arrived: Payment) -> PaymentVerdict:
    """`known`: what is stored under the same key."""
    if known is None:
        return PaymentVerdict.NEW
    same = (known.key, known.account, known.amount) == (arrived.key, arrived.account, arrived.amount)
    return PaymentVerdict.DUPLICATE if same else PaymentVerdict.CONFLICT


class RunningCharge(Value, frozen=True, kw_only=True):
    """测算电费: what was used since the last bill, as lines that explain it."""

    lines: tuple[Line, ...]
    amount: Decimal


def running_charge(
    energy: Sequence[Line],
    policy: PrepaidPolicy,
    *,
    base_fee_month: Decimal = ZERO,
    days: int = 0,
    power_factor_rate: Decimal = ZERO,
) -> RunningCharge:
    """`tariff(E) + base fee x days/30`, with last month's power-factor rate (A44).

    `energy`: lines of energy and funds since the last settled reading, from `tariff.energy_lines` or, with the true
    cumulative position, `tiers.tier_lines`. `base_fee_month`: the base fee of a whole month.
    """
    lines = list(energy)
    if base_fee_month:
        part, whole = Decimal(min(days, policy.base_month_days)), Decimal(policy.base_month_days)
        lines.append(
            line("base.running", base_fee_month, "CNY", part, "A.13", per=whole, pf_base=True, sources=(policy.ref,))
        )
    base = total(item.amount for item in lines if item.pf_base)
    if power_factor_rate and base:
        lines.append(line("power_factor.running", base, "CNY", power_factor_rate, "A.13", per=HUNDRED))
    return RunningCharge(lines=tuple(lines), amount=sum_of(lines))


class Balance(Value, frozen=True, kw_only=True):
    """可用余额 of an account. `as_of`: the instant of the latest reading that it rests on."""

    cash: Decimal
    as_of: datetime
    credit_limit: Decimal = ZERO
    unpaid_bills: Decimal = ZERO
    late_fees: Decimal = ZERO
    running: Decimal = ZERO
    """测算电费 since the last bill."""
    estimated: bool = False
    """It rests on ESTIMATED or TERMINAL data: no disconnection."""

    @property
    def available(self) -> Decimal:
        """`cash + credit_limit - unpaid bills - late fees - running charge`."""
        owed = total((self.unpaid_bills, self.late_fees, self.running))
        return EXACT.subtract(EXACT.add(self.cash, self.credit_limit), owed)

    def stale(self, now: datetime, policy: PrepaidPolicy) -> bool:
        """Whether the data are older than 24 h, so that nobody may be cut by them."""
        return now - self.as_of > timedelta(hours=policy.stale_hours)


def average_day(charges: Sequence[Decimal], policy: PrepaidPolicy) -> Decimal | None:
    """日均电费: the mean of the last 7 daily charges, oldest first, of fewer when there are fewer; None of none."""
    last = charges[-policy.average_days :]
    return quotient(total(last), Decimal(len(last))) if last else None


def days_left(balance: Decimal, average: Decimal | None) -> int | None:
    """可用天数 `floor(balance / average day)` (A46), 0 when nothing is left; None when nothing is used."""
    if average is None or average <= 0:
        return None
    return max(int(quotient(balance, average).to_integral_value(ROUND_FLOOR)), 0)


class Stage(IntEnum):
    """预警级别, by depth."""

    OK = 0
    WARN1 = 1
    WARN2 = 2
    ARREARS = 3
    """欠费: below zero."""


class Thresholds(Value, frozen=True, kw_only=True):
    """预警阈值: a balance at or below them is in the stage."""

    warn1: Decimal
    warn2: Decimal


def thresholds(average: Decimal | None, policy: PrepaidPolicy) -> Thresholds:
    """WARN1 at `max(50, 5·avg)`, WARN2 at `max(20, 2·avg)` (A45: 150 and 60); the floors without an average."""
    average = average or ZERO
    return Thresholds(
        warn1=max(policy.warn1_floor, product(policy.warn1_days, average)),
        warn2=max(policy.warn2_floor, product(policy.warn2_days, average)),
    )


def stage_of(balance: Decimal, limits: Thresholds) -> Stage:
    """The stage of a balance (A45): thresholds inclusive, ARREARS only below zero."""
    if balance < 0:
        return Stage.ARREARS
    if balance <= limits.warn2:
        return Stage.WARN2
    return Stage.WARN1 if balance <= limits.warn1 else Stage.OK


class Warnings(Value, frozen=True, kw_only=True):
    """Which stages have spoken and not been armed again. Kept with the account."""

    spoken: frozenset[Stage] = frozenset()


def warn(known: Warnings, balance: Decimal, limits: Thresholds, policy: PrepaidPolicy) -> tuple[Warnings, Stage | None]:
    """One message per stage and crossing: the new memory and the stage to send now, if any.

    A balance that falls through several stages at once speaks for the deepest only; the others count as spoken. A
    stage is armed again when the balance is above its threshold by `rearm_percent`.
    """
    factor = quotient(EXACT.add(HUNDRED, policy.rearm_percent), HUNDRED)
    lines = {Stage.WARN1: limits.warn1, Stage.WARN2: limits.warn2, Stage.ARREARS: ZERO}
    spoken = {stage for stage in known.spoken if balance <= product(lines[stage], factor)}
    stage = stage_of(balance, limits)
    news = stage is not Stage.OK and stage not in spoken
    spoken.update(other for other in lines if other <= stage)
    return Warnings(spoken=frozenset(spoken)), stage if news else None
