"""Limits and events of load control as the master sees them; in simulated time, without a sleep."""

from __future__ import annotations

from typing import Any

import pytest
from control_parts import (
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
    start_period_control,
    trip,
)

from simulators.limits import PURCHASE
from simulators.records import EVENT_BASE
from simulators.shapes import array, bits, enum, i64, oi, structure, u8, u16
from simulators.stamps import date_time_s
from wire698 import access
from wire698.data import DATA
from wire698.notation import build_all
from wire698.values import NULL, Data, Oad, Rsd, Tag


@pytest.fixture
def bench(make_bench: Any) -> Any:
    """Logged in, no tasks in the way, and nothing reported but what the test lets."""
    bench = make_bench(minute_s=1e7)
    bench.login()
    put(bench, 0x43000800, Data(Tag.BOOL, False))
    return bench


# --- limits ------------------------------------------------------------------------------------------------------


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
