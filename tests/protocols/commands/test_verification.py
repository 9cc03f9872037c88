"""Verdicts on what was read back."""

from __future__ import annotations

from typing import Any

import pytest
from command_side import INSTANTS, NOW, apdu, hex_of, planned, told, verification

from protocols.commands import (
    Limits,
    Quirks,
    clock_broadcast,
    clock_offset,
    clock_request,
    clock_setting,
    guarantee_in_force,
    guarantee_request,
)

OUTPUT, ALARMING, COMMAND, GUARANTEE = "80000300", "80000400", "80000500", "80010200"
RELAYS, STATE = "F2050200", "23011100"
REFUSED = "00 04"


def bits(octet: int) -> str:
    return f"01 04 08 {octet:02X}"


def enum(value: int) -> str:
    return f"01 16 {value:02X}"


def relays(*states: int) -> str:
    return f"01 01 {len(states):02X}" + "".join(f"02 04 0A 00 16 {state:02X} 16 01 16 00" for state in states)


def state(power: int) -> str:
    return f"01 02 07 14 {'00' * 8} 0F 00 04 08 {power:02X} 04 08 00 04 08 00 04 08 00 04 08 00"


TWO = {"relays": [{"relay": 1, "alarm_delay_min": 1}, {"relay": 2, "alarm_delay_min": 2}]}


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([(OUTPUT, bits(0xC0))], True),
        ([(OUTPUT, bits(0x80))], False),
        ([(OUTPUT, bits(0x00)), (COMMAND, bits(0xC0))], False),
        ([(OUTPUT, bits(0xC0)), (GUARANTEE, enum(1))], False),
        ([(OUTPUT, bits(0xC0)), (GUARANTEE, enum(2))], False),
        ([(OUTPUT, bits(0xC0)), (GUARANTEE, enum(0))], True),
        ([(OUTPUT, REFUSED), (COMMAND, bits(0xC0))], True),
        ([(OUTPUT, REFUSED), (COMMAND, bits(0x40))], False),
        ([(OUTPUT, REFUSED), (COMMAND, bits(0xC0)), (ALARMING, bits(0x40))], False),
        ([(OUTPUT, REFUSED), (COMMAND, REFUSED)], None),
        ([(OUTPUT, "01 16 01"), (COMMAND, "01 00")], None),
        ([(OUTPUT, "01 04 01 80")], None),
        ([(RELAYS, relays(1, 1))], None),
        ([(STATE, state(0xC0))], True),
        ([(STATE, state(0x00))], None),
        ([(STATE, state(0x80)), (RELAYS, relays(1, 1))], None),
    ],
)
def test_trip_of_two_relays(results: list[tuple[str, str]], verdict: bool | None) -> None:
    assert verification("trip", TWO).judge([told(*results)])[0] is verdict


def test_relay_output_is_never_the_only_source() -> None:
    for open_state in (None, 0, 1):
        look = verification("trip", TWO, quirks=Quirks(relay_open_state=open_state))
        assert look.judge([told((RELAYS, relays(1, 1)))])[0] is None
        assert look.judge([told((RELAYS, relays(0, 0)))])[0] is None
    command = (COMMAND, bits(0xC0))
    one = verification("trip", TWO, quirks=Quirks(relay_open_state=1))
    assert one.judge([told(command), told((RELAYS, relays(1, 0)))])[0] is False
    assert one.judge([told(command), told((RELAYS, relays(1, 1)))])[0] is True
    assert verification("trip", TWO).judge([told(command), told((RELAYS, relays(1, 0)))])[0] is True


def test_bit_order_of_the_terminal() -> None:
    look = verification(
        "trip", {"relays": [{"relay": 1, "alarm_delay_min": 0}]}, quirks=Quirks(round_bits_lsb_first=True)
    )
    assert look.judge([told((OUTPUT, bits(0x01)))]) == (True, {"remote_control.relay_output": [1]})
    assert look.judge([told((OUTPUT, bits(0x80)))])[0] is False


