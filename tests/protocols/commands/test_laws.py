"""Whatever a caller sends and whatever a terminal answers: Invalid, an Outcome, a verdict, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from command_side import ENTRIES, INSTANTS, MAPPER, NOW, SAID, apdu, command, planned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messages import VERBS, class_of_verb, decode, encode
from messages.model import Ack
from protocols.commands import (
    COMMON,
    Invalid,
    Limits,
    Plan,
    Quirks,
    arguments_of,
    clock_offset,
    guarantee_in_force,
    octets,
    outcome,
    plan,
)
from wire698 import model
from wire698.access import GetResponseNormal, GetResponseNormalList
from wire698.data import DATA
from wire698.errors import WireError
from wire698.notation import build_all
from wire698.pieces import Apdu, ResultNormal
from wire698.rows import Row
from wire698.values import BitString, Dar, Data, Oad, Piid, Tag

LAW = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
ALL_VERBS = sorted(set().union(*VERBS.values()))
NAMES = sorted(
    {name for verb in ALL_VERBS for name in arguments_of(verb)}
    | {
        "relay",
        "alarm_delay_min",
        "limit_min",
        "auto_close",
        "mode",
        "from",
        "to",
        "level",
        "event",
        "report",
        "wait_s",
        "octet_ms",
        "object",
        "columns",
        "baud",
        "parity",
        "data_bits",
        "stop_bits",
        "flow",
        "t",
        "v",
    }
)

_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 60),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["voltage", "40010200", "day_freeze", "tasks.records", "08:00", "24:00", "2025-11-24T10:30:00", "rs485-1",
         "plc-1", "123456789012", "period", "append", "energy", "normal", "permit", "120.5", "68", "0501014001020000",
         "mon", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "long64", "array", "RSD", "2400-8E1", "1 h"]
    ),
)  # fmt: skip
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
_quirks = st.builds(
    Quirks,
    round_bits_lsb_first=st.booleans(),
    control_bits_lsb_first=st.booleans(),
    alarm_hours_lsb_first=st.booleans(),
    relay_by_index=st.booleans(),
    relays=st.integers(1, 8),
    structured_parameters=st.booleans(),
    trip_limit_unit_min=st.sampled_from([1, 30]),
    purchase_type_member=st.booleans(),
    period_switch_always=st.booleans(),
    relay_open_state=st.sampled_from([None, 0, 1]),
)


@cache
def _examples(verb: str) -> list[dict[str, Any]]:
    return [entry["args"] for entry in ENTRIES if entry["verb"] == verb]


def _places(value: Any) -> list[tuple[Any, ...]]:
    """Every place inside a value, as the keys on the way."""
    found: list[tuple[Any, ...]] = [()]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found.extend((key, *rest) for rest in _places(item))
    return found


def _replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    if not place:
        return by
    key, *rest = place
    if isinstance(value, dict):
        return {**value, key: _replaced(value.get(key), tuple(rest), by)}
    return [_replaced(item, tuple(rest), by) if n == key else item for n, item in enumerate(value)]


@st.composite
def _commands(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A verb and arguments: at random, or those of an example with one place changed."""
    verb = draw(st.sampled_from(ALL_VERBS))
    if draw(st.booleans()):
        return verb, draw(st.dictionaries(st.sampled_from(arguments_of(verb)), _values, max_size=5))
    args = draw(st.sampled_from(_examples(verb)))
    if draw(st.integers(0, 3)) == 0:
        return verb, {**args, draw(st.sampled_from(NAMES) | st.text(max_size=6)): draw(_values)}
    changed = _replaced(args, draw(st.sampled_from(_places(args))), draw(_values))
    return verb, changed if isinstance(changed, dict) else args


def _names_a_place(error: Invalid, verb: str) -> bool:
    """Whether the field is the verb, the arguments, or a name among them that is known."""
    if error.field in ("verb", "args"):
        return True
    names = re.sub(r"\[\d+\]", "", error.field).split(".")
    return names[0] == "args" and names[1] in arguments_of(verb) and all(name in NAMES for name in names[2:])


