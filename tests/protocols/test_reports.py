"""Reports: what answers them and when, repetitions, ids, follow reports, the SECURITY envelope."""

from __future__ import annotations

from typing import Any

import pytest
from terminal_side import (
    ADDRESS,
    TERMINAL,
    Pair,
    checked,
    data_deliveries,
    dated,
    framed,
    get_request,
    get_response,
    messages_of,
    names,
    oad,
    octets_of,
    octets_report,
    of_kind,
    record,
    report,
    token_of,
    u16,
    values_report,
    with_piid,
)

from messages import Alarm, Reading
from protocols.events import ANSWERS_OWED, Deliver, Oddity, ProgrammingError, Violation
from protocols.reports import RECENT_KEPT
from wire698 import model
from wire698.frame import Address
from wire698.pieces import ResultNormal, ResultRecord
from wire698.rows import Row
from wire698.security import CIPHER, PLAIN, REFUSED, Check, SecurityRequest, SecurityResponse, Unit
from wire698.values import Dar, Sid, Ti, TimeTag

TIME_TAG = TimeTag(bytes.fromhex("07E90B180A1E00"), Ti(0, 60))
POWER_OFF = (
    "88020B0131060200060020220200 00201E0200 0020200200 0020240200 0033000200 0033090206"
    "01 01 0600000003 1C07E90B180A0000 00 1600 0101020251450000001100 0408C0 0000"
).replace(" ", "")


def online() -> Pair:
    pair = Pair()
    pair.log_in()
    return pair


def ids(events: list[Any]) -> list[str]:
    return [message.id for message in messages_of(events)]


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("88010A0120220200010600000001" + "0000", "08010A012022020000"),
        (POWER_OFF, "08020B013106020000"),
        ("88030CF20102010104FEFEFEFE0000", "08030C00"),
    ],
)
def test_a_report_is_answered_when_it_is_settled_and_not_before(said: str, answer: str) -> None:
    """The examples of the reference."""
    pair = online()
    token = token_of(pair.feed(said))
    assert pair.out() == []
    pair.after(3).settle(token)
    (frame,) = pair.out()
    assert frame.data.hex().upper() == answer
    assert (frame.control, frame.address, frame.client) == (0x03, ADDRESS, 0x10)


def test_the_answer_of_the_reference_to_the_octet() -> None:
    raw = bytes.fromhex("681F0083051290785634121 03CA088010A01202202000106000000010000 44B816".replace(" ", ""))
    pair = Pair("123456789012")
    pair.attach()
    token = token_of(pair.feed_frame(raw))
    pair.settle(token)
    assert pair.machine.outgoing() == [
        bytes.fromhex("68180003051290785634121 00DC408010A01202202000 0D17F16".replace(" ", ""))
    ]


@pytest.mark.parametrize("piid", [0x00, 0x3F, 0x40, 0x7F, 0x80, 0xC5, 0xFF])
@pytest.mark.parametrize("client", [0x00, 0x0B, 0xA1])
def test_the_piid_octet_and_the_client_address_come_back_as_they_came(piid: int, client: int) -> None:
    """Whole, with the ACD bit (oddity 10, 24)."""
    for said in (values_report(piid), dated(piid), octets_report(piid, b"\x01")):
        pair = online()
        pair.settle(token_of(pair.feed(said, client=client)))
        (frame,) = pair.out()
        assert frame.data[2] == piid
        assert frame.client == client


@pytest.mark.parametrize("count", [1, 2, 127, 128, 300])
def test_all_oads_come_back_in_their_order(count: int) -> None:
    values = {f"F4{n >> 8:02X}02{n & 0xFF:02X}": u16(n) for n in range(count)}
    rows = [record(name, ["20000201"], (value,)) for name, value in values.items()]
    for said, kind in ((values_report(5, values), 1), (report(*rows, piid=5), 2)):
        pair = online()
        pair.settle(token_of(pair.feed(said)))
        (frame,) = pair.out()
        apdu: Any = model.parse(frame.data).apdu
        assert type(apdu).HEAD.hex() == f"08{kind:02x}"
        assert apdu.piid == 5
        assert [str(name) for name in apdu.oads] == list(values)


