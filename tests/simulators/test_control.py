"""Load control as the master sees it: octets in, answers, relays, load, events; in simulated time, without a sleep."""

from __future__ import annotations

from typing import Any

import pytest
from control_parts import (
    ALARM,
    COMMAND,
    GUARANTEE,
    OUTPUT,
    START,
    G,
    P,
    act,
    close,
    get,
    kilowatts,
    octet,
    pass_minutes,
    period_unit,
    put,
    relays,
    send,
    start_period_control,
    trip,
)

from simulators.settings import EventPlan
from simulators.shapes import array, bits, enum, i64, octets, oi, structure, text, u8, u16
from simulators.stamps import date_time_s
from wire698 import access
from wire698.frame import Address
from wire698.values import NULL, Data, Oad, Omd, Tag


@pytest.fixture
def bench(make_bench: Any) -> Any:
    """Logged in, no tasks in the way, and nothing reported but what the test lets."""
    bench = make_bench(minute_s=1e7)
    bench.login()
    put(bench, 0x43000800, Data(Tag.BOOL, False))
    return bench


# --- golden octets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_octets",
    [
        # control.md 1, 2 and 6
        "07 01 06 80 00 81 00 01 01 02 04 51 F2 05 02 01 11 01 12 00 00 03 00 00",
        "07 01 07 80 00 82 00 01 01 02 02 51 F2 05 02 01 16 00 00",
        "07 01 05 80 01 7F 00 00 00",
        "07 01 05 80 01 80 00 00 00",
        "07 01 08 81 03 06 00 50 23 01 00",
        # frames of real masters
        "07012C800081000101020451F2050201110A12000003000107E40906102906050105",
        "07013B800081000101020451F2050202110112000003010107E2090B0A13150100C8",
        "07012E800082000101020251F205020116000107E40906102910050205",
        "07012F80018000000107E20906102917050005",
        "07012A80017F00000107E20906102838050005",
        "0701268103060050230100",
        "07011F8103070050230100",
        "07011D81037F00020250230102020408FF110000",
        "0701168107060050230100",
        "0701218106070050230100",
        "07010C81070300020850230106007C1E6016011600140000000000000240140000000000030D40140000000000000000160000",
        "07012080027F0002020903FFFFFF0A81C8416C657274" + "00" * 195 + "00",
        "070122800280000000",
        "07011C8103030002065023010408E0"
        "02090408FF"
        + "140000000000001388" * 8
        + "02090408FF"
        + "140000000000002710" * 8
        + "02090408FF"
        + "140000000000003A98" * 8
        + "0F0000",
    ],
)
def test_golden_actions_are_accepted(bench: Any, request_octets: str) -> None:
    sent = bytes.fromhex(request_octets)
    answer = send(bench, request_octets)
    assert (answer.dar, answer.omd, answer.piid) == (0, int.from_bytes(sent[3:7]), sent[2])
    (control,) = bench.truth.controls[-1:]
    assert (control.omd, control.piid, control.accepted) == (sent[3:7].hex().upper(), sent[2], True)
    assert control.terminal == bench.terminal.settings.address


def test_the_answer_in_octets(bench: Any) -> None:
    bench.sent.clear()
    send(bench, "07 01 05 80 01 7F 00 00 00")
    assert bench.sent[-1].data.hex(" ").upper() == "87 01 05 80 01 7F 00 00 00 00 00"


