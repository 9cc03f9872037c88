"""The arbiter: order, late answers, echoes, errors, bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_side import Wire
from radio_parts import Dead, RadioBench, Script, get, names, trip
from terminal_side import login

from gateway.link import Link
from gateway.medium import BACKFILL, CLOCK, CONTROL, POLL, PRIORITIES, QUERY, FreeAir, MediumOptions
from protocols.events import Request
from simulators.radio import MASTER, RadioSettings
from wire698 import access, model
from wire698.frame import BROADCAST, Address, build_frame
from wire698.pieces import ResultNormal
from wire698.rows import Row
from wire698.values import Data, Piid, Tag

ONE, TWO, THREE = names(3)


# --- order -----------------------------------------------------------------------------------------------------------


def test_the_most_urgent_goes_next() -> None:
    bench = RadioBench([Script(name) for name in names(8)])
    bench.ask(names(8)[7])
    bench.run(0.2)
    for number, priority in enumerate((BACKFILL, POLL, QUERY, CLOCK, CONTROL, QUERY, POLL)):
        bench.ask(names(8)[number], priority)
    bench.finish()
    assert bench.order() == ["poll", "control", "clock", "query", "query", "poll", "poll", "backfill"]
    assert [done.terminal for done in bench.done if done.request.context == QUERY] == [names(8)[2], names(8)[5]]
    assert not bench.radio.violations
    assert bench.medium.counters.turns == {"poll": 3, "control": 1, "clock": 1, "query": 2, "backfill": 1}


def test_terminals_take_turns_in_polls() -> None:
    bench = RadioBench([Script(ONE), Script(TWO), Script(THREE)])
    for name in (ONE, ONE, ONE, ONE, TWO, THREE, THREE):
        bench.ask(name)
    bench.finish()
    assert [done.terminal for done in bench.done] == [ONE, TWO, THREE, ONE, THREE, ONE, ONE]


def test_urgent_requests_of_one_terminal_keep_their_order() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)])
    asked = [bench.ask(name, QUERY) for name in (ONE, ONE, TWO, ONE)]
    bench.finish()
    assert [done.request for done in bench.done] == asked


# --- late answers, echoes, errors ------------------------------------------------------------------------------------


def test_a_late_answer_does_not_confuse_the_next_exchange() -> None:
    """The first answer comes in the drain behind its turn, and still counts; the next exchange is not touched."""
    options = MediumOptions(answer_max_s=0.3, drain_s=0.4)
    bench = RadioBench([Script(ONE, lambda asked: 0.4 if asked == 1 else 0.0), Script(TWO)], options=options)
    first, second = bench.ask(ONE), bench.ask(TWO)
    bench.finish()
    assert [(done.request, done.failure) for done in bench.done] == [(first, None), (second, None)]
    assert bench.medium.counters.late == 1
    assert bench.medium.counters.retries == 0
    assert not bench.radio.violations


def test_an_answer_later_than_the_machine_waits_is_told_as_late() -> None:
    options = MediumOptions(answer_max_s=0.2, drain_s=0.1, max_frame=64, retries=0)
    bench = RadioBench([Script(ONE, lambda asked: 2.0 if asked == 1 else 0.0), Script(TWO)], options=options)
    first = bench.ask(ONE)
    bench.run(1.5)
    assert [done.failure for done in bench.done] == ["timed_out"]
    bench.run(5)
    assert [late.request for late in bench.late] == [first]
    bench.ask(TWO)
    bench.ask(ONE)
    bench.finish()
    assert [done.failure for done in bench.done[1:]] == [None, None]
    assert len(bench.late) == 1
    assert not bench.radio.violations


def test_an_answer_that_begins_in_the_guard_is_heard_to_its_end() -> None:
    options = MediumOptions(answer_max_s=0.3, drain_s=0.2)
    bench = RadioBench([Script(ONE, lambda _: 0.36), Script(TWO)], options=options)
    bench.ask(ONE, retries=0)
    bench.ask(TWO, retries=0)
    bench.finish()
    assert [(done.terminal, done.failure) for done in bench.done] == [(ONE, None), (TWO, None)]
    assert not bench.radio.violations


def test_another_terminals_late_answer_is_not_measured_as_ours() -> None:
    """ONE's long wait is cut short for a control to TWO; its answer comes while TWO thinks."""
    bench = RadioBench([Script(ONE, lambda _: 1.41), Script(TWO, lambda _: 0.5)])
    bench.ask(ONE, QUERY, timeout=10.0)
    bench.run(1.2)
    bench.ask(TWO, CONTROL, trip())
    bench.ask(ONE, QUERY)
    bench.finish()
    assert [(done.terminal, done.failure) for done in bench.done[:2]] == [(ONE, None), (TWO, None)]
    assert bench.medium.counters.preempted == 1
    began = bench.now
    dead = bench.ask(TWO, QUERY, retries=0)
    bench.run(10, lambda: bench.done[-1].request is dead)
    assert bench.now - began > 0.5
    mean = bench.medium._times.of(bench.sessions[TWO]).mean
    assert mean is not None
    assert mean > 0.5
    assert not bench.radio.violations


