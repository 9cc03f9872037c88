"""The journal's file: schema, transactions and queries. SQL only; threads and bounds are in
`gateway.journal`.

Theory of operation. One table holds the rows in the order in which they were said; `seq` is its key and is
never used twice (the high-water mark is stored with every batch, so it survives deletion and restart).
`acknowledged` is the cursor: every row up to it has its PUBACK. Rows stay for a time after that, for replay.
To know when a row was acknowledged without writing each row twice, `mark` keeps a few hundred pairs (seq,
instant): all rows up to `seq` had their PUBACK by `instant`. A row is deleted only through a mark, or early
when the file is near its bound.

Durability: WAL with synchronous=FULL, so a COMMIT that returned is on the disk
(https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections import deque
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = [
    "MIGRATIONS",
    "JournalLocked",
    "JournalVersionError",
    "MetaValue",
    "Row",
    "Statement",
    "Store",
    "connect_reader",
    "read_rows",
    "transient",
]

MetaValue = str | int | float | bytes
Statement = tuple[str, tuple[MetaValue | None, ...]]
"""One SQL statement and its values, for a table that is not the journal's own; doing it twice must do no harm."""

# One script a schema version; the file's `user_version` counts those applied. Append, never edit.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE row (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
                      retain INTEGER NOT NULL);
    CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    CREATE TABLE mark (seq INTEGER PRIMARY KEY, at REAL NOT NULL);
    CREATE TABLE dead_letter (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
                              retain INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL);
    INSERT INTO meta VALUES ('journal.acknowledged', 0), ('journal.high_seq', 0);
    """,
    """
    CREATE TABLE command (id TEXT NOT NULL, terminal TEXT NOT NULL, class TEXT NOT NULL, verb TEXT NOT NULL,
                          body BLOB NOT NULL, member_of TEXT, stage TEXT NOT NULL, status TEXT NOT NULL,
                          final INTEGER NOT NULL, attempts INTEGER NOT NULL, accepted_at INTEGER NOT NULL,
                          expires_at INTEGER NOT NULL, sent_at INTEGER, at INTEGER NOT NULL, ack BLOB NOT NULL,
                          PRIMARY KEY (id, terminal)) WITHOUT ROWID;
    CREATE INDEX command_open ON command (final, accepted_at);
    CREATE INDEX command_terminal ON command (terminal, at);
    CREATE TABLE command_status (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, terminal TEXT NOT NULL,
                                 at INTEGER NOT NULL, ack BLOB NOT NULL);
    CREATE INDEX command_status_of ON command_status (id, terminal);
    """,
    """
    CREATE TABLE collection_slot (plan TEXT NOT NULL, terminal TEXT NOT NULL, meter TEXT NOT NULL,
                                  grid TEXT NOT NULL, since INTEGER NOT NULL, base INTEGER NOT NULL,
                                  had BLOB NOT NULL, empty BLOB NOT NULL, late BLOB NOT NULL,
                                  PRIMARY KEY (plan, terminal, meter)) WITHOUT ROWID;
    CREATE TABLE collection_meter (terminal TEXT NOT NULL, meter TEXT NOT NULL,
                                   PRIMARY KEY (terminal, meter)) WITHOUT ROWID;
    CREATE TABLE collection_tally (plan TEXT NOT NULL, period TEXT NOT NULL, start INTEGER NOT NULL,
                                   owed INTEGER NOT NULL, first INTEGER NOT NULL, cycle INTEGER NOT NULL,
                                   PRIMARY KEY (plan, period, start)) WITHOUT ROWID;
    """,
)

_MARKS = 500  # marks for one keep time: how finely the time of acknowledgement is known
_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
    }
)


class JournalVersionError(Exception):
    """The file was written by a newer version of this software."""


class JournalLocked(Exception):  # noqa: N818 - a condition, like queue.Full
    """Another process has the file open for writing."""


class Row(NamedTuple):
    """One message of the journal: `seq` (row number, from 1), MQTT topic, encoded payload, retain flag."""

    seq: int
    topic: str
    payload: bytes
    retain: bool = False

    @property
    def size(self) -> int:
        """Octets that count against the journal's bounds."""
        return len(self.topic) + len(self.payload)


def transient(error: sqlite3.Error) -> bool:
    """Whether the error may pass (disk full, I/O error, locked), so that the same transaction is tried again.

    Trying again after a failed fsync is sound here: a rolled-back transaction writes its WAL frames anew.
    """
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and (code & 0xFF) in _TRANSIENT


def connect_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, usable from one thread at a time."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def read_rows(
    connection: sqlite3.Connection, after_seq: int, to_seq: int, limit_rows: int, limit_bytes: int
) -> list[Row]:
    """Rows after_seq < seq <= to_seq in order, at most `limit_rows`; stops once `limit_bytes` octets are
    passed.
    """
    rows: list[Row] = []
    size = 0
    cursor = connection.execute(
        "SELECT seq, topic, payload, retain FROM row WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (after_seq, to_seq, limit_rows),
    )
    with contextlib.closing(cursor):
        for seq, topic, payload, retain in cursor:
            row = Row(seq, topic, payload, bool(retain))
            rows.append(row)
            size += row.size
            if size >= limit_bytes:
                break
    return rows