@pytest.mark.parametrize(
    ("omd", "param", "dar"),
    [
        (0x80008100, NULL, 7),
        (0x80008100, array([]), 8),
        (0x80008100, trip(0), 8),
        (0x80008100, trip(5), 8),
        (0x80008100, trip(1, 0), 8),
        (0x80008100, array([structure(u8(1), u8(0), u16(0), Data(Tag.BOOL, False))]), 7),
        (0x80008100, array([structure(Data(Tag.OAD, Oad(0xF2060201)), u8(0), u16(0), Data(Tag.BOOL, False))]), 8),
        (0x80008200, array([structure(Data(Tag.OAD, Oad(0xF2050201)), enum(2))]), 8),
        (0x80008200, close(0), 8),
        (0x80007F00, u8(1), 7),
        (0x80008300, NULL, 6),
        (0x80000300, NULL, 6),
        (0x80017F00, u8(1), 7),
        (0x80018200, NULL, 6),
        (0x80027F00, structure(octets(b"\xff\xff"), text(b"x")), 8),
        (0x80027F00, structure(octets(b"\xff\xff\xff"), text(b"x" * 201)), 8),
        (0x80037F00, structure(u8(1), text(b"x")), 7),
        (0x80038000, u8(9), 6),
        (0x81030600, oi(0x2309), 5),
        (0x81030600, u16(0x2301), 7),
        (0x81060600, oi(G), 4),
        (0x81040500, structure(oi(G), i64(1), Data(Tag.DATE_TIME_S, date_time_s(0)), u16(1), bits(1)), 6),
        (0x81030400, oi(G), 6),
        (0x81037F00, structure(oi(G), structure(bits(255), u8(3))), 8),
        (0x81080300, structure(oi(G), i64(-1), u8(80), Data(Tag.INTEGER, 0)), 8),
        (0x81080300, structure(oi(G), u8(1), u8(80), Data(Tag.INTEGER, 0)), 7),
        (0x23010500, Data(Tag.TSA, b"\x05999999"), 6),
        (0xF2057F00, structure(Data(Tag.OAD, Oad(0xF2050209)), enum(1)), 8),
    ],
)
def test_what_is_refused(bench: Any, omd: int, param: Data, dar: int) -> None:
    assert act(bench, omd, param) == dar
    assert relays(bench) == set()
    pass_minutes(bench, 5)
    assert relays(bench) == set()
    assert bench.truth.controls[-1].dar == dar
    assert (bench.counters.controls, bench.counters.refused_controls) == (0, 1)


# --- remote control ----------------------------------------------------------------------------------------------


def test_a_trip_alarms_then_opens_and_the_load_falls(bench: Any) -> None:
    whole = kilowatts(bench)
    assert act(bench, 0x80008100, trip(1, 2, delay=2)) == 0
    # The reply came before any effect.
    assert (octet(bench, COMMAND), octet(bench, ALARM), octet(bench, OUTPUT)) == (0xC0, 0xC0, 0)
    pass_minutes(bench, 1.9)
    assert relays(bench) == set()
    pass_minutes(bench, 0.2)
    assert relays(bench) == {1, 2}
    assert (octet(bench, COMMAND), octet(bench, ALARM), octet(bench, OUTPUT)) == (0xC0, 0, 0xC0)
    assert kilowatts(bench) == pytest.approx(0.3 * whole, rel=0.05)
    states = [relay.value[1].value for relay in get(bench, 0xF2050200).value]
    assert states == [1, 1, 0, 0]
    first, second = bench.truth.switches
    assert (first.relay, first.is_open, first.cause, second.relay) == (1, True, "remote", 2)
    assert first.after_kw == second.before_kw == pytest.approx(0.6 * first.before_kw, rel=1e-4)
    assert second.after_kw == pytest.approx(0.3 * first.before_kw, rel=1e-4)
    assert first.time == round((START + 120) * 1000)
    assert bench.truth.controls[-1].power_kw == pytest.approx(whole, abs=1e-3)
    act(bench, 0x80008200, close(1, 2))
    pass_minutes(bench, 0.1)
    assert relays(bench) == set()
    assert kilowatts(bench) == pytest.approx(whole, rel=0.1)
    assert [switch.cause for switch in bench.truth.switches[2:]] == ["close", "close"]


def test_all_relays_open_take_the_whole_load(bench: Any) -> None:
    act(bench, 0x80008100, trip(1, 2, 3, 4))
    pass_minutes(bench, 0.1)
    assert kilowatts(bench) == 0.0
    assert get(bench, 0x23010300) == i64(0)
    assert get(bench, 0x20040201) == Data(Tag.DOUBLE_LONG, 0)


def test_the_limit_time_restores(bench: Any) -> None:
    act(bench, 0x80008100, trip(3, limit=30))
    pass_minutes(bench, 29.9)
    assert relays(bench) == {3}
    pass_minutes(bench, 0.3)
    assert relays(bench) == set()
    assert octet(bench, COMMAND) == 0
    assert bench.truth.switches[-1].cause == "limit_time"