def test_a_terminal_that_another_link_has_taken_and_lost_can_be_asked_again() -> None:
    bench = RadioBench([Dead(ONE), Script(TWO)])
    bench.ask(ONE, QUERY, timeout=60.0)
    bench.run(1.0)
    elsewhere: list[object] = []
    context = replace(bench.bench.context, answered=lambda *event: elsewhere.append(event))
    wire = Wire("10.0.0.9:1")
    other = Link(context, wire)
    other.received(build_frame(0x81, Address.of(ONE), 0x10, model.build(login())), bench.clock.moment())
    assert len(elsewhere) == 1, "the request was lost, and the other channel was told"
    other.lost(bench.clock.moment())
    assert bench.link.expect(bench.clock.moment()) == 1
    bench.ask(ONE, CONTROL, trip(), retries=0)
    bench.run(30)
    assert bench.medium.counters.turns == {"query": 1, "control": 1}
    assert [done.failure for done in bench.done] == ["timed_out"]


def test_a_late_answer_spares_the_attempt_that_waits() -> None:
    """ONE's first attempt is given up, its second waits behind queries, and then the answer comes after all."""
    options = MediumOptions(answer_max_s=0.2, drain_s=0.1, max_frame=64)
    dead = names(5)[1:]
    late = Script(ONE, lambda asked: 1.25 if asked == 1 else 0.0)
    bench = RadioBench([late, *map(Dead, dead)], options=options)
    request = bench.ask(ONE)
    bench.run(0.3)
    for name in dead:
        bench.ask(name, QUERY, retries=0)
    bench.finish()
    mine = [done for done in bench.done if done.terminal == ONE]
    assert [(done.request, done.failure) for done in mine] == [(request, None)]
    assert bench.medium.counters.retries == 1
    assert bench.medium.counters.turns["poll"] == 1, "the second attempt was spared"
    assert not bench.late
    assert not bench.radio.violations


@pytest.mark.parametrize("piece", [1, 5, 16, 400])
def test_our_own_echo_is_not_taken_for_an_answer(piece: int) -> None:
    bench = RadioBench([Script(ONE), Dead(TWO)], RadioSettings(echo=True, piece=piece))
    bench.ask(ONE)
    bench.ask(TWO, retries=0)
    bench.ask(THREE if THREE in bench.sessions else ONE, QUERY)
    bench.finish()
    assert sorted(str(done.failure) for done in bench.done) == ["None", "None", "timed_out"]
    own = sum(carrier.octets for carrier in bench.on_air() if carrier.talker == MASTER)
    assert bench.medium.counters.echo_octets == own
    assert bench.bench.context.counters.wire_errors == 0
    assert not bench.radio.violations


