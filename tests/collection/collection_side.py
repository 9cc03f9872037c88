"""A collector between a simulated terminal and a journal in memory, in a time that the tests make."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta, timezone
from typing import Any

from gateway.collection import Ask, CollectionLimits, Collector
from gateway.collection_store import MIGRATION
from gateway.gapfill import Batch, FillLimits
from gateway.journal import JournalFull
from gateway.polling import PollPlan
from gateway.quality import Ratio
from gateway.slots import FillPlan
from messages import Reading
from protocols.commands import Quirks
from protocols.dialogue698 import Dlt698Dialogue
from protocols.dlt698_options import Options
from protocols.events import Failure, Moment
from protocols.mapping import Said
from simulators.answers import Services
from simulators.body import Body
from simulators.happenings import Upload
from simulators.records import TASKS, table_of, upload_rcsd
from simulators.settings import TerminalSettings
from wire698 import model
from wire698.pieces import ResultRecord

CHINA = timezone(timedelta(hours=8))
START = 1772409600.0
"""2026-03-02 08:00 local, a Monday."""
TERMINAL = "100000000001"
METERS = ("500000000001", "500000000002")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
CURVE = FillPlan(name="curve", columns=("active_energy_import", "voltage"))


class MemoryJournal:
    """Statements are carried out at once; `full`: nothing is taken."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")
        self.db.executescript(MIGRATION)
        self.full = False

    def append(self, rows: Sequence[Any], committed: Any = None, statements: Sequence[Any] = ()) -> None:
        assert not rows
        if self.full:
            raise JournalFull("disk")
        for sql, values in statements:
            self.db.execute(sql, values)

    async def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, values).fetchall()


class World:
    """One terminal, its line, and the collector. `answer`: what the terminal says to a request."""

    def __init__(
        self,
        fills: Sequence[FillPlan] = (CURVE,),
        polls: Sequence[PollPlan] = (),
        *,
        start: float = START,
        limits: CollectionLimits | None = None,
        **settings: Any,
    ) -> None:
        given: dict[str, Any] = {"address": TERMINAL, "seed": 7, "meters": METERS, "collected_depth": 5000, **settings}
        self.body = Body(TerminalSettings(**given), start)
        self.services = Services(self.body, 1024, 60_000)
        self.answer: Callable[[Any, float], Any] = self.services.answer
        self.dialogue = Dlt698Dialogue(Options(), CHINA, 64)
        self.journal = MemoryJournal()
        self.fills, self.polls, self.limits = fills, polls, limits or CollectionLimits()
        self.now = start
        self.online = False
        self.reporting = True
        self.asked: list[tuple[float, Ask]] = []
        self.published: list[Reading] = []
        self.quality: list[tuple[int, list[Ratio]]] = []
        self.collector = self.make()

    def make(self) -> Collector:
        return Collector(
            self.polls,
            self.fills,
            self.limits,
            self.journal,
            self.store,
            lambda _: self.dialogue,
            lambda _: Quirks(),
            lambda terminal: "tcp" if self.online and terminal == TERMINAL else None,
            lambda ratios, wall: self.quality.append((wall, list(ratios))),
        )

    async def restart(self) -> None:
        """The gateway dies and comes back; the journal is what it was."""
        self.collector = self.make()
        await self.collector.open(self.moment)
        if self.online:
            self.collector.arrived(TERMINAL, self.moment)

    @property
    def moment(self) -> Moment:
        return Moment(self.now - START + 1000.0, round(self.now * 1000))

    def store(self, messages: list[Any], committed: Any = None) -> None:
        """As the outlet does it."""
        marks = self.collector.note(messages)
        try:
            self.journal.append((), committed, marks.statements)
        except JournalFull:
            marks.take_back()
            raise
        self.published.extend(message for message in messages if isinstance(message, Reading))

    def connect(self) -> None:
        self.online = True
        self.collector.arrived(TERMINAL, self.moment)

    def run(self, seconds: float, *, step: float = 5.0) -> None:
        """Let time pass: the terminal freezes and reports, the collector asks, the terminal answers."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + step, end)
            for happening in self.body.advance(self.now):
                if isinstance(happening, Upload) and self.online and self.reporting:
                    self.report(happening)
            for ask in self.collector.tick(self.moment):
                self.asked.append((self.now, ask))
                self.collector.answered(ask, self.result(ask), self.moment)

    def report(self, upload: Upload) -> None:
        rcsd = upload_rcsd(upload.of)
        record = ResultRecord(TASKS, rcsd, table_of(upload.rows, rcsd))
        said = Said(TERMINAL, 0, self.moment.wall)
        messages = self.dialogue._mapper.of_records([record], said)
        self.store(messages)

    def result(self, ask: Ask) -> Any:
        """What comes back, through octets."""
        if not self.online:
            return Failure("lost", "no connection")
        said = self.answer(model.parse(model.build(ask.request.apdu)).apdu, self.now)
        return said if isinstance(said, Failure) else model.parse(model.build(said)).apdu

    # --- what has come ---

    def slots(self, series: str = "minute", cause: str | None = None) -> Counter[tuple[str | None, int]]:
        """How often each (meter, time s) has been published."""
        return Counter(
            (row[0], row[1] // 1000)
            for reading in self.published
            if reading.series == series and (cause is None or reading.cause == cause)
            for row in reading.rows
        )

    def fetches(self) -> list[tuple[float, Batch]]:
        return [(at, ask.work) for at, ask in self.asked if isinstance(ask.work, Batch)]

    def ratio(self, plan: str, period: str, start: float) -> tuple[int, int, int] | None:
        """(owed, first, cycle) as published last for the period that begins at `start` (s)."""
        for _, ratios in reversed(self.quality):
            for ratio in ratios:
                if (ratio.plan, ratio.period, ratio.start) == (plan, period, round(start * 1000)):
                    return ratio.owed, ratio.first, ratio.cycle
        return None


QUICK = CollectionLimits(fills=FillLimits(quiet_s=0.0, quiet_midnight_s=0.0, arrival_s=0.0))
"""No quiet minutes, no wait after an arrival."""
