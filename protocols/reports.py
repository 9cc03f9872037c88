"""Reports 上报: what answers one, by what its messages are known, and which have been said already."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from messages import Up, message_id
from wire698 import access, model
from wire698.notation import build_all
from wire698.pieces import FOLLOW, ServerApdu
from wire698.security import PLAIN, SecurityResponse, Unit
from wire698.values import Piid

from .events import Token

REPORTS: Final = frozenset(
    {access.ReportNotificationList, access.ReportNotificationRecordList, access.ReportNotificationTransData}
)
RECENT_KEPT: Final = 32
"""Reports of one terminal that are remembered; the oldest is forgotten for a new one, and would be delivered again."""


class Recent:
    """The latest reports of a terminal by their content, so that a repetition is answered and not delivered again."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Token]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, content: str, mono: float, window: float) -> Token | None:
        """The token of the same content if that came at most `window` s ago."""
        known = self._known.get(content)
        return known[1] if known is not None and mono - known[0] <= window else None

    def remember(self, token: Token, mono: float) -> None:
        """Keep a token by its content; it is the newest then."""
        self._known.pop(token.identity, None)
        while len(self._known) >= RECENT_KEPT:
            del self._known[next(iter(self._known))]
        self._known[token.identity] = (mono, token)

    def forget(self, token: Token) -> None:
        """Drop this token, but not a later one of the same content."""
        known = self._known.get(token.identity)
        if known is not None and known[1] is token:
            del self._known[token.identity]


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


def protected(octets: bytes) -> bytes:
    """SECURITY-Response 安全响应 around an APDU in plaintext, without a MAC, which only a cipher machine can make."""
    return model.build(SecurityResponse(Unit(PLAIN, octets)))


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


def content_of(terminal: str, logical: int, apdu: Any, octets: bytes) -> str:
    """By what a report is known: who said what, without how - no PIID, no time tag, no follow report.

    `octets` are those of the APDU. The servers behind one address (logical addresses 逻辑地址) may say the same, each
    for itself.
    """
    plain = octets[-2:] == b"\x00\x00" and apdu.follow is None and apdu.timetag is None
    body = octets[3:] if plain else _body_of(apdu)
    return message_id(terminal, octets[:2], body, *_server(logical))


def follow_content(terminal: str, logical: int, apdu: ServerApdu) -> str:
    """By what a follow report 跟随上报 is known, whatever it follows."""
    return message_id(terminal, b"follow", build_all(FOLLOW, apdu.follow), *_server(logical))


def _server(logical: int) -> tuple[bytes, ...]:
    return (bytes((logical,)),) if logical else ()


def _body_of(apdu: Any) -> bytes:
    return model.build(dataclasses.replace(apdu, piid=Piid(0), timetag=None, follow=None))[3:]