def test_bit_errors_are_asked_over() -> None:
    settings = RadioSettings(bit_error_rate=2e-4, seed=5)
    bench = RadioBench([Script(name) for name in names(60)], settings, MediumOptions(retries=3))
    for _ in range(3):
        bench.round(names(60))
    failures = [done for done in bench.done if done.failure is not None]
    assert bench.radio.bit_errors > 20
    assert bench.medium.counters.retries > 10
    assert len(failures) <= 3
    assert not bench.radio.violations


def test_noise_without_end_is_talked_over() -> None:
    bench = RadioBench([Script(ONE)], options=MediumOptions(max_frame=128))
    bench.medium.received(b"\x55", bench.clock.moment())
    request = bench.ask(ONE)
    limit = bench.options.longest_s + bench.options.silence_s
    for _ in range(1000):
        if request.attempts:
            break
        bench.medium.received(b"\x55\xaa", bench.clock.moment())
        bench.step(bench.now + 0.02)
    assert request.attempts == 1
    assert limit - 0.1 <= bench.now - 1000.0 <= limit + 0.1
    assert bench.medium.counters.jams == 1
    bench.finish()
    assert [done.failure for done in bench.done] == [None]


def test_a_machine_that_cannot_be_told_ends_by_its_own_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The medium goes on with others meanwhile."""
    monkeypatch.setattr("gateway.medium.Impatient", type("Nobody", (), {}))
    bench = RadioBench([Dead(ONE), Script(TWO), Script(THREE)])
    for name in (ONE, TWO, THREE):
        bench.ask(name, retries=1)
    bench.finish()
    assert [(done.terminal, done.failure) for done in bench.done] == [(TWO, None), (THREE, None), (ONE, "timed_out")]
    assert bench.done[1].at - 1000.0 < 2.5
    assert 6.0 < bench.done[2].at - 1000.0 < 10.0
    assert bench.medium.counters.turns == {"poll": 4}, "attempts are the medium's, in turns of their own"
    assert [(done.request.timeout, done.request.retries) for done in bench.done] == [(None, 1)] * 3
    assert not bench.radio.violations


# --- the answer time -------------------------------------------------------------------------------------------------


def test_the_answer_time_converges_for_each_terminal() -> None:
    """A dead silence after 20 answers costs each what it has taught: the fast one little, the slow one more."""
    slow_s, seen = 0.6, {ONE: 0.0, TWO: 0.0}

    def until_silent(delay: float) -> Callable[[int], float | None]:
        return lambda asked: delay if asked <= 20 else None

    bench = RadioBench([Script(ONE, until_silent(0.0)), Script(TWO, until_silent(slow_s))])
    for _ in range(20):
        bench.round([ONE, TWO])
    assert all(done.failure is None for done in bench.done)
    for name in (ONE, TWO):
        began = bench.now
        bench.ask(name, QUERY, retries=0)
        bench.run(60, lambda: bench.medium.state == "resting")
        seen[name] = bench.now - began
        bench.finish()
    spoken = 0.05 + bench.options.airtime(62)
    assert seen[ONE] - spoken == pytest.approx(bench.options.answer_min_s, abs=0.05)
    assert slow_s + 0.07 <= seen[TWO] - spoken <= slow_s + 0.3
    assert not bench.radio.violations


def test_a_terminal_that_becomes_slow_is_found_again() -> None:
    """Its answers come too late at first; the answer time grows until they do not."""
    bench = RadioBench([Script(ONE, lambda asked: 0.0 if asked <= 20 else 0.6)])
    for _ in range(20):
        bench.round([ONE])
    assert all(done.failure is None for done in bench.done)
    for _ in range(4):
        bench.round([ONE])
        bench.run(2.0)
    assert bench.done[20].failure == "timed_out"
    late = bench.medium.counters.late
    bench.radio.violations.clear()
    for _ in range(10):
        bench.round([ONE])
    assert [done.failure for done in bench.done[-10:]] == [None] * 10
    assert bench.medium.counters.late == late > 0
    assert not bench.radio.violations


def test_a_request_that_takes_long_is_given_its_time_unless_a_control_waits() -> None:
    """A proxy read: the terminal itself waits for a meter."""
    bench = RadioBench([Script(ONE, lambda asked: 8.0 if asked in (6, 7) else 0.0), Script(TWO)])
    for _ in range(5):
        bench.round([ONE])
    bench.ask(ONE, QUERY, timeout=10.0)
    bench.ask(TWO, POLL)
    bench.finish()
    assert [(done.terminal, done.failure) for done in bench.done[5:]] == [(ONE, None), (TWO, None)]
    assert bench.medium.counters.late == 0
    bench.ask(ONE, QUERY, timeout=10.0, retries=0)
    bench.run(2.0)
    control, again = bench.ask(TWO, CONTROL, trip()), bench.ask(ONE, QUERY)
    began = bench.now
    bench.finish()
    done = next(done for done in bench.done if done.request is control)
    assert done.failure is None
    assert done.at - began < 1.0
    assert bench.medium.counters.preempted == 1
    assert bench.done[-2].terminal == ONE
    assert bench.done[-2].failure is None, "its answer still came in time for its machine"
    assert bench.done[-1].request is again, "asked when the machine was done with the one before"
    assert bench.done[-1].failure is None
    assert not bench.radio.violations


# --- more than one frame ---------------------------------------------------------------------------------------------


class Blocks(Script):
    """Answers in three GET-Next blocks."""

    def answer(self, apdu: object) -> object:
        if isinstance(apdu, access.GetRequestNext):
            block = apdu.block + 1
        else:
            assert isinstance(apdu, access.GetRequestNormalList)
            block = 0
        result = ResultNormal(get().oads[block], Row.of((Data(Tag.DOUBLE_LONG_UNSIGNED, block),)))
        piid = getattr(apdu, "piid", Piid(0))
        return access.GetResponseNext(piid, block == 2, block, (result,))


def test_an_answer_in_blocks_keeps_its_turn_but_lets_a_control_in() -> None:
    bench = RadioBench([Blocks(ONE), Script(TWO), Script(THREE)])
    bench.ask(ONE, BACKFILL)
    bench.run(0.1)
    bench.ask(TWO, QUERY)
    bench.ask(THREE, CONTROL, trip())
    bench.finish()
    assert [done.terminal for done in bench.done] == [THREE, ONE, TWO]
    assert [done.failure for done in bench.done] == [None] * 3
    assert len(bench.done[1].result.content) == 3
    assert bench.medium.counters.turns == {"backfill": 3, "control": 1, "query": 1}
    assert not bench.radio.violations


def test_a_broadcast_takes_airtime_and_waits_for_nobody() -> None:
    stations = [Script(ONE), Script(TWO)]
    bench = RadioBench(stations)
    bench.ask(TWO)
    frame = build_frame(0x43, Address.of("AA", BROADCAST), 0x10, model.build(trip()))
    bench.link.broadcast(frame)
    bench.finish()
    assert all(len([apdu for _, apdu in station.heard if apdu.HEAD[0] == 0x07]) == 1 for station in stations)
    assert [done.failure for done in bench.done] == [None]
    carriers = bench.on_air()
    assert [carrier.talker for carrier in carriers] == [MASTER, MASTER, TWO]
    assert carriers[1].begins - carriers[0].ends == pytest.approx(bench.options.turnaround_s, abs=0.002)
    counters = bench.medium.counters
    assert counters.turns == {"control": 1, "poll": 1}
    assert counters.air_seconds["control"] == pytest.approx(
        0.05 + bench.options.airtime(len(frame) + 4) + 0.02, abs=1e-6
    )
    assert not bench.radio.violations


def test_octets_are_written_in_their_time() -> None:
    """Never ahead of the air by more than is set, never behind it: a server's buffer stays empty."""
    settings, options = RadioSettings(bit_rate=1200), MediumOptions(bit_rate=1200)
    bench = RadioBench([Script(ONE)], settings, options)
    bench.ask(ONE)
    bench.finish()
    (first, _), total = bench.sent[0], sum(size for _, size in bench.sent)
    assert first == pytest.approx(1000.0 + options.key_up_s, abs=1e-5)
    assert len(bench.sent) > 4
    written = 0
    for at, size in bench.sent:
        assert at <= first + options.airtime(written) + 1e-6
        written += size
        assert written <= (at - first + options.pace_ahead_s) / options.airtime(1) + 2
    (master, _) = bench.on_air()
    assert master.octets == total
    assert master.ends - master.begins == pytest.approx(options.key_up_s + options.airtime(total), abs=0.001)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_no_room_for_more_requests_is_told() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)], options=MediumOptions(max_waiting=5, max_per_terminal=3))
    for name in (ONE, ONE, ONE, ONE, TWO, TWO, TWO):
        bench.ask(name)
    assert [(done.terminal, done.failure) for done in bench.done] == [(ONE, "busy"), (TWO, "busy")]
    assert bench.medium.counters.refused == 2
    assert bench.medium.counters.waiting == 5
    bench.ask(ONE, CONTROL, trip())
    assert len(bench.done) == 2, "polls leave room for a control"
    bench.finish()
    assert [done.failure for done in bench.done[2:]] == [None] * 6
    assert bench.medium.counters.waiting == 0


