"""Registers, selectors, and task uploads in the form of the reference frames."""

from __future__ import annotations

from typing import Any

import pytest

from simulators import records
from simulators.records import DAILY, MINUTE, MONTHLY, Collected, EventLog, Freeze, in_meter_set, select
from simulators.registers import data_of, named
from simulators.stamps import date_time_s
from simulators.uploads import true_rows, upload_apdu, upload_record
from simulators.world import Meter, Reading
from wire698 import access, model
from wire698.values import (
    ALL_METERS,
    NULL,
    Data,
    MeterSet,
    Oad,
    Piid,
    RangeSelector,
    Region,
    Road,
    Rsd,
    Tag,
    Ti,
)

START = 1772409600
READING = Reading(
    energy_import=(123456, 123457, 123458, 123459, 123460),
    energy_export=(0, 0, 0, 0, 0),
    reactive_q1=(10, 4, 3, 2, 1),
    demand=((12345, START), (12345, START), (0, 0), (0, 0), (0, 0)),
    voltage=(2200, 2201, 2202),
    current=(1500, 1501, 1502),
    active=(9000, 9001, 9002, 9003),
    reactive=(-100, -30, -30, -40),
    apparent=(9100, 3000, 3000, 3100),
    power_factor=(987, 987, 987, 987),
    frequency=5001,
)


def freeze(n: int = 1) -> Freeze:
    return Freeze(n, START + 900 * n, READING)


def collected(n: int, meter: int = 1, of: Oad = MINUTE) -> Collected:
    at = START + 900 * n
    tsa = bytes((5, 0x50, 0, 0, 0, 0, meter))
    return Collected(tsa, meter, 3, of, freeze(n), at, at + 2, at + 5)


def dts(at: int) -> bytes:
    return date_time_s(at)


def test_an_upload_is_the_reference_frame_in_form() -> None:
    """6012 03 00, columns 202A 6040 6041 6042 and a ROAD on 5002 with five objects; one row."""
    reference = bytes.fromhex(
        "88020501601203000500202A020000604002000060410200006042020001500202000500100200200002002001020020040200"
        "200A02000101"
    )
    octets = upload_apdu(MINUTE, [collected(1)])
    assert octets[:2] + b"\x05" + octets[3 : len(reference)] == reference
    row = octets[len(reference) :]
    stamp = "1C07EA0302080F"
    assert row.hex().upper() == (
        "550705500000000001" + stamp + "00" + stamp + "02" + stamp + "05"
        "0105060001E240060001E241060001E242060001E243060001E244"
        "0103120898120899" + "12089A" + "010305000005DC05000005DD05000005DE"
        "0104050000232805000023290500" + "00232A050000232B" + "01041003DB1003DB1003DB1003DB" + "0000"
    )


@pytest.mark.parametrize("of", [MINUTE, DAILY, MONTHLY])
def test_packed_uploads_equal_the_models(of: Oad) -> None:
    rows = [collected(n, meter, of) for n in (1, 2) for meter in (1, 2, 3)]
    meter = Meter("1", "office", 9, START)
    rows.append(rows[0]._replace(freeze=Freeze(9, START, meter.read(START + 5))))
    rows.append(rows[1]._replace(freeze=Freeze(10, START, None), succeeded=None))
    expected = access.ReportNotificationRecordList(piid=Piid(0), records=(upload_record(of, rows),))
    octets = upload_apdu(of, rows)
    assert octets == model.build(expected)
    parsed: Any = model.parse(octets).apdu
    assert parsed.records[0].rcsd[-1] == Road(of, records.upload_columns(of))
    with pytest.raises(ValueError, match="128 rows"):
        upload_apdu(of, rows[:1] * 128)


def test_the_truth_tells_engineering_values() -> None:
    (row,) = true_rows(MINUTE, [collected(1)])
    assert row.meter == "500000000001"
    assert row.time == (START + 900) * 1000
    assert row.values["active_energy_import.total"] == 1234.56
    assert row.values["active_energy_import.t4"] == 1234.6
    assert row.values["voltage.b"] == 220.1
    assert row.values["current.c"] == 1.502
    assert row.values["active_power.total"] == 900.0
    assert row.values["power_factor.a"] == 0.987
    (monthly,) = true_rows(MONTHLY, [collected(1, of=MONTHLY)])
    assert monthly.values["max_demand_import.total"] == 1.2345
    assert monthly.values["max_demand_import.total.time"] == START * 1000
    assert monthly.values["max_demand_import.t2.time"] is None


def test_elements_of_an_object() -> None:
    assert data_of(Oad(0x20000202), READING) == Data(Tag.LONG_UNSIGNED, 2201)
    assert data_of(Oad(0x20000204), READING) == NULL
    assert data_of(Oad(0x200F0200), READING) == Data(Tag.LONG_UNSIGNED, 5001)
    assert data_of(Oad(0x20050200), READING).value[0] == Data(Tag.DOUBLE_LONG, -100)
    assert data_of(Oad(0x20990200), READING) == NULL
    assert named(Oad(0x20000202), READING) == {"voltage.b": 220.1}
    assert named(Oad(0x10100202), READING) == {
        "max_demand_import.t1": 1.2345,
        "max_demand_import.t1.time": START * 1000,
    }


