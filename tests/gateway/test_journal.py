"""The journal: group commit, bounds, cursor, purge, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gateway.journal import (
    Journal,
    JournalClosed,
    JournalFull,
    JournalLimits,
    JournalLocked,
    JournalVersionError,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LIMITS = JournalLimits(tick_s=0.02, retry_s=(0.01, 0.05))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def opened(
    path: Path,
    limits: JournalLimits = LIMITS,
    *,
    clock: Callable[[], float] | None = None,
    deaths: list[BaseException] | None = None,
) -> AsyncIterator[Journal]:
    journal = await Journal.open(
        path / "journal.db", limits, clock=clock or Clock(), on_death=(deaths if deaths is not None else []).append
    )
    try:
        yield journal
    finally:
        assert await journal.close()


def rows(journal: Journal, count: int, size: int = 10) -> list[Row]:
    return [Row(journal.next_seq + index, f"t/{index}", b"x" * size) for index in range(count)]


def reading(journal: Journal) -> bool:
    """Whether links would read now."""
    return journal.writable


async def commit(journal: Journal, items: list[Row]) -> None:
    done = asyncio.Event()
    journal.append(items, done.set)
    async with asyncio.timeout(10):
        await done.wait()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the loop turn until the condition holds (the writer's calls come in on the loop)."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - counters and files tell nobody that they changed
            await asyncio.sleep(0.002)  # bounded by the timeout above


async def test_rows_are_read_back_as_they_were_appended(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        items = [Row(1, "a/b", b"\x00\xff", retain=True), Row(2, "电", b"", retain=False)]
        await commit(journal, items)
        assert await journal.read(0, 10, 1000) == items
        assert await journal.read(1, 10, 1000) == items[1:]
        assert await journal.read(2, 10, 1000) == []
        assert (journal.next_seq, journal.committed_seq) == (3, 2)
        assert (journal.counters.rows, journal.counters.queue_rows, journal.counters.queue_bytes) == (2, 0, 0)
        assert journal.counters.bytes == sum(row.size for row in items)


async def test_read_is_bounded_by_rows_octets_and_range(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await commit(journal, rows(journal, 20, size=100))
        assert [row.seq for row in await journal.read(3, 4, 10_000)] == [4, 5, 6, 7]
        assert [row.seq for row in await journal.read(0, 20, 250)] == [1, 2, 3]
        assert [row.seq for row in await journal.read(0, 20, 1)] == [1], "one row always, or nothing would move"
        assert [row.seq for row in await journal.read(5, 20, 10_000, to_seq=7)] == [6, 7]


async def test_committed_is_called_in_order_and_rows_reach_the_listener_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        heard: list[int] = []
        order: list[int] = []
        journal.listen(lambda batch: heard.extend(row.seq for row in batch))
        for number in range(500):
            journal.append(rows(journal, 2), partial(order.append, number))
        await until(lambda: len(order) == 500)
        assert order == list(range(500))
        assert heard == list(range(1, 1001))
        assert journal.counters.batches < 500, "commits are grouped"


async def test_wrong_seq_is_our_error_and_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for wrong in ([Row(2, "t", b"")], [Row(1, "t", b""), Row(3, "t", b"")], [Row(1, "t", b""), Row(1, "t", b"")]):
            with pytest.raises(ValueError, match="seq"):
                journal.append(wrong)
        assert journal.next_seq == 1
        await commit(journal, rows(journal, 1))
        assert journal.committed_seq == 1


async def test_seq_is_never_used_again_even_when_all_rows_are_gone(tmp_path: Path) -> None:
    limits = replace(LIMITS, keep_s=0.0)
    async with opened(tmp_path, limits) as journal:
        await commit(journal, rows(journal, 50))
        journal.acknowledged(50)
        await until(lambda: journal.counters.purged == 50)
        assert await journal.read(0, 100, 10_000) == []
    async with opened(tmp_path, limits) as journal:
        assert (journal.next_seq, journal.committed_seq, journal.cursor) == (51, 50, 50)


async def test_cursor_is_on_the_disk_soon_and_after_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await commit(journal, rows(journal, 10))
        journal.acknowledged(7)

        def stored() -> int:
            with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as other:
                return int(other.execute("SELECT value FROM meta WHERE key = 'journal.acknowledged'").fetchone()[0])

        await until(lambda: stored() == 7)
        with pytest.raises(ValueError, match="cursor"):
            journal.acknowledged(6)
        with pytest.raises(ValueError, match="cursor"):
            journal.acknowledged(11)
    async with opened(tmp_path) as journal:
        assert journal.cursor == 7


async def test_published_rows_are_kept_for_their_time_and_then_purged(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, replace(LIMITS, keep_s=100.0, purge_rows=7), clock=clock) as journal:
        await commit(journal, rows(journal, 50))
        journal.acknowledged(30)
        clock.now += 1
        await commit(journal, rows(journal, 1))  # carries the cursor, at this instant
        clock.now += 99
        await commit(journal, rows(journal, 1))
        await until(lambda: journal.counters.batches == 3)
        assert journal.counters.purged == 0, "not 100 s yet"
        clock.now += 1
        await until(lambda: journal.counters.purged == 30)
        assert [row.seq for row in await journal.read(0, 100, 10_000)] == list(range(31, 53))


async def test_a_clock_set_back_does_not_keep_rows_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, replace(LIMITS, keep_s=100.0), clock=clock) as journal:
        await commit(journal, rows(journal, 5))
        journal.acknowledged(5)
        await commit(journal, rows(journal, 1))
        clock.now -= 1_000_000
        await commit(journal, rows(journal, 1))
        clock.now += 101
        await until(lambda: journal.counters.purged == 5)


async def test_queue_bound_pauses_links_and_resumes_at_half(tmp_path: Path) -> None:
    deaths: list[BaseException] = []
    async with opened(tmp_path, replace(LIMITS, queue_rows=100), deaths=deaths) as journal:
        changes: list[bool] = []
        end = journal.watch_writable(changes.append)
        for _ in range(9):
            journal.append(rows(journal, 10))
        assert reading(journal)
        journal.append(rows(journal, 10))
        assert not reading(journal)
        for _ in range(10):
            journal.append(rows(journal, 10))  # frames that were already read
        with pytest.raises(JournalFull, match="queue"):
            journal.append(rows(journal, 1))
        assert journal.next_seq == 201
        assert journal.counters.refused == 1
        await until(lambda: reading(journal))
        assert changes == [False, True]
        await until(lambda: journal.committed_seq == 200)
        end()
        for _ in range(10):
            journal.append(rows(journal, 10))
        assert changes == [False, True], "nobody watches"
        with pytest.raises(ValueError, match="bound by themselves"):
            journal.append(rows(journal, 101))
    assert deaths == []


async def test_queue_bound_in_octets(tmp_path: Path) -> None:
    async with opened(tmp_path, replace(LIMITS, queue_bytes=10_000)) as journal:
        for _ in range(2):
            journal.append(rows(journal, 1, size=6_000))
        assert not reading(journal)
        with pytest.raises(JournalFull, match="queue"):
            journal.append(rows(journal, 2, size=4_500))
        await until(lambda: reading(journal))


async def test_disk_bound_refuses_keeps_the_unsent_and_recovers_after_publishing(tmp_path: Path) -> None:
    limits = replace(LIMITS, max_bytes=400_000, keep_s=1e9, purge_rows=20)
    async with opened(tmp_path, limits) as journal:
        changes: list[bool] = []
        journal.watch_writable(changes.append)

        async def fill() -> None:
            for _ in range(1_000):
                await commit(journal, rows(journal, 10, size=500))

        with pytest.raises(JournalFull, match="disk"):
            await fill()
        assert journal.counters.full == 1
        assert not reading(journal)
        said = journal.next_seq - 1
        with pytest.raises(JournalFull, match="disk"):
            journal.append(rows(journal, 1))
        kept = [row.seq for row in await journal.read(0, said + 1, 1 << 30)]
        assert kept == list(range(1, said + 1)), "no unsent row is deleted"
        journal.acknowledged(said // 2)
        await until(lambda: reading(journal))
        assert not journal.full
        assert changes == [False, True]
        assert 0 < journal.counters.purged_early <= said // 2
        left = [row.seq for row in await journal.read(0, said + 1, 1 << 30)]
        assert left == list(range(left[0], said + 1)), "the oldest published rows went"
        await commit(journal, rows(journal, 10, size=500))


async def test_error_of_sqlite_is_retried_and_links_pause(tmp_path: Path) -> None:
    deaths: list[BaseException] = []
    async with opened(tmp_path, deaths=deaths) as journal:
        done = asyncio.Event()
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            journal.append(rows(journal, 3), done.set)
            await until(lambda: journal.counters.errors >= 1)
            assert not reading(journal)
            assert not done.is_set()
            other.execute("ROLLBACK")
        async with asyncio.timeout(10):
            await done.wait()
        assert reading(journal)
        assert [row.seq for row in await journal.read(0, 10, 1_000)] == [1, 2, 3]
    assert deaths == []


FULL_DISK = """
    import asyncio, pathlib, resource, sys
    from gateway.journal import Journal, JournalLimits, Row

    async def main():
        path = pathlib.Path(sys.argv[1]) / "journal.db"
        limits = JournalLimits(retry_s=(0.01, 0.05), tick_s=0.02)
        journal = await Journal.open(path, limits, clock=lambda: 1e9, on_death=lambda error: sys.exit(repr(error)))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        done = asyncio.Event()
        journal.append([Row(seq, "t", bytes(1000)) for seq in range(1, 1001)], done.set)
        async with asyncio.timeout(20):
            while not journal.counters.errors:
                await asyncio.sleep(0.005)
            assert not done.is_set() and not journal.writable
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            await done.wait()
        assert journal.writable and len(await journal.read(0, 2000, 1 << 30)) == 1000
        await journal.close()
        print("recovered", journal.counters.errors)

    asyncio.run(main())
