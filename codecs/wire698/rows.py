"""Rows of values as the terminal lays them out: a shape that repeats and the cells that change.

A task uploads the same columns in the same types for as long as it runs, so the shape of a row is worth keeping once
(`Layout`) and a row is then a flat tuple of cells. The model and the fast path both hand out rows in this form, and
whoever maps rows to messages does the thinking once for a layout.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from .notation import LENGTH, Octets
from .values import BitString, Data, Oad, Omd, Tag

Shape: TypeAlias = Any
"""A tag; or (tag, octets) for strings, (BIT_STRING, bits), or (ARRAY | STRUCTURE, tuple of Shape)."""

_CODES: dict[int, str] = {
    Tag.BOOL: "?",
    Tag.DOUBLE_LONG: "i",
    Tag.DOUBLE_LONG_UNSIGNED: "I",
    Tag.INTEGER: "b",
    Tag.LONG: "h",
    Tag.UNSIGNED: "B",
    Tag.LONG_UNSIGNED: "H",
    Tag.LONG64: "q",
    Tag.LONG64_UNSIGNED: "Q",
    Tag.ENUM: "B",
    Tag.DATE_TIME: "10s",
    Tag.DATE: "5s",
    Tag.TIME: "3s",
    Tag.DATE_TIME_S: "7s",
    Tag.OI: "H",
    Tag.OAD: "I",
    Tag.OMD: "I",
}
_STRINGS = frozenset({Tag.OCTET_STRING, Tag.VISIBLE_STRING, Tag.UTF8_STRING, Tag.TSA})
_CONTAINERS = frozenset({Tag.ARRAY, Tag.STRUCTURE})
_KINDS: dict[int, type[int]] = {Tag.OAD: Oad, Tag.OMD: Omd}
LARGEST_KEPT = 512
"""Shapes with more parts are made anew each time, so that a peer cannot fill the caches with large ones."""

Cells: TypeAlias = tuple[Any, ...]


class Leaf(NamedTuple):
    """A single value in a row: its column, the way down to it in that column's data, its tag, and its cell.

    `cell` is None for NULL, which takes no cell.
    """

    column: int
    path: tuple[int, ...]
    tag: Tag
    cell: int | None


class Layout:
    """The shape of a row. Compare with `is`-like speed: equal shapes are equal layouts.

    When `struct` is not None the row has a fixed size: `int.from_bytes(row) & mask == tags` proves that octets have
    this layout and `struct.unpack` gives the cells.
    """

    __slots__ = ("_hash", "codes", "leaves", "mask", "shape", "size", "struct", "tags")

    def __init__(self, shape: tuple[Shape, ...]) -> None:
        self.shape = shape
        self._hash = hash(shape)
        leaves: list[Leaf] = []
        octets = bytearray()
        mask = bytearray()
        codes: list[str] = [">"]
        fixed = True
        numbers = itertools.count()

        def literal(part: bytes) -> None:
            octets.extend(part)
            mask.extend(b"\xff" * len(part))
            codes.append(f"{len(part)}x")

        def cell(code: str, size: int, column: int, path: tuple[int, ...], tag: Tag) -> None:
            octets.extend(bytes(size))
            # A bool is 00 or 01 in a layout; another octet is an oddity for the model to report.
            mask.extend(b"\xfe" if code == "?" else bytes(size))
            codes.append(code)
            leaves.append(Leaf(column, path, tag, next(numbers)))

        def walk(part: Shape, column: int, path: tuple[int, ...]) -> None:
            nonlocal fixed
            number, detail = part if isinstance(part, tuple) else (part, None)
            tag = Tag(number)
            if tag in _CONTAINERS:
                literal(bytes((tag,)) + _length(len(detail)))
                for n, item in enumerate(detail):
                    walk(item, column, (*path, n))
            elif tag == Tag.NULL:
                literal(b"\x00")
                leaves.append(Leaf(column, path, tag, None))
            elif tag in _STRINGS:
                literal(bytes((tag,)) + _length(detail))
                cell(f"{detail}s", detail, column, path, tag)
            elif tag == Tag.BIT_STRING:
                literal(bytes((tag,)) + _length(detail))
                size = (detail + 7) // 8
                cell(f"{size}s", size, column, path, tag)
            elif tag in _CODES:
                literal(bytes((tag,)))
                cell(_CODES[tag], struct.calcsize(">" + _CODES[tag]), column, path, tag)
            else:
                fixed = False
                leaves.append(Leaf(column, path, tag, next(numbers)))

        for number, part in enumerate(shape):
            walk(part, number, ())
        self.leaves = tuple(leaves)
        self.codes = "".join(codes[1:])
        self.struct = struct.Struct("".join(codes)) if fixed else None
        self.size = len(octets)
        self.mask = int.from_bytes(mask)
        self.tags = int.from_bytes(octets)

    def expand(self, cells: Cells) -> tuple[Data, ...]:
        """The columns of a row as nested Data."""
        values = iter(cells)
        return tuple([_expand(part, values) for part in self.shape])

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Layout) and self.shape == other.shape)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Layout{self.shape}"


def _length(count: int) -> bytes:
    stream = Octets()
    LENGTH._build(count, stream, None, "")
    return stream.getvalue()


def _expand(part: Shape, values: Iterator[Any]) -> Data:
    if not isinstance(part, tuple):
        tag = Tag(part)
        if tag == Tag.NULL:
            return Data(tag, None)
        kind = _KINDS.get(part)
        value = next(values)
        return Data(tag, value if kind is None else kind(value))
    tag = Tag(part[0])
    if tag in _CONTAINERS:
        return Data(tag, tuple([_expand(item, values) for item in part[1]]))
    if tag == Tag.BIT_STRING:
        return Data(tag, BitString(part[1], next(values)))
    return Data(tag, next(values))


def _flatten(data: Data, cells: list[Any]) -> Shape:
    tag, value = data
    if tag in _CONTAINERS:
        return (tag.value, tuple([_flatten(item, cells) for item in value]))
    if tag == Tag.NULL:
        return tag.value
    if tag == Tag.BIT_STRING:
        cells.append(value.octets)
        return (tag.value, value.bits)
    cells.append(value)
    if tag in _STRINGS:
        return (tag.value, len(value))
    return tag.value


def worth_keeping(shape: tuple[Shape, ...]) -> bool:
    """Whether a shape has few enough parts to be kept: empty containers and NULL, which have no cell, count too."""
    parts = 0
    open_parts: list[Shape] = list(shape)
    while open_parts:
        part = open_parts.pop()
        parts += 1
        if isinstance(part, tuple) and isinstance(part[1], tuple):
            open_parts.extend(part[1])
        if parts + len(open_parts) > LARGEST_KEPT:
            return False
    return True


@lru_cache(maxsize=1024)
def _kept_layout(shape: tuple[Shape, ...]) -> Layout:
    return Layout(shape)


class Row(NamedTuple):
    """One row: its layout and its cells."""

    layout: Layout
    cells: Cells

    @classmethod
    def of(cls, columns: tuple[Data, ...]) -> Row:
        """The row that holds these columns."""
        cells: list[Any] = []
        shape = tuple([_flatten(data, cells) for data in columns])
        layout = _kept_layout(shape) if worth_keeping(shape) else Layout(shape)
        return cls(layout, tuple(cells))

    @property
    def columns(self) -> tuple[Data, ...]:
        return self.layout.expand(self.cells)

    @property
    def data(self) -> Data:
        """The only column, for a row that stands for a single value."""
        (data,) = self.columns
        return data


class Table(NamedTuple):
    """Rows in their order, grouped in runs of one layout: ((layout, (cells, ...)), ...)."""

    runs: tuple[tuple[Layout, tuple[Cells, ...]], ...]

    @classmethod
    def of(cls, rows: Iterator[Row] | tuple[Row, ...] | list[Row]) -> Table:
        runs: list[tuple[Layout, list[Cells]]] = []
        for layout, cells in rows:
            if not runs or runs[-1][0] != layout:
                runs.append((layout, []))
            runs[-1][1].append(cells)
        return cls(tuple([(layout, tuple(cells)) for layout, cells in runs]))

    def __len__(self) -> int:
        return sum(len(cells) for _, cells in self.runs)

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple([Row(layout, cells) for layout, run in self.runs for cells in run])


EMPTY = Table(())
