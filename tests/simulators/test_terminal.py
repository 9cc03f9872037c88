"""The terminal as a machine: login, reports until acknowledged, events, link fragments, silence where it is due."""

from __future__ import annotations

from typing import Any

import pytest

from simulators.outbox import Outbox
from simulators.settings import EventPlan
from simulators.stamps import date_time
from wire698 import access, link, model
from wire698.frame import ACK, FIRST, Address, parse_fragment
from wire698.security import PLAIN, SecurityRequest, SecurityResponse, Unit
from wire698.values import Data, Oad, Omd, Piid, Tag

TASKS = Oad(0x60120300)
CLIENT = 0x21
METERS = ("500000000001", "500000000002")
START = 1772409600.0
"""As the bench has them."""
CURVE_S = 900 / 60
"""Real seconds of a curve period at the bench's speed of 60."""


def opened(apdu: Any) -> Any:
    """What is inside a SECURITY-Request, or the APDU itself."""
    if isinstance(apdu, SecurityRequest):
        inner = model.inner_of(apdu)
        assert inner is not None
        return model.parse(inner).apdu
    return apdu


def reports(apdus: list[Any]) -> list[Any]:
    kinds = access.ReportNotificationRecordList | access.ReportNotificationList
    return [a for a in map(opened, apdus) if isinstance(a, kinds)]


# --- LINK --------------------------------------------------------------------------------------------------------


def test_login_comes_first_and_reports_wait_for_it(make_bench: Any) -> None:
    bench = make_bench()
    bench.now = CURVE_S * 2 + 1
    assert bench.tick() == []
    assert bench.truth.made == 2
    (request,) = bench.take(bench.terminal.connected(bench.now))
    assert request == link.LinkRequest(piid=Piid(0), type=link.LOGIN, period=60, time=date_time(START + bench.now * 60))
    (frame,) = bench.sent
    assert (frame.control, frame.client) == (0x81, 0)
    assert bench.tick() == []
    first = reports(bench.accept(request))
    assert [r.records[0].oad for r in first] == [TASKS]
    assert bench.sent[-1].control == 0x83
    assert bench.sent[-1].client == CLIENT
    assert bench.counters.logins == bench.counters.online == 1


def test_a_refused_login_ends_the_connection_without_a_report(make_bench: Any) -> None:
    bench = make_bench()
    bench.now = CURVE_S * 2
    assert bench.login(result=0x82) == []
    assert bench.terminal.close_wanted
    assert bench.terminal.refused
    assert bench.counters.refused_logins == 1
    assert reports(bench.tick()) == []


def test_an_answer_to_another_request_logs_nobody_in(make_bench: Any) -> None:
    bench = make_bench()
    bench.take(bench.terminal.connected(0.0))
    wrong = link.LinkRequest(piid=Piid(0), type=0, period=60, time=date_time(START + 1))
    assert bench.accept(wrong) == []
    assert bench.counters.logins == 0


def test_an_unanswered_login_is_repeated_and_after_three_the_connection_closes(make_bench: Any) -> None:
    bench = make_bench(login_timeout_s=30.0, minute_s=1e6)
    bench.take(bench.terminal.connected(0.0))
    said = bench.run(59.0)
    assert [(a.type, a.piid) for a in said] == [(0, 1)]
    said = bench.run(89.9)
    assert [(a.type, a.piid) for a in said] == [(0, 2)]
    assert not bench.terminal.close_wanted
    assert bench.run(91.0) == []
    assert bench.terminal.close_wanted
    assert bench.counters.link_timeouts == 3


def test_heartbeats_keep_their_period_and_silence_ends_the_connection(make_bench: Any) -> None:
    bench = make_bench(heartbeat_s=20, minute_s=1e6)
    bench.login()
    (beat,) = bench.run(20.5)
    assert (beat.type, beat.period) == (link.HEARTBEAT, 20)
    bench.accept(beat)
    said = bench.run(100.0)
    assert [a.type for a in said] == [1, 1, 1]
    assert bench.terminal.close_wanted
    bench.terminal.disconnected()
    assert bench.counters.online == 0


def test_logout_if_it_does(make_bench: Any) -> None:
    bench = make_bench()
    assert bench.terminal.logout(0.0) == []
    bench.login()
    (bye,) = bench.take(bench.terminal.logout(1.0))
    assert bye.type == link.LOGOUT
    silent = make_bench(logs_out=False)
    silent.login()
    assert silent.terminal.logout(1.0) == []