"""


def test_a_file_that_cannot_grow_stalls_and_recovers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert "\nrecovered" in done.stdout, done.stdout + done.stderr


async def test_death_of_the_writer_is_reported_once_and_nothing_is_taken(tmp_path: Path) -> None:
    deaths: list[BaseException] = []
    async with opened(tmp_path, deaths=deaths) as journal:
        await commit(journal, rows(journal, 3))
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("DROP TABLE row")
        committed: list[int] = []
        journal.append(rows(journal, 1), lambda: committed.append(1))
        await until(lambda: bool(deaths))
        assert isinstance(deaths[0], sqlite3.OperationalError)
        assert not reading(journal)
        with pytest.raises(JournalClosed):
            journal.append(rows(journal, 1))
        with pytest.raises(JournalClosed):
            await journal.read(0, 1, 1)
        assert committed == []
    assert len(deaths) == 1


async def test_a_failing_callback_does_not_stop_the_others(tmp_path: Path) -> None:
    seen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context["message"]))
    async with opened(tmp_path) as journal:

        def fail() -> None:
            raise LookupError("a link's own fault")

        journal.append(rows(journal, 1), fail)
        await commit(journal, rows(journal, 1))
        assert journal.counters.callback_errors == 1
    assert seen == ["journal callback failed"]


async def test_only_one_process_may_write(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(JournalLocked):
            await Journal.open(tmp_path / "journal.db", LIMITS, clock=Clock(), on_death=lambda _: None)
    async with opened(tmp_path):
        pass


async def test_file_of_a_newer_version_is_refused_clearly(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalVersionError, match="schema 99"):
        await Journal.open(tmp_path / "journal.db", LIMITS, clock=Clock(), on_death=lambda _: None)


async def test_something_else_than_a_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database, by any means" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        await Journal.open(tmp_path / "journal.db", LIMITS, clock=Clock(), on_death=lambda _: None)


async def test_meta_survives(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        done = asyncio.Event()
        journal.set_meta("node.epoch", 7, done.set)
        journal.set_meta("node.name", "北")
        async with asyncio.timeout(10):
            await done.wait()
        with pytest.raises(ValueError, match="belongs to the journal"):
            journal.set_meta("journal.high_seq", 0)
    async with opened(tmp_path) as journal:
        assert journal.meta == {"node.epoch": 7, "node.name": "北"}


async def test_dead_letters_are_kept_up_to_their_bound(tmp_path: Path) -> None:
    async with opened(tmp_path, replace(LIMITS, dead_letters=3, keep_s=0.0)) as journal:
        await commit(journal, rows(journal, 6))
        for seq in range(1, 7):
            journal.dead_letter(seq, "too large")
        journal.acknowledged(6)
        await until(lambda: journal.counters.purged == 6)
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as other:
            found = other.execute("SELECT seq, reason FROM dead_letter ORDER BY seq").fetchall()
        assert found == [(4, "too large"), (5, "too large"), (6, "too large")]


async def test_close_writes_what_is_queued(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        journal.append(rows(journal, 2_000))
    async with opened(tmp_path) as journal:
        assert journal.committed_seq == 2_000


WRITER = """
    import asyncio, os, pathlib, sys
    from gateway.journal import Journal, Row

    async def main():
        journal = await Journal.open(
            pathlib.Path(sys.argv[1]) / "journal.db", clock=lambda: 1e9, on_death=lambda error: os._exit(3)
        )
        while True:
            for _ in range(20):
                seq = journal.next_seq
                rows = [Row(seq + n, "t", b"%d" % (seq + n) * 20) for n in range(3)]
                journal.append(rows, lambda seq=seq: os.write(1, b"%d\\n" % (seq + 2)))
            await asyncio.sleep(0)
            while not journal.writable:
                await asyncio.sleep(0.001)

    asyncio.run(main())
"""


def write_until_killed(path: Path, goal: int) -> int:
    """Run the writer, kill it once it has reported `goal`; returns the last seq that it reported."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        try:
            reported = 0
            for line in out:
                reported = int(line)
                if reported >= goal:
                    break
            process.send_signal(signal.SIGKILL)
            rest = out.read().split(b"\n")[:-1]  # the last may be cut
            return max([reported, *map(int, rest)])
        finally:
            process.kill()
            process.wait(10)


async def test_kill_loses_nothing_that_was_reported_as_committed(tmp_path: Path) -> None:
    reported = 0
    for _ in range(3):
        reported = write_until_killed(tmp_path, reported + 3_000)
        async with opened(tmp_path) as journal:
            assert journal.committed_seq >= reported
            assert journal.next_seq > reported
            found = await journal.read(0, 1_000_000, 1 << 30)
            assert [row.seq for row in found] == list(range(1, journal.next_seq))
            assert all(row.payload == b"%d" % row.seq * 20 for row in found)