def _plan_or_error(verb: str, args: dict[str, Any], **settings: Any) -> Plan | Invalid:
    try:
        return planned(verb, args, **settings)
    except Invalid as error:
        return error


@LAW
@given(_commands(), _quirks, st.sampled_from(["reads", "no_controls", "any"]))
def test_a_plan_or_invalid(made: tuple[str, dict[str, Any]], quirks: Quirks, transparent: Any) -> None:
    verb, args = made
    found = _plan_or_error(verb, args, quirks=quirks, limits=Limits(transparent=transparent))
    if isinstance(found, Invalid):
        assert _names_a_place(found, verb), found.field
        assert found.text
        return
    assert found.steps
    for step, text in zip(found.steps, octets(found), strict=True):
        assert step.apdu.piid & 0x3F == 0
        if step.apdu.__class__.__name__ == "ActionRequestBare":
            assert not quirks.structured_parameters
            continue
        back = model.parse(bytes.fromhex(text))
        assert model.build(back.apdu).hex().upper() == text
        if "NaN" not in repr(step.apdu) and "nan" not in repr(step.apdu):
            assert back.apdu == step.apdu


@LAW
@given(st.text(max_size=12), st.text(max_size=8) | st.sampled_from(["query", "config", "control"]), _values)
def test_any_verb_and_class(verb: str, command_class: str, args: Any) -> None:
    if class_of_verb(verb) != command_class:
        with pytest.raises(Invalid, match="verb: "):
            plan(command(verb, args), command_class, now_ms=NOW, instants=INSTANTS)


# --- answers ------------------------------------------------------------------------------------------------------


def _data() -> st.SearchStrategy[Data]:
    """Data as the objects of load control have it, and as they do not."""
    octets_ = st.binary(min_size=1, max_size=3)
    leaves = st.one_of(
        st.just(Data(Tag.NULL, None)),
        st.integers(0, 255).map(lambda n: Data(Tag.ENUM, n)),
        st.integers(0, 255).map(lambda n: Data(Tag.UNSIGNED, n)),
        st.booleans().map(lambda b: Data(Tag.BOOL, b)),
        octets_.map(lambda o: Data(Tag.BIT_STRING, BitString(8 * len(o), o))),
        st.just(Data(Tag.BIT_STRING, BitString(0, b""))),
        st.integers(0x2300, 0x230A).map(lambda n: Data(Tag.OI, n)),
        st.integers(-(2**63), 2**63 - 1).map(lambda n: Data(Tag.LONG64, n)),
        st.integers(-128, 127).map(lambda n: Data(Tag.INTEGER, n)),
        st.binary(min_size=7, max_size=7).map(lambda o: Data(Tag.DATE_TIME_S, o)),
        octets_.map(lambda o: Data(Tag.VISIBLE_STRING, o)),
        octets_.map(lambda o: Data(Tag.TSA, o)),
        st.floats(width=32, allow_nan=False).map(lambda f: Data(Tag.FLOAT32, f)),
    )
    return st.recursive(
        leaves,
        lambda inner: st.tuples(
            st.sampled_from([Tag.ARRAY, Tag.STRUCTURE]), st.lists(inner, max_size=8).map(tuple)
        ).map(lambda pair: Data(*pair)),
        max_leaves=20,
    )


OADS = [
    0x80000300, 0x80000400, 0x80000500, 0x80010200, 0x80020200, 0xF2050200, 0x23010B00, 0x23011000, 0x23011100,
    0x40000200, *(0x81030000 + (n << 16) + (attribute << 8) for n in range(6) for attribute in (2, 3, 4, 5)),
]  # fmt: skip
_results = st.builds(
    ResultNormal,
    st.sampled_from(OADS).map(Oad) | st.integers(0, 0xFFFFFFFF).map(Oad),
    st.integers(0, 255).map(Dar) | _data().map(lambda data: Row.of((data,))),
)
_gets = st.one_of(
    st.none(),
    st.builds(GetResponseNormal, st.just(Piid(1)), _results),
    st.builds(GetResponseNormalList, st.just(Piid(1)), st.lists(_results, max_size=6).map(tuple)),
    st.sampled_from([apdu(answer) for entry in ENTRIES for answer in entry["answers"]]),
)
CONTROLS = [entry for entry in ENTRIES if entry["verb"] in VERBS["control"]]


