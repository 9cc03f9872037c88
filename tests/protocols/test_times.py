"""Times on the wire and instants: the zone, what is no clock, the bound of what is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import times
from protocols.times import Instants

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    """UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        ("07E90B18000000", "2025-11-23T16:00:00"),
        ("07E90B180A1E00", "2025-11-24T02:30:00"),
        ("07E8021D000000", "2024-02-28T16:00:00"),
    ],
)
def test_date_time_s_is_local_time_of_the_zone(octets: str, expected: str) -> None:
    assert Instants(SHANGHAI)[bytes.fromhex(octets)] == ms(expected)


def test_date_time_has_milliseconds() -> None:
    assert Instants(SHANGHAI)[bytes.fromhex("07E005130408050000A4")] == ms("2016-05-19T00:05:00") + 164


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        ("00000000000000", "zeros"),
        ("FFFFFFFFFFFFFF", "FF throughout"),
        ("20160519080500", "BCD of a draft: year 8214"),
        ("07B1010100000000", "eight octets are no time"),
        ("07B10101000000", "year 1969"),
        ("08340101000000", "year 2100"),
        ("07E90D18000000", "month 13"),
        ("07E9021D000000", "29 February of a common year"),
        ("07E80200000000", "day 0"),
        ("07E90B18180000", "hour 24"),
        ("07E90B18003C00", "minute 60"),
        ("07E90B1800003C", "second 60"),
        ("07E9FF18000000", "any month"),
        ("07E90B1801000000 03E8", "1000 milliseconds"),
    ],
)
def test_what_is_no_instant_is_none(octets: str, why: str) -> None:
    assert Instants(SHANGHAI)[bytes.fromhex(octets)] is None, why


def test_milliseconds_that_are_not_given_leave_the_second() -> None:
    assert Instants(SHANGHAI)[bytes.fromhex("07E90B18010A1E00FFFF")] == ms("2025-11-24T02:30:00")


def test_day_of_week_is_not_looked_at() -> None:
    """Sunday is 0 or 7, and some send anything (oddity 4)."""
    instants = Instants(SHANGHAI)
    assert {instants[bytes.fromhex(f"07E90B18{day:02X}0A1E000000")] for day in (0, 1, 7, 255)} == {
        ms("2025-11-24T02:30:00")
    }


def test_hours_of_a_change_read_with_the_offset_from_before_it() -> None:
    instants = Instants(BERLIN)
    assert instants[bytes.fromhex("07E7031A021E00")] == ms("2023-03-26T01:30:00")  # does not exist there
    assert instants[bytes.fromhex("07E70A1D021E00")] == ms("2023-10-29T00:30:00")  # exists twice


@given(st.integers(0, ms("2099-12-30T00:00:00")), st.sampled_from(["Asia/Shanghai", "UTC", "Asia/Kathmandu"]))
def test_there_and_back(wall: int, zone: str) -> None:
    instants = Instants(ZoneInfo(zone))
    if zone == "Asia/Shanghai" and wall < ms("1992-01-01T00:00:00"):
        wall += ms("1992-01-01T00:00:00")  # its clocks were changed before
    assert instants[instants.date_time(wall)] == wall
    assert instants[instants.date_time_s(wall)] == wall // 1000 * 1000


def test_sunday_is_zero_in_what_we_send() -> None:
    assert Instants(SHANGHAI).date_time(ms("2025-11-22T16:00:00"))[4] == 0
    assert Instants(SHANGHAI).date_time(ms("2025-11-23T16:00:00"))[4] == 1


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_KEPT", 10)
    instants = Instants(SHANGHAI)
    for second in range(59):
        octets = bytes((7, 0xE9, 11, 24, 0, 0, second))
        assert instants[octets] == ms("2025-11-23T16:00:00") + second * 1000
        assert instants[octets] == ms("2025-11-23T16:00:00") + second * 1000
        assert len(instants) <= 10
