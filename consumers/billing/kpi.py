"""KPIs 指标 of the metering and billing day. Rule E. A rate with denominator 0 is None (null), not 100 %.

Denominators exclude points that are 暂停 or 拆表 by archive date, never by absence of data: `due_points`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal

from consumers.billing.decimals import HUNDRED, ZERO, product, quotient, rounded
from consumers.billing.validity import Value


def percent(part: Decimal | int, whole: Decimal | int, places: int = 2) -> Decimal | None:
    """`part / whole` in percent, rounded for display (E01 to E05); None of nothing."""
    if not whole:
        return None
    return rounded(quotient(product(Decimal(part), HUNDRED), Decimal(whole)), places)


class PointLife(Value, frozen=True, kw_only=True):
    """When a metering point 测量点 counts: from `installed`, before `removed`, outside the pauses [first, until)."""

    point: str
    installed: date
    removed: date | None = None
    pauses: tuple[tuple[date, date], ...] = ()

    def due_on(self, day: date) -> bool:
        """Whether a reading is due on that day."""
        if day < self.installed or (self.removed is not None and day >= self.removed):
            return False
        return not any(first <= day < until for first, until in self.pauses)


def due_points(points: Iterable[PointLife], day: date) -> frozenset[str]:
    """The points whose reading is due: the denominator of the collection rates."""
    return frozenset(life.point for life in points if life.due_on(day))


def percentile(values: Sequence[Decimal], share: Decimal) -> Decimal | None:
    """The nearest-rank percentile, `share` in 0..1: the smallest value that so much of them do not exceed."""
    if not values:
        return None
    rank = int((product(Decimal(len(values)), share)).to_integral_value("ROUND_CEILING"))
    return sorted(values)[max(rank, 1) - 1]


class DayCounts(Value, frozen=True, kw_only=True):
    """What was counted in a day (money: in the period to date)."""

    freezes_due: int = 0
    freezes_by_deadline: int = 0
    curve_points_due: int = 0
    curve_points_valid: int = 0
    messages: int = 0
    messages_in_time: int = 0
    bills_due: int = 0
    bills_from_true_reading: int = 0
    bills_estimated: int = 0
    bills: int = 0
    bills_corrected: int = 0
    controls_issued: int = 0
    controls_executed: int = 0
    controls_correct: int = 0
    controls_verified: int = 0
    supply_issued: int = 0
    supply_verified: int = 0
    """停复电 orders issued and verified."""
    reconnect_minutes: tuple[Decimal, ...] = ()
    receivable: Decimal = ZERO
    paid: Decimal = ZERO


class DayKpis(Value, frozen=True, kw_only=True):
    """The KPIs of rule E that billing can tell; percent with 2 places, None where nothing was due."""

    collection_success: Decimal | None
    """采集成功率."""
    collection_completeness: Decimal | None
    """采集完整率."""
    timeliness: Decimal | None
    """及时率."""
    reading_rate: Decimal | None
    """抄表率: billed from a true reading."""
    estimate_rate: Decimal | None
    """估抄率."""
    control_correctness: Decimal | None
    """遥控正确率: correct of executed."""
    control_success: Decimal | None
    """控制成功率: effect verified of issued."""
    supply_success: Decimal | None
    """停复电成功率."""
    reconnect_p95_minutes: Decimal | None
    """复电时长 P95."""
    recovery_rate: Decimal | None
    """电费回收率."""
    error_rate: Decimal | None
    """电费差错率: corrected of all bills."""


def day_kpis(counts: DayCounts) -> DayKpis:
    """The KPIs of one day."""
    return DayKpis(
        collection_success=percent(counts.freezes_by_deadline, counts.freezes_due),
        collection_completeness=percent(counts.curve_points_valid, counts.curve_points_due),
        timeliness=percent(counts.messages_in_time, counts.messages),
        reading_rate=percent(counts.bills_from_true_reading, counts.bills_due),
        estimate_rate=percent(counts.bills_estimated, counts.bills),
        control_correctness=percent(counts.controls_correct, counts.controls_executed),
        control_success=percent(counts.controls_verified, counts.controls_issued),
        supply_success=percent(counts.supply_verified, counts.supply_issued),
        reconnect_p95_minutes=percentile(counts.reconnect_minutes, Decimal("0.95")),
        recovery_rate=percent(counts.paid, counts.receivable),
        error_rate=percent(counts.bills_corrected, counts.bills),
    )
