"""Load control as the master sees it: octets in, answers, relays, load, events; in simulated time, without a sleep."""

from __future__ import annotations

from typing import Any

import pytest

from simulators.limits import PURCHASE
from simulators.records import EVENT_BASE
from simulators.settings import EventPlan
from simulators.shapes import array, bits, enum, i64, octets, oi, structure, text, u8, u16
from simulators.stamps import date_time_s
from wire698 import access
from wire698.data import DATA
from wire698.frame import Address
from wire698.notation import build_all
from wire698.values import NULL, Dar, Data, Oad, Omd, Piid, Rsd, Tag

P = Piid(5)
START = 1772409600.0
"""2026-03-02 08:00 local, a Monday, as the bench has it; it runs 60 simulated seconds in a real one."""
G = 0x2301
OUTPUT, ALARM, COMMAND, GUARANTEE = map(Oad, (0x80000300, 0x80000400, 0x80000500, 0x80010200))


@pytest.fixture
def bench(make_bench: Any) -> Any:
    """Logged in, no tasks in the way, and nothing reported but what the test lets."""
    bench = make_bench(minute_s=1e7)
    bench.login()
    put(bench, 0x43000800, Data(Tag.BOOL, False))
    return bench


def send(bench: Any, hexadecimal: str) -> Any:
    (answer,) = bench.take(bench.feed_raw(0x43, bytes.fromhex(hexadecimal)))
    return answer


def act(bench: Any, omd: int, param: Data = NULL) -> int:
    (answer,) = bench.ask(access.ActionRequestNormal(piid=P, omd=Omd(omd), param=param))
    assert (answer.piid, answer.omd) == (P, Omd(omd))
    return int(answer.dar)


def put(bench: Any, oad: int, value: Data) -> int:
    (answer,) = bench.ask(access.SetRequestNormal(piid=P, oad=Oad(oad), value=value))
    return int(answer.dar)


def get(bench: Any, oad: int) -> Any:
    (answer,) = bench.ask(access.GetRequestNormal(piid=P, oad=Oad(oad)))
    result = answer.result
    return result.result if isinstance(result.result, Dar) else result.data


def octet(bench: Any, oad: int) -> int:
    """The one octet of a bitmap."""
    value: int = get(bench, oad).value.octets[0]
    return value


def pass_minutes(bench: Any, minutes: float) -> list[Any]:
    """Simulated minutes are real seconds here."""
    said: list[Any] = bench.run(bench.now + minutes)
    return said


def kilowatts(bench: Any) -> float:
    power: float = bench.terminal.body.premises.kilowatts(START + bench.now * 60)
    return power


def relays(bench: Any) -> set[int]:
    return set(bench.terminal.body.premises.open_relays)


def trip(*relays_: int, delay: int = 0, limit: int = 0) -> Data:
    return array(
        structure(Data(Tag.OAD, Oad(0xF2050200 | relay)), u8(delay), u16(limit), Data(Tag.BOOL, False))
        for relay in relays_
    )


def close(*relays_: int, direct: bool = True) -> Data:
    return array(structure(Data(Tag.OAD, Oad(0xF2050200 | relay)), enum(int(direct))) for relay in relays_)


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


# --- limits ------------------------------------------------------------------------------------------------------


def period_unit(limit: int) -> Data:
    valid = structure(bits(0xFF), *(i64(limit) for _ in range(8)))
    return structure(oi(G), bits(1), valid, valid, valid, Data(Tag.INTEGER, 0))


def start_period_control(bench: Any, limit_kw: float) -> None:
    """8101 all day level 1, 8102 one minute each, one unit, input."""
    assert put(bench, 0x81010200, array([u8(0b01010101)] * 12)) == 0
    assert put(bench, 0x81020200, array([u8(1)] * 8)) == 0
    assert act(bench, 0x81030300, period_unit(round(limit_kw * 10_000))) == 0
    assert act(bench, 0x81030600, oi(G)) == 0


