"""Energy 电量 of a period from frozen readings: segments, the missing-freeze ladder, estimates, time-of-use split.

Rules A.1 to A.4. The one rounding is point 2 of A.0: the energy of a register after its multiplier, on the sum of its
segments. Readings are secondary; energy is primary kWh or kvarh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from consumers.billing.decimals import EXACT, apportion, product, quotient, rounded, total
from consumers.billing.registers import AdvanceKind, Quality, Reading, advance, worst
from consumers.billing.validity import ArchiveError, BillHold, Dated, HoldReason, Value

INTERPOLATED_PLACES = 4
"""A DERIVED register value has the finest wire scale, -4 (A.0; A06 prints 1203.0000)."""


class EnergyPolicy(Dated, frozen=True, kw_only=True):
    """Limits of A.1 to A.4."""

    energy_scale: int
    """Places of an energy after the multiplier."""
    plausible_factor: Decimal
    """Energy beyond this times capacity times hours is held."""
    retry_days: int
    """补抄: a missing freeze of day D is asked for until D + this many days, 24:00."""
    interpolation_hours: int
    """Two readings around an instant may be this far apart."""
    manual_hours: int
    """A manual reading may be this far from the instant."""
    estimates_in_a_row: int
    unbalance_tolerance: Decimal
    """示值不平, secondary kWh."""
    clock_limit_minutes: int
    """A clock off by more makes a freeze DERIVED and flags time-of-use bills."""
    curve_completeness: Decimal
    """The share of curve points that a split by calendar needs, 0.95."""


class Segment(Value, frozen=True, kw_only=True):
    """One meter with one multiplier between two readings of one register: freezes, 拆表止码 or 装表起码 (A.2)."""

    meter: str
    multiplier: Decimal
    first: Reading
    last: Reading
    start: datetime
    end: datetime
    integer_digits: int = 6

    def __post_init__(self) -> None:
        if self.multiplier <= 0:
            raise ArchiveError(f"meter {self.meter}: multiplier {self.multiplier}")
        if not self.start < self.end:
            raise ArchiveError(f"meter {self.meter}: a segment from {self.start} to {self.end}")


class Energy(Value, frozen=True, kw_only=True):
    """The energy of one register in a period. `exact` before and `kwh` after rounding; `sources`: reading ids."""

    kwh: Decimal
    exact: Decimal
    quality: Quality = Quality.NORMAL
    sources: tuple[str, ...] = ()
    rollovers: int = 0


def chain_energy(segments: Sequence[Segment], scale: int = 0, *, whole: bool = False) -> Energy:
    """Sum the segments of one register at full precision and round once (A.2, A05).

    `whole`: truncate readings to whole kWh (residential mode). Raises BillHold for a register that fell or a reading
    that is not at its segment's edge, ArchiveError for segments that overlap.
    """
    exact = Decimal(0)
    rollovers = 0
    sources: list[str] = []
    for position, segment in enumerate(segments):
        if position and segments[position - 1].end > segment.start:
            raise ArchiveError(f"segments of {segments[position - 1].meter} and {segment.meter} overlap")
        for reading, edge in ((segment.first, segment.start), (segment.last, segment.end)):
            if reading.at != edge:
                raise BillHold(HoldReason.STRADDLE, f"reading {reading.id} of {reading.at} at the edge {edge}")
            sources.append(reading.id)
        moved = advance(segment.first.value, segment.last.value, segment.integer_digits, whole=whole)
        if moved.delta is None:
            detail = f"meter {segment.meter}: {segment.first.value} then {segment.last.value}"
            raise BillHold(HoldReason.BACKWARD, detail)
        rollovers += moved.kind is AdvanceKind.ROLLOVER
        exact = EXACT.add(exact, product(moved.delta, segment.multiplier))
    return Energy(
        kwh=rounded(exact, scale),
        exact=exact,
        quality=worst(reading.quality for segment in segments for reading in (segment.first, segment.last)),
        sources=tuple(sources),
        rollovers=rollovers,
    )


def check_plausible(kwh: Decimal, capacity_kva: Decimal, hours: Decimal, factor: Decimal) -> None:
    """Raise BillHold(IMPLAUSIBLE) when `kwh > factor x capacity x hours` (A.1). Rollovers are judged like the rest."""
    limit = product(factor, capacity_kva, hours)
    if kwh > limit:
        raise BillHold(HoldReason.IMPLAUSIBLE, f"{kwh} kWh, {limit} at most from {capacity_kva} kVA in {hours} h")


def interpolate(before: Reading, after: Reading, instant: datetime) -> Reading:
    """The register at `instant`, linear between two readings of one meter (A.3, A06). Quality DERIVED or worse.

    Rounded to the register's finest wire scale. Raises BillHold(BACKWARD) when the register fell between them; a
    rollover between them is not interpolated over.
    """
    if not before.at <= instant <= after.at or before.at == after.at:
        raise ValueError(f"{instant} is not between {before.at} and {after.at}")
    if after.value < before.value:
        raise BillHold(HoldReason.BACKWARD, f"{before.id} {before.value} then {after.id} {after.value}")
    span = Decimal((after.at - before.at) // timedelta(microseconds=1))
    part = Decimal((instant - before.at) // timedelta(microseconds=1))
    rise = quotient(product(EXACT.subtract(after.value, before.value), part), span)
    return Reading(
        id=f"{before.id}~{after.id}",
        value=rounded(EXACT.add(before.value, rise), INTERPOLATED_PLACES),
        at=instant,
        quality=max(Quality.DERIVED, before.quality, after.quality),
    )


def missing_removal(earlier: Reading, last: Reading, removed: datetime, policy: EnergyPolicy) -> Reading:
    """A missing 拆表止码: from the last freeze before the removal on, at the rate between the last two (A.2).

    Quality DERIVED; a bill with it needs approval. Raises BillHold(MISSING_READING) when the last freeze is further
    from the removal than two readings may be apart.
    """
    if not earlier.at < last.at <= removed:
        raise ValueError(f"not in order: {earlier.at}, {last.at}, removal {removed}")
    if removed - last.at > timedelta(hours=policy.interpolation_hours):
        raise BillHold(HoldReason.MISSING_READING, f"last reading {last.id} of {last.at}, removed {removed}")
    if last.value < earlier.value:
        raise BillHold(HoldReason.BACKWARD, f"{earlier.id} {earlier.value} then {last.id} {last.value}")
    span = Decimal((last.at - earlier.at) // timedelta(microseconds=1))
    part = Decimal((removed - last.at) // timedelta(microseconds=1))
    rise = quotient(product(EXACT.subtract(last.value, earlier.value), part), span)
    return Reading(
        id=f"{earlier.id}>{last.id}",
        value=rounded(EXACT.add(last.value, rise), INTERPOLATED_PLACES),
        at=removed,
        quality=max(Quality.DERIVED, earlier.quality, last.quality),
    )


class Source(StrEnum):
    """Where a candidate for a missing freeze comes from."""

    MONTH_FREEZE = "month_freeze"
    """月冻结."""
    DAY_FREEZE = "day_freeze"
    """日冻结 of the same instant."""
    HOUR_FREEZE = "hour_freeze"
    """整点冻结 of the same instant."""
    CURVE = "curve"
    """Any other true reading of the register."""
    MANUAL = "manual"
    """人工抄表."""


class Candidate(Value, frozen=True, kw_only=True):
    """A reading that may serve, and what it is."""

    source: Source
    reading: Reading


class Closing(Value, frozen=True, kw_only=True):
    """The register value that closes or opens a period, and the rungs that were tried (recorded with the bill)."""

    reading: Reading
    steps: tuple[str, ...]


class Waiting(Value, frozen=True, kw_only=True):
    """No freeze yet and 补抄 goes on: nothing below it may be used before `until`."""

    until: datetime


def retry_until(instant: datetime, policy: EnergyPolicy) -> datetime:
    """D + 3 days, 24:00: when asking for a missing freeze of day D ends (A.3)."""
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=policy.retry_days + 1)


def close_register(
    instant: datetime, candidates: Sequence[Candidate], now: datetime, policy: EnergyPolicy
) -> Closing | Waiting | None:
    """The register at `instant` by the ladder of A.3; the first rung that exists wins.

    Freezes of the instant (month, day, hour; a 补抄 one carries quality SUPPLEMENT), then interpolation between true
    readings, then a manual reading within its window, interpolated to the instant. Waiting while 补抄 goes on; None
    when every rung fails: then `terminal_energy` or `estimate` (provisional). Raises BillHold(FUTURE) for an instant
    or a candidate later than `now`.
    """
    for candidate in candidates:
        if candidate.reading.at > now:
            raise BillHold(HoldReason.FUTURE, f"reading {candidate.reading.id} of {candidate.reading.at}, now {now}")
    steps: list[str] = []
    for source in (Source.MONTH_FREEZE, Source.DAY_FREEZE, Source.HOUR_FREEZE):
        found = [c.reading for c in candidates if c.source is source and c.reading.at == instant]
        steps.append(f"{source}:{'hit' if found else 'none'}")
        if found:
            return Closing(reading=min(found, key=lambda reading: (reading.quality, reading.id)), steps=tuple(steps))
    if now < (until := retry_until(instant, policy)):
        return Waiting(until=until)
    true = [c.reading for c in candidates if c.source is not Source.MANUAL and c.reading.quality <= Quality.DERIVED]
    found_pair = _around(instant, true, timedelta(hours=policy.interpolation_hours))
    steps.append(f"interpolate:{'hit' if found_pair else 'none'}")
    if found_pair:
        return Closing(reading=interpolate(*found_pair, instant), steps=tuple(steps))
    manual = _manual(instant, candidates, timedelta(hours=policy.manual_hours))
    steps.append(f"manual:{'hit' if manual else 'none'}")
    return Closing(reading=manual, steps=tuple(steps)) if manual else None


def _around(instant: datetime, readings: Sequence[Reading], span: timedelta | None) -> tuple[Reading, Reading] | None:
    before = max((r for r in readings if r.at <= instant), key=lambda r: (r.at, r.id), default=None)
    after = min((r for r in readings if r.at > instant), key=lambda r: (r.at, r.id), default=None)
    if before is None or after is None or (span is not None and after.at - before.at > span):
        return None
    return before, after


def _manual(instant: datetime, candidates: Sequence[Candidate], window: timedelta) -> Reading | None:
    """The nearest manual reading within the window, moved to the instant with the nearest reading on its other side."""
    manual = [c.reading for c in candidates if c.source is Source.MANUAL and abs(c.reading.at - instant) <= window]
    others = [c.reading for c in candidates if c.reading.quality <= Quality.MANUAL]
    for reading in sorted(manual, key=lambda r: (abs(r.at - instant), r.id)):
        if reading.at == instant:
            return _as_manual(reading)
        beyond = [r for r in others if (r.at > instant) == (reading.at < instant) and r.at != instant]
        pair = _around(instant, [reading, *beyond], None)
        if pair is not None:
            return _as_manual(interpolate(*pair, instant))
    return None


def _as_manual(reading: Reading) -> Reading:
    return Reading(id=reading.id, value=reading.value, at=reading.at, quality=Quality.MANUAL)


class Substitute(Value, frozen=True, kw_only=True):
    """An energy without register values: 交采 or 估抄. Its bill is provisional and needs approval (A.3)."""

    kwh: Decimal
    quality: Quality
    sources: tuple[str, ...] = ()


def terminal_energy(
    difference: Decimal, history: Sequence[tuple[Decimal, Decimal]], sources: Sequence[str] = ()
) -> Substitute | None:
    """交采: the terminal's own energy times its calibrated ratio, `Σ meter / Σ terminal` of the last months.

    `difference` and `history` [(meter, terminal)] in primary kWh; None when the history calibrates nothing.
    Rounded at point 2 (an energy).
    """
    measured = total(terminal for _, terminal in history)
    if measured <= 0:
        return None
    kwh = quotient(product(difference, total(meter for meter, _ in history)), measured)
    return Substitute(kwh=rounded(kwh, 0), quality=Quality.TERMINAL, sources=tuple(sources))


def estimate(
    history: Sequence[tuple[Decimal, int]], days: int, *, already: int = 0, allowed: int = 2, paused: bool = False
) -> Substitute:
    """估抄: the daily mean of the last complete months [(kWh, days)] times `days` (A.3, A07). Point 2 rounding.

    `paused` 暂停: zero. Raises BillHold(ESTIMATES_EXHAUSTED) when `already` estimates in a row were made and
    BillHold(MISSING_READING) when there is no history.
    """
    if already >= allowed:
        raise BillHold(HoldReason.ESTIMATES_EXHAUSTED, f"{already} estimates in a row: a field order is due")
    if paused:
        return Substitute(kwh=Decimal(0), quality=Quality.ESTIMATED)
    history_days = sum(count for _, count in history)
    if history_days <= 0:
        raise BillHold(HoldReason.MISSING_READING, "no complete month to estimate from")
    mean = quotient(product(total(kwh for kwh, _ in history), Decimal(days)), Decimal(history_days))
    return Substitute(kwh=rounded(mean, 0), quality=Quality.ESTIMATED)


def true_up(actual_two_periods: Decimal, estimated: Decimal) -> Decimal:
    """`E_next = E_actual(two periods) - E_est` (A.3, A08); negative when too much was estimated."""
    return EXACT.subtract(actual_two_periods, estimated)


class Rate(StrEnum):
    """费率时段. The registers of the wire: T1 尖, T2 峰, T3 平, T4 谷, T5 深谷."""

    SHARP = "sharp"
    """尖."""
    PEAK = "peak"
    """峰."""
    FLAT = "flat"
    """平."""
    VALLEY = "valley"
    """谷."""
    DEEP_VALLEY = "deep_valley"
    """深谷."""

    @property
    def register(self) -> str:
        """The element of a reading's column: `t1` to `t5`."""
        return f"t{list(Rate).index(self) + 1}"