def test_oads_with_a_dar_or_without_rows_are_acknowledged_too() -> None:
    pair = online()
    said = report(
        ResultRecord(oad("50040200"), (oad("20000201"),), Dar(6)),
        record("50050200", ["20000201"]),
        record("50060200", ["20000201"], (u16(1),)),
    )
    pair.settle(token_of(pair.feed(said)))
    assert pair.out_hex() == ["080201" + "03" + "50040200" + "50050200" + "50060200" + "00"]


# --- repetitions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [dated(), values_report(), octets_report(1, b"\x68")])
def test_said_again_before_it_is_settled_both_are_answered_then(said: Any) -> None:
    pair = online()
    token = token_of(pair.feed(said))
    for piid in (2, 3, 3):
        pair.after(5)
        again = pair.feed(with_piid(said, piid))
        assert names(again, Oddity) == ["report-repeated"]
        assert not of_kind(again, Deliver)
    assert pair.out() == []
    pair.settle(token)
    assert [data[4:6] for data in pair.out_hex()] == ["01", "02", "03"]


def test_answers_that_are_owed_are_bounded() -> None:
    pair = online()
    token = token_of(pair.feed(dated()))
    for piid in range(1, 256):
        pair.feed(dated(piid))
        assert len(token.answers) <= ANSWERS_OWED
    pair.settle(token)
    assert [int(data[4:6], 16) for data in pair.out_hex()] == list(range(256 - ANSWERS_OWED, 256))


@pytest.mark.parametrize("said", [dated(), values_report(), octets_report(1, b"\x68")])
def test_said_again_after_it_is_settled_it_is_answered_at_once(said: Any) -> None:
    pair = online()
    pair.settle(token_of(pair.feed(said)))
    pair.out()
    pair.after(599)
    again = pair.feed(with_piid(said, 44))
    assert names(again, Oddity) == ["report-repeated"]
    assert not of_kind(again, Deliver)
    assert [data[4:6] for data in pair.out_hex()] == ["2C"]


def test_said_again_after_it_was_abandoned_it_is_delivered_again() -> None:
    pair = online()
    first = pair.feed(dated())
    pair.machine.abandon(token_of(first))
    assert pair.out() == []
    again = pair.after(5).feed(dated(2))
    assert ids(again) == ids(first)
    pair.settle(token_of(again))
    assert [data[4:6] for data in pair.out_hex()] == ["02"]


def test_abandoning_an_old_token_forgets_no_later_one() -> None:
    pair = online()
    old = token_of(pair.feed(dated()))
    pair.after(700)
    new = token_of(pair.feed(dated()))
    pair.machine.abandon(old)
    pair.settle(new)
    pair.out()
    assert not data_deliveries(pair.feed(dated(3)))
    assert len(pair.out()) == 1


def test_said_again_on_a_new_connection_before_it_is_settled() -> None:
    pair = online()
    token = token_of(pair.feed(dated()))
    pair.feed(dated(2))
    pair.log_in()
    assert not data_deliveries(pair.feed(dated(3)))
    assert pair.out() == []
    pair.settle(token)
    assert [data[4:6] for data in pair.out_hex()] == ["03"]


def test_the_window_begins_with_the_first_receipt() -> None:
    pair = Pair(report_repeat_window_s=100)
    pair.log_in()
    first = pair.feed(values_report())
    assert not data_deliveries(pair.after(99).feed(values_report(2)))
    assert not data_deliveries(pair.after(100).feed(values_report(2)))
    assert data_deliveries(first)
    assert data_deliveries(pair.after(100.1).feed(values_report(3)))


def test_other_content_is_another_report() -> None:
    pair = online()
    assert len(data_deliveries(pair.feed(dated(1, 1)) + pair.feed(dated(1, 2)))) == 2


def test_what_is_remembered_is_bounded() -> None:
    """The oldest is forgotten; said again, it is delivered again, and with a device time has its old id."""
    pair = online()
    first = pair.feed(dated(energy=0))
    for energy in range(1, RECENT_KEPT):
        pair.feed(dated(energy=energy))
    assert not data_deliveries(pair.feed(dated(energy=0)))
    pair.feed(dated(energy=RECENT_KEPT))
    recent = pair.machine._recent
    assert recent is not None
    assert len(recent) == RECENT_KEPT
    assert ids(pair.feed(dated(energy=0))) == ids(first)