def test_period_control_cuts_round_by_round_and_is_released(bench: Any) -> None:
    whole = kilowatts(bench)
    start_period_control(bench, 0.5 * whole)
    assert get(bench, 0x81030200).value == (period_unit(round(0.5 * whole * 10_000)),)
    pass_minutes(bench, 0.5)
    assert get(bench, 0x81030500) == array([structure(oi(G), enum(1))])
    assert relays(bench) == set()
    pass_minutes(bench, 5)
    # 40 % and 30 % of the load: two rounds are enough.
    assert relays(bench) == {1, 2}
    assert get(bench, 0x81030300) == array([structure(oi(G), enum(1))])
    assert get(bench, 0x81030400) == array([structure(oi(G), bits(0b11))])
    state = get(bench, 0x23011100).value
    assert state[0] == i64(round(0.5 * whole * 10_000))
    assert [part.value.octets[0] for part in state[2:]] == [0xC0, 0, 0, 0, 0]
    setting = get(bench, 0x23011000).value
    assert [part.value.octets[0] for part in setting[1:]] == [0xFF, 0x80, 0, 0xF0, 0xF0]
    assert octet(bench, OUTPUT) == 0xC0
    assert act(bench, 0x81030700, oi(G)) == 0
    pass_minutes(bench, 0.1)
    assert relays(bench) == set()
    assert bench.terminal.body.control.limits.interval() is None


def test_only_configured_rounds_trip(bench: Any) -> None:
    assert put(bench, 0x23010E00, bits(0b1000)) == 0
    start_period_control(bench, 1.0)
    pass_minutes(bench, 9)
    assert relays(bench) == {4}


def test_a_remote_close_takes_a_round_from_a_control_for_this_period(bench: Any) -> None:
    put(bench, 0x23010E00, bits(0b1))
    start_period_control(bench, 1.0)
    pass_minutes(bench, 3)
    assert relays(bench) == {1}
    act(bench, 0x80008200, close(1))
    pass_minutes(bench, 30)
    assert relays(bench) == set()


def test_float_down_over_the_wire(bench: Any) -> None:
    plan = structure(u8(5), Data(Tag.INTEGER, -50), u8(2), u8(2), *(u8(1) for _ in range(4)))
    average = get(bench, 0x23010500).value
    assert act(bench, 0x81067F00, structure(oi(G), plan)) == 0
    pass_minutes(bench, 4)
    assert relays(bench) == {1, 2}
    state = get(bench, 0x23011100).value
    assert state[0].value == pytest.approx(average / 2, rel=0.05)
    assert state[1] == Data(Tag.INTEGER, -50)
    assert get(bench, 0x23010C00).value > 0
    # Two half-hours, then it is over.
    pass_minutes(bench, 60)
    assert relays(bench) == set()
    assert get(bench, 0x81060300) == array([structure(oi(G), enum(0))])


def purchase(number: int, amount: float, *, refresh: bool = False, trip_kwh: float = 0.0, alarm: float = 0.0) -> Data:
    energies = (i64(round(kwh * 10_000)) for kwh in (amount, alarm, trip_kwh))
    return structure(oi(G), Data(Tag.DOUBLE_LONG_UNSIGNED, number), enum(int(refresh)), enum(0), *energies, enum(0))


def test_a_purchase_is_used_up_trips_and_is_topped_up(bench: Any) -> None:
    hourly = kilowatts(bench)
    assert act(bench, 0x81070300, purchase(1, 2 * hourly, alarm=hourly)) == 0
    assert act(bench, 0x81070300, purchase(1, 5 * hourly)) == 21
    assert act(bench, 0x81070600, oi(G)) == 0
    bought = get(bench, 0x23010B00).value
    assert bought == round(2 * hourly * 10_000)
    pass_minutes(bench, 30)
    assert 0 < get(bench, 0x23010B00).value < 0.9 * bought
    assert relays(bench) == set()
    pass_minutes(bench, 240)
    assert get(bench, 0x23010B00) == i64(0)
    assert relays(bench) == {1, 2, 3, 4}
    assert get(bench, 0x81070500) == array([structure(oi(G), enum(1))])
    assert act(bench, 0x81070500, purchase(2, 100, refresh=True)) == 0
    pass_minutes(bench, 0.1)
    assert get(bench, 0x23010B00).value == pytest.approx(100_0000, rel=0.02)
    assert relays(bench) == set()


def test_the_older_purchase_unit_of_seven(bench: Any) -> None:
    unit = purchase(9, 10)
    older = Data(Tag.STRUCTURE, unit.value[:3] + unit.value[4:])
    assert act(bench, 0x81070300, older) == 0
    assert get(bench, 0x23010B00).value == 10_0000
    assert get(bench, 0x81070201) == older