def test_the_oldest_frame_owed_gives_way() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)], options=MediumOptions(max_replies=2))
    owed = [
        build_frame(3, Address.of(name), 0x10, model.build(get(*get().oads[: number + 1])))
        for number, name in enumerate((ONE, TWO, ONE))
    ]
    for frame in owed:
        bench.medium.say(frame)
    assert bench.medium.counters.replies_dropped == 1
    bench.run(5)
    assert [carrier.octets for carrier in bench.on_air()] == [len(frame) + 4 for frame in owed[1:]]
    assert bench.medium.counters.turns == {"reply": 2}


def test_expired_in_the_queue_is_not_sent() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)])
    sent: list[float] = []
    bench.ask(ONE)
    bench.run(0.01)
    bench.ask(TWO, CONTROL, trip(), until=bench.clock.wall_ms + 50, sent=lambda moment: sent.append(moment.mono))
    bench.ask(TWO, QUERY, until=bench.clock.wall_ms + 5000, sent=lambda moment: sent.append(moment.mono))
    bench.finish()
    assert [done.failure for done in bench.done] == [None, "expired", None]
    assert len(sent) == 1
    assert bench.medium.counters.expired == 1


def test_what_waits_can_be_taken_back() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)])
    running, waiting = bench.ask(ONE), bench.ask(TWO)
    bench.run(0.01)
    assert not bench.medium.cancel(bench.sessions[ONE], running)
    assert bench.medium.cancel(bench.sessions[TWO], waiting)
    assert not bench.medium.cancel(bench.sessions[TWO], waiting)
    bench.finish()
    assert [(done.request, done.failure) for done in bench.done] == [(waiting, "cancelled"), (running, None)]


