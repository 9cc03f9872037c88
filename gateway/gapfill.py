"""Gap-fill 补采: slots that have not come by their deadline are fetched from the terminal's records.

Theory of operation. An account is looked at when a slot's deadline passes. If slots are missing then, a round begins:
groups of meters one after another, each from its oldest missing slot on, a bounded batch at a time. A round that
brought something is followed by another after `pause_s`; after one that brought nothing the pause doubles. Slots older
than the depth are given up. One batch of a terminal is under way at a time, none near full hours and midnight, when
terminals freeze; a terminal that is away sleeps until it comes back.

Nothing here does I/O: `due` gives what is to be fetched now, `ended` takes what came of it; the slots themselves are
marked as their Readings pass (`Account.mark`), whatever their cause.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.collection_store import SlotRow
from gateway.polling import DAY_MS, HOUR_MS, place_of
from gateway.slots import Account, FillPlan, Grid, Track
from protocols.events import Moment

__all__ = ["Batch", "FillCounters", "FillLimits", "GapFill"]

_MS: Final = 1000
_LAST_FREEZES: Final = 31
"""Latest records of a freeze that one request asks for (selector 9 for each)."""
_LAST_COLLECTED: Final = 255
"""Latest rows of collected data that one request can ask for (selector 10)."""
_SOON_S: Final = 1.0
"""From one batch of a terminal to its next."""
_NEAR_S: Final = 60.0
"""A batch is not begun when quiet minutes are so near: the answer takes its time."""


@dataclass(frozen=True, slots=True)
class FillLimits:
    """Bounds: accounts, meters of one terminal, batches under way, accounts looked at in one tick. quiet_s,
    quiet_midnight_s: nothing is fetched so close to a full hour, to midnight. arrival_s: a terminal that comes back is
    given so long to report by itself.
    """

    accounts: int = 50_000
    meters: int = 64
    under_way: int = 50
    looks: int = 100
    quiet_s: float = 180.0
    quiet_midnight_s: float = 900.0
    arrival_s: float = 60.0


@dataclass(slots=True)
class FillCounters:
    """Totals since start, except `accounts`, `tracks` and `under_way` (now)."""

    accounts: int = 0
    tracks: int = 0
    under_way: int = 0
    asked: int = 0
    failed: int = 0
    """Batches without an answer that could be used: none came, or the terminal refused."""
    fruitless: int = 0
    """Batches that brought no slot."""
    filled: int = 0
    """Slots that were fetched."""
    blank: int = 0
    """Slots that were fetched and hold nothing but NULL."""
    given_up: int = 0
    """Slots that became older than the depth and never came."""
    refused: int = 0
    """Accounts and meters that were not taken on: a bound is hit."""


class Batch:
    """One request: slots [first, end) of some tracks of an account. `until`: not to be sent from then on (wall ms)."""

    __slots__ = ("account", "end", "first", "place", "tracks", "until")

    def __init__(
        self, account: Account, tracks: Sequence[Track], first: int, end: int, place: tuple[int, int], until: int | None
    ) -> None:
        self.account = account
        self.tracks = tuple(tracks)
        self.first = first
        self.end = end
        self.place = place
        self.until = until

    @property
    def name(self) -> str:
        """Identifies the request."""
        return f"fill.{self.account.plan.name}.{self.first}.{self.end}.{self.tracks[0].meter or ''}"

    def takes(self, meter: str | None, slot: int | None) -> Track | None:
        """The track of a row, if this batch asked for it and its slot has not come meanwhile."""
        if slot is None or not self.first <= slot < self.end:
            return None
        track = self.account.tracks.get(meter)
        if track is None or track not in self.tracks:
            return None
        return track if track.wanted(slot, slot + 1) & ~track.had else None

    def arguments(self, wall: int) -> dict[str, Any]:
        """The request as the arguments of `read_record`."""
        account = self.account
        plan, grid = account.plan, account.grid
        collected = plan.source == "tasks"
        args: dict[str, Any] = {}
        if collected:
            times: list[Any] = ["target_address", "collection_start_time", "collection_store_time"]
            args["object"] = "tasks.records"
            args["columns"] = [*times, {"object": plan.freeze, "columns": ["freeze_time", *plan.columns]}]
            args["meters"] = [track.meter or account.terminal for track in self.tracks]
        else:
            args["object"] = plan.freeze
            args["columns"] = ["freeze_time", *plan.columns]
            if self.tracks[0].meter is not None:
                args["meter"] = self.tracks[0].meter
                args["timeout_s"] = plan.meter_timeout_s
        back = grid.index(wall) - self.first + 1
        match plan.select:
            case "last" if back <= _most_back(plan):
                args["nth" if "meter" in args else "last"] = back
                return args
            case "at":
                args["at"] = grid.start(self.first)
            case _:
                args["from"], args["to"] = grid.start(self.first), grid.start(self.end)
                args["every"] = plan.every
        if collected:
            args["by"] = plan.by
            if plan.by == "store" and "to" in args:
                args["to"] += plan.store_delay_s * _MS
                args["every"] = "1 min"
        return args


def _most_back(plan: FillPlan) -> int:
    return _LAST_COLLECTED if plan.source == "tasks" else _LAST_FREEZES


class GapFill:
    """All accounts of the node."""

    def __init__(self, plans: Sequence[FillPlan], limits: FillLimits) -> None:
        self.counters = FillCounters()
        self.plans = tuple(plans)
        self.limits = limits
        self._grids = {plan.name: Grid(plan) for plan in plans}
        self._looks: list[tuple[float, int, Account]] = []
        self._busy: dict[str, Batch] = {}
        self._count = itertools.count()

    # --- accounts -----------------------------------------------------------------------------------------------

    def grid(self, plan: FillPlan) -> Grid:
        """The slots of a plan."""
        return self._grids[plan.name]

    def open(self, plan: FillPlan, terminal: str, meters: Sequence[str], wall: int) -> Account | None:
        """An account; `meters`: those the terminal has told of. None: there is no room."""
        if self.counters.accounts >= self.limits.accounts:
            self.counters.refused += 1
            return None
        self.counters.accounts += 1
        account = Account(plan, self._grids[plan.name], terminal)
        if plan.meters == "own":
            self.track(account, None, wall)
        else:
            for meter in meters if plan.meters == "known" else plan.meters:
                self.track(account, meter, wall)
        return account

    def track(self, account: Account, meter: str | None, wall: int) -> Track | None:
        """A meter owes the slots from an instant (ms) on. None: it is one too many for the terminal."""
        track = account.tracks.get(meter)
        if track is not None:
            return track
        if len(account.tracks) >= self.limits.meters:
            self.counters.refused += 1
            return None
        since = account.grid.index(wall - 1) + 1
        track = account.tracks[meter] = Track(account, meter, since, account.oldest(wall))
        self.counters.tracks += 1
        return track

    def restore(self, account: Account, row: SlotRow) -> Track | None:
        """A track as it was kept; one of another grid owes anew."""
        track = account.tracks.get(row.meter)
        if track is None or row.grid != account.grid.name:
            return None
        track.since, track.base = row.since, row.base
        track.had, track.empty, track.late = row.had, row.empty, row.late
        return track

    # --- whose turn it is ---------------------------------------------------------------------------------------

    def arrived(self, account: Account, moment: Moment) -> None:
        """The terminal is on a link: it may first report by itself."""
        if account.look is None:
            spread = place_of(account.terminal, account.plan.name, round(account.plan.spread_s * _MS)) / _MS
            self._look_at(account, moment.mono + self.limits.arrival_s + spread)

    def _look_at(self, account: Account, at: float) -> None:
        account.look = at
        heapq.heappush(self._looks, (at, next(self._count), account))

    def due(self, moment: Moment, there: Callable[[str], bool]) -> list[Batch]:
        """What is to be fetched now; `there(terminal)`: whether it is on a link."""
        batches: list[Batch] = []
        for _ in range(self.limits.looks):
            if not self._looks or self._looks[0][0] > moment.mono:
                break
            if self.counters.under_way >= self.limits.under_way:
                break
            at, _, account = heapq.heappop(self._looks)
            if account.look != at:
                continue
            account.look = None
            if not there(account.terminal):
                account.place = None
                continue
            batch = self._look(account, moment)
            if batch is not None:
                batches.append(batch)
        return batches

    def _look(self, account: Account, moment: Moment) -> Batch | None:
        plan, wall = account.plan, moment.wall
        self.trim(account, wall)
        if account.terminal in self._busy:
            self._look_at(account, moment.mono + _SOON_S)
            return None
        if not any(True for _ in self._missing(account, wall)):
            account.place, account.failures, account.gained = None, 0, False
            following = account.ripe(wall) + 1
            due_at = account.grid.start(following) + round(plan.deadline_s * _MS)
            spread_ms = place_of(account.terminal, plan.name, round(plan.spread_s * _MS))
            self._look_at(account, moment.mono + max(_SOON_S, (due_at - wall + spread_ms) / _MS))
            return None
        wait, free = self._quiet(account.grid.ahead_ms, wall)
        if wait:
            spread = place_of(account.terminal, plan.name, round(plan.spread_s * _MS)) / _MS
            self._look_at(account, moment.mono + wait + spread)
            return None
        return self._next_batch(account, moment, None if free is None else wall + round(free * _MS))

    def _quiet(self, ahead_ms: int, wall: int) -> tuple[float, float | None]:
        """(s until fetching may go on, 0: now; s until it must stop, None: never), by full hours and midnight."""
        limits = self.limits
        wait = 0.0
        frees: list[float] = []
        for length, quiet in ((HOUR_MS, limits.quiet_s), (DAY_MS, limits.quiet_midnight_s)):
            if quiet <= 0:
                continue
            past = (wall + ahead_ms) % length / _MS
            left = length / _MS - past - quiet
            if past < quiet:
                wait = max(wait, quiet - past)
            elif left < _NEAR_S:
                wait = max(wait, left + 2 * quiet)
            frees.append(left)
        return wait, min(frees, default=None)

    def _missing(self, account: Account, wall: int) -> Iterator[tuple[Track, int]]:
        """Tracks that lack slots, and the bits of these."""
        oldest, end = account.oldest(wall), account.ripe(wall) + 1
        for track in account.tracks.values():
            bits = track.wanted(oldest, end) & ~track.had
            if bits:
                yield track, bits

    def _next_batch(self, account: Account, moment: Moment, until: int | None) -> Batch | None:
        """The next batch of the present round, which begins here if there is none; at its end the pause."""
        plan = account.plan
        if account.place is None:
            account.place, account.gained = (0, 0), False
        missing = dict(self._missing(account, moment.wall))
        size = plan.batch_meters if plan.source == "tasks" else 1
        tracks = list(account.tracks.values())
        group, from_slot = account.place
        while group * size < len(tracks):
            lacking = []
            for track in tracks[group * size : (group + 1) * size]:
                skipped = max(from_slot - track.base, 0)
                bits = missing.get(track, 0) >> skipped << skipped
                if bits:
                    lacking.append((track, bits))
            if lacking:
                return self._batch(account, group, lacking, moment, until)
            group, from_slot = group + 1, 0
        account.place = None
        account.failures = 0 if account.gained else account.failures + 1
        self._pause(account, moment)
        return None

    def _batch(
        self, account: Account, group: int, lacking: list[tuple[Track, int]], moment: Moment, until: int | None
    ) -> Batch:
        plan, wall = account.plan, moment.wall
        first = min(_lowest(bits) + track.base for track, bits in lacking)
        single = plan.select == "at"
        if plan.select == "last" and account.grid.index(wall) - first + 1 <= _most_back(plan):
            single = plan.source == "freeze" and lacking[0][0].meter is not None
            end = first + 1 if single else account.ripe(wall) + 1
        else:
            end = first + (1 if single else plan.batch_slots)
        chosen = [(track, track.wanted(first, end) & bits) for track, bits in lacking]
        end = max(track.base + bits.bit_length() for track, bits in chosen if bits)
        batch = Batch(account, [track for track, bits in chosen if bits], first, end, (group, end), until)
        self._busy[account.terminal] = batch
        self.counters.under_way += 1
        self.counters.asked += 1
        return batch

    def _pause(self, account: Account, moment: Moment) -> None:
        plan = account.plan
        pause = min(plan.pause_s * float(1 << min(account.failures, 20)), plan.max_pause_s)
        self._look_at(account, moment.mono + pause)

    # --- what came of it ----------------------------------------------------------------------------------------

    def ended(self, batch: Batch, moment: Moment, *, answered: bool, filled: int, blank: int, lost: bool) -> None:
        """A batch has come to its end, its slots are marked. `lost`: with the connection."""
        account = batch.account
        if self._busy.get(account.terminal) is not batch:
            return
        del self._busy[account.terminal]
        self.counters.under_way -= 1
        self.counters.filled += filled
        self.counters.blank += blank
        account.gained = account.gained or filled > 0
        if not answered:
            self.counters.failed += 1
            account.place = None
            if lost:
                self.arrived(account, moment)
                return
            account.failures = 0 if account.gained else account.failures + 1
            self._pause(account, moment)
            return
        if not filled and not blank:
            self.counters.fruitless += 1
        account.place = batch.place
        self._look_at(account, moment.mono + _SOON_S)

    def trim(self, account: Account, wall: int) -> None:
        """Let go of slots that are older than the depth; those that never came are given up."""
        oldest = account.oldest(wall)
        for track in account.tracks.values():
            self.counters.given_up += track.move(oldest)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
