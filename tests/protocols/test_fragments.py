"""Link fragments 链路分帧, both ways."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal_side import (
    ADDRESS,
    CLIENT,
    START,
    Pair,
    ack,
    answered,
    answers,
    array,
    at,
    data_deliveries,
    dated,
    get_request,
    get_response,
    messages_of,
    names,
    oad,
    octets_of,
    of_kind,
    token_of,
    u16,
    values_report,
    with_piid,
)

from protocols.events import Deliver, Violation
from wire698 import model
from wire698.access import SetRequestNormal, SetResponseNormal
from wire698.frame import Frame, build_fragment, build_frame, parse_fragment
from wire698.values import Dar, Data, Piid, Tag

FIRST, LAST, MIDDLE = 0, 1, 3
REPORTED = octets_of(dated())


def online(**options: Any) -> Pair:
    pair = Pair(**options)
    pair.log_in(65535)
    return pair


def pieces_of(octets: bytes, cuts: list[int]) -> list[bytes]:
    """User data of the fragments that end at `cuts`."""
    edges = [0, *sorted(cuts), len(octets)]
    parts = [octets[a:b] for a, b in pairwise(edges)]
    last = len(parts) - 1
    return [build_fragment(n, FIRST if n == 0 else LAST if n == last else MIDDLE, part) for n, part in enumerate(parts)]


def feed_all(pair: Pair, pieces: list[bytes], control: int = 0xA3) -> list[Any]:
    return [event for piece in pieces for event in pair.feed(piece, control)]


# --- in ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.sets(st.integers(1, len(REPORTED) - 1), min_size=1, max_size=10))
def test_a_report_in_any_pieces_is_the_report(cuts: set[int]) -> None:
    pair = online()
    pieces = pieces_of(REPORTED, list(cuts))
    events = feed_all(pair, pieces)
    assert messages_of(events) == messages_of(online().feed(REPORTED))
    assert pair.out_hex() == [ack(n).hex().upper() for n in range(len(pieces))]
    pair.settle(token_of(events))
    assert pair.out_hex() == ["080201016012030000"]
    assert pair.machine.deadline() == START.mono + 65535 * 1.5


def test_acknowledgements_are_fragments_of_the_same_exchange() -> None:
    pair = online()
    pair.feed(pieces_of(REPORTED, [9])[0], 0xA3, client=0x0B)
    (frame,) = pair.out()
    assert (frame.control, frame.client, frame.address) == (0x23, 0x0B, ADDRESS)
    scrambled = Frame(0xAB, ADDRESS, CLIENT, pieces_of(REPORTED, [9])[1], b"")
    pair.machine.feed(scrambled, pair.now)
    (frame,) = pair.out()
    assert frame.control == 0x23


def test_the_last_fragment_may_be_left_unacknowledged() -> None:
    pair = online(acknowledge_last_fragment=False)
    assert data_deliveries(feed_all(pair, pieces_of(REPORTED, [9, 20])))
    assert pair.out_hex() == ["0080", "0180"]


def test_a_repeated_fragment_is_acknowledged_again_and_not_taken_twice() -> None:
    """The terminal has not seen the acknowledgement: oddity 33 repeats the first at 1 s intervals."""
    first, middle, last = pieces_of(REPORTED, [9, 20])
    pair = online()
    events = feed_all(pair, [first, first, first, middle, middle, last])
    assert len(data_deliveries(events)) == 1
    assert not of_kind(events, Violation)
    assert pair.out_hex() == [ack(n).hex().upper() for n in (0, 0, 0, 1, 1, 2)]
    assert not data_deliveries(feed_all(pair, [last]))
    assert pair.out_hex() == [ack(2).hex().upper()]


def test_a_whole_report_again_is_a_repetition() -> None:
    pair = online()
    pieces = pieces_of(REPORTED, [9, 20])
    token = token_of(feed_all(pair, pieces))
    assert not data_deliveries(feed_all(pair, pieces))
    pair.out()
    pair.settle(token)
    assert pair.out_hex() == ["080201016012030000"]


@pytest.mark.parametrize("order", [[1], [2], [0, 2], [0, 1, 1, 0, 2], [1, 0, 2]])
def test_what_is_out_of_order_is_given_up(order: list[int]) -> None:
    pair = online()
    pieces = pieces_of(REPORTED, [9, 20])
    events = feed_all(pair, [pieces[n] for n in order])
    assert not data_deliveries(events)
    assert set(names(events, Violation)) <= {"fragment-out-of-order", "fragment-restart"}
    assert names(events, Violation)
    assert data_deliveries(feed_all(pair, pieces))


def test_a_new_first_fragment_begins_anew() -> None:
    pair = online()
    other = pieces_of(octets_of(dated(energy=5)), [9, 20])
    events = feed_all(pair, [pieces_of(REPORTED, [8])[0], *other])
    assert names(events, Violation) == ["fragment-restart"]
    assert messages_of(events)[0].rows[0][2] == 0.05


def test_more_than_the_cap_is_given_up() -> None:
    pair = online(max_apdu=len(REPORTED) - 1)
    events = feed_all(pair, pieces_of(REPORTED, [9, 20]))
    assert names(events, Violation) == ["fragment-too-long"]
    assert not data_deliveries(events)
    assert pair.out_hex() == [ack(0).hex().upper(), ack(1).hex().upper()]
    assert data_deliveries(feed_all(online(max_apdu=len(REPORTED)), pieces_of(REPORTED, [9, 20])))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.binary(max_size=40)), max_size=60))
def test_what_is_kept_stays_under_the_cap(said: list[tuple[int, int, bytes]]) -> None:
    pair = online(max_apdu=100)
    for kind, seq, piece in said:
        pair.feed(build_fragment(seq, kind, piece), 0xA3)
        pair.out()
        coming = pair.machine._pieces
        assert coming is None or sum(map(len, coming._reassembler._pieces)) <= 100


def test_a_rest_that_does_not_come_is_given_up_at_its_deadline() -> None:
    pair = online(fragment_timeout_s=30)
    first, middle, last = pieces_of(REPORTED, [9, 20])
    pair.feed(first, 0xA3)
    assert pair.machine.deadline() == START.mono + 30
    pair.after(20).feed(middle, 0xA3)
    assert pair.machine.deadline() == START.mono + 50
    pair.after(49.9)
    assert pair.tick() == []
    pair.after(50)
    assert names(pair.tick(), Violation) == ["fragment-timeout"]
    assert pair.machine.deadline() != START.mono + 50
    assert names(pair.feed(last, 0xA3), Violation) == ["fragment-out-of-order"]
    assert data_deliveries(feed_all(pair, [first, middle, last]))


def test_a_new_link_begins_anew() -> None:
    pair = online()
    first, last = pieces_of(REPORTED, [9])
    pair.feed(first, 0xA3)
    pair.log_in(65535)
    assert names(pair.feed(last, 0xA3), Violation) == ["fragment-out-of-order"]


@pytest.mark.parametrize("said", [b"", b"\x00"])
def test_a_fragment_without_its_field_is_a_violation(said: bytes) -> None:
    pair = online()
    (event,) = pair.feed(said, 0xA3)
    assert isinstance(event, Violation)
    assert event.reason.startswith("fragment: ")


def test_pieces_of_nonsense_are_a_violation() -> None:
    pair = online()
    events = feed_all(pair, pieces_of(b"\xff" * 40, [10]))
    (event,) = of_kind(events, Violation)
    assert event.reason.startswith("apdu: ")
    assert not of_kind(events, Deliver)


def test_fragments_of_an_answer_keep_its_request_waiting() -> None:
    """Oddity 33: the answer to a GET in fragments."""
    pair = online(request_timeout_s=10, request_retries=0)
    request, _ = pair.ask(get_request())
    pair.out()
    pieces = pieces_of(octets_of(get_response(1)), [4, 8])
    for n, piece in enumerate(pieces[:-1]):
        pair.after(9 * (n + 1)).feed(piece, 0xE3)
        assert pair.tick() == []
        assert pair.machine.deadline() == pair.now.mono + 10
    (event,) = answers(pair.after(27).feed(pieces[-1], 0xE3))
    assert event.request is request
    assert event.result == get_response(1)


def test_fragments_do_not_keep_a_request_waiting_for_ever() -> None:
    pair = online(request_timeout_s=10, request_retries=0)
    pair.ask(get_request())
    waited = 0
    events: list[Any] = []
    while not answers(events):
        waited += 9
        assert waited < 1000
        piece = build_fragment(0, FIRST, waited.to_bytes(2))
        pair.after(waited).feed(piece, 0xE3)
        events = pair.tick()
    assert answered(events).name == "timed_out"
    assert waited <= 200 + 9


# --- out -----------------------------------------------------------------------------------------------------------

LONG = SetRequestNormal(Piid(0), oad("40010200"), Data(Tag.OCTET_STRING, bytes(range(100))))


def sent(pair: Pair) -> list[tuple[int, Any]]:
    return [(frame.control, parse_fragment(frame.data)) for frame in pair.out()]


def test_a_long_request_goes_out_in_fragments_each_after_the_last_is_acknowledged() -> None:
    pair = online(fragment_octets=50)
    request, _ = pair.ask(LONG)
    whole = b""
    for n in range(3):
        ((control, fragment),) = sent(pair)
        assert control == 0x63
        assert (fragment.seq, fragment.kind) == (n, (FIRST, MIDDLE, LAST)[n])
        assert len(fragment.piece) <= 50
        whole += fragment.piece
        assert answers(pair.after(n).feed(ack(n), 0xE3)) == []
    assert sent(pair) == []
    assert model.parse(whole).apdu == with_piid(LONG, 1)
    assert answered(pair.feed(SetResponseNormal(Piid(1), oad("40010200"), Dar(0)), 0xC3)) is not None
    assert request.attempts == 1


def test_the_example_of_the_reference() -> None:
    pair = Pair("123456789012", fragment_octets=4)
    pair.log_in()
    pair.ask(get_request())
    (raw,) = pair.machine.outgoing()
    expected = build_frame(0x63, pair.address, 0x10, bytes.fromhex("0000" + "05010140"))
    assert raw == expected
    pair.feed(bytes.fromhex("0080"), 0xE3)
    assert pair.out_hex() == ["0140" + "01020000"]


def test_a_lost_acknowledgement_has_the_fragment_repeated() -> None:
    pair = online(fragment_octets=50, request_timeout_s=10, request_retries=1)
    request, _ = pair.ask(LONG)
    ((_, first),) = sent(pair)
    pair.after(9.9)
    assert pair.tick() == []
    pair.after(10)
    assert pair.tick() == []
    assert sent(pair) == [(0x63, first)]
    assert pair.machine.deadline() == at(20).mono
    pair.feed(ack(0), 0xE3)
    ((_, second),) = sent(pair)
    assert second.seq == 1
    assert pair.feed(ack(0), 0xE3) == []  # of the repetition
    assert sent(pair) == []
    assert request.attempts == 2
    pair.after(40)
    assert answered(pair.tick()).name == "timed_out"


@pytest.mark.parametrize("seq", [1, 5, 4095])
def test_acknowledgements_of_other_fragments_mean_nothing(seq: int) -> None:
    pair = online(fragment_octets=50)
    pair.ask(LONG)
    pair.out()
    assert pair.feed(ack(seq), 0xE3) == []
    assert sent(pair) == []


def test_an_acknowledgement_of_nothing_means_nothing() -> None:
    pair = online()
    assert pair.feed(ack(0), 0xE3) == []
    pair.ask(get_request())
    pair.out()
    assert pair.feed(ack(0), 0xE3) == []
    assert pair.out() == []


def test_an_answer_that_is_missing_has_the_whole_request_sent_anew() -> None:
    pair = online(fragment_octets=50, request_timeout_s=10, request_retries=1)
    pair.ask(LONG)
    for n in range(3):
        pair.out()
        pair.feed(ack(n), 0xE3)
    pair.after(10)
    assert pair.tick() == []
    ((_, fragment),) = sent(pair)
    assert (fragment.seq, fragment.kind) == (0, FIRST)
    assert fragment.piece[:3] == b"\x06\x01\x02"


def test_reports_between_fragments_of_a_request_are_answered() -> None:
    pair = online(fragment_octets=50)
    pair.ask(LONG)
    pair.out()
    said = values_report(values={"F4010200": array(*[u16(n) for n in range(3)])})
    pair.settle(token_of(pair.feed(said)))
    assert [frame.control for frame in pair.out()] == [0x03]
    pair.feed(ack(0), 0xE3)
    assert [fragment.seq for _, fragment in sent(pair)] == [1]
