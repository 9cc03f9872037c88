"""What is around a link: a transport that remembers, an outlet that commits when a test says so, a clock by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from e2e_parts import HandClock
from terminal_side import TERMINAL, dated, login

from gateway.journal import JournalFull
from gateway.link import ChannelContext, Link
from gateway.sessions import Session, Sessions
from messages import Raw, State, Up
from protocols.dlt698_options import Options
from protocols.events import Moment
from protocols.registry import PROTOCOLS
from wire698 import model
from wire698.frame import Address, Frame, Framer, build_frame
from wire698.pieces import Apdu

UPWARD = 0x83


class Wire:
    """The transport of one link."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.writes: list[bytes] = []
        self.paused = False
        self.reason: str | None = None

    def write(self, octets: bytes) -> None:
        assert self.reason is None, "written after the close"
        self.writes.append(octets)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self, reason: str) -> None:
        assert self.reason is None, "closed twice"
        self.reason = reason

    def answers(self) -> list[Any]:
        """The APDUs written since the last call."""
        octets, self.writes = b"".join(self.writes), []
        return [model.parse(found.data).apdu for found in Framer().feed(octets) if isinstance(found, Frame)]


class Shelf:
    """Stores messages; `commit` makes durable what waits, oldest first."""

    def __init__(self) -> None:
        self.messages: list[Up] = []
        self.raws: list[Raw] = []
        self.full = False
        self._waiting: list[Callable[[], None]] = []

    def store(self, messages: list[Up], committed: Callable[[], None] | None) -> None:
        if self.full:
            raise JournalFull("disk")
        self.messages += messages
        if committed is not None:
            self._waiting.append(committed)

    def pass_on(self, raw: Raw) -> None:
        self.raws.append(raw)

    def commit(self, number: int | None = None) -> int:
        """Commit `number` deliveries, or all; returns how many there were."""
        now = self._waiting[:number]
        del self._waiting[:number]
        for committed in now:
            committed()
        return len(now)

    @property
    def states(self) -> list[tuple[str, str, str]]:
        """(terminal, presence, reason) of each State."""
        return [(m.terminal, m.presence, m.reason) for m in self.messages if isinstance(m, State)]

    @property
    def data(self) -> list[Up]:
        """What is no State."""
        return [message for message in self.messages if not isinstance(message, State)]


class Bench:
    """A channel's context with all that is around it. `limit`: sessions at most; the rest goes to the machines."""

    def __init__(
        self,
        *,
        limit: int = 100,
        max_unsettled: int = 64,
        max_terminals: int = 4096,
        raw: Callable[[str], bool] = lambda _: False,
        **options: Any,
    ) -> None:
        self.clock = HandClock()
        self.shelf = Shelf()
        self.sessions = Sessions(limit)
        self.flushing: set[Link] = set()
        self.answered: list[tuple[Session, Any]] = []
        protocol = PROTOCOLS["dlt698.45"]
        self.context = ChannelContext(
            name="tcp",
            protocol=protocol,
            dialogue=protocol.dialogue(Options(**options), ZoneInfo("Asia/Shanghai"), 16),
            arrived=lambda _: None,
            sessions=self.sessions,
            outlet=self.shelf,
            clock=self.clock,
            flush_soon=self.flushing.add,
            answered=self._answered,
            raw=raw,
            max_frame=16_385,
            max_unsettled=max_unsettled,
            max_terminals=max_terminals,
        )
        self._made = 0

    def _answered(self, session: Session, event: Any, moment: Moment) -> None:
        del moment
        self.answered.append((session, event))

    def commit(self, number: int | None = None) -> int:
        """Commit deliveries, then flush as the daemon does at the end of a batch."""
        count = self.shelf.commit(number)
        flushing = set(self.flushing)
        self.flushing.clear()
        for link in flushing:
            link.flush()
        return count

    def link(self) -> End:
        self._made += 1
        wire = Wire(f"10.0.0.{self._made}:1")
        return End(self, Link(self.context, wire), wire)

    def tick(self) -> None:
        """What the daemon does with time."""
        moment = self.clock.moment()
        for session in self.sessions.overdue(moment):
            self.context.dispatch(session, session.machine.tick(moment), moment)


class End:
    """One link and the terminals at its other end."""

    def __init__(self, bench: Bench, link: Link, wire: Wire) -> None:
        self.bench = bench
        self.link = link
        self.wire = wire

    def octets(self, octets: bytes) -> list[Any]:
        """Octets come; what is answered at once."""
        self.link.received(octets, self.bench.clock.moment())
        return self.wire.answers()

    def says(self, said: Apdu, control: int = UPWARD, terminal: str = TERMINAL) -> list[Any]:
        return self.octets(frame(said, control, terminal))

    def log_in(self, terminal: str = TERMINAL, period: int = 300) -> None:
        (answer,) = self.says(login(period), 0x81, terminal)
        assert answer.result & 7 == 0

    def report(self, energy: int = 1, piid: int = 1, terminal: str = TERMINAL) -> list[Any]:
        return self.says(dated(piid=piid, energy=energy), terminal=terminal)

    def lost(self) -> None:
        self.link.lost(self.bench.clock.moment())


def frame(said: Apdu, control: int = UPWARD, terminal: str = TERMINAL) -> bytes:
    return build_frame(control, Address.of(terminal), 0x10, model.build(said))
