"""The bill 电费账单: from readings to lines and total, in the order of A.11, as one pure function.

`readings → Δ → E → TOU → losses → energy lines → base fee → PF adj → funds → tiers → corrections/late fee → total`

`BillInputs` is all that a bill depends on: readings with their ids and qualities, multipliers, tariff and policy
versions, prior-month accumulators. Nothing else is looked at, so its hash decides whether a bill is the same (A.16).
A period may have several parts 计费段: an interval with one contract and tariff, or one metering point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise

from consumers.billing.audit import bill_key, canonical, input_hash
from consumers.billing.decimals import EXACT, ZERO, money, product, quotient, total
from consumers.billing.demand import BaseFee, DemandPolicy, FeeMode, SupplyLine, Unit, base_fee_lines
from consumers.billing.energy import (
    DemandReading,
    Energy,
    EnergyPolicy,
    Rate,
    Segment,
    Substitute,
    chain_energy,
    check_plausible,
    max_demand,
    split_by_registers,
    split_by_shares,
)
from consumers.billing.losses import LossTerms, join_losses, losses
from consumers.billing.power_factor import (
    Assessment,
    PowerFactorMethod,
    PowerFactorTable,
    adjustment_line,
    assess,
)
from consumers.billing.registers import LOCAL, Quality, unbalance, worst
from consumers.billing.tariff import ONE, Line, Tariff, energy_lines, fund_lines, line, sum_of
from consumers.billing.tiers import TierTerms, tier_lines
from consumers.billing.validity import ArchiveError, BillHold, Dated, HoldReason, Value


class Metering(Value, frozen=True, kw_only=True):
    """What the meters of a part showed: chains of segments for each register.

    `rates`: without them, or with `shares` (a split by curve, or last month's), the total is shared out. `reactive`:
    one chain for each reactive register that counts. `substitute` stands for `total` when there is no reading (A.3).
    `estimated_before`: what was billed by estimate for the time that the chains now cover as well (true-up, A08).
    """

    total: tuple[Segment, ...] = ()
    rates: dict[Rate, tuple[Segment, ...]] = {}  # noqa: RUF012 - msgspec copies an empty default
    reactive: tuple[tuple[Segment, ...], ...] = ()
    substitute: Substitute | None = None
    shares: dict[Rate, Decimal] = {}  # noqa: RUF012 - msgspec copies an empty default
    shares_quality: Quality = Quality.DERIVED
    estimated_before: dict[Rate, Decimal] = {}  # noqa: RUF012 - msgspec copies an empty default


class Part(Value, frozen=True, kw_only=True):
    """计费段: metering under one tariff from `start` to `end`.

    `tariff` prices energy and funds; with `tiers` (residential) those price the energy and `tariff`, if any, only the
    funds. `group`: parts with one power-factor group are assessed together; None: not assessed. `nested` 套表: codes of
    parts whose meters stand behind this one; their energy is taken out of this part and counts in its group.
    """

    code: str
    start: datetime
    end: datetime
    metering: Metering
    tariff: Tariff | None = None
    tiers: TierTerms | None = None
    purchase_multiplier: Decimal = ONE
    losses: LossTerms | None = None
    capacity_kva: Decimal | None = None
    """For the plausibility of the energy; None: not judged."""
    group: str | None = None
    nested: tuple[str, ...] = ()
    whole_kwh: bool = False
    """reading_trunc: residential mode, readings are cut to whole kWh."""
    residual: Rate = Rate.FLAT
    """The rate that takes the rest of a split."""

    def __post_init__(self) -> None:
        if self.tariff is None and self.tiers is None:
            raise ArchiveError(f"part {self.code} has no tariff")
        if not self.start < self.end:
            raise ArchiveError(f"part {self.code} from {self.start} to {self.end}")


class DemandPoint(Value, frozen=True, kw_only=True):
    """进线 with the readings of its demand register; `requested` 合同需量, `capacity_kva` of the 40 % floor."""

    code: str
    readings: tuple[DemandReading, ...]
    requested: Decimal | None = None
    capacity_kva: Decimal | None = None


class BaseFeeTerms(Value, frozen=True, kw_only=True):
    """基本电费 of the month; counts in the power-factor group `group`."""

    mode: FeeMode
    price: Decimal
    capacity_kva: Decimal
    policy: DemandPolicy
    units: tuple[Unit, ...] = ()
    points: tuple[DemandPoint, ...] = ()
    group: str | None = None


class PowerFactorTerms(Value, frozen=True, kw_only=True):
    """The table that a group is assessed by."""

    group: str
    table: PowerFactorTable
    method: PowerFactorMethod = PowerFactorMethod.COS
    assumed: Decimal | None = None
    """cosφ of last month, for a group without reactive readings because its energy is a substitute (A.3)."""


class Adjustment(Value, frozen=True, kw_only=True):
    """A correction 退补 or a late fee 违约金, yuan; rounded as a line (point 4)."""

    code: str
    amount: Decimal
    rule: str
    note: str = ""
    sources: tuple[str, ...] = ()


class BillInputs(Value, frozen=True, kw_only=True):
    """All that a bill is computed from. The period is [first, until): local days, settlement day 抄表例日 to next."""

    account: str
    period: str
    first: date
    until: date
    parts: tuple[Part, ...]
    energy_policy: EnergyPolicy
    kind: str = "regular"
    base_fee: BaseFeeTerms | None = None
    power_factor: tuple[PowerFactorTerms, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()


class Evidence(Value, frozen=True, kw_only=True):
    """Something for inspection that does not hold the bill."""

    code: str
    detail: str


class PartEnergy(Value, frozen=True, kw_only=True):
    """Billed energy of a part, kWh and kvarh, whole. `parts` by rate, losses joined, nested meters taken out."""

    code: str
    parts: dict[Rate, Decimal]
    metered: Decimal
    active_loss: Decimal
    reactive: Decimal
    quality: Quality
    sources: tuple[str, ...] = ()

    @property
    def kwh(self) -> Decimal:
        """Billed active energy."""
        return total(self.parts.values())


class Bill(Value, frozen=True, kw_only=True):
    """A computed bill. `provisional`: on TERMINAL or ESTIMATED data; it needs approval and may cut nobody."""

    key: str
    account: str
    period: str
    kind: str
    input_hash: str
    lines: tuple[Line, ...]
    total: Decimal
    quality: Quality
    energy: tuple[PartEnergy, ...]
    assessments: dict[str, Assessment] = {}  # noqa: RUF012 - msgspec copies an empty default
    evidence: tuple[Evidence, ...] = ()
    needs_approval: bool = False

    @property
    def provisional(self) -> bool:
        """暂结."""
        return self.quality.provisional

    def encoded(self) -> bytes:
        """The bytes of the bill: equal inputs give equal bytes."""
        return canonical(self)


class Held(Value, frozen=True, kw_only=True):
    """A bill that could not be computed, and why."""

    key: str
    input_hash: str
    reason: HoldReason
    detail: str


def compute(inputs: BillInputs, zone: timezone = LOCAL) -> Bill | Held:
    """The bill, or why it is held. Raises ArchiveError for archives that contradict themselves."""
    key = bill_key(inputs.account, inputs.period, inputs.kind)
    hash_ = input_hash(inputs)
    _check_archives(inputs, zone)
    try:
        return _compute(inputs, key, hash_, zone)
    except BillHold as hold:
        return Held(key=key, input_hash=hash_, reason=hold.reason, detail=hold.detail)


def _check_archives(inputs: BillInputs, zone: timezone) -> None:
    codes = [part.code for part in inputs.parts]
    if len(set(codes)) != len(codes):
        raise ArchiveError(f"{inputs.account}: two parts of one code: {codes}")
    if not inputs.first < inputs.until:
        raise ArchiveError(f"{inputs.account}: the period {inputs.first} to {inputs.until} is empty")
    groups = [terms.group for terms in inputs.power_factor]
    if len(set(groups)) != len(groups):
        raise ArchiveError(f"{inputs.account}: two tables for one power-factor group: {groups}")
    for part in inputs.parts:
        first, last = _days(part, zone)
        if first < inputs.first or last >= inputs.until:
            raise ArchiveError(f"part {part.code} from {part.start} to {part.end} is not within the period")
        if part.group is not None and part.group not in groups:
            raise ArchiveError(f"part {part.code}: no power-factor table for group {part.group}")
        if unknown := set(part.nested) - set(codes):
            raise ArchiveError(f"part {part.code}: nested parts {sorted(unknown)} are not in the bill")
        for version in (part.tariff, None if part.tiers is None else part.tiers.tariff):
            _require_validity(version, first, last)
    for terms in inputs.power_factor:
        _require_validity(terms.table, inputs.first, inputs.until - timedelta(days=1))
    if inputs.base_fee is not None:
        _require_validity(inputs.base_fee.policy, inputs.first, inputs.until - timedelta(days=1))


def _days(part: Part, zone: timezone) -> tuple[date, date]:
    """First and last local day of a part."""
    return part.start.astimezone(zone).date(), (part.end.astimezone(zone) - timedelta(microseconds=1)).date()


def _require_validity(version: Dated | None, first: date, last: date) -> None:
    if version is not None and not (version.holds_on(first) and version.holds_on(last)):
        raise ArchiveError(f"{version.ref} is in force from {version.valid_from} to {version.valid_to}, not {first}")


def _compute(inputs: BillInputs, key: str, hash_: str, zone: timezone) -> Bill:
    evidence: list[Evidence] = []
    measured = {part.code: _measure(part, inputs.energy_policy, evidence) for part in inputs.parts}
    energies = {part.code: _billed(part, measured) for part in inputs.parts}

    lines: list[Line] = []
    grouped: dict[str | None, list[Line]] = {}

    def add(found: Sequence[Line], group: str | None) -> None:
        lines.extend(found)
        grouped.setdefault(group, []).extend(found)

    for part in inputs.parts:
        if part.tiers is None and part.tariff is not None:
            billed = energies[part.code]
            add(
                energy_lines(
                    part.tariff,
                    billed.parts,
                    purchase_multiplier=part.purchase_multiplier,
                    sources=billed.sources,
                    prefix=f"{part.code}:",
                ),
                part.group,
            )
    if inputs.base_fee is not None:
        kwh = total(energy.kwh for energy in energies.values())
        add(_base_fee(inputs, inputs.base_fee, kwh, zone), inputs.base_fee.group)
    assessments = {}
    for terms in inputs.power_factor:
        members = [part for part in inputs.parts if part.group == terms.group]
        assessed = _assess(terms, members, energies)
        assessments[terms.group] = assessed
        adjustment = adjustment_line(grouped.get(terms.group, []), assessed, terms.table, prefix=f"{terms.group}:")
        if adjustment is not None:
            lines.append(adjustment)
    for part in inputs.parts:
        if part.tariff is not None:
            billed = energies[part.code]
            lines += fund_lines(part.tariff, billed.kwh, sources=billed.sources, prefix=f"{part.code}:")
    for part in inputs.parts:
        if part.tiers is not None:
            billed = energies[part.code]
            lines += tier_lines(part.tiers, billed.parts, sources=billed.sources, prefix=f"{part.code}:")
    lines += [
        line(item.code, ONE, "CNY", item.amount, item.rule, note=item.note, sources=item.sources)
        for item in inputs.adjustments
    ]
    bill = Bill(
        key=key,
        account=inputs.account,
        period=inputs.period,
        kind=inputs.kind,
        input_hash=hash_,
        lines=tuple(lines),
        total=sum_of(lines),
        quality=worst(energy.quality for energy in energies.values()),
        energy=tuple(energies.values()),
        assessments=assessments,
        evidence=tuple(evidence),
        needs_approval=any(
            energy.quality.provisional or _derived_edge(part.metering)
            for part, energy in zip(inputs.parts, energies.values(), strict=True)
        ),
    )
    verify(bill)
    return bill


def verify(bill: Bill) -> None:
    """The sum check of A.11: lines and total agree with themselves. Raises RuntimeError: a bug, never to be issued."""
    if bill.total != total(item.amount for item in bill.lines):
        raise RuntimeError(f"bill {bill.key}: the total is not the sum of its lines")
    for item in bill.lines:
        if item.amount != money(quotient(product(item.qty, item.price, item.coeff), item.per)):
            raise RuntimeError(f"bill {bill.key}: line {item.code} does not compute")
    codes = [item.code for item in bill.lines]
    if len(set(codes)) != len(codes):
        raise RuntimeError(f"bill {bill.key}: a line twice in {codes}")


def _chain(part: Part, segments: tuple[Segment, ...], policy: EnergyPolicy) -> Energy:
    """The energy of one register over exactly the part's time (or from further back, when it trues up an estimate)."""
    if not segments:
        raise BillHold(HoldReason.MISSING_READING, f"part {part.code}: a register without readings")
    starts_early = segments[0].start < part.start and bool(part.metering.estimated_before)
    if segments[-1].end != part.end or (segments[0].start != part.start and not starts_early):
        span = f"{segments[0].start} to {segments[-1].end}"
        raise BillHold(HoldReason.STRADDLE, f"part {part.code}: readings from {span}, not {part.start} to {part.end}")
    return chain_energy(segments, policy.energy_scale, whole=part.whole_kwh)


def _measure(part: Part, policy: EnergyPolicy, evidence: list[Evidence]) -> PartEnergy:
    """Readings to energy by rate, before losses and nested meters."""
    metering = part.metering
    qualities: list[Quality] = []
    sources: list[str] = []
    if metering.total:
        whole = _chain(part, metering.total, policy)
        kwh = whole.kwh
        qualities.append(whole.quality)
        sources += whole.sources
    elif metering.substitute is not None:
        kwh = metering.substitute.kwh
        qualities.append(metering.substitute.quality)
        sources += metering.substitute.sources
    else:
        raise BillHold(HoldReason.MISSING_READING, f"part {part.code}: no reading and no substitute")
    if part.capacity_kva is not None:
        start = metering.total[0].start if metering.total else part.start
        hours = quotient(Decimal((part.end - start) // timedelta(seconds=1)), Decimal(3600))
        check_plausible(kwh, part.capacity_kva, hours, policy.plausible_factor)
    if metering.shares:
        parts = split_by_shares(kwh, metering.shares, part.residual, policy.energy_scale)
        qualities.append(metering.shares_quality)
    elif metering.rates:
        by_rate = {rate: _chain(part, segments, policy) for rate, segments in metering.rates.items()}
        exact = {rate: energy.exact for rate, energy in by_rate.items()}
        parts = split_by_registers(kwh, exact, part.residual, policy.energy_scale)
        qualities += [energy.quality for energy in by_rate.values()]
        sources += [source for energy in by_rate.values() for source in energy.sources]
        _note_unbalance(part, policy, evidence)
    else:
        parts = {part.residual: kwh}
    if metering.estimated_before:
        parts = {
            rate: EXACT.subtract(parts.get(rate, ZERO), metering.estimated_before.get(rate, ZERO))
            for rate in parts.keys() | metering.estimated_before.keys()
        }
    _require_not_negative(part.code, parts)
    reactive = [_chain(part, segments, policy) for segments in metering.reactive]
    qualities += [energy.quality for energy in reactive]
    sources += [source for energy in reactive for source in energy.sources]
    return PartEnergy(
        code=part.code,
        parts={rate: parts[rate] for rate in Rate if rate in parts},
        metered=total(parts.values()),
        active_loss=ZERO,
        reactive=total(energy.kwh.copy_abs() for energy in reactive),
        quality=worst(qualities),
        sources=tuple(sources),
    )


def _require_not_negative(code: str, parts: Mapping[Rate, Decimal]) -> None:
    for rate, kwh in parts.items():
        if kwh < 0:
            raise BillHold(HoldReason.NEGATIVE_ENERGY, f"part {code}: {kwh} kWh at {rate}")


def _note_unbalance(part: Part, policy: EnergyPolicy, evidence: list[Evidence]) -> None:
    """示值不平 at the closing readings, where every rate has its register (the residual as well)."""
    metering = part.metering
    if not metering.total or part.residual not in metering.rates:
        return
    closing = [segments[-1].last.value for segments in metering.rates.values()]
    found = unbalance(metering.total[-1].last.value, closing, policy.unbalance_tolerance)
    if found.flag:
        detail = f"part {part.code}: total and rates differ by {found.diff} kWh"
        evidence.append(Evidence(code="REGISTER_UNBALANCE", detail=detail))


def _derived_edge(metering: Metering) -> bool:
    """Whether the edge of a meter replacement was derived for want of its 止码: such a bill needs approval (A.2)."""
    chains = (metering.total, *metering.rates.values(), *metering.reactive)
    return any(
        reading.quality >= Quality.DERIVED
        for chain in chains
        for before, after in pairwise(chain)
        for reading in (before.last, after.first)
    )


def _billed(part: Part, measured: Mapping[str, PartEnergy]) -> PartEnergy:
    """Losses joined to the rates (A.10), nested meters taken out (A.7)."""
    own = measured[part.code]
    parts = own.parts
    reactive = own.reactive
    active_loss = ZERO
    if part.losses is not None:
        lost = losses(part.losses, own.metered, own.reactive)
        parts = join_losses(parts, lost.active, part.residual)
        reactive = EXACT.add(reactive, lost.reactive)
        active_loss = lost.active
    for code in part.nested:
        inner = measured[code]
        same_rates = inner.parts.keys() <= parts.keys()
        taken = inner.parts if same_rates else split_by_shares(inner.metered, parts, part.residual)
        parts = {rate: EXACT.subtract(kwh, taken.get(rate, ZERO)) for rate, kwh in parts.items()}
    _require_not_negative(part.code, parts)
    return PartEnergy(
        code=own.code,
        parts={rate: parts[rate] for rate in Rate if rate in parts},
        metered=own.metered,
        active_loss=active_loss,
        reactive=reactive,
        quality=own.quality,
        sources=own.sources,
    )


def _base_fee(inputs: BillInputs, terms: BaseFeeTerms, kwh: Decimal, zone: timezone) -> list[Line]:
    start = datetime.combine(inputs.first, datetime.min.time(), zone)
    end = datetime.combine(inputs.until, datetime.min.time(), zone)
    supply_lines = tuple(
        SupplyLine(
            code=point.code,
            demand=max_demand(point.readings, start, end),
            requested=point.requested,
            capacity_kva=point.capacity_kva,
            sources=tuple(demand.reading.id for demand in point.readings),
        )
        for point in terms.points
    )
    fee = BaseFee(
        mode=terms.mode,
        price=terms.price,
        capacity_kva=terms.capacity_kva,
        units=terms.units,
        lines=supply_lines,
    )
    return base_fee_lines(fee, inputs.first, inputs.until, kwh, terms.policy)


def _assess(terms: PowerFactorTerms, members: Sequence[Part], energies: Mapping[str, PartEnergy]) -> Assessment:
    """P of all members (nested ones are among them), Q of theirs.

    Raises BillHold for P = 0 with Q > 0 (A29), and where no member has a reactive register and no cosφ is assumed.
    """
    active = total(energies[part.code].kwh for part in members)
    if active and not any(part.metering.reactive for part in members):
        if terms.assumed is None:
            raise BillHold(HoldReason.MISSING_READING, f"group {terms.group}: no reactive register")
        rate = terms.table.rate(terms.assumed)
        return Assessment(active=active, reactive=ZERO, power_factor=terms.assumed, rate=rate)
    reactive = [energies[part.code].reactive for part in members]
    assessed = assess(active, reactive, terms.table, terms.method)
    if assessed.review:
        raise BillHold(HoldReason.POWER_FACTOR_REVIEW, f"group {terms.group}: P 0, Q {assessed.reactive} kvarh")
    return assessed
