"""What is refused, where, and with which words."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest
from command_side import INSTANTS, NOW, command, hex_of, planned, refused

from messages import VERBS
from protocols.commands import Invalid, Limits, Quirks, plan
from wire698.notation import Octets, parse_all
from wire698.values import Piid

PURCHASE = {
    "group": 1,
    "order": 7,
    "operation": "refresh",
    "kind": "fee",
    "amount": 1,
    "alarm_threshold": 0,
    "trip_threshold": 0,
}
RELAY = {"relay": 1, "alarm_delay_min": 0}


@pytest.mark.parametrize(
    ("verb", "args", "field", "words"),
    [
        ("trip", {}, "args.relays", "missing"),
        ("trip", {"relay": 1}, "args", "did you mean 'relays'?"),
        ("trip", {"relays": []}, "args.relays", "list of 1 to 4"),
        ("trip", {"relays": [{"relay": 1}]}, "args.relays[0].alarm_delay_min", "missing"),
        ("trip", {"relays": [RELAY, RELAY]}, "args.relays[1]", "twice"),
        ("trip", {"relays": [{"relay": 5, "alarm_delay_min": 0}]}, "args.relays[0].relay", "1 to 4"),
        ("trip", {"relays": [{"relay": True, "alarm_delay_min": 0}]}, "args.relays[0].relay", "got True"),
        ("trip", {"relays": [RELAY | {"limit_mins": 3}]}, "args.relays[0]", "did you mean 'limit_min'?"),
        ("trip", {"relays": [RELAY | {"alarm_delay_min": 256}]}, "args.relays[0].alarm_delay_min", "0 to 255 min"),
        ("close", {"relays": [{"relay": 1, "mode": "dirct"}]}, "args.relays[0].mode", "did you mean 'direct'?"),
        ("alarm", {"on": 1}, "args.on", "true or false"),
        ("alarm", {"on": True, "dry_run": "yes"}, "args.dry_run", "true or false"),
        ("alarm", {"on": True, "if_offline": "drop"}, "args.if_offline", "wait, reject"),
        ("power_guarantee", {"on": True, "automatic": True}, "args.automatic", "only with on false"),
        ("arrears_alarm", {"on": True}, "args.text", "missing"),
        ("arrears_alarm", {"on": False, "text": "x"}, "args.text", "only with on true"),
        ("arrears_alarm", {"on": True, "text": "x", "hours": [24]}, "args.hours[0]", "0 to 23 h"),
        ("arrears_alarm", {"on": True, "text": "x", "hours": [8, 8]}, "args.hours[1]", "twice"),
        ("period_control", {"group": 9}, "args.group", "1 to 8"),
        ("period_control", {"group": 1, "schemes": [None]}, "args.schemes", "at least one"),
        ("period_control", {"group": 1, "schemes": [[0.00001]]}, "args.schemes[0][0]", "at most 4 decimals"),
        ("period_control", {"group": 1, "schemes": [[-1]]}, "args.schemes[0][0]", "kW of 0"),
        ("period_control", {"group": 1, "schemes": [[1]], "scheme": 2}, "args.scheme", "not valid"),
        ("period_control", {"group": 1, "scheme": 2}, "args.active_periods", "missing"),
        ("period_control", {"group": 1, "input": False}, "args.input", "no unit"),
        ("period_control", {"group": 1, "update": True}, "args.update", "only with a unit"),
        ("period_control", {"group": 1, "coefficient_percent": 5}, "args.coefficient_percent", "schemes"),
        ("period_control", {"group": 1, "periods": [0] * 47}, "args.periods", "exactly 48"),
        ("period_control", {"group": 1, "periods": [{"from": "08:10", "to": "09:00"}]}, "args.periods[0].from", "half"),
        ("period_control", {"group": 1, "periods": [{"from": "22:00", "to": "06:00"}]}, "args.periods[0].to", "after"),
        ("rest_control", {"group": 1, "limit_kw": 1}, "args.start", "missing"),
        (
            "rest_control",
            {"group": 1, "limit_kw": 1, "start": "07:00", "duration_min": 1, "weekdays": ["friday"]},
            "args.weekdays[0]",
            "mon, tue",
        ),
        ("suspension_control", {"group": 1, "start": NOW, "end": NOW, "limit_kw": 1}, "args.end", "after start"),
        (
            "float_down",
            {"group": 1, "sliding_min": 1, "control_min": 45},
            "args.control_min",
            "half hours",
        ),
        ("purchase", PURCHASE | {"amount": "1.23456"}, "args.amount", "at most 4 decimals"),
        ("purchase", PURCHASE | {"amount": "1e3"}, "args.amount", "yuan of 0"),
        ("purchase", PURCHASE | {"order": -1}, "args.order", "0 to 4294967295"),
        ("release", {"control": "periods", "group": 1}, "args.control", "did you mean 'period'?"),
        ("read", {"points": ["voltge.a"]}, "args.points[0]", "did you mean 'voltage'?"),
        ("read", {"points": []}, "args.points", "1 to 64"),
        ("read", {"points": ["voltage"], "timeout_s": 3}, "args.timeout_s", "only with a meter"),
        ("read", {"points": ["oad:2000"]}, "args.points[0]", "eight hexadecimal digits"),
        ("read_meter", {"points": ["voltage"]}, "args.meter", "missing"),
        ("read_meter", {"points": ["voltage"], "meter": "12x"}, "args.meter", "digits"),
        ("read_record", {"object": "day_freeze"}, "args.last", "one of last, nth, at"),
        ("read_record", {"object": "day_freeze", "last": 1, "at": NOW}, "args.at", "exclude each other"),
        ("read_record", {"object": "day_freeze", "from": NOW}, "args.to", "missing"),
        ("read_record", {"object": "day_freeze", "from": NOW, "to": NOW}, "args.to", "after from"),
        ("read_record", {"object": "day_freeze", "last": 1, "meters": ["1"]}, "args.meters", "collected data"),
        ("read_record", {"object": "tasks.records", "last": 1, "by": "store"}, "args.by", "not with last"),
        ("read_record", {"object": "day_freeze", "last": 1, "every": "1 h"}, "args.every", "only with from"),
        ("transparent", {"port": "com1", "frame": "00"}, "args.port", "rs485-1"),
        ("transparent", {"port": "rs485-1", "frame": "0"}, "args.frame", "hexadecimal"),
        ("transparent", {"port": "rs485-1", "frame": "00", "line": "2401-8E1"}, "args.line", "2400-8E1"),
        (
            "transparent",
            {"port": "rs485-1", "frame": "00", "timeouts": {"wait": 1}},
            "args.timeouts",
            "did you mean 'wait_s'?",
        ),
        ("write", {"oad": "voltage", "value": {"t": "long", "v": 1, "x": 2}}, None, ""),
        ("write", {"oad": "voltage", "value": {"t": "lng", "v": 1}}, "args.value", "not known"),
        ("write", {"oad": "message_normal", "value": 1}, "args.value", "needs its type"),
        ("write", {"oad": "oad:FF010200", "value": 1}, "args.value", "not in the catalogue"),
        ("write", {"oad": "control_alarm_times", "value": [1]}, "args.value", "exactly 8"),
        ("write", {"oad": "power_guarantee.auto_after_silence", "value": 65536}, "args.value", "0 to 65535"),
        ("write", {"oad": "group_1.power_rounds", "value": "1100"}, "args.value", "8 bits"),
        ("message", {"level": "urgent", "number": 1, "text": "x"}, "args.level", "normal, important"),
        ("message", {"level": "normal", "number": 1, "text": "电" * 101}, "args.text", "this is 202 octets"),
        ("message", {"level": "normal", "number": 1, "text": ""}, "args.text", "this is 0 octets"),
        ("message", {"level": "normal", "number": 1, "text": "ok 😀"}, "args.text", "character 4, is not in GBK"),
        ("message", {"level": "normal", "number": 1, "text": "a\x00b"}, "args.text", "character 2 is a control"),
        ("configure_reporting", {}, "args", "one of active"),
        ("configure_reporting", {"events": [{"event": "remote_trp"}]}, "args.events[0].event", "'remote_trip'"),
        ("apdu", {"hex": "05 01"}, "args.hex", "at octet"),
        ("apdu", {"hex": "zz"}, "args.hex", "hexadecimal"),
    ],
)
def test_refused_with_field_and_words(verb: str, args: dict[str, Any], field: str | None, words: str) -> None:
    if field is None:
        assert planned(verb, args).steps
        return
    error = refused(verb, args)
    assert (error.name, error.field) == ("bad_argument", field)
    assert words in error.text


def test_unknown_and_misplaced_verbs() -> None:
    error = refused("trp", {})
    assert (error.name, error.field) == ("unknown_verb", "verb")
    assert "did you mean 'trip'?" in error.text
    for command_class in ("query", "config", "nonsense"):
        with pytest.raises(Invalid) as caught:
            plan(command("trip", {"relays": [RELAY]}), command_class, now_ms=NOW, instants=INSTANTS)
        assert caught.value.name == "wrong_class"


@pytest.mark.parametrize("value", [120.5, "120.5", Decimal("120.5"), "+120.5000"])
def test_units_are_exact_however_they_are_written(value: Any) -> None:
    (step,) = planned("write", {"oad": "security_limit", "value": value}).steps
    assert hex_of(step.apdu) == "06 01 00 81 00 02 00 14 00 00 00 00 00 12 63 08 00"


@pytest.mark.parametrize(("value", "units"), [(0.1, 1000), (1, 10_000), ("0.0001", 1), (0.3, 3000), (1e9, 10**13)])
def test_no_rounding_in_between(value: Any, units: int) -> None:
    step = planned("purchase", PURCHASE | {"amount": value}).steps[0]
    assert step.apdu.param.value[4].value == units  # type: ignore[attr-defined]


def test_text_of_exactly_200_octets() -> None:
    (step,) = planned("message", {"level": "normal", "number": 1, "text": "电" * 100}).steps
    assert "0A 81 C8" in hex_of(step.apdu)


def test_gateway_arguments_are_known_to_every_verb() -> None:
    found = planned("alarm", {"on": True, "dry_run": True, "if_offline": "reject"})
    assert (found.dry_run, found.if_offline) == (True, "reject")
    assert (planned("alarm", {"on": True}).dry_run, planned("alarm", {"on": True}).if_offline) == (False, "wait")
    assert set().union(*VERBS.values())


def test_meters_behind_the_terminal() -> None:
    args = {"meter": "123456789012", "points": ["voltage"]}
    assert planned("read_meter", args, meters=frozenset({"123456789012"})).steps
    assert refused("read_meter", args, meters=frozenset()).field == "args.meter"


# --- quirks -------------------------------------------------------------------------------------------------------


def _hex(verb: str, args: dict[str, Any], quirks: Quirks) -> list[str]:
    return [hex_of(step.apdu) for step in planned(verb, args, quirks=quirks).steps]


def test_relays_by_place_must_be_named_without_a_gap() -> None:
    by_place = Quirks(relay_by_index=False)
    assert refused("trip", {"relays": [{"relay": 2, "alarm_delay_min": 0}]}, quirks=by_place).name == "unsupported"
    both = {"relays": [{"relay": 2}, {"relay": 1}]}
    assert _hex("close", both, by_place) == _hex("close", both, Quirks())


def test_bit_orders() -> None:
    rounds = {"group": 1, "rounds": [1, 2]}
    assert _hex("period_control", rounds, Quirks())[0].endswith("04 08 C0 00")
    assert _hex("period_control", rounds, Quirks(round_bits_lsb_first=True))[0].endswith("04 08 03 00")
    hours = {"on": True, "hours": [0, 9, 23], "text": "A"}
    assert "09 03 80 40 01" in _hex("arrears_alarm", hours, Quirks())[0]
    assert "09 03 01 02 80" in _hex("arrears_alarm", hours, Quirks(alarm_hours_lsb_first=True))[0]
    choice = {"group": 1, "scheme": 3, "active_periods": [1, 8]}
    assert _hex("period_control", choice, Quirks())[-1].endswith("04 08 81 11 02 00")
    assert _hex(
        "period_control", {"group": 1, "scheme": 1, "active_periods": [3]}, Quirks(control_bits_lsb_first=True)
    )[-1].endswith("04 08 04 11 00 00")


def test_rest_days_stand_where_the_terminal_has_them() -> None:
    args = {"group": 1, "limit_kw": 1, "start": "00:00", "duration_min": 1, "weekdays": ["mon", "sun"]}
    assert _hex("rest_control", args, Quirks())[0].endswith("04 08 41 00")
    from_monday = Quirks(rest_day_bits=(1, 2, 3, 4, 5, 6, 7, 0))
    assert _hex("rest_control", args, from_monday)[0].endswith("04 08 82 00")
    from_sunday = Quirks(rest_day_bits=(7, 1, 2, 3, 4, 5, 6, 0))
    assert _hex("rest_control", args, from_sunday)[0].endswith("04 08 C0 00")


def test_parameters_without_their_structure() -> None:
    bare = Quirks(structured_parameters=False)
    assert _hex("message", {"level": "normal", "number": 3, "text": "A"}, bare) == [
        "07 01 00 80 03 7F 00 11 03 1C 07 E9 0B 18 0A 1E 00 0A 01 41 00"
    ]
    switched = _hex("period_control", {"group": 1, "scheme": 2, "active_periods": [1]}, bare)
    assert switched[-1] == "07 01 00 81 03 7F 00 50 23 01 02 02 04 08 80 11 01 00"


def test_purchases_of_other_firmware() -> None:
    other = Quirks(purchase_type_member=False, purchase_append_code=0x55, purchase_refresh_code=0xAA)
    unit = _hex("purchase", PURCHASE, other)[0]
    assert unit.startswith("07 01 00 81 07 03 00 02 07 50 23 01 06 00 00 00 07 16 AA 14 ")


def test_limit_time_in_half_hours() -> None:
    half = Quirks(trip_limit_unit_min=30)
    args = {"relays": [RELAY | {"limit_min": 90}]}
    assert "12 00 03" in _hex("trip", args, half)[0]
    error = refused("trip", {"relays": [RELAY | {"limit_min": 45}]}, quirks=half)
    assert error.field == "args.relays[0].limit_min"


def test_scheme_switch_where_a_terminal_always_needs_it() -> None:
    args = {"group": 1, "schemes": [[10, None, 30]]}
    assert len(planned("period_control", args).steps) == 2
    assert _hex("period_control", args, Quirks(period_switch_always=True))[-1].endswith("02 02 04 08 A0 11 00 00")


# --- controls that hide -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [
        "07 01 06 80 00 81 00 01 01 02 04 51 F2 05 02 01 11 01 12 00 00 03 00 00",
        "07 01 05 80 01 7F 00 00 00",
        "07 02 08 02 80 01 7F 00 00 80 00 80 00 00 00",
        "07 03 09 01 80 01 7F 00 00 80 01 02 00 00 00",
        "07 02 08 02 43 00 01 00 00 81 03 06 00 50 23 01 00",
        "09 05 11 00 1E 01 07 05 12 34 56 78 90 12 00 0A 01 80 00 81 00 00 00",
        "09 06 12 00 1E 01 07 05 12 34 56 78 90 12 00 0A 01 80 00 81 00 00 20 00 02 00 00 00",
        "06 01 01 80 01 02 00 16 00 00",
        "06 01 01 81 03 03 00 01 00 00",
    ],
)
def test_a_control_does_not_hide_in_an_apdu(octets: str) -> None:
    error = refused("apdu", {"hex": octets})
    assert (error.name, error.field) == ("wrong_class", "args.hex")
    assert "control verb" in error.text


@pytest.mark.parametrize(
    "octets",
    [
        "08 01 0A 01 20 22 02 00 00",
        "05 05 06 00 01 00",
        "6E 00 01 00",
        "10 00 09 07 01 05 80 01 7F 00 00 00 01 04 00 01 02 03",
        "10 01 10 A0A1A2A3A4A5A6A7A8A9AAABACADAEAF 03 81 00 00 00 02 00 14",
        "85 01 01 40 01 02 00 00 04 00 00",
    ],
)
def test_what_is_no_request_is_not_sent(octets: str) -> None:
    assert refused("apdu", {"hex": octets}).name == "unsupported"


@pytest.mark.parametrize("point", ["power_guarantee", "81030300", "80000500", "period_control", "81070200"])
def test_a_control_does_not_hide_in_a_write(point: str) -> None:
    assert refused("write", {"oad": point, "value": {"t": "enum", "v": 0}}).name == "wrong_class"


def telegram(code: int, data: str) -> str:
    octets = bytes.fromhex("68 12 90 78 56 34 12 68") + bytes((code, len(bytes.fromhex(data)))) + bytes.fromhex(data)
    return octets.hex() + f"{sum(octets) & 0xFF:02x}16"


TRIP_645 = "fefefefe" + telegram(0x1C, "33" * 16)
READ_645 = "FEFEFEFE 68 12 90 78 56 34 12 68 11 04 33 33 34 33 68 16"
GET_698 = "68 17 00 43 05 12 90 78 56 34 12 10 22 3E 05 01 01 40 01 02 00 00 C6 07 16"


@pytest.mark.parametrize(
    "octets",
    [
        TRIP_645,
        READ_645 + TRIP_645,
        "68" + TRIP_645,
        telegram(0x14, "33" * 12),
        telegram(0x03, "33" * 8),
        telegram(0x11, TRIP_645),
        TRIP_645[:-2],
    ],
)
def test_a_control_does_not_hide_in_octets_for_a_meter(octets: str) -> None:
    assert refused("transparent", {"port": "rs485-1", "frame": octets}).name == "unsupported"
    through = f"09 07 13 F2 01 02 01 03 02 08 01 00 00 0A 00 64 {len(bytes.fromhex(octets)):02X} {octets} 00"
    assert refused("apdu", {"hex": through}).name == "unsupported"
    assert planned("transparent", {"port": "rs485-1", "frame": octets}, limits=Limits(transparent="any")).steps


def test_a_frame_of_this_protocol_goes_through_only_to_read() -> None:
    from wire698.frame import Address, build_frame

    trip = bytes.fromhex("07 01 05 80 00 81 00 00 00")
    address = Address.of("123456789012")
    for frame in (build_frame(0x43, address, 0, trip), build_frame(0x43, address, 0, trip, scrambled=True)):
        assert refused("transparent", {"port": "rs485-1", "frame": frame.hex()}).name == "unsupported"
    fragment = build_frame(0x63, address, 0, b"\x00\x00" + trip)
    assert refused("transparent", {"port": "rs485-1", "frame": fragment.hex()}).name == "unsupported"
    assert planned("transparent", {"port": "rs485-1", "frame": GET_698}).steps[0].retries is None


def test_only_known_reading_where_the_settings_say_so() -> None:
    strict = Limits(transparent="reads")
    for frame in (READ_645, GET_698):
        assert planned("transparent", {"port": "rs485-1", "frame": frame}, limits=strict).steps
    assert (
        refused("transparent", {"port": "rs485-1", "frame": "01 03 00 00 00 02 C4 0B"}, limits=strict).name
        == "unsupported"
    )
    assert planned("transparent", {"port": "rs485-1", "frame": "01 03 00 00 00 02 C4 0B"}).steps[0].retries == 0


@pytest.mark.parametrize(
    "octets",
    [
        "07 01 00 80 04 80 00 11 01 00",
        "06 01 00 81 00 02 00 14 00 00 00 00 00 12 63 08 00",
        "07 01 00 43 00 01 00 00 00",
        "02 00 00 10 FFFFFFFFFFFFFFFF FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF 0400 0400 01 0400 00000064 00 00",
    ],
)
def test_what_controls_nothing_is_sent_as_it_stands(octets: str) -> None:
    (step,) = planned("apdu", {"hex": octets}).steps
    assert hex_of(step.apdu) == bytes.fromhex(octets).hex(" ").upper()


def test_bare_parameters_take_an_invoke_number_like_any_request() -> None:
    args = {"level": "normal", "number": 3, "text": "A"}
    (step,) = planned("message", args, quirks=Quirks(structured_parameters=False)).steps
    numbered = dataclasses.replace(step.apdu, piid=Piid(5))  # type: ignore[type-var]
    assert hex_of(numbered).startswith("07 01 05 80 03 7F 00 11 03 ")
    stream = Octets(bytes.fromhex(hex_of(numbered))[2:])
    assert parse_all(type(numbered).WIRE, stream) == numbered
