"""Requests: PIID matching, retries, blocks, errors, CONNECT, the order and the bound of what waits."""

from __future__ import annotations

from typing import Any

import pytest
from terminal_side import (
    START,
    Pair,
    answered,
    answers,
    at,
    dated,
    get_request,
    get_response,
    login,
    names,
    oad,
    record,
    u16,
    with_piid,
)

from protocols.events import Answered, Failure, Late, Oddity, ProgrammingError, Request
from wire698 import link, model
from wire698.access import (
    ActionRequestNormal,
    ActionResponseNormal,
    GetRecord,
    GetRequestNext,
    GetRequestNormalList,
    GetRequestRecord,
    GetResponseNext,
    GetResponseNormalList,
    GetResponseRecord,
    ReportNotificationList,
    SetRequestNormal,
    SetResponseNormal,
)
from wire698.pieces import Records, ResultNormal
from wire698.rows import Row
from wire698.security import PLAIN, Check, SecurityRequest, Unit
from wire698.values import Dar, Data, Oad, Omd, Piid, Rsd, Tag

NULL = Data(Tag.NULL, None)
CONNECTED = link.ConnectResponse(Piid(0), bytes(32), 0x10, b"\xff" * 8, b"\xff" * 16, 1024, 1024, 1, 1024, 100, 0)
NOT_SUPPORTED = link.ServerError(Piid(0), 2)


def online(**options: Any) -> Pair:
    pair = Pair(**options)
    pair.log_in(65535)
    return pair


def sent(pair: Pair) -> list[Any]:
    """The requests that went out, LINK answers aside."""
    return [apdu for apdu in pair.out_apdus() if not isinstance(apdu, link.LinkResponse)]


def result(value: int, name: str = "20000201") -> ResultNormal:
    return ResultNormal(oad(name), Row.of((u16(value),)))


def block(piid: int, number: int, content: Any, *, last: bool = False) -> GetResponseNext:
    return GetResponseNext(Piid(piid), last, number, content)


# --- one request ---------------------------------------------------------------------------------------------------


def test_a_request_and_its_answer() -> None:
    pair = online()
    context = object()
    request, events = pair.ask(get_request(), context=context)
    assert events == []
    (frame,) = pair.out()
    assert (frame.control, frame.address, frame.client) == (0x43, pair.address, 0x10)
    assert frame.data.hex().upper() == "0501014001020000"
    assert (request.attempts, request.sent_at) == (1, START.wall)
    assert pair.machine.deadline() == START.mono + 30
    events = pair.after(1).feed("8501014001020001090611223344556600" + "00", 0xC3)
    assert events == [Answered(request, get_response(1))]
    assert events[0].request.context is context  # type: ignore[union-attr]
    assert pair.machine.deadline() == at(1).mono + 65535 * 1.5


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (get_request(), get_response(1)),
        (GetRequestNormalList(Piid(0), (oad("20000200"),)), GetResponseNormalList(Piid(1), (result(1),))),
        (SetRequestNormal(Piid(0), oad("40000200"), NULL), SetResponseNormal(Piid(1), oad("40000200"), Dar(3))),
        (ActionRequestNormal(Piid(0), Omd(0x80017F00), NULL), ActionResponseNormal(Piid(1), Omd(0x80017F00), Dar(0))),
        (link.ReleaseRequest(Piid(0)), link.ReleaseResponse(Piid(1), 0)),
        (link.ConnectRequest(Piid(0), 0x10, b"\xff" * 8, b"\xff" * 16, 1, 1, 1, 1, 1), with_piid(CONNECTED, 1)),
    ],
)
def test_services_and_their_answers(asked: Any, said: Any) -> None:
    pair = online()
    pair.ask(asked)
    pair.out()
    assert answered(pair.feed(said, 0xC3)) == said


def test_the_priority_bit_of_a_request_is_kept() -> None:
    pair = online()
    pair.ask(get_request(piid=0x80))
    assert sent(pair) == [get_request(piid=0x81)]
    assert answers(pair.feed(get_response(0x81)))


@pytest.mark.parametrize("acd", [0x40, 0xC0])
def test_the_acd_bit_of_an_answer_is_not_looked_at(acd: int) -> None:
    pair = online()
    pair.ask(get_request())
    assert answers(pair.feed(get_response(1 | acd)))


