"""Two-part tariff 两部制: the base fee 基本电费 by capacity, contract demand or actual demand.

Rule A.6. Demand is primary kW; it is not rounded, only the line is (point 3 of A.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum

from consumers.billing.decimals import EXACT, ZERO, product, quotient
from consumers.billing.tariff import ONE, Line, line
from consumers.billing.validity import ArchiveError, Dated, Value


class OverRule(StrEnum):
    """What is billed when the demand exceeds 105 % of the contract: the text fixes the tier, not the sum."""

    C_PLUS_2X_OVER105 = "C_PLUS_2X_OVER105"
    """`C + 2(MD - 1.05C)`: continuous at 105 % (A17)."""
    C105_PLUS_2X = "105C_PLUS_2X"
    """`1.05C + 2(MD - 1.05C)` (A18)."""


class DemandPolicy(Dated, frozen=True, kw_only=True):
    """Numbers of the base fee that a regulation decides."""

    over_rule: OverRule
    over_limit: Decimal
    """1.05: the demand may exceed the contract by so much."""
    over_factor: Decimal
    """2: what lies beyond counts double."""
    contract_floor: Decimal
    """0.40: the contract value is at least this share of the capacity."""
    load_threshold: Decimal
    """260 kWh per kVA of contract capacity in the month ..."""
    load_discount: Decimal
    """... and the demand price is multiplied by 0.9."""
    month_days: int
    """30: a day of capacity is this part of a month."""
    pause_days: int
    """15: a shorter pause 暂停 takes nothing off."""


class FeeMode(StrEnum):
    """基本电费计费方式."""

    CAPACITY = "capacity"
    """按容量."""
    CONTRACT_DEMAND = "contract_demand"
    """合同最大需量."""
    ACTUAL_DEMAND = "actual_demand"
    """实际最大需量."""


class Pause(Value, frozen=True, kw_only=True):
    """暂停 or 减容: out of service from the first day up to and not including the last."""

    first: date
    until: date


class Unit(Value, frozen=True, kw_only=True):
    """A transformer 变压器, or an HV motor 高压电动机 not behind one (1 kW = 1 kVA). `removed`: first day without."""

    id: str
    kva: Decimal
    installed: date | None = None
    removed: date | None = None
    pauses: tuple[Pause, ...] = ()

    def __post_init__(self) -> None:
        if self.kva <= 0 or any(pause.until <= pause.first for pause in self.pauses):
            raise ArchiveError(f"unit {self.id}: {self.kva} kVA, pauses {self.pauses}")


def service_days(unit: Unit, first: date, until: date, policy: DemandPolicy) -> int:
    """Days of [first, until) that a unit is billed for (A.6). A part day is a day.

    A pause counts only from `pause_days` on, over its whole length, also where it began in another month. Outages and
    rationing are no pauses.
    """
    out: set[date] = set()
    for pause in unit.pauses:
        if (pause.until - pause.first).days >= policy.pause_days:
            out.update(pause.first + timedelta(days=n) for n in range((pause.until - pause.first).days))
    days = (first + timedelta(days=n) for n in range((until - first).days))
    return sum(
        day not in out
        and (unit.installed is None or unit.installed <= day)
        and (unit.removed is None or day < unit.removed)
        for day in days
    )


def capacity_line(
    kva: Decimal,
    price: Decimal,
    days: int,
    month_days: int,
    policy: DemandPolicy,
    *,
    code: str = "base.capacity",
    sources: Sequence[str] = (),
) -> Line:
    """按容量: `kVA x price x f`; `f = 1` when in service all days of the month, else `min(1, days/30)` (A11-A14)."""
    if not 0 <= days <= month_days:
        raise ValueError(f"{days} days in service of a month of {month_days}")
    part = policy.month_days if days == month_days else min(days, policy.month_days)
    return line(
        code,
        kva,
        "kVA",
        price,
        "A.6",
        coeff=Decimal(part),
        per=Decimal(policy.month_days),
        pf_base=True,
        note=f"in service {days} of {month_days} days",
        sources=(policy.ref, *sources),
    )


def contract_value(requested: Decimal, capacity_kva: Decimal, policy: DemandPolicy) -> Decimal:
    """合同需量 核定值: at least 40 % of transformer and HV-motor capacity (A58 = 1200)."""
    return max(requested, product(capacity_kva, policy.contract_floor))


def billed_demand(contract: Decimal, demand: Decimal, policy: DemandPolicy) -> Decimal:
    """The demand that a contract customer pays for, kW (A15 to A18)."""
    limit = product(contract, policy.over_limit)
    if demand <= limit:
        return contract
    floor = contract if policy.over_rule is OverRule.C_PLUS_2X_OVER105 else limit
    return EXACT.add(floor, product(policy.over_factor, EXACT.subtract(demand, limit)))


def demand_discount(kwh: Decimal, capacity_kva: Decimal, policy: DemandPolicy) -> Decimal:
    """0.9 when the month's energy of all points reaches 260 kWh per kVA of contract capacity, else 1 (A20, A21)."""
    if capacity_kva > 0 and kwh >= product(capacity_kva, policy.load_threshold):
        return policy.load_discount
    return ONE


