"""The ledger of commands 命令台账: every command and every status of it, in the journal's file.

A status and the Ack that tells it are one transaction, so what was published and what the ledger says never differ,
whenever the process dies. `stage` is where the gateway stands; `status` is what was last told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from gateway.journal import Journal
from gateway.journal_store import Statement
from messages import Ack, Command, Status, encode

Stage = Literal["waiting", "sending", "sent", "checking", "ended"]
"""waiting: for its turn. sending: the octets may be out. sent: they are. checking: its effect is read back."""

_COLUMNS: Final = (
    "id, terminal, class, verb, body, member_of, stage, status, attempts, accepted_at, expires_at, sent_at"
)
_BODY = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(slots=True)
class Record:
    """A command as the ledger has it."""

    command: Command
    terminal: str
    command_class: str
    member_of: str | None
    stage: Stage
    status: Status
    attempts: int
    accepted_at: int
    sent_at: int | None


def body_of(command: Command) -> bytes:
    """The octets that tell one command from another with the same id."""
    return _BODY.encode(command)


def insert(record: Record, ack: Ack) -> list[Statement]:
    """Enter a command with its first status."""
    command = record.command
    statement = (
        "INSERT OR REPLACE INTO command VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            command.id,
            record.terminal,
            record.command_class,
            command.verb,
            body_of(command),
            record.member_of,
            record.stage,
            record.status,
            int(ack.final),
            record.attempts,
            record.accepted_at,
            command.expires_at,
            record.sent_at,
            ack.at,
            encode(ack, "json"),
        ),
    )
    return [statement, history(ack)]


def update(record: Record, ack: Ack) -> list[Statement]:
    """A new status of a command."""
    changed = "stage = ?, status = ?, final = ?, attempts = ?, sent_at = ?, at = ?, ack = ?"
    statement = (
        f"UPDATE command SET {changed} WHERE id = ? AND terminal = ?",  # noqa: S608 (columns are ours)
        (
            record.stage,
            record.status,
            int(ack.final),
            record.attempts,
            record.sent_at,
            ack.at,
            encode(ack, "json"),
            record.command.id,
            record.terminal,
        ),
    )
    return [statement, history(ack)]


def move(record: Record) -> list[Statement]:
    """A new stage that nobody is told of."""
    return [
        (
            "UPDATE command SET stage = ?, attempts = ?, sent_at = ? WHERE id = ? AND terminal = ?",
            (record.stage, record.attempts, record.sent_at, record.command.id, record.terminal),
        )
    ]


def history(ack: Ack) -> Statement:
    """Keep one status; `seq` makes doing it twice harmless."""
    return (
        "INSERT OR REPLACE INTO command_status VALUES (?, ?, ?, ?, ?)",
        (ack.seq, ack.command_id, ack.terminal, ack.at, encode(ack, "json")),
    )


def forget(before: int, most: int = 500) -> list[Statement]:
    """Let go of commands that ended before an instant (ms), a few at a time."""
    # accepted_at never comes after `at`, and has the index.
    old = "SELECT id, terminal FROM command WHERE final = 1 AND accepted_at < ? AND at < ? ORDER BY accepted_at LIMIT ?"
    return [
        (f"DELETE FROM command_status WHERE (id, terminal) IN ({old})", (before, before, most)),  # noqa: S608 (text of ours)
        (f"DELETE FROM command WHERE (id, terminal) IN ({old})", (before, before, most)),  # noqa: S608 (text of ours)
    ]


class Ledger:
    """Questions to the ledger. Writing goes with the journal's rows."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def open(self) -> list[tuple[Record, Ack]]:
        """Commands that are not at their end and what was told of them last, in the order in which they came."""
        told = "SELECT min(seq) FROM command_status s WHERE s.id = command.id AND s.terminal = command.terminal"
        rows = await self._journal.query(
            f"SELECT {_COLUMNS}, ack FROM command WHERE final = 0 ORDER BY ({told}) LIMIT 10000000"  # noqa: S608 (of ours)
        )
        return [(_record(row[:-1]), msgspec.json.decode(row[-1], type=Ack)) for row in rows]

    async def find(self, command_id: str, terminal: str) -> tuple[bytes, bytes] | None:
        """(body, last Ack as JSON) of a command, ended or not."""
        rows = await self._journal.query(
            "SELECT body, ack FROM command WHERE id = ? AND terminal = ? LIMIT 1", (command_id, terminal)
        )
        return (rows[0][0], rows[0][1]) if rows else None

    async def ended(self, command_id: str, terminal: str | None) -> list[bytes]:
        """Last Acks (JSON) of a command's parts that have ended."""
        rows = await self._journal.query(
            "SELECT ack FROM command WHERE id = ?1 AND final = 1 AND (?2 IS NULL OR terminal = ?2) LIMIT 10000",
            (command_id, terminal),
        )
        return [row[0] for row in rows]

    async def tripped(self) -> set[str]:
        """Terminals that a trip may have reached, and no close that the terminal took since."""
        rows = await self._journal.query(
            "SELECT terminal, verb, max(coalesce(sent_at, 9223372036854775807)) FROM command WHERE "
            "verb = 'trip' AND (stage = 'sending' OR attempts > 0 AND "
            "status IN ('sent', 'succeeded', 'verified', 'not_effective', 'unknown')) "
            "OR verb = 'close' AND attempts > 0 AND status IN ('succeeded', 'verified') "
            "GROUP BY terminal LIMIT 10000000"
        )
        return {terminal for terminal, verb, _ in rows if verb == "trip"}

    async def settings_since(self, terminal: str, since: int) -> int:
        """How often the gateway itself has set a terminal's clock since an instant (ms)."""
        rows = await self._journal.query(
            "SELECT count(*) FROM command WHERE terminal = ? AND verb = 'set_clock' AND id LIKE 'clock-%' "
            "AND accepted_at >= ? AND status = 'succeeded'",
            (terminal, since),
        )
        return int(rows[0][0])


def _record(row: Sequence[Any]) -> Record:
    command_id, terminal, command_class, _, body, member_of, stage, status, attempts, accepted_at, _, sent_at = row
    command = msgspec.msgpack.decode(body, type=Command)
    assert command.id == command_id
    return Record(command, terminal, command_class, member_of, stage, status, attempts, accepted_at, sent_at)
