"""The gateway's settings: reading, checking and writing them as TOML.

`commented_toml` prints the whole file from the definitions in `gateway.settings_model`, and
`load(commented_toml(x)) == x` for all valid x. All that is wrong with a file is told at once, each with its
place, the value and what was expected; an unknown key with the nearest known one.
"""

from __future__ import annotations

import difflib
import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from gateway.logs import mask_text
from gateway.settings_model import (
    Channel,
    ClockKeeping,
    Collection,
    Commands,
    Fetching,
    Group,
    Http,
    Interlocks,
    JournalFile,
    Log,
    Mqtt,
    Node,
    Poll,
    Protocol,
    Quirk,
    RadioChannel,
    SerialChannel,
    Settings,
    TcpClientChannel,
    Terminals,
    UdpChannel,
    cross_check,
    pattern_filter,
    split_listen,
    time_zone,
)

__all__ = [
    "Channel",
    "ClockKeeping",
    "Collection",
    "Commands",
    "Fetching",
    "Group",
    "Http",
    "Interlocks",
    "JournalFile",
    "Log",
    "Mqtt",
    "Node",
    "Poll",
    "Problem",
    "Protocol",
    "Quirk",
    "RadioChannel",
    "SerialChannel",
    "Settings",
    "SettingsError",
    "TcpClientChannel",
    "Terminals",
    "UdpChannel",
    "commented_toml",
    "load",
    "pattern_filter",
    "split_listen",
    "time_zone",
]

MAX_FILE_OCTETS: Final = 1 << 20
COMMAND_LINE: Final = "command line"
_SHOWN = 80  # characters of a wrong value that an error shows


# -- the definitions, as data ---------------------------------------------------------------------------------


class _Field(Struct, frozen=True, kw_only=True):
    name: str
    hint: Any
    default: Any
    doc: str = ""
    expected: str = ""
    check: Callable[[str], None] | None = None
    hexadecimal: bool = False
    section: type[Struct] | None = None  # a table, or with `many` the tables of an array
    many: bool = False


@cache
def _fields(cls: type[Struct]) -> dict[str, _Field]:
    """The fields of a section (or of `Settings`) by name, in the order of their definition."""
    hints = get_type_hints(cls, include_extras=True)
    described = msgspec.inspect.type_info(cls)
    assert isinstance(described, msgspec.inspect.StructType)
    fields = {}
    for field in described.fields:
        hint = hints[field.name]
        item = get_args(hint)[0] if get_origin(hint) is tuple else hint
        if isinstance(item, type) and issubclass(item, Struct):
            fields[field.name] = _Field(
                name=field.name, hint=hint, default=field.default, section=item, many=item is not hint
            )
            continue
        meta = hint.__metadata__[0]
        extra = meta.extra or {}
        fields[field.name] = _Field(
            name=field.name,
            hint=hint,
            default=field.default,
            doc=meta.description,
            expected=extra.get("expected") or _expected(hint.__origin__, meta),
            check=extra.get("check"),
            hexadecimal="hex" in extra,
        )
    return fields


