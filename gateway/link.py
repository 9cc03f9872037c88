"""A link: one connection (or datagram peer, or line) and the terminals on it. North and south meet here.

South of it are octets, north of it events: the framer finds frames, the session of each frame's address takes them to
its machine, and what the machine says goes to the journal, to the peer, to the counters. A channel drives a link with
`received`, `lost` and `flush`; the kind of channel is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from gateway.air import Air, FreeAir
from gateway.clock import Clock
from gateway.journal import JournalClosed, JournalFull
from gateway.logs import get_logger
from gateway.metrics import FrameCounters, Histogram
from gateway.sessions import Session, Sessions
from messages import Direction, Raw, State, Up, message_id
from protocols.events import (
    Answered,
    CloseWanted,
    Deliver,
    Event,
    Identified,
    Late,
    Moment,
    Oddity,
    Token,
    Violation,
)
from protocols.registry import Dialogue, TerminalProtocol
from wire698.frame import Garbage

log = get_logger(__name__)

MOST_VIOLATIONS = 64
"""Kinds of violation that are counted apart."""
LOGGED = 256
"""Octets of a bad frame that the log shows."""


class Transport(Protocol):
    """What a channel gives a link to act with."""

    peer: str

    def write(self, octets: bytes) -> None:
        """Send octets to the peer."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read again."""

    def close(self, reason: str) -> None:
        """End the connection when what was written is out."""


class Outlet(Protocol):
    """Where messages go: the journal, behind what stamps and encodes them."""

    def store(self, messages: list[Up], committed: Callable[[], None] | None) -> None:
        """Queue messages; `committed` is called once they are durable. Raises JournalFull."""

    def pass_on(self, raw: Raw) -> None:
        """Send a raw frame, which need not be durable, if the way is free."""


def count_garbage(counters: FrameCounters, garbage: Garbage) -> None:
    """Octets that were no frame, by what was wrong with them."""
    counters.garbage_octets += garbage.octets
    match garbage.reason:
        case "header-checksum":
            counters.header_errors += 1
        case "frame-checksum" | "end":
            counters.frame_errors += 1
        case "length":
            counters.oversized += 1


