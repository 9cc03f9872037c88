"""Gap-fill: an outage and its end, restart, refusal, empty slots, days and months, quiet minutes, ways of reading."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from collection_side import CHINA, CURVE, DAY, HOUR, METERS, MINUTE, QUICK, START, TERMINAL, World

from gateway.collection import CollectionLimits
from gateway.gapfill import FillLimits
from gateway.slots import FillPlan
from messages import Reading
from protocols.events import Failure
from simulators.records import MINUTE as MINUTE_TABLE
from simulators.stamps import instant
from wire698.access import GetResponseRecord
from wire698.pieces import ResultRecord
from wire698.values import Dar

QUARTER = 15 * MINUTE
MIDNIGHT = START - 8 * HOUR
CUT, BACK = START + 4 * HOUR + 7 * MINUTE, START + 52 * HOUR + 7 * MINUTE


def outage(world: World) -> None:
    """Four hours on line, two days off."""
    world.connect()
    world.run(CUT - world.now)
    world.online = False
    world.run(BACK - CUT, step=60.0)


def expect_all_once(world: World, end: float) -> None:
    """Every slot of both meters up to `end`, once, with the values that the meters froze."""
    times = range(int(START + QUARTER), int(end) + 1, int(QUARTER))
    assert world.slots() == {(meter, at): 1 for meter in METERS for at in times}
    froze = {
        (meter, row.at): row.reading
        for meter, number in zip(METERS, (1, 2), strict=True)
        for row in world.body.tables[number][MINUTE_TABLE].rows
    }
    names = [column.name for column in world.published[0].columns]
    for reading in world.published:
        place = [column.name for column in reading.columns].index("voltage.a") + 2
        for row in reading.rows:
            wanted = froze.get((row[0], row[1] // 1000))
            if wanted is not None:
                assert row[place] == wanted.voltage[0] / 10
    assert "voltage.a" in names


def test_two_days_off_every_slot_is_filled_and_none_twice() -> None:
    world = World(curve_depth=400)
    outage(world)
    world.connect()
    world.run(58 * MINUTE)
    expect_all_once(world, START + 53 * HOUR)
    # Fetched: Monday 12:15 to Wednesday 11:45 in six batches of 32 slots for both meters; 12:00 when it was due.
    assert sum(world.slots(cause="backfill").values()) == 192 * 2
    assert len(world.fetches()) == 7
    assert world.collector.gapfill.counters.filled == 384
    assert world.collector.gapfill.counters.given_up == 0


def test_ratios_are_those_computed_by_hand() -> None:
    world = World(curve_depth=400)
    outage(world)
    # While it is away: 08:15 to 12:00 came in time, 16 slots of two meters; 08:15 to 23:45 are 63.
    assert world.ratio("curve", "day", MIDNIGHT) == (126, 32, 32)
    assert world.ratio("curve", "day", MIDNIGHT + DAY) == (192, 0, 0)
    world.connect()
    world.run(56 * MINUTE)
    assert world.quality[-1][0] == round((START + 53 * HOUR) * 1000)
    assert world.ratio("curve", "day", MIDNIGHT) == (126, 32, 126)
    assert world.ratio("curve", "day", MIDNIGHT + DAY) == (192, 0, 192)
    # Wednesday as far as it is due at 13:00: 00:00 to 12:45; in time were 12:15, 12:30, 12:45.
    assert world.ratio("curve", "day", MIDNIGHT + 2 * DAY) == (104, 6, 104)
    assert world.ratio("curve", "hour", START + 51 * HOUR) == (8, 0, 8)
    # Once an hour, at the hour.
    assert [wall % 3_600_000 for wall, _ in world.quality] == [0] * 53


async def test_restart_in_the_middle_of_it() -> None:
    world = World(curve_depth=400)
    outage(world)
    await world.restart()
    world.connect()
    while len(world.fetches()) < 2:
        world.run(5.0)
    assert 0 < sum(world.slots(cause="backfill").values()) < 384
    await world.restart()
    world.run(START + 53 * HOUR + 5 * MINUTE - world.now)
    expect_all_once(world, START + 53 * HOUR)
    assert len(world.fetches()) == 7
    assert world.ratio("curve", "day", MIDNIGHT) == (126, 32, 126)
    assert world.ratio("curve", "day", MIDNIGHT + DAY) == (192, 0, 192)


async def test_a_plan_that_is_gone_and_a_grid_that_is_another_are_forgotten() -> None:
    world = World()
    world.connect()
    world.run(2 * HOUR)
    world.fills = (replace(CURVE, name="other"),)
    await world.restart()
    assert world.journal.db.execute("SELECT DISTINCT plan FROM collection_slot").fetchall() == []
    world.run(HOUR)
    world.fills = (replace(CURVE, name="other", period_min=30),)
    await world.restart()
    (account,) = world.collector._accounts[TERMINAL]
    assert set(account.tracks) == set(METERS)
    assert all(track.had == 0 for track in account.tracks.values())


def refuse(request: Any, at: float) -> Any:
    wanted = request.record
    return GetResponseRecord(piid=request.piid, record=ResultRecord(wanted.oad, wanted.rcsd, Dar(3)))


@pytest.mark.parametrize("refusal", [refuse, lambda *_: Failure("timed_out", "no answer")])
def test_a_terminal_that_refuses_is_asked_ever_more_rarely_and_given_up(refusal: Any) -> None:
    plan = replace(CURVE, depth_days=1, pause_s=300.0, max_pause_s=4800.0)
    world = World([plan], limits=QUICK)
    world.answer = refusal
    world.connect()
    world.run(HOUR)
    world.reporting = False
    world.run(9 * HOUR)
    times = [at for at, _ in world.fetches()]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:5] == [600.0, 1200.0, 2400.0, 4800.0, 4800.0]
    counters = world.collector.gapfill.counters
    assert counters.failed == counters.asked == len(times)
    assert counters.given_up == 0
    # A day later the silent slots begin to leave the window, which keeps 96 of them: all but those are given up.
    world.run(48 * HOUR, step=60.0)
    silent = int(57 * HOUR / QUARTER)
    world.collector.gapfill.trim(world.collector._accounts[TERMINAL][0], world.moment.wall)
    assert counters.given_up == (silent - 95) * 2
    assert world.slots(cause="backfill") == {}


@pytest.mark.parametrize("name", ["lost", "busy", "expired"])
def test_what_was_not_even_sent_is_not_held_against_the_terminal(name: str) -> None:
    world = World(limits=QUICK)
    world.connect()
    world.run(HOUR)
    world.reporting = False
    world.answer = lambda *_: Failure(name, "not sent")
    world.run(3 * HOUR)
    (account,) = world.collector._accounts[TERMINAL]
    assert account.failures == 0
    assert len(world.fetches()) > 50
    world.answer = world.services.answer
    world.run(5 * MINUTE)
    assert len(world.slots(cause="backfill")) == 2 * 12


def test_slots_that_the_terminal_has_not_do_not_keep_it_from_the_others() -> None:
    world = World([replace(CURVE, batch_slots=4)], limits=QUICK)
    world.connect()
    world.run(HOUR)
    world.body.powered = False
    world.run(3 * HOUR)
    world.body.powered = True
    world.reporting = False
    world.run(3 * HOUR)
    # 09:15 to 12:00 were never frozen; 12:15 to 14:30 are past their deadline and have been fetched all the same.
    fetched = {at for _, at in world.slots(cause="backfill")}
    assert fetched >= {int(START + 4 * HOUR + n * QUARTER) for n in range(1, 5)}
    assert world.collector.gapfill.counters.fruitless > 0
    assert max(world.slots().values()) == 1


# --- empty slots --------------------------------------------------------------------------------------------------


def empty_world(policy: Any, **changes: Any) -> World:
    """Both meters are silent for an hour: 4 slots each are reported as NULL."""
    world = World([replace(CURVE, empty=policy, **changes)], limits=QUICK)
    world.connect()
    world.run(HOUR + MINUTE)
    world.body.settings = msgspec.structs.replace(world.body.settings, missed=1.0)
    world.run(HOUR)
    world.body.settings = msgspec.structs.replace(world.body.settings, missed=0.0)
    return world


@pytest.mark.parametrize(("policy", "least", "most"), [("accept", 0, 0), ("once_more", 1, 1), ("missing", 3, 9)])
def test_an_empty_slot_is_settled_fetched_once_more_or_again_and_again(policy: Any, least: int, most: int) -> None:
    world = empty_world(policy)
    world.run(10 * HOUR)
    empties = {(meter, int(START + HOUR + n * QUARTER)) for meter in METERS for n in (1, 2, 3, 4)}
    # Each was published once, by the report; a fetch that brings NULL again publishes nothing.
    assert {slot for slot, times in world.slots(cause="report").items() if times == 1} >= empties
    assert world.slots(cause="backfill") == {}
    grid = world.collector.gapfill.grid(world.fills[0])
    slots = {at: grid.index(at * 1000) for _, at in empties}
    tried = {at: sum(b.first <= slot < b.end for _, b in world.fetches()) for at, slot in slots.items()}
    assert all(least <= times <= most for times in tried.values())
    world.run(START + 13 * HOUR - world.now)
    day = world.ratio("curve", "day", MIDNIGHT)
    assert day is not None
    owed, first, cycle = day
    assert owed - first == owed - cycle == 8


def test_an_empty_slot_that_has_its_values_when_it_is_fetched() -> None:
    world = empty_world("once_more", deadline_s=2 * HOUR)
    for table in (world.body.tables[n][MINUTE_TABLE] for n in (1, 2)):
        rows = [row._replace(reading=table.rows[0].reading) if row.reading is None else row for row in table.rows]
        table.rows.clear()
        table.rows.extend(rows)
    good = {(row.at, number): row for number in (1, 2) for row in world.body.tables[number][MINUTE_TABLE].rows}
    collected = [row._replace(freeze=good.get((row.freeze.at, row.meter), row.freeze)) for row in world.body.collected]
    world.body.collected.clear()
    world.body.collected.extend(collected)
    world.run(3 * HOUR)
    assert world.slots(cause="backfill") == {
        (meter, int(START + HOUR + n * QUARTER)): 1 for meter in METERS for n in (1, 2, 3, 4)
    }
    world.run(HOUR)
    day = world.ratio("curve", "day", MIDNIGHT)
    assert day is not None
    owed, first, cycle = day
    assert (owed - first, owed - cycle) == (8, 0)


# --- days and months ------------------------------------------------------------------------------------------------


def test_day_and_month_slots() -> None:
    begun = instant_of(2026, 3, 30, 20)
    common: dict[str, Any] = {"columns": ("active_energy_import",), "deadline_s": HOUR}
    plans = [
        FillPlan(name="days", series="day", depth_days=10, **common),
        FillPlan(name="months", series="month", depth_days=90, **common),
    ]
    world = World(plans, start=begun)
    world.connect()
    # The first day's freeze teaches the meters; those of 1 and 2 April and of the month fall into the outage.
    world.run(5 * HOUR)
    world.online = False
    world.run(2 * DAY, step=60.0)
    world.connect()
    world.run(3 * HOUR)
    first_of_april = instant_of(2026, 4, 1, 0)
    assert world.slots("day", "backfill") == {
        (meter, int(at)): 1 for meter in METERS for at in (first_of_april, first_of_april + DAY)
    }
    assert world.slots("month", "backfill") == {(meter, int(first_of_april)): 1 for meter in METERS}
    assert world.ratio("days", "day", first_of_april) == (2, 0, 2)
    assert world.ratio("months", "month", first_of_april) == (2, 0, 2)
    (by_day,) = {batch.account.plan.name: batch for _, batch in world.fetches()}.keys() - {"months"}
    assert by_day == "days"


def instant_of(*parts: int) -> float:
    return instant(datetime(*parts, tzinfo=CHINA))  # type: ignore[misc,arg-type]


# --- quiet minutes --------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_near_full_hours_and_midnight() -> None:
    limits = CollectionLimits(fills=FillLimits(quiet_s=300.0, quiet_midnight_s=1800.0, arrival_s=0.0))
    # Never satisfied: it would be asked all the time.
    world = World([replace(CURVE, pause_s=20.0, max_pause_s=20.0, spread_s=0.0)], limits=limits)
    world.answer = refuse
    world.connect()
    world.run(HOUR)
    world.reporting = False
    world.run(24 * HOUR)
    assert len(world.fetches()) > 1000
    for at, batch in world.fetches():
        past = (at - START) % HOUR
        assert 300.0 <= past <= HOUR - 300.0
        past = (at - MIDNIGHT) % DAY
        assert 1800.0 <= past <= DAY - 1800.0
        # How long its turn may be waited for: until the quiet minutes begin.
        assert batch.until is not None
        begins = batch.until / 1000
        assert at + 60.0 <= begins
        assert (begins + 300.0 - START) % HOUR == 0.0 or (begins + 1800.0 - MIDNIGHT) % DAY == 0.0
    hours = {int((at - MIDNIGHT) % DAY // HOUR) for at, _ in world.fetches()}
    assert hours == set(range(24))


def test_a_terminal_that_comes_back_may_first_report_by_itself() -> None:
    world = World()
    outage(world)
    world.connect()
    world.run(60.0)
    assert world.fetches() == []


# --- ways of reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "selectors"),
    [
        ({"source": "tasks", "select": "range", "by": "start"}, {6}),
        ({"source": "tasks", "select": "range", "by": "store"}, {7}),
        ({"source": "tasks", "select": "at", "by": "start"}, {4}),
        ({"source": "tasks", "select": "last"}, {10}),
        ({"source": "freeze", "select": "range"}, {2}),
        ({"source": "freeze", "select": "at"}, {1}),
        ({"source": "freeze", "select": "last"}, {9}),
    ],
)
def test_every_way_of_picking_rows(changes: dict[str, Any], selectors: set[int]) -> None:
    world = World([replace(CURVE, **changes)], limits=QUICK, upload_delay_s=60.0)
    world.connect()
    world.run(HOUR + 2 * MINUTE)
    world.online = False
    world.run(HOUR)
    world.connect()
    world.run(HOUR)
    gap = [int(START + HOUR + n * QUARTER) for n in (1, 2, 3, 4)]
    assert world.slots(cause="backfill") == {(meter, at): 1 for meter in METERS for at in gap}
    assert max(world.slots().values()) == 1
    records = [ask.request.apdu.record for _, ask in world.asked]
    assert {record.rsd.selector for record in records} == selectors
    if changes["source"] == "tasks":
        assert all(len(record.rsd.meters.items) == 2 for record in records)


def test_the_terminals_own_freezes() -> None:
    world = World([replace(CURVE, source="freeze", meters="own", select="last")], limits=QUICK)
    world.connect()
    world.run(2 * HOUR + 3 * MINUTE)
    # Its reports are of meters, so its own curve is always fetched: the latest ones by selector 9, one for each.
    own = world.slots(cause="backfill")
    assert {meter for meter, _ in own} == {None}
    assert len(own) == 7
    assert max(own.values()) == 1


def test_a_late_answer_is_taken_once() -> None:
    world = World(limits=QUICK)
    world.connect()
    world.run(HOUR)
    world.reporting = False
    late: list[Any] = []
    world.answer = lambda *_: Failure("timed_out", "no answer")
    while not world.asked:
        world.run(5.0)
    ((_, ask),) = world.asked
    late.append(world.services.answer(ask.request.apdu, world.now))
    for _ in range(2):
        world.collector.late(ask, late[0], world.moment)
    assert sum(world.slots(cause="backfill").values()) == 2
    assert max(world.slots().values()) == 1


def test_what_is_fetched_is_known_by_its_content() -> None:
    first, second = World(limits=QUICK), World(limits=QUICK)
    for world in (first, second):
        world.connect()
        world.run(HOUR)
        world.reporting = False
        world.run(HOUR)
    ids = [[r.id for r in world.published if r.cause == "backfill"] for world in (first, second)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0]) > 1
    assert all(r.channel == "tcp" for r in first.published if r.cause == "backfill")
    assert all(not isinstance(r.command_id, str) for r in first.published if isinstance(r, Reading))
