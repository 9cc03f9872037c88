"""The durable journal: what was acknowledged to a terminal is in this file, or the process is gone.

Theory of operation. `append` runs on the event loop and only queues. One writer thread owns the write
connection; a batch is whatever waits (group commit, one fsync a batch). After the COMMIT the thread makes one
call into the loop for the whole batch: the `committed` callbacks run (terminals are answered), then the rows
go to the listener (the uplink), so that in the steady state nothing is read back. A second thread reads, from
a read-only connection.

When something is full (design: every queue has a bound):
- queue bound: `writable` turns False, links stop reading; True again at half. Rows of frames already read are
  still taken up to twice the bound, then `append` raises `JournalFull`.
- disk bound: `full`; `append` raises `JournalFull`; no unsent row is deleted. Published rows kept for replay
  go early from 90 % on; below 90 % the journal takes rows again.
- SQLite cannot write (disk full, I/O error): tried again with backoff, counted, not writable meanwhile.
- anything else kills the writer: `on_death` is called once, and the daemon exits.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from sqlite3 import Error as SQLiteError
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import structlog

from gateway.journal_store import (
    JournalLocked,
    JournalVersionError,
    MetaValue,
    Row,
    Statement,
    Store,
    connect_reader,
    read_rows,
    transient,
)

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

__all__ = [
    "Journal",
    "JournalClosed",
    "JournalCounters",
    "JournalFull",
    "JournalLimits",
    "JournalLocked",
    "JournalVersionError",
    "MetaValue",
    "Row",
]

log = structlog.get_logger(__name__)

Committed = Callable[[], None]
_EARLY = 0.9  # share of the disk bound from which published rows go early, and below which `full` ends


class JournalFull(Exception):  # noqa: N818 - a condition, like queue.Full
    """The rows were not taken; no seq was used. `bound` is `queue` or `disk`."""

    def __init__(self, bound: str) -> None:
        super().__init__(f"journal is full: {bound} bound")
        self.bound = bound


class JournalClosed(Exception):  # noqa: N818
    """The journal was closed, or its writer is dead."""


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Bounds of the journal. Rows and octets, seconds."""

    queue_rows: int = 20_000
    queue_bytes: int = 32 << 20
    batch_rows: int = 4_000
    batch_bytes: int = 4 << 20
    max_bytes: int = 2 << 30
    keep_s: float = 86_400.0
    tick_s: float = 1.0  # the cursor is on the disk at most so much later; also the pace of purging when idle
    purge_rows: int = 1_000
    dead_letters: int = 10_000
    retry_s: tuple[float, float] = (0.05, 2.0)  # first and longest wait after an error of SQLite


@dataclass(slots=True)
class JournalCounters:
    """What the metrics export. Totals since start, except `queue_*`, `disk_bytes`, `full`, `stalled`
    (now).
    """

    rows: int = 0
    batches: int = 0
    bytes: int = 0
    commit_seconds: float = 0.0
    queue_rows: int = 0
    queue_bytes: int = 0
    disk_bytes: int = 0
    full: int = 0
    stalled: int = 0
    refused: int = 0
    errors: int = 0
    purged: int = 0
    purged_early: int = 0
    dead_letters: int = 0
    callback_errors: int = 0


@dataclass(slots=True)
class _Item:
    """One thing for the writer: rows, a setting, or a dead letter."""

    rows: Sequence[Row] = ()
    size: int = 0
    committed: Committed | None = None
    meta: tuple[str, MetaValue] | None = None
    dead: tuple[int, str] | None = None
    statements: Sequence[Statement] = ()


@dataclass(slots=True)
class _Batch:
    items: list[_Item] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    last: bool = False

    def add(self, item: _Item) -> None:
        self.items.append(item)
        self.rows.extend(item.rows)
        self.size += item.size


