"""The fast path: reports, normal and record responses and LINK, at a few microseconds each.

Theory of operation. Nothing is decoded here that the model has not decoded before. A record names its columns, and
behind equal columns a terminal puts rows of equal shape for as long as its task runs. The first time, the model
decodes the APDU; the shapes of its rows are kept under the octets of OAD and RCSD. From then on `int & mask == tags`
proves in one operation that a row has a kept shape, and one precompiled struct takes all its values. What matches
nothing kept, and anything that is not plain (time tags, follow reports, odd lengths), goes to the model: so both give
the same values.
"""

from __future__ import annotations

import struct

from . import model
from .access import (
    GetResponseNormal,
    GetResponseNormalList,
    GetResponseRecord,
    ReportNotificationList,
    ReportNotificationRecordList,
)
from .data import OAD, RCSD
from .link import LinkRequest
from .notation import build_all
from .pieces import Apdu, ResultNormal, ResultRecord
from .rows import EMPTY, Cells, Layout, Row, Table, worth_keeping
from .values import Oad, Piid, Rcsd

_SHAPES_PER_HEAD = 4
"""Kept shapes behind one OAD and RCSD: an event record open and closed, a missed reading."""
_PREFIX = 16
"""Octets of a record's head by which its length is guessed before the whole head is compared."""
_WHOLE_PREFIX = 4 + _PREFIX
_PIIDS = tuple(Piid(n) for n in range(256))
_LARGEST_WHOLE = 2048
"""Octets of the longest APDU that is kept as a whole."""
_make = tuple.__new__
"""Makes a NamedTuple without its Python-level constructor."""


class _Head:
    """What is known behind one OAD (and RCSD): the shapes of rows seen there."""

    __slots__ = ("layouts", "oad", "octets", "rcsd", "size")

    def __init__(self, octets: bytes, oad: Oad, rcsd: Rcsd) -> None:
        self.octets = octets
        self.size = len(octets)
        self.oad = oad
        self.rcsd = rcsd
        self.layouts: list[Layout] = []

    def learn(self, layout: Layout) -> None:
        if layout.struct is None or not worth_keeping(layout.shape) or layout in self.layouts:
            return
        self.layouts.insert(0, layout)
        del self.layouts[_SHAPES_PER_HEAD:]


class _Whole:
    """A report of one record with so many rows of one layout, all of it: one comparison proves every octet that is no
    value - service, columns, tags, tails - and one struct takes the values of all rows.
    """

    __slots__ = ("head", "layout", "mask", "starts", "tags", "unpack", "width")

    def __init__(self, octets: bytes, head: _Head, layout: Layout, rows: int) -> None:
        self.head = head
        self.layout = layout
        lead = 4 + head.size + 2
        mask = b"\xff\xff\x00" + b"\xff" * (lead - 3) + layout.mask.to_bytes(layout.size) * rows + b"\xff\xff"
        self.mask = int.from_bytes(mask)
        self.tags = int.from_bytes(octets) & self.mask
        self.unpack = struct.Struct(f">{lead}x{layout.codes * rows}2x").unpack
        self.width = sum(leaf.cell is not None for leaf in layout.leaves)
        self.starts = range(0, self.width * rows, self.width)