def test_a_permit_ends_the_command_and_the_customer_closes(bench: Any) -> None:
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 1)
    act(bench, 0x80008200, close(1, direct=False))
    assert (octet(bench, COMMAND), octet(bench, OUTPUT)) == (0, 0x80)
    pass_minutes(bench, 0.4)
    assert relays(bench) == {1}
    pass_minutes(bench, 0.2)
    assert relays(bench) == set()
    assert bench.truth.switches[-1].cause == "customer"


def test_a_customer_who_does_not_close(make_bench: Any) -> None:
    bench = make_bench(minute_s=1e7, customer_closes_s=None)
    bench.login()
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 1)
    act(bench, 0x80008200, close(1, direct=False))
    pass_minutes(bench, 600)
    assert relays(bench) == {1}
    act(bench, 0x80008200, close(1))
    pass_minutes(bench, 0.1)
    assert relays(bench) == set()


def test_closing_during_the_alarm_delay_means_it_never_opens(bench: Any) -> None:
    act(bench, 0x80008100, trip(1, delay=5))
    pass_minutes(bench, 1)
    act(bench, 0x80008200, close(1, direct=False))
    assert octet(bench, ALARM) == 0
    pass_minutes(bench, 10)
    assert bench.truth.switches == []


def test_a_new_trip_takes_back_a_permit(bench: Any) -> None:
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 1)
    act(bench, 0x80008200, close(1, direct=False))
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 10)
    assert relays(bench) == {1}


def test_the_same_control_again_is_executed_again_and_counted(bench: Any) -> None:
    """A terminal cannot know a repetition; the truth is how a test finds one."""
    for _ in range(2):
        send(bench, "07 01 06 80 00 81 00 01 01 02 04 51 F2 05 02 01 11 01 12 00 00 03 00 00")
    executed = [(c.terminal, c.omd, c.piid) for c in bench.truth.controls]
    assert len(executed) - len(set(executed)) == 1


def test_the_alarm_sounds_and_is_released(bench: Any) -> None:
    act(bench, 0x80007F00)
    assert octet(bench, ALARM) == 0xF0
    act(bench, 0x80008000)
    assert octet(bench, ALARM) == 0
    act(bench, 0x80008100, trip(2, delay=3))
    assert octet(bench, ALARM) == 0x40
    act(bench, 0x80008000)
    assert octet(bench, ALARM) == 0
    pass_minutes(bench, 3.1)
    assert relays(bench) == {2}


@pytest.mark.parametrize(("drops", "left"), [(True, set()), (False, {1})])
def test_midnight(make_bench: Any, drops: bool, left: set[int]) -> None:
    bench = make_bench(minute_s=1e7, trip_ends_at_midnight=drops)
    bench.login()
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 16 * 60 - 1)
    assert relays(bench) == {1}
    pass_minutes(bench, 2)
    assert relays(bench) == left
    assert bool(octet(bench, COMMAND)) is not drops


def test_quirks_of_bits_relays_and_states(make_bench: Any) -> None:
    bench = make_bench(
        minute_s=1e7, round_bits_lsb_first=True, relay_open_state=0, relays_by_place=True, relay_shares=(0.5, 0.5)
    )
    bench.login()
    # One entry is relay 1 whatever its index says.
    act(bench, 0x80008100, trip(2))
    pass_minutes(bench, 0.1)
    assert relays(bench) == {1}
    assert octet(bench, OUTPUT) == 0x01
    assert [relay.value[1].value for relay in get(bench, 0xF2050200).value] == [0, 1]
    assert get(bench, 0xF2050201).value[0] == text(b"RELAY1")
    assert act(bench, 0x80008100, trip(1, 2, 3)) == 8
    assert octet(bench, 0x23010E00) == 0x03
    put(bench, 0x23010E00, bits(0b10, lsb_first=True))
    assert bench.terminal.body.groups.all[G].power_rounds == 0b10


def test_the_switch_attribute_of_a_relay(bench: Any) -> None:
    assert act(bench, 0xF2057F00, structure(Data(Tag.OAD, Oad(0xF2050202)), enum(0))) == 0
    assert [relay.value[2].value for relay in get(bench, 0xF2050200).value] == [1, 0, 1, 1]


# --- power guarantee ---------------------------------------------------------------------------------------------


