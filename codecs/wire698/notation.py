"""Building blocks on construct in which data.py and apdu.py declare the protocol.

Every block parses from an `Octets` stream and builds into one. Parsing raises WireError and nothing else;
building a value that has no encoding raises BuildError.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

from construct import Construct, ConstructError, Subconstruct

from .errors import WireError

MAX_NESTING = 16
"""Structures within structures that are followed; deeper data is refused (no known object needs more than 6)."""


class BuildError(ValueError):
    """A value that DL/T 698.45 cannot carry: the caller's fault."""


@dataclass(slots=True)
class Node:
    """One line of the annotated tree: octets [start, end) at nesting `level`, the field and what it says.

    `block` is the construct that read it, which tells how the value is to be shown.
    """

    level: int
    name: str
    zh: str
    start: int
    end: int = 0
    value: Any = None
    block: Any = None


class Octets(io.BytesIO):
    """The octets being read, with what is noticed on the way.

    `warnings` names accepted oddities; `trace` collects Nodes when it is a list; `flat` says how ROAD columns are read
    (wire.md b.6); `base` is added to every offset that is reported.
    """

    def __init__(self, octets: bytes = b"", *, trace: bool = False, flat: bool = True, base: int = 0) -> None:
        super().__init__(octets)
        self.size = len(octets)
        self.warnings: list[str] = []
        self.trace: list[Node] | None = [] if trace else None
        self.level = 0
        self.nesting = 0
        self.flat = flat
        self.base = base

    def left(self) -> int:
        """How many octets have not been read."""
        return self.size - self.tell()

    def take(self, count: int, what: str) -> bytes:
        """The next `count` octets."""
        octets = self.read(count)
        if len(octets) != count:
            raise WireError(self.base + self.size, f"{what}: {count - len(octets)} octets are missing")
        return octets

    def octet(self, what: str) -> int:
        """The next octet as a number."""
        one = self.read(1)
        if not one:
            raise WireError(self.base + self.size, f"{what}: octets end here")
        return one[0]

    def refuse(self, reason: str, back: int = 1) -> WireError:
        """A WireError that points `back` octets behind the reading position."""
        return WireError(self.base + max(0, self.tell() - back), reason)

    def warn(self, name: str) -> None:
        if name not in self.warnings:
            self.warnings.append(name)


def parse_all(block: Construct, stream: Octets) -> Any:
    """Parse with `block`; whatever construct itself raises becomes a WireError."""
    try:
        return block._parsereport(stream, {}, "")
    except ConstructError as error:
        raise WireError(stream.base + stream.tell(), str(error).splitlines()[0]) from error