class FastDecoder:
    """Decodes APDUs with what it learnt from earlier ones. `capacity` bounds the heads that are kept."""

    __slots__ = ("_capacity", "_prefixes", "_records", "_values", "_wholes", "hits", "misses")

    def __init__(self, capacity: int = 512) -> None:
        self._capacity = capacity
        self._prefixes: dict[bytes, _Head] = {}
        self._records: dict[bytes, _Head] = {}
        self._values: dict[bytes, _Head] = {}
        self._wholes: dict[tuple[int, bytes], _Whole] = {}
        self.hits = 0
        self.misses = 0

    def parse(self, octets: bytes) -> tuple[Apdu, list[str] | None]:
        """The APDU and the oddities accepted in it (None: none). Raises WireError."""
        whole = self._wholes.get((len(octets), octets[4:_WHOLE_PREFIX]))
        if whole is not None and int.from_bytes(octets) & whole.mask == whole.tags:
            self.hits += 1
            cells = whole.unpack(octets)
            width = whole.width
            rows = (cells,) if len(cells) == width else tuple([cells[at : at + width] for at in whole.starts])
            head = whole.head
            record = _make(ResultRecord, (head.oad, head.rcsd, _make(Table, (((whole.layout, rows),),)), True))
            return ReportNotificationRecordList(_PIIDS[octets[2]], (record,)), None
        apdu = self._take(octets)
        if apdu is not None:
            self.hits += 1
            if type(apdu) is ReportNotificationRecordList:
                self._keep_whole(octets, apdu)
            return apdu, None
        self.misses += 1
        parsed = model.parse(octets)
        if not parsed.warnings:
            self._learn(parsed.apdu)
        return parsed.apdu, parsed.warnings or None

    # --- taking -------------------------------------------------------------------------------------------------

    def _take(self, octets: bytes) -> Apdu | None:
        if octets[-2:] != b"\x00\x00" or len(octets) < 9:
            return _link(octets)
        tag, kind = octets[0], octets[1]
        if tag == 0x88 and kind == 2:
            taken = self._take_records(octets, 4, octets[3])
            return None if taken is None else ReportNotificationRecordList(_PIIDS[octets[2]], taken)
        if tag == 0x85 and kind == 3:
            taken = self._take_records(octets, 3, 1)
            return None if taken is None else GetResponseRecord(_PIIDS[octets[2]], taken[0])
        if tag == 0x85 and kind == 1:
            values = self._take_values(octets, 3, 1)
            return None if values is None else GetResponseNormal(_PIIDS[octets[2]], values[0])
        if tag == 0x85 and kind == 2:
            values = self._take_values(octets, 4, octets[3])
            return None if values is None else GetResponseNormalList(_PIIDS[octets[2]], values)
        if tag == 0x88 and kind == 1:
            values = self._take_values(octets, 4, octets[3])
            return None if values is None else ReportNotificationList(_PIIDS[octets[2]], values)
        return _link(octets)

    def _take_records(self, octets: bytes, at: int, count: int) -> tuple[ResultRecord, ...] | None:
        """`count` records from `at` to the tails; None where anything is not as known."""
        end = len(octets) - 2
        records: list[ResultRecord] = []
        if count > 0x7F:
            return None
        while count:
            count -= 1
            head = self._prefixes.get(octets[at : at + _PREFIX])
            if head is None or not octets.startswith(head.octets, at):
                head = self._find_head(octets, at)
                if head is None:
                    return None
            at += head.size
            if at + 2 > end or octets[at] != 1:
                return None
            rows = octets[at + 1]
            if rows > 0x7F:
                return None
            at += 2
            if not rows:
                records.append(ResultRecord(head.oad, head.rcsd, EMPTY))
                continue
            runs: list[tuple[Layout, tuple[Cells, ...]]] = []
            while rows:
                for layout in head.layouts:
                    if int.from_bytes(octets[at : at + layout.size]) & layout.mask == layout.tags:
                        break
                else:
                    return None
                size, mask, tags, unpack = layout.size, layout.mask, layout.tags, layout.struct.unpack_from  # type: ignore[union-attr]
                if at + size > end:
                    return None
                run = [unpack(octets, at)]
                at += size
                rows -= 1
                while rows and int.from_bytes(octets[at : at + size]) & mask == tags and at + size <= end:
                    run.append(unpack(octets, at))
                    at += size
                    rows -= 1
                runs.append((layout, tuple(run)))
            records.append(ResultRecord(head.oad, head.rcsd, Table(tuple(runs))))
        return tuple(records) if at == end else None

    def _find_head(self, octets: bytes, at: int) -> _Head | None:
        """The head at `at` by its whole octets, where another one shares its first octets."""
        size = _head_size(octets, at)
        head = self._records.get(octets[at : at + size]) if size else None
        if head is not None:
            self._know(head)
        return head

    def _take_values(self, octets: bytes, at: int, count: int) -> tuple[ResultNormal, ...] | None:
        """`count` normal results from `at` to the tails."""
        end = len(octets) - 2
        results: list[ResultNormal] = []
        if count > 0x7F:
            return None
        while count:
            count -= 1
            head = self._values.get(octets[at : at + 5])
            if head is None:
                return None
            at += 5
            for layout in head.layouts:
                size = layout.size
                if int.from_bytes(octets[at : at + size]) & layout.mask == layout.tags and at + size <= end:
                    break
            else:
                return None
            cells = layout.struct.unpack_from(octets, at)  # type: ignore[union-attr]
            at += size
            results.append(ResultNormal(head.oad, _make(Row, (layout, cells))))
        return tuple(results) if at == end else None

    # --- learning -----------------------------------------------------------------------------------------------

    def _learn(self, apdu: Apdu) -> None:
        if isinstance(apdu, ReportNotificationRecordList):
            for record in apdu.records:
                self._learn_record(record)
        elif isinstance(apdu, GetResponseRecord):
            self._learn_record(apdu.record)
        elif isinstance(apdu, ReportNotificationList | GetResponseNormalList):
            for result in apdu.results:
                self._learn_value(result)
        elif isinstance(apdu, GetResponseNormal):
            self._learn_value(apdu.result)

    def _learn_record(self, record: ResultRecord) -> None:
        if not record.flat or not isinstance(record.result, Table):
            return
        octets = _head_octets(record.oad, record.rcsd)
        head = self._records.pop(octets, None)
        if head is None:
            head = _Head(octets, record.oad, record.rcsd)
            while len(self._records) >= self._capacity:
                # The least recently learnt goes, and every way to it.
                gone = self._records.pop(next(iter(self._records)))
                self._prefixes = {prefix: kept for prefix, kept in self._prefixes.items() if kept is not gone}
        self._records[octets] = head
        self._know(head)
        for layout, _ in record.result.runs:
            head.learn(layout)

    def _keep_whole(self, octets: bytes, apdu: ReportNotificationRecordList) -> None:
        """Keep a report of one record and one layout for the shortest way."""
        if len(apdu.records) != 1 or len(octets) > _LARGEST_WHOLE:
            return
        record = apdu.records[0]
        runs = record.table.runs
        head = self._records.get(octets[4 : 4 + _head_size(octets, 4)])
        if head is None or head.size < _PREFIX or len(runs) != 1:
            return
        layout, cells = runs[0]
        if not cells[0]:
            # Rows of NULL alone have no values by which they could be told apart.
            return
        while len(self._wholes) >= self._capacity:
            del self._wholes[next(iter(self._wholes))]
        self._wholes[len(octets), octets[4:_WHOLE_PREFIX]] = _Whole(octets, head, layout, len(cells))

    def _know(self, head: _Head) -> None:
        """Enter the first octets of a head; a shorter head would take the values behind it into the key."""
        if head.size >= _PREFIX:
            self._prefixes[head.octets[:_PREFIX]] = head

    def _learn_value(self, result: ResultNormal) -> None:
        if not isinstance(result.result, Row):
            return
        octets = result.oad.to_bytes(4) + b"\x01"
        head = self._values.pop(octets, None) or _Head(octets, result.oad, ())
        while len(self._values) >= self._capacity:
            self._values.pop(next(iter(self._values)))
        self._values[octets] = head
        head.learn(result.result.layout)


def _link(octets: bytes) -> Apdu | None:
    """A LINK-Request, whose size is fixed."""
    if len(octets) != 15 or octets[0] != 1:
        return None
    return LinkRequest(_PIIDS[octets[1]], octets[2], octets[3] << 8 | octets[4], octets[5:])


def _head_octets(oad: Oad, rcsd: Rcsd) -> bytes:
    return build_all(OAD, oad) + build_all(RCSD, rcsd)


def _head_size(octets: bytes, at: int) -> int:
    """Octets of OAD and RCSD at `at`; 0 where they are not plain (counts of one octet)."""
    end = len(octets)
    start = at
    at += 5
    if at > end or octets[at - 1] > 0x7F:
        return 0
    for _ in range(octets[at - 1]):
        if at >= end:
            return 0
        if octets[at] == 0:
            at += 5
        elif octets[at] == 1 and at + 5 < end and octets[at + 5] < 0x80:
            at += 6 + 4 * octets[at + 5]
        else:
            return 0
    return at - start