@pytest.mark.parametrize(
    ("mode", "results", "verdict"),
    [
        ("direct", [(OUTPUT, bits(0x00))], True),
        ("direct", [(OUTPUT, bits(0x80)), (COMMAND, bits(0x00))], False),
        ("direct", [(COMMAND, bits(0x80))], False),
        ("direct", [(COMMAND, bits(0x40))], True),
        ("permit", [(OUTPUT, bits(0x80)), (COMMAND, bits(0x00))], True),
        ("permit", [(OUTPUT, bits(0x80)), (COMMAND, bits(0x80))], False),
        ("permit", [(OUTPUT, bits(0x80))], None),
        ("permit", [(OUTPUT, bits(0x00))], True),
        ("permit", [(RELAYS, relays(0))], None),
    ],
)
def test_close(mode: str, results: list[tuple[str, str]], verdict: bool | None) -> None:
    args = {"relays": [{"relay": 1, "mode": mode}]}
    assert verification("close", args).judge([told(*results)])[0] is verdict


def test_close_in_two_modes_needs_both() -> None:
    look = verification("close", {"relays": [{"relay": 1, "mode": "direct"}, {"relay": 2, "mode": "permit"}]})
    assert look.judge([told((OUTPUT, bits(0x40)), (COMMAND, bits(0x00)))])[0] is True
    assert look.judge([told((OUTPUT, bits(0x80)), (COMMAND, bits(0x00)))])[0] is False
    assert look.judge([told((OUTPUT, bits(0x40)))])[0] is None


def test_one_look_asks_one_source_after_another() -> None:
    look = verification("trip", TWO)
    assert [hex_of(step) for step in look.steps] == [
        "05 02 00 04 80 00 03 00 80 00 04 00 80 00 05 00 80 01 02 00 00",
        "05 01 00 F2 05 02 00 00",
        "05 01 00 23 01 11 00 00",
    ]
    assert look.judge([]) == (None, {})
    assert look.judge([None, None, apdu(f"85 01 01 {STATE} {state(0xC0)} 00 00")])[0] is True


def test_when_to_look() -> None:
    limits = Limits(settle_s=2, window_s=120, every_s=10)
    look = verification("trip", TWO, limits=limits)
    assert (look.after_s, look.window_s, look.every_s) == (122, 120, 10)
    short = {"relays": [{"relay": 1, "alarm_delay_min": 0, "limit_min": 1}]}
    assert verification("trip", short, limits=limits).window_s == 60
    gone = {"relays": [{"relay": 1, "alarm_delay_min": 0, "limit_min": 1}, {"relay": 2, "alarm_delay_min": 5}]}
    only_second = verification("trip", gone, limits=limits)
    assert only_second.judge([told((OUTPUT, bits(0x40)))])[0] is True
    assert verification("alarm", {"on": True}, limits=limits).after_s == 2


@pytest.mark.parametrize(
    ("verb", "args", "oad", "verdicts"),
    [
        ("alarm", {"on": True}, ALARMING, {bits(0x80): True, bits(0): False, REFUSED: None, "01 00": None}),
        ("alarm", {"on": False}, ALARMING, {bits(0x80): False, bits(0): True}),
        ("power_guarantee", {"on": True}, GUARANTEE, {enum(1): True, enum(2): True, enum(0): False, enum(9): None}),
        ("power_guarantee", {"on": False}, GUARANTEE, {enum(1): False, enum(2): False, enum(0): True, REFUSED: None}),
        (
            "power_guarantee",
            {"on": False, "automatic": True},
            GUARANTEE,
            {enum(1): True, enum(2): False, enum(0): True},
        ),
        ("arrears_alarm", {"on": True, "text": "x"}, "80020200", {enum(1): True, enum(0): False, enum(7): None}),
        ("arrears_alarm", {"on": False}, "80020200", {enum(1): False, enum(0): True}),
        (
            "period_control",
            {"group": 1},
            "81030300",
            {
                "01 01 01 02 02 50 23 01 16 01": True,
                "01 01 02 02 02 50 23 02 16 01 02 02 50 23 01 16 00": False,
                "01 01 00": False,
                "01 00": False,
                "01 01 01 02 02 50 23 01 16 07": None,
                "01 01 01 50 23 01": None,
                REFUSED: None,
            },
        ),
        (
            "period_control",
            {"group": 1},
            "23011000",
            {
                f"01 02 06 11 00 04 08 80 04 08 {t} 04 08 00 04 08 C0 04 08 00": v
                for t, v in (("80", True), ("40", False))
            },
        ),
        (
            "monthly_control",
            {"group": 1},
            "23011000",
            {
                f"01 02 06 11 00 04 08 80 04 08 80 04 08 {t} 04 08 C0 04 08 00": v
                for t, v in (("80", True), ("40", False))
            },
        ),
        (
            "float_down",
            {
                "group": 1,
                "sliding_min": 1,
                "coefficient_percent": 0,
                "freeze_delay_min": 0,
                "control_min": 30,
                "alarm_min": [0],
            },
            "81060300",
            {"01 01 01 02 02 50 23 01 16 01": True},
        ),
        (
            "release",
            {"control": "rest_control", "group": 2},
            "81040300",
            {"01 01 01 02 02 50 23 02 16 00": True, "01 01 01 02 02 50 23 02 16 01": False},
        ),
    ],
)
def test_state_of_a_control(verb: str, args: dict[str, Any], oad: str, verdicts: dict[str, bool | None]) -> None:
    look = verification(verb, args)
    assert {result: look.judge([told((oad, result))])[0] for result in verdicts} == verdicts


