"""Collection 采集: the polling plans and the gap-fill at work, and how much of what is owed has come.

Theory of operation. The outlet shows every message to `note` before it is stored: Readings mark the slots that they
fill, and the statements that keep the marks go into the transaction of the rows. `tick` gives what is to be asked;
whoever sends it hands the end of each request to `answered`, which turns it into Readings with cause `poll` or
`backfill` and stores them, through the same outlet. A slot that has come is not asked for, and rows that nobody lacks
are dropped, so what is fetched is published once, a crash between included.

Once an hour the ratios of each plan are counted (`gateway.quality`), some hundreds of accounts a tick, and published.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET

from gateway.air import BACKFILL, POLL
from gateway.collection_store import (
    forget_others,
    forget_tallies,
    keep_meter,
    keep_slots,
    keep_tally,
    read_back,
)
from gateway.gapfill import Batch, FillLimits, GapFill
from gateway.journal import Journal, JournalClosed, JournalFull
from gateway.journal_store import Statement
from gateway.logs import get_logger
from gateway.metrics import Sample, counters_source
from gateway.polling import DAY_MS, HOUR_MS, Count, Poller, PollLimits, PollPlan, PollRequest
from gateway.quality import Ratio, Survey
from gateway.settings_model import pattern_filter
from gateway.slots import Account, FillPlan, Mark, Track, positions_of
from messages import Command, Reading, Up, message_id
from protocols.commands import Invalid, Plan, Quirks
from protocols.events import Failure, Moment, Request
from protocols.registry import Dialogue

log = get_logger(__name__)

_MS: Final = 1000
_EXPIRY_MS: Final = 600_000
_COVERS_KEPT: Final = 1024
_UNKEPT_AT_ONCE: Final = 500
_TALLY_S: Final = 60.0
_TALLIES_KEPT_MS: Final = 30 * DAY_MS
_UNSENT: Final = frozenset({"lost", "busy", "expired", "skipped", "cancelled"})
"""Failures that are not the terminal's: it may not even have been asked."""
_NO_ROOM: Final = (JournalFull, JournalClosed)
_BODY = msgspec.msgpack.Encoder()


class Store(Protocol):
    """Where Readings go: the outlet."""

    def __call__(self, messages: list[Up], committed: Callable[[], None] | None) -> None:
        """Queue messages for the journal. Raises JournalFull."""


@dataclass(frozen=True, slots=True)
class CollectionLimits:
    """Bounds: terminals that are followed, meters known of one terminal, and those of polls and gap-fill."""

    terminals: int = 20_000
    meters: int = 64
    polls: PollLimits = field(default_factory=PollLimits)
    fills: FillLimits = field(default_factory=FillLimits)


@dataclass(slots=True)
class CollectionCounters:
    """Totals since start, except `terminals` (now)."""

    terminals: int = 0
    refused: int = 0
    """Terminals and meters that are not followed: a bound is hit."""
    unstored: int = 0
    """Answers for which the journal had no room; they are asked again."""
    invalid: int = 0
    """Requests that the settings make impossible for a terminal."""
    late: int = 0
    """Answers that came when they were no longer waited for."""


class Ask:
    """A request for a terminal. Its `request.context` is the Ask. `until`: not to be sent from then on (wall ms)."""

    __slots__ = ("plan", "priority", "request", "terminal", "until", "work")

    def __init__(
        self, terminal: str, work: PollRequest | Batch, plan: Plan, request: Request, priority: int, until: int | None
    ) -> None:
        self.terminal = terminal
        self.work = work
        self.plan = plan
        self.request = request
        self.priority = priority
        self.until = until
        request.context = self


class Marks:
    """What a batch of messages has marked: statements for their transaction, and the way back if that cannot be."""

    __slots__ = ("_marks", "statements")

    def __init__(self, marks: Sequence[Mark]) -> None:
        self._marks = marks
        tracks = dict.fromkeys(mark.track for mark in marks)
        self.statements: list[Statement] = [keep_slots(track.row()) for track in tracks]

    def take_back(self) -> None:
        """The messages were not stored."""
        for mark in reversed(self._marks):
            mark.take_back()


_NO_MARKS: Final = Marks(())


