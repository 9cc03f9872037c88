"""LINK, presence, admission, and terminals that move between links."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal_side import (
    ADDRESS,
    START,
    TERMINAL,
    WALL,
    Pair,
    answered,
    data_deliveries,
    dated,
    framed,
    get_request,
    get_response,
    login,
    names,
    of_kind,
    presences,
    states,
    token_of,
)

from protocols.addresses import logical_of, terminal_of
from protocols.events import Answered, CloseWanted, Deliver, Identified, Moment, ProgrammingError, Violation
from protocols.presence import TRANSITIONS, Presence, Trigger
from wire698 import link, model
from wire698.frame import GROUP, WILDCARD, Address, build_frame, parse_frame

# --- login, heartbeat, logout --------------------------------------------------------------------------------------


def test_login_is_answered_with_the_three_times() -> None:
    """The login of the reference; header, PIID, result and request time of its answer are the reference's octets."""
    raw = bytes.fromhex("681E00810507091905162000603001000000B407E005130408050000A4FC8316")
    frame = parse_frame(raw)
    pair = Pair(frame.address.terminal)
    assert pair.machine.terminal == "201605190907"
    # 2016-05-19 08:05:01.607 in Shanghai
    pair.now = Moment(5.0, 1463616301607)
    pair.attach()
    events = pair.feed_frame(raw)
    (answer,) = pair.machine.outgoing()
    assert answer.hex().upper().startswith("6830000105070919051620" + "10614F" + "810080")
    said = parse_frame(answer).data.hex().upper()
    assert said == "810080" + "07E005130408050000A4" + "07E0051304080501025F" * 2
    assert of_kind(events, Identified) == [Identified("201605190907", login=True)]
    (state,) = states(events)
    assert (state.presence, state.reason, state.since, state.last_seen) == (
        "online",
        "login",
        1463616301607,
        1463616301607,
    )
    assert (state.heartbeat_s, state.clock_offset_ms) == (180, -1443)


@pytest.mark.parametrize("piid", [0, 1, 0x3F, 0x41, 0xBF])
@pytest.mark.parametrize("kind", [link.LOGIN, link.HEARTBEAT, link.LOGOUT])
def test_every_link_request_is_answered_with_its_piid_and_time(kind: int, piid: int) -> None:
    pair = Pair()
    pair.log_in()
    pair.after(7)
    pair.feed(login(kind=kind, time="07E80101000000000123", piid=piid), 0x81, client=0)
    (frame,) = pair.out()
    assert (frame.control, frame.address, frame.client) == (0x01, ADDRESS, 0x10)
    response = model.parse(frame.data).apdu
    assert isinstance(response, link.LinkResponse)
    assert (response.piid, response.result) == (piid, 0x80)
    assert response.request.hex().upper() == "07E80101000000000123"
    assert response.received.hex().upper() == response.response.hex().upper() == "07E90B19020000070000"


def test_the_client_address_is_the_settings() -> None:
    pair = Pair(client_address=0xA1)
    pair.attach()
    pair.feed(login(), 0x81, client=0)
    (frame,) = pair.out()
    assert frame.client == 0xA1


def test_a_clock_that_is_not_synchronised_is_not_trusted() -> None:
    pair = Pair(clock_trusted=False)
    pair.attach()
    pair.feed(login(), 0x81)
    assert pair.out_hex()[0][:6] == "810000"


def test_a_clock_in_bcd_logs_in_all_the_same() -> None:
    pair = Pair()
    pair.attach()
    (state,) = states(pair.feed(login(time="20160519040805000000"), 0x81))
    assert state.presence == "online"
    assert state.clock_offset_ms is None
    assert pair.out_hex()[0][6:26] == "20160519040805000000"


def test_a_heartbeat_of_one_that_has_not_logged_in_identifies_it() -> None:
    pair = Pair()
    pair.attach()
    events = pair.feed(login(kind=link.HEARTBEAT), 0x81)
    assert of_kind(events, Identified) == [Identified(TERMINAL, login=False)]
    assert presences(events) == [("online", "heartbeat")]
    assert not of_kind(pair.feed(login(kind=link.HEARTBEAT), 0x81), Identified)