def test_a_unit_that_is_only_stored_is_compared() -> None:
    args = {"group": 1, "limit_kwh": 300, "alarm_percent": 80, "input": False}
    plan = planned("monthly_control", args)
    unit = hex_of(plan.steps[0].apdu)[7 * 3 : -3]
    assert plan.verification is not None
    stored = told(("81080200", f"01 01 01 {unit}"))
    assert plan.verification.judge([stored]) == (
        True,
        {"monthly_control": [{"group": 1, "limit_kwh": 300.0, "alarm_percent": 80, "coefficient_percent": 0}]},
    )
    assert plan.verification.judge([told(("81080200", "01 01 01 " + unit.replace("11 50", "11 51")))])[0] is False
    assert plan.verification.judge([told(("81080200", "01 01 00"))])[0] is False
    assert plan.verification.judge([told(("81080200", REFUSED))])[0] is None


def test_purchase_is_seen_by_its_order_and_its_input() -> None:
    args = {
        "group": 1,
        "order": 7,
        "operation": "refresh",
        "kind": "energy",
        "amount": 100,
        "alarm_threshold": 0,
        "trip_threshold": 0,
    }
    look = verification("purchase", args)
    unit = (
        "01 01 01 02 08 50 23 01 06 00 00 00 {:02X} 16 01 16 00 14"
        + "00" * 8
        + "14"
        + "00" * 8
        + "14"
        + "00" * 8
        + "16 01"
    )
    put_in = ("81070300", "01 01 01 02 02 50 23 01 16 01")
    assert look.judge([told(("81070200", unit.format(7)), put_in)])[0] is True
    assert look.judge([told(("81070200", unit.format(6)), put_in)])[0] is False
    assert look.judge([told(("81070200", REFUSED), put_in)])[0] is None

    def remaining(units: int) -> tuple[str, str]:
        return "23010B00", f"01 14 {units:016X}"

    refused = told(("81070200", REFUSED), put_in)
    assert look.judge([refused, told(remaining(999_000))])[0] is True
    assert look.judge([refused, told(remaining(100))])[0] is None
    assert look.judge([refused, told(remaining(1_000_001))])[0] is False
    added = verification("purchase", args | {"operation": "append"})
    assert added.judge([refused, told(remaining(999_000))])[0] is None


# --- guarantee and clock ------------------------------------------------------------------------------------------


def test_guarantee_for_the_interlock() -> None:
    assert hex_of(guarantee_request()) == "05 01 00 80 01 02 00 00"
    for value, expected in ((0, False), (1, True), (2, True), (9, None)):
        assert guarantee_in_force(apdu(f"85 01 01 80 01 02 00 01 16 {value:02X} 00 00")) is expected
    assert guarantee_in_force(apdu("85 01 01 80 01 02 00 00 04 00 00")) is None
    assert guarantee_in_force(apdu("85 01 01 80 02 02 00 01 16 01 00 00")) is None
    assert guarantee_in_force(None) is None


def test_clock() -> None:
    assert hex_of(clock_request()) == "05 01 00 40 00 02 00 00"
    assert hex_of(clock_setting(NOW, INSTANTS)) == "06 01 00 40 00 02 00 1C 07 E9 0B 18 0A 1E 00 00"
    assert hex_of(clock_broadcast(NOW, INSTANTS)) == "07 01 00 40 00 7F 00 1C 07 E9 0B 18 0A 1E 00 00"
    late = apdu("85 01 01 40 00 02 00 01 1C 07 E9 0B 18 0A 1C 1E 00 00")
    assert clock_offset(late, NOW, INSTANTS) == -90_000
    bcd = apdu("85 01 01 40 00 02 00 01 1C 20 16 11 24 10 30 00 00 00")
    assert clock_offset(bcd, NOW, INSTANTS) is None
    assert clock_offset(None, NOW, INSTANTS) is None
