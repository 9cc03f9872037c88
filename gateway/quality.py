"""Collection quality 采集质量: how much of what the plans owe has come.

Of a polling plan: points that were read in the first round of their cycle (一次采集成功率) and within the cycle
(周期采集成功率), by the beginning of the cycle. Of a collection plan: slots that came by their deadline, by themselves,
and slots that have come at all, fetched ones included; a slot that came with nothing but NULL has not come. Nobody owes
what was before the gateway knew him.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from gateway.gapfill import GapFill
from gateway.polling import DAY_MS, HOUR_MS, Poller, fixed_offset_ms
from gateway.slots import Account, FillPlan

__all__ = ["Ratio", "Survey"]

Period = Literal["hour", "day", "month"]

_MS: Final = 1000
_SURVEYED: Final = 200
"""Accounts that are counted at once."""
_DAYS_TOLD: Final = 7
_MONTHS_TOLD: Final = 3


class Ratio(NamedTuple):
    """How much of what a plan owes has come in a period [start, end), ms: points of a poll, slots of a collection plan.

    kind: `poll` or `fill`; period: `hour`, `day`, `month`; first: in the first round, or by the deadline; cycle: within
    the cycle, or at all.
    """

    plan: str
    kind: Literal["poll", "fill"]
    period: Period
    start: int
    end: int
    owed: int
    first: int
    cycle: int


class _Span(NamedTuple):
    """A period [start, end) of a collection plan, ms, and its slots first to last."""

    period: Period
    start: int
    end: int
    first: int
    last: int


class Survey:
    """Counts all accounts as they stand around the instant `wall` (ms), some at each `go_on`."""

    def __init__(self, gapfill: GapFill, poller: Poller, accounts: Iterable[Account], wall: int) -> None:
        self.wall = wall
        self.ratios: list[Ratio] = []
        self._gapfill = gapfill
        self._poller = poller
        self._counting = self._count(accounts)

    def go_on(self) -> bool:
        """Count some more; True when `ratios` is complete."""
        return next(self._counting, True)

    def _count(self, accounts: Iterable[Account]) -> Iterator[bool]:
        gapfill, wall = self._gapfill, self.wall
        spans = {plan.name: list(self._spans(plan)) for plan in gapfill.plans}
        totals = {name: [[0, 0, 0] for _ in found] for name, found in spans.items()}
        for number, account in enumerate(accounts, 1):
            gapfill.trim(account, wall)
            name, ripe = account.plan.name, account.ripe(wall) + 1
            for track in account.tracks.values():
                for span, total in zip(spans[name], totals[name], strict=True):
                    for n, count in enumerate(track.count(span.first, min(span.last + 1, ripe))):
                        total[n] += count
            if number % _SURVEYED == 0:
                yield False
        for name, found in spans.items():
            for span, (owed, first, cycle) in zip(found, totals[name], strict=True):
                self.ratios.append(Ratio(name, "fill", span.period, span.start, span.end, owed, first, cycle))
        self.ratios.extend(self._polled())

    def _spans(self, plan: FillPlan) -> Iterator[_Span]:
        """The periods of a plan: the last hour whose slots are all due; days and months not given up, the present one
        as far as it is due.
        """
        grid = self._gapfill.grid(plan)
        due = self.wall - round(plan.deadline_s * _MS)
        oldest = grid.index(self.wall) - plan.depth + 1
        if plan.series == "month":
            for slot in range(grid.index(due), max(oldest, grid.index(due) - _MONTHS_TOLD + 1) - 1, -1):
                yield _Span("month", grid.start(slot), grid.start(slot + 1), slot, slot)
            return
        if plan.series != "day":
            end = _floor(due, HOUR_MS, grid.ahead_ms)
            yield _Span("hour", end - HOUR_MS, end, grid.index(end - HOUR_MS), grid.index(end - 1))
        today = _floor(due, DAY_MS, grid.ahead_ms)
        for start in range(today, today - _DAYS_TOLD * DAY_MS, -DAY_MS):
            if grid.index(start) >= oldest:
                yield _Span("day", start, start + DAY_MS, grid.index(start), grid.index(start + DAY_MS - 1))

    def _polled(self) -> Iterator[Ratio]:
        """The last hour whose cycles are over, today as far as it has come, and yesterday."""
        for plan in self._poller.plans:
            ahead = fixed_offset_ms(plan.zone)
            over = self.wall - min(round(plan.every_s * _MS), HOUR_MS)
            hour = _floor(over, HOUR_MS, ahead) - HOUR_MS
            today = _floor(self.wall, DAY_MS, ahead)
            spans: tuple[tuple[Period, int, int], ...] = (
                ("hour", hour, HOUR_MS),
                ("day", today, DAY_MS),
                ("day", today - DAY_MS, DAY_MS),
            )
            for period, start, length in spans:
                owed, first, cycle = self._poller.tally.of(plan.name, period, start)
                if owed:
                    yield Ratio(plan.name, "poll", period, start, start + length, owed, first, cycle)


def _floor(wall: int, length: int, ahead: int) -> int:
    return (wall + ahead) // length * length - ahead
