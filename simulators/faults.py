"""What goes wrong on a line: segments split and merged, octets spoilt, frames lost, doubled, late; cuts. By seed."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec

from .counters import Counters

Chance = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]

HOLD_S = 0.05
"""A frame held back to be merged with the next leaves alone after this time."""


class LineFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chances (0..1) for each frame the terminal sends, except `lose_answer`: for each frame that comes to it.

    split: written in two to five pieces; merge: kept to share a segment with the next frame; bad_checksum: one octet
    spoilt; duplicate: sent twice; delay: `delay_s` late, and all behind it; disconnect: the connection breaks inside
    the frame; garbage: up to 40 octets of noise before it; lose: it never leaves.
    """

    split: Chance = 0.0
    merge: Chance = 0.0
    bad_checksum: Chance = 0.0
    duplicate: Chance = 0.0
    delay: Chance = 0.0
    delay_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.2
    disconnect: Chance = 0.0
    garbage: Chance = 0.0
    lose: Chance = 0.0
    lose_answer: Chance = 0.0

    @property
    def none(self) -> bool:
        """Nothing goes wrong."""
        return self == NO_FAULTS


NO_FAULTS = LineFaults()


class Chunk(NamedTuple):
    """Octets for one write, `wait` seconds after the chunk before; then, if `cut`, the connection is broken off."""

    wait: float
    octets: bytes
    cut: bool = False


class FaultyLine:
    """Turns frames into what is written. The same seed, faults and frames give the same chunks."""

    __slots__ = ("_counters", "_held", "_random", "faults")

    def __init__(self, faults: LineFaults, seed: int, counters: Counters) -> None:
        self.faults = faults
        self._random = random.Random(seed)  # noqa: S311
        self._counters = counters
        self._held = b""

    @property
    def held(self) -> bool:
        """A frame waits for another to share its segment."""
        return bool(self._held)

    def reset(self) -> None:
        """The connection is new."""
        self._held = b""

    def release(self) -> list[Chunk]:
        """Nothing came to merge with: let go what is held."""
        octets, self._held = self._held, b""
        return [Chunk(0.0, octets)] if octets else []

    def hears(self) -> bool:
        """Whether the next frame from the master arrives."""
        return not self._happens("lose_answer", self.faults.lose_answer)

    def out(self, frames: list[bytes]) -> list[Chunk]:
        """The writes for these frames."""
        if self.faults.none and not self._held:
            return [Chunk(0.0, b"".join(frames))] if frames else []
        chunks: list[Chunk] = []
        for frame in frames:
            chunks += self._one(frame)
        return chunks

    def _happens(self, name: str, chance: float) -> bool:
        if chance <= 0.0 or self._random.random() >= chance:
            return False
        self._counters.fault(name)
        return True

    def _one(self, frame: bytes) -> list[Chunk]:
        faults, dice = self.faults, self._random
        if self._happens("lose", faults.lose):
            return []
        octets = frame
        if self._happens("bad_checksum", faults.bad_checksum):
            place = dice.randrange(1, len(frame) - 1)
            octets = frame[:place] + bytes((frame[place] ^ dice.randrange(1, 256),)) + frame[place + 1 :]
        if self._happens("duplicate", faults.duplicate):
            octets *= 2
        if self._happens("garbage", faults.garbage):
            octets = dice.randbytes(dice.randrange(1, 41)) + octets
        if self._held:
            octets, self._held = self._held + octets, b""
        elif self._happens("merge", faults.merge):
            self._held = octets
            return []
        wait = faults.delay_s if self._happens("delay", faults.delay) else 0.0
        if self._happens("disconnect", faults.disconnect):
            return [Chunk(wait, octets[: dice.randrange(len(octets))], cut=True)]
        if self._happens("split", faults.split):
            return self._pieces(octets, wait)
        return [Chunk(wait, octets)]

    def _pieces(self, octets: bytes, wait: float) -> list[Chunk]:
        dice = self._random
        count = dice.randrange(2, 6)
        cuts = sorted({dice.randrange(1, len(octets)) for _ in range(count - 1)})
        edges = [0, *cuts, len(octets)]
        chunks = [Chunk(wait, octets[: edges[1]])]
        for start, end in pairwise(edges[1:]):
            chunks.append(Chunk(dice.uniform(0.001, 0.02), octets[start:end]))
        return chunks