@dataclass(slots=True, eq=False)
class ChannelContext:
    """What all links of one channel share, and what is done with what their machines say."""

    name: str
    protocol: TerminalProtocol
    dialogue: Dialogue
    sessions: Sessions
    outlet: Outlet
    clock: Clock
    flush_soon: Callable[[Link], None]
    answered: Callable[[Session, Answered | Late, Moment], None]
    arrived: Callable[[Session], None]
    raw: Callable[[str], bool]
    max_frame: int
    max_unsettled: int
    max_terminals: int = 4096
    counters: FrameCounters = field(default_factory=FrameCounters)
    violations: dict[str, int] = field(default_factory=dict)
    links: set[Link] = field(default_factory=set)
    half: set[Link] = field(default_factory=set)
    """Links on which the beginning of a frame waits for its rest."""
    acknowledgement: Histogram = field(default_factory=Histogram)
    """From the receipt of a report to its acknowledgement, s."""
    air: Air = field(init=False)
    """How terminals of this channel are asked something."""
    paused: bool = False
    """The journal has no room: links do not read, those that are yet to come included."""
    holds: int = 0
    """Times that a link stopped reading because too much of it waited for the journal."""
    pauses: int = 0
    """Times that all links stopped reading because the journal had no room."""

    def __post_init__(self) -> None:
        self.air = FreeAir(self.clock)

    def dispatch(self, session: Session, events: list[Event], moment: Moment) -> None:
        """Carry out what a machine says."""
        for event in events:
            match event:
                case Deliver():
                    self._deliver(session, event, moment)
                case Oddity():
                    self.counters.warn(event.name)
                case Violation():
                    self.violation(event.reason, event.raw, session)
                case Answered() | Late():
                    self.answered(session, event, moment)
                case Identified():
                    if session.link is not None:
                        session.link.identified = True
                    log.info("identified", channel=self.name, terminal=event.terminal, login=event.login)
                    self.arrived(session)
                case CloseWanted():
                    if session.link is not None:
                        session.link.let_go(session, event.reason)
        self.sessions.schedule(session)

    def _deliver(self, session: Session, event: Deliver, moment: Moment) -> None:
        link, token = session.link, event.token
        for message in event.messages:
            message.channel = self.name
            if isinstance(message, State) and link is not None:
                message.peer = link.peer
        committed: Callable[[], None] | None = None
        if token is not None and link is not None:
            committed = partial(self._settled, session, link, token, moment)
        try:
            self.outlet.store(event.messages, committed)
        except (JournalFull, JournalClosed):
            # Not stored, so not acknowledged: the terminal keeps its report and says it again.
            if token is not None:
                session.machine.abandon(token)
            return
        if committed is not None and link is not None:
            link.unsettled += 1
            if link.unsettled >= self.max_unsettled and not link.held:
                self.holds += 1
                link.hold(True)

    def _settled(self, session: Session, link: Link, token: Token, received: Moment) -> None:
        """The messages of a token are durable: its terminal may be told."""
        moment = self.clock.moment()
        self.acknowledgement.observe(moment.mono - received.mono)
        link.unsettled -= 1
        if link.held and link.unsettled <= self.max_unsettled // 2:
            link.hold(False)
        session.machine.settle(token, moment)
        if session.link is not None:
            self.flush_soon(session.link)

    def violation(self, reason: str, raw: bytes, session: Session | None = None, peer: str = "") -> None:
        """Count and log what a peer did wrong."""
        kind = reason.split(":", 1)[0]
        if kind in self.violations or len(self.violations) < MOST_VIOLATIONS:
            self.violations[kind] = self.violations.get(kind, 0) + 1
        self.counters.wire_errors += 1
        if session is not None and session.link is not None:
            peer = session.link.peer
        terminal = session.machine.terminal if session is not None else None
        log.warning(
            "violation", channel=self.name, peer=peer, terminal=terminal, reason=reason, octets=raw[:LOGGED].hex()
        )

    def pause(self, paused: bool) -> None:
        """All links stop or go on reading: the journal has no room, or has some again."""
        if paused and not self.paused:
            self.pauses += 1
        self.paused = paused
        for link in self.links:
            link.halt(paused)