def test_the_monthly_limit(bench: Any) -> None:
    hourly = kilowatts(bench)
    unit = structure(oi(G), i64(round(2 * hourly * 10_000)), u8(50), Data(Tag.INTEGER, 0))
    assert act(bench, 0x81080300, unit) == 0
    assert act(bench, 0x81080600, oi(G)) == 0
    pass_minutes(bench, 30)
    assert relays(bench) == set()
    pass_minutes(bench, 240)
    assert relays(bench) == {1, 2, 3, 4}
    used = get(bench, 0x23010900).value[0].value
    assert used > 2 * hourly * 10_000
    assert get(bench, 0x23010700).value[0].value == used


def test_parameters_are_written_and_read(bench: Any) -> None:
    values = {
        0x80000200: structure(Data(Tag.DOUBLE_LONG_UNSIGNED, 50000), u16(3)),
        0x80010300: u16(90),
        0x80010400: u16(5),
        0x80010500: array([structure(u8(1), u8(2)), structure(u8(22), u8(23))]),
        0x81000200: i64(50_0000),
        0x81010200: array(u8(n) for n in range(12)),
        0x81020200: array(u8(n) for n in range(8)),
        0x23020200: array([structure(Data(Tag.TSA, b"\x05\x50\x00\x00\x00\x00\x01"), enum(0), enum(1))]),
        0x23010D00: u8(15),
        0x23010E00: bits(0b101),
        0x23010F00: bits(0b110),
    }
    for oad, value in values.items():
        assert put(bench, oad, value) == 0, hex(oad)
        assert get(bench, oad) == value, hex(oad)
    assert put(bench, 0x81010200, array([u8(0)] * 11)) == 8
    assert put(bench, 0x81020200, array([u16(0)] * 8)) == 7
    assert put(bench, 0x81000200, i64(-1)) == 8
    assert put(bench, 0x81030200, array([])) == 3
    assert put(bench, 0x23010300, i64(0)) == 3
    # The second group subtracts the first meter.
    assert get(bench, 0x23020300).value < 0


def test_groups_add_up_their_meters(bench: Any) -> None:
    body = bench.terminal.body
    at = START + bench.now * 60
    assert get(bench, 0x23010300).value == round(body.premises.kilowatts(at) * 10_000)
    units = get(bench, 0x23010200).value
    assert len(units) == 2
    assert act(bench, 0x23010500, units[0].value[0]) == 0
    second = body.premises.meters[1]
    assert get(bench, 0x23010300).value == round(second.kilowatts(at) * second.curve.ct * 10_000)
    assert act(bench, 0x23010300, units[0]) == 0
    assert act(bench, 0x23030400, array(units)) == 0
    assert get(bench, 0x23030300).value == get(bench, 0x23010300).value
    assert act(bench, 0x23030100) == 0
    assert get(bench, 0x23030200) == array([])
    scalers = [item.value for item in get(bench, 0x23011200).value]
    assert scalers[0] == (-4, 28)
    assert len(scalers) == 10


# --- events ------------------------------------------------------------------------------------------------------


def record(bench: Any, oad: int, *columns: int) -> list[Any]:
    rcsd = tuple(map(Oad, columns)) and (*EVENT_BASE, *map(Oad, columns))
    wanted = access.GetRecord(oad=Oad(oad), rsd=Rsd(9, last=1), rcsd=rcsd)
    (answer,) = bench.ask(access.GetRequestRecord(piid=P, record=wanted))
    return [row.columns for row in answer.record.table.rows]


class Steady:
    """A load of 12 kW."""

    ct = 1
    peak_kw = 12.0

    def kilowatts(self, at: float) -> float:
        return 12.0

    def power_factor(self, at: float) -> float:
        return 0.9


