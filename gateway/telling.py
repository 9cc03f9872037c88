"""What is told of commands 应答: each status with its Ack, durable before it is published, in the order of its coming.

A status for which the journal has no room waits, and everything behind it does too: nothing is told out of order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.jobs import CommandCounters, Job
from gateway.journal import Journal, JournalFull
from gateway.outlet import Outlet
from messages import Ack, AckError, Status, is_final, message_id
from protocols.events import Moment


def ack_of(
    job: Job, status: Status, moment: Moment, channel: str, error: AckError | None, result: Any, latency: int | None
) -> Ack:
    """The Ack of a job's new status; `latency` in ms."""
    record = job.record
    stamp = moment.wall.to_bytes(8) + record.attempts.to_bytes(4)
    return Ack(
        id=message_id(record.terminal, record.command.id.encode(), status.encode(), stamp),
        terminal=record.terminal,
        channel=channel,
        received_at=moment.wall,
        command_id=record.command.id,
        verb=record.command.verb,
        status=status,
        final=is_final(status, verified=job.verified),
        at=moment.wall,
        attempts=record.attempts,
        latency_ms=latency,
        error=error,
        result=result,
    )


class Telling:
    """The way of statuses into the journal. Loop thread only.

    What waits is bounded by the open jobs: each has a few statuses, and nothing new is taken on without room.
    """

    def __init__(self, journal: Journal, outlet: Outlet, counters: CommandCounters) -> None:
        self._journal = journal
        self._outlet = outlet
        self._counters = counters
        self._untold: deque[Callable[[], None]] = deque()

    def durably(self, store: Callable[[], None]) -> None:
        """Store now or, when the journal has no room, as soon as it has, in order."""
        if not self._untold:
            try:
                store()
            except JournalFull:
                pass
            else:
                return
        self._untold.append(store)
        self._counters.untold = len(self._untold)

    def catch_up(self) -> bool:
        """Store what waits; False while there is no room for all of it."""
        try:
            while self._untold:
                self._untold[0]()
                self._untold.popleft()
        except JournalFull:
            return False
        finally:
            self._counters.untold = len(self._untold)
        return True

    def again(self, ack: Ack) -> None:
        """Publish once more what was told before. Raises JournalFull, also while something new waits."""
        if self._untold:
            raise JournalFull("queue")
        self._outlet.store([msgspec.structs.replace(ack)], None)
        self._counters.retold += 1

    def settled(self, stored: Callable[[], None]) -> None:
        """Call `stored` when everything that has been told so far is durable."""
        self.durably(lambda: self._journal.append((), stored))

    def counted(self, status: str) -> None:
        """One more of a status."""
        statuses = self._counters.statuses
        statuses[status] = statuses.get(status, 0) + 1
