"""Polling: spread, one at a time, rounds and their ratios, terminals that go and come, bounds, what is published."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from collection_side import CHINA, HOUR, METERS, MINUTE, START, TERMINAL, World

from gateway.air import POLL
from gateway.polling import (
    HOUR_MS,
    Count,
    Poller,
    PollLimits,
    PollPlan,
    PollRequest,
    fixed_offset_ms,
    place_of,
)
from protocols.events import Failure, Moment
from wire698.access import GetResponseNormalList
from wire698.pieces import ResultNormal
from wire698.proxy import ProxyGetRequestList
from wire698.values import Dar

WALL = round(START * 1000)
PLAN = PollPlan(name="power", points=("active_power", "voltage.a"), every_s=900.0, spread_s=300.0)
FLEET = [f"{n:012d}" for n in range(1, 601)]


def at(seconds: float) -> Moment:
    return Moment(100.0 + seconds, WALL + round(seconds * 1000))


def poller(*plans: PollPlan, limits: PollLimits | None = None, meters: tuple[str, ...] = ()) -> Poller:
    return Poller(plans or (PLAN,), limits or PollLimits(), lambda _: meters)


def here(_: str) -> str | None:
    return "tcp"


def away(_: str) -> str | None:
    return None


def run(one: Poller, seconds: range, got: int | None = 2) -> list[tuple[int, PollRequest]]:
    """Every request is answered at once."""
    asked = []
    for second in seconds:
        for request in one.due(at(second), here):
            asked.append((second, request))
            one.answered(request, got, at(second))
    return asked


def test_a_fleet_is_spread_evenly_and_in_the_same_way_for_ever() -> None:
    times = []
    for _ in range(2):
        one = poller()
        for terminal in FLEET:
            one.enter(terminal, WALL)
        times.append({request.terminal: second for second, request in run(one, range(1, 901))})
    assert times[0] == times[1]
    assert set(times[0]) == set(FLEET)
    # 08:00 is the beginning of a cycle, which takes five minutes: 600 terminals, some 120 a minute.
    minutes = Counter(second // 60 for second in times[0].values())
    assert set(minutes) <= {0, 1, 2, 3, 4, 5}
    assert all(80 <= minutes[n] <= 160 for n in range(5))
    assert place_of("112233445566", "power", 300_000) == 157_152


def test_cycles_begin_at_multiples_of_the_period_in_local_time() -> None:
    one = poller(replace(PLAN, every_s=86_400.0, spread_s=0.0))
    one.enter(TERMINAL, WALL)
    asked = run(one, range(0, 3 * 86_400, 60))
    assert [second for second, _ in asked] == [16 * 3600, 40 * 3600, 64 * 3600]
    assert all(request.start == WALL + second * 1000 for second, request in asked)


def test_one_request_at_a_time_and_a_late_cycle_is_skipped_and_counted() -> None:
    one = poller(replace(PLAN, spread_s=0.0), limits=PollLimits(stale_s=10_000.0))
    one.enter(TERMINAL, WALL)
    (request,) = one.due(at(0), here)
    for second in range(0, 1801, 10):
        assert one.due(at(second), here) == []
    assert one.counters.skipped == 2
    one.answered(request, 2, at(1850))
    (following,) = one.due(at(2700), here)
    assert following.start == WALL + 2_700_000
    # The two that were skipped are owed all the same: 4 cycles of 2 points began, one was answered in its first round.
    assert one.tally.of("power", "hour", WALL) == Count(8, 2, 2)


def test_first_round_and_cycle_as_computed_by_hand() -> None:
    one = poller(replace(PLAN, spread_s=0.0, meters=("1", "2", "3"), rounds=2, pause_s=30.0))
    one.enter(TERMINAL, WALL)
    asked: list[tuple[int, str | None, int]] = []
    for second in range(900):
        for request in one.due(at(second), here):
            asked.append((second, request.meter, request.round))
            # Meter 1 answers at once, with one point of two; meter 2 in the second round; meter 3 never.
            got = {"1": 1, "2": None if request.round == 1 else 2, "3": None}[request.meter or ""]
            one.answered(request, got, at(second))
    assert [entry[1:] for entry in asked] == [("1", 1), ("2", 1), ("3", 1), ("2", 2), ("3", 2)]
    assert asked[3][0] - asked[2][0] == 30
    assert one.tally.of("power", "hour", WALL) == Count(owed=6, first=1, cycle=3)
    assert one.tally.of("power", "day", WALL - 8 * HOUR_MS) == Count(owed=6, first=1, cycle=3)
    assert (one.counters.answered, one.counters.unanswered) == (2, 3)


def test_a_terminal_that_is_away_owes_and_is_asked_when_it_comes_back() -> None:
    one = poller(replace(PLAN, spread_s=0.0))
    one.enter(TERMINAL, WALL)
    assert one.due(at(0), away) == []
    assert one.tally.of("power", "hour", WALL) == Count(2, 0, 0)
    one.arrived(TERMINAL, at(100))
    (request,) = one.due(at(100), here)
    one.answered(request, None, at(130))
    one.arrived(TERMINAL, at(135))
    (again,) = one.due(at(135), here)
    assert again.round == 2
    one.answered(again, 2, at(136))
    assert one.tally.of("power", "hour", WALL) == Count(2, 0, 2)
    one.arrived(TERMINAL, at(200))
    assert one.due(at(200), here) == []


def test_only_the_plans_channels_and_terminals() -> None:
    one = poller(
        replace(PLAN, name="a", spread_s=0.0, channels=("radio",)),
        replace(PLAN, name="b", spread_s=0.0, terminals=("1*",)),
        replace(PLAN, name="c", spread_s=0.0, terminals=("2*",)),
    )
    one.enter(TERMINAL, WALL)
    assert [request.plan.name for request in one.due(at(0), here)] == ["b"]
    assert one.tally.of("a", "hour", WALL) == Count()


def test_cycles_that_nobody_saw_are_counted_not_made_up_for() -> None:
    one = poller(replace(PLAN, spread_s=0.0))
    one.enter(TERMINAL, WALL)
    (request,) = one.due(Moment(100.0, WALL + 86_400_000), here)
    assert request.start == WALL + 86_400_000
    assert one.counters.missed == 96
    assert one.due(Moment(101.0, WALL + 86_401_000), here) == []


def test_a_request_whose_end_is_never_told_is_given_up() -> None:
    one = poller(replace(PLAN, spread_s=0.0), limits=PollLimits(stale_s=0.0))
    one.enter(TERMINAL, WALL)
    (lost,) = one.due(at(0), here)
    asked = [r for second in range(1, 3601) for r in one.due(at(second), here)]
    assert [r.start for r in asked] == [WALL + 2_700_000]
    assert (one.counters.stale, one.counters.under_way) == (1, 1)
    one.answered(lost, 2, at(3600))
    assert one.counters.under_way == 1
    assert one.tally.of("power", "hour", WALL).cycle == 0


def test_bounds() -> None:
    one = poller(replace(PLAN, spread_s=0.0), limits=PollLimits(duties=20, under_way=5))
    for terminal in FLEET[:30]:
        one.enter(terminal, WALL)
    assert (one.counters.duties, one.counters.refused) == (20, 10)
    asked = [request for second in range(900) for request in one.due(at(second), here)]
    assert len(asked) == 5
    for request in asked:
        one.answered(request, 2, at(899))
    assert len(one.due(at(899), here, most=3)) == 3
    # 20 duties over two days: nothing grows.
    run(one, range(900, 2 * 86_400, 30))
    one.tally.prune(WALL + 2 * 86_400_000)
    assert len(one._cycles) == 20
    assert len(one._ready) <= 20
    assert len(one.tally) <= 49 + 3


def test_slots_and_cycles_need_a_zone_without_daylight_saving() -> None:
    assert fixed_offset_ms(CHINA) == fixed_offset_ms(ZoneInfo("Asia/Shanghai")) == 8 * HOUR_MS
    with pytest.raises(ValueError, match="daylight saving"):
        fixed_offset_ms(ZoneInfo("Europe/Berlin"))


# --- through the collector, with a simulated terminal ---------------------------------------------------------------


def polled(world: World) -> list[Any]:
    return [reading for reading in world.published if reading.cause == "poll"]


def test_what_is_read_is_published_as_a_poll() -> None:
    world = World([], [PLAN])
    world.connect()
    world.run(2 * HOUR)
    assert len(polled(world)) == 8
    assert {ask.priority for _, ask in world.asked} == {POLL}
    assert {ask.request.retries for _, ask in world.asked} == {0}
    names = [column.name for column in polled(world)[0].columns]
    assert names == ["active_power.total", "active_power.a", "active_power.b", "active_power.c", "voltage.a"]
    assert len({reading.id for reading in polled(world)}) == 8
    # One that waits for its turn on the air gives way to the next cycle.
    starts = [ask.work.start for _, ask in world.asked if isinstance(ask.work, PollRequest)]
    assert [ask.until for _, ask in world.asked] == [start + 890_000 for start in starts]
    assert all(reading.channel == "tcp" and not isinstance(reading.command_id, str) for reading in polled(world))
    world.run(HOUR + 5.0)
    assert world.ratio("power", "hour", START + HOUR) == (8, 8, 8)


def test_meters_that_a_terminal_has_told_of_are_read_through_it() -> None:
    world = World([], [replace(PLAN, meters="known")])
    world.connect()
    world.run(30 * MINUTE)
    assert {reading.rows[0][0] for reading in polled(world)} == set(METERS)
    assert all(isinstance(ask.request.apdu, ProxyGetRequestList) for _, ask in world.asked)
    # The first cycle began before the first report had told of them.
    assert len(world.asked) == 2


def partly(request: Any, _: float) -> Any:
    results = tuple(ResultNormal(oad, Dar(dar)) for oad, dar in zip(request.oads, (0, 4), strict=True))
    return GetResponseNormalList(piid=request.piid, results=results)


def refused(request: Any, _: float) -> Any:
    return GetResponseNormalList(piid=request.piid, results=tuple(ResultNormal(oad, Dar(4)) for oad in request.oads))


def silent(*_: Any) -> Failure:
    return Failure("timed_out", "no answer")


@pytest.mark.parametrize(
    ("answer", "asked", "counts"), [(partly, 4, (8, 4, 4)), (refused, 4, (8, 0, 0)), (silent, 8, (8, 0, 0))]
)
def test_points_that_are_refused_are_not_got_and_only_silence_is_asked_again(
    answer: Any, asked: int, counts: tuple[int, int, int]
) -> None:
    world = World([], [replace(PLAN, spread_s=1.0)])
    world.answer = answer
    world.connect()
    world.run(HOUR - 5.0)
    assert len(world.asked) == asked
    world.run(2 * HOUR)
    assert world.ratio("power", "hour", START) == counts


def test_no_room_in_the_journal_is_no_answer_and_is_asked_again() -> None:
    world = World([], [replace(PLAN, spread_s=0.0, pause_s=10.0)])
    world.connect()
    world.journal.full = True
    world.run(900.0 - 3.0)
    world.journal.full = False
    world.run(8.0)
    assert world.collector.counters.unstored > 0
    assert len(polled(world)) == 1


async def test_counts_survive_a_restart() -> None:
    world = World([], [PLAN])
    world.connect()
    world.run(50 * MINUTE)
    world.collector.close(world.moment)
    await world.restart()
    world.run(3 * HOUR)
    assert world.ratio("power", "hour", START) == (8, 8, 8)
    assert world.ratio("power", "day", START - 8 * HOUR) is not None


def test_a_point_that_cannot_be_asked_is_counted_and_nothing_is_sent() -> None:
    world = World([], [replace(PLAN, points=("no_such_thing",))])
    world.connect()
    world.run(HOUR)
    assert world.asked == []
    assert world.collector.counters.invalid >= 4
