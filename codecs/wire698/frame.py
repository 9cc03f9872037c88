"""Link frames 链路帧: finding them in a stream, taking them apart, making them (wire.md, section a).

A frame is believed in two steps: the header checksum before its length is trusted, then the frame checksum. Octets that
begin no frame are counted and skipped, each looked at once; nothing a peer sends is fatal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from fastcrc.crc16 import ibm_sdlc as crc16

from .errors import WireError

START, END = 0x68, 0x16
SINGLE, WILDCARD, GROUP, BROADCAST = 0, 1, 2, 3

DIR, PRM, FRAGMENT, SCRAMBLED = 0x80, 0x40, 0x20, 0x08
LINK_FUNCTION, DATA_FUNCTION = 1, 3

MAX_FRAME = 0x3FFF + 2
"""Octets of the longest frame: 14 bits of length, and 68 and 16 around it."""
_SHORTEST = 12
"""68 L L C AF SA CA HCS HCS FCS FCS 16 with one octet of address; nothing shorter is a frame."""

_UNSCRAMBLE = bytes((octet - 0x33) & 0xFF for octet in range(256))
_SCRAMBLE = bytes((octet + 0x33) & 0xFF for octet in range(256))


class Address(NamedTuple):
    """Server address 服务器地址: AF octet and the SA octets in the order of the wire (last printed octet first)."""

    af: int
    sa: bytes

    @classmethod
    def of(cls, digits: str, kind: int = SINGLE, logical: int = 0) -> Address:
        """From printed digits; an odd count is padded with F (wire.md a.3)."""
        if not digits or len(digits) > 32:
            raise ValueError(f"an address has 1 to 32 digits, not {digits!r}")
        sa = bytes.fromhex(digits + "F" * (len(digits) & 1))[::-1]
        return cls(kind << 6 | logical << 4 | len(sa) - 1, sa)

    @property
    def kind(self) -> int:
        """Address type 地址类型: 0 single, 1 wildcard, 2 group, 3 broadcast."""
        return self.af >> 6

    @property
    def logical(self) -> int:
        """Logical address 逻辑地址, bits 5-4 as the 2017 text reads them."""
        return self.af >> 4 & 3

    @property
    def extended_logical(self) -> int | None:
        """Logical address as newer terminals write it: bit 5 set and the number in an octet of its own (oddity 2).

        Only in an address longer than the usual six octets; in a shorter one, bit 5 belongs to `logical`.
        """
        return self.sa[-1] if self.af & 0x20 and len(self.sa) > 6 else None

    @property
    def text(self) -> str:
        """The printed digits, leading zeros kept, padding dropped."""
        return _printed(self.sa)

    @property
    def terminal(self) -> str:
        """The digits that identify the terminal: without an extended logical address octet (oddity 2)."""
        return _printed(self.sa[:-1] if self.extended_logical is not None else self.sa)


@lru_cache(maxsize=65536)
def _printed(sa: bytes) -> str:
    text = sa[::-1].hex().upper()
    return text.removesuffix("F")


class Frame(NamedTuple):
    """A good frame. `data`: link user data with scrambling taken off; `raw`: the octets from 68 to 16."""

    control: int
    address: Address
    client: int
    data: bytes
    raw: bytes

    @property
    def from_server(self) -> bool:
        """DIR 传输方向位: sent by the terminal."""
        return self.control & DIR != 0

    @property
    def is_fragment(self) -> bool:
        """分帧标志: the data is a piece of an APDU."""
        return self.control & FRAGMENT != 0

    @property
    def function(self) -> int:
        """功能码: 1 link management, 3 user data."""
        return self.control & 7

    @property
    def data_offset(self) -> int:
        """Where the user data begins in `raw`."""
        return 8 + len(self.address.sa)


class Garbage(NamedTuple):
    """Octets that were skipped. `reason`: noise, header-checksum, frame-checksum, end, length, stale."""

    reason: str
    octets: int


def build_frame(control: int, address: Address, client: int, data: bytes, *, scrambled: bool = False) -> bytes:
    """A frame around `data`. Raises ValueError where it does not fit the length field."""
    if scrambled:
        control |= SCRAMBLED
        data = data.translate(_SCRAMBLE)
    length = 9 + len(address.sa) + len(data)
    if length > 0x3FFF:
        raise ValueError(f"{len(data)} octets of user data do not fit a frame of 16383; send fragments")
    head = length.to_bytes(2, "little") + bytes((control, address.af)) + address.sa + bytes((client,))
    head += crc16(head).to_bytes(2, "little")
    body = head + data
    return b"\x68" + body + crc16(body).to_bytes(2, "little") + b"\x16"


def parse_frame(raw: bytes) -> Frame:
    """The frame that `raw` is, from 68 to 16 with nothing around it. Raises WireError saying what is wrong where."""
    if len(raw) < _SHORTEST:
        raise WireError(len(raw), f"a frame has at least {_SHORTEST} octets, here are {len(raw)}")
    if raw[0] != START:
        raise WireError(0, f"a frame starts with 68, not {raw[0]:02X}")
    head = 6 + (raw[4] & 0x0F) + 1
    if len(raw) < head + 5:
        raise WireError(len(raw), f"the header alone has {head + 2} octets, here are {len(raw)}")
    header = _header(raw[1 : head + 2])
    if header is None:
        hcs = crc16(raw[1:head])
        raise WireError(head, f"header checksum HCS {raw[head + 1]:02X}{raw[head]:02X}, {hcs:04X} expected")
    word = raw[1] | raw[2] << 8
    if word & 0xC000:
        raise WireError(2, "length bits 14-15 are set: lengths in kilobytes are of a later edition")
    if word + 2 != len(raw):
        raise WireError(1, f"length field {word}, but {len(raw) - 2} octets between 68 and 16")
    if raw[-1] != END:
        raise WireError(len(raw) - 1, f"a frame ends with 16, not {raw[-1]:02X}")
    fcs = crc16(raw[1:-3])
    if fcs != raw[-3] | raw[-2] << 8:
        raise WireError(len(raw) - 3, f"frame checksum FCS {raw[-2]:02X}{raw[-3]:02X}, {fcs:04X} expected")
    return _taken_apart(raw, head, header)


_RESIDUE = 0x0F47
"""CRC-16/X-25 over octets and their own checksum."""
_make = tuple.__new__
_headers: dict[bytes, tuple[int, Address, int]] = {}
"""What good headers say, by their octets L..HCS: a header that is known need not be checked again."""
_HEADERS_KEPT = 65536


def _header(octets: bytes) -> tuple[int, Address, int] | None:
    """Control octet, address and client address from the octets L..HCS; None where the checksum is wrong."""
    if crc16(octets) != _RESIDUE:
        return None
    if len(_headers) >= _HEADERS_KEPT:
        _headers.clear()
    taken = _headers[octets] = (octets[2], Address(octets[3], octets[4:-3]), octets[-3])
    return taken


def _taken_apart(raw: bytes, head: int, header: tuple[int, Address, int]) -> Frame:
    """The frame in checked octets; `head` is the place of its HCS."""
    control, address, client = header
    data = raw[head + 2 : -3]
    if control & SCRAMBLED:
        data = data.translate(_UNSCRAMBLE)
    return _make(Frame, (control, address, client, data, raw))


class Framer:
    """Finds frames in the octets of one channel, however they are cut.

    Keeps at most one frame's octets: an incomplete frame waits for its rest, everything else is taken at once.
    `limit` is the longest frame that is accepted, in octets from 68 to 16.
    """

    __slots__ = ("_buffer", "_limit", "_noise")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._buffer = b""
        self._limit = limit
        self._noise = 0

    @property
    def waiting(self) -> int:
        """Octets of an incomplete frame that are kept."""
        return len(self._buffer)

    def feed(self, octets: bytes) -> list[Frame | Garbage]:
        """Take octets as they come; give the frames and the garbage that are complete with them."""
        size = len(octets)
        if not self._buffer and size >= _SHORTEST and (octets[1] | octets[2] << 8) + 2 == size <= self._limit:
            # One whole frame and nothing else, with a header that is known: nearly always so on a network.
            body = octets[4] & 0x0F
            header = _headers.get(octets[1 : body + 9])
            if header is not None and octets[0] == START and octets[-1] == END and crc16(octets[1:-1]) == _RESIDUE:
                control, address, client = header
                data = octets[body + 9 : -3]
                if control & SCRAMBLED:
                    data = data.translate(_UNSCRAMBLE)
                return [_make(Frame, (control, address, client, data, octets))]
        data = self._buffer + octets if self._buffer else octets
        found: list[Frame | Garbage] = []
        at, size, limit, known = 0, len(data), self._limit, _headers.get
        while at < size:
            if data[at] != START:
                start = data.find(START, at)
                start = size if start < 0 else start
                self._skip(found, "noise", start - at)
                at = start
                continue
            if size - at < 6:
                break
            head = at + 7 + (data[at + 4] & 0x0F)
            end = at + (data[at + 1] | data[at + 2] << 8) + 2
            if end < head + 5 or end - at > limit:
                # Also covers the unit bit: a length of 16384 and more is over any limit.
                reason = "length"
            elif size < head + 2:
                break
            elif (header := known(lead := data[at + 1 : head + 2]) or _header(lead)) is None:
                reason = "header-checksum"
            elif size < end:
                break
            elif data[end - 1] != END:
                reason = "end"
            elif crc16(data[at + 1 : end - 1]) != _RESIDUE:
                reason = "frame-checksum"
            else:
                raw = data if end - at == size else data[at:end]
                found.append(_taken_apart(raw, head - at, header))
                at = end
                continue
            self._skip(found, reason, 1)
            at += 1
        self._buffer = data[at:]
        return found

    def discard(self) -> Garbage | None:
        """Give up an incomplete frame whose rest did not come in time."""
        if not self._buffer:
            return None
        lost = Garbage("stale", len(self._buffer))
        self._buffer = b""
        return lost

    @staticmethod
    def _skip(found: list[Frame | Garbage], reason: str, octets: int) -> None:
        if found and isinstance(found[-1], Garbage) and reason == "noise" and found[-1].reason != "noise":
            # What follows a false start belongs to it: one line of garbage, not two.
            found[-1] = Garbage(found[-1].reason, found[-1].octets + octets)
        else:
            found.append(Garbage(reason, octets))


# --- link fragments 链路分帧 (a.6) ---------------------------------------------------------------------------------

FIRST, LAST, ACK, MIDDLE = 0, 1, 2, 3
FRAGMENT_KINDS = ("first", "last", "ack", "middle")


class Fragment(NamedTuple):
    """The fragment format field 分帧格式域 and the piece behind it."""

    seq: int
    kind: int
    reserved: int
    piece: bytes


def parse_fragment(data: bytes, offset: int = 0) -> Fragment:
    """Split user data of a frame with control bit 5. Raises WireError."""
    if len(data) < 2:
        raise WireError(offset + len(data), f"a fragment format field has 2 octets, here are {len(data)}")
    word = data[0] | data[1] << 8
    return Fragment(word & 0xFFF, word >> 14, word >> 12 & 3, data[2:])


def build_fragment(seq: int, kind: int, piece: bytes = b"", reserved: int = 0) -> bytes:
    """User data of a fragment frame."""
    return (seq & 0xFFF | reserved << 12 | kind << 14).to_bytes(2, "little") + piece


def split_fragments(apdu: bytes, size: int) -> list[bytes]:
    """User data of the fragment frames that carry `apdu` in pieces of at most `size` octets; at least two pieces."""
    size = min(size, max(1, -(-len(apdu) // 2)))
    pieces = [apdu[at : at + size] for at in range(0, len(apdu), size)]
    last = len(pieces) - 1
    return [
        build_fragment(seq, FIRST if seq == 0 else LAST if seq == last else MIDDLE, piece)
        for seq, piece in enumerate(pieces)
    ]


class Reassembler:
    """Puts fragments together under a cap; what is out of order is given up (a.6).

    `feed` gives (the acknowledgement to send or None, the whole APDU or None, a warning or None).
    """

    __slots__ = ("_cap", "_last", "_next", "_pieces", "_size")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._pieces: list[bytes] = []
        self._size = 0
        self._next = 0
        self._last: Fragment | None = None

    @property
    def open(self) -> bool:
        """A first piece has come and the last has not."""
        return bool(self._pieces)

    def feed(self, fragment: Fragment) -> tuple[bytes | None, bytes | None, str | None]:
        """Take one fragment that is not an acknowledgement."""
        if self._last is not None and fragment == self._last:
            return build_fragment(fragment.seq, ACK), None, None
        warning = None
        if fragment.kind == FIRST:
            if self._pieces:
                warning = "fragment-restart"
            self.reset()
        elif not self._pieces or fragment.seq != self._next:
            self.reset()
            return None, None, "fragment-out-of-order"
        if self._size + len(fragment.piece) > self._cap:
            self.reset()
            return None, None, "fragment-too-long"
        self._pieces.append(fragment.piece)
        self._size += len(fragment.piece)
        self._next = fragment.seq + 1 & 0xFFF
        self._last = fragment
        acknowledgement = build_fragment(fragment.seq, ACK)
        if fragment.kind != LAST:
            return acknowledgement, None, warning
        apdu = b"".join(self._pieces)
        self._pieces = []
        self._size = 0
        return acknowledgement, apdu, warning

    def reset(self) -> None:
        """Forget what has come."""
        self._pieces = []
        self._size = 0
        self._last = None