def test_a_repeated_login_tells_the_state_again() -> None:
    pair = Pair()
    pair.log_in()
    pair.after(10)
    (state,) = states(pair.feed(login(), 0x81))
    assert (state.presence, state.since, state.last_seen) == ("online", WALL, WALL + 10_000)
    assert not states(pair.feed(login(kind=link.HEARTBEAT), 0x81))


def test_logout_is_answered_and_closes() -> None:
    pair = Pair()
    pair.log_in()
    pair.after(20)
    events = pair.feed(login(kind=link.LOGOUT), 0x81)
    assert presences(events) == [("offline", "logout")]
    assert states(events)[0].last_seen == WALL + 20_000
    assert names(events, CloseWanted) == ["logout"]
    assert len(pair.out()) == 1
    assert pair.machine.presence == "offline"
    assert pair.machine.deadline() is None


def test_ids_of_states_are_their_own() -> None:
    pair = Pair()
    seen = set()
    for second in range(5):
        pair.after(second)
        (state,) = states(pair.log_in())
        seen.add(state.id)
    assert len(seen) == 5


# --- who may speak -------------------------------------------------------------------------------------------------


def test_one_that_is_not_allowed_gets_result_2_and_is_closed() -> None:
    pair = Pair(allow=lambda terminal: terminal != TERMINAL)
    pair.attach()
    events = pair.feed(login(), 0x81)
    assert names(events, CloseWanted) == ["terminal is not allowed"]
    assert pair.out_hex()[0][:6] == "810082"
    assert not of_kind(events, Identified)
    assert not states(events)
    assert pair.machine.presence == "offline"


@pytest.mark.parametrize(
    "said",
    [
        dated(),
        get_response(1),
        get_response(1, follow=dated().records),
        link.ReleaseNotification(get_response(1).piid, bytes(7), bytes(7)),  # type: ignore[attr-defined]
    ],
)
def test_one_that_is_not_allowed_gets_nothing_in(said: Any) -> None:
    pair = Pair(allow=lambda _: False)
    pair.attach()
    assert pair.feed(said) == [CloseWanted("terminal is not allowed")]
    assert not pair.out()
    assert pair.feed_fragments(said, 4)[0] == CloseWanted("terminal is not allowed")
    assert not pair.out()
    assert pair.machine.presence == "offline"


def test_a_report_without_login_identifies_by_its_address() -> None:
    pair = Pair()
    pair.attach()
    events = pair.feed(dated())
    assert of_kind(events, Identified) == [Identified(TERMINAL, login=False)]
    assert presences(events) == [("online", "report")]
    pair.settle(token_of(events))
    assert len(pair.out()) == 1


def test_a_report_without_login_may_be_refused() -> None:
    pair = Pair(unregistered="refuse")
    pair.attach()
    events = pair.feed(dated())
    assert names(events, Violation) == ["not-logged-in"]
    assert names(events, CloseWanted) == ["not logged in"]
    assert not of_kind(events, Deliver)
    assert not pair.out()
    pair.feed(login(), 0x81)
    assert data_deliveries(pair.feed(dated()))
    pair.feed(login(kind=link.LOGOUT), 0x81)
    assert not of_kind(pair.feed(dated(energy=2)), Deliver)


@pytest.mark.parametrize("said", ["FF00", "050100400102000000"[:16], "8801", "100108A0A1A2A3A4A5A6A703810000000200 14"])
def test_what_says_nothing_useful_identifies_nobody(said: str) -> None:
    pair = Pair()
    pair.attach()
    events = pair.feed(said.replace(" ", ""))
    assert len(events) == 1
    assert isinstance(events[0], Violation)
    assert pair.machine.deadline() is None  # offline as before
    pair.feed(login(), 0x81)
    pair.after(400)
    pair.feed(said.replace(" ", ""))
    pair.after(700)
    pair.tick()
    assert pair.machine.presence == "online"