class Link:
    """One connection. Loop thread only."""

    __slots__ = (
        "_framer",
        "_halted",
        "_sessions",
        "_transport",
        "closing",
        "context",
        "heard",
        "held",
        "identified",
        "unsettled",
    )

    def __init__(self, context: ChannelContext, transport: Transport) -> None:
        self.context = context
        self.unsettled = 0
        """Deliveries of this link that wait for the journal."""
        self.held = False
        self.heard = 0.0
        """When octets came last (mono)."""
        self.closing = False
        """The link is to be closed and takes no more frames."""
        self.identified = False
        """A terminal has said on this link who it is; good frames that say nothing do not."""
        self._transport = transport
        self._framer = context.protocol.framer(context.max_frame)
        self._sessions: dict[Session, int] = {}
        self._halted = False
        context.links.add(self)

    @property
    def peer(self) -> str:
        return self._transport.peer

    @property
    def reading(self) -> bool:
        """Whether what the peer says is read now."""
        return not (self.held or self._halted)

    # --- from the channel ---------------------------------------------------------------------------------------

    def received(self, octets: bytes, moment: Moment) -> None:
        """Octets from the peer, in any pieces."""
        context = self.context
        counters = context.counters
        counters.octets_in += len(octets)
        self.heard = moment.mono
        for found in self._framer.feed(octets):
            if self.closing:
                return
            if isinstance(found, Garbage):
                count_garbage(counters, found)
                continue
            counters.frames_in += 1
            self._frame(found, moment)
        if self._framer.waiting:
            context.half.add(self)
        elif context.half:
            context.half.discard(self)
        self.flush()

    def _frame(self, frame: Any, moment: Moment) -> None:
        context = self.context
        terminal = context.protocol.terminal_of(frame)
        if terminal is None:
            context.violation("address-kind", frame.raw, peer=self.peer)
            return
        session = context.sessions.get(terminal)
        if session is None or session.link is not self:
            session = self._taking(terminal, frame, moment)
            if session is None:
                return
        if context.raw(terminal):
            self._tell_raw(terminal, "up", frame.raw, moment)
        context.dispatch(session, session.machine.feed(frame, moment), moment)

    def _taking(self, terminal: str, frame: Any, moment: Moment) -> Session | None:
        """The session of a terminal that was not on this link."""
        context = self.context
        if len(self._sessions) >= context.max_terminals:
            context.violation("too-many-terminals", frame.raw, peer=self.peer)
            return None
        session = context.sessions.of(terminal, context)
        if session is None:
            context.violation("no-room", frame.raw, peer=self.peer)
            self.close("no room for another terminal")
            return None
        events = context.sessions.attach(session, self, moment)
        self._sessions[session] = session.epoch
        context.dispatch(session, events, moment)
        return session

    def taken(self, session: Session) -> None:
        """Another link has taken this terminal; a link that is left with none has no reason to stay."""
        log.info("taken over", channel=self.context.name, peer=self.peer, terminal=session.machine.terminal)
        self._sessions.pop(session, None)
        if not self._sessions:
            self.close("taken over by another connection")

    def let_go(self, session: Session, reason: str) -> None:
        """A machine wants its connection closed: done where no other terminal needs it."""
        if len(self._sessions) <= 1:
            self.close(reason)
            return
        self.flush()
        epoch = self._sessions.pop(session, None)
        if epoch is not None:
            moment = self.context.clock.moment()
            self.context.dispatch(session, self.context.sessions.detach(session, self, epoch, moment), moment)

    def stale(self) -> None:
        """The peer has been silent in the middle of a frame for too long."""
        self.context.half.discard(self)
        lost = self._framer.discard()
        if lost is not None:
            count_garbage(self.context.counters, lost)

    def lost(self, moment: Moment) -> None:
        """The connection is gone."""
        self.closing = True
        self.context.links.discard(self)
        self.context.half.discard(self)
        sessions, self._sessions = self._sessions, {}
        for session, epoch in sessions.items():
            events = self.context.sessions.detach(session, self, epoch, moment)
            self.context.dispatch(session, events, moment)

    # --- to the channel -----------------------------------------------------------------------------------------

    def hold(self, held: bool) -> None:
        """Stop or go on reading: too much of this link waits for the journal."""
        self.held = held
        self._steer()

    def halt(self, halted: bool) -> None:
        """Stop or go on reading for a reason outside this link."""
        self._halted = halted
        self._steer()

    def _steer(self) -> None:
        if self.reading:
            self._transport.resume()
        else:
            self._transport.pause()

    def flush(self) -> None:
        """Write what the machines of this link have to say, in one piece."""
        if self.closing:
            return
        context = self.context
        out: list[bytes] = []
        for session in self._sessions:
            if session.link is not self:
                continue
            frames = session.machine.outgoing()
            if frames and context.raw(session.machine.terminal):
                moment = context.clock.moment()
                for frame in frames:
                    self._tell_raw(session.machine.terminal, "down", frame, moment)
            out.extend(frames)
        if out:
            octets = out[0] if len(out) == 1 else b"".join(out)
            context.counters.frames_out += len(out)
            context.counters.octets_out += len(octets)
            self._transport.write(octets)

    def broadcast(self, octets: bytes) -> None:
        """Write a frame that is for no terminal in particular."""
        if not self.closing:
            self.context.counters.frames_out += 1
            self.context.counters.octets_out += len(octets)
            self._transport.write(octets)

    def _tell_raw(self, terminal: str, direction: Direction, octets: bytes, moment: Moment) -> None:
        raw = Raw(
            id=message_id(terminal, octets, moment.wall.to_bytes(8)),
            terminal=terminal,
            channel=self.context.name,
            received_at=moment.wall,
            direction=direction,
            frame=octets.hex().upper(),
        )
        self.context.outlet.pass_on(raw)

    def close(self, reason: str) -> None:
        """Write what is to be said, then end the connection."""
        if not self.closing:
            self.flush()
            self.closing = True
            self._transport.close(reason)