def test_it_learns_its_offset_from_the_times_of_a_response(make_bench: Any) -> None:
    bench = make_bench(speed=1.0, clock_offset_s=-7.5)
    (request,) = bench.take(bench.terminal.connected(0.0))
    right = date_time(START + 0.1)
    bench.now = 0.2
    bench.ask(
        link.LinkResponse(piid=request.piid, result=0x80, request=request.time, received=right, response=right),
        control=0x01,
    )
    assert bench.terminal.clock_offset_s == pytest.approx(7.5, abs=0.002)


# --- reports -----------------------------------------------------------------------------------------------------


def test_an_unacknowledged_report_goes_again_with_a_new_piid_and_the_same_content(make_bench: Any) -> None:
    bench = make_bench(retry_s=5.0, minute_s=1200.0)
    bench.login()
    said = reports(bench.run(20.0 + 15.2))
    assert [r.piid for r in said] == [0, 1, 2, 3]
    assert all(r.records == said[0].records for r in said)
    assert bench.counters.retries == 3
    assert bench.truth.reports[0].attempts == 4
    # After three it rests, and the next one gets its turn.
    (other,) = reports(bench.run(45.0))
    assert (other.piid, len(bench.terminal.outbox)) == (4, 2)
    assert other.records != said[0].records


def test_an_acknowledgement_settles_and_the_next_follows(make_bench: Any) -> None:
    bench = make_bench()
    bench.now = CURVE_S * 3 + 1
    (first,) = reports(bench.login())
    (second,) = reports(bench.acknowledge(first))
    assert second.piid == 1
    assert second.records != first.records
    assert reports(bench.acknowledge(second)) != []
    assert bench.truth.acknowledged == bench.counters.acknowledged == 2
    assert bench.truth.unacknowledged == 1


@pytest.mark.parametrize(
    "answer",
    [
        access.ReportResponseRecordList(piid=Piid(1), oads=(TASKS,)),
        access.ReportResponseRecordList(piid=Piid(0x40), oads=(TASKS,)),
        access.ReportResponseRecordList(piid=Piid(0), oads=(TASKS, TASKS)),
        access.ReportResponseRecordList(piid=Piid(0), oads=()),
        access.ReportResponseList(piid=Piid(0), oads=(TASKS,)),
    ],
)
def test_only_the_exact_piid_octet_kind_and_oads_settle(make_bench: Any, answer: Any) -> None:
    bench = make_bench()
    bench.now = CURVE_S + 1
    (report,) = reports(bench.login())
    assert bench.ask(answer, control=0x03) == []
    assert (bench.counters.acknowledged, bench.counters.stale_acks) == (0, 1)
    bench.acknowledge(report)
    assert bench.counters.acknowledged == 1


def test_a_report_survives_the_connection_and_nothing_is_lost(make_bench: Any) -> None:
    bench = make_bench()
    bench.now = CURVE_S * 2 + 1
    (first,) = reports(bench.login())
    bench.terminal.disconnected()
    bench.now += CURVE_S
    assert bench.tick() == []
    (again,) = reports(bench.login())
    assert again.records == first.records
    assert again.piid == first.piid + 1
    settled = 0
    while again is not None:
        settled += 1
        again = next(iter(reports(bench.acknowledge(again))), None)
    assert settled == bench.truth.made == 3
    assert bench.truth.unacknowledged == 0


def test_a_rested_report_comes_back_on_the_same_connection(make_bench: Any) -> None:
    bench = make_bench(retry_s=1.0, resends=1, rest_s=30.0, report_limit=1)
    bench.login()
    first, again = reports(bench.run(40.0))
    assert len(bench.terminal.outbox) == 1
    (back,) = reports(bench.run(48.0))
    assert (first.piid, again.piid, back.piid) == (0, 1, 2)
    assert back.records == first.records
    bench.acknowledge(back)
    assert bench.terminal.finished


def test_the_queue_is_bounded_and_what_does_not_fit_is_counted_not_lost_from_the_tables(make_bench: Any) -> None:
    bench = make_bench(queue_limit=3)
    bench.now = CURVE_S * 10 + 1
    bench.tick()
    assert (bench.truth.made, len(bench.terminal.outbox)) == (3, 3)
    assert bench.counters.withheld == 7
    assert len(bench.terminal.body.collected) == 10 * len(METERS)


def test_report_limit_stops_making(make_bench: Any) -> None:
    bench = make_bench(report_limit=2)
    bench.now = CURVE_S * 5
    (report,) = reports(bench.login())
    assert not bench.terminal.finished
    (report,) = reports(bench.acknowledge(report))
    assert reports(bench.acknowledge(report)) == []
    assert bench.terminal.finished
    assert bench.counters.withheld == 0