@pytest.mark.parametrize(
    "said",
    [
        get_response(2),
        get_response(0),
        SetResponseNormal(Piid(1), oad("40010200"), Dar(0)),
        GetResponseNormalList(Piid(1), (result(1),)),
        link.ServerError(Piid(2), 1),
        link.ReleaseResponse(Piid(1), 0),
        block(2, 0, (result(1),)),
    ],
)
def test_what_answers_something_else_is_no_answer(said: Any) -> None:
    pair = online()
    pair.ask(get_request())
    pair.out()
    events = pair.feed(said, 0xC3)
    assert not answers(events)
    assert names(events, Oddity) == ["unmatched-answer"]
    assert pair.out() == []
    assert answers(pair.feed(get_response(1), 0xC3))


def test_an_answer_that_nobody_waits_for() -> None:
    assert names(online().feed(get_response(1)), Oddity) == ["unmatched-answer"]


def test_piids_go_round() -> None:
    pair = online()
    seen = []
    for _ in range(130):
        pair.ask(get_request())
        (apdu,) = sent(pair)
        seen.append(int(apdu.piid))
        assert answers(pair.feed(get_response(apdu.piid)))
    assert seen[:3] == [1, 2, 3]
    assert seen[62:66] == [63, 0, 1, 2]
    assert set(seen) == set(range(64))


# --- time ----------------------------------------------------------------------------------------------------------


def test_a_request_is_repeated_with_a_new_piid_and_then_given_up() -> None:
    pair = online(request_timeout_s=10, request_retries=2)
    request, _ = pair.ask(get_request())
    assert [apdu.piid for apdu in sent(pair)] == [1]
    for attempt in (2, 3):
        pair.after(10 * (attempt - 1) - 0.001)
        assert pair.tick() == []
        assert pair.out() == []
        pair.after(10 * (attempt - 1))
        assert pair.tick() == []
        assert [apdu.piid for apdu in sent(pair)] == [attempt]
        assert (request.attempts, request.sent_at) == (attempt, pair.now.wall)
    pair.after(30)
    failure = answered(pair.tick())
    assert isinstance(failure, Failure)
    assert (failure.name, failure.code) == ("timed_out", None)
    assert request.attempts == 3
    assert pair.tick() == []


def test_a_request_may_have_its_own_timeout_and_retries() -> None:
    pair = online()
    pair.ask(get_request(), timeout=2, retries=0)
    assert pair.machine.deadline() == START.mono + 2
    pair.after(2)
    assert answered(pair.tick()).name == "timed_out"


def test_an_answer_to_an_earlier_attempt_is_none() -> None:
    pair = online(request_timeout_s=10)
    pair.ask(get_request())
    pair.after(10).tick()
    assert names(pair.feed(get_response(1)), Oddity) == ["unmatched-answer"]
    assert answers(pair.feed(get_response(2)))


def test_a_late_answer_changes_nothing() -> None:
    pair = online(request_timeout_s=10, request_retries=0)
    pair.ask(get_request())
    assert answers(pair.after(10).tick())
    events = pair.after(11).feed(get_response(1))
    assert not answers(events)
    (late,) = (event for event in events if isinstance(event, Late))
    assert late.request.attempts == 1
    assert late.result.piid.number == 1
    # It is told once: what comes again belongs to nothing.
    assert names(pair.feed(get_response(1)), Oddity) == ["unmatched-answer"]


# --- order and bound -----------------------------------------------------------------------------------------------


def test_requests_are_sent_one_by_one_in_their_order() -> None:
    pair = online()
    requests = [pair.ask(get_request(f"400{n}0200"))[0] for n in range(4)]
    done = []
    for _ in range(4):
        (apdu,) = sent(pair)
        (event,) = answers(pair.feed(get_response(apdu.piid)))
        done.append(event.request)
    assert done == requests
    assert sent(pair) == []


def test_an_event_report_between_a_request_and_its_answer() -> None:
    """Oddity 27."""
    pair = online()
    pair.ask(get_request())
    pair.out()
    assert not answers(pair.feed(dated()))
    assert answers(pair.feed(get_response(1)))


def test_the_queue_is_bounded() -> None:
    pair = online(max_requests=3)
    for _ in range(4):
        assert pair.ask(get_request())[1] == []
    request, events = pair.ask(get_request())
    assert [(event.request, event.result.name) for event in answers(events)] == [(request, "busy")]
    pair.out()
    pair.feed(get_response(1))
    assert pair.ask(get_request())[1] == []


