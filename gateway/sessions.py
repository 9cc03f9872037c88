"""Sessions: which terminals there are, and the link that each is on now.

A machine belongs to a terminal, a framer to a link; a terminal may move between links, and one link may carry many
terminals. The newest link wins: a machine's epoch goes up when a link takes it, and what an older link still says, its
end included, changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocols.events import Event, Machine, Moment

if TYPE_CHECKING:
    from gateway.link import ChannelContext, Link


class Session:
    """A terminal with its machine, the channel it was last on, and its present link (None: none)."""

    __slots__ = ("context", "due", "epoch", "link", "machine")

    def __init__(self, machine: Machine, context: ChannelContext) -> None:
        self.machine = machine
        self.context = context
        self.link: Link | None = None
        self.epoch = 0
        self.due: float | None = None
        """When the timer asks for this session next (mono)."""


@dataclass(slots=True)
class SessionCounters:
    """What the metrics export. `known` sessions now; totals since start."""

    known: int = 0
    takeovers: int = 0
    refused: int = 0
    forgotten: int = 0


class Sessions:
    """All terminals of the node, by address. `limit` bounds them: when it is hit, an offline one is forgotten first."""

    def __init__(self, limit: int) -> None:
        self.counters = SessionCounters()
        self._limit = limit
        self._sessions: dict[str, Session] = {}
        self._heap: list[tuple[float, int, Session]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, terminal: str) -> Session | None:
        return self._sessions.get(terminal)

    def of(self, terminal: str, context: ChannelContext) -> Session | None:
        """The session of a terminal, a new one if need be; None when there is no room for another."""
        session = self._sessions.get(terminal)
        if session is None:
            if len(self._sessions) >= self._limit and not self._forget_one():
                self.counters.refused += 1
                return None
            session = self._sessions[terminal] = Session(context.dialogue.machine(terminal), context)
            self.counters.known = len(self._sessions)
        return session

    def _forget_one(self) -> bool:
        """Make room: the first terminal that is offline and on no link."""
        for terminal, session in self._sessions.items():
            if session.link is None and session.machine.presence == "offline":
                del self._sessions[terminal]
                session.due = None
                self.counters.forgotten += 1
                return True
        return False

    def attach(self, session: Session, link: Link, moment: Moment) -> list[Event]:
        """`link` takes the terminal; the link that had it is told."""
        old = session.link
        events = session.machine.attach(moment)
        session.link = link
        session.context = link.context
        session.epoch = session.machine.epoch
        if old is not None and old is not link:
            self.counters.takeovers += 1
            old.taken(session)
        return events

    def detach(self, session: Session, link: Link, epoch: int, moment: Moment) -> list[Event]:
        """The link that had the terminal in `epoch` has ended."""
        if session.link is link and session.epoch == epoch:
            session.link = None
        return session.machine.detach(epoch, moment)

    # --- timers -------------------------------------------------------------------------------------------------

    def schedule(self, session: Session) -> None:
        """Note when the machine wants its next tick.

        A deadline that moves later costs nothing: the entry that is there finds that out when its time comes.
        """
        deadline = session.machine.deadline()
        if deadline is None or (session.due is not None and session.due <= deadline):
            return
        session.due = deadline
        self._pushed += 1
        heapq.heappush(self._heap, (deadline, self._pushed, session))

    def next_due(self) -> float | None:
        """The instant (mono) of the nearest entry."""
        return self._heap[0][0] if self._heap else None

    def overdue(self, moment: Moment, most: int = 1000) -> list[Session]:
        """Sessions whose deadline has come, at most so many at once; the caller ticks and schedules them."""
        due: list[Session] = []
        while self._heap and self._heap[0][0] <= moment.mono and len(due) < most:
            at, _, session = heapq.heappop(self._heap)
            if session.due != at:
                continue
            session.due = None
            deadline = session.machine.deadline()
            if deadline is None:
                continue
            if deadline <= moment.mono:
                due.append(session)
            else:
                self.schedule(session)
        return due
