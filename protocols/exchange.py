"""One request on its way: sent, in fragments if it must be, answered, in blocks if the terminal says so."""

from __future__ import annotations

import dataclasses
from typing import Any

from wire698 import model
from wire698.access import GetRequestNext, GetResponseNext
from wire698.frame import ACK, FRAGMENT, PRM, Address, Fragment, build_frame, split_fragments
from wire698.pieces import Apdu, Records, holds_records
from wire698.values import Dar, Piid

from .events import Failure, Request

REQUEST = PRM | 3
ERROR_RESPONSE = 0xEE
GET_NEXT = b"\x85\x05"


LONGEST = 20
"""Timeouts that one attempt may take in all, however often a fragment or a block gives it another."""


class Exchange:
    """The request in flight of one terminal.

    `deadline` is the instant (mono, s) at which the present step - a fragment, a block, the answer - is overdue.
    """

    __slots__ = (
        "_block_octets",
        "_blocks",
        "_cap",
        "_fragments",
        "_head",
        "_last_block",
        "_latest",
        "deadline",
        "piid",
        "request",
        "timeout",
    )

    def __init__(self, request: Request, timeout: float, cap: int) -> None:
        self.request = request
        self.timeout = timeout
        self.deadline = 0.0
        self.piid = 0
        self._cap = cap
        self._head = bytes((request.apdu.HEAD[0] | 0x80,)) + request.apdu.HEAD[1:]
        self._fragments: list[bytes] = []
        self._blocks: list[Any] = []
        self._block_octets = 0
        self._last_block: GetResponseNext | None = None
        self._latest = 0.0

    def extend(self, mono: float) -> None:
        """A step has been made: the next one gets its own time, within what the attempt has in all."""
        self.deadline = min(mono + self.timeout, self._latest)

    def start(self, number: int, address: Address, client: int, mono: float, size: int) -> bytes:
        """The first frame of an attempt with this invoke number; `size`: octets of APDU that one frame carries."""
        apdu = self.request.apdu
        self.piid = (apdu.piid & 0x80) | number
        self.request.attempts += 1
        self._latest = mono + LONGEST * self.timeout
        self.extend(mono)
        self._blocks = []
        self._block_octets = 0
        self._last_block = None
        octets = model.build(dataclasses.replace(apdu, piid=Piid(self.piid)))
        if len(octets) <= size:
            self._fragments = []
            return build_frame(REQUEST, address, client, octets)
        self._fragments = split_fragments(octets, size)
        return build_frame(REQUEST | FRAGMENT, address, client, self._fragments[0])

    def acknowledged(self, fragment: Fragment, address: Address, client: int, mono: float) -> bytes | None:
        """The next fragment when this acknowledges the present one."""
        if fragment.kind != ACK or len(self._fragments) < 2:
            return None  # an acknowledgement of the last fragment means nothing (wire.md a.6)
        if int.from_bytes(self._fragments[0][:2], "little") & 0xFFF != fragment.seq:
            return None
        self._fragments.pop(0)
        self.extend(mono)
        return build_frame(REQUEST | FRAGMENT, address, client, self._fragments[0])

    def repeat(self, address: Address, client: int, mono: float) -> bytes | None:
        """The fragment that has not been acknowledged, for another try; None when the answer is what is missing."""
        if len(self._fragments) < 2:
            return None
        self.request.attempts += 1
        self._latest = mono + LONGEST * self.timeout
        self.extend(mono)
        return build_frame(REQUEST | FRAGMENT, address, client, self._fragments[0])

    def answers(self, apdu: Apdu) -> bool:
        """Whether this APDU answers the request: its service, or an error, or a block, with the PIID's number."""
        if apdu.HEAD not in (self._head, b"\xee") and not (apdu.HEAD == GET_NEXT and self._head[0] == 0x85):
            return False
        return getattr(apdu, "piid", 0) & 0x3F == self.piid & 0x3F

    def block(self, apdu: GetResponseNext, octets: int, mono: float) -> GetRequestNext | Failure | GetResponseNext:
        """Take a block of `octets` octets: gives the request for the next one, or the whole answer behind the last.

        A block that comes again is asked past again, not taken twice; one that is missing fails the request.
        """
        if isinstance(apdu.content, Dar):
            return apdu
        last, self._last_block = self._last_block, apdu
        self.extend(mono)
        if last is not None:
            if last.block == apdu.block and last.content == apdu.content and not apdu.last:
                return GetRequestNext(Piid(self.piid), apdu.block)
            if apdu.block not in (last.block, last.block + 1 & 0xFFFF):
                return Failure("bad_answer", f"block {apdu.block} came behind block {last.block}")
        if self._blocks and apdu.content and type(apdu.content[0]) is not type(self._blocks[0]):
            return Failure("bad_answer", "blocks of attributes and of records in one answer")
        self._block_octets += octets
        if self._block_octets > self._cap:
            return Failure("bad_answer", f"the blocks of the answer are more than {self._cap} octets")
        self._blocks.extend(apdu.content)
        if not apdu.last:
            return GetRequestNext(Piid(self.piid), apdu.block)
        records = holds_records(tuple(self._blocks) or apdu.content)
        content: Any = Records(self._blocks) if records else tuple(self._blocks)
        return dataclasses.replace(apdu, content=content)
