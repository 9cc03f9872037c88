"""The uplink: from the journal to the broker, in order, and the cursor after the PUBACKs.

Theory of operation. The journal hands over every committed batch; while the broker keeps up, rows go from
there straight to the publisher. When it does not (broker down, window full for long), the memory is dropped
and rows are read from the file again, from the last one that was sent; it is the same road whether the
broker is up or down. `cursor` is the last row before the first that is not acknowledged; a row that the
broker refuses holds the cursor but not the rows behind it, up to `max_ahead`.

Node status (节点状态) goes through the same connection: retained `online` at each connect, `offline` as the
last will and at a clean stop.

Replay (补发) sends stored rows again, below live rows: only when none wait, within a quarter of the window
and a rate. A replayed row is never retained: it would put an old state in the place of the present one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gateway.journal import JournalClosed, Row
from gateway.publisher import BrokerOptions, Publisher, UplinkCounters, Will
from messages import CONTENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.journal import Journal

__all__ = ["BrokerOptions", "NodeStatusTopic", "Uplink", "UplinkCounters", "UplinkLimits"]

log = structlog.get_logger(__name__)

_GOODBYE_S = 1.0  # how long the `offline` of a clean stop may wait for its PUBACK


@dataclass(frozen=True, slots=True)
class UplinkLimits:
    """Bounds of the uplink. Rows, octets, seconds; `replay_rate` in rows a second."""

    memory_rows: int = 20_000
    memory_bytes: int = 16 << 20
    read_rows: int = 2_000
    read_bytes: int = 2 << 20
    max_ahead: int = 100_000
    read_retry_s: float = 1.0
    replay_requests: int = 16
    replay_rows: int = 1_000_000
    replay_rate: float = 2_000.0
    replay_chunk: int = 200


@dataclass(frozen=True, slots=True)
class NodeStatusTopic:
    """Where the node's status goes, and the callables that encode it at the moment of sending."""

    topic: str
    online: Callable[[], bytes]
    offline: Callable[[], bytes]


def content_type(payload: bytes) -> str:
    """The contract's rule: a payload that begins with `{` is JSON, else MessagePack."""
    return CONTENT_TYPES["json" if payload[:1] == b"{" else "msgpack"]


