"""Slots: numbering, marking against a naive model, bounds of time and memory, what the journal keeps."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from collection_side import CHINA, CURVE, HOUR, METERS, MINUTE, QUICK, START, TERMINAL, World
from hypothesis import given
from hypothesis import strategies as st

from gateway import journal_store
from gateway.collection import CollectionLimits, Collector
from gateway.collection_store import MIGRATION, SlotRow, keep_slots
from gateway.gapfill import FillLimits
from gateway.journal import Journal, JournalFull, JournalLimits, Row
from gateway.polling import PollPlan
from gateway.slots import Account, Grid, Track, positions_of
from messages import Column, Reading

WALL = round(START * 1000)
QUARTER = 900_000


def ms(*parts: int) -> int:
    return round(datetime(*parts, tzinfo=CHINA).timestamp() * 1000)  # type: ignore[misc,arg-type]


def reading(*rows: tuple[str | None, int | None, Any], cause: Any = "report", terminal: str = TERMINAL) -> Reading:
    columns = (Column(name="active_energy_import.total", oad="00100201"), Column(name="voltage.a", oad="20000201"))
    return Reading(
        id="0" * 16,
        terminal=terminal,
        received_at=max((at for _, at, _ in rows if at is not None), default=WALL),
        cause=cause,
        series="minute",
        columns=columns,
        rows=[[meter, at, value, value] for meter, at, value in rows],
    )


# --- numbering ------------------------------------------------------------------------------------------------------


def test_curves_days_and_months_are_numbered_in_local_time() -> None:
    curve = Grid(CURVE)
    assert curve.start(curve.index(ms(2026, 3, 2, 10, 29, 59))) == ms(2026, 3, 2, 10, 15)
    assert curve.index(ms(2026, 3, 2, 0, 0)) % 96 == 0
    day = Grid(replace(CURVE, series="day"))
    assert day.start(day.index(ms(2026, 3, 2, 23, 59))) == ms(2026, 3, 2)
    month = Grid(replace(CURVE, series="month"))
    assert month.start(month.index(ms(2026, 3, 31, 23, 59))) == ms(2026, 3, 1)
    assert month.start(month.index(ms(2026, 12, 31)) + 1) == ms(2027, 1, 1)
    hour = Grid(replace(CURVE, series="hour"))
    assert hour.start(hour.index(ms(2026, 3, 2, 10, 59))) == ms(2026, 3, 2, 10)


@given(
    st.integers(0, 4_000_000_000_000), st.sampled_from(["minute", "hour", "day", "month"]), st.sampled_from([1, 15, 60])
)
def test_every_instant_is_in_the_slot_that_it_is_given(at: int, series: Any, period: int) -> None:
    grid = Grid(replace(CURVE, series=series, period_min=period))
    slot = grid.index(at)
    assert grid.start(slot) <= at < grid.start(slot + 1)
    assert grid.of_row(grid.start(slot)) == slot


def test_rows_of_a_finer_curve_fill_no_slot_of_a_coarser_one() -> None:
    grid = Grid(CURVE)
    assert [grid.of_row(ms(2026, 3, 2, 10, minute)) is not None for minute in (0, 1, 5, 14, 15)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert grid.of_row(ms(2026, 3, 2, 10, 15, 2)) == grid.index(ms(2026, 3, 2, 10, 15))


def test_a_zone_with_daylight_saving_is_refused() -> None:
    assert Grid(replace(CURVE, zone=ZoneInfo("Asia/Shanghai"))).ahead_ms == 8 * 3_600_000
    with pytest.raises(ValueError, match="daylight saving"):
        Grid(replace(CURVE, zone=ZoneInfo("Europe/Berlin")))


def test_the_columns_of_a_plan_must_all_be_there() -> None:
    whole = reading((None, WALL, 1.0))
    assert positions_of(("active_energy_import", "voltage.a"), whole) == (2, 3)
    assert positions_of(("voltage",), whole) == (3,)
    assert positions_of(("20000201",), whole) == (3,)
    assert positions_of(("voltage", "current"), whole) == ()
    # NULL comes as one column, whatever its elements would be.
    null = Reading(
        id="0" * 16, terminal=TERMINAL, received_at=0, cause="report", series="minute",
        columns=(Column(name="voltage", oad="20000200"),), rows=[[None, WALL, None]],
    )  # fmt: skip
    assert positions_of(("voltage.b",), null) == (2,)


# --- marking against a model ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-400, 400), st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_marks_are_those_of_a_naive_model(steps: list[tuple[int, bool, bool, bool]]) -> None:
    """(slot, blank, asked, taken back): slots in sets, the window by hand."""
    plan = replace(CURVE, depth_days=2)
    grid = Grid(plan)
    account = Account(plan, grid, TERMINAL)
    now = grid.index(WALL)
    track = Track(account, None, now - 100, account.oldest(WALL))
    data: set[int] = set()
    settled: set[int] = set()
    empty: set[int] = set()
    for offset, blank, asked, back in steps:
        slot = now + offset
        before = (track.had, track.empty, track.late)
        mark = account.mark(track, slot, blank=blank, asked=asked, wall=WALL)
        if back and mark is not None:
            mark.take_back()
            assert (track.had, track.empty, track.late) == before
            continue
        if slot < account.oldest(WALL) or slot > now + 96 or slot in data:
            assert mark is None
        elif not blank:
            data.add(slot)
            empty.discard(slot)
            settled.discard(slot)
        elif slot in empty and asked:
            settled.add(slot)
        else:
            empty.add(slot)
    bits = {slot for slot in range(now - 500, now + 500) if slot >= track.base and track.had >> slot - track.base & 1}
    assert bits == data | settled
    late = {slot for slot in data if slot >= track.base and track.late >> slot - track.base & 1}
    assert late == {slot for slot in data if slot <= account.ripe(WALL)}
    wanted = range(now - 100, now + 1)
    assert track.count(now - 500, now + 1)[::2] == (len(wanted), len(data.intersection(wanted)))
    lost = track.move(now)
    assert lost == len(set(range(now - 100, now)) - data - settled)


def test_repeated_reports_of_an_empty_slot_settle_nothing() -> None:
    world = World()
    world.connect()
    for _ in range(5):
        world.collector.note([reading((METERS[0], WALL + QUARTER, None))])
    (track,) = world.collector._accounts[TERMINAL][0].tracks.values()
    assert (track.had, track.empty.bit_count()) == (0, 1)


def test_a_clock_that_runs_ahead_marks_nothing() -> None:
    world = World()
    world.connect()
    message = reading((METERS[0], WALL, 1.0))
    message.rows.append([METERS[0], WALL + 30 * 86_400_000, 1.0, 1.0])
    message.rows.append([METERS[0], WALL - 30 * 86_400_000, 1.0, 1.0])
    world.collector.note([message])
    (track,) = world.collector._accounts[TERMINAL][0].tracks.values()
    assert track.had.bit_count() == 1


def test_after_a_month_away_the_window_moves_and_what_is_too_old_is_let_pass() -> None:
    world = World()
    world.connect()
    world.collector.note([reading((METERS[0], WALL, 1.0))])
    (track,) = tracks_of(world.collector)
    month = 30 * 86_400_000
    old = reading((METERS[0], WALL + month // 2, 1.0), (METERS[0], WALL + month, 1.0))
    # The old row comes first, when the window has not moved yet.
    world.collector.note([old])
    assert track.base == Grid(CURVE).index(WALL + month) - 287
    assert track.had == 1 << 287


# --- with the journal -----------------------------------------------------------------------------------------------


def test_rows_that_could_not_be_stored_mark_nothing() -> None:
    world = World()
    world.connect()
    world.run(2 * HOUR)
    world.journal.full = True
    tracks = world.collector._accounts[TERMINAL][0].tracks.values()
    before = [(track.had, track.empty, track.late) for track in tracks]
    at = round(world.now * 1000) // QUARTER * QUARTER + QUARTER
    with pytest.raises(JournalFull):
        world.store([reading((METERS[0], at, 1.0), (METERS[1], at, None), (METERS[0], at - QUARTER, 1.0))])
    assert [(track.had, track.empty, track.late) for track in tracks] == before


def test_without_room_what_is_fetched_is_not_lost() -> None:
    world = World(limits=QUICK)
    world.connect()
    world.run(HOUR)
    world.reporting = False
    world.run(5 * MINUTE)
    world.journal.full = True
    world.run(30 * MINUTE)
    assert world.collector.counters.unstored > 0
    assert world.slots(cause="backfill") == {}
    world.journal.full = False
    world.run(2 * HOUR)
    assert len(world.slots(cause="backfill")) >= 2 * 8
    assert max(world.slots().values()) == 1


async def test_marks_and_rows_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real journal: what was stored is known after a restart, statements of rows that never were are not."""
    if not any("collection_slot" in script for script in journal_store.MIGRATIONS):
        monkeypatch.setattr(journal_store, "MIGRATIONS", (*journal_store.MIGRATIONS, MIGRATION))
    world = World()

    async def opened() -> tuple[Journal, Collector]:
        limits = JournalLimits(tick_s=0.02, queue_rows=2)
        journal = await Journal.open(tmp_path / "journal.db", limits, clock=lambda: START, on_death=lambda _: None)
        world.journal = journal  # type: ignore[assignment]
        collector = world.make()
        await collector.open(world.moment)
        return journal, collector

    journal, collector = await opened()
    message = reading((METERS[0], WALL, 1.0), (METERS[1], WALL, None))
    marks = collector.note([message])
    journal.append([Row(journal.next_seq, "t", b"")], None, marks.statements)
    for number in range(1, 4):
        later = reading((METERS[0], WALL + number * QUARTER, 1.0))
        marks = collector.note([later])
        try:
            journal.append([Row(journal.next_seq, "t", b"")], None, marks.statements)
        except JournalFull:
            marks.take_back()
    had = {track.meter: (track.since, track.base, track.had, track.empty) for track in tracks_of(collector)}
    assert had[METERS[0]][2].bit_count() == journal.next_seq - 1
    collector.close(world.moment)
    assert await journal.close()
    journal, collector = await opened()
    assert {t.meter: (t.since, t.base, t.had, t.empty) for t in tracks_of(collector)} == had
    assert journal.committed_seq == had[METERS[0]][2].bit_count()
    assert await journal.close()


