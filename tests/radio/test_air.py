"""What the arbiter keeps: the queue, answer times, silence, echoes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from radio_parts import get

from gateway.air import (
    BACKFILL,
    CONTROL,
    POLL,
    PRIORITIES,
    QUERY,
    AnswerTime,
    AnswerTimes,
    Echo,
    MediumCounters,
    MediumOptions,
    Rounds,
    Silence,
    Ticket,
    Waiting,
)
from gateway.sessions import Session
from protocols.events import Request

OPTIONS = MediumOptions()


def session() -> Session:
    return Session(cast("Any", None), cast("Any", None))


# --- airtime ---------------------------------------------------------------------------------------------------------


def test_airtime_is_octets_times_character_over_rate() -> None:
    assert MediumOptions(bit_rate=1200).airtime(120) == pytest.approx(1.1)  # 8E1: 11 bits
    assert MediumOptions(bit_rate=9600, character_bits=10).airtime(96) == pytest.approx(0.1)
    assert MediumOptions(bit_rate=1200, gap_s=0.05, gap_octets=32).silence_s == pytest.approx(0.2933, abs=1e-4)
    assert MediumOptions(bit_rate=19200, gap_s=0.05, gap_octets=32).silence_s == 0.05


# --- the queue -------------------------------------------------------------------------------------------------------


def test_polls_of_a_terminal_that_is_asked_much_do_not_starve_another() -> None:
    waiting, many, one = Waiting(100, 50), session(), session()
    for who in (*[many] * 20, one):
        assert waiting.put(Ticket(POLL, who, Request(get())))
    order = [waiting.take(POLL, lambda _: True) for _ in range(3)]
    assert [ticket.session for ticket in order if ticket is not None] == [many, one, many]


@given(
    st.lists(st.tuples(st.integers(0, len(PRIORITIES) - 1), st.integers(0, 3), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 3),
)
def test_whoever_waits_gets_out_once_and_sizes_are_true(asked: list[tuple[int, int, bool]], barred: int) -> None:
    waiting, people = Waiting(20, 6), [session() for _ in range(4)]
    inside: list[Ticket] = []
    for priority, who, take in asked:
        ticket = Ticket(priority, people[who], Request(get()))
        of_priority = [other for other in inside if other.priority == priority]
        mine = [other for other in of_priority if other.session is people[who]]
        fits = len(of_priority) < 20 and len(mine) < 6
        assert waiting.put(ticket) is fits
        inside += [ticket] * fits
        if take:
            free = [other for other in inside if other.priority == priority and other.session is not people[barred]]
            out = waiting.take(priority, lambda ticket: ticket.session is not people[barred])
            assert (out is None) == (not free)
            if out is not None:
                # Never before an older one of the same terminal; below POLL before nobody older at all.
                older = [other for other in free if priority < POLL or other.session is out.session]
                assert out is older[0]
                inside.remove(out)
        assert len(waiting) == len(inside)
        assert {id(ticket) for ticket in waiting} == {id(ticket) for ticket in inside}
    for ticket in list(inside):
        assert ticket.request is not None
        assert waiting.remove(ticket.request) is ticket
        assert waiting.remove(ticket.request) is None
    assert len(waiting) == 0
    assert [waiting.count(priority) for priority in range(len(PRIORITIES))] == [0] * len(PRIORITIES)


def test_a_ticket_put_back_keeps_its_place_before_its_terminal() -> None:
    waiting, one, two = Waiting(2, 2), session(), session()
    for priority in (QUERY, BACKFILL):
        first, second = (Ticket(priority, one, Request(get())) for _ in range(2))
        assert waiting.put(first)
        assert waiting.put(second)
        assert waiting.take(priority, lambda _: True) is first
        other = Ticket(priority, two, Request(get()))
        assert waiting.put(other)
        waiting.put_back(first)
        taken = [waiting.take(priority, lambda _: True) for _ in range(3)]
        mine = [ticket for ticket in taken if ticket is not other]
        assert mine == [first, second]
    assert waiting.take(CONTROL, lambda _: True) is None


# --- the answer time -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(0, 20))
def test_the_answer_time_is_always_within_its_bounds(samples: list[float], silences: int) -> None:
    time = AnswerTime()
    for sample in samples:
        time.measured(sample)
    for _ in range(silences):
        time.silent()
    assert OPTIONS.answer_min_s <= time.timeout(OPTIONS) <= OPTIONS.answer_max_s


@given(st.floats(0.15, 0.9))
def test_the_answer_time_converges_to_what_is_measured(latency: float) -> None:
    time = AnswerTime()
    assert time.timeout(OPTIONS) == OPTIONS.answer_max_s
    for _ in range(30):
        time.measured(latency)
    assert time.timeout(OPTIONS) == pytest.approx(latency, rel=0.02)
    time.silent()
    assert time.timeout(OPTIONS) == pytest.approx(min(2 * latency, OPTIONS.answer_max_s), rel=0.02)
    time.measured(latency)
    assert time.timeout(OPTIONS) == pytest.approx(latency, rel=0.02)


def test_answer_times_are_kept_for_a_bounded_number() -> None:
    times = AnswerTimes()
    first = session()
    times.of(first).measured(0.2)
    assert times.of(first).mean == 0.2
    for _ in range(8192):
        times.of(session())
    assert times.of(first).mean is None


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_silent_terminal_is_left_out_of_twice_as_many_rounds_each_time() -> None:
    silence, one = Silence(MediumOptions(skip_most=7)), session()
    asked: list[int] = []
    for number in range(60):
        # A round in five minutes: airtime is never what is missing.
        if silence.admits(one, 1.0, number * 300.0) is not None:
            asked.append(number)
            silence.silent(one)
    assert asked == [0, 1, 3, 7, 15, 23, 31, 39, 47, 55]
    silence.heard(one)
    assert silence.admits(one, 1.0, 60 * 300.0) == 0.0


def test_silent_terminals_share_a_part_of_the_airtime_fairly() -> None:
    """A saturated channel: a round of 20 s follows another, ten terminals are dead, a poll of one costs 1.3 s."""
    silence, dead = Silence(OPTIONS), [session() for _ in range(10)]
    for one in dead:
        silence.silent(one)
        silence.silent(one)
    polled = dict.fromkeys(range(10), 0)
    spent = 0.0
    for number in range(400):
        charged = [silence.admits(one, 1.3, number * 20.0) for one in dead]
        assert sum(charge is not None for charge in charged) <= 1
        for place, charge in enumerate(charged):
            if charge is not None:
                polled[place] += 1
                spent += 1.3
                silence.silent(dead[place])
    assert spent <= 400 * 20 * OPTIONS.silent_share + OPTIONS.silent_burst_s + 1.3
    assert min(polled.values()) >= 5
    assert max(polled.values()) - min(polled.values()) <= 3


def test_one_who_is_asked_no_more_does_not_bar_the_others() -> None:
    silence, gone, there = Silence(OPTIONS), session(), session()
    for one in (gone, there):
        silence.silent(one)
        silence.silent(one)
    for one in (gone, there):
        assert silence.admits(one, 1.0, 0.0) is None  # left out of one round
    assert silence.admits(there, 100.0, 1.0) == 100.0  # all airtime for half an hour
    assert silence.admits(gone, 1.0, 1.0) is None  # waits for airtime, and is never asked again
    silence.silent(there)
    answers = [silence.admits(there, 1.0, 3000.0 + number) for number in range(8)]
    assert [answer is not None for answer in answers].index(True) <= 5


# --- echoes ----------------------------------------------------------------------------------------------------------


def cut(octets: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(octets) + 1) for place in places), len(octets)]
    return [octets[start:end] for start, end in pairwise(edges)]


@given(
    said=st.binary(min_size=6, max_size=40),
    before=st.binary(max_size=10),
    answer=st.binary(max_size=60),
    places=st.lists(st.integers(0, 200), max_size=12),
    echoes=st.booleans(),
)
def test_an_echo_is_dropped_whole_and_nothing_else(
    said: bytes, before: bytes, answer: bytes, places: list[int], echoes: bool
) -> None:
    said = b"\xfe" * 4 + said
    heard = before + (said if echoes else b"") + answer
    expected = heard.replace(said, b"", 1)
    echo = Echo()
    assert echo.said(said) == b""
    out = b"".join(echo.heard(piece) for piece in cut(heard, places)) + echo.over()
    assert out == expected
    assert echo.octets == len(heard) - len(expected)


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_a_round_is_over_when_a_terminal_comes_again() -> None:
    counters, rounds, people = MediumCounters(), Rounds(), [session() for _ in range(3)]
    for number, who in enumerate((*people, *people)):
        rounds.begin(who, counters, 10.0 * number)
    assert counters.cycle_seconds == 30.0
    rounds.end(counters, 55.0)
    assert counters.cycle_seconds == 25.0