class Journal:
    """The journal of one node. Made by `await Journal.open(...)`; all methods belong to the event loop's
    thread.
    """

    def __init__(
        self,
        path: Path,
        limits: JournalLimits,
        *,
        clock: Callable[[], float],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self.path = path
        self.limits = limits
        self.counters = JournalCounters()
        self.next_seq = 1
        self.committed_seq = 0
        self.cursor = 0
        self.meta: dict[str, MetaValue] = {}
        self._clock = clock
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._listener: Callable[[list[Row]], None] | None = None
        self._watchers: dict[object, Callable[[bool], None]] = {}
        self._writable = True
        self._queue_hit = False
        self._open = False
        self._stopping = threading.Event()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._reader: sqlite3.Connection | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        limits: JournalLimits | None = None,
        *,
        clock: Callable[[], float],
        on_death: Callable[[BaseException], None],
    ) -> Self:
        """Open or make the file. `clock` gives seconds since 1970 UTC; `on_death` is called on the loop,
        once.

        Raises `JournalVersionError` (file of a newer version), `JournalLocked` (another process),
        `sqlite3.Error`.
        """
        journal = cls(path, limits or JournalLimits(), clock=clock, on_death=on_death)
        journal._opened = journal._loop.create_future()
        journal._thread.start()
        try:
            await journal._opened
        except BaseException:
            journal._readers.shutdown(wait=False)
            raise
        return journal

    _opened: asyncio.Future[None]

    # -- writing -----------------------------------------------------------------------------------------

    def append(
        self, rows: Sequence[Row], committed: Committed | None = None, statements: Sequence[Statement] = ()
    ) -> None:
        """Queue rows; `committed` is called on the loop once they are on the disk.

        `statements` are carried out in the same transaction: both, or neither.

        The rows' seqs are `next_seq`, `next_seq` + 1, ...: take `next_seq`, encode, append, without awaiting
        between. Raises `JournalFull` (nothing was taken, `next_seq` is unchanged), `JournalClosed`,
        `ValueError` (wrong seqs, or rows that no bound could ever take: ours to fix).
        """
        if not self._open:
            raise JournalClosed("journal is closed")
        seq = self.next_seq
        size = 0
        for row in rows:
            if row.seq != seq:
                raise ValueError(f"row has seq {row.seq}, the journal's next is {seq}")
            seq += 1
            size += len(row.topic) + len(row.payload)
        limits, counters = self.limits, self.counters
        if size > limits.queue_bytes or len(rows) > limits.queue_rows:
            raise ValueError(f"{len(rows)} rows of {size} octets are over the queue bound by themselves")
        if counters.disk_bytes + counters.queue_bytes + size >= limits.max_bytes:
            counters.full = 1
        if counters.full:
            counters.refused += len(rows)
            self._update_writable()
            raise JournalFull("disk")
        if (
            counters.queue_rows + len(rows) > 2 * limits.queue_rows
            or counters.queue_bytes + size > 2 * limits.queue_bytes
        ):
            counters.refused += len(rows)
            raise JournalFull("queue")
        self.next_seq = seq
        counters.queue_rows += len(rows)
        counters.queue_bytes += size
        self._queue.put(_Item(rows, size, committed, statements=statements))
        if counters.queue_rows >= limits.queue_rows or counters.queue_bytes >= limits.queue_bytes:
            self._queue_hit = True
            self._update_writable()

    def set_meta(self, key: str, value: MetaValue, committed: Committed | None = None) -> None:
        """Store a small setting (keys `journal.*` are the journal's own); read them back in `meta`."""
        if key.startswith("journal."):
            raise ValueError(f"{key} belongs to the journal")
        if not self._open:
            raise JournalClosed("journal is closed")
        self.meta[key] = value
        self._queue.put(_Item(committed=committed, meta=(key, value)))

    def acknowledged(self, seq: int) -> None:
        """Every row up to `seq` has its PUBACK. On the disk with the next batch, or within `tick_s`."""
        if not self.cursor <= seq <= self.committed_seq:
            raise ValueError(f"cursor {seq} is not within {self.cursor}..{self.committed_seq}")
        self.cursor = seq

    def dead_letter(self, seq: int, reason: str) -> None:
        """Copy a row that can never be published to the dead letters (bounded: the oldest go)."""
        self.counters.dead_letters += 1
        self._queue.put(_Item(dead=(seq, reason)))

    # -- reading -----------------------------------------------------------------------------------------

    async def read(self, after_seq: int, limit_rows: int, limit_bytes: int, *, to_seq: int | None = None) -> list[Row]:
        """Committed rows with after_seq < seq <= to_seq (default: all), in order; bounded, but at least one
        row.

        An empty list: there is none (not yet said, or purged). Raises `sqlite3.Error`, `JournalClosed`.
        """
        if self._finished.done():
            raise JournalClosed("journal is closed")
        end = self.committed_seq if to_seq is None else min(to_seq, self.committed_seq)
        return await self._loop.run_in_executor(self._readers, self._read, after_seq, end, limit_rows, limit_bytes)

    def _read(self, after_seq: int, to_seq: int, limit_rows: int, limit_bytes: int) -> list[Row]:
        if self._reader is None:
            self._reader = connect_reader(self.path)
        return read_rows(self._reader, after_seq, to_seq, limit_rows, limit_bytes)

    async def query(self, sql: str, values: tuple[MetaValue | None, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query, read in the reader's thread. Give it a LIMIT."""
        return await self._loop.run_in_executor(self._readers, self._query, sql, values)

    def _query(self, sql: str, values: tuple[MetaValue | None, ...]) -> list[tuple[Any, ...]]:
        if self._reader is None:
            self._reader = connect_reader(self.path)
        return self._reader.execute(sql, values).fetchall()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # -- state -------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether links should go on reading: no bound is hit, and the writer is well."""
        return self._writable

    @property
    def full(self) -> bool:
        """Whether the bound on the disk is hit."""
        return bool(self.counters.full)

    def listen(self, listener: Callable[[list[Row]], None]) -> None:
        """Hand every committed batch's rows to `listener`, on the loop (one listener: the uplink)."""
        self._listener = listener

    def watch_writable(self, watcher: Callable[[bool], None]) -> Callable[[], None]:
        """Call `watcher(writable)` at each change; returns a function that ends this."""
        key = object()
        self._watchers[key] = watcher
        return lambda: self._watchers.pop(key, None) and None

    def _update_writable(self) -> None:
        counters, limits = self.counters, self.limits
        if (
            self._queue_hit
            and counters.queue_rows <= limits.queue_rows // 2
            and counters.queue_bytes <= limits.queue_bytes // 2
        ):
            self._queue_hit = False
        if counters.full and counters.disk_bytes + counters.queue_bytes < _EARLY * limits.max_bytes:
            counters.full = 0
        writable = self._open and not (self._queue_hit or counters.full or counters.stalled)
        if writable != self._writable:
            self._writable = writable
            for watcher in list(self._watchers.values()):
                self._guard(watcher, writable)

    def _guard(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call somebody else's callback: its error is its own, and must not stop the callbacks behind it."""
        try:
            callback(*arguments)
        except Exception as exc:  # noqa: BLE001
            self.counters.callback_errors += 1
            self._loop.call_exception_handler({"message": "journal callback failed", "exception": exc})

    # -- called on the loop by the writer ----------------------------------------------------------------

    def _on_opened(self, store: Store, disk_bytes: int) -> None:
        self.counters.disk_bytes = disk_bytes
        self.next_seq = store.high_seq + 1
        self.committed_seq = store.high_seq
        self.cursor = store.acknowledged
        self.meta = dict(store.meta)
        self._open = True
        self._update_writable()
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_batch(self, batch: _Batch, seconds: float, disk_bytes: int, purged: int, early: bool) -> None:
        counters = self.counters
        counters.stalled = 0
        counters.disk_bytes = disk_bytes
        counters.purged += purged
        if early:
            counters.purged_early += purged
        rows = batch.rows
        if batch.items:
            counters.batches += 1
            counters.commit_seconds += seconds
        if rows:
            counters.rows += len(rows)
            counters.bytes += batch.size
            counters.queue_rows -= len(rows)
            counters.queue_bytes -= batch.size
            self.committed_seq = rows[-1].seq
        for item in batch.items:
            if item.committed is not None:
                self._guard(item.committed)
        if rows and self._listener is not None:
            self._guard(self._listener, rows)
        self._update_writable()

    def _on_stalled(self, error: SQLiteError) -> None:
        self.counters.errors += 1
        self.counters.stalled = 1
        log.error("journal cannot write", error=str(error), path=str(self.path))
        self._update_writable()

    def _on_finished(self, error: BaseException | None) -> None:
        self._open = False
        if not self._finished.done():
            self._finished.set_result(None)
        if error is None:
            return
        if not self._opened.done():
            self._opened.set_exception(error)
            return
        log.critical("journal writer died", error=repr(error), path=str(self.path))
        self._update_writable()
        self._on_death(error)

    async def close(self, timeout_s: float = 10.0) -> bool:
        """Write what is queued, stop both threads. Returns False if the writer did not end in `timeout_s`
        seconds.

        If SQLite cannot write at this moment, what is queued is given up: no terminal was told that it is
        safe.
        """
        self._open = False
        self._stopping.set()
        self._queue.put(None)
        finished, _ = await asyncio.wait({self._finished}, timeout=timeout_s)
        await self._loop.run_in_executor(self._readers, self._close_reader)
        self._readers.shutdown(wait=False)
        return bool(finished)

    # -- the writer's thread -----------------------------------------------------------------------------

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            store = Store(self.path, keep_s=self.limits.keep_s, dead_letters=self.limits.dead_letters)
            try:
                self._post(self._on_opened, store, store.used_bytes())
                self._write_forever(store)
            finally:
                store.close()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the loop must hear of it
            error = exc
        self._post(self._on_finished, error)

    def _write_forever(self, store: Store) -> None:
        limits = self.limits
        persisted_at = perf_counter()
        more = False
        used = store.used_bytes()
        while True:
            batch = self._collect(0.01 if more else limits.tick_s)
            now = self._clock()
            early = used > _EARLY * limits.max_bytes
            more = store.purgeable(now, early=early)
            begun = perf_counter()
            due = begun - persisted_at >= limits.tick_s and (store.acknowledged != self.cursor or store.unmarked(now))
            if batch.items or more or due or batch.last:
                purge_rows = max(limits.purge_rows, 2 * len(batch.rows)) if more else 0
                purged = self._commit(store, batch, now, purge_rows, early)
                if purged is None:
                    return
                used = store.used_bytes()
                persisted_at = ended = perf_counter()
                self._post(self._on_batch, batch, ended - begun, used, purged, early)
            if batch.last:
                return

    def _collect(self, wait_s: float) -> _Batch:
        """What waits, up to the caps; waits for the first item only."""
        batch = _Batch()
        limits = self.limits
        try:
            item = self._queue.get(timeout=wait_s)
            while item is not None:
                batch.add(item)
                if len(batch.rows) >= limits.batch_rows or batch.size >= limits.batch_bytes:
                    return batch
                item = self._queue.get_nowait()
            batch.last = True
        except queue.Empty:
            pass
        return batch

    def _commit(self, store: Store, batch: _Batch, now: float, purge_rows: int, early: bool) -> int | None:
        """Commit, as often as it takes. Returns rows purged; None: given up, because the journal is being
        closed.
        """
        wait_s, longest_s = self.limits.retry_s
        again = False
        while True:
            try:
                return store.commit(
                    batch.rows,
                    meta=[item.meta for item in batch.items if item.meta is not None],
                    dead=[item.dead for item in batch.items if item.dead is not None],
                    statements=[statement for item in batch.items for statement in item.statements],
                    acknowledged=self.cursor,
                    now=now,
                    purge_rows=purge_rows,
                    early=early,
                    again=again,
                )
            except SQLiteError as exc:
                if not transient(exc):
                    raise
                self._post(self._on_stalled, exc)
            if self._stopping.wait(wait_s):
                log.error("journal gives up queued rows at close", rows=len(batch.rows))
                return None
            again = True
            wait_s = min(2 * wait_s, longest_s)
