"""JSON Schemas (2020-12) of the messages, from their types and docstrings."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any, Final

import msgspec

from messages.examples import as_json
from messages.model import MESSAGES, AckError, CollectionRatio, Column, Message, Up, Value

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PARTS: Final[tuple[type[msgspec.Struct], ...]] = (*MESSAGES, Column, AckError, CollectionRatio)
_DESCRIBED: Final = {kind.__name__: kind for kind in _PARTS}
_FIELD = re.compile(r"([a-z_]+): (.+)")


def file_stem(kind: type[Message]) -> str:
    """`node_status` for NodeStatus: the name of its schema file."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def schema(kind: type[Message]) -> dict[str, Any]:
    """The whole JSON Schema of one message, with what it refers to under `$defs` and its example."""
    definitions = components("#/$defs/{name}")
    top = definitions.pop(kind.__name__)
    used = _references(top)
    while (more := used.union(*(_references(definitions[name]) for name in used))) != used:
        used = more
    whole = {"$schema": DIALECT, **top, "examples": [as_json(kind)]}
    if used:
        whole["$defs"] = {name: definitions[name] for name in sorted(used)}
    return whole


def components(template: str) -> dict[str, dict[str, Any]]:
    """The schemas of all messages and of their parts by name, references written as `template` says.

    Values nest: the types say so for one level, the schema refers to itself instead.
    """
    _, schemas = msgspec.json.schema_components(MESSAGES, ref_template=template)
    one_level = msgspec.json.schema(Value)["anyOf"]
    reference = template.format(name="Value")
    result: dict[str, dict[str, Any]] = {}
    for name, raw in schemas.items():
        described = _fold_values(raw, one_level, reference)
        described["description"], fields = _docstring(_DESCRIBED[name])
        for field, text in fields.items():
            described["properties"][field] = _describe(described["properties"][field], text)
        result[name] = described
    result["Value"] = {
        "title": "Value",
        "description": "One value: engineering value, text, or a structure of such; null is no value.",
        "anyOf": [
            {"type": ["boolean", "integer", "number", "string", "null"]},
            {"type": "array", "items": {"$ref": reference}},
            {"type": "object", "additionalProperties": {"$ref": reference}},
        ],
    }
    return dict(sorted(result.items()))


def _docstring(kind: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """The summary of a class and the descriptions of its fields, those of its bases first."""
    bases = [base for base in reversed(kind.__mro__) if base in {Message, Up}]
    fields: dict[str, str] = {}
    summary = ""
    for each in [*bases, kind]:
        lines: list[str] = []
        last = ""
        for line in cleandoc(each.__doc__ or "").splitlines():
            match = _FIELD.fullmatch(line)
            if match is not None and match[1] in each.__struct_fields__:
                last = match[1]
                fields[last] = match[2]
            elif last:
                fields[last] = f"{fields[last]} {line.strip()}"
            else:
                lines.append(line.strip())
        summary = " ".join(line for line in lines if line)
    return summary, fields


def _describe(node: dict[str, Any], text: str) -> dict[str, Any]:
    """`node` with a description; a reference is wrapped, because older dialects allow it no neighbours."""
    if "$ref" in node:
        return {"description": text, "allOf": [node]}
    return {"description": text, **node}


def _fold_values(node: Any, one_level: list[Any], reference: str) -> Any:
    """`node` with a reference for every Value."""
    if isinstance(node, list):
        return [_fold_values(item, one_level, reference) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("anyOf") == one_level:
        return {"$ref": reference}
    return {name: _fold_values(item, one_level, reference) for name, item in node.items()}


def _references(node: Any) -> set[str]:
    """The names that `node` refers to."""
    if isinstance(node, list):
        return set().union(*map(_references, node))
    if not isinstance(node, dict):
        return set()
    found = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
    return found.union(*map(_references, node.values()))