def test_terminal_of_a_frame() -> None:
    assert terminal_of(framed(dated())) == TERMINAL
    for kind in (WILDCARD, GROUP, 3):
        assert terminal_of(framed(dated(), address=Address.of(TERMINAL, kind))) is None
    assert terminal_of(framed(dated(), address=Address.of("000000000007"))) == "000000000007"
    extended = Address(0x26, ADDRESS.sa + b"\x01")
    assert terminal_of(framed(dated(), address=extended)) == TERMINAL
    assert logical_of(extended) == 1
    assert logical_of(Address.of(TERMINAL, logical=1)) == 1
    assert logical_of(ADDRESS) == 0


# --- presence ------------------------------------------------------------------------------------------------------


def test_the_table_of_transitions_is_complete_and_means_what_it_says() -> None:
    assert set(TRANSITIONS) == {(presence, trigger) for presence in get_args(Presence) for trigger in get_args(Trigger)}
    for (before, trigger), after in TRANSITIONS.items():
        if trigger == "heard":
            assert after == "online"
        elif trigger in ("logout", "missed") or before == "offline":
            assert after == "offline"
        else:
            assert after == "suspect"


@pytest.mark.parametrize("period", [0, 5, 60, 180, 65535])
def test_silence_is_measured_against_the_promise(period: int) -> None:
    pair = Pair()
    pair.log_in(period)
    promised = period or 300
    assert pair.machine.deadline() == START.mono + promised * 1.5
    pair.after(promised * 1.5 - 0.001)
    assert pair.tick() == []
    pair.after(promised * 1.5)
    assert presences(pair.tick()) == [("suspect", "heartbeat_late")]
    assert pair.machine.deadline() == START.mono + promised * 2.5
    pair.after(promised * 2.5 - 0.001)
    assert pair.tick() == []
    pair.after(promised * 2.5)
    (state,) = states(pair.tick())
    assert (state.presence, state.reason) == ("offline", "heartbeat_missed")
    assert (state.since, state.last_seen) == (pair.now.wall, WALL)
    assert pair.machine.deadline() is None
    assert pair.tick() == []
    assert presences(pair.feed(login(kind=link.HEARTBEAT), 0x81)) == [("online", "heartbeat")]


def test_the_default_heartbeat_is_the_settings() -> None:
    pair = Pair(heartbeat_default_s=60, suspect_after=2, offline_after=3)
    (state,) = states(pair.log_in(0))
    assert state.heartbeat_s == 60
    assert pair.machine.deadline() == START.mono + 120
    pair.after(180)
    assert presences(pair.tick()) == [("offline", "heartbeat_missed")]


@pytest.mark.parametrize("said", [dated(), get_response(9), "FF00"])
def test_any_good_frame_is_a_sign_of_life(said: Any) -> None:
    pair = Pair()
    pair.log_in(100)
    pair.after(150)
    assert presences(pair.tick()) == [("suspect", "heartbeat_late")]
    assert presences(pair.feed(said)) == [("online", "frame")]
    assert pair.machine.deadline() == START.mono + 150 + 150


@given(st.floats(0, 1e9), st.integers(1, 65535), st.floats(0.1, 9), st.floats(0.1, 9))
def test_a_tick_at_the_deadline_always_gets_on(mono: float, period: int, suspect: float, offline: float) -> None:
    """Whatever the rounding: no tick at the deadline leaves the deadline where it is."""
    pair = Pair(suspect_after=suspect, offline_after=offline)
    pair.now = Moment(mono, WALL)
    pair.log_in(period)
    for _ in range(2):
        deadline = pair.machine.deadline()
        if deadline is None:
            break
        pair.now = Moment(deadline, WALL)
        assert pair.tick()
        after = pair.machine.deadline()
        assert after is None or after > deadline or pair.machine.presence == "suspect"
    pair.now = Moment(max(mono + period * offline, pair.now.mono), WALL)
    pair.tick()
    assert pair.machine.presence == "offline"
    assert pair.machine.deadline() is None


def test_the_end_of_a_connection_is_not_the_end_of_presence() -> None:
    pair = Pair()
    pair.log_in()
    assert pair.machine.detach(pair.machine.epoch, pair.now) == []
    assert pair.machine.presence == "online"
    pair.after(450)
    assert presences(pair.tick()) == [("suspect", "heartbeat_late")]