@pytest.mark.parametrize("settled", [True, False])
def test_a_token_has_one_end(settled: bool) -> None:
    pair = online()
    token = token_of(pair.feed(dated()))
    if settled:
        pair.settle(token)
    else:
        pair.machine.abandon(token)
    pair.out()
    with pytest.raises(ProgrammingError):
        pair.settle(token)
    with pytest.raises(ProgrammingError):
        pair.machine.abandon(token)
    assert pair.out() == []


# --- ids -----------------------------------------------------------------------------------------------------------


def test_a_report_with_a_device_time_has_the_same_id_for_ever() -> None:
    first = ids(online().feed(dated()))
    forms: list[Any] = [
        dated(77),
        dated(timetag=TIME_TAG),
        dated(follow=(ResultNormal(oad("20150200"), Row.of((u16(1),))),)),
    ]
    for said in forms:
        for seconds in (0, 50, 5000, 10**8):
            events = online().after(seconds).feed(said)
            assert messages_of(events)[0].id == first[0]
    in_pieces = online().feed_fragments(dated(5), 7)
    assert ids(in_pieces) == first
    wrapped = online().feed(SecurityRequest(Unit(PLAIN, octets_of(dated())), Check(1, bytes(16))))
    assert ids(wrapped) == first
    assert ids(online().feed(dated(energy=5))) != first


def test_an_undated_report_keeps_its_first_id_inside_the_window_and_has_another_outside() -> None:
    pair = online()
    first = pair.feed(values_report())
    pair.machine.abandon(token_of(first))
    pair.after(1)
    second = pair.feed(values_report(2))
    assert ids(second) != ids(first)  # the first was never stored, so this is the first receipt
    pair.settle(token_of(second))
    assert not data_deliveries(pair.after(300).feed(values_report(3)))
    third = pair.after(700).feed(values_report(3))
    assert ids(third) != ids(second)


def test_messages_of_one_report_have_ids_of_their_own() -> None:
    pair = online()
    rows = [record("50040200", ["20000201"], (u16(1),)), record("50040200", ["20000201"], (u16(1),))]
    made = ids(pair.feed(report(*rows)))
    assert len(set(made)) == 2
    assert all(len(name) == 16 for name in made)


def test_the_servers_behind_one_address_may_say_the_same() -> None:
    pair = online()
    said = [pair.feed(dated(), address=Address.of(TERMINAL, logical=logical)) for logical in (0, 1, 2)]
    assert len({message.id for events in said for message in messages_of(events)}) == 3
    extended = pair.feed(dated(), address=Address(0x26, ADDRESS.sa + b"\x01"))
    assert not data_deliveries(extended)  # the same server 1, written otherwise (oddity 2)


def test_two_terminals_may_say_the_same() -> None:
    other = Pair("000000000008")
    other.log_in()
    assert ids(other.feed(dated())) != ids(online().feed(dated()))


# --- follow reports 跟随上报 ------------------------------------------------------------------------------------------


def follow(value: int) -> tuple[ResultNormal, ...]:
    return (ResultNormal(oad("20150200"), Row.of((u16(value),))),)


def test_a_follow_report_is_delivered_and_not_answered() -> None:
    pair = online()
    events = pair.feed(get_response(1, follow=follow(7)))
    (delivery,) = data_deliveries(events)
    (reading,) = delivery.messages
    assert isinstance(reading, Reading)
    assert reading.rows == [[None, None, 7]]
    assert reading.cause == "report"
    assert delivery.token is not None
    pair.settle(delivery.token)
    assert pair.out() == []


def test_a_follow_report_of_records() -> None:
    event = record("31060200", ["20220200", "201E0200"], (u16(1), dated().records[0].table.rows[0].columns[1]))
    (alarm,) = messages_of(online().feed(get_response(1, follow=(event,))))
    assert isinstance(alarm, Alarm)
    assert alarm.event == "power_off"


def test_follow_reports_are_known_by_what_they_say_not_by_what_they_follow() -> None:
    pair = online()
    first = pair.feed(get_response(1, follow=follow(1)))
    second = pair.feed(get_response(1, follow=follow(2)))
    assert len(set(ids(first) + ids(second))) == 2
    pair.settle(token_of(first))
    again = pair.feed(dated(follow=follow(1)))
    assert names(again, Oddity) == ["report-repeated"]
    assert len(data_deliveries(again)) == 1
    event = record("50040200", ["20210200", "20000201"], (dated().records[0].table.rows[0].columns[1], u16(1)))
    assert ids(online().feed(get_response(1, follow=(event,)))) == ids(
        online().after(999).feed(get_response(5, u16(3), follow=(event,)))
    )