def split_by_registers(
    whole: Decimal, rates: Mapping[Rate, Decimal], residual: Rate = Rate.FLAT, scale: int = 0
) -> dict[Rate, Decimal]:
    """Energy by rate: each register but the residual rounded, the residual takes the rest (A.4, A09).

    `whole`: the rounded total energy; `rates`: exact energies by register, with or without the residual's own. Where
    the others already exceed the total (示值不平), the total is shared in their proportion: billable by total.
    """
    others = {rate: rounded(kwh, scale) for rate, kwh in rates.items() if rate is not residual}
    rest = EXACT.subtract(whole, total(others.values()))
    if rest < 0:
        largest = max(others, key=lambda rate: others[rate])
        return {**apportion(whole, others, largest, scale), residual: Decimal(0)}
    return {**others, residual: rest}


def split_by_shares(
    whole: Decimal, shares: Mapping[Rate, Decimal], residual: Rate = Rate.FLAT, scale: int = 0
) -> dict[Rate, Decimal]:
    """Energy by rate from shares (of last month, or of the curve): rounded, the residual takes the rest (A.3, A.4)."""
    return apportion(whole, shares, residual, scale)


class DemandReading(Value, frozen=True, kw_only=True):
    """最大需量 of one segment: `reading` in secondary kW; `reached` when it occurred."""

    reading: Reading
    multiplier: Decimal
    reached: datetime | None = None


def max_demand(readings: Sequence[DemandReading], start: datetime, end: datetime) -> Decimal:
    """The largest `MD x M` of the segments, primary kW, not rounded (A.2, A19).

    Raises BillHold(DEMAND_NOT_RESET) when a demand was reached outside the period: the register was not reset.
    """
    if not readings:
        raise BillHold(HoldReason.MISSING_READING, "no reading of the maximum demand")
    for demand in readings:
        if demand.reached is not None and not start <= demand.reached <= end:
            detail = f"{demand.reading.value} kW of {demand.reached}, period {start} to {end}"
            raise BillHold(HoldReason.DEMAND_NOT_RESET, detail)
    return max(product(demand.reading.value, demand.multiplier) for demand in readings)
