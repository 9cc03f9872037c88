"""The display 显示屏 of a terminal: Chinese messages 8003/8004 and the arrears alarm 8002."""

from __future__ import annotations

from dataclasses import dataclass

MOST_MESSAGES = 10
MOST_OCTETS = 200
NORMAL, IMPORTANT, ARREARS = 0x8003, 0x8004, 0x8002
KINDS = {NORMAL: "normal", IMPORTANT: "important", ARREARS: "arrears"}


@dataclass(slots=True)
class Note:
    """A message; `issued`: the 7 octets of its time; `text`: GBK as it came."""

    number: int
    issued: bytes
    text: bytes
    read: bool = False


def words(octets: bytes) -> str:
    """What the display shows of GBK octets; some masters pad with zeros."""
    return octets.rstrip(b"\x00").decode("gbk", errors="replace")


class Display:
    """Messages by kind, the oldest first; and the arrears alarm: the hours it sounds in, and its text."""

    __slots__ = ("arrears", "notes")

    def __init__(self) -> None:
        self.notes: dict[int, list[Note]] = {NORMAL: [], IMPORTANT: []}
        self.arrears: tuple[bytes, bytes] | None = None

    def add(self, oi: int, note: Note) -> None:
        """Keep a message; one of the same number is replaced, beyond ten the oldest goes."""
        notes = [other for other in self.notes[oi] if other.number != note.number]
        self.notes[oi] = [*notes, note][-MOST_MESSAGES:]

    def delete(self, oi: int, number: int) -> bool:
        """Whether there was a message of this number."""
        notes = [note for note in self.notes[oi] if note.number != number]
        gone = len(notes) < len(self.notes[oi])
        self.notes[oi] = notes
        return gone