def test_a_full_journal_stops_the_asking_but_no_control() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)])
    bench.bench.context.pause(True)
    bench.ask(ONE)
    bench.ask(TWO, CONTROL, trip())
    bench.run(30)
    assert [done.request.context for done in bench.done] == [CONTROL]
    bench.bench.context.pause(False)
    bench.finish()
    assert bench.order() == ["control", "poll"]
    assert bench.medium.counters.held == 1


def test_a_lost_line_ends_everything() -> None:
    bench = RadioBench([Script(ONE), Script(TWO)])
    bench.ask(ONE)
    bench.ask(TWO)
    bench.run(0.1)
    bench.link.lost(bench.clock.moment())
    bench.medium.link = None
    bench.medium.lost(bench.clock.moment())
    assert sorted((done.terminal, done.failure) for done in bench.done) == [(ONE, "lost"), (TWO, "lost")]
    assert bench.medium.deadline() is None


def test_one_who_is_asked_after_its_link_has_ended_is_lost() -> None:
    bench = RadioBench([Script(ONE)])
    bench.link.lost(bench.clock.moment())
    bench.ask(ONE)
    bench.run(1)
    assert [done.failure for done in bench.done] == ["lost"]
    assert not bench.on_air()


# --- the air that is free --------------------------------------------------------------------------------------------


