"""Task uploads 任务上报: 88 02 of 6012 03 00, packed row by row.

They are by far the most of what a fleet sends, so they do not go through the model; a test holds the two equal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from wire698 import access, model
from wire698.data import DATA
from wire698.notation import build_all
from wire698.pieces import ResultRecord
from wire698.rows import EMPTY
from wire698.values import Oad, Piid, Tag

from .records import FREEZE_TIME, FREEZES, TASKS, Collected, table_of, upload_columns, upload_rcsd
from .registers import QUANTITIES, data_of, named
from .stamps import date_time_s
from .truth import TrueRow
from .world import Reading

_MOST_ROWS = 0x7F
"""So many rows have a count of one octet."""
_CODES = {Tag.DOUBLE_LONG_UNSIGNED: "I", Tag.DOUBLE_LONG: "i", Tag.LONG_UNSIGNED: "H", Tag.LONG: "h"}
_TAIL = b"\x00\x00"


@lru_cache(maxsize=8)
def _head(of: Oad) -> bytes:
    """The APDU up to the count of rows."""
    empty = ResultRecord(TASKS, upload_rcsd(of), EMPTY)
    octets = model.build(access.ReportNotificationRecordList(piid=Piid(0), records=(empty,)))
    return octets[: -len(_TAIL) - 1]


@lru_cache(maxsize=64)
def _packer(oad: Oad) -> tuple[struct.Struct, int] | None:
    """How the array of an object is packed: a struct for it all, and the tag of its members."""
    quantity = QUANTITIES.get(oad.oi)
    if quantity is None or not quantity.members or oad.index or oad.attribute != 2:
        return None
    return struct.Struct(">" + "BB" + ("B" + _CODES[quantity.tag]) * len(quantity.members)), quantity.tag


def _value(oad: Oad, reading: Reading | None) -> bytes:
    if reading is None:
        return b"\x00"
    packer = _packer(oad)
    if packer is None:
        return build_all(DATA, data_of(oad, reading))
    layout, tag = packer
    flat: list[int] = [Tag.ARRAY, 0]
    for value in QUANTITIES[oad.oi].values(reading):
        flat += (tag, value)
    flat[1] = len(flat) // 2 - 1
    return layout.pack(*flat)


def _row(row: Collected) -> bytes:
    cells = [b"\x55" + bytes((len(row.tsa),)) + row.tsa]
    stamps = (row.started, row.succeeded, row.stored)
    cells += [b"\x00" if at is None else b"\x1c" + date_time_s(at) for at in stamps]
    for oad in upload_columns(row.of):
        if oad == FREEZE_TIME:
            cells.append(b"\x1c" + date_time_s(row.freeze.at))
        else:
            cells.append(_value(oad, row.freeze.reading))
    return b"".join(cells)


def upload_apdu(of: Oad, rows: Sequence[Collected]) -> bytes:
    """The notification with PIID 0. Raises ValueError for more rows than a count of one octet holds."""
    if len(rows) > _MOST_ROWS:
        raise ValueError(f"{len(rows)} rows in one report; at most {_MOST_ROWS}")
    return _head(of) + bytes((len(rows),)) + b"".join(map(_row, rows)) + _TAIL


def upload_record(of: Oad, rows: Sequence[Collected]) -> ResultRecord:
    """The same as the model's value."""
    rcsd = upload_rcsd(of)
    return ResultRecord(TASKS, rcsd, table_of(rows, rcsd))


def true_rows(of: Oad, rows: Sequence[Collected]) -> tuple[TrueRow, ...]:
    """What the rows say, in engineering values."""
    told = []
    for row in rows:
        values: dict[str, float | int | str | None] = {}
        for oad in FREEZES[of]:
            values.update(named(oad, row.freeze.reading))
        told.append(TrueRow(row.tsa[1:].hex(), row.freeze.at * 1000, values))
    return tuple(told)
