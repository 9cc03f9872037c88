"""The link, without a socket: whose frames go where, what is acknowledged when, what stops and what ends it."""

from __future__ import annotations

import pytest
from link_side import Bench, frame
from terminal_side import TERMINAL, dated, login

from gateway.link import MOST_VIOLATIONS
from messages import Reading
from wire698.frame import Address, build_frame

OTHER = "665544332211"


def test_a_report_is_acknowledged_when_it_is_durable_and_not_before() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in()
    assert end.report(piid=9) == []
    assert len(bench.shelf.data) == 1
    assert bench.shelf.data[0].channel == "tcp"
    assert bench.context.acknowledgement.count == 0
    bench.clock.forward(0.5)
    assert bench.commit() == 1
    (answer,) = end.wire.answers()
    assert (type(answer).__name__, int(answer.piid)) == ("ReportResponseRecordList", 9)
    assert bench.context.acknowledgement.count == 1
    assert bench.context.acknowledgement.sum_us == 500_000


def test_what_a_batch_settles_is_one_write() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in()
    for energy in range(5):
        end.report(energy)
    bench.commit()
    assert len(end.wire.writes) == 1
    assert len(end.wire.answers()) == 5


def test_too_much_unsettled_stops_reading_and_half_of_it_resumes() -> None:
    bench = Bench(max_unsettled=4)
    end = bench.link()
    end.log_in()
    for energy in range(3):
        end.report(energy)
    assert (end.wire.paused, bench.context.holds) == (False, 0)
    end.report(3)
    assert (end.wire.paused, bench.context.holds) == (True, 1)
    end.report(4)  # was read with the one before
    paused = []
    for _ in range(3):
        bench.commit(1)
        paused.append(end.wire.paused)
    assert paused == [True, True, False]
    bench.commit()
    assert len(end.wire.answers()) == 5
    assert (end.link.unsettled, bench.context.holds) == (0, 1)


def test_what_cannot_be_stored_is_not_acknowledged_and_its_repetition_is_delivered() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in()
    bench.shelf.full = True
    assert end.report(piid=1) == []
    assert bench.commit() == 0
    assert (end.wire.answers(), bench.shelf.data, end.link.unsettled) == ([], [], 0)
    # Heartbeats are answered all the same: the terminal keeps its link and its data.
    assert len(end.says(login(kind=1), 0x81)) == 1
    bench.shelf.full = False
    end.report(piid=2)
    assert bench.commit() == 1
    assert [int(answer.piid) for answer in end.wire.answers()] == [2]


def test_a_journal_without_room_pauses_every_link_and_one_may_be_held_besides() -> None:
    bench = Bench(max_unsettled=1)
    one, other = bench.link(), bench.link()
    one.log_in()
    one.report()
    bench.context.pause(True)
    assert (one.wire.paused, other.wire.paused, bench.context.pauses) == (True, True, 1)
    bench.context.pause(False)
    assert (one.wire.paused, other.wire.paused) == (True, False)
    bench.commit()
    assert not one.wire.paused
    assert bench.context.pauses == 1


def test_a_second_login_takes_over_and_closes_the_first_link() -> None:
    bench = Bench()
    old, new = bench.link(), bench.link()
    old.log_in()
    old.report(energy=1, piid=1)
    bench.clock.forward(1)
    new.log_in()
    assert old.wire.reason == "taken over by another connection"
    assert bench.sessions.counters.takeovers == 1

    # The old link's report becomes durable late: nothing is written, on neither link.
    assert bench.commit() == 1
    assert (old.wire.writes, new.wire.writes) == ([], [])
    # Said again on the new link it is acknowledged there, and not stored twice.
    (answer,) = new.report(energy=1, piid=2)
    assert int(answer.piid) == 2
    assert len(bench.shelf.data) == 1

    # The old link's end does not take the new session offline.
    old.lost()
    session = bench.sessions.get(TERMINAL)
    assert session is not None
    assert session.link is new.link
    assert session.machine.presence == "online"
    assert [state[1:] for state in bench.shelf.states] == [("online", "login"), ("online", "login")]
    new.report(energy=2, piid=3)
    assert bench.commit() == 1
    assert [int(answer.piid) for answer in new.wire.answers()] == [3]
    assert len(bench.sessions) == 1


