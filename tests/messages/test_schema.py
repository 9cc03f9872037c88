"""The generated documents: true to the code, valid, complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import MESSAGES, ROUTES, Message, encode
from messages.__main__ import files, main
from messages.asyncapi import document
from messages.examples import EXAMPLES
from messages.schema import DIALECT, file_stem, schema
from messages.yaml_text import dumps

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(files()))
def test_checked_in_documents_are_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == files()[name], "run `make docs`"


def test_no_document_of_the_past() -> None:
    assert {f"schemas/{path.name}" for path in (DOCS / "schemas").iterdir()} == set(files()) - {"asyncapi.yaml"}


def test_command_writes_the_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out")]) == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == set(files())
    assert len(capsys.readouterr().out.splitlines()) == len(files())
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_documents_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "messages", str(tmp_path / seed)],
            check=True,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            timeout=60,
        )
    for name, text in files().items():
        assert (tmp_path / "1" / name).read_text(encoding="utf-8") == text
        assert (tmp_path / "2" / name).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("kind", MESSAGES)
def test_schema_takes_what_is_encoded(kind: type[Message]) -> None:
    whole = schema(kind)
    assert whole["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(whole)
    validator = jsonschema.Draft202012Validator(whole)
    encoded = json.loads(encode(EXAMPLES[kind], "json"))
    validator.validate(encoded)
    validator.validate({**encoded, "unknown": {"field": 1}})
    assert whole["examples"] == [encoded]


@pytest.mark.parametrize("kind", MESSAGES)
def test_schema_refuses_what_is_wrong(kind: type[Message]) -> None:
    whole = schema(kind)
    validator = jsonschema.Draft202012Validator(whole)
    encoded = json.loads(encode(EXAMPLES[kind], "json"))
    assert whole["required"]
    for name in whole["required"]:
        assert not validator.is_valid({field: encoded[field] for field in encoded if field != name})
    for name in encoded:
        if name not in {"source", "result"}:
            assert not validator.is_valid({**encoded, name: {"of": ["another", "kind"]}}) or name in {
                "values",
                "args",
            }
    assert not validator.is_valid({**encoded, "v": 2})


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_field_is_described(kind: type[Message]) -> None:
    whole = schema(kind)
    for part in [whole, *whole.get("$defs", {}).values()]:
        assert part["description"]
        assert "\n" not in part["description"]
        for name, field in part.get("properties", {}).items():
            assert len(field["description"]) > 8, name


def test_values_nest_in_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(schema(type(EXAMPLES[MESSAGES[0]])))
    encoded = json.loads(encode(EXAMPLES[MESSAGES[0]], "json"))
    encoded["rows"] = [["m", 1, [[{"k": [1, None, "x", True]}]], 1, 2]]
    validator.validate(encoded)


def test_asyncapi_describes_every_route() -> None:
    whole = document()
    assert set(whole["channels"]) == set(ROUTES)
    operations = {operation["channel"]["$ref"]: operation for operation in whole["operations"].values()}
    for kind, route in ROUTES.items():
        channel = whole["channels"][kind]
        assert channel["address"] == f"loadgate/v1/{route.path}"
        assert {f"{{{name}}}" in route.path for name in channel["parameters"]} == {True}
        operation = operations[f"#/channels/{kind}"]
        assert operation["action"] == ("send" if route.up else "receive")
        mqtt = operation["bindings"]["mqtt"]
        assert (mqtt["qos"], mqtt["retain"]) == (route.qos, route.retain)
        kinds = {resolve(whole, resolve(whole, item["$ref"])["$ref"])["contentType"] for item in operation["messages"]}
        assert kinds == {"application/vnd.msgpack", "application/json"}


def test_asyncapi_references_lead_somewhere() -> None:
    whole = document()
    found = list(references(whole))
    assert len(found) > 60
    for reference in found:
        assert isinstance(resolve(whole, reference), dict)


def test_file_stems() -> None:
    assert [file_stem(kind) for kind in MESSAGES] == [
        "reading",
        "alarm",
        "state",
        "raw",
        "ack",
        "command",
        "node_status",
        "replay_request",
        "cancel_request",
        "control_switch",
        "collection_quality",
    ]


def references(node: Any) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for item in node.values():
            yield from references(item)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def resolve(whole: dict[str, Any], reference: str) -> Any:
    node: Any = whole
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


# The YAML writer.


def test_yaml_as_it_stands() -> None:
    value = {
        "a": 1,
        "b": {"c": [1, {"d": None, "e": []}, ["x", "y"]], "f": {}},
        "on": "no",
        "$ref": "#/x",
        "t": "two words",
        "n": "1.0",
        "z": "终端: x",
    }
    assert dumps(value) == (
        'a: 1\nb:\n  c:\n    - 1\n    - d: null\n      e: []\n    - - x\n      - "y"\n  f: {}\n'
        '"on": "no"\n"$ref": "#/x"\nt: two words\n"n": "1.0"\nz: "终端: x"\n'
    )


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(min_codepoint=32, max_codepoint=0xFFFD, exclude_categories=["Cs", "Cc"]))
    | st.sampled_from(["yes", "No", "null", "~", "1e3", "0x10", "2026-01-01", "a: b", "a #b", "- a", "1_000", "e_1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcnoy_ :#-1", max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(plain_values)
def test_yaml_is_read_back(value: Any) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(dumps(value)) == value


def test_asyncapi_file_is_the_document() -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(files()["asyncapi.yaml"]) == json.loads(json.dumps(document()))
