"""The link layer of a terminal: APDUs into frames, large ones into fragments that wait for each other (wire.md a.6)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from wire698.frame import (
    ACK,
    DATA_FUNCTION,
    DIR,
    FRAGMENT,
    PRM,
    SCRAMBLED,
    Address,
    Frame,
    Reassembler,
    build_frame,
    parse_fragment,
    split_fragments,
)

from .counters import Counters

LARGEST_APDU = 65536
"""Octets of an incoming APDU that are put together from fragments."""
_TRIES = 3


class Outgoing(NamedTuple):
    """An APDU on its way: control octet without the fragment bit, client address, scrambling."""

    control: int
    client: int
    apdu: bytes
    scrambled: bool = False


class Carrier:
    """Sends and receives APDUs over one connection.

    Whole frames go out at once; fragments go one by one, each after the acknowledgement of the one before. A fragment
    that is not acknowledged within `patience` seconds goes again, three times in all; then the transfer is given up.
    """

    __slots__ = (
        "_address",
        "_counters",
        "_due",
        "_frame_size",
        "_incoming",
        "_next",
        "_patience",
        "_pieces",
        "_transfers",
        "_tries",
    )

    def __init__(self, address: Address, frame_size: int, patience: float, counters: Counters) -> None:
        self._address = address
        self._frame_size = frame_size
        self._patience = patience
        self._counters = counters
        self._incoming = Reassembler(LARGEST_APDU)
        self._transfers: deque[Outgoing] = deque()
        self._pieces: list[bytes] = []
        self._next = 0
        self._tries = 0
        self._due: float | None = None

    @property
    def room(self) -> int:
        """Octets of an APDU that fit one frame."""
        return self._frame_size - 9 - len(self._address.sa)

    @property
    def busy(self) -> bool:
        """Fragments are under way."""
        return bool(self._transfers)

    def limit(self, frame_size: int) -> None:
        """The peer takes frames of at most this length field."""
        self._frame_size = max(64, min(self._frame_size, frame_size))

    def reset(self) -> None:
        """The connection is new."""
        self._incoming.reset()
        self._transfers.clear()
        self._due = None

    def deadline(self) -> float | None:
        """When an unacknowledged fragment goes again."""
        return self._due

    # --- out ---

    def send(self, out: Outgoing, now: float) -> list[bytes]:
        """The frames to write now."""
        if len(out.apdu) <= self.room:
            return [self._frame(out.control, out, out.apdu)]
        self._transfers.append(out)
        return self._begin(now) if len(self._transfers) == 1 else []

    def _frame(self, control: int, out: Outgoing, data: bytes) -> bytes:
        self._counters.frames_out += 1
        return build_frame(control, self._address, out.client, data, scrambled=out.scrambled)

    def _begin(self, now: float) -> list[bytes]:
        self._pieces = split_fragments(self._transfers[0].apdu, self.room - 2)
        self._next = 0
        return self._piece(now)

    def _piece(self, now: float) -> list[bytes]:
        out = self._transfers[0]
        self._tries = 1
        frame = self._frame(out.control | FRAGMENT, out, self._pieces[self._next])
        if self._next < len(self._pieces) - 1:
            self._due = now + self._patience
            return [frame]
        # Not every peer acknowledges the last piece, so nobody waits for it.
        return [frame, *self._over(now)]

    def _over(self, now: float) -> list[bytes]:
        self._transfers.popleft()
        self._due = None
        return self._begin(now) if self._transfers else []

    def tick(self, now: float) -> list[bytes]:
        """Repeat or give up."""
        if self._due is None or now < self._due:
            return []
        if self._tries >= _TRIES:
            self._counters.given_up += 1
            return self._over(now)
        self._tries += 1
        self._due = now + self._patience
        out = self._transfers[0]
        return [self._frame(out.control | FRAGMENT, out, self._pieces[self._next])]

    # --- in ---

    def take(self, frame: Frame, now: float) -> tuple[list[bytes], bytes | None]:
        """(frames to write, the APDU if one is complete) of a frame. Raises WireError for a broken fragment."""
        if not frame.is_fragment:
            return [], frame.data
        fragment = parse_fragment(frame.data)
        if fragment.kind == ACK:
            if self._transfers and self._due is not None and fragment.seq == self._next & 0xFFF:
                self._next += 1
                return self._piece(now), None
            return [], None
        acknowledgement, apdu, _ = self._incoming.feed(fragment._replace(reserved=0))
        if acknowledgement is None:
            return [], None
        control = DIR | frame.control & PRM | FRAGMENT | DATA_FUNCTION
        out = Outgoing(control, frame.client, acknowledgement, frame.control & SCRAMBLED != 0)
        return [self._frame(control, out, acknowledgement)], apdu