def test_a_report_repeated_on_the_new_link_before_its_commit_is_answered_there_only() -> None:
    bench = Bench()
    old, new = bench.link(), bench.link()
    old.log_in()
    old.report(energy=7, piid=1)
    new.log_in()
    assert new.report(energy=7, piid=2) == []
    assert bench.commit() == 1
    assert [int(answer.piid) for answer in new.wire.answers()] == [2]
    assert old.wire.writes == []
    assert len(bench.shelf.data) == 1


def test_what_an_old_link_still_has_to_say_is_not_heard() -> None:
    bench = Bench()
    old, new = bench.link(), bench.link()
    old.log_in()
    new.log_in()
    before = len(bench.shelf.messages)
    assert old.report() == []
    assert len(bench.shelf.messages) == before
    session = bench.sessions.get(TERMINAL)
    assert session is not None
    assert session.link is new.link


def test_many_terminals_share_a_link_and_one_may_leave_it() -> None:
    bench = Bench()
    end = bench.link()
    terminals = [f"{number:012d}" for number in range(1, 51)]
    for terminal in terminals:
        end.log_in(terminal)
    stream = b"".join(frame(dated(piid=1, energy=int(terminal)), terminal=terminal) for terminal in terminals)
    assert end.octets(stream) == []
    assert bench.commit() == 50
    assert len(end.wire.answers()) == 50
    assert [message.terminal for message in bench.shelf.data] == terminals

    (goodbye,) = end.says(login(kind=2), 0x81, terminals[0])
    assert type(goodbye).__name__ == "LinkResponse"
    assert end.wire.reason is None
    assert (terminals[0], "offline", "logout") in bench.shelf.states
    session = bench.sessions.get(terminals[0])
    assert session is not None
    assert session.link is None

    # One of them is taken over: the link stays for the others.
    elsewhere = bench.link()
    elsewhere.log_in(terminals[1])
    assert end.wire.reason is None
    end.report(terminal=terminals[2], energy=5)
    assert bench.commit() == 1
    end.lost()
    assert {state[0] for state in bench.shelf.states if state[1] == "offline"} == {terminals[0]}


def test_terminals_on_one_link_are_bounded() -> None:
    bench = Bench(max_terminals=3)
    end = bench.link()
    for number in range(3):
        end.log_in(f"{number:012d}")
    assert end.says(login(), 0x81, "000000000009") == []
    assert bench.context.violations == {"too-many-terminals": 1}
    assert len(bench.sessions) == 3
    assert end.wire.reason is None


def test_sessions_are_bounded() -> None:
    bench = Bench(limit=2)
    ends = [bench.link() for _ in range(3)]
    for number, end in enumerate(ends[:2]):
        end.log_in(f"{number:012d}")
    assert ends[2].says(login(), 0x81, OTHER) == []
    assert ends[2].wire.reason == "no room for another terminal"
    assert bench.context.violations == {"no-room": 1}
    assert bench.sessions.counters.refused == 1


def test_a_terminal_outside_the_allow_list_is_told_so_and_closed() -> None:
    bench = Bench(allow=lambda terminal: terminal == OTHER)
    end = bench.link()
    (answer,) = end.says(login(), 0x81)
    assert answer.result & 7 == 2
    assert end.wire.reason == "terminal is not allowed"
    assert not end.link.identified
    assert end.report() == []
    assert bench.shelf.messages == []


@pytest.mark.parametrize("way", ["identify", "refuse"])
def test_a_report_without_a_login(way: str) -> None:
    bench = Bench(unregistered=way)
    end = bench.link()
    end.report(piid=4)
    if way == "refuse":
        assert end.wire.reason == "not logged in"
        assert bench.shelf.messages == []
        assert bench.context.violations == {"not-logged-in": 1}
        return
    assert bench.commit() == 1
    assert [int(answer.piid) for answer in end.wire.answers()] == [4]
    assert bench.shelf.states == [(TERMINAL, "online", "report")]
    assert end.link.identified


