"""Messages to octets and back, MessagePack or JSON.

A reader tells the formats apart by the first octet: `{` is JSON, anything else MessagePack. Decoding is
tolerant where the contract may grow (unknown fields are ignored) and strict everywhere else; whatever is
wrong with a payload comes out as `BadMessage` and nothing else does.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec

from messages.errors import BadMessage, UnknownVersion
from messages.model import (
    MAX_NESTING,
    MESSAGES,
    VERSION,
    Ack,
    Alarm,
    Command,
    Message,
    Reading,
    ReplayRequest,
)

Format: TypeAlias = Literal["msgpack", "json"]
M = TypeVar("M", bound=Message)

CONTENT_TYPES: Final[dict[Format, str]] = {"msgpack": "application/vnd.msgpack", "json": "application/json"}
"""The MQTT 5 content-type of each format."""

_JSON_START = 0x7B  # {
_MSGPACK_ENCODER = msgspec.msgpack.Encoder(decimal_format="number")
_JSON_ENCODER = msgspec.json.Encoder(decimal_format="number")
_MSGPACK_DECODERS: dict[type[Message], Any] = {kind: msgspec.msgpack.Decoder(kind) for kind in MESSAGES}
_JSON_DECODERS: dict[type[Message], Any] = {kind: msgspec.json.Decoder(kind) for kind in MESSAGES}

# What msgspec raises for octets that are not what was asked for: its own errors, malformed UTF-8, nesting
# too deep.
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, TypeError)

# The octets that a MessagePack float begins with when it is NaN or infinite. They also occur by chance
# inside other values, so a match is only a reason to look closer; without one there is nothing to look
# for. Two patterns, because one with an alternative is eight times slower than one that begins with a
# fixed octet.
_MAY_BE_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
_MAY_BE_NOT_FINITE_SHORT = re.compile(rb"\xca[\x7f\xff][\x80-\xff]")
_SCALARS: Final = frozenset({bool, int, float, str, type(None)})
_ERROR_PATH = re.compile(r"(?P<text>.*?)(?: - at `\$?\.?(?P<path>.*)`)?", re.DOTALL)
_EXPECTED_GOT = re.compile(r"Expected (?P<expected>.*), got (?P<got>.*)", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")


class _Head(msgspec.Struct):
    """The two fields that are worth knowing of a message that is otherwise unreadable."""

    v: Any = VERSION
    id: Any = None


_MSGPACK_HEAD = msgspec.msgpack.Decoder(_Head)
_JSON_HEAD = msgspec.json.Decoder(_Head)


def encode(message: Message, format: Format = "msgpack") -> bytes:  # noqa: A002 - the word of the settings
    """The octets of `message`.

    A value that is not finite is written as null: an all-FF pattern read as a float is NaN and means "no
    value".

    Raises BadMessage when it holds something that has no place in a message (an object of another kind,
    an integer of more than 64 bits, half of a surrogate pair).
    """
    try:
        if format == "json":
            return _JSON_ENCODER.encode(message)
        payload = _MSGPACK_ENCODER.encode(message)
        if _MAY_BE_NOT_FINITE.search(payload) is not None:
            payload = _MSGPACK_ENCODER.encode(_finite(msgspec.to_builtins(message)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadMessage(f"cannot be encoded: {error}", type(message).__name__) from error
    return payload


def decode(payload: bytes, type: type[M]) -> M:  # noqa: A002 - what json and msgspec call it
    """The message of type `type` in `payload`, of either format.

    Raises UnknownVersion for a `v` other than 1 and BadMessage, which names the field, for anything else.
    """
    is_json = _is_json(payload)
    decoders = _JSON_DECODERS if is_json else _MSGPACK_DECODERS
    try:
        message: M = decoders[type].decode(payload)
    except _DECODE_ERRORS as error:
        _check_version(payload)
        raise _bad_message(error, type) from error
    if message.v != VERSION:
        raise UnknownVersion(message.v)
    match message:
        case Reading():
            suspect = not is_json and (_MAY_BE_NOT_FINITE.search(payload) or _MAY_BE_NOT_FINITE_SHORT.search(payload))
            _check_rows(message, every_cell=bool(suspect))
        case Alarm():
            _check_value(message.values, "values")
            _check_value(message.source, "source")
        case Ack():
            _check_value(message.result, "result")
        case Command():
            _check_value(message.args, "args")
        case ReplayRequest() if message.from_seq > message.to_seq:
            raise BadMessage(f"got {message.to_seq}", "to_seq", f"at least from_seq, {message.from_seq}")
    return message


def decode_any(payload: bytes) -> object:
    """The map in `payload` as plain Python values, of either format and any version: for tools that show it.

    Raises BadMessage when it is neither format, or not a map.
    """
    try:
        value = msgspec.json.decode(payload) if _is_json(payload) else msgspec.msgpack.decode(payload)
    except _DECODE_ERRORS as error:
        raise BadMessage(str(error), "", "MessagePack or JSON") from error
    if not isinstance(value, dict):
        raise BadMessage(f"got {value.__class__.__name__}", "", "a map")
    return value


def peek_id(payload: bytes) -> str | None:
    """The `id` of a message that `decode` refuses, None when it has none: to reject a bad command by name."""
    head = _head(payload)
    return head.id if head is not None and isinstance(head.id, str) else None


def _is_json(payload: bytes) -> bool:
    if not payload:
        raise BadMessage("no octets", "", "MessagePack or JSON")
    return payload[0] == _JSON_START


def _head(payload: bytes) -> _Head | None:
    try:
        return _JSON_HEAD.decode(payload) if _is_json(payload) else _MSGPACK_HEAD.decode(payload)
    except _DECODE_ERRORS:
        return None


def _check_version(payload: bytes) -> None:
    """A later version may well break today's types, and then its version is what is wrong with it."""
    head = _head(payload)
    if head is not None and isinstance(head.v, int) and not isinstance(head.v, bool) and head.v != VERSION:
        raise UnknownVersion(head.v)