def test_many_meters_make_several_reports(make_bench: Any) -> None:
    meters = tuple(f"5{n:011d}" for n in range(25))
    bench = make_bench(meters=meters, rows_per_report=10, frame_size=16383)
    bench.now = CURVE_S + 1
    said = reports(bench.login())
    while said and len(bench.terminal.outbox):
        said += reports(bench.acknowledge(said[-1]))
    assert [len(r.records[0].table) for r in said] == [10, 10, 5]
    told = [row.columns[0].value[1:].hex() for r in said for row in r.records[0].table.rows]
    assert told == list(meters)


def test_day_and_month_freezes_are_uploaded_after_midnight(make_bench: Any) -> None:
    bench = make_bench(speed=3600.0, minute_s=86400.0 * 40)
    until_april = (1774972800 - START) / 3600
    bench.run(until_april + 1)
    series = [report.series for report in bench.truth.reports]
    assert series.count("day") == 30
    assert series.count("month") == 1
    day = next(r for r in bench.truth.reports if r.series == "day")
    assert day.rows[0].time == (START + 16 * 3600) * 1000
    assert set(day.rows[0].values) >= {"active_energy_import.total", "active_energy_export.t4"}


def test_missed_readings_are_null_and_named(make_bench: Any) -> None:
    bench = make_bench(missed=0.5)
    bench.login()
    bench.run(CURVE_S * 12)
    rows = [row for r in bench.truth.reports for row in r.rows]
    missed = [row for row in rows if row.values["voltage.a"] is None]
    assert 4 < len(missed) < len(rows) - 4
    assert all(value is None for row in missed for value in row.values.values())
    assert {len(row.values) for row in rows} == {5 + 3 + 3 + 4 + 4}


def test_protected_reports_travel_in_an_envelope_and_both_answers_settle(make_bench: Any) -> None:
    bench = make_bench(protected=True)
    bench.now = CURVE_S * 3
    (sealed,) = bench.login()
    assert sealed.HEAD == b"\x10"
    report = opened(sealed)
    (sealed,) = bench.acknowledge(report)
    inner = access.ReportResponseRecordList(piid=opened(sealed).piid, oads=(TASKS,))
    bench.ask(SecurityResponse(unit=Unit(PLAIN, model.build(inner))), control=0x03)
    assert bench.counters.acknowledged == 2


def test_a_scrambling_terminal_scrambles(make_bench: Any) -> None:
    bench = make_bench(scrambled=True)
    bench.now = CURVE_S + 1
    assert len(reports(bench.login())) == 1
    assert bench.sent[-1].control == 0x8B


def test_connect_first_reports_nothing_before_connect(make_bench: Any) -> None:
    bench = make_bench(connect_first=True)
    bench.now = CURVE_S + 1
    assert bench.login() == []
    get = access.GetRequestNormal(piid=Piid(3), oad=Oad(0x40000200))
    assert bench.ask(get) == [link.ServerError(piid=Piid(3), error=2)]
    ask: dict[str, Any] = {
        "protocol": b"\xff" * 8,
        "function": b"\xff" * 16,
        "send_size": 1024,
        "receive_size": 512,
        "window": 1,
        "apdu_size": 2048,
        "timeout": 100,
    }
    (wrong, *rest) = bench.ask(link.ConnectRequest(piid=Piid(4), version=0x0011, **ask))
    assert (wrong.result, rest) == (5, [])
    (right, report) = bench.ask(link.ConnectRequest(piid=Piid(4), version=0x0010, **ask))
    assert (right.result, right.send_size) == (0, 512)
    assert report.records[0].oad == TASKS