def test_good_frames_that_say_nothing_identify_nobody() -> None:
    bench = Bench()
    end = bench.link()
    end.octets(build_frame(0x83, Address.of(TERMINAL), 0x10, b"\xff\xff\xff"))
    assert not end.link.identified
    assert bench.context.violations == {"apdu": 1}
    assert bench.context.counters.wire_errors == 1
    assert bench.shelf.messages == []
    end.log_in()
    assert end.link.identified


def test_a_frame_of_no_single_terminal_is_a_violation() -> None:
    bench = Bench()
    end = bench.link()
    everybody = Address(0xC0, b"\xaa")
    end.octets(build_frame(0x83, everybody, 0x10, b"\x01\x00\x00\x01\x2c"))
    assert bench.context.violations == {"address-kind": 1}
    assert len(bench.sessions) == 0


def test_kinds_of_violation_are_bounded() -> None:
    bench = Bench()
    for number in range(MOST_VIOLATIONS + 20):
        bench.context.violation(f"kind-{number}: text", b"")
    assert len(bench.context.violations) == MOST_VIOLATIONS
    assert bench.context.counters.wire_errors == MOST_VIOLATIONS + 20


def test_garbage_is_counted_by_its_reason_and_hurts_no_frame() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in()
    good = frame(dated())
    bad_header = good[:3] + bytes((good[3] ^ 1,)) + good[4:]
    bad_body = good[:-5] + bytes((good[-5] ^ 1,)) + good[-4:]
    oversized = b"\x68\xff\xff\x83\x05\x11\x22"
    end.octets(b"noise" + bad_header + bad_body + oversized + good)
    counters = bench.context.counters
    assert counters.header_errors >= 1
    assert counters.frame_errors >= 1
    assert counters.oversized >= 1
    assert counters.garbage_octets == 5 + len(bad_header) + len(bad_body) + len(oversized)
    assert counters.frames_in == 2
    assert bench.commit() == 1


def test_half_a_frame_and_silence() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in()
    good = frame(dated(piid=1))
    end.octets(good[:-1])
    assert bench.context.half == {end.link}
    end.link.stale()
    assert bench.context.half == set()
    assert bench.context.counters.garbage_octets == len(good) - 1
    end.octets(good)
    assert bench.commit() == 1
    end.octets(good[:20])
    end.octets(good[20:])
    assert bench.context.half == set()
    end.octets(good[:9])
    end.lost()
    assert bench.context.half == set()
    assert bench.context.links == set()


def test_raw_frames_of_chosen_terminals() -> None:
    bench = Bench(raw=lambda terminal: terminal == TERMINAL)
    end = bench.link()
    end.log_in()
    end.log_in(OTHER)
    assert [(raw.terminal, raw.direction) for raw in bench.shelf.raws] == [(TERMINAL, "up"), (TERMINAL, "down")]
    assert bench.shelf.raws[0].frame == frame(login(), 0x81).hex().upper()
    assert bytes.fromhex(bench.shelf.raws[1].frame)[0] == 0x68


def test_silence_makes_suspect_then_offline() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in(period=100)
    bench.clock.forward(149)
    bench.tick()
    assert [state[1] for state in bench.shelf.states] == ["online"]
    bench.clock.forward(1)
    bench.tick()
    bench.clock.forward(100)
    bench.tick()
    assert [state[1:] for state in bench.shelf.states[1:]] == [
        ("suspect", "heartbeat_late"),
        ("offline", "heartbeat_missed"),
    ]


def test_nothing_is_taken_after_the_close() -> None:
    bench = Bench()
    end = bench.link()
    end.octets(frame(login(), 0x81) + frame(login(kind=2), 0x81) + frame(dated()))
    assert end.wire.reason == "logout"
    assert not any(isinstance(message, Reading) for message in bench.shelf.messages)
    end.link.close("again")
    assert end.wire.reason == "logout"