def test_on_free_air_nobody_waits() -> None:
    if TYPE_CHECKING:
        from tests.gateway.link_side import Bench, End
    else:
        from link_side import Bench
    bench = Bench()
    end: End = bench.link()
    end.log_in()
    session = next(iter(bench.sessions))
    air = FreeAir(bench.clock)
    sent: list[float] = []
    first, second = Request(get()), Request(get())
    air.ask(session, first, POLL, sent=lambda moment: sent.append(moment.mono))
    air.ask(session, second, CONTROL, sent=lambda moment: sent.append(moment.mono))
    (asked,) = end.wire.answers()
    assert isinstance(asked, access.GetRequestNormalList)
    assert len(sent) == 1, "the second is not out yet"
    assert not air.cancel(session, first)
    assert air.cancel(session, second)
    air.ask(session, second, CONTROL, until=bench.clock.wall_ms)
    assert [event.result.name for _, event in bench.answered] == ["cancelled", "expired"]


# --- the law ---------------------------------------------------------------------------------------------------------


ASK = st.tuples(st.integers(0, 5), st.integers(0, 4), st.floats(0, 1.5))


@settings(max_examples=60, deadline=None)
@given(
    asks=st.lists(ASK, min_size=1, max_size=25),
    delays=st.lists(st.one_of(st.none(), st.floats(0, 0.15)), min_size=1, max_size=20),
    rate=st.sampled_from([0.0, 0.0, 1e-4, 1e-3]),
    echo=st.booleans(),
    piece=st.integers(1, 40),
)
def test_every_request_ends_once_and_the_master_never_talks_into_another(
    asks: list[tuple[int, int, float]], delays: list[float | None], rate: float, echo: bool, piece: int
) -> None:
    def delay(asked: int) -> float | None:
        return delays[asked % len(delays)]

    radio = RadioSettings(bit_error_rate=rate, echo=echo, piece=piece)
    # The answers' delays are below the drain's length: nobody answers after it.
    options = MediumOptions(answer_min_s=0.25, answer_max_s=0.5, max_frame=256)
    bench = RadioBench([Script(name, delay) for name in names(6)], radio, options)
    requests = []
    for place, priority, pause in asks:
        requests.append(bench.ask(names(6)[place], priority))
        bench.run(pause)
    bench.finish()
    assert sorted(id(done.request) for done in bench.done) == sorted(id(request) for request in requests)
    assert not bench.radio.violations
    assert sum(bench.medium.counters.air_seconds.values()) <= bench.now - 1000.0 + 0.5
    assert set(bench.medium.counters.turns) <= set(PRIORITIES)


# --- what is owed ----------------------------------------------------------------------------------------------------


def test_an_exchange_goes_on_before_what_is_owed_to_others() -> None:
    bench = RadioBench([Blocks(ONE), Script(TWO)])
    bench.ask(ONE, BACKFILL)
    bench.run(0.1)
    bench.medium.say(build_frame(3, Address.of(TWO), 0x10, model.build(get())))
    bench.finish()
    talkers = [carrier.talker for carrier in bench.on_air()]
    assert talkers == [MASTER, ONE] * 3 + [MASTER], "the reply goes last"
    assert bench.medium.counters.turns == {"backfill": 3, "reply": 1}


def test_octets_that_only_begin_like_our_own_are_given_out_in_the_end() -> None:
    bench = RadioBench([Dead(ONE)])
    bench.ask(ONE, retries=0)
    bench.run(0.3)
    assert bench.medium.state == "listening"
    before = bench.sieve.preamble
    bench.medium.received(b"\xfe\xfe\xfe", bench.clock.moment())
    bench.finish()
    bench.sieve.feed(b"\x68")
    assert bench.sieve.preamble - before == 3
    assert bench.medium.counters.echo_octets == 0
