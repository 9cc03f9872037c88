"""Every verb against octets: those printed in the documents (their source is named), and those worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from command_side import ENTRIES, MAPPER, SAID, apdu, hex_of, planned

from messages import VERBS, Reading
from protocols.commands import octets, outcome
from wire698 import model


def _name(entry: dict[str, Any]) -> str:
    return f"{entry['verb']}-{ENTRIES.index(entry)}"


@pytest.mark.parametrize("entry", ENTRIES, ids=_name)
def test_command_becomes_these_octets(entry: dict[str, Any]) -> None:
    plan = planned(entry["verb"], entry["args"])
    assert [hex_of(step.apdu) for step in plan.steps] == entry["apdus"]
    assert octets(plan) == [one.replace(" ", "") for one in entry["apdus"]]


@pytest.mark.parametrize("entry", ENTRIES, ids=_name)
def test_octets_read_back_as_what_was_planned(entry: dict[str, Any]) -> None:
    for step, octets_ in zip(planned(entry["verb"], entry["args"]).steps, entry["apdus"], strict=True):
        parsed = model.parse(bytes.fromhex(octets_))
        assert parsed.apdu == step.apdu
        assert parsed.warnings == []


@pytest.mark.parametrize("entry", ENTRIES, ids=_name)
def test_answers_become_this_outcome(entry: dict[str, Any]) -> None:
    plan = planned(entry["verb"], entry["args"])
    came = outcome(plan, [apdu(one) for one in entry["answers"]], SAID, MAPPER)
    error = None if came.error is None else {"code": came.error.code, "name": came.error.name, "text": came.error.text}
    assert (came.ok, error, came.result) == (entry["ok"], entry["error"], entry["result"])
    assert [type(one).__name__ for one in came.readings] == entry["readings"]


def test_every_verb_has_octets_and_an_outcome() -> None:
    assert {entry["verb"] for entry in ENTRIES} == set().union(*VERBS.values())


def test_control_is_never_sent_twice_and_always_verifiable() -> None:
    for entry in ENTRIES:
        plan = planned(entry["verb"], entry["args"])
        assert plan.control == (entry["verb"] in VERBS["control"])
        assert plan.priority == {"control": 0, "config": 1, "query": 2}[plan.command_class]
        if plan.control:
            assert all(step.retries == 0 for step in plan.steps)
            assert plan.verification is not None
            assert plan.verification.steps


def test_what_is_not_idempotent_is_not_retried() -> None:
    assert [
        planned("set_clock", {}).steps[0].retries,
        planned("delete_message", {"level": "normal", "number": 1}).steps[0].retries,
    ] == [0, 0]
    assert planned("read", {"points": ["voltage"]}).steps[0].retries is None
    assert planned("apdu", {"hex": "05 01 04 40 01 02 00 00"}).steps[0].retries is None
    assert planned("apdu", {"hex": "07 01 04 43 00 01 00 00 00"}).steps[0].retries == 0
    assert planned("write", {"oad": "security_limit", "value": 1}).steps[0].retries is None


def test_meters_get_their_time() -> None:
    meter = {"meter": "123456789012", "points": ["voltage"]}
    assert planned("read_meter", meter | {"timeout_s": 90}).steps[0].timeout_s == 100
    assert planned("read_meter", meter).steps[0].timeout_s == 40
    through = {"port": "rs485-1", "frame": "00", "timeouts": {"wait_s": 20}}
    assert planned("transparent", through).steps[0].timeout_s == 30
    assert planned("read", {"points": ["voltage"]}).steps[0].timeout_s is None


def test_a_read_is_published_with_its_command() -> None:
    plan = planned("read_meter", {"meter": "123456789012", "points": ["voltage"]})
    answer = apdu(
        "89 01 0D 01 07 05 12 34 56 78 90 12 01 20 00 02 00 01 01 03 12 08 98 12 08 98 FF FF 00 00".replace(
            "FF FF", "12 FF FF"
        )
    )
    (reading,) = outcome(plan, [answer], SAID, MAPPER).readings
    assert isinstance(reading, Reading)
    assert (reading.cause, reading.command_id, reading.id) == ("read", "c-1", "")
    assert reading.rows == [["123456789012", None, 220.0, 220.0, None]]


def test_steps_go_on_as_long_as_they_succeed() -> None:
    plan = planned("monthly_control", {"group": 1, "limit_kwh": 1, "alarm_percent": 80, "rounds": [1]})
    first, second = apdu("86 01 02 23 01 0F 00 00 00 00"), apdu("87 01 08 81 08 03 00 05 00 00 00")
    one = outcome(plan, [first], SAID, MAPPER)
    assert one.ok
    assert isinstance(one.result, dict)
    assert (one.result["steps_done"], one.result["steps"]) == (1, 3)
    two = outcome(plan, [first, second], SAID, MAPPER)
    assert not two.ok
    assert two.error is not None
    assert (two.error.code, two.error.name) == (5, "interface_class_mismatch")
    assert "接口类" in two.error.text
    assert not outcome(plan, [], SAID, MAPPER).ok


def test_rows_beyond_the_bound_are_left_out_of_the_result_only() -> None:
    from protocols.commands import Limits

    plan = planned(
        "read_record", {"object": "day_freeze", "nth": 1, "columns": ["freeze_time"]}, limits=Limits(result_rows=2)
    )
    row = "1C 07 E9 0B 18 00 00 00"
    came = outcome(plan, [apdu(f"85 03 01 50 04 02 00 01 00 20 21 02 00 01 05 {row * 5} 00 00")], SAID, MAPPER)
    assert isinstance(came.result, dict)
    assert came.result["rows_left_out"] == 3
    assert isinstance(came.readings[0], Reading)
    assert len(came.readings[0].rows) == 5


def test_blocks_are_read_as_one_answer() -> None:
    plan = planned("read", {"points": ["40010200", "40000200"]})
    answer = apdu("85 05 06 01 00 02 01 02 40 01 02 00 01 09 06 12 34 56 78 90 12 40 00 02 00 00 04 00 00")
    came = outcome(plan, [answer], SAID, MAPPER)
    assert came.ok
    assert came.result == {
        "values": {"address": "123456789012"},
        "errors": {"clock": {"code": 4, "name": "object_undefined"}},
    }
    refused = outcome(plan, [apdu("85 05 06 01 00 02 00 09 00 00")], SAID, MAPPER)
    assert not refused.ok
    assert refused.error is not None
    assert refused.error.code == 9
