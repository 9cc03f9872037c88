"""Plain values as YAML text: block style for maps and lists, JSON (which is YAML) for everything else."""

from __future__ import annotations

import json
import re
from typing import Any

# Only words that YAML cannot read as anything but text stay without quotes.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[ .-][A-Za-z0-9_]+)*")
_NOT_TEXT = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def dumps(value: Any) -> str:
    """YAML of maps with text keys, lists, text, numbers, booleans and None; keys keep their order."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for name, item in value.items() for line in _entry(f"{_scalar(name)}:", item)]
    if isinstance(value, list | tuple) and value:
        return [line for item in value for line in _item(item)]
    return [_scalar(value)]


def _entry(head: str, value: Any) -> list[str]:
    if isinstance(value, dict | list | tuple) and value:
        return [head, *("  " + line for line in _lines(value))]
    return [f"{head} {_scalar(value)}"]


def _item(value: Any) -> list[str]:
    first, *rest = _lines(value)
    return [f"- {first}", *("  " + line for line in rest)]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)