def _lock(path: Path) -> IO[bytes]:
    file = path.with_name(path.name + ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise JournalLocked(f"journal {path} is open in another process") from exc
    return file


class Store:
    """The write connection, for one thread. Raises `JournalVersionError`, `JournalLocked`, `sqlite3.Error`.

    `keep_s`: seconds that a row stays after its PUBACK; `dead_letters`: how many dead letters are kept
    (newest).
    """

    def __init__(self, path: Path, *, keep_s: float, dead_letters: int, lock_wait_s: float = 1.0) -> None:
        self._keep_s = keep_s
        self._dead_letters = dead_letters
        self._lock = _lock(path)
        try:
            self._db = sqlite3.connect(path, timeout=lock_wait_s, isolation_level=None)
            try:
                self._prepare(path)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    def _prepare(self, path: Path) -> None:
        db = self._db
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise JournalVersionError(
                f"journal {path} has schema {version}, this version knows up to {len(MIGRATIONS)}: "
                "start the newer version, or give another data directory"
            )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;")
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._page_size = int(db.execute("PRAGMA page_size").fetchone()[0])
        self.meta: dict[str, MetaValue] = dict(db.execute("SELECT key, value FROM meta"))
        self.acknowledged = int(self.meta.pop("journal.acknowledged"))
        top = db.execute("SELECT max(seq) FROM row").fetchone()[0] or 0
        self.high_seq = max(int(self.meta.pop("journal.high_seq")), int(top))
        self._marks = deque[tuple[int, float]](db.execute("SELECT seq, at FROM mark ORDER BY seq"))

    def used_bytes(self) -> int:
        """Octets of the pages in use; free pages inside the file do not count, new rows go there first."""
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        free = self._db.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages - free) * self._page_size

    def commit(
        self,
        rows: Sequence[Row],
        *,
        meta: Iterable[tuple[str, MetaValue]] = (),
        dead: Iterable[tuple[int, str]] = (),
        statements: Iterable[Statement] = (),
        acknowledged: int,
        now: float,
        purge_rows: int = 0,
        early: bool = False,
        again: bool = False,
    ) -> int:
        """One transaction, on the disk when this returns: rows, settings, cursor, purge. Returns rows purged.

        `dead`: (seq, reason) of rows to copy to the dead letters. `purge_rows`: at most so many old rows go;
        `early`: published rows go although their keep time has not passed. `again`: the same batch failed
        before, and may have reached the disk all the same.
        """
        db = self._db
        marks = deque(self._marks)
        db.execute("BEGIN IMMEDIATE")
        try:
            if rows:
                verb = "INSERT OR REPLACE" if again else "INSERT"
                db.executemany(f"{verb} INTO row VALUES (?, ?, ?, ?)", rows)
                db.execute("UPDATE meta SET value = ? WHERE key = 'journal.high_seq'", (rows[-1].seq,))
            if acknowledged != self.acknowledged:
                db.execute("UPDATE meta SET value = ? WHERE key = 'journal.acknowledged'", (acknowledged,))
            self._add_mark(marks, acknowledged, now)
            for pair in meta:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", pair)
            for seq, reason in dead:
                self._bury(seq, reason, now)
            for sql, values in statements:
                db.execute(sql, values)
            purged = self._purge(marks, acknowledged, now, purge_rows, early=early) if purge_rows else 0
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        self._marks = marks
        self.acknowledged = acknowledged
        if rows:
            self.high_seq = rows[-1].seq
        return purged

    def purgeable(self, now: float, *, early: bool) -> bool:
        """Whether `commit` with the same arguments would find something to purge (or a mark to drop)."""
        if early:
            return bool(self._db.execute("SELECT 1 FROM row WHERE seq <= ? LIMIT 1", (self.acknowledged,)).fetchone())
        return bool(self._marks) and self._marks[0][1] <= now - self._keep_s

    def unmarked(self, now: float) -> bool:
        """Whether rows wait for a mark that is due."""
        last_seq, last_at = self._marks[-1] if self._marks else (0, float("-inf"))
        return self.acknowledged > last_seq and not 0 <= now - last_at < self._keep_s / _MARKS

    def _add_mark(self, marks: deque[tuple[int, float]], acknowledged: int, now: float) -> None:
        if marks and marks[-1][1] > now:  # the clock was set back: nothing was acknowledged in the future
            self._db.execute("UPDATE mark SET at = ? WHERE at > ?", (now, now))
            corrected = [(seq, min(at, now)) for seq, at in marks]
            marks.clear()
            marks.extend(corrected)
        last_seq, last_at = marks[-1] if marks else (0, float("-inf"))
        if acknowledged > last_seq and now - last_at >= self._keep_s / _MARKS:
            self._db.execute("INSERT INTO mark VALUES (?, ?)", (acknowledged, now))
            marks.append((acknowledged, now))

    def _bury(self, seq: int, reason: str, now: float) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO dead_letter SELECT seq, topic, payload, retain, ?, ? FROM row WHERE seq = ?",
            (reason, now, seq),
        )
        self._db.execute(
            "DELETE FROM dead_letter WHERE seq <= (SELECT seq FROM dead_letter ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (self._dead_letters,),
        )

    def _purge(self, marks: deque[tuple[int, float]], acknowledged: int, now: float, limit: int, *, early: bool) -> int:
        target = 0
        for seq, at in marks:
            if at > now - self._keep_s:
                break
            target = seq
        if early:
            target = acknowledged
        if not target:
            return 0
        found = self._db.execute(
            "SELECT max(seq), count(*) FROM (SELECT seq FROM row WHERE seq <= ? ORDER BY seq LIMIT ?)",
            (target, limit),
        ).fetchone()
        count = int(found[1])
        gone = target if count < limit else int(found[0])
        self._db.execute("DELETE FROM row WHERE seq <= ?", (gone,))
        if marks and marks[0][0] <= gone:
            self._db.execute("DELETE FROM mark WHERE seq <= ?", (gone,))
            while marks and marks[0][0] <= gone:
                marks.popleft()
        return count

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._db.close()
        self._lock.close()