def test_a_request_that_waits_may_be_taken_back() -> None:
    pair = online()
    first, _ = pair.ask(get_request())
    second, _ = pair.ask(get_request())
    third, _ = pair.ask(get_request())
    assert [(event.request, event.result.name) for event in answers(pair.machine.cancel(second, pair.now))] == [
        (second, "cancelled")
    ]
    assert pair.machine.cancel(second, pair.now) == []
    assert pair.machine.cancel(first, pair.now) == []
    pair.out()
    assert answers(pair.feed(get_response(1)))[0].request is first
    assert answers(pair.feed(get_response(2)))[0].request is third


def test_requests_wait_while_there_is_no_link() -> None:
    pair = Pair()
    request, events = pair.ask(get_request())
    assert (events, pair.out(), request.attempts) == ([], [], 0)
    assert pair.machine.deadline() is None
    pair.attach()
    assert pair.out() == []
    pair.feed(login(), 0x81)
    assert [frame.control for frame in pair.out()] == [0x01, 0x43]


@pytest.mark.parametrize(
    "apdu",
    [
        get_response(1),
        login(),
        SecurityRequest(Unit(PLAIN, b"\x05"), Check(1, b"")),
        None,
        "0501",
        SetRequestNormal(Piid(0), oad("40000200"), Data(Tag.UNSIGNED, 256)),
        GetRequestNormalList(Piid(0), (Oad(2**33),)),
    ],
)
def test_what_no_terminal_can_be_asked_is_our_fault(apdu: Any) -> None:
    pair = online()
    with pytest.raises(ProgrammingError):
        pair.ask(apdu)
    assert pair.out() == []
    assert pair.ask(get_request())[1] == []


def test_a_request_is_under_way_once() -> None:
    pair = online()
    first, second = Request(get_request()), Request(get_request())
    for request in (first, second):
        pair.machine.submit(request, pair.now)
    for request in (first, second):
        with pytest.raises(ProgrammingError):
            pair.machine.submit(request, pair.now)
    pair.feed(get_response(1))
    assert pair.machine.submit(first, pair.now) == []
    assert first.attempts == 0


# --- blocks 85 05 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 0xFFFE])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_answer_in_blocks(start: int, count: int) -> None:
    """Numbered from 0 or 1: what came is what is asked past (wire.md b.7)."""
    pair = online(request_timeout_s=10, request_retries=0)
    pair.ask(GetRequestNormalList(Piid(0), (oad("20000201"),) * count))
    pair.out()
    for n in range(count - 1):
        number = start + n & 0xFFFF
        assert pair.after(9 * (n + 1)).feed(block(1, number, (result(n),)), 0xC3) == []
        assert pair.tick() == []
        (frame,) = pair.out()
        assert frame.control == 0x43
        assert model.parse(frame.data).apdu == GetRequestNext(Piid(1), number)
    whole = answered(pair.feed(block(1, start + count - 1 & 0xFFFF, (result(count - 1),), last=True), 0xC3))
    assert isinstance(whole, GetResponseNext)
    assert whole.content == tuple([result(n) for n in range(count)])
    assert pair.out() == []


def test_the_example_of_the_reference() -> None:
    pair = online()
    for _ in range(6):
        pair.ask(get_request())
        piid = sent(pair)[0].piid
        if piid < 6:
            pair.feed(get_response(piid))
    assert answered(pair.feed("8505060100010101400102000109061234567890120000", 0xC3)).block == 1


def test_an_answer_of_records_in_blocks() -> None:
    pair = online()
    made = record("50040200", ["20000201"], (u16(1),))
    pair.ask(GetRequestRecord(Piid(0), GetRecord(made.oad, Rsd(9, last=1), made.rcsd)))
    pair.out()
    pair.feed(block(1, 0, (made,)))
    whole = answered(pair.feed(block(1, 1, Records(), last=True)))
    assert whole.content == (made,)
    assert model.build(whole)


def test_a_block_that_comes_again_is_not_taken_twice() -> None:
    pair = online()
    pair.ask(get_request())
    pair.out()
    for _ in range(3):
        assert pair.feed(block(1, 4, (result(1),))) == []
        assert sent(pair) == [GetRequestNext(Piid(1), 4)]
    assert answered(pair.feed(block(1, 5, (result(2),), last=True))).content == (result(1), result(2))