def _expected(kind: Any, meta: Meta) -> str:
    """In words what a field takes."""
    if get_origin(kind) is Literal:
        values = [_toml(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
    noun = "a whole number" if kind is int else "a number"
    return f"{noun}, {_toml(meta.ge)} to {_toml(meta.le)}"


# -- reading --------------------------------------------------------------------------------------------------


class Problem(Struct, frozen=True, kw_only=True):
    """One thing wrong: `source` (a file, or `command line`), `key` dotted, `text` the whole line to show."""

    source: str
    key: str
    text: str


class SettingsError(ValueError):
    """The settings cannot be used; `problems` says why, one line each. Secrets in values are masked."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(problem.text for problem in problems))
        self.problems = problems


_Path = tuple[str | int, ...]
_S = TypeVar("_S", bound=Struct)


def load(path: Path | None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Settings from a file (None: the defaults), then `overrides` with dotted keys.

    Overrides are what the command line says: {"mqtt.url": ..., "channels.0.listen": ...}; a channel goes by
    number or name; None stands for not given. Raises `SettingsError` with everything that is wrong.
    """
    source = "defaults" if path is None else str(path)
    reading = _Reading(source, {} if path is None else _read(path))
    for key, value in (overrides or {}).items():
        if value is not None:
            reading.override(key, value)
    return reading.settings()


def _read(path: Path) -> dict[str, Any]:
    def fail(why: str) -> SettingsError:
        return SettingsError((Problem(source=str(path), key="", text=f"{path}: {why}"),))

    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_OCTETS + 1)
    except OSError as exc:
        raise fail(f"cannot be read: {exc.strerror}") from None
    if len(octets) > MAX_FILE_OCTETS:
        raise fail(f"longer than {MAX_FILE_OCTETS} octets")
    try:
        return tomllib.loads(octets.decode())
    except UnicodeDecodeError as exc:
        raise fail(f"not UTF-8 at octet {exc.start}") from None
    except tomllib.TOMLDecodeError as exc:
        raise fail(f"not TOML: {exc}") from None
    except RecursionError:
        raise fail("not TOML: nested too deeply") from None


class _Reading:
    """One run of `load`: the tables, which of their paths the command line gave, and what was found wrong."""

    def __init__(self, source: str, table: dict[str, Any]) -> None:
        self.source = source
        self.table = table
        self.given: set[_Path] = set()
        self.problems: list[Problem] = []

    def settings(self) -> Settings:
        settings = self._section(Settings, self.table, ())
        if settings is not None and not self.problems:
            for path, text in cross_check(settings):
                node: Any = settings
                for part in path:
                    node = node[part] if isinstance(part, int) else getattr(node, part)
                self._value(path, node, text)
        if self.problems or settings is None:
            raise SettingsError(tuple(self.problems))
        return settings

    def override(self, key: str, value: object) -> None:
        """Put one value of the command line into the tables; unknown names are found when they are read."""
        section, *rest = key.split(".")
        path: _Path
        if section == "channels" and len(rest) == 2:
            tables = self.table.setdefault(section, [{}])
            if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
                return  # told when it is read
            names = [table.get("name", Channel().name) for table in tables]
            index = int(rest[0]) if rest[0].isdecimal() else names.index(rest[0]) if rest[0] in names else -1
            if not 0 <= index < len(tables):
                self._problem(COMMAND_LINE, key, f"{key}: no such channel; there are {', '.join(map(str, names))}")
                return
            target, path = tables[index], (section, index, rest[1])
        elif section != "channels" and len(rest) == 1:
            if section not in self.table:
                self.given.add((section,))
            target, path = self.table.setdefault(section, {}), (section, rest[0])
            if not isinstance(target, dict):
                return
        else:
            self._problem(COMMAND_LINE, key, f"{key}: expected SECTION.KEY or channels.NAME.KEY")
            return
        target[path[-1]] = value
        self.given.add(path)

    def _section(self, cls: type[_S], table: object, path: _Path) -> _S | None:
        """A table as its Struct; None when something is wrong, and then it was told."""
        if not isinstance(table, dict):
            self._place_problem(path, f"{_place(path)} = {_shown(table)}: expected a table")
            return None
        fields = _fields(cls)
        for key in table:
            if key not in fields:
                self._unknown(str(key), list(fields), path)
        values: dict[str, Any] = {}
        for field in fields.values():
            if field.name not in table:
                continue
            value, here = table[field.name], (*path, field.name)
            if field.section is None:
                values[field.name] = self._leaf(field, value, here)
            elif not field.many:
                values[field.name] = self._section(field.section, value, here)
            elif isinstance(value, list):
                values[field.name] = tuple(
                    self._section(field.section, item, (*here, index)) for index, item in enumerate(value)
                )
            else:
                self._place_problem(here, f"{field.name} = {_shown(value)}: expected tables, [[{field.name}]]")
        return cls(**values) if not self.problems else None

    def _leaf(self, field: _Field, value: object, path: _Path) -> Any:
        try:
            converted = msgspec.convert(value, field.hint)
            if field.check is not None:
                many = isinstance(converted, tuple)
                for item in converted if many else (converted,):
                    value = [item] if many else value  # this one is told, not all of them
                    field.check(item)
        except ValueError:  # msgspec.ValidationError is one
            self._value(path, value, f"expected {field.expected}")
            return None
        return converted

    def _unknown(self, key: str, known: list[str], path: _Path) -> None:
        near = difflib.get_close_matches(key, known, 1, cutoff=0.0)[0]
        if path:
            text = f"{_place(path)} unknown key {key!r}; nearest known key: {near!r}"
        else:
            text = f"unknown section [{key}]; nearest known section: [{near}]"
        self._place_problem((*path, key), text)

    def _value(self, path: _Path, value: object, expected: str) -> None:
        place = _place(path[:-1])
        self._place_problem(path, f"{place}{' ' if place else ''}{path[-1]} = {_shown(value)}: {expected}")

    def _place_problem(self, path: _Path, text: str) -> None:
        self._problem(COMMAND_LINE if path in self.given else self.source, ".".join(map(str, path)), text)

    def _problem(self, source: str, key: str, text: str) -> None:
        self.problems.append(Problem(source=source, key=key, text=f"{source}: {text}"))


def _place(path: _Path) -> str:
    """`[mqtt]`, or `[[channels]] 1` counted from 1 as people do."""
    return " ".join(f"{part + 1}" if isinstance(part, int) else f"[{part}]" for part in path).replace(
        "[channels]", "[[channels]]"
    )


def _shown(value: object) -> str:
    """A wrong value, short, and without a password that stands in it."""
    if isinstance(value, str):
        value = re.sub(r"://.*@", "://***@", value, flags=re.DOTALL)
    text = mask_text(_toml(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


# -- writing --------------------------------------------------------------------------------------------------

_HEAD = """\
# Settings of the Loadgate gateway. This is what `loadgate config` prints: every setting, with its default.
# A file may state only what differs. An unknown key is an error. Check a file: loadgate config --check FILE
# Names carry units: _s seconds, _ms milliseconds, _bytes and _octets octets.
"""


def commented_toml(settings: Settings) -> str:
    """The whole settings file with a comment on every value; `load` gives equal settings back."""
    lines = [_HEAD]
    for field in _fields(Settings).values():
        assert field.section is not None
        value = getattr(settings, field.name)
        if field.many and not value:
            lines += _example(field.name, field.section)
        for number, section in enumerate(value if field.many else (value,)):
            if number == 0:
                lines += [f"# {line}" for line in (inspect.getdoc(field.section) or "").splitlines()]
            lines.append(f"[[{field.name}]]" if field.many else f"[{field.name}]")
            for leaf in _fields(field.section).values():
                lines += _lines(leaf, getattr(section, leaf.name), comment=number == 0)
            lines.append("")
    return "\n".join(lines)


def _example(name: str, section: type[Struct]) -> list[str]:
    """Tables of which there are none, as a comment to copy."""
    lines = [inspect.getdoc(section) or "", f"[[{name}]]"]
    for leaf in _fields(section).values():
        text = "\n".join(_lines(leaf, leaf.default, comment=True)).strip("\n")
        lines += [""] + [line if line.startswith("#") else f"# {line}" for line in text.splitlines()]
    return [line if line.startswith("#") else f"# {line}".rstrip() for line in lines] + [""]


def _lines(field: _Field, value: Any, *, comment: bool) -> list[str]:
    text = f"0x{value:02X}" if field.hexadecimal else _toml(value)
    spoken = _spoken(field.name, value)
    line = f"{field.name} = {text}{f'  # {spoken}' if spoken else ''}"
    return ["", f"# {field.doc}", f"# ({field.expected})", line] if comment else [line]


def _spoken(name: str, value: Any) -> str:
    """Large round numbers of octets and seconds in the unit that people use."""
    if name.endswith(("_bytes", "_octets")):
        units: tuple[tuple[str, int], ...] = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
    elif name.endswith("_s"):
        units = (("days", 86_400), ("hours", 3_600), ("minutes", 60))
    else:
        return ""
    for unit, size in units:
        if value >= 2 * size and value % size == 0:
            return f"{value // size:g} {unit}" if isinstance(value, float) else f"{value // size} {unit}"
    return ""


def _toml(value: object) -> str:
    """A value as TOML writes it; what TOML does not know (from the command line) as Python does."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:_}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:_.1f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
        case str():
            return '"' + re.sub(r'["\\\x00-\x1f\x7f]', lambda match: _escape(match[0]), value) + '"'
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
        case _:
            return str(value)


def _escape(character: str) -> str:
    return f"\\{character}" if character in '"\\' else f"\\u{ord(character):04X}"