FREEZES = [freeze(n) for n in range(1, 9)]


def numbers(rsd: Rsd) -> list[int]:
    return [row.number for row in select(FREEZES, rsd)]


def test_selectors_of_freeze_tables() -> None:
    time = records.FREEZE_TIME
    third, sixth = (Data(Tag.DATE_TIME_S, dts(START + 900 * n)) for n in (3, 6))
    assert numbers(Rsd(0)) == list(range(1, 9))
    assert numbers(Rsd(1, oad=time, value=third)) == [3]
    assert numbers(Rsd(2, ranges=(RangeSelector(time, third, sixth, NULL),))) == [3, 4, 5]
    both = (
        RangeSelector(time, third, sixth, NULL),
        RangeSelector(records.NUMBER, Data(Tag.DOUBLE_LONG_UNSIGNED, 5), Data(Tag.DOUBLE_LONG_UNSIGNED, 99), NULL),
    )
    assert numbers(Rsd(3, ranges=both)) == [5]
    assert numbers(Rsd(9, last=1)) == [8]
    assert numbers(Rsd(9, last=8)) == [1]
    assert numbers(Rsd(9, last=9)) == numbers(Rsd(9, last=0)) == []
    assert numbers(Rsd(10, last=3, meters=ALL_METERS)) == [6, 7, 8]


TASK_ROWS = [collected(n, meter) for n in range(1, 5) for meter in (1, 2)]


def places(rsd: Rsd) -> list[tuple[int, int]]:
    return [(row.freeze.number, row.meter) for row in select(TASK_ROWS, rsd, in_meter_set)]


def test_selectors_of_collected_data() -> None:
    two = MeterSet(3, (TASK_ROWS[1].tsa,))
    assert places(Rsd(4, at=dts(START + 1800), meters=ALL_METERS)) == [(2, 1), (2, 2)]
    assert places(Rsd(5, at=dts(START + 1805), meters=two)) == [(2, 2)]
    assert places(Rsd(5, at=b"\xff" * 7, meters=two)) == []
    span: dict[str, Any] = {"start": dts(START + 900), "end": dts(START + 2702), "meters": two}
    assert places(Rsd(6, interval=Ti(0, 0), **span)) == [(1, 2), (2, 2), (3, 2)]
    assert places(Rsd(6, interval=Ti(1, 30), **span)) == [(1, 2), (3, 2)]
    assert places(Rsd(8, interval=Ti(0, 0), **span)) == [(1, 2), (2, 2)]
    assert places(Rsd(7, interval=Ti(0, 0), **span)) == [(1, 2), (2, 2)]
    assert places(Rsd(10, last=1, meters=ALL_METERS)) == [(4, 1), (4, 2)]
    assert places(Rsd(10, last=9, meters=MeterSet(0))) == []


@pytest.mark.parametrize(
    ("meters", "chosen"),
    [
        (MeterSet(2, (3,)), [1, 2]),
        (MeterSet(2, (4,)), []),
        (MeterSet(4, (2,)), [2]),
        (MeterSet(5, (Region(2, Data(Tag.UNSIGNED, 1), Data(Tag.UNSIGNED, 3)),)), [1, 2]),
        (MeterSet(5, (Region(0, Data(Tag.UNSIGNED, 1), Data(Tag.UNSIGNED, 3)),)), []),
        (MeterSet(6, (Region(1, Data(Tag.TSA, TASK_ROWS[0].tsa), Data(Tag.TSA, TASK_ROWS[1].tsa)),)), [2]),
        (MeterSet(7, (Region(3, Data(Tag.LONG_UNSIGNED, 0), Data(Tag.LONG_UNSIGNED, 2)),)), [1]),
        (MeterSet(7, (Region(3, NULL, NULL),)), []),
    ],
)
def test_meter_sets(meters: MeterSet, chosen: list[int]) -> None:
    assert [row.meter for row in TASK_ROWS[:2] if in_meter_set(row, meters)] == chosen


def test_event_records_have_the_base_columns_and_what_their_kind_adds() -> None:
    log = EventLog(2)
    off = log.record("power_off", START)
    assert off.table == Oad(0x31060200)
    assert off.rcsd == (*records.EVENT_BASE, Oad(0x33090600))
    assert off.structure().value[2] == NULL
    assert off.structure().value[3] == Data(Tag.ENUM, 0)
    log.end(off, START + 60)
    assert off.structure().value[2] == Data(Tag.DATE_TIME_S, dts(START + 60))
    assert off.structure().value[3] == Data(Tag.ENUM, 1)
    loss = log.record("voltage_loss", START, tsa=b"\x05123456", meter="x", phase=1)
    assert (loss.table, loss.number) == (Oad(0x30000700), 1)
    assert loss.structure().value[3] == Data(Tag.TSA, b"\x05123456")
    for _ in range(3):
        log.record("power_off", START)
    assert [event.number for event in log.tables[Oad(0x31060200)]] == [3, 4]