def tracks_of(collector: Collector) -> list[Track]:
    return [track for account in collector._accounts[TERMINAL] for track in account.tracks.values()]


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_terminals_accounts_and_meters_are_bounded() -> None:
    limits = CollectionLimits(terminals=3, meters=4, fills=FillLimits(accounts=2, meters=3))
    world = World(limits=limits)
    for n in range(5):
        rows = [(f"{m:012d}", WALL, 1.0) for m in range(6)]
        world.collector.note([reading(*rows, terminal=f"10000000000{n}")])
    counters = world.collector.gapfill.counters
    assert world.collector.counters.terminals == 3
    assert (counters.accounts, counters.tracks) == (2, 6)
    assert all(len(known) <= 4 for known in world.collector._known.values())
    assert world.collector.counters.refused > 0
    assert counters.refused > 0


async def test_batches_under_way_are_bounded() -> None:
    limits = CollectionLimits(fills=FillLimits(quiet_s=0, quiet_midnight_s=0, arrival_s=0, under_way=7, looks=50))
    world = World(limits=limits)
    terminals = [f"2000000000{n:02d}" for n in range(40)]
    for terminal in terminals:
        world.collector.note([reading((METERS[0], WALL, 1.0), terminal=terminal)])
    world.collector._channel_of = lambda _: "tcp"
    for terminal in terminals:
        world.collector.arrived(terminal, world.moment)
    world.now += 2 * HOUR + 10 * MINUTE
    asks = world.collector.tick(world.moment)
    assert len(asks) == 7
    assert len({ask.terminal for ask in asks}) == 7
    assert world.collector.tick(world.moment) == []


