"""Calendars 时段表: seasons, day types, half-hours, holidays; and what they make of a load curve.

Rule A.4. A day has 48 half-hours, written as a text of 48 letters: `T` 尖, `P` 峰, `F` 平, `V` 谷, `D` 深谷.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Final

from consumers.billing.decimals import EXACT, ZERO, quotient
from consumers.billing.energy import Rate, split_by_shares
from consumers.billing.registers import LOCAL
from consumers.billing.validity import ArchiveError, BillHold, Dated, HoldReason, Value

LETTERS: Final[Mapping[str, Rate]] = {
    "T": Rate.SHARP,
    "P": Rate.PEAK,
    "F": Rate.FLAT,
    "V": Rate.VALLEY,
    "D": Rate.DEEP_VALLEY,
}
HALF_HOURS: Final = 48
_LEAP_YEAR: Final = 2024


class DayType(StrEnum):
    """日类型."""

    WORKDAY = "workday"
    """工作日."""
    WEEKEND = "weekend"
    """周末."""
    HOLIDAY = "holiday"
    """节假日."""


class Holidays(Dated, frozen=True, kw_only=True):
    """法定节假日 of a year, and the weekend days that are worked in exchange 调休."""

    holidays: frozenset[date]
    worked: frozenset[date] = frozenset()

    def day_type(self, day: date) -> DayType:
        """Workday, weekend or holiday."""
        if day in self.holidays:
            return DayType.HOLIDAY
        if day.isoweekday() >= 6 and day not in self.worked:
            return DayType.WEEKEND
        return DayType.WORKDAY

    def free_or_eve(self, day: date) -> bool:
        """Weekend or holiday, or the day before one: no disconnection then (A.14). A Friday is such an eve."""
        next_day = day + timedelta(days=1)
        return DayType.WORKDAY is not self.day_type(day) or DayType.WORKDAY is not self.day_type(next_day)


class Season(Value, frozen=True, kw_only=True):
    """季节: a range of days of the year, both inclusive, `MM-DD`; it may pass the year's end.

    `workday`, `weekend`, `holiday`: 48 letters each; the latter two default to the workday's.
    """

    name: str
    first: str
    last: str
    workday: str
    weekend: str | None = None
    holiday: str | None = None

    def __post_init__(self) -> None:
        for table in (self.workday, self.weekend, self.holiday):
            if table is not None and (len(table) != HALF_HOURS or set(table) - set(LETTERS)):
                raise ArchiveError(
                    f"season {self.name}: a day is {HALF_HOURS} letters of {''.join(LETTERS)}: {table!r}"
                )
        for edge in (self.first, self.last):
            try:
                date.fromisoformat(f"{_LEAP_YEAR}-{edge}")
            except ValueError:
                raise ArchiveError(f"season {self.name}: {edge!r} is no MM-DD") from None

    def covers(self, day: date) -> bool:
        """Whether the season includes this day of the year."""
        at = f"{day.month:02d}-{day.day:02d}"
        if self.first <= self.last:
            return self.first <= at <= self.last
        return at >= self.first or at <= self.last

    def table(self, day_type: DayType) -> str:
        """The 48 letters of a day."""
        if day_type is DayType.WEEKEND:
            return self.weekend or self.workday
        if day_type is DayType.HOLIDAY:
            return self.holiday or self.weekend or self.workday
        return self.workday


class TouCalendar(Dated, frozen=True, kw_only=True):
    """分时电价时段表 in force from a day on: its seasons cover every day of the year exactly once, or ArchiveError."""

    seasons: tuple[Season, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        first = date(_LEAP_YEAR, 1, 1)
        for offset in range(366):
            day = first + timedelta(days=offset)
            names = [season.name for season in self.seasons if season.covers(day)]
            if len(names) != 1:
                raise ArchiveError(f"{self.ref}: {day:%m-%d} is in {len(names)} seasons {names}")

    def rate_at(self, instant: datetime, holidays: Holidays, zone: timezone = LOCAL) -> Rate:
        """The rate 费率 at an instant; an interval `[t, t+15 min)` belongs to the rate at `t` (A.4)."""
        local = instant.astimezone(zone)
        day = local.date()
        season = next(season for season in self.seasons if season.covers(day))
        letter = season.table(holidays.day_type(day))[local.hour * 2 + local.minute // 30]
        return LETTERS[letter]

    def rates(self) -> frozenset[Rate]:
        """All rates that occur in it."""
        return frozenset(LETTERS[letter] for season in self.seasons for day in DayType for letter in season.table(day))


class CurveSplit(Value, frozen=True, kw_only=True):
    """Energy by rate from a load curve, summing to the total register. Quality DERIVED."""

    parts: dict[Rate, Decimal]
    completeness: Decimal


def split_by_curve(
    whole: Decimal,
    curve: Iterable[tuple[datetime, Decimal | None]],
    start: datetime,
    end: datetime,
    calendar: TouCalendar,
    holidays: Holidays,
    *,
    last_month: Mapping[Rate, Decimal] | None = None,
    needed: Decimal = Decimal("0.95"),
    step: timedelta = timedelta(minutes=15),
    residual: Rate = Rate.FLAT,
    zone: timezone = LOCAL,
) -> CurveSplit:
    """Share `whole` kWh by the tariff calendar where the meter's own schedule differs from it (A.4).

    `curve`: start-labelled points (time, kWh or None), any order; of two for one time the last counts; points outside
    [start, end) are ignored. Below `needed` of the points (or with a curve of zeros) the shares of last month are used;
    without those BillHold(CURVE_INCOMPLETE). The parts are rounded at point 2, the residual takes the rest.
    """
    points = {at: kwh for at, kwh in curve if start <= at < end and kwh is not None}
    due = (end - start) // step
    completeness = quotient(Decimal(len(points)), Decimal(due)) if due > 0 else ZERO
    weights: dict[Rate, Decimal] = {}
    for at in sorted(points):
        rate = calendar.rate_at(at, holidays, zone)
        weights[rate] = EXACT.add(weights.get(rate, ZERO), points[at])
    if completeness < needed or not any(weights.values()):
        if last_month is None:
            detail = f"{len(points)} of {due} points and no shares of last month"
            raise BillHold(HoldReason.CURVE_INCOMPLETE, detail)
        weights = dict(last_month)
    return CurveSplit(parts=split_by_shares(whole, weights, residual), completeness=completeness)
