"""What collection keeps in the journal's file: slots that have come, meters that are known, counts of polls.

SQL only. Statements state what is, not what changes, so doing one twice does no harm. Those for slots go with the rows
of the Readings that filled them: both are on the disk, or neither, and no slot is fetched twice for a crash between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from gateway.journal import Journal
from gateway.journal_store import Statement

MIGRATION: Final = """
    CREATE TABLE collection_slot (plan TEXT NOT NULL, terminal TEXT NOT NULL, meter TEXT NOT NULL,
                                  grid TEXT NOT NULL, since INTEGER NOT NULL, base INTEGER NOT NULL,
                                  had BLOB NOT NULL, empty BLOB NOT NULL, late BLOB NOT NULL,
                                  PRIMARY KEY (plan, terminal, meter)) WITHOUT ROWID;
    CREATE TABLE collection_meter (terminal TEXT NOT NULL, meter TEXT NOT NULL,
                                   PRIMARY KEY (terminal, meter)) WITHOUT ROWID;
    CREATE TABLE collection_tally (plan TEXT NOT NULL, period TEXT NOT NULL, start INTEGER NOT NULL,
                                   owed INTEGER NOT NULL, first INTEGER NOT NULL, cycle INTEGER NOT NULL,
                                   PRIMARY KEY (plan, period, start)) WITHOUT ROWID;
    """
"""For `MIGRATIONS`. meter empty: the terminal. had, empty, late: bit n (of octet n // 8, n % 8) is slot base + n."""

_SLOTS: Final = "INSERT OR REPLACE INTO collection_slot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_METER: Final = "INSERT OR REPLACE INTO collection_meter VALUES (?, ?)"
_TALLY: Final = "INSERT OR REPLACE INTO collection_tally VALUES (?, ?, ?, ?, ?, ?)"
_ALL: Final = 10_000_000


class SlotRow(NamedTuple):
    """The slots of one meter (None: the terminal itself) under one plan.

    grid: what a slot is, as text; since: the first slot that is owed; had, empty, late: bit n is slot base + n.
    """

    plan: str
    terminal: str
    meter: str | None
    grid: str
    since: int
    base: int
    had: int
    empty: int
    late: int


def _octets(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def keep_slots(row: SlotRow) -> Statement:
    """The state of one meter's slots."""
    plan, terminal, meter, grid, since, base, had, empty, late = row
    return (_SLOTS, (plan, terminal, meter or "", grid, since, base, _octets(had), _octets(empty), _octets(late)))


def keep_meter(terminal: str, meter: str) -> Statement:
    """A meter that a terminal has told of."""
    return (_METER, (terminal, meter))


def keep_tally(plan: str, period: str, start: int, counts: Sequence[int]) -> Statement:
    """The counts of a poll plan for an hour or a day."""
    owed, first, cycle = counts
    return (_TALLY, (plan, period, start, owed, first, cycle))


def forget_others(plans: Iterable[str], polls: Iterable[str]) -> list[Statement]:
    """Let go of what belongs to plans that the settings no longer have."""
    statements: list[Statement] = []
    for table, names in (("collection_slot", tuple(plans)), ("collection_tally", tuple(polls))):
        marks = ", ".join("?" * len(names))
        statements.append((f"DELETE FROM {table} WHERE plan NOT IN ({marks})", names))  # noqa: S608 (names of ours)
    return statements


def forget_tallies(before: int) -> Statement:
    """Let go of counts of periods that began before an instant (ms)."""
    return ("DELETE FROM collection_tally WHERE start < ?", (before,))


class Kept(NamedTuple):
    """All that was kept: slots, (terminal, meter), (plan, period, start, owed, first, cycle)."""

    slots: list[SlotRow]
    meters: list[tuple[str, str]]
    tallies: list[tuple[Any, ...]]


async def read_back(journal: Journal) -> Kept:
    """What was kept, at start."""
    slots = await journal.query(
        f"SELECT plan, terminal, meter, grid, since, base, had, empty, late FROM collection_slot LIMIT {_ALL}"  # noqa: S608 (a number of ours)
    )
    meters = await journal.query(f"SELECT terminal, meter FROM collection_meter LIMIT {_ALL}")  # noqa: S608
    tallies = await journal.query(
        f"SELECT plan, period, start, owed, first, cycle FROM collection_tally LIMIT {_ALL}"  # noqa: S608 (a number of ours)
    )
    return Kept([_slot_row(row) for row in slots], [(row[0], row[1]) for row in meters], tallies)


def _slot_row(row: Sequence[Any]) -> SlotRow:
    plan, terminal, meter, grid, since, base, *planes = row
    had, empty, late = (int.from_bytes(octets, "little") for octets in planes)
    return SlotRow(plan, terminal, meter or None, grid, since, base, had, empty, late)