def _is_message(value: Any) -> None:
    """Goes out as an Ack and comes back."""
    ack = Ack(
        id="0" * 16,
        terminal="1",
        received_at=0,
        command_id="c",
        verb="v",
        status="verified",
        final=True,
        at=0,
        result=value,
    )
    assert decode(encode(ack, "json"), Ack).verb == "v"


@LAW
@given(st.sampled_from(CONTROLS), _quirks, st.lists(_gets, max_size=4))
def test_a_verdict_on_any_answer(entry: dict[str, Any], quirks: Quirks, answers: list[Any]) -> None:
    found = _plan_or_error(entry["verb"], entry["args"], quirks=quirks)
    if isinstance(found, Invalid):
        return  # relays that this terminal cannot name
    look = found.verification
    assert look is not None
    verdict, seen = look.judge(answers)
    assert verdict in (True, False, None)
    _is_message(seen)
    for answer in answers:
        assert guarantee_in_force(answer) in (True, False, None)
        assert isinstance(clock_offset(answer, NOW, INSTANTS), int | None)


@LAW
@given(st.sampled_from(ENTRIES), st.lists(_gets, min_size=1, max_size=4))
def test_an_outcome_of_any_answer(entry: dict[str, Any], answers: list[Any]) -> None:
    came = outcome(planned(entry["verb"], entry["args"]), answers, SAID, MAPPER)
    assert came.ok == (came.error is None)
    _is_message(came.result)


@LAW
@given(st.data())
def test_an_outcome_of_changed_answers(data: st.DataObject) -> None:
    """Answers with one octet changed, as far as they still decode."""
    entry = data.draw(st.sampled_from(ENTRIES))
    answers: list[Apdu | None] = []
    for answer in entry["answers"]:
        octets_ = bytearray(bytes.fromhex(answer))
        octets_[data.draw(st.integers(2, len(octets_) - 1))] = data.draw(st.integers(0, 255))
        try:
            answers.append(model.parse(bytes(octets_)).apdu)
        except WireError:
            answers.append(None)
    came = outcome(planned(entry["verb"], entry["args"]), answers, SAID, MAPPER)
    assert came.ok == (came.error is None)
    _is_message(came.result)


@LAW
@given(st.integers(0, 10**14), st.sampled_from([int, str, float]))
def test_units_are_exact(units: int, form: Callable[[Any], Any]) -> None:
    """A power in kW, written as a number or as text, is the same number of 10^-4 kW on the wire."""
    whole, part = divmod(units, 10_000)
    written: Any = form(whole) if form is int else form(f"{whole}.{part:04d}")
    expected = whole * 10_000 if form is int else units
    (step,) = planned("write", {"oad": "security_limit", "value": written}).steps
    assert build_all(DATA, step.apdu.value) == b"\x14" + expected.to_bytes(8)  # type: ignore[attr-defined]


# --- the table for readers ----------------------------------------------------------------------------------------


def test_docs_name_every_verb_and_argument() -> None:
    text = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `(\w+)`.*?\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALL_VERBS)
    for verb, section in sections.items():
        for name in arguments_of(verb):
            if name not in COMMON:
                assert f"`{name}`" in section, f"{verb}: {name}"
    for name in COMMON:
        assert f"`{name}`" in text


def test_docs_examples_are_good_commands() -> None:
    """The examples in the text are accepted as they stand."""
    import json

    text = (Path(__file__).parents[3] / "docs" / "commands.md").read_text(encoding="utf-8")
    examples = re.findall(r"^### `(\w+)`.*?\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    for verb, section in examples:
        found = re.findall(r"^    (\{.*\})$", section, re.MULTILINE)
        assert found, verb
        for example in found:
            assert planned(verb, json.loads(example)).steps
