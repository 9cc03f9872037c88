"""Laws of the model, for values of every service and for octets of every kind."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies698 import apdu_of, apdus, datas, law, mutated

from wire698 import data, jsonform, model
from wire698.access import ReportNotificationList
from wire698.errors import WireError
from wire698.notation import MAX_NESTING, BuildError, Node, Octets, build_all, parse_all
from wire698.pieces import SERVICES, Apdu, ResultNormal
from wire698.rows import Row
from wire698.values import Data, Oad, Piid, Tag

_KINDS = list(SERVICES.values())
_NAMES = [kind.SERVICE for kind in _KINDS]


@pytest.mark.parametrize("kind", _KINDS, ids=_NAMES)
def test_every_service_parses_what_it_builds(kind: type[Apdu]) -> None:
    @law(25)
    @given(apdu_of(kind))
    def holds(apdu: Apdu) -> None:
        octets = model.build(apdu)
        parsed = model.parse(octets)
        assert parsed.apdu == apdu
        assert not parsed.warnings
        assert model.build(parsed.apdu) == octets

    holds()


@pytest.mark.parametrize("kind", _KINDS, ids=_NAMES)
def test_every_service_goes_through_json_and_back(kind: type[Apdu]) -> None:
    @law(25)
    @given(apdu_of(kind))
    def holds(apdu: Apdu) -> None:
        form = json.loads(json.dumps(jsonform.apdu_form(apdu), allow_nan=False))
        assert jsonform.apdu_of(form) == apdu

    holds()


@law(200)
@given(datas(3))
def test_data_of_every_type_parses_and_prints_what_it_builds(item: Data) -> None:
    octets = build_all(data.DATA, item)
    stream = Octets(octets)
    assert parse_all(data.DATA, stream) == item
    assert stream.left() == 0
    assert jsonform.data_of(json.loads(json.dumps(jsonform.data_form(item), allow_nan=False))) == item


@law(60)
@given(apdus())
def test_every_truncation_is_refused_or_read(apdu: Apdu) -> None:
    octets = model.build(apdu)
    for size in range(len(octets)):
        try:
            parsed = model.parse(octets[:size])
        except WireError as error:
            assert 0 <= error.offset <= size  # noqa: PT017
        else:
            # Only optional tails, and what an octet of them can be taken for, may be missing.
            assert parsed.warnings or model.build(parsed.apdu) == octets[:size]


@law(300)
@given(st.data())
def test_changed_octets_raise_nothing_but_wire_error_and_unwarned_ones_build_again(source: st.DataObject) -> None:
    octets = source.draw(mutated(model.build(source.draw(apdus()))))
    try:
        parsed = model.parse(octets)
    except WireError as error:
        assert 0 <= error.offset <= len(octets)  # noqa: PT017
        return
    if not parsed.warnings:
        assert model.build(parsed.apdu) == octets
    form = json.loads(json.dumps(jsonform.decode_apdu(octets), allow_nan=False))
    assert form["ok"]
    if not parsed.warnings:
        assert jsonform.encode_apdu(form) == octets


@law(300)
@given(st.sampled_from(sorted(SERVICES)), st.binary(max_size=80))
def test_any_octets_behind_a_service_raise_nothing_but_wire_error(head: bytes, rest: bytes) -> None:
    try:
        model.parse(head + rest, trace=True)
    except WireError as error:
        assert 0 <= error.offset <= len(head + rest)  # noqa: PT017


@law(200)
@given(st.binary(max_size=40))
def test_any_octets_raise_nothing_but_wire_error(octets: bytes) -> None:
    form = jsonform.decode_apdu(octets)
    assert form["ok"] in (True, False)
    assert form["ok"] or 0 <= form["offset"] <= len(octets)


# --- the trace ----------------------------------------------------------------------------------------------------


def _check_nodes(nodes: list[Node], start: int, end: int) -> None:
    """Nodes of level 0 follow one another from `start` to `end`; each other one lies inside its parent, in order."""
    path: list[Node] = []
    at = start
    for node in nodes:
        assert node.start <= node.end
        assert node.level <= len(path)
        del path[node.level :]
        if node.level == 0:
            assert node.start == at
            at = node.end
        else:
            assert path[-1].start <= node.start
            assert node.end <= path[-1].end
        path.append(node)
    assert at == end
    last: dict[int, int] = {}
    for node in nodes:
        assert node.start >= last.get(node.level, 0)
        last = {level: place for level, place in last.items() if level < node.level} | {node.level: node.end}


@law(150)
@given(apdus(), st.integers(0, 40))
def test_trace_nodes_nest_and_cover_the_octets(apdu: Apdu, base: int) -> None:
    octets = model.build(apdu)
    parsed = model.parse(octets, trace=True, base=base)
    assert parsed.apdu == apdu
    _check_nodes(parsed.nodes, base + len(apdu.HEAD), base + len(octets))


def test_trace_of_a_report_with_a_stray_tag_points_at_the_octets_as_they_came() -> None:
    octets = bytes.fromhex("88010A015120220200010600000001" + "0000")
    parsed = model.parse(octets, trace=True, base=100)
    assert parsed.warnings == ["stray-oad-tag"]
    _check_nodes(parsed.nodes, 102, 100 + len(octets))
    (oad,) = [node for node in parsed.nodes if node.name == "oad"]
    assert octets[oad.start - 100 : oad.end - 100].hex() == "20220200"


# --- bounds -------------------------------------------------------------------------------------------------------


def _nest(depth: int) -> Data:
    item = Data(Tag.NULL, None)
    for _ in range(depth - 1):
        item = Data(Tag.STRUCTURE, (item,))
    return item


def test_nesting_is_bounded_both_ways() -> None:
    deepest = _nest(MAX_NESTING)
    assert parse_all(data.DATA, Octets(build_all(data.DATA, deepest))) == deepest
    with pytest.raises(BuildError, match="nested deeper"):
        build_all(data.DATA, _nest(MAX_NESTING + 1))
    with pytest.raises(WireError, match="nested deeper"):
        parse_all(data.DATA, Octets(b"\x02\x01" * MAX_NESTING + b"\x00"))
    with pytest.raises(WireError):
        parse_all(data.DATA, Octets(b"\x02\x01" * 5000))


def test_counts_are_believed_only_as_far_as_there_are_octets() -> None:
    with pytest.raises(WireError, match="65535 items announced"):
        model.parse(bytes.fromhex("880101 82FFFF 0000"))
    with pytest.raises(WireError, match="rows"):
        model.parse(bytes.fromhex("880205 01 60120300 01 0020210200 01 82FFFF 00 0000"))
    with pytest.raises(WireError, match="without columns"):
        model.parse(bytes.fromhex("880205 01 60120300 00 01 05 00 00 0000"))


def test_what_has_no_encoding_is_a_build_error() -> None:
    for value in (Data(Tag.UNSIGNED, 256), Data(Tag.DATE_TIME_S, b"\0"), Data(Tag.NULL, 1), Data(Tag.ARRAY, 5)):
        with pytest.raises(BuildError):
            build_all(data.DATA, value)
    with pytest.raises(BuildError):
        model.build(ReportNotificationList(Piid(300), ()))
    with pytest.raises(BuildError, match="16 bits"):
        build_all(data.DATA, Data(Tag.OCTET_STRING, bytes(70000)))


def test_numbers_that_are_none_are_kept_raw() -> None:
    octets = bytes.fromhex("85010120000200 01 17 7FC00001 0000")
    parsed = model.parse(octets)
    assert parsed.warnings == ["float-nan"]
    result = parsed.apdu.result  # type: ignore[attr-defined]
    assert math.isnan(result.data.value)
    assert result == ResultNormal(Oad(0x20000200), Row.of((Data(Tag.FLOAT32, data.NAN),)))
    assert jsonform.decode_apdu(octets)["apdu"]["result"]["v"] == "nan"
