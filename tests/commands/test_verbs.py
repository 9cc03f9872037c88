"""Every verb on its whole way: MQTT, ledger, TCP, and back; the octets are those of the documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_parts import (
    ALARM_STATE,
    CLOSE_ARGS,
    COMMAND_STATE,
    GUARANTEE,
    NOON,
    RELAY_OUTPUT,
    TRIP_ARGS,
    NoonClock,
    Office,
    Scripted,
    enum,
    given_up,
    office_of,
    port_of,
    rounds,
    serving,
)
from e2e_parts import settings_of

from messages import VERBS, Ack, class_of_verb
from wire698.values import Data, Tag

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

ENTRIES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "commands.json").read_text("utf-8"))


def plain_error(ack: Ack) -> dict[str, Any] | None:
    error = ack.error
    return None if error is None else {"code": error.code, "name": error.name, "text": error.text}


async def carried_out(office: Office, terminal: Scripted, clock: NoonClock, entry: dict[str, Any]) -> None:
    """One entry of the golden file: octets, statuses, result and readings."""
    terminal.heard.clear()
    answers = [bytes.fromhex(answer) for answer in entry["answers"]]
    other = entry["answers"][0][:5] not in (f"8{entry['apdus'][0][1:5]}", "85 05")
    terminal.canned.extend(answers * 10 if other else answers)
    readings = len(office.readings)
    name = await office.order(entry["verb"], entry["args"], verify=False)
    if other:
        await given_up(office, terminal, clock, name)  # the answer of another service is none
        assert office.statuses(name) == ["accepted", "sent", "timed_out"]
        terminal.canned.clear()
        return
    final = await office.final(name)
    whole = len(entry["answers"]) == len(entry["apdus"])
    control = class_of_verb(entry["verb"]) == "control"
    sent = [one for one in terminal.said_to if one != "05 01 00 80 01 02 00 00"]
    if control and entry["verb"] == "trip":
        assert terminal.said_to[0] == "05 01 00 80 01 02 00 00", "power guarantee is asked for first"
    if not entry["ok"]:
        assert office.statuses(name) == ["accepted", "sent", "failed"]
        assert plain_error(final) == entry["error"]
        assert sent == [apdu.upper() for apdu in entry["apdus"][: len(entry["answers"])]]
    else:
        assert office.statuses(name) == ["accepted", "sent", "succeeded"]
        assert final.error is None
        assert sent == [apdu.upper() for apdu in entry["apdus"]]
    if whole:
        assert final.result == entry["result"]
    assert (final.attempts, final.verb) == (1, entry["verb"])
    new = [reading for reading in office.readings[readings:] if reading.command_id == name]
    assert len(new) == entry["readings"].count("Reading")
    assert all(reading.cause == "read" and reading.seq < final.seq for reading in new)
    terminal.canned.clear()


async def test_every_verb_becomes_the_octets_of_the_documents(broker: Mosquitto, tmp_path: Path) -> None:
    """Each of its forms, in order, at one terminal; nothing else is sent to it."""
    assert {entry["verb"] for entry in ENTRIES} == set().union(*VERBS.values())
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        for entry in ENTRIES:
            clock.wall_ms = office.now = NOON
            await carried_out(office, terminal, clock, entry)
        assert len(office.acks) == 3 * len(ENTRIES)
        assert all(ack.terminal == terminal.terminal and ack.channel for ack in office.acks)


def input_state(control: int, on: int) -> tuple[int, Data]:
    oi = Data(Tag.OI, 0x2301)
    return control << 16 | 0x0300, Data(Tag.ARRAY, (Data(Tag.STRUCTURE, (oi, enum(on))),))


EFFECTS: list[tuple[str, dict[str, Any], list[tuple[int, Data]]]] = [
    ("trip", TRIP_ARGS, [(RELAY_OUTPUT, rounds(0x80)), (COMMAND_STATE, rounds(0x80)), (ALARM_STATE, rounds(0))]),
    ("close", CLOSE_ARGS, [(RELAY_OUTPUT, rounds(0)), (COMMAND_STATE, rounds(0)), (ALARM_STATE, rounds(0))]),
    ("alarm", {"on": True}, [(ALARM_STATE, rounds(0x80))]),
    ("alarm", {"on": False}, [(ALARM_STATE, rounds(0))]),
    ("power_guarantee", {"on": True}, [(GUARANTEE, enum(1))]),
    ("power_guarantee", {"on": False}, [(GUARANTEE, enum(0))]),
    ("arrears_alarm", {"on": True, "text": "请缴费"}, [(0x80020200, enum(1))]),
    ("arrears_alarm", {"on": False}, [(0x80020200, enum(0))]),
    ("period_control", {"group": 1}, [input_state(0x8103, 1)]),
    ("release", {"control": "period", "group": 1}, [input_state(0x8103, 0)]),
    (
        "float_down",
        {
            "group": 1,
            "sliding_min": 5,
            "coefficient_percent": -20,
            "freeze_delay_min": 5,
            "control_min": 60,
            "alarm_min": [1],
        },
        [input_state(0x8106, 1)],
    ),
    (
        "rest_control",
        {"group": 1, "limit_kw": 50, "start": "07:00", "duration_min": 720, "weekdays": ["sat"]},
        [input_state(0x8104, 1)],
    ),
    (
        "suspension_control",
        {"group": 1, "start": "2025-12-01T00:00:00", "end": "2025-12-31T23:59:59", "limit_kw": 15.5},
        [input_state(0x8105, 1)],
    ),
    ("monthly_control", {"group": 1, "limit_kwh": 30000, "alarm_percent": 80}, [input_state(0x8108, 1)]),
]


@pytest.mark.parametrize(("verb", "args", "read"), EFFECTS, ids=[f"{v}-{n}" for n, (v, _, _) in enumerate(EFFECTS)])
async def test_every_control_is_verified_by_what_is_read_back(
    broker: Mosquitto, tmp_path: Path, verb: str, args: dict[str, Any], read: list[tuple[int, Data]]
) -> None:
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        name = await office.order(verb, args)
        await office.status(name, "succeeded")
        controls = [one for one in terminal.said_to if not one.startswith("05")]
        terminal.values.update(read)
        looked = len(terminal.heard)
        clock.forward(70)
        final = await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "succeeded", "verified"]
        assert isinstance(final.result, dict)
        assert final.result
        assert all(one.startswith("05") for one in terminal.said_to[looked:]), "a look only reads"
        assert [one for one in terminal.said_to if not one.startswith("05")] == controls


async def test_purchase_is_verified_by_its_order_number(broker: Mosquitto, tmp_path: Path) -> None:
    clock = NoonClock()
    args = {
        "group": 1,
        "order": 1001,
        "operation": "append",
        "kind": "energy",
        "amount": 500,
        "alarm_threshold": 100,
        "trip_threshold": 0,
    }
    unit = Data(Tag.STRUCTURE, (Data(Tag.OI, 0x2301), Data(Tag.DOUBLE_LONG_UNSIGNED, 1001), *[enum(0)] * 6))
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        name = await office.order("purchase", args)
        await office.status(name, "succeeded")
        terminal.values[0x81070200] = Data(Tag.ARRAY, (unit,))
        terminal.values.update([input_state(0x8107, 1)])
        clock.forward(70)
        await office.final(name)
        assert office.statuses(name)[-1] == "verified"


async def test_json_orders_and_json_acks(broker: Mosquitto, tmp_path: Path) -> None:
    """The other encoding of the contract."""
    from messages import encode

    settings = settings_of(tmp_path, broker.url, {"mqtt.format": "json"})
    async with (
        serving(settings, NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        terminal.values[0x40010200] = Data(Tag.OCTET_STRING, bytes.fromhex("112233445566"))
        command = office.command("read", {"points": ["40010200"]})
        await office.publish(office.topics.command(terminal.terminal, "query"), encode(command, "json"))
        final = await office.final(command.id)
        assert final.result == {"values": {"address": "112233445566"}}
