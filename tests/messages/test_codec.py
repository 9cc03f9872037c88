"""Messages to octets and back: golden octets, round trips, tolerance, refusals."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from messages import (
    CONTENT_TYPES,
    FINAL_STATUSES,
    MESSAGES,
    STATUSES,
    VERBS,
    Ack,
    AckError,
    Alarm,
    BadMessage,
    CancelRequest,
    CollectionQuality,
    CollectionRatio,
    Column,
    Command,
    ControlSwitch,
    Format,
    Message,
    NodeStatus,
    Raw,
    Reading,
    ReplayRequest,
    State,
    UnknownVersion,
    class_of_verb,
    decode,
    decode_any,
    encode,
    is_final,
    peek_id,
)
from messages.examples import EXAMPLES
from messages.model import MAX_NESTING

FORMATS: tuple[Format, ...] = ("msgpack", "json")

UP = {
    "v": 1,
    "id": "00112233445566aa",
    "seq": 7,
    "node": "n1",
    "terminal": "001122334455",
    "protocol": "dlt698.45",
    "channel": "tcp",
    "received_at": 1_700_000_000_123,
}
STAMP: dict[str, Any] = {name: value for name, value in UP.items() if name not in {"v", "protocol"}}

GOLDEN: list[tuple[Message, dict[str, Any]]] = [
    (
        Reading(
            **STAMP,
            logical_address=2,
            cause="read",
            command_id="c-1",
            series="day",
            columns=(Column(name="voltage.a", unit="V", scale=-1, oad="20000200"),),
            rows=[["000000000001", 1_700_000_000_000, 220.3], [None, None, None]],
        ),
        {
            **UP,
            "logical_address": 2,
            "cause": "read",
            "command_id": "c-1",
            "series": "day",
            "columns": [{"name": "voltage.a", "unit": "V", "scale": -1, "oad": "20000200"}],
            "rows": [["000000000001", 1_700_000_000_000, 220.3], [None, None, None]],
        },
    ),
    (
        Reading(**STAMP, logical_address=0, cause="report", series="other", columns=(), rows=[]),
        {**UP, "cause": "report", "series": "other", "columns": [], "rows": []},
    ),
    (
        Alarm(
            **STAMP,
            event="event:3F01",
            oi="3F01",
            transition="raised",
            severity="critical",
            source="20260101",
            values={"x": [1, {"y": -2.5}]},
        ),
        {
            **UP,
            "event": "event:3F01",
            "oi": "3F01",
            "phase": None,
            "meter": None,
            "record_no": None,
            "transition": "raised",
            "occurred_at": None,
            "ended_at": None,
            "source": "20260101",
            "severity": "critical",
            "values": {"x": [1, {"y": -2.5}]},
        },
    ),
    (
        State(**STAMP, presence="suspect", reason="heartbeat_missed", since=5, last_seen=4, heartbeat_s=60),
        {
            **UP,
            "presence": "suspect",
            "reason": "heartbeat_missed",
            "since": 5,
            "last_seen": 4,
            "peer": None,
            "heartbeat_s": 60,
            "clock_offset_ms": None,
        },
    ),
    (Raw(**STAMP, direction="up", frame="68AA16"), {**UP, "direction": "up", "frame": "68AA16"}),
    (
        Ack(
            **STAMP,
            command_id="c-1",
            verb="trip",
            status="rejected",
            final=True,
            at=9,
            error=AckError(name="busy", text="忙"),
        ),
        {
            **UP,
            "command_id": "c-1",
            "verb": "trip",
            "status": "rejected",
            "final": True,
            "at": 9,
            "attempts": 0,
            "latency_ms": None,
            "error": {"code": None, "name": "busy", "text": "忙"},
            "result": None,
        },
    ),
    (
        Command(id="c-1", verb="trip", args={"relays": [{"relay": 1}]}, issued_by="x", expires_at=10),
        {
            "v": 1,
            "id": "c-1",
            "verb": "trip",
            "args": {"relays": [{"relay": 1}]},
            "issued_by": "x",
            "expires_at": 10,
            "priority": 5,
            "verify": True,
            "approvals": [],
        },
    ),
    (
        NodeStatus(node="n1", status="offline"),
        {"v": 1, "node": "n1", "status": "offline", "version": "", "channels": [], "control": "on"},
    ),
    (
        CollectionQuality(
            node="n1",
            at=5,
            ratios=[CollectionRatio(plan="p", kind="poll", period="hour", start=1, end=2, owed=0, first=0, cycle=0)],
        ),
        {
            "v": 1,
            "node": "n1",
            "at": 5,
            "ratios": [
                {
                    "plan": "p",
                    "kind": "poll",
                    "period": "hour",
                    "start": 1,
                    "end": 2,
                    "owed": 0,
                    "first": 0,
                    "cycle": 0,
                    "first_ratio": None,
                    "cycle_ratio": None,
                }
            ],
        },
    ),
    (
        CancelRequest(command_id="c-1", terminal="112233445566", issued_by="x"),
        {"v": 1, "command_id": "c-1", "terminal": "112233445566", "issued_by": "x"},
    ),
    (
        ControlSwitch(control="off", issued_by="x", reason="y"),
        {"v": 1, "control": "off", "issued_by": "x", "reason": "y"},
    ),
    (ReplayRequest(from_seq=3, to_seq=3), {"v": 1, "from_seq": 3, "to_seq": 3}),
]


def pack(value: object, form: Format) -> bytes:
    """The octets of `value` by libraries that are not ours."""
    if form == "msgpack":
        packed: bytes = msgpack.packb(value, use_bin_type=True)
        return packed
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def body(payload: bytes) -> bytes:
    """A payload with the shortest head: a map of 15 may also say its length in two octets (0xde)."""
    return bytes([0x80 + payload[2]]) + payload[3:] if payload[:2] == b"\xde\0" and payload[2] < 16 else payload


def unpack(payload: bytes, form: Format) -> Any:
    return msgpack.unpackb(payload, raw=False) if form == "msgpack" else json.loads(payload)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("message", "plain"), GOLDEN, ids=[type(message).__name__ for message, _ in GOLDEN])
def test_golden_both_ways(message: Message, plain: dict[str, Any], form: Format) -> None:
    assert body(encode(message, form)) == body(pack(plain, form))
    assert decode(pack(plain, form), type(message)) == message


def test_golden_covers_every_message() -> None:
    assert {type(message) for message, _ in GOLDEN} == set(MESSAGES) == set(EXAMPLES)


def test_golden_octets_as_they_stand() -> None:
    request = ReplayRequest(from_seq=1, to_seq=300)
    assert encode(request).hex() == "83a17601a866726f6d5f73657101a6746f5f736571cd012c"
    assert encode(request, "json") == b'{"v":1,"from_seq":1,"to_seq":300}'
    assert CONTENT_TYPES == {"msgpack": "application/vnd.msgpack", "json": "application/json"}


# Hypothesis: what goes in comes out, in both formats.

names = st.text(st.characters(codec="utf-8"), max_size=12)
some_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
integers = st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | names
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
instants = st.integers(-(2**40), 2**50)
counts = st.integers(0, 2**63 - 1)
maybe_instants = st.none() | instants
columns = st.builds(Column, name=names, unit=st.none() | names, scale=st.none() | st.integers(-9, 9), oad=names)
up: dict[str, st.SearchStrategy[Any]] = {
    "id": st.text("0123456789abcdef", min_size=16, max_size=16),
    "seq": counts,
    "node": names,
    "terminal": some_names,
    "protocol": names,
    "channel": names,
    "received_at": instants,
    "logical_address": st.integers(0, 3),
}


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    head = draw(st.lists(columns, max_size=4))
    row = st.tuples(st.none() | names, maybe_instants, *[values for _ in head]).map(list)
    return draw(
        st.builds(
            Reading,
            **up,
            cause=st.sampled_from(["report", "read", "poll", "backfill"]),
            command_id=names,
            series=st.sampled_from(["instant", "minute", "hour", "day", "month", "event", "other"]),
            columns=st.just(tuple(head)),
            rows=st.lists(row, max_size=3),
        )
    )


messages = st.one_of(
    readings(),
    st.builds(
        Alarm,
        **up,
        event=names,
        oi=names,
        phase=st.sampled_from(["a", "b", "c", None]),
        meter=st.none() | names,
        record_no=st.none() | counts,
        transition=st.sampled_from(["raised", "cleared", "recorded"]),
        occurred_at=maybe_instants,
        ended_at=maybe_instants,
        source=values,
        severity=st.sampled_from(["info", "warning", "critical"]),
        values=st.dictionaries(names, values, max_size=3),
    ),
    st.builds(
        State,
        **up,
        presence=st.sampled_from(["online", "suspect", "offline"]),
        reason=names,
        since=instants,
        last_seen=maybe_instants,
        peer=st.none() | names,
        heartbeat_s=st.none() | counts,
        clock_offset_ms=maybe_instants,
    ),
    st.builds(Raw, **up, direction=st.sampled_from(["up", "down"]), frame=names),
    st.builds(
        Ack,
        **up,
        command_id=names,
        verb=names,
        status=st.sampled_from(sorted(STATUSES)),
        final=st.booleans(),
        at=instants,
        attempts=counts,
        latency_ms=st.none() | counts,
        error=st.none() | st.builds(AckError, code=st.none() | counts, name=names, text=names),
        result=values,
    ),
    st.builds(
        Command,
        id=some_names,
        verb=names,
        args=st.dictionaries(names, values, max_size=3),
        issued_by=names,
        expires_at=instants,
        priority=st.integers(0, 9),
        verify=st.booleans(),
        approvals=st.lists(names, max_size=3),
    ),
    st.builds(
        NodeStatus,
        node=some_names,
        status=st.sampled_from(["online", "offline"]),
        version=names,
        channels=st.lists(names, max_size=3),
    ),
    st.builds(CancelRequest, command_id=some_names, terminal=st.just(UNSET) | some_names, issued_by=names),
    st.builds(
        CollectionQuality,
        node=some_names,
        at=instants,
        ratios=st.lists(
            st.builds(
                CollectionRatio,
                plan=names,
                kind=st.sampled_from(["poll", "fill"]),
                period=st.sampled_from(["hour", "day", "month"]),
                start=instants,
                end=instants,
                owed=counts,
                first=counts,
                cycle=counts,
                first_ratio=st.none() | st.floats(0, 1),
                cycle_ratio=st.none() | st.floats(0, 1),
            ),
            max_size=3,
        ),
    ),
    st.builds(ControlSwitch, control=st.sampled_from(["on", "off"]), issued_by=names, reason=names),
    st.tuples(counts, counts).map(lambda pair: ReplayRequest(from_seq=min(pair), to_seq=max(pair))),
)


@given(messages, st.sampled_from(FORMATS))
def test_round_trip(message: Message, form: Format) -> None:
    payload = encode(message, form)
    again = decode(payload, type(message))
    assert again == message
    assert encode(again, form) == payload
    plain = unpack(payload, form)
    assert plain["v"] == 1
    assert decode_any(payload) == plain


@given(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-9, 0), st.sampled_from(FORMATS))
def test_exact_decimal_comes_back(raw: int, scale: int, form: Format) -> None:
    exact = Decimal(raw).scaleb(scale)
    message = Alarm(**STAMP, event="x", oi="3000", transition="raised", severity="info", values={"v": float(exact)})
    value = decode(encode(message, form), Alarm).values["v"]
    assert isinstance(value, float)
    assert Decimal(repr(value)) == exact


@pytest.mark.parametrize("form", FORMATS)
def test_decimal_becomes_the_nearest_number(form: Format) -> None:
    message = Ack(**STAMP, command_id="c", verb="read", status="succeeded", final=True, at=1, result=1)
    message.result = {"energy": Decimal("1234.56")}
    assert decode(encode(message, form), Ack).result == {"energy": 1234.56}


# Octets from anywhere raise BadMessage and nothing else.


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: b"{" + tail), st.sampled_from(MESSAGES))
def test_any_octets(payload: bytes, kind: type[Message]) -> None:
    with suppress(BadMessage):
        assert isinstance(decode(payload, kind), kind)
    with suppress(BadMessage):
        assert isinstance(decode_any(payload), dict)
    assert isinstance(peek_id(payload), str | None)


@given(messages, st.sampled_from(FORMATS), st.data())
def test_damaged_octets(message: Message, form: Format, data: st.DataObject) -> None:
    payload = bytearray(encode(message, form))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    with suppress(BadMessage):
        again = decode(damaged, type(message))
        assert again.v == 1
        assert decode(encode(again), type(message)) == again


@pytest.mark.parametrize("payload", [b'{"a":' * 50_000, b"\x81\xa1a" * 50_000, b"\x91" * 50_000])
def test_nesting_without_end(payload: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(payload, Reading)
    with pytest.raises(BadMessage):
        decode_any(payload)
    assert peek_id(payload) is None


@pytest.mark.parametrize("payload", [b"", b" {}", b"[]", b"null", b"\xc0", b"\x90", b"\xef\xbb\xbf{}"])
def test_not_a_map(payload: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(payload, ReplayRequest)
    with pytest.raises(BadMessage):
        decode_any(payload)


# Tolerance.


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("message", "plain"), GOLDEN, ids=[type(message).__name__ for message, _ in GOLDEN])
def test_unknown_fields_are_ignored(message: Message, plain: dict[str, Any], form: Format) -> None:
    more = {"new_thing": {"deep": [1, b"\xff" if form == "msgpack" else "x"]}, **plain, "zz": None}
    assert decode(pack(more, form), type(message)) == message


@pytest.mark.parametrize("form", FORMATS)
def test_missing_version_is_ours(form: Format) -> None:
    assert decode(pack({"from_seq": 1, "to_seq": 2}, form), ReplayRequest).v == 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("version", [0, 2, 3, -1, 2**40])
def test_unknown_version(version: int, form: Format) -> None:
    well_formed = pack({"v": version, "from_seq": 1, "to_seq": 2}, form)
    other_types = pack({"from_seq": "one", "v": version}, form)
    for payload in (well_formed, other_types):
        with pytest.raises(UnknownVersion) as caught:
            decode(payload, ReplayRequest)
        assert caught.value.version == version
        assert (caught.value.where, caught.value.expected) == ("v", "1")
        assert isinstance(caught.value, BadMessage)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("version", ["1", None, True, [1], 1.5])
def test_version_that_is_none(version: object, form: Format) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(pack({"v": version, "from_seq": 1, "to_seq": 2}, form), ReplayRequest)
    assert not isinstance(caught.value, UnknownVersion)
    assert caught.value.where == "v"


# Refusals name the field.

READING = GOLDEN[0][1]
COMMAND = GOLDEN[6][1]
REFUSED: list[tuple[type[Message], dict[str, Any], str, str]] = [
    (Reading, {**READING, "received_at": "now"}, "received_at", "int"),
    (Reading, {**READING, "id": "0011"}, "id", "[0-9a-f]{16}"),
    (Reading, {**READING, "id": "00112233445566aa\n"}, "id", "16"),
    (Reading, {**READING, "terminal": ""}, "terminal", "length >= 1"),
    (Reading, {**READING, "seq": -1}, "seq", ">= 0"),
    (Reading, {**READING, "cause": "whim"}, "cause", "one of report, read, poll, backfill"),
    (Reading, {**READING, "columns": [{"name": "x", "oad": 1}]}, "columns[0].oad", "str"),
    (Reading, {**READING, "columns": [{"name": "x"}]}, "columns[0].oad", "this field"),
    (Reading, {**READING, "rows": [1]}, "rows[0]", "array"),
    (Reading, {**READING, "rows": [["m", 1]]}, "rows[0]", "3 cells"),
    (Reading, {**READING, "rows": [["m", 1, 2.0], ["m", 1, 2.0, 3.0]]}, "rows[1]", "3 cells"),
    (Reading, {**READING, "rows": [[5, 1, 2.0]]}, "rows[0][0]", "address"),
    (Reading, {**READING, "rows": [["m", True, 2.0]]}, "rows[0][1]", "ms since 1970"),
    (Reading, {**READING, "rows": [["m", 1.5, 2.0]]}, "rows[0][1]", "ms since 1970"),
    (Reading, {name: READING[name] for name in READING if name != "rows"}, "rows", "this field"),
    (Alarm, {**GOLDEN[2][1], "phase": "d"}, "phase", "one of a, b, c"),
    (Alarm, {**GOLDEN[2][1], "values": [1]}, "values", "object"),
    (State, {**GOLDEN[3][1], "presence": "away"}, "presence", "one of online, suspect, offline"),
    (Ack, {**GOLDEN[5][1], "status": "done"}, "status", "accepted, sent, succeeded"),
    (Ack, {**GOLDEN[5][1], "error": {"name": 1}}, "error.name", "str"),
    (Command, {**COMMAND, "id": ""}, "id", "length >= 1"),
    (Command, {**COMMAND, "id": "x" * 129}, "id", "length <= 128"),
    (Command, {**COMMAND, "priority": 10}, "priority", "<= 9"),
    (Command, {**COMMAND, "args": None}, "args", "object"),
    (Command, {**COMMAND, "approvals": ["x"] * 33}, "approvals", "length <= 32"),
    (Command, {name: COMMAND[name] for name in COMMAND if name != "expires_at"}, "expires_at", "this field"),
    (NodeStatus, {"node": "n", "status": "suspect"}, "status", "one of online, offline"),
    (ReplayRequest, {"from_seq": 5, "to_seq": 4}, "to_seq", "at least from_seq, 5"),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("kind", "plain", "where", "expected"), REFUSED)
def test_refusal_names_the_field(
    kind: type[Message], plain: dict[str, Any], where: str, expected: str, form: Format
) -> None:
    with pytest.raises(BadMessage) as caught:
        decode(pack(plain, form), kind)
    assert caught.value.where == where
    assert expected in caught.value.expected
    assert str(caught.value).startswith(f"{where}: ")


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


@pytest.mark.parametrize("form", FORMATS)
def test_nesting_bound(form: Format) -> None:
    deep = {**GOLDEN[5][1], "result": nested(MAX_NESTING)}
    assert decode(pack(deep, form), Ack).result == deep["result"]
    with pytest.raises(BadMessage, match="nested too deep"):
        decode(pack({**deep, "result": nested(MAX_NESTING + 1)}, form), Ack)


STRANGE: list[tuple[object, str]] = [
    (b"\x01", ""),
    ([b"\x01"], "[0]"),
    ({"k": b"\x01"}, ".k"),
    ({"k": {1: 2}}, ".k"),
    (msgpack.ExtType(5, b"x"), ""),
    ([msgpack.ExtType(5, b"x")], "[0]"),
    ([datetime(2026, 1, 1, tzinfo=UTC)], "[0]"),
    (math.nan, ""),
    ([1.0, -math.inf], "[1]"),
]


@pytest.mark.parametrize(("cell", "path"), STRANGE)
def test_only_msgpack_can_say_this(cell: object, path: str) -> None:
    plain = {**READING, "rows": [["m", 1, 2.5], ["m", 1, cell]]}
    with pytest.raises(BadMessage) as caught:
        decode(msgpack.packb(plain, datetime=True), Reading)
    assert caught.value.where == f"rows[1][2]{path}"


def test_short_float_that_is_not_finite() -> None:
    plain = {**READING, "rows": [["m", 1, math.inf]]}
    with pytest.raises(BadMessage, match="finite"):
        decode(msgpack.packb(plain, use_single_float=True), Reading)


def test_octets_that_only_look_like_nan() -> None:
    reading = GOLDEN[0][0]
    assert isinstance(reading, Reading)
    unlucky = float.fromhex("0x1.bcb7ff0000000p+1")
    reading = Reading(**STAMP, cause="read", series="day", columns=reading.columns, rows=[[None, 1, unlucky]])
    payload = encode(reading)
    assert b"\xcb\x7f\xf0" in payload
    assert decode(payload, Reading).rows == [[None, 1, unlucky]]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -math.nan])
def test_not_finite_is_written_as_null(value: float, form: Format) -> None:
    reading = Reading(
        **STAMP,
        cause="report",
        series="other",
        columns=(Column(name="x", oad="20000200"), Column(name="y", oad="20010200")),
        rows=[["m", 1, value, {"deep": [value, 1.5]}]],
    )
    expected = [["m", 1, None, {"deep": [None, 1.5]}]]
    assert unpack(encode(reading, form), form)["rows"] == expected
    assert decode(encode(reading, form), Reading).rows == expected


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", {"k": object()}])
def test_what_cannot_be_encoded(value: Any, form: Format) -> None:
    message = Ack(**STAMP, command_id="c", verb="read", status="succeeded", final=True, at=1, result=value)
    if value == 2**70 and form == "json":
        assert b"1180591620717411303424" in encode(message, form)
        return
    with pytest.raises(BadMessage) as caught:
        encode(message, form)
    assert caught.value.where == "Ack"


# Commands and statuses.


@pytest.mark.parametrize("form", FORMATS)
def test_peek_id_of_a_refused_command(form: Format) -> None:
    assert peek_id(pack({**COMMAND, "priority": 99}, form)) == "c-1"
    assert peek_id(pack({**COMMAND, "id": 5}, form)) is None
    assert peek_id(pack({"verb": "trip"}, form)) is None
    assert peek_id(pack([1], form)) is None
    assert peek_id(b"\xff\xff") is None


def test_defaults_are_not_shared() -> None:
    one = Command(id="1", verb="read", issued_by="x", expires_at=1)
    two = Command(id="2", verb="read", issued_by="x", expires_at=1)
    one.args["points"] = ["voltage.a"]
    one.approvals.append("li")
    assert (two.args, two.approvals) == ({}, [])


def test_verbs_have_one_class() -> None:
    assert sum(len(verbs) for verbs in VERBS.values()) == len(frozenset().union(*VERBS.values()))
    assert class_of_verb("trip") == "control"
    assert class_of_verb("read") == "query"
    assert class_of_verb("write") == "config"
    assert class_of_verb("explode") is None


def test_final_statuses() -> None:
    assert {status for status in STATUSES if status not in FINAL_STATUSES} == {"accepted", "sent", "late"}
    assert is_final("succeeded", verified=False)
    assert not is_final("succeeded", verified=True)
    assert is_final("unknown", verified=False)
    assert not is_final("unknown", verified=True)
    for status in ("failed", "timed_out", "verified", "not_effective", "rejected", "expired", "cancelled"):
        assert is_final(status, verified=True)
        assert is_final(status, verified=False)
    assert not is_final("late", verified=False)


def test_a_message_can_be_stamped() -> None:
    raw = Raw(id="00112233445566aa", terminal="1", received_at=1, direction="up", frame="")
    raw.seq, raw.node, raw.channel = 9, "n2", "udp"
    again = decode(encode(raw), Raw)
    assert (again.seq, again.node, again.channel) == (9, "n2", "udp")