class Collector:
    """Collection of one node. Loop thread only.

    `store`: the outlet's; `dialogue_of`, `quirks`: of a terminal; `channel_of`: the channel that a terminal is on now,
    None while it is on none; `publish(ratios, wall)`: the hourly CollectionQuality.
    """

    def __init__(
        self,
        polls: Sequence[PollPlan],
        fills: Sequence[FillPlan],
        limits: CollectionLimits,
        journal: Journal,
        store: Store,
        dialogue_of: Callable[[str], Dialogue],
        quirks: Callable[[str], Quirks],
        channel_of: Callable[[str], str | None],
        publish: Callable[[Sequence[Ratio], int], None],
    ) -> None:
        self.counters = CollectionCounters()
        self.poller = Poller(polls, limits.polls, self._meters_of)
        self.gapfill = GapFill(fills, limits.fills)
        self.ratios: list[Ratio] = []
        """Those published last."""
        self._limits = limits
        self._journal = journal
        self._store = store
        self._dialogue_of = dialogue_of
        self._quirks = quirks
        self._channel_of = channel_of
        self._publish = publish
        self._matches = [pattern_filter(plan.terminals) for plan in fills]
        self._learns = "known" in [plan.meters for plan in polls] + [plan.meters for plan in fills]
        self._accounts: dict[str, tuple[Account, ...]] = {}
        self._known: dict[str, list[str]] = {}
        self._unkept_tracks: dict[Track, None] = {}
        self._unkept_meters: dict[tuple[str, str], None] = {}
        self._covers: dict[int, tuple[Any, dict[str, tuple[int, ...]]]] = {}
        self._tallied = 0.0
        self._hour: int | None = None
        self._survey: Survey | None = None

    @property
    def idle(self) -> bool:
        """Whether the settings ask for nothing."""
        return not (self.poller.plans or self.gapfill.plans)

    async def open(self, moment: Moment) -> None:
        """Take up what was kept, and the terminals that the plans name. Raises JournalFull."""
        if self.idle:
            return
        kept = await read_back(self._journal)
        for terminal, meter in kept.meters:
            self._known.setdefault(terminal, []).append(meter)
        for plan, period, start, *counts in kept.tallies:
            self.poller.tally.put(plan, period, start, Count(*counts))
        patterns = [plan.terminals for plan in self.poller.plans] + [plan.terminals for plan in self.gapfill.plans]
        named = itertools.chain.from_iterable(patterns)
        exact = [name for name in named if not name.endswith("*")]
        for terminal in dict.fromkeys([*(row.terminal for row in kept.slots), *self._known, *exact]):
            self._enter(terminal, moment.wall)
        for row in kept.slots:
            for account in self._accounts.get(row.terminal, ()):
                if account.plan.name == row.plan:
                    track = self.gapfill.restore(account, row)
                    if track is not None:
                        self._unkept_tracks.pop(track, None)
        names = ([plan.name for plan in self.gapfill.plans], [plan.name for plan in self.poller.plans])
        self._journal.append((), None, forget_others(*names))

    # --- terminals and meters -----------------------------------------------------------------------------------

    def _enter(self, terminal: str, wall: int) -> tuple[Account, ...]:
        """Follow a terminal from now on."""
        accounts = self._accounts.get(terminal)
        if accounts is not None:
            return accounts
        if len(self._accounts) >= self._limits.terminals:
            self.counters.refused += 1
            return ()
        known = self._known.get(terminal, ())
        opened = [
            self.gapfill.open(plan, terminal, known, wall)
            for plan, match in zip(self.gapfill.plans, self._matches, strict=True)
            if match(terminal)
        ]
        accounts = self._accounts[terminal] = tuple(account for account in opened if account is not None)
        self.counters.terminals = len(self._accounts)
        for account in accounts:
            self._unkept_tracks.update(dict.fromkeys(account.tracks.values()))
        self.poller.enter(terminal, wall)
        return accounts

    def _meters_of(self, terminal: str) -> Sequence[str]:
        return self._known.get(terminal, ())

    def _learn(self, reading: Reading, accounts: Sequence[Account]) -> None:
        """Meters that a terminal has not told of before."""
        known = self._known.get(reading.terminal)
        for row in reading.rows:
            meter = row[0]
            if not isinstance(meter, str) or (known is not None and meter in known):
                continue
            if known is None:
                known = self._known[reading.terminal] = []
            if len(known) >= self._limits.meters:
                self.counters.refused += 1
                return
            known.append(meter)
            self._unkept_meters[reading.terminal, meter] = None
            for account in accounts:
                if account.plan.meters == "known":
                    track = self.gapfill.track(account, meter, _since(row[1], reading.received_at))
                    if track is not None:
                        self._unkept_tracks[track] = None

    def arrived(self, terminal: str, moment: Moment) -> None:
        """A terminal is on a link."""
        if self.idle:
            return
        for account in self._enter(terminal, moment.wall):
            self.gapfill.arrived(account, moment)
        self.poller.arrived(terminal, moment)

    # --- what passes --------------------------------------------------------------------------------------------

    def note(self, messages: Iterable[Up]) -> Marks:
        """Mark the slots that messages fill, which are about to be stored; `take_back` if they are not."""
        if self.idle:
            return _NO_MARKS
        marks: list[Mark] = []
        for message in messages:
            if isinstance(message, Reading):
                self._note(message, marks)
        return Marks(marks) if marks else _NO_MARKS

    def _note(self, reading: Reading, marks: list[Mark]) -> None:
        accounts = self._accounts.get(reading.terminal)
        if accounts is None:
            accounts = self._enter(reading.terminal, reading.received_at)
        if self._learns:
            self._learn(reading, accounts)
        for account in accounts:
            if account.plan.series != reading.series:
                continue
            places = self._places(account.plan, reading)
            if not places:
                continue
            of_row, tracks = account.grid.of_row, account.tracks
            for row in reading.rows:
                meter, at = row[0], row[1]
                track = tracks.get(meter) if meter is None or isinstance(meter, str) else None
                slot = of_row(at) if track is not None and isinstance(at, int) else None
                if track is None or slot is None:
                    continue
                asked = reading.cause == "backfill"
                mark = account.mark(track, slot, blank=_blank(row, places), asked=asked, wall=reading.received_at)
                if mark is not None:
                    marks.append(mark)

    def _places(self, plan: FillPlan, reading: Reading) -> tuple[int, ...]:
        """Where the plan's columns stand in rows of this Reading; layouts repeat, so the answer is kept."""
        columns = reading.columns
        cover = self._covers.get(id(columns))
        if cover is None or cover[0] is not columns:
            if len(self._covers) >= _COVERS_KEPT:
                self._covers.clear()
            cover = self._covers[id(columns)] = (columns, {})
        places = cover[1].get(plan.name)
        if places is None:
            places = cover[1][plan.name] = positions_of(plan.columns, reading)
        return places

    # --- asking -------------------------------------------------------------------------------------------------

    def tick(self, moment: Moment) -> list[Ask]:
        """Keep what is not kept yet, go on with the survey of the hour, and say what is to be asked now."""
        if self.idle:
            return []
        self._keep(moment)
        self._go_on_counting(moment)
        asks: list[Ask] = []
        for request in self.poller.due(moment, self._channel_of):
            self._add(asks, request.terminal, request, moment)
        for batch in self.gapfill.due(moment, lambda terminal: self._channel_of(terminal) is not None):
            self._add(asks, batch.account.terminal, batch, moment)
        return asks

    def _add(self, asks: list[Ask], terminal: str, work: PollRequest | Batch, moment: Moment) -> None:
        command = Command(
            id=work.name, verb="read", issued_by="gateway", expires_at=moment.wall + _EXPIRY_MS, args=_points_of(work)
        )
        if isinstance(work, Batch):
            command.verb, command.args = "read_record", work.arguments(moment.wall)
        elif work.meter is not None:
            command.verb = "read_meter"
        try:
            plan = self._dialogue_of(terminal).plan(command, "query", self._quirks(terminal), moment.wall)
        except Invalid as error:
            self.counters.invalid += 1
            log.warning("cannot be asked", terminal=terminal, request=work.name, field=error.field, error=error.text)
            self._unanswered(work, moment)
            return
        step = plan.steps[0]
        if isinstance(work, Batch):
            request = Request(step.apdu, timeout=work.account.plan.timeout_s or step.timeout_s, retries=step.retries)
            asks.append(Ask(terminal, work, plan, request, BACKFILL, work.until))
        else:
            # A round is one attempt: what is tried again is counted as such.
            request = Request(step.apdu, timeout=work.plan.timeout_s or step.timeout_s, retries=0)
            asks.append(Ask(terminal, work, plan, request, POLL, work.until))

    def _unanswered(self, work: PollRequest | Batch, moment: Moment, *, lost: bool = False) -> None:
        if isinstance(work, Batch):
            self.gapfill.ended(work, moment, answered=False, filled=0, blank=0, lost=lost)
        else:
            self.poller.answered(work, None, moment)

    def answered(self, ask: Ask, result: Any, moment: Moment) -> None:
        """A request has come to its end: the answering APDU, or a Failure (`lost`: it was not even sent)."""
        work = ask.work
        if isinstance(result, Failure):
            self._unanswered(work, moment, lost=result.name in _UNSENT)
            return
        outcome = self._dialogue_of(ask.terminal).outcome(ask.plan, [result], ask.terminal, work.name, moment)
        refused = outcome.error is not None and outcome.error.code is not None
        if isinstance(work, Batch):
            counts = self._take(work, outcome.readings) if outcome.ok else None
            filled, blank = counts or (0, 0)
            self.gapfill.ended(work, moment, answered=counts is not None, filled=filled, blank=blank, lost=False)
        elif outcome.ok and self._stored(ask, outcome.readings):
            self.poller.answered(work, len(work.plan.points) - _errors(outcome.result), moment)
        else:
            # A refusal is an answer: asking once more in the same cycle brings no other.
            self.poller.answered(work, 0 if refused and not outcome.ok else None, moment)

    def late(self, ask: Ask, result: Any, moment: Moment) -> None:
        """An answer to a request that was given up: of records, what is still missing is taken."""
        self.counters.late += 1
        work = ask.work
        if isinstance(work, Batch) and not isinstance(result, Failure):
            outcome = self._dialogue_of(ask.terminal).outcome(ask.plan, [result], ask.terminal, work.name, moment)
            self._take(work, outcome.readings)

    def _stored(self, ask: Ask, messages: list[Up]) -> bool:
        """Store what a poll has read."""
        for message in messages:
            message.channel = self._channel_of(ask.terminal) or ""
            if isinstance(message, Reading):
                message.cause = "poll"
                message.command_id = UNSET
        return self._put(messages)

    def _put(self, messages: list[Up]) -> bool:
        try:
            if messages:
                self._store(messages, None)
        except _NO_ROOM:
            self.counters.unstored += 1
            return False
        return True

    def _take(self, batch: Batch, messages: Sequence[Up]) -> tuple[int, int] | None:
        """Store the rows that are missing, note those that are empty: (filled, empty), None where there is no room."""
        account = batch.account
        taken: set[tuple[str | None, int]] = set()
        blanks: list[Mark] = []
        readings: list[Up] = []
        for message in messages:
            if not isinstance(message, Reading) or message.series != account.plan.series:
                continue
            places = self._places(account.plan, message)
            rows = []
            for row in message.rows if places else ():
                meter, at = row[0], row[1]
                if not isinstance(at, int) or not (meter is None or isinstance(meter, str)):
                    continue
                slot = account.grid.of_row(at)
                track = batch.takes(meter, slot)
                if track is None or slot is None or (meter, slot) in taken:
                    continue
                taken.add((meter, slot))
                if not _blank(row, places):
                    rows.append(row)
                    continue
                mark = account.mark(track, slot, blank=True, asked=True, wall=message.received_at)
                if mark is not None:
                    blanks.append(mark)
            if rows:
                readings.append(self._backfill(message, rows, account))
        filled = sum(len(reading.rows) for reading in readings if isinstance(reading, Reading))
        if not self._put(readings):
            Marks(blanks).take_back()
            return None
        if blanks:
            self._unkept_tracks.update(dict.fromkeys(mark.track for mark in blanks))
        return filled, len(blanks)

    def _backfill(self, reading: Reading, rows: list[list[Any]], account: Account) -> Reading:
        """A Reading with some rows, known by its content."""
        content = _BODY.encode([reading.series, [column.name for column in reading.columns], rows])
        return msgspec.structs.replace(
            reading,
            id=message_id(account.terminal, b"backfill", content),
            channel=self._channel_of(account.terminal) or "",
            cause="backfill",
            command_id=UNSET,
            rows=rows,
        )

    # --- keeping ------------------------------------------------------------------------------------------------

    def _keep(self, moment: Moment) -> None:
        """What no row carries goes to the journal by itself, some at a time; counts of polls once a minute."""
        tracks = list(itertools.islice(self._unkept_tracks, _UNKEPT_AT_ONCE))
        meters = list(itertools.islice(self._unkept_meters, _UNKEPT_AT_ONCE))
        statements = [keep_meter(*pair) for pair in meters] + [keep_slots(track.row()) for track in tracks]
        tally = self.poller.tally
        counting = moment.mono - self._tallied >= _TALLY_S
        if counting:
            tally.prune(moment.wall)
            statements += [keep_tally(*key, count) for key, count in tally.changes()]
        if statements and self._appended(statements):
            for track in tracks:
                del self._unkept_tracks[track]
            for pair in meters:
                del self._unkept_meters[pair]
            if counting:
                tally.changed.clear()
        if counting:
            self._tallied = moment.mono

    def _appended(self, statements: Sequence[Statement]) -> bool:
        try:
            self._journal.append((), None, statements)
        except _NO_ROOM:
            return False
        return True

    def close(self, moment: Moment) -> None:
        """Keep all that is not kept yet; call it before the journal is closed."""
        self._tallied = -_TALLY_S
        while not self.idle:
            left = len(self._unkept_tracks) + len(self._unkept_meters)
            self._keep(moment)
            if not left or len(self._unkept_tracks) + len(self._unkept_meters) == left:
                return

    # --- how much has come --------------------------------------------------------------------------------------

    def _go_on_counting(self, moment: Moment) -> None:
        """Begin the survey at each full hour (UTC), then go on with it."""
        hour = moment.wall // HOUR_MS
        if self._hour is None:
            self._hour = hour
        elif hour != self._hour and self._survey is None:
            self._hour = hour
            accounts = itertools.chain.from_iterable(list(self._accounts.values()))
            self._survey = Survey(self.gapfill, self.poller, accounts, moment.wall)
        if self._survey is not None and self._survey.go_on():
            self.ratios = self._survey.ratios
            self._publish(self.ratios, self._survey.wall)
            self._survey = None
            self._appended([forget_tallies(moment.wall - _TALLIES_KEPT_MS)])

    # --- what others see ----------------------------------------------------------------------------------------

    def metrics(self) -> Iterator[Sample]:
        """Counters of all parts, and the ratios of the latest hour and day of each plan."""
        yield from counters_source("collection", self.counters, gauges=("terminals",))()
        yield from counters_source("polls", self.poller.counters, gauges=("duties", "under_way"))()
        now = ("accounts", "tracks", "under_way")
        yield from counters_source("gapfill", self.gapfill.counters, gauges=now)()
        told: set[tuple[str, str, str]] = set()
        for ratio in self.ratios:
            key = (ratio.kind, ratio.plan, ratio.period)
            if not ratio.owed or key in told:
                continue
            told.add(key)
            labels: Mapping[str, str] = {"kind": ratio.kind, "plan": ratio.plan, "period": ratio.period}
            text = "share of what was owed in the latest period that came"
            for name, come in (("first", ratio.first), ("cycle", ratio.cycle)):
                yield Sample("collection_ratio", "gauge", text, come / ratio.owed, {**labels, "round": name})


def _since(at: Any, received_at: int) -> int:
    """From when a meter is known: from the row that told of it, if that is no older than a day."""
    return at if isinstance(at, int) and received_at - DAY_MS <= at <= received_at else received_at


def _blank(row: Sequence[Any], places: Sequence[int]) -> bool:
    return all(row[place] is None for place in places)


def _points_of(work: PollRequest | Batch) -> dict[str, Any]:
    if isinstance(work, Batch):
        return {}
    args: dict[str, Any] = {"points": list(work.plan.points)}
    if work.meter is not None:
        args["meter"] = work.meter
        args["timeout_s"] = work.plan.meter_timeout_s
    return args


def _errors(result: Any) -> int:
    errors = result.get("errors") if isinstance(result, dict) else None
    return len(errors) if isinstance(errors, dict) else 0