def test_the_remote_trip_record_is_that_of_the_reference(make_bench: Any) -> None:
    """control.md 9: 3115, record 1, 2025-11-24 10:30:00, relay 1, group 1 has 12.0000 kW two minutes later."""
    bench = make_bench(minute_s=1e7, relay_shares=(0.5, 0.5))
    bench.login()
    put(bench, 0x43000800, Data(Tag.BOOL, False))
    put(bench, 0x40000200, Data(Tag.DATE_TIME_S, bytes.fromhex("07E90B180A1E00")))
    bench.terminal.body.control._clock.set(START + bench.now * 60 + 1, 1763951400.0)
    for meter in bench.terminal.body.premises.meters:
        meter.curve = Steady()
    act(bench, 0x80008100, trip(1))
    pass_minutes(bench, 2)
    assert record(bench, 0x31150200) == []
    pass_minutes(bench, 0.1)
    golden = (
        "02 06 06 00 00 00 01 1C 07 E9 0B 18 0A 1E 00 00 51 F2 05 02 01 "
        "01 02 02 02 51 45 00 00 00 11 00 02 02 51 45 10 00 00 11 00 "
        "01 08 14 00 00 00 00 00 01 D4 C0" + " 14 00 00 00 00 00 00 00 00" * 7
    )
    whole = get(bench, 0x31150201)
    assert build_all(DATA, whole).hex(" ").upper() == golden
    assert record(bench, 0x31150200, 0x330A0600) == [whole.value]


def test_events_are_reported_when_the_two_minutes_are_over(make_bench: Any) -> None:
    bench = make_bench(minute_s=1e7)
    bench.login()
    act(bench, 0x80008100, trip(2))
    assert bench.run(bench.now + 2) == []
    (report,) = bench.run(bench.now + 0.1)
    (told,) = report.records
    assert told.oad == Oad(0x31150200)
    assert told.table.rows[0].columns[3] == Data(Tag.OAD, Oad(0xF2050202))
    (entry,) = bench.truth.reports
    assert (entry.series, entry.event["occurred_at"]) == ("remote_trip", (START + 1) * 1000)
    assert entry.event["ended_at"] is None


def test_a_silenced_event_is_recorded_but_not_told(make_bench: Any) -> None:
    bench = make_bench(minute_s=1e7)
    bench.login()
    put(bench, 0x31150800, enum(0))
    act(bench, 0x80008100, trip(2))
    assert bench.run(bench.now + 5) == []
    assert len(record(bench, 0x31150200)) == 1
    assert get(bench, 0x31150400) == u16(1)


def test_a_power_control_trip_is_recorded(bench: Any) -> None:
    put(bench, 0x23010E00, bits(0b10))
    start_period_control(bench, 1.0)
    pass_minutes(bench, 1.3)
    (moved,) = bench.truth.switches
    pass_minutes(bench, 2.1)
    (columns,) = record(bench, 0x32000200)
    power_after = round(bench.terminal.body.premises.kilowatts(moved.time / 1000 + 120) * 10_000)
    before = round(moved.before_kw * 10_000)
    assert columns[1] == Data(Tag.DATE_TIME_S, date_time_s(moved.time // 1000))
    assert columns[3] == oi(G)
    assert columns[5].value == pytest.approx(power_after, abs=1)
    assert columns[6:9] == (oi(0x8103), bits(0b10), i64(1_0000))
    assert [column.value for column in columns[9:]] == pytest.approx([before, before], abs=1)
    assert get(bench, 0x32000300) == array([Data(Tag.OAD, Oad(0x23012300))])
    named = record(bench, 0x32000200, 0x33050600, 0x33050700, 0x33050800, 0x33050900, 0x33050A00, 0x23012300)
    assert named == [columns]


def test_purchase_records(bench: Any) -> None:
    hourly = kilowatts(bench)
    first = purchase(1, hourly, alarm=hourly / 2)
    act(bench, 0x81070300, first)
    act(bench, 0x81070600, oi(G))
    pass_minutes(bench, 0.1)
    (columns,) = record(bench, 0x32020200)
    assert columns[3:4] + columns[5:] == (oi(G), NULL)
    pass_minutes(bench, 300)
    (alarm,) = record(bench, 0x32030200)
    assert alarm[3:4] + alarm[5:] == (oi(G), oi(PURCHASE), first.value[5])
    (tripped,) = record(bench, 0x32010200)
    assert tripped[5:9] == (oi(PURCHASE), bits(0b1111), i64(0), i64(0))
    assert tripped[9].tag == Tag.ARRAY
    assert tripped[9].value[0].value > 0
    act(bench, 0x81070300, purchase(2, hourly))
    pass_minutes(bench, 0.1)
    assert record(bench, 0x32020200)[0][5] == first


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
