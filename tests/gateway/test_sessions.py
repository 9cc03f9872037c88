"""Sessions: room, takeover by epoch, timers."""

from __future__ import annotations

from link_side import Bench

from gateway.sessions import Session


def session_of(bench: Bench, terminal: str) -> Session:
    session = bench.sessions.get(terminal)
    assert session is not None
    return session


def test_an_offline_terminal_is_forgotten_for_a_new_one() -> None:
    bench = Bench(limit=3)
    ends = [bench.link() for _ in range(4)]
    for number, end in enumerate(ends[:3]):
        end.log_in(f"{number:012d}", period=10)
    ends[1].lost()
    bench.clock.forward(100)
    bench.tick()
    ends[3].log_in("000000000009")
    assert bench.sessions.get("000000000001") is None
    assert len(bench.sessions) == bench.sessions.counters.known == 3
    assert bench.sessions.counters.forgotten == 1


def test_a_terminal_that_only_lost_its_link_is_not_forgotten() -> None:
    """Its presence follows heartbeats: it may be back in a second, and its repeated reports must be known."""
    bench = Bench(limit=1)
    first = bench.link()
    first.log_in("000000000001")
    first.lost()
    second = bench.link()
    second.octets(b"")
    moment = bench.clock.moment()
    assert bench.sessions.of("000000000002", bench.context) is None
    assert session_of(bench, "000000000001").machine.presence == "online"
    assert bench.sessions.overdue(moment) == []


def test_epochs_only_grow_and_an_old_end_changes_nothing() -> None:
    bench = Bench()
    terminal = "000000000001"
    ends = [bench.link() for _ in range(3)]
    epochs = []
    for end in ends:
        end.log_in(terminal)
        epochs.append(session_of(bench, terminal).epoch)
    assert epochs == sorted(set(epochs))
    session = session_of(bench, terminal)
    for end, epoch in zip(ends[:2], epochs[:2], strict=True):
        assert bench.sessions.detach(session, end.link, epoch, bench.clock.moment()) == []
        assert session.link is ends[2].link
    ends[2].lost()
    assert session_of(bench, terminal).link is None


def test_a_terminal_that_comes_back_to_its_old_link_is_taken_back() -> None:
    bench = Bench()
    shared, own = bench.link(), bench.link()
    shared.log_in("000000000001")
    shared.log_in("000000000002")
    own.log_in("000000000001")
    assert not own.link.closing
    shared.log_in("000000000001")
    assert own.wire.reason == "taken over by another connection"
    assert session_of(bench, "000000000001").link is shared.link
    assert bench.sessions.counters.takeovers == 2


def test_timers_ask_for_a_session_once_and_not_before_its_time() -> None:
    bench = Bench()
    end = bench.link()
    terminals = [f"{number:012d}" for number in range(1, 6)]
    for terminal in terminals:
        end.log_in(terminal, period=100)
    bench.clock.forward(100)
    for terminal in terminals[:2]:
        end.report(terminal=terminal, energy=int(terminal))  # a sign of life moves the deadline
    bench.clock.forward(50)
    due = bench.sessions.overdue(bench.clock.moment())
    assert sorted(session.machine.terminal for session in due) == terminals[2:]
    assert bench.sessions.overdue(bench.clock.moment()) == []
    for session in due:
        bench.context.dispatch(session, session.machine.tick(bench.clock.moment()), bench.clock.moment())
    assert {state[0] for state in bench.shelf.states if state[1] == "suspect"} == set(terminals[2:])
    bench.clock.forward(100)
    assert len(bench.sessions.overdue(bench.clock.moment())) == 5


def test_not_all_that_is_overdue_is_done_in_one_turn() -> None:
    bench = Bench(limit=1000)
    end = bench.link()
    for number in range(50):
        end.log_in(f"{number:012d}", period=10)
    bench.clock.forward(100)
    moment = bench.clock.moment()
    assert len(bench.sessions.overdue(moment, most=20)) == 20
    assert len(bench.sessions.overdue(moment, most=1000)) == 30


def test_the_heap_does_not_grow_with_every_frame() -> None:
    bench = Bench()
    end = bench.link()
    end.log_in(period=100)
    for energy in range(200):
        bench.clock.forward(0.1)
        end.report(energy)
    assert len(bench.sessions._heap) <= 2