def test_a_thousand_layouts_are_remembered_not_more() -> None:
    world = World()
    world.connect()
    for n in range(1500):
        message = reading((METERS[0], WALL, 1.0))
        message.columns = (*message.columns, Column(name=f"oad:{n:08X}", oad=f"{n:08X}"))
        world.collector.note([message])
    assert len(world.collector._covers) <= 1024


@pytest.mark.slow
async def test_memory_of_15_000_terminals_with_two_meters_and_three_days_of_96_slots() -> None:
    terminals, slots = 15_000, 3 * 96
    world = World()
    grid = Grid(CURVE)
    base = grid.index(WALL) - slots + 1
    # The worst case: every slot has come, late, and each is an integer of its own.
    pattern = (1 << slots) - 1
    rows = [
        SlotRow("curve", f"3{n:011d}", meter, grid.name, base, base, pattern, 0, pattern)
        for n in range(terminals)
        for meter in (f"4{n:011d}", f"5{n:011d}")
    ]
    world.journal.db.executemany("INSERT INTO collection_meter VALUES (?, ?)", [(r.terminal, r.meter) for r in rows])
    world.journal.db.executemany(keep_slots(rows[0])[0], [keep_slots(row)[1] for row in rows])
    del rows
    gc.collect()
    tracemalloc.start()
    collector = world.make()
    await collector.open(world.moment)
    gc.collect()
    octets = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert collector.gapfill.counters.tracks == 2 * terminals
    assert octets / terminals < 2_000
    assert octets < 30_000_000
    # And in the file: three bits a slot, the names, the key.
    (size,) = world.journal.db.execute(
        "SELECT sum(length(had) + length(empty) + length(late)) FROM collection_slot"
    ).fetchone()
    assert size == 2 * terminals * 2 * slots // 8


def test_metrics_have_few_labels() -> None:
    world = World([CURVE], [PollPlan(name="power", points=("active_power",))], limits=QUICK)
    world.connect()
    world.run(3 * HOUR)
    samples = {(s.name, *sorted(s.labels.items())): s.value for s in world.collector.metrics()}
    assert samples["collection_terminals",] == 1
    assert samples["gapfill_tracks",] == 2
    ratios = {key: value for key, value in samples.items() if key[0] == "collection_ratio"}
    labels = [dict(key[1:]) for key in ratios]
    assert {(label["kind"], label["plan"], label["period"], label["round"]) for label in labels} == {
        (kind, plan, period, number)
        for kind, plan in (("fill", "curve"), ("poll", "power"))
        for period in ("hour", "day")
        for number in ("first", "cycle")
    }
    assert all(value == 1.0 for value in ratios.values())


def test_a_gateway_without_plans_does_nothing() -> None:
    world = World([], [])
    world.connect()
    world.run(2 * HOUR)
    assert world.collector.idle
    assert (world.asked, world.quality, world.collector._accounts) == ([], [], {})