def test_a_repeated_report_may_bring_a_new_follow_report() -> None:
    pair = online()
    pair.settle(token_of(pair.feed(dated())))
    pair.out()
    (delivery,) = data_deliveries(pair.feed(dated(2, follow=follow(3))))
    assert delivery.messages[0].rows == [[None, None, 3]]  # type: ignore[attr-defined]
    assert [data[4:6] for data in pair.out_hex()] == ["02"]


def test_a_follow_report_that_could_not_be_stored_is_delivered_when_it_comes_again() -> None:
    pair = online()
    pair.machine.abandon(token_of(pair.feed(get_response(1, follow=follow(1)))))
    assert data_deliveries(pair.feed(get_response(1, follow=follow(1))))


def test_an_empty_follow_report_says_nothing() -> None:
    pair = online()
    assert not data_deliveries(pair.feed(get_response(1, follow=())))
    assert not data_deliveries(pair.feed("8501010102030401" + "00" + "01" + "0200" + "00"))


# --- SECURITY 安全传输 -----------------------------------------------------------------------------------------------


def wrapped(said: Any, *, request: bool = True) -> Any:
    octets = octets_of(said)
    return (
        SecurityRequest(Unit(PLAIN, octets), Check(1, bytes(16)))
        if request
        else SecurityResponse(Unit(PLAIN, octets), b"\x01\x02\x03\x04")
    )


@pytest.mark.parametrize("request_form", [True, False])
def test_plaintext_is_opened_and_answered_plainly(request_form: bool) -> None:
    """Plain, because one firmware drops every other client frame with PRM 0 (oddity 25)."""
    pair = online()
    said = dated(0x42)
    events = pair.feed(wrapped(said, request=request_form))
    assert ids(events) == ids(online().feed(said))
    pair.settle(token_of(events))
    assert pair.out_hex() == ["080242016012030000"]


def test_protected_reports_are_answered_in_an_envelope_where_the_settings_say_so() -> None:
    pair = Pair(protected_answer="security")
    pair.log_in()
    token = token_of(pair.feed(wrapped(dated(0x42))))
    pair.feed(wrapped(dated(0x43)))
    pair.settle(token)
    assert pair.out_hex() == ["900009" + "080242016012030000" + "00", "900009" + "080243016012030000" + "00"]
    pair.settle(token_of(pair.feed(dated(7, 5))))
    assert pair.out_hex() == ["080207016012030000"]
    pair.settle(token_of(pair.feed_fragments(wrapped(dated(0x44, 6)), 30)))
    assert pair.out_hex()[-1] == "900009" + "080244016012030000" + "00"


def test_an_answer_in_an_envelope_answers() -> None:
    pair = online()
    request, _ = pair.ask(get_request())
    pair.out()
    (event,) = pair.feed(wrapped(get_response(1), request=False))
    assert event.request is request  # type: ignore[union-attr]
    assert event.result == get_response(1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (SecurityRequest(Unit(CIPHER, bytes(16)), Check(3, Sid(0x81000000, b"\x00\x14"))), "ciphertext"),
        (SecurityResponse(Unit(CIPHER, bytes(4))), "ciphertext"),
        (SecurityResponse(Unit(REFUSED, Dar(22))), "a refusal"),
        (SecurityRequest(Unit(PLAIN, b""), Check(1, bytes(16))), "at least one octet"),
        (SecurityRequest(Unit(PLAIN, b"\x88\x02\x01"), Check(1, bytes(16))), ""),
    ],
)
def test_what_cannot_be_opened_is_a_violation(said: Any, reason: str) -> None:
    pair = online()
    (event,) = pair.feed(said)
    assert isinstance(event, Violation)
    assert event.reason.startswith("apdu: ")
    assert reason in event.reason
    assert event.raw == framed(said).raw
    assert pair.out() == []


def test_an_envelope_within_an_envelope_is_refused() -> None:
    (event,) = online().feed(wrapped(wrapped(dated())))
    assert isinstance(event, Violation)


def test_messages_of_a_wrapped_report_are_the_same() -> None:
    (plain,) = messages_of(online().feed(dated()))
    (opened,) = messages_of(online().feed(wrapped(dated())))
    assert checked(plain) == checked(opened)
