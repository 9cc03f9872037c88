"""Reports 上报: what answers one, and by what its messages are known."""

from __future__ import annotations

import dataclasses
from typing import Any

from messages import Up, message_id
from wire698 import access, model
from wire698.pieces import ServerApdu
from wire698.values import Piid


def report_response(apdu: Any) -> bytes:
    """REPORT-Response 上报响应: kind, PIID octet and OADs as they came (reports.md 5): the model's octets, faster."""
    if isinstance(apdu, access.ReportNotificationTransData):
        return bytes((8, 3, apdu.piid, 0))
    if isinstance(apdu, access.ReportNotificationRecordList):
        kind, items = 2, apdu.records
    else:
        kind, items = 1, apdu.results
    if len(items) > 0x7F:
        made = access.ReportResponseRecordList if kind == 2 else access.ReportResponseList
        return model.build(made(apdu.piid, tuple([item.oad for item in items])))
    oads = b"".join([item.oad.to_bytes(4) for item in items])
    return bytes((8, kind, apdu.piid, len(items))) + oads + b"\x00"


def identify(messages: list[Up], content: str, terminal: str, wall: int) -> None:
    """Give messages their ids: of what was said, and of the first receipt where no device time says when.

    Each after the first also counts its place.
    """
    for number, message in enumerate(messages):
        parts = [number.to_bytes(2)] if number else []
        if not _dated(message):
            parts.append(wall.to_bytes(8))
        message.id = message_id(terminal, bytes.fromhex(content), *parts) if parts else content


def _dated(message: Any) -> bool:
    rows = getattr(message, "rows", None)
    if rows is None:
        return getattr(message, "occurred_at", None) is not None
    return any(row[1] is not None for row in rows)


def has_tails(apdu: ServerApdu) -> bool:
    return apdu.follow is not None or apdu.timetag is not None


def body_of(apdu: Any) -> bytes:
    """What was said, without how: no PIID, no time tag, no follow report."""
    return model.build(dataclasses.replace(apdu, piid=Piid(0), timetag=None, follow=None))[3:]
