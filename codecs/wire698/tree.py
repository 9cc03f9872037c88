"""The annotated tree 注释树: every field of a frame with its offset, octets, name, Chinese term and what it says.

Plain text in four columns that line up in a terminal, where a Chinese character takes two places. Values are read with
the object catalogue: names of objects, units, the number that an integer stands for.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from . import model, security
from .catalogue import ColumnInfo, column
from .data import COMDCB, DATA, OAD, OMD, SCALER_UNIT, SID, SID_MAC, TI
from .errors import WireError
from .frame import DATA_FUNCTION, FRAGMENT_KINDS, LINK_FUNCTION, Frame, parse_fragment
from .jsonform import ADDRESS_KINDS, MAX_ENVELOPES
from .notation import Node, Octets, parse_all
from .pieces import Apdu
from .security import CHECK
from .treetext import data_text, field_text
from .values import TAG_BY_LABEL, Oad, Tag

_OCTETS_SHOWN = 8
_NAME_WIDTH = 58
"""Columns for field and Chinese term; a longer one moves its value to the right instead of being cut."""
# What is shown on one line, since its parts say less than the whole.
_WHOLE = frozenset({Tag.TI, Tag.SCALER_UNIT, Tag.COMDCB, Tag.SID, Tag.SID_MAC})
_WHOLE_BLOCKS = (TI, SCALER_UNIT, COMDCB, SID, SID_MAC, CHECK)
_FUNCTIONS = {LINK_FUNCTION: "link 链路管理", DATA_FUNCTION: "data 用户数据"}


class Line(NamedTuple):
    """One line of the tree: `octets` from `offset` at nesting `level`. `value` is text."""

    level: int
    offset: int
    octets: bytes
    name: str
    zh: str = ""
    value: str = ""


# --- rendering ----------------------------------------------------------------------------------------------------


def display_width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def render(lines: Iterable[Line]) -> str:
    """Lines as text: offset, octets (cut with … after eight), field with its term, value."""
    rows = []
    for line in lines:
        cut = len(line.octets) > _OCTETS_SHOWN
        shown = line.octets[: _OCTETS_SHOWN - cut].hex(" ").upper() + (" …" if cut else "")
        name = "  " * line.level + line.name + (f" {line.zh}" if line.zh else "")
        rows.append((line.offset, shown, name, line.value))
    widths = [display_width(name) for _, _, name, _ in rows]
    width = min(_NAME_WIDTH, max(widths, default=0))
    text = []
    for (offset, shown, name, value), wide in zip(rows, widths, strict=True):
        padding = " " * (width - wide)
        text.append(f"{offset:5d}  {shown:<24}  {name}{padding}  {value}".rstrip())
    return "\n".join(text)


def frame_tree(frame: Frame, base: int = 0) -> str:
    """The tree of a good frame; `base` is added to its offsets."""
    return render(frame_lines(frame, base))


def apdu_tree(octets: bytes, base: int = 0) -> str:
    """The tree of a bare APDU, as far as it can be read."""
    return render(apdu_lines(octets, base))


def broken_text(octets: bytes, error: WireError) -> str:
    """What is wrong with `octets`, and the place in them."""
    first = max(0, error.offset - _OCTETS_SHOWN)
    around = octets[first : error.offset + _OCTETS_SHOWN]
    lead = "… " if first else ""
    mark = " " * (len(lead) + 3 * (error.offset - first)) + "^^"
    more = " …" if error.offset + _OCTETS_SHOWN < len(octets) else ""
    return f"broken at octet {error.offset}: {error.reason}\n  {lead}{around.hex(' ').upper()}{more}\n  {mark}"


# --- frames -------------------------------------------------------------------------------------------------------

_ADDRESS_ZH = ("单地址", "通配地址", "组地址", "广播地址")


def frame_lines(frame: Frame, base: int = 0) -> Iterator[Line]:
    """The lines of a frame: header, user data opened, checksums."""
    raw, address = frame.raw, frame.address
    head = frame.data_offset - 2
    end = len(raw)

    def line(start: int, stop: int, name: str, zh: str, value: str = "", level: int = 0) -> Line:
        return Line(level, base + start, raw[start:stop], name, zh, value)

    kind = f"{ADDRESS_KINDS[address.kind]} {_ADDRESS_ZH[address.kind]}"
    extended = address.extended_logical
    logical = f"logical {address.logical}" if extended is None else f"extended logical address {extended} in SA"
    yield line(0, 1, "start", "起始符")
    yield line(1, 3, "length L", "长度域", f"{end - 2} octets between 68 and 16")
    yield line(3, 4, "control C", "控制域", _control_text(frame.control))
    yield line(4, 5, "address flag AF", "地址标志", f"{kind}, {logical}, {len(address.sa)} octets")
    yield line(5, head - 1, "server address SA", "服务器地址", address.text)
    yield line(head - 1, head, "client address CA", "客户机地址", f"{frame.client:02X}")
    yield line(head, head + 2, "header checksum HCS", "帧头校验", f"{raw[head + 1]:02X}{raw[head]:02X} good")
    scrambled = ", scrambled: 33 was taken off each" if frame.control & 0x08 else ""
    yield Line(0, base + head + 2, frame.data, "user data", "链路用户数据", f"{len(frame.data)} octets{scrambled}")
    if frame.is_fragment:
        yield from _fragment_lines(frame, base + head + 2)
    else:
        yield from apdu_lines(frame.data, base + head + 2, 1)
    yield line(end - 3, end - 1, "frame checksum FCS", "帧校验", f"{raw[-2]:02X}{raw[-3]:02X} good")
    yield line(end - 1, end, "end", "结束符")


def _control_text(control: int) -> str:
    sender = "terminal to master" if control & 0x80 else "master to terminal"
    started = "started by master" if control & 0x40 else "started by terminal"
    parts = [f"DIR {control >> 7} {sender}", f"PRM {control >> 6 & 1} {started}"]
    if control & 0x20:
        parts.append("fragment 分帧")
    if control & 0x10:
        parts.append("reserved bit 4 set")
    if control & 0x08:
        parts.append("scrambled 扰码")
    function = control & 7
    parts.append(f"function {function} {_FUNCTIONS.get(function, 'reserved')}")
    return ", ".join(parts)


def _fragment_lines(frame: Frame, offset: int) -> Iterator[Line]:
    try:
        fragment = parse_fragment(frame.data, offset)
    except WireError as error:
        yield Line(1, error.offset, b"", "broken", "", error.reason)
        return
    reserved = f", reserved bits {fragment.reserved}" if fragment.reserved else ""
    text = f"number {fragment.seq}, {FRAGMENT_KINDS[fragment.kind]}{reserved}"
    yield Line(1, offset, frame.data[:2], "fragment format", "分帧格式域", text)
    if not fragment.piece:
        return
    what = f"{len(fragment.piece)} octets"
    if fragment.kind == 0:
        try:
            what += f", begins {model.service_of(fragment.piece).SERVICE}"
        except WireError:
            what += ", begins no known service"
    yield Line(1, offset + 2, fragment.piece, "piece of an APDU", "APDU片断", what)


# --- APDUs --------------------------------------------------------------------------------------------------------


def apdu_lines(octets: bytes, base: int = 0, level: int = 0, depth: int = 0) -> Iterator[Line]:
    """The lines of an APDU; where it cannot be read, the fields up to there and what is wrong."""
    try:
        kind = model.service_of(octets, base)
    except WireError as error:
        yield Line(level, error.offset, octets[error.offset - base :], "broken", "", f"{error.reason}")
        return
    yield Line(level, base, octets[: len(kind.HEAD)], kind.SERVICE, kind.ZH)
    try:
        parsed = model.parse(octets, trace=True, base=base)
    except WireError as error:
        before = _nested(_nodes_before(octets, kind, base))
        yield from _Reader(octets, base, kind, depth).lines(before, level + 1)
        yield Line(level + 1, error.offset, octets[error.offset - base :], "broken", "", error.reason)
        return
    yield from _Reader(octets, base, kind, depth).lines(_nested(parsed.nodes), level + 1)
    if parsed.warnings:
        yield Line(level + 1, base + len(octets), b"", "oddities", "", ", ".join(parsed.warnings))


def _nodes_before(octets: bytes, kind: type[Apdu], base: int) -> list[Node]:
    """The fields of a broken APDU that were whole."""
    stream = Octets(octets, trace=True, base=base)
    stream.seek(len(kind.HEAD))
    with contextlib.suppress(WireError):
        parse_all(kind.WIRE, stream)
    return stream.trace or []


class _Field(NamedTuple):
    """A node with the nodes inside it."""

    node: Node
    parts: list[_Field]


def _nested(nodes: list[Node]) -> list[_Field]:
    """The flat list of nodes as the tree that it is."""
    roots: list[_Field] = []
    path: list[_Field] = []
    for node in nodes:
        field = _Field(node, [])
        while path and path[-1].node.level >= node.level:
            path.pop()
        (path[-1].parts if path else roots).append(field)
        path.append(field)
    return roots


class _Reader:
    """Turns the fields of one APDU into lines."""

    def __init__(self, octets: bytes, base: int, kind: type[Apdu], depth: int) -> None:
        self._octets = octets
        self._base = base
        self._kind = kind
        self._depth = depth

    def lines(self, fields: list[_Field], level: int, about: ColumnInfo | None = None) -> Iterator[Line]:
        """Fields that stand beside one another; a value belongs to the object that was named before it."""
        for field in fields:
            node = field.node
            if node.block is OAD and isinstance(node.value, Oad):
                about = column(node.value)
            elif node.block is OMD:
                about = None
            if node.block is DATA and _is_oad(node.name):
                info = column(int(node.name, 16))
                yield from self._field(field, level, info, f"{node.name} {info.name}", info.chinese)
            else:
                yield from self._field(field, level, about, node.name, node.zh)

    def _field(self, field: _Field, level: int, about: ColumnInfo | None, name: str, zh: str) -> Iterator[Line]:
        start, end = field.node.start, field.node.end
        octets = self._octets[start - self._base : end - self._base]
        # A value and the node of its type, or of what a choice chose, are one line.
        tag = None
        while len(field.parts) == 1 and field.parts[0].node.name in TAG_BY_LABEL:
            field = field.parts[0]
            tag = TAG_BY_LABEL[field.node.name]
        value = field.node.value
        if tag is None:
            told = field_text(self._kind, name, field.node.block, value)
        elif value is None and tag != Tag.NULL:
            told = f"{tag.label}"
        else:
            told = f"{tag.label} {data_text(tag, value, about)}" if tag != Tag.NULL else "NULL"
        yield Line(level, start, octets, name, zh, told)
        if tag == Tag.ARRAY and about is not None and about.is_array and field.parts:
            yield from self._members(field.parts, level + 1, about)
        elif isinstance(value, security.Unit):
            yield from self._envelope(value, end, level + 1)
        elif tag not in _WHOLE and field.node.block not in _WHOLE_BLOCKS:
            yield from self.lines(field.parts, level + 1, about)

    def _members(self, fields: list[_Field], level: int, about: ColumnInfo) -> Iterator[Line]:
        """The members of an array, by the names that the catalogue has for them."""
        for field, name in zip(fields, about.cells(len(fields)), strict=True):
            yield from self._field(field, level, about, f"{field.node.name} {name}", "")

    def _envelope(self, unit: security.Unit, end: int, level: int) -> Iterator[Line]:
        """The APDU inside a plaintext envelope, which ends where its octets end."""
        content = unit.content
        if unit.mode != security.PLAIN or not isinstance(content, bytes):
            return
        if self._depth >= MAX_ENVELOPES:
            yield Line(level, end - len(content), content, "envelope", "", f"more than {MAX_ENVELOPES} are not opened")
            return
        yield from apdu_lines(content, end - len(content), level, self._depth + 1)


def _is_oad(name: str) -> bool:
    """Whether a node is the column of a row: those are named by their OAD."""
    return len(name) == 8 and name.isalnum() and name.upper() == name