# --- events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["record", "array", "structure"])
def test_an_event_is_told_when_it_begins_and_when_it_ends(make_bench: Any, form: str) -> None:
    plan = EventPlan(kind="voltage_loss", at_s=60, meter=2, phase="b", duration_s=120)
    bench = make_bench(event_form=form, events=(plan,), minute_s=1e6)
    bench.login()
    (raised,) = reports(bench.run(1.5))
    (cleared,) = reports([*bench.acknowledge(raised), *bench.run(3.5)])
    bench.acknowledge(cleared)
    rows = []
    for report in (raised, cleared):
        if form == "record":
            (record,) = report.records
            assert record.oad == Oad(0x30000700)
            (row,) = record.table.rows
            rows.append(row.columns)
        else:
            (result,) = report.results
            data = result.data.value[0] if form == "array" else result.data
            assert data.tag == Tag.STRUCTURE
            rows.append(data.value)
    (begin, end) = rows
    assert begin[0] == end[0] == Data(Tag.DOUBLE_LONG_UNSIGNED, 1)
    assert begin[1] == end[1]
    assert begin[2].tag == Tag.NULL
    assert end[2].tag == Tag.DATE_TIME_S
    assert begin[3] == Data(Tag.TSA, b"\x05" + bytes.fromhex(METERS[1]))
    assert [c[4].value[0].value[1].value for c in rows] == [1, 5]
    assert [r.event["transition"] for r in bench.truth.reports] == ["raised", "cleared"]
    assert bench.truth.reports[1].event["ended_at"] == (START + 180) * 1000
    assert bench.truth.unacknowledged == 0


def test_power_off_closes_the_line_and_is_told_after_the_power_is_back(make_bench: Any) -> None:
    plan = EventPlan(kind="power_off", at_s=600, duration_s=1800)
    bench = make_bench(events=(plan,))
    bench.login()
    bench.run(10.5)
    assert bench.terminal.close_wanted
    assert not bench.terminal.powered
    bench.terminal.disconnected()
    bench.run(41)
    assert bench.terminal.powered
    said = reports(bench.login())
    while len(bench.terminal.outbox):
        said += reports(bench.acknowledge(said[-1]))
        bench.tick()
    off = [r for r in said if r.records[0].oad == Oad(0x31060200)]
    assert [r.records[0].table.rows[0].columns[3].value for r in off] == [0, 1]
    # The freeze at 08:15 and 08:30 fell into the dark; the one after it is there.
    times = [row.time for r in bench.truth.reports if r.kind == "task" for row in r.rows]
    assert set(times) <= {(START + n * 900) * 1000 for n in (3, 4)}


def test_flags_silence_events_and_reports(make_bench: Any) -> None:
    plans = tuple(EventPlan(kind="meter_cover_open", at_s=60 * n, duration_s=10) for n in (1, 2, 3))
    bench = make_bench(events=plans, minute_s=1e6)
    bench.login()
    flag = access.SetRequestNormal(piid=Piid(0), oad=Oad(0x301B0800), value=Data(Tag.ENUM, 2))
    (answer,) = bench.ask(flag)
    assert answer.dar == 0
    said = reports(bench.run(1.5))
    assert [r.event["transition"] for r in bench.truth.reports] == ["cleared"]
    bench.acknowledge(said[0])
    bench.ask(access.SetRequestNormal(piid=Piid(0), oad=Oad(0x43000800), value=Data(Tag.BOOL, False)))
    assert reports(bench.run(4.0)) == []
    assert bench.counters.events == 3
    assert len(bench.terminal.body.log.tables[Oad(0x301B0200)]) == 3


def test_random_events_follow_the_seed(make_bench: Any) -> None:
    def events(seed: int) -> list[object]:
        bench = make_bench(speed=3600, seed=seed, events_per_day=10.0)
        bench.run(48.0)
        return [r.event for r in bench.truth.reports if r.kind == "event"]

    assert events(1) == events(1)
    assert events(1) != events(2)
    assert len(events(1)) >= 10


# --- clock -------------------------------------------------------------------------------------------------------


def test_setting_the_clock_back_takes_no_boundary_twice(make_bench: Any) -> None:
    bench = make_bench()
    bench.run(CURVE_S * 2 + 1)
    bench.login()
    before = date_time(START + 600)
    value = Data(Tag.DATE_TIME_S, before[:4] + before[5:8])
    (answer, *_) = bench.ask(access.SetRequestNormal(piid=Piid(0), oad=Oad(0x40000200), value=value))
    assert answer.dar == 0
    bench.run(CURVE_S * 6)
    times = [row.time for r in bench.truth.reports for row in r.rows if row.meter == METERS[0]]
    assert len(times) == len(set(times)) >= 4
    assert times == sorted(times)


def test_a_drifting_clock_stamps_by_itself(make_bench: Any) -> None:
    bench = make_bench(clock_drift_ppm=100_000.0)
    bench.run(900 / 60 / 1.1 + 0.01 + 5 / 60)
    assert [row.time for r in bench.truth.reports for row in r.rows] == [(START + 900) * 1000] * 2


# --- addresses, octets -------------------------------------------------------------------------------------------


GET_CLOCK = access.GetRequestNormal(piid=Piid(1), oad=Oad(0x40000200))