def test_a_guarantee_blocks_trips_and_cancels_what_is_out(bench: Any) -> None:
    act(bench, 0x80008100, trip(1))
    act(bench, 0x80008100, trip(2, delay=5))
    pass_minutes(bench, 1)
    assert act(bench, 0x80017F00) == 0
    assert relays(bench) == {1}
    pass_minutes(bench, 0.1)
    assert relays(bench) == set()
    assert get(bench, GUARANTEE) == enum(1)
    assert act(bench, 0x80008100, trip(3)) == 0
    pass_minutes(bench, 10)
    assert relays(bench) == set()
    # The commands are kept, what they did does not come back.
    assert octet(bench, COMMAND) == 0xE0
    act(bench, 0x80018000)
    pass_minutes(bench, 10)
    assert (relays(bench), get(bench, GUARANTEE)) == (set(), enum(0))
    act(bench, 0x80008100, trip(3))
    pass_minutes(bench, 0.1)
    assert relays(bench) == {3}


def test_the_state_of_the_guarantee_cannot_be_written(bench: Any) -> None:
    assert put(bench, GUARANTEE, enum(1)) == 13
    assert put(bench, 0x80010300, u8(1)) == 7
    assert put(bench, 0x80010500, array([structure(u8(9), u8(8))])) == 7
    assert put(bench, 0x80010500, array([structure(u8(9), u8(24))])) == 8
    assert put(bench, 0x80000300, bits(0)) == 3


def test_automatic_guarantee_in_its_hours(bench: Any) -> None:
    """Local time is 08:00; hours 9 to 10 are guaranteed, both included."""
    act(bench, 0x80008100, trip(1))
    assert put(bench, 0x80010500, array([structure(u8(9), u8(10))])) == 0
    states = []
    for minutes in (59, 2, 118, 2):
        pass_minutes(bench, minutes)
        states.append((get(bench, GUARANTEE).value, relays(bench)))
    assert states == [(0, {1}), (2, set()), (2, set()), (0, set())]
    pass_minutes(bench, 22 * 60)
    assert get(bench, GUARANTEE) == enum(2)
    act(bench, 0x80018100)
    assert get(bench, GUARANTEE) == enum(0)
    pass_minutes(bench, 24 * 60)
    assert get(bench, GUARANTEE) == enum(2)


def test_automatic_guarantee_without_the_master(make_bench: Any) -> None:
    bench = make_bench(minute_s=1e7, heartbeat_s=0)
    bench.login()
    put(bench, 0x80010300, u16(60))
    pass_minutes(bench, 59)
    control = bench.terminal.body.control
    assert control.guarantee == 0
    pass_minutes(bench, 2)
    assert control.guarantee == 2
    get(bench, GUARANTEE)
    assert control.guarantee == 0
    pass_minutes(bench, 61)
    assert control.guarantee == 2


def test_automatic_guarantee_after_power_up(make_bench: Any) -> None:
    plan = EventPlan(kind="power_off", at_s=600, duration_s=600)
    bench = make_bench(minute_s=1e7, events=(plan,))
    bench.login()
    put(bench, 0x80010400, u16(10))
    act(bench, 0x80008100, trip(1, delay=15))
    pass_minutes(bench, 11)
    bench.terminal.disconnected()
    pass_minutes(bench, 9.5)
    control = bench.terminal.body.control
    assert (control.guarantee, relays(bench)) == (2, set())
    pass_minutes(bench, 10)
    assert (control.guarantee, relays(bench)) == (0, set())


def test_a_trip_that_fell_due_without_power_waits_for_it(make_bench: Any) -> None:
    bench = make_bench(minute_s=1e7, events=(EventPlan(kind="power_off", at_s=600, duration_s=600),))
    bench.login()
    act(bench, 0x80008100, trip(1, delay=15))
    pass_minutes(bench, 19)
    assert relays(bench) == set()
    pass_minutes(bench, 2)
    assert relays(bench) == {1}


# --- the display -------------------------------------------------------------------------------------------------