@pytest.mark.parametrize("number", [0, 3, 7, 0xFFFF])
def test_a_block_that_is_missing_fails_the_request(number: int) -> None:
    pair = online()
    pair.ask(get_request())
    pair.feed(block(1, 1, (result(1),)))
    failure = answered(pair.feed(block(1, number, (result(2),), last=True)))
    assert (failure.name, failure.text) == ("bad_answer", f"block {number} came behind block 1")


def test_blocks_of_two_kinds_fail_the_request() -> None:
    pair = online()
    pair.ask(get_request())
    pair.feed(block(1, 0, (result(1),)))
    assert answered(pair.feed(block(1, 1, dated().records))).name == "bad_answer"


def test_a_refusal_in_place_of_a_block_is_the_answer() -> None:
    pair = online()
    pair.ask(get_request())
    pair.feed(block(1, 0, (result(1),)))
    assert answered(pair.feed(block(1, 1, Dar(9), last=True))).content == 9


def test_blocks_are_bounded() -> None:
    said = [block(1, n, (result(n),) * 10) for n in range(100)]
    octets = len(model.build(said[0]))
    pair = online(max_apdu=octets * 3)
    pair.ask(get_request())
    for n in range(3):
        assert pair.feed(said[n]) == []
    assert answered(pair.feed(said[3])).name == "bad_answer"
    assert pair.ask(get_request())[1] == []


def test_blocks_do_not_keep_a_request_waiting_for_ever() -> None:
    pair = online(request_timeout_s=10, request_retries=0)
    pair.ask(get_request())
    seconds = 0
    events: list[Any] = []
    while not answers(events):
        seconds += 9
        assert seconds < 1000
        pair.after(seconds)
        events = pair.tick() + pair.feed(block(1, 5, ()))
    assert answered(events).name == "timed_out"
    assert seconds <= 209


def test_a_retry_begins_the_blocks_anew() -> None:
    pair = online(request_timeout_s=10, request_retries=1)
    pair.ask(get_request())
    pair.feed(block(1, 0, (result(1),)))
    pair.after(10).tick()
    assert names(pair.feed(block(1, 1, (result(2),))), Oddity) == ["unmatched-answer"]
    assert answered(pair.feed(block(2, 0, (result(3),), last=True))).content == (result(3),)


# --- errors and CONNECT --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [1, 255])
def test_an_error_response_ends_the_request(error: int) -> None:
    pair = online()
    pair.ask(get_request())
    failure = answered(pair.feed(link.ServerError(Piid(1), error)))
    assert (failure.name, failure.code) == ("refused", error)


def test_connect_on_demand_and_then_the_request_again() -> None:
    """Oddity 31: EE 02 until CONNECT."""
    pair = online()
    request, _ = pair.ask(get_request())
    other, _ = pair.ask(get_request("40000200"))
    pair.out()
    assert pair.feed(with_piid(NOT_SUPPORTED, 1)) == []
    (connect,) = sent(pair)
    assert isinstance(connect, link.ConnectRequest)
    assert (connect.version, connect.mechanism) == (0x0010, None)
    assert pair.feed(with_piid(CONNECTED, connect.piid)) == []
    (again,) = sent(pair)
    assert again == get_request(piid=again.piid)
    assert answers(pair.feed(get_response(again.piid)))[0].request is request
    (last,) = sent(pair)
    assert answers(pair.feed(get_response(last.piid, name="40000200")))[0].request is other
    pair.ask(get_request())
    failure = answered(pair.feed(with_piid(NOT_SUPPORTED, sent(pair)[0].piid)))
    assert failure.name == "refused"  # it is connected: the service is what is not supported


def test_one_that_wanted_connect_is_connected_at_its_next_login() -> None:
    pair = online()
    pair.ask(get_request())
    pair.out()
    pair.feed(with_piid(NOT_SUPPORTED, 1))
    pair.feed(with_piid(CONNECTED, sent(pair)[0].piid))
    pair.feed(get_response(sent(pair)[0].piid))
    pair.attach()
    pair.feed(login(), 0x81)
    assert [type(apdu) for apdu in sent(pair)] == [link.ConnectRequest]