def _check_rows(reading: Reading, *, every_cell: bool) -> None:
    """The shape of the rows, and every cell if need be; the rest msgspec has seen to."""
    width = 2 + len(reading.columns)
    for number, row in enumerate(reading.rows):
        if len(row) != width:
            cells = f"{width} cells: meter, time and one for each column"
            raise BadMessage(f"got {len(row)} cells", f"rows[{number}]", cells)
        meter, time = row[0], row[1]
        if meter is not None and not isinstance(meter, str):
            raise BadMessage(f"got {meter!r:.60}", f"rows[{number}][0]", "the meter's address or null")
        if time is not None and (not isinstance(time, int) or isinstance(time, bool)):
            raise BadMessage(f"got {time!r:.60}", f"rows[{number}][1]", "ms since 1970 UTC or null")
        if every_cell or not _SCALARS.issuperset(map(type, row)):
            for index, cell in enumerate(row):
                _check_value(cell, f"rows[{number}][{index}]")


def _finite(value: Any) -> Any:
    """`value` (plain lists, maps and scalars) with null for what is not finite."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _check_value(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what MessagePack can carry and a message cannot: octets, instants, NaN, keys not text."""
    if isinstance(value, float):
        if not isfinite(value):
            raise BadMessage(f"got {value}", where, "a finite number or null")
    elif isinstance(value, list | dict):
        if depth == MAX_NESTING:
            raise BadMessage("nested too deep", where, f"at most {MAX_NESTING} levels")
        if isinstance(value, dict):
            for name, item in value.items():
                if not isinstance(name, str):
                    raise BadMessage(f"got the key {name!r:.60}", where, "keys that are text")
                _check_value(item, f"{where}.{name}", depth + 1)
        else:
            for number, item in enumerate(value):
                _check_value(item, f"{where}[{number}]", depth + 1)
    elif type(value) not in _SCALARS:
        raise BadMessage(f"got {type(value).__name__}", where, "a number, text, list, map or null")


def _bad_message(error: Exception, kind: type[Message]) -> BadMessage:
    """What msgspec says, "Expected `int`, got `str` - at `$.received_at`" as what, where, expected."""
    match = _ERROR_PATH.fullmatch(str(error))
    text = match["text"] if match else str(error)
    where = (match["path"] or "") if match else ""
    if not isinstance(error, msgspec.ValidationError):
        return BadMessage(text, where, "MessagePack or JSON")
    if (missing := _MISSING.fullmatch(text)) is not None:
        path = f"{where}.{missing['name']}" if where else missing["name"]
        return BadMessage("missing", path, "this field")
    if (mismatch := _EXPECTED_GOT.fullmatch(text)) is not None:
        return BadMessage(f"got {mismatch['got']}", where, mismatch["expected"])
    if text.startswith("Invalid enum value"):
        return BadMessage(text, where, _choices(kind, where))
    if text.startswith("Expected "):
        return BadMessage("refused", where, text.removeprefix("Expected "))
    return BadMessage(text, where)


def _choices(kind: type[Message], field: str) -> str:
    """The words that the closed set of `field` allows."""
    words: list[str] = []
    pending = [get_type_hints(kind).get(field)]
    while pending:
        hint = pending.pop(0)
        words += [hint] if isinstance(hint, str) else []
        pending += get_args(hint)
    return "one of " + ", ".join(words) if words else ""