class Uplink:
    """Publishes one node's journal. `run` in the daemon's TaskGroup; `stop` drains. Loop thread only."""

    def __init__(
        self,
        journal: Journal,
        options: BrokerOptions,
        *,
        rng: Random,
        status: NodeStatusTopic | None = None,
        limits: UplinkLimits | None = None,
    ) -> None:
        self.counters = UplinkCounters()
        self.limits = limits or UplinkLimits()
        self.publisher = Publisher(
            options,
            rng=rng,
            will=self._will,
            content_type=content_type,
            on_room=self._pump,
            on_connected=self._on_connected,
            on_dead=self._on_dead,
            counters=self.counters,
        )
        self._journal = journal
        self._status = status
        self._status_due = False
        self._memory: deque[Row] = deque()  # committed rows without a gap, up to the newest
        self._memory_bytes = 0
        self._chunk: deque[Row] = deque()  # rows read back from the file, before those in memory
        self._sent_seq = journal.cursor
        self._outstanding: deque[int] = deque()
        self._done: set[int] = set()
        self._behind = asyncio.Event()
        self._moved = asyncio.Event()
        self._replays: asyncio.Queue[tuple[int, int]] = asyncio.Queue(self.limits.replay_requests)
        self._stopped = False
        journal.listen(self._on_rows)

    # -- live rows ---------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether every committed row was sent and acknowledged."""
        return self._sent_seq >= self._journal.committed_seq and not self._outstanding

    def _on_rows(self, rows: list[Row]) -> None:
        self._memory.extend(rows)
        for row in rows:
            self._memory_bytes += row.size
        if self.publisher.room > 0:
            self._pump()
        limits = self.limits
        if len(self._memory) > limits.memory_rows or self._memory_bytes > limits.memory_bytes:
            self._memory.clear()  # they are in the file
            self._memory_bytes = 0
        self.counters.behind = self._journal.committed_seq - self._sent_seq

    def _pump(self) -> None:
        """Give the publisher what it has room for."""
        publisher = self.publisher
        room = publisher.room
        if self._status_due and room > 0:
            room -= 1
            self._send_status()
        ahead = self.limits.max_ahead - len(self._outstanding)
        room = min(room, ahead)
        while room > 0:
            row = self._next_row()
            if row is None:
                break
            room -= 1
            self._sent_seq = row.seq
            self._outstanding.append(row.seq)
            publisher.publish(row.topic, row.payload, retain=row.retain, token=row.seq, done=self._on_done)
        self.counters.behind = self._journal.committed_seq - self._sent_seq
        self._moved.set()

    def _next_row(self) -> Row | None:
        if self._chunk:
            return self._chunk.popleft()
        memory = self._memory
        wanted = self._sent_seq + 1
        while memory and memory[0].seq < wanted:
            self._memory_bytes -= memory.popleft().size
        if memory and memory[0].seq == wanted:
            row = memory.popleft()
            self._memory_bytes -= row.size
            return row
        if self._journal.committed_seq >= wanted:
            self._behind.set()
        return None

    def _on_done(self, seq: int) -> None:
        outstanding = self._outstanding
        if outstanding[0] != seq:
            self._done.add(seq)
            return
        outstanding.popleft()
        while outstanding and outstanding[0] in self._done:
            seq = outstanding.popleft()
            self._done.remove(seq)
        self._journal.acknowledged(seq)

    def _on_dead(self, token: int, topic: str, reason: str) -> None:
        if token <= 0:  # a status or a replayed row: no row of the cursor
            log.error("not a journal row", topic=topic, reason=reason)
            return
        self._journal.dead_letter(token, reason)
        self._on_done(token)

    async def _read_back(self) -> None:
        """Whenever rows are wanted that are no longer in memory, read them from the file."""
        limits = self.limits
        while True:
            await self._behind.wait()
            self._behind.clear()
            if self._chunk or self.publisher.room <= 0:
                continue
            to_seq = self._memory[0].seq - 1 if self._memory else self._journal.committed_seq
            after = self._sent_seq
            try:
                rows = await self._journal.read(after, limits.read_rows, limits.read_bytes, to_seq=to_seq)
            except sqlite3.Error:
                log.exception("journal cannot be read")
                await asyncio.sleep(limits.read_retry_s)
                self._behind.set()
                continue
            except JournalClosed:
                return
            if after != self._sent_seq:
                self._behind.set()
                continue
            if not rows and after < to_seq:
                log.error("journal rows are missing", after=after, to=to_seq)
                self._sent_seq = to_seq
            self._chunk.extend(rows)
            self._pump()

    # -- node status -------------------------------------------------------------------------------------

    def _will(self) -> Will | None:
        return Will(self._status.topic, self._status.offline()) if self._status is not None else None

    def _on_connected(self) -> None:
        self._send_status()

    def _send_status(self) -> None:
        self._status_due = False
        if self._status is not None:
            payload = self._status.offline() if self._stopped else self._status.online()
            self.publisher.publish(self._status.topic, payload, retain=True, volatile=True)

    def refresh_status(self) -> None:
        """Publish the node's status again (its content has changed), as soon as there is room."""
        if self._status is not None and self.publisher.connected:
            self._status_due = True
            self._pump()

    # -- replay ------------------------------------------------------------------------------------------

    def replay(self, from_seq: int, to_seq: int) -> bool:
        """Ask for stored rows from_seq..to_seq (both included) to be published again; False: refused and
        logged.
        """
        committed = self._journal.committed_seq
        reason = ""
        if not 1 <= from_seq <= to_seq:
            reason = "not a range"
        elif from_seq > committed:
            reason = "not yet said"
        elif to_seq - from_seq >= self.limits.replay_rows:
            reason = f"more than {self.limits.replay_rows} rows"
        elif self._replays.full():
            reason = "too many requests wait"
        if reason:
            self.counters.replay_refused += 1
            log.warning("replay refused", from_seq=from_seq, to_seq=to_seq, committed=committed, reason=reason)
            return False
        self._replays.put_nowait((from_seq, min(to_seq, committed)))
        return True

    async def _replay_forever(self) -> None:
        while True:
            from_seq, to_seq = await self._replays.get()
            sent = 0
            try:
                sent = await self._replay_range(from_seq, to_seq)
            except sqlite3.Error:
                log.exception("journal cannot be read for replay")
            except JournalClosed:
                return
            log.info("replayed", from_seq=from_seq, to_seq=to_seq, rows=sent)
            if sent < to_seq - from_seq + 1:
                log.warning("rows to replay are gone", from_seq=from_seq, to_seq=to_seq, rows=sent)

    async def _replay_range(self, from_seq: int, to_seq: int) -> int:
        limits = self.limits
        loop = asyncio.get_running_loop()
        after, sent = from_seq - 1, 0
        while True:
            rows = await self._journal.read(after, limits.replay_chunk, limits.read_bytes, to_seq=to_seq)
            if not rows:
                return sent
            begun = loop.time()
            for row in rows:
                while not self._replay_may_send():
                    self._moved.clear()
                    await self._moved.wait()
                self.publisher.publish(row.topic, row.payload, token=-row.seq, done=self._on_replayed)
            after = rows[-1].seq
            sent += len(rows)
            await asyncio.sleep(max(0.0, begun + len(rows) / limits.replay_rate - loop.time()))

    def _replay_may_send(self) -> bool:
        publisher = self.publisher
        live_waits = self._sent_seq < self._journal.committed_seq
        share = max(1, publisher.window // 4)
        return publisher.room > 0 and not live_waits and publisher.unfinished < share

    def _on_replayed(self, _token: int) -> None:
        self.counters.replayed += 1

    # -- beside the journal ------------------------------------------------------------------------------

    def say(self, topic: str, payload: bytes) -> bool:
        """Send with QoS 0, at once or not at all: what nobody will miss. Returns whether it was sent."""
        return self.publisher.say(topic, payload)

    # -- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish until `stop`; the broker may come and go."""
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self._read_back()), tasks.create_task(self._replay_forever())]
            await self.publisher.run()
            for task in background:
                task.cancel()

    async def stop(self, drain_s: float) -> bool:
        """Wait at most `drain_s` seconds until all committed rows are acknowledged, say `offline`, leave.

        Returns whether everything was acknowledged; what was not stays in the journal for the next start.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while not self.idle:
                    self._moved.clear()
                    await self._moved.wait()
        drained = self.idle
        self._stopped = True
        self.refresh_status()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                while self.publisher.connected and (self._status_due or self.publisher.unfinished):
                    self._moved.clear()
                    await self._moved.wait()
        await self.publisher.stop()
        return drained