@pytest.mark.parametrize("result_code", [1, 5, 255])
def test_a_refused_connect_leaves_the_request_to_the_terminal(result_code: int) -> None:
    pair = online()
    request, _ = pair.ask(get_request())
    pair.out()
    pair.feed(with_piid(NOT_SUPPORTED, 1))
    refused = link.ConnectResponse(Piid(2), bytes(32), 0x10, b"\xff" * 8, b"\xff" * 16, 1, 1, 1, 1, 1, result_code)
    pair.out()
    assert names(pair.feed(refused), Oddity) == ["connect-refused"]
    (again,) = sent(pair)
    failure = answered(pair.feed(with_piid(NOT_SUPPORTED, again.piid)))
    assert failure == Failure("refused", "error response 2", 2)
    assert request.attempts == 2
    pair.log_in()
    assert sent(pair) == []


def test_a_connect_that_is_not_answered_is_given_up() -> None:
    pair = online(request_timeout_s=10, request_retries=0)
    pair.ask(get_request(), retries=3)
    pair.out()
    pair.feed(with_piid(NOT_SUPPORTED, 1))
    events = pair.after(10).tick()
    assert names(events, Oddity) == ["connect-refused"]
    assert not answers(events)
    assert sent(pair)[-1] == get_request(piid=3)


def test_connect_never() -> None:
    pair = online(connect="never")
    pair.ask(get_request())
    assert answered(pair.feed(with_piid(NOT_SUPPORTED, 1))).name == "refused"


def test_connect_always() -> None:
    pair = Pair(connect="always")
    pair.ask(get_request())
    pair.log_in()
    pair = Pair(connect="always")
    pair.ask(get_request())
    pair.attach()
    pair.feed(login(), 0x81)
    (connect,) = sent(pair)
    assert isinstance(connect, link.ConnectRequest)
    assert pair.feed(with_piid(CONNECTED, connect.piid)) == []
    assert sent(pair) == [get_request(piid=2)]


def test_logins_without_end_ask_for_one_connect() -> None:
    pair = Pair(connect="always", max_requests=3)
    pair.log_in()
    waiting = [pair.ask(get_request())[0] for _ in range(3)]
    for _ in range(50):
        pair.feed(login(), 0x81)
    assert sent(pair) == []
    queue = pair.machine._queue
    assert queue is not None
    assert list(queue) == waiting


def test_a_lost_connect_is_nobodys_request() -> None:
    pair = Pair(connect="always")
    pair.log_in()
    request, _ = pair.ask(get_request())
    assert answers(pair.attach()) == []
    pair.feed(login(), 0x81)
    assert [type(apdu) for apdu in sent(pair)] == [link.ConnectRequest]
    assert answers(pair.machine.detach(pair.machine.epoch, pair.now)) == []
    assert request.attempts == 0


def test_a_connect_that_waited_is_not_asked_of_one_that_does_not_log_in() -> None:
    pair = Pair(connect="always")
    pair.log_in()
    pair.feed(with_piid(CONNECTED, 1))
    pair.ask(get_request())
    pair.ask(get_request("40000200"))
    pair.feed(login(), 0x81)
    pair.attach()
    pair.feed(dated())
    assert sent(pair) == [get_request("40000200", piid=3)]


def test_a_login_ends_the_association() -> None:
    pair = online()
    pair.ask(link.ConnectRequest(Piid(0), 0x10, b"\xff" * 8, b"\xff" * 16, 1, 1, 1, 1, 1))
    pair.feed(with_piid(CONNECTED, 1))
    pair.ask(get_request())
    assert answered(pair.feed(with_piid(NOT_SUPPORTED, 2))).name == "refused"
    pair.feed(login(), 0x81)
    pair.ask(get_request())
    pair.out()
    assert pair.feed(with_piid(NOT_SUPPORTED, 3)) == []
    assert [type(apdu) for apdu in sent(pair)] == [link.ConnectRequest]


def test_a_released_association_is_made_again() -> None:
    pair = online()
    pair.ask(get_request())
    pair.out()
    pair.feed(with_piid(NOT_SUPPORTED, 1))
    pair.feed(with_piid(CONNECTED, 2))
    pair.out()
    pair.feed(get_response(3))
    released = link.ReleaseNotification(Piid(0), bytes.fromhex("07E00513101B0B"), bytes.fromhex("07E0051310200B"))
    assert not answers(pair.feed(released))
    assert [type(apdu) for apdu in sent(pair)] == [link.ConnectRequest]
    pair = online()
    pair.feed("840007E00513101B0B07E0051310200B0000")
    assert sent(pair) == []


def test_reports_are_no_requests_of_ours() -> None:
    with pytest.raises(ProgrammingError):
        online().ask(ReportNotificationList(Piid(0), ()))
    assert GetResponseRecord.HEAD == b"\x85\x03"