@pytest.mark.parametrize(
    ("address", "answers"),
    [
        (Address.of("100000000001"), 1),
        (Address.of("100000000001", logical=1), 1),
        (Address.of("AAAAAAAAAAAA", kind=1), 1),
        (Address.of("AAAAAAAAAAAA"), 1),
        (Address.of("1000000000AA", kind=1), 1),
        (Address.of("2000000000AA", kind=1), 0),
        (Address.of("100000000002"), 0),
        (Address.of("0001"), 0),
        (Address.of("100000000001", kind=2), 0),
        (Address.of("AA", kind=3), 0),
    ],
)
def test_who_is_answered(make_bench: Any, address: Address, answers: int) -> None:
    bench = make_bench()
    bench.login()
    said = bench.ask(GET_CLOCK, address=address)
    assert len(said) == answers
    if said:
        assert bench.sent[-1].address == bench.terminal.address
        assert (bench.sent[-1].control, bench.sent[-1].client) == (0xC3, CLIENT)


def test_broadcast_time_is_taken_without_an_answer(make_bench: Any) -> None:
    bench = make_bench(speed=1.0)
    bench.login()
    later = date_time(START + 5000)
    act = access.ActionRequestNormal(
        piid=Piid(0), omd=Omd(0x40007F00), param=Data(Tag.DATE_TIME_S, later[:4] + later[5:8])
    )
    assert reports(bench.ask(act, address=Address.of("AA", kind=3))) == []
    assert len(bench.sent) == 1
    (answer, *_) = bench.ask(GET_CLOCK)
    assert answer.result.data.value == later[:4] + later[5:8]


def test_frames_of_a_server_are_not_for_it(make_bench: Any) -> None:
    bench = make_bench()
    bench.login()
    assert bench.ask(GET_CLOCK, control=0xC3) == []
    assert bench.counters.foreign == 1


@pytest.mark.parametrize(
    ("octets", "piid", "error"),
    [("0501", 0, 1), ("057F09", 9, 1), ("05010B40", 0x0B, 1), ("02", 0, 1), ("0203", 3, 1)],
)
def test_what_it_cannot_parse_gets_an_error_response(make_bench: Any, octets: str, piid: int, error: int) -> None:
    bench = make_bench()
    bench.login()
    said = bench.take(bench.feed_raw(0x43, bytes.fromhex(octets)))
    assert said == [link.ServerError(piid=Piid(piid), error=error)]


@pytest.mark.parametrize("octets", ["", "08", "FF00", "8501", "10", "6E000100"])
def test_what_is_no_request_gets_silence(make_bench: Any, octets: str) -> None:
    bench = make_bench()
    bench.login()
    assert bench.feed_raw(0x43, bytes.fromhex(octets)) == []


# --- link fragments ----------------------------------------------------------------------------------------------


def test_a_request_in_fragments_is_answered_once(make_bench: Any) -> None:
    bench = make_bench()
    bench.login()
    (answer,) = bench.ask_in_fragments(GET_CLOCK, 3)
    assert answer.result.oad == Oad(0x40000200)
    acks = [f for f in bench.sent if f.is_fragment]
    assert [(f.control, parse_fragment(f.data).kind) for f in acks] == [(0xE3, ACK)] * 3


def test_a_long_report_goes_in_fragments_each_after_its_acknowledgement(make_bench: Any) -> None:
    bench = make_bench(frame_size=128, minute_s=900.0)
    bench.acknowledge_fragments = False
    bench.now = CURVE_S + 1
    assert bench.login() == []
    (piece,) = [f for f in bench.sent if f.is_fragment]
    assert piece.control == 0xA3
    assert parse_fragment(piece.data).kind == FIRST
    # Unacknowledged it goes again after a second, three times in all, then the transfer is given up.
    bench.run(bench.now + 2.5)
    assert [f.data for f in bench.sent if f.is_fragment] == [piece.data] * 3
    bench.run(bench.now + 1.0)
    assert bench.counters.given_up == 1
    bench.acknowledge_fragments = True
    (report,) = reports(bench.run(bench.now + 6.0))
    assert report.piid == 1
    assert all(len(f.raw) <= 130 for f in bench.sent)
    bench.acknowledge(report)
    assert bench.truth.unacknowledged == 0


def test_an_outbox_tells_no_deadline_while_it_is_closed(make_bench: Any) -> None:
    bench = make_bench()
    box = Outbox(bench.truth, bench.counters)
    assert box.deadline() is None
    assert box.tick(1e9, busy=False) == []