# --- from link to link ---------------------------------------------------------------------------------------------


def test_an_older_links_end_changes_nothing() -> None:
    pair = Pair()
    pair.log_in()
    old = pair.machine.epoch
    pair.log_in()
    assert pair.machine.epoch == old + 1
    assert pair.machine.detach(old, pair.now) == []
    assert pair.machine.attached
    request, events = pair.ask(get_request())
    assert (request.attempts, events) == (1, [])
    assert pair.machine.detach(old, pair.now) == []
    assert answered(pair.machine.detach(old + 1, pair.now)).name == "lost"
    assert pair.machine.detach(old + 1, pair.now) == []
    assert not pair.machine.attached


def test_what_was_to_be_written_on_the_old_link_is_not_written_on_the_new_one() -> None:
    pair = Pair()
    pair.attach()
    pair.feed(login(), 0x81)
    pair.attach()
    assert pair.out() == []


def test_a_takeover_loses_the_request_under_way_and_keeps_those_that_wait() -> None:
    pair = Pair()
    pair.log_in()
    first, _ = pair.ask(get_request())
    second, _ = pair.ask(get_request("40000200"))
    pair.out()
    events = pair.attach()
    assert [(event.request, event.result.name) for event in of_kind(events, Answered)] == [(first, "lost")]
    assert pair.out() == []
    pair.feed(login(), 0x81)
    assert [frame.control for frame in pair.out()] == [0x01, 0x43]
    assert second.attempts == 1


def test_requests_wait_for_one_that_never_logs_in_to_speak() -> None:
    pair = Pair()
    pair.ask(get_request())
    pair.attach()
    assert pair.out() == []
    pair.feed(dated())
    assert [frame.control for frame in pair.out()] == [0x43]


def test_settling_a_token_of_an_older_link_writes_nothing_on_the_new_one() -> None:
    pair = Pair()
    pair.log_in()
    token = token_of(pair.feed(dated()))
    pair.log_in()
    pair.settle(token)
    assert pair.out() == []
    pair.feed(dated(piid=5))
    assert len(pair.out()) == 1


def test_settling_a_token_without_a_link_writes_nothing() -> None:
    pair = Pair()
    pair.log_in()
    token = token_of(pair.feed(dated()))
    pair.machine.detach(pair.machine.epoch, pair.now)
    pair.settle(token)
    assert pair.out() == []


def test_a_frame_without_a_link_is_our_fault() -> None:
    pair = Pair()
    with pytest.raises(ProgrammingError):
        pair.feed(login(), 0x81)
    pair.log_in()
    pair.machine.detach(pair.machine.epoch, pair.now)
    with pytest.raises(ProgrammingError):
        pair.feed(dated())


def test_requests_go_to_the_terminal_not_to_the_server_behind_it() -> None:
    pair = Pair()
    pair.log_in()
    pair.feed(dated(), address=Address.of(TERMINAL, logical=1))
    pair.ask(get_request())
    assert [frame.address for frame in pair.out()] == [ADDRESS]
    behind = Pair()
    behind.attach()
    behind.feed(dated(), address=Address.of(TERMINAL, logical=1))
    behind.ask(get_request())
    assert [frame.address for frame in behind.out()] == [Address.of(TERMINAL, logical=1)]


def test_frames_are_given_out_once() -> None:
    pair = Pair()
    pair.attach()
    pair.feed(login(), 0x81)
    assert len(pair.out()) == 1
    assert pair.out() == []


def test_scrambled_and_odd_control_octets_are_taken_by_their_apdu() -> None:
    """Oddity 5: judged by the APDU's tag."""
    for control in (0x81, 0x83, 0xC3, 0x03):
        pair = Pair()
        pair.attach()
        assert of_kind(pair.feed(login(), control), Identified)
    scrambled = build_frame(0x81, ADDRESS, 0, model.build(login()), scrambled=True)
    pair = Pair()
    pair.attach()
    assert of_kind(pair.feed_frame(scrambled), Identified)