class SupplyLine(Value, frozen=True, kw_only=True):
    """进线: each line alone has its contract value and its demand; then they are summed (A22)."""

    code: str
    demand: Decimal
    """Maximum demand 最大需量 of the month, primary kW."""
    requested: Decimal | None = None
    """合同需量 as requested; None in actual-demand mode."""
    capacity_kva: Decimal | None = None
    """The capacity that the 40 % floor is of; None: no floor for this line."""
    sources: tuple[str, ...] = ()


class BaseFee(Value, frozen=True, kw_only=True):
    """基本电费 terms of a customer for a month. `price`: yuan/kVA or yuan/kW a month."""

    mode: FeeMode
    price: Decimal
    capacity_kva: Decimal
    """合同容量: of the 260 kWh/kVA rule."""
    units: tuple[Unit, ...] = ()
    lines: tuple[SupplyLine, ...] = ()


def base_fee_lines(
    fee: BaseFee,
    first: date,
    until: date,
    kwh: Decimal,
    policy: DemandPolicy,
    *,
    prefix: str = "",
) -> list[Line]:
    """The base fee of the month [first, until); `kwh`: the month's energy of all points. Point 3 rounding per line."""
    if fee.mode is FeeMode.CAPACITY:
        days = (until - first).days
        return [
            capacity_line(
                unit.kva,
                fee.price,
                service_days(unit, first, until, policy),
                days,
                policy,
                code=f"{prefix}base.capacity.{unit.id}",
                sources=(unit.id,),
            )
            for unit in fee.units
        ]
    discount = demand_discount(kwh, fee.capacity_kva, policy)
    found = []
    for supply in fee.lines:
        billed, note = supply.demand, f"demand {supply.demand} kW"
        if fee.mode is FeeMode.CONTRACT_DEMAND:
            if supply.requested is None:
                raise ArchiveError(f"supply line {supply.code} has no contract demand")
            contract = contract_value(supply.requested, supply.capacity_kva or ZERO, policy)
            billed = billed_demand(contract, supply.demand, policy)
            note = f"contract {contract} kW, demand {supply.demand} kW, {policy.over_rule}"
        found.append(
            line(
                f"{prefix}base.demand.{supply.code}",
                billed,
                "kW",
                fee.price,
                "A.6",
                coeff=discount,
                pf_base=True,
                note=f"{note}; {_load_note(kwh, fee.capacity_kva)}",
                sources=(policy.ref, *supply.sources),
            )
        )
    return found


def _load_note(kwh: Decimal, capacity_kva: Decimal) -> str:
    if capacity_kva <= 0:
        return "no contract capacity"
    return f"{quotient(kwh, capacity_kva):.2f} kWh/kVA"
