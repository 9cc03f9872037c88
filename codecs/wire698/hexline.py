"""Octets as people write them, and the whole frames in them: what decoding by hand starts from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .errors import WireError
from .frame import START, Frame, parse_frame

PREAMBLE = 0xFE
_BETWEEN = re.compile(r"[\s,]+")


def octets_of_text(text: str) -> bytes:
    """The octets of `68 17 00`, `681700`, `0x68,0x17,0x00` or a mixture.

    Raises ValueError saying which part is none.
    """
    octets = bytearray()
    for word in _BETWEEN.split(text):
        digits = word[2:] if word[:2] in ("0x", "0X") else word
        if digits is not word and len(digits) == 1:
            digits = f"0{digits}"
        try:
            octets += bytes.fromhex(digits)
        except ValueError:
            shown = word if len(word) <= 40 else f"{word[:40]}…"
            raise ValueError(f"{shown!r} is not hexadecimal octets") from None
    return bytes(octets)


class Found(NamedTuple):
    """One frame, or what is wrong in its place. `offset` is where it starts, behind `preamble` octets FE."""

    offset: int
    preamble: int
    frame: Frame | WireError


def whole_frames(octets: bytes) -> Iterator[Found]:
    """The frames that stand back to back in `octets` with nothing but FE octets before each.

    Ends with the first WireError; its offset counts from the start of `octets`.
    """
    at = 0
    while True:
        start = at
        while start < len(octets) and octets[start] == PREAMBLE:
            start += 1
        if at and start == len(octets) == at:
            return
        rest = octets[start:]
        end = (rest[1] | rest[2] << 8) + 2 if len(rest) > 2 and rest[0] == START else len(rest)
        try:
            frame = parse_frame(rest[:end] if end >= 12 else rest)
        except WireError as error:
            yield Found(start, start - at, WireError(start + error.offset, error.reason))
            return
        yield Found(start, start - at, frame)
        at = start + len(frame.raw)