def test_messages_are_shown_read_replaced_and_deleted(bench: Any) -> None:
    said = "明天停电".encode("gbk")
    at = Data(Tag.DATE_TIME_S, date_time_s(int(START)))
    assert act(bench, 0x80047F00, structure(u8(3), at, text(said))) == 0
    assert bench.truth.messages == []
    pass_minutes(bench, 0.1)
    (message,) = bench.truth.messages
    assert (message.kind, message.number, message.text) == ("important", 3, "明天停电")
    assert get(bench, 0x80040200) == array([structure(u8(3), at, Data(Tag.BOOL, False), text(said))])
    assert get(bench, 0x80030200) == array([])
    pass_minutes(bench, 1.1)
    assert get(bench, 0x80040201).value[2] == Data(Tag.BOOL, True)
    for number in (3, *range(4, 14)):
        assert act(bench, 0x80047F00, structure(u8(number), at, text(b"x"))) == 0
    assert [note.value[0].value for note in get(bench, 0x80040200).value] == list(range(4, 14))
    assert act(bench, 0x80048000, u8(5)) == 0
    assert act(bench, 0x80048000, u8(5)) == 6
    assert len(get(bench, 0x80040200).value) == 9


def test_the_arrears_alarm(bench: Any) -> None:
    assert get(bench, 0x80020200) == enum(0)
    assert act(bench, 0x80027F00, structure(octets(b"\xff\xff\xff"), text("欠费".encode("gbk") + bytes(8)))) == 0
    pass_minutes(bench, 0.1)
    assert bench.truth.messages[-1].text == "欠费"
    assert get(bench, 0x80020200) == enum(1)
    assert act(bench, 0x80028000) == 0
    assert get(bench, 0x80020200) == enum(0)


# --- clock, silence, lateness ------------------------------------------------------------------------------------


def test_a_broadcast_sets_the_clock_and_is_not_answered(bench: Any) -> None:
    later = date_time_s(int(START) + 900)
    request = access.ActionRequestNormal(piid=P, omd=Omd(0x40007F00), param=Data(Tag.DATE_TIME_S, later))
    assert bench.ask(request, address=Address.of("AA", kind=3)) == []
    assert get(bench, 0x40000200).value == later
    (control,) = bench.truth.controls
    assert (control.omd, control.accepted, control.answered) == ("40007F00", True, False)


def test_the_period_follows_the_clock_that_was_set(bench: Any) -> None:
    """Only 20:00 to 20:30 is controlled; the clock is moved there from 08:00."""
    table = [0] * 12
    table[10] = 0b01
    put(bench, 0x81010200, array(map(u8, table)))
    act(bench, 0x81030300, period_unit(1_0000))
    act(bench, 0x81030600, oi(G))
    pass_minutes(bench, 10)
    assert relays(bench) == set()
    put(bench, 0x40000200, Data(Tag.DATE_TIME_S, date_time_s(int(START) + 12 * 3600)))
    pass_minutes(bench, 1.2)
    assert relays(bench) == {1}
    pass_minutes(bench, 31)
    assert relays(bench) == set()


def test_a_silent_terminal_logs_in_and_reports_but_obeys_nothing(make_bench: Any) -> None:
    bench = make_bench(silent=True)
    bench.now = 16.0
    (report,) = bench.login()
    assert report.records
    assert bench.ask(access.ActionRequestNormal(piid=P, omd=Omd(0x80008100), param=trip(1))) == []
    assert bench.ask(access.GetRequestNormal(piid=P, oad=OUTPUT)) == []
    assert (bench.truth.controls, bench.counters.ignored) == ([], 2)
    bench.acknowledge(report)
    assert bench.truth.acknowledged == 1
    assert [a.type for a in bench.run(bench.now + 65) if hasattr(a, "type")] == [1]


def test_answers_to_one_kind_come_late(make_bench: Any) -> None:
    bench = make_bench(minute_s=1e7, answers_late_s={"action": 3.0})
    bench.login()
    assert bench.ask(access.GetRequestNormal(piid=P, oad=OUTPUT)) != []
    assert bench.ask(access.ActionRequestNormal(piid=P, omd=Omd(0x80017F00), param=NULL)) == []
    assert bench.run(bench.now + 2.9) == []
    (answer,) = bench.run(bench.now + 0.2)
    assert answer.dar == 0


def test_nothing_runs_while_nothing_is_in_force(bench: Any) -> None:
    """The body's next deadline is midnight, before any control and after the last."""
    body = bench.terminal.body
    midnight = START + 16 * 3600
    assert body.deadline() == pytest.approx(midnight, abs=1)
    start_period_control(bench, 1.0)
    pass_minutes(bench, 5)
    assert body.deadline() < START + bench.now * 60 + 6
    act(bench, 0x81030700, oi(G))
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 10)
    assert relays(bench) == {1}
    assert body.deadline() == pytest.approx(midnight, abs=1)