def build_all(block: Construct, value: Any) -> bytes:
    """The octets of `value`."""
    stream = Octets()
    try:
        block._build(value, stream, {}, "")
    except BuildError:
        raise
    except (ConstructError, struct.error, TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise BuildError(f"{value!r:.200}: {error}") from error
    return stream.getvalue()


class Uint(Construct):
    """A number of fixed size, big-endian, optionally as a subclass of int."""

    def __init__(self, code: str, what: str, kind: Callable[[int], Any] | None = None) -> None:
        super().__init__()
        self._struct = struct.Struct(">" + code)
        self._what = what
        self._kind = kind

    def _parse(self, stream: Octets, context: Any, path: str) -> Any:  # noqa: ARG002
        (value,) = self._struct.unpack(stream.take(self._struct.size, self._what))
        return value if self._kind is None else self._kind(value)

    def _build(self, obj: Any, stream: Octets, context: Any, path: str) -> Any:  # noqa: ARG002
        stream.write(self._struct.pack(obj))
        return obj


class Fixed(Construct):
    """Exactly `count` octets."""

    def __init__(self, count: int, what: str) -> None:
        super().__init__()
        self._count = count
        self._what = what

    def _parse(self, stream: Octets, context: Any, path: str) -> bytes:  # noqa: ARG002
        return stream.take(self._count, self._what)

    def _build(self, obj: bytes, stream: Octets, context: Any, path: str) -> bytes:  # noqa: ARG002
        if len(obj) != self._count:
            raise BuildError(f"{self._what} is {self._count} octets, not {len(obj)}")
        stream.write(obj)
        return obj


class LengthBlock(Construct):
    """A-XDR length (c.1): one octet to 7F, else 81 xx or 82 xx xx. A longer form than needed is accepted (oddity 8)."""

    def _parse(self, stream: Octets, context: Any, path: str) -> int:  # noqa: ARG002
        first = stream.octet("length")
        if first < 0x80:
            return first
        count = first & 0x7F
        if count not in (1, 2):
            raise stream.refuse(f"length octet {first:02X}: 00..7F, 81 or 82 expected")
        value = int.from_bytes(stream.take(count, "length"))
        if value < 0x80 or (count == 2 and value < 0x100):
            stream.warn("non-minimal-length")
        return value

    def _build(self, obj: int, stream: Octets, context: Any, path: str) -> int:  # noqa: ARG002
        if obj < 0x80:
            stream.write(bytes((obj,)))
        elif obj < 0x100:
            stream.write(bytes((0x81, obj)))
        elif obj < 0x10000:
            stream.write(b"\x82" + obj.to_bytes(2))
        else:
            raise BuildError(f"length {obj} does not fit in 16 bits")
        return obj


LENGTH = LengthBlock()


class Prefixed(Construct):
    """Length, then that many octets."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def _parse(self, stream: Octets, context: Any, path: str) -> bytes:
        return stream.take(LENGTH._parse(stream, context, path), self._what)

    def _build(self, obj: bytes, stream: Octets, context: Any, path: str) -> bytes:
        LENGTH._build(len(obj), stream, context, path)
        stream.write(obj)
        return obj


class SequenceOf(Subconstruct):
    """SEQUENCE OF: count, then the items; a tuple."""

    def _parse(self, stream: Octets, context: Any, path: str) -> tuple[Any, ...]:
        count = LENGTH._parse(stream, context, path)
        if count > stream.left():
            raise stream.refuse(f"{count} items announced, {stream.left()} octets left")
        item = self.subcon
        if stream.trace is None:
            return tuple([item._parse(stream, context, path) for _ in range(count)])
        return tuple([parse_node(item, stream, context, path, f"[{n}]") for n in range(count)])

    def _build(self, obj: Sequence[Any], stream: Octets, context: Any, path: str) -> Any:
        LENGTH._build(len(obj), stream, context, path)
        for item in obj:
            self.subcon._build(item, stream, context, path)
        return obj


class Optional(Subconstruct):
    """OPTIONAL: 00 absent, 01 and the value.

    With `tail`, the end of the octets also means absent, with a warning (oddity 12).
    """

    def __init__(self, subcon: Construct, *, tail: bool = False) -> None:
        super().__init__(subcon)
        self._tail = tail

    def _parse(self, stream: Octets, context: Any, path: str) -> Any:
        if self._tail and not stream.left():
            stream.warn("tail-missing")
            return None
        present = stream.octet("OPTIONAL")
        if present > 1:
            raise stream.refuse(f"OPTIONAL octet {present:02X}: 00 or 01 expected")
        return self.subcon._parse(stream, context, path) if present else None

    def _build(self, obj: Any, stream: Octets, context: Any, path: str) -> Any:
        stream.write(b"\x00" if obj is None else b"\x01")
        if obj is not None:
            self.subcon._build(obj, stream, context, path)
        return obj


class Choice(Construct):
    """CHOICE: an octet that selects one of `blocks`; `decode(n, value)` and `encode(obj) -> (n, value)` join them."""

    def __init__(
        self,
        what: str,
        blocks: Mapping[int, Construct | None],
        decode: Callable[[int, Any], Any],
        encode: Callable[[Any], tuple[int, Any]],
    ) -> None:
        super().__init__()
        self._what = what
        self._blocks = blocks
        self._decode = decode
        self._encode = encode

    def _parse(self, stream: Octets, context: Any, path: str) -> Any:
        number = stream.octet(self._what)
        if number not in self._blocks:
            raise stream.refuse(f"{self._what} choice {number}: one of {sorted(self._blocks)} expected")
        block = self._blocks[number]
        return self._decode(number, None if block is None else block._parse(stream, context, path))

    def _build(self, obj: Any, stream: Octets, context: Any, path: str) -> Any:
        number, value = self._encode(obj)
        if number not in self._blocks:
            raise BuildError(f"{self._what} choice {number}: one of {sorted(self._blocks)} expected")
        stream.write(bytes((number,)))
        block = self._blocks[number]
        if block is not None:
            block._build(value, stream, context, path)
        return obj


class Tupled(Construct):
    """Named parts one after another <-> a NamedTuple."""

    def __init__(self, kind: Callable[..., Any], *parts: tuple[str, Construct]) -> None:
        super().__init__()
        self._kind = kind
        self._parts = parts

    def _parse(self, stream: Octets, context: Any, path: str) -> Any:
        if stream.trace is None:
            return self._kind(*[block._parse(stream, context, path) for _, block in self._parts])
        return self._kind(*[parse_node(block, stream, context, path, name) for name, block in self._parts])

    def _build(self, obj: Sequence[Any], stream: Octets, context: Any, path: str) -> Any:
        for (_, block), value in zip(self._parts, obj, strict=True):
            block._build(value, stream, context, path)
        return obj


def parse_node(block: Construct, stream: Octets, context: Any, path: str, name: str, zh: str = "") -> Any:
    """Parse with `block` and, when a trace is kept, note name, offsets and value."""
    if stream.trace is None:
        return block._parse(stream, context, path)
    node = Node(stream.level, name, zh, stream.base + stream.tell(), block=block)
    stream.trace.append(node)
    stream.level += 1
    try:
        node.value = block._parse(stream, context, path)
    finally:
        stream.level -= 1
        node.end = stream.base + stream.tell()
    return node.value


class RecordBlock(Construct):
    """The fields of a `@record` class in their order <-> an instance of it."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind
        self._fields = [
            (field.name, field.metadata["block"], field.metadata["zh"]) for field in dataclasses.fields(kind)
        ]

    def _parse(self, stream: Octets, context: Any, path: str) -> Any:
        values = [parse_node(block, stream, context, path, name, zh) for name, block, zh in self._fields]
        return self.kind(*values)

    def _build(self, obj: Any, stream: Octets, context: Any, path: str) -> Any:
        if not isinstance(obj, self.kind):
            raise BuildError(f"{self.kind.__name__} expected, not {obj!r:.100}")
        for name, block, _ in self._fields:
            block._build(getattr(obj, name), stream, context, path)
        return obj


def on_wire(block: Construct, zh: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field of a `@record`: how it is encoded and its Chinese term."""
    return dataclasses.field(default=default, metadata={"block": block, "zh": zh})


T = TypeVar("T")


@dataclass_transform(field_specifiers=(on_wire,))
def record(kind: type[T]) -> type[T]:
    """A dataclass whose fields say how they stand on the wire; `kind.WIRE` is the construct of it.

    Instances are values: nobody assigns to them. They are not frozen, since that doubles the cost of making one.
    """
    made = dataclass(slots=True)(kind)
    made.WIRE = RecordBlock(made)  # type: ignore[attr-defined]
    return made


def wire(kind: type[Any]) -> Construct:
    """The construct of a `@record` class."""
    return kind.WIRE
