"""The arbiter of a medium that many terminals share 共用信道: one talks at a time, the most urgent next. Sans-IO.

Theory of operation. Whoever asks a terminal something does so through an `Air`. Where every terminal has a way of its
own (`FreeAir`) the request goes to the machine at once; on a shared medium (`Medium`) it waits for its turn. A turn is
one attempt: a transmission, and where an answer is owed, the time to hear it. What a machine says next in the same
exchange (the request for another block, a fragment's acknowledgement) is another turn, behind a control and before
everything else; so is what we owe to terminals that spoke unasked.

    idle --turn--> sending --last octet out--> listening --answered, or the machine goes on--> resting --guard--> idle
                      |                            +--no octet in the answer time, drained--> resting
                      +--nobody answers--> resting

The machine's own timer is longer than a turn, so that an answer that begins in time is never cut off by it; where
nothing has come in the answer time nor in the guard behind it, the machine is told to wait no longer. A terminal is not
asked again before its machine is done with the last request. Attempts after the first are ours, not the machine's, so
that a control gets in between. Before each turn the medium must be quiet (listen before talk).

Bounds: requests that wait, by priority and terminal (told `busy`); frames owed (the oldest is dropped: the terminal
says its report again); a turn (the longest frame in each direction); something heard without end (talked over, a jam).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from gateway.air import (
    BACKFILL,
    CLOCK,
    CONTROL,
    EXPIRED,
    POLL,
    PRIORITIES,
    QUERY,
    REPLY,
    Air,
    AnswerTimes,
    Echo,
    FreeAir,
    Impatient,
    Line,
    MediumCounters,
    MediumOptions,
    Owed,
    Rounds,
    Silence,
    Ticket,
    Turn,
    Waiting,
)
from gateway.clock import Clock
from gateway.link import ChannelContext, Link
from gateway.sessions import Session
from protocols.events import Answered, Failure, Late, Moment, Request
from wire698.frame import MAX_FRAME, Garbage

__all__ = [
    "BACKFILL",
    "CLOCK",
    "CONTROL",
    "POLL",
    "PRIORITIES",
    "QUERY",
    "Air",
    "FreeAir",
    "Line",
    "Medium",
    "MediumCounters",
    "MediumOptions",
]

PREAMBLE: Final = b"\xfe"
_SLACK_S: Final = 0.05
"""What a machine's timer has beyond the longest turn."""


State = Literal["idle", "sending", "listening", "resting"]


class Medium:
    """One shared medium with one link. Loop thread only.

    The channel calls `received` and, at `deadline` or later, `tick`; it sets `link`, whose octets it gives to `say`.
    `wake` is called when the deadline may have come nearer. The ends of requests pass through here: the medium takes
    the place of `context.answered`, and tells whoever had it.
    """

    def __init__(
        self, context: ChannelContext, options: MediumOptions, line: Line, clock: Clock, wake: Callable[[], None]
    ) -> None:
        self.options = options
        self.counters = MediumCounters()
        self.link: Link | None = None
        self.state: State = "idle"
        self._context = context
        self._line = line
        self._clock = clock
        self._wake = wake
        self._tell = context.answered
        context.answered = self.answered
        self._waiting = Waiting(options.max_waiting, options.max_per_terminal)
        self._owed: deque[Owed] = deque()
        self._given: dict[Session, Ticket] = {}
        """What machines have been asked and have not done with."""
        self._granting: Ticket | None = None
        self._granted: list[bytes] = []
        self._receiving = False
        self._ticking = False
        self._turn: Turn | None = None
        self._unheard: Ticket | None = None
        """Its turn brought no answer; the guard behind it is the last chance."""
        self._rests_until = 0.0
        self._heard = -1.0
        self._noisy_since: float | None = None
        self._quiet_at = 0.0
        self._held = False
        self._echo = Echo()
        self._times = AnswerTimes()
        self._silence = Silence(options)
        self._rounds = Rounds()

    # --- from those who ask -------------------------------------------------------------------------------------

    def ask(
        self,
        session: Session,
        request: Request,
        priority: int,
        *,
        until: int | None = None,
        sent: Callable[[Moment], None] | None = None,
    ) -> None:
        """Have a request wait for its turn. See `Air`."""
        moment, options = self._clock.moment(), self.options
        if self.link is None:
            self._end(session, request, _LOST, moment)
            return
        estimate = 0.0
        if priority >= POLL:
            cost = options.key_up_s + options.airtime(64) + self._times.of(session).timeout(options) + options.drain_s
            charged = self._silence.admits(session, cost, moment.mono)
            if charged is None:
                self.counters.skipped += 1
                self._end(session, request, _SKIPPED, moment)
                return
            estimate = charged
        left = options.retries if request.retries is None else request.retries
        if priority >= POLL and self._silence.count(session):
            left = 0
        patience = None if request.timeout is None else min(request.timeout, options.patience_max_s)
        asked = (request.timeout, request.retries)
        ticket = Ticket(priority, session, request, b"", left, patience, until, sent, estimate, asked)
        if not self._waiting.put(ticket):
            self.counters.refused += 1
            self._silence.cost(estimate, 0.0)
            self._end(session, request, Failure("busy", "too many requests wait for the medium"), moment)
            return
        self.counters.waiting = len(self._waiting)
        self._wake()

    def cancel(self, session: Session, request: Request) -> bool:
        """Take back a request that waits; it ends as `cancelled`."""
        ticket = self._waiting.remove(request)
        if ticket is None:
            return False
        self.counters.waiting = len(self._waiting)
        self._end(session, request, Failure("cancelled", "taken back before it was sent"), self._clock.moment())
        return True

    def _end(self, session: Session, request: Request, failure: Failure, moment: Moment) -> None:
        self._tell(session, Answered(request, failure), moment)

    # --- from the link ------------------------------------------------------------------------------------------

    def say(self, octets: bytes) -> None:
        """Frames that the link writes: of the request that has its turn now, of an exchange, owed, or for all."""
        protocol = self._context.protocol
        for frame in protocol.framer(MAX_FRAME).feed(octets):
            if isinstance(frame, Garbage):
                continue
            terminal = protocol.terminal_of(frame)
            if terminal is None:
                # A group's or everybody's 组地址, 广播地址: nobody answers.
                if not self._waiting.put(Ticket(CONTROL, frame=frame.raw)):
                    self.counters.refused += 1
                continue
            granting, turn = self._granting, self._turn
            if granting is not None and granting.session is not None and _named(granting.session, terminal):
                self._granted.append(frame.raw)
            elif turn is not None and self._goes_on(turn, terminal):
                self._owed.appendleft(Owed(turn.ticket, frame.raw))
            else:
                self._owe(frame.raw)
        self._wake()

    def _goes_on(self, turn: Turn, terminal: str) -> bool:
        """Whether a frame belongs to the exchange whose turn it is: said because of what was just heard."""
        ticket = turn.ticket
        return (
            self._receiving
            and self.state == "listening"
            and ticket is not None
            and ticket.session is not None
            and _named(ticket.session, terminal)
            and self._given.get(ticket.session) is ticket
        )

    def _owe(self, frame: bytes) -> None:
        if len(self._owed) >= self.options.max_replies:
            # The oldest that is no part of an exchange.
            for place, owed in enumerate(self._owed):
                if owed.ticket is None:
                    del self._owed[place]
                    break
            self.counters.replies_dropped += 1
        self._owed.append(Owed(None, frame))

    # --- from the context ---------------------------------------------------------------------------------------

    def answered(self, session: Session, event: Answered | Late, moment: Moment) -> None:
        """A machine is done with a request, or hears of one that it had given up."""
        if isinstance(event, Late):
            self._late(session, event, moment)
            return
        ticket = self._given.get(session)
        if ticket is None or ticket.request is not event.request:
            self._tell(session, event, moment)
            return
        del self._given[session]
        event.request.timeout, event.request.retries = ticket.asked
        result = event.result
        failed = result.name if isinstance(result, Failure) else None
        if failed == "timed_out":
            self._unanswered(session, ticket, event, moment)
            return
        if failed not in ("lost", "busy", "cancelled"):
            self._answer(session, ticket, moment)
        self._polled(ticket, moment)
        self._tell(session, event, moment)

    def _answer(self, session: Session, ticket: Ticket, moment: Moment) -> None:
        """The terminal has answered, be it by a refusal."""
        self._silence.heard(session)
        self.counters.judged(answered=True)
        turn = self._turn
        if turn is not None and turn.ticket is ticket:
            self._measure(turn, session)
            self._release(moment, self.options.turnaround_s)
            return
        # After its turn: the answer time was too short, and what was heard is not the answer of whose turn it is now.
        self.counters.late += 1
        if turn is not None:
            turn.first = None
        if ticket.patience is None:
            self._times.of(session).measured(moment.mono - ticket.ended)

    def _measure(self, turn: Turn, session: Session) -> None:
        if turn.first is not None and turn.ticket is not None and turn.ticket.patience is None:
            self._times.of(session).measured(turn.first - turn.ends)

    def _unanswered(self, session: Session, ticket: Ticket, event: Answered, moment: Moment) -> None:
        """An attempt has had no answer that can be used."""
        turn = self._turn
        if turn is not None and turn.ticket is ticket and self.state == "listening":
            self._release(moment, self.options.drain_s)
        if ticket.left > 0 and session.link is self.link and self.link is not None:
            ticket.left -= 1
            ticket.repeated = True
            self.counters.retries += 1
            self._waiting.put_back(ticket)
            self.counters.waiting = len(self._waiting)
            self._wake()
            return
        self._silence.silent(session)
        self.counters.judged(answered=False)
        self._polled(ticket, moment)
        self._tell(session, event, moment)

    def _late(self, session: Session, event: Late, moment: Moment) -> None:
        """An answer after its attempt was given up: it spares another attempt that still waits."""
        self.counters.late += 1
        self._silence.heard(session)
        if self._turn is not None:
            self._turn.first = None
        given = self._given.get(session)
        if given is not None and given.request is event.request:
            return  # another attempt is under way; its answer is the answer
        ticket = self._waiting.remove(event.request)
        if ticket is None:
            self._tell(session, event, moment)
            return
        self.counters.waiting = len(self._waiting)
        self.counters.judged(answered=True)
        self._polled(ticket, moment)
        self._tell(session, Answered(event.request, event.result), moment)

    def _polled(self, ticket: Ticket, moment: Moment) -> None:
        """A poll is over: with the last one, its round is."""
        if ticket.priority != POLL or self._waiting.count(POLL):
            return
        if not any(given.priority == POLL for given in self._given.values()):
            self._rounds.end(self.counters, moment.mono)

    # --- from the channel ---------------------------------------------------------------------------------------

    def received(self, octets: bytes, moment: Moment) -> None:
        """Octets are heard."""
        now, turn = moment.mono, self._turn
        before = self._echo.octets
        octets = self._echo.heard(octets)
        self.counters.echo_octets += self._echo.octets - before
        if now >= self._quiet_at:
            self._noisy_since = now
        self._heard = now
        self._quiet_at = now + self.options.silence_s
        if octets:
            if turn is not None and self.state == "listening" and turn.first is None:
                turn.first = now
            self._deliver(octets, moment)
        self.tick(moment)

    def _deliver(self, octets: bytes, moment: Moment) -> None:
        self._receiving = True
        try:
            self._line.deliver(octets, moment)
        finally:
            self._receiving = False
        turn = self._turn
        if turn is None or turn.ticket is None or turn.ticket.session is None or self.state != "listening":
            return
        if self._owed and self._owed[0].ticket is turn.ticket:
            # It goes on: this step of the exchange is over.
            self._measure(turn, turn.ticket.session)
            self._release(moment, self.options.turnaround_s)

    def hold(self, held: bool) -> None:
        """The journal has no room for what terminals would say: nothing is asked, except by controls."""
        self.counters.held += held and not self._held
        self._held = held
        self._wake()

    def lost(self, moment: Moment) -> None:
        """The line is gone, and its link has been told: the turn is over, and what waits has no way."""
        if self._turn is not None:
            self._line.key(False)
            self._release(moment, 0.0)
        self.state = "idle"
        self._owed.clear()
        self._quiet_at = 0.0
        for ticket in list(self._waiting):
            if ticket.request is not None and ticket.session is not None:
                self._waiting.remove(ticket.request)
                self._end(ticket.session, ticket.request, _LOST, moment)
        self._given.clear()
        self.counters.waiting = len(self._waiting)

    def deadline(self) -> float | None:
        """The `mono` instant at which `tick` has something to do; None while nobody wants to talk."""
        turn = self._turn
        match self.state:
            case "sending" if turn is not None:
                return self._next_write(turn)
            case "listening" if turn is not None:
                return self._listens_until(turn)
            case "resting":
                return max(self._rests_until, self._speaks_at())
            case _:
                if not (len(self._waiting) or self._owed):
                    return None
                # What waits for a machine starts when that is done, which `answered` hears of.
                return self._speaks_at() if self._startable() else None

    def tick(self, moment: Moment) -> None:
        """Do what is due."""
        if self._ticking:
            return  # whoever is at work further up does it
        self._ticking = True
        try:
            while self._step(moment):
                pass
        finally:
            self._ticking = False

    def _step(self, moment: Moment) -> bool:
        """One transition or write, if one is due."""
        now, turn = moment.mono, self._turn
        match self.state:
            case "sending" if turn is not None:
                return self._transmit(turn, moment)
            case "listening" if turn is not None:
                if now < self._listens_until(turn):
                    return False
                self._give_up(turn, moment)
                return True
            case "resting":
                if now < max(self._rests_until, self._speaks_at()):
                    return False
                self.state = "idle"
                self._drop(moment)
                return True
            case _:
                if not (len(self._waiting) or self._owed) or now < self._speaks_at():
                    return False
                return self._begin(moment)

    # --- talking ------------------------------------------------------------------------------------------------

    def _speaks_at(self) -> float:
        """When the medium is quiet, or has been noisy for so long that it must be talked over."""
        options = self.options
        if self._noisy_since is None:
            return 0.0
        return min(self._quiet_at, self._noisy_since + options.longest_s + options.silence_s)

    def _usable(self, ticket: Ticket) -> bool:
        """Whether a ticket's terminal can be asked now."""
        if self._held and ticket.priority != CONTROL:
            return False
        session = ticket.session
        if session is None:
            return True
        given = self._given.get(session)
        if given is not None and given.epoch != session.machine.epoch:
            del self._given[session]  # another link has taken the terminal, and heard the end of this
            given = None
        return given is None

    def _startable(self) -> bool:
        return bool(self._owed) or any(self._usable(ticket) for ticket in self._waiting)

    def _begin(self, moment: Moment) -> bool:
        """Start the most urgent turn that can start; False where none can."""
        ticket = self._waiting.take(CONTROL, self._usable)
        if ticket is None and self._owed:
            owed = self._owed.popleft()
            name = REPLY if owed.ticket is None else PRIORITIES[owed.ticket.priority]
            self._talk(name, owed.ticket, [owed.frame], owed.ticket is not None, moment)
            return True
        for priority in (CLOCK, QUERY, POLL, BACKFILL):
            if ticket is not None:
                break
            ticket = self._waiting.take(priority, self._usable)
        if ticket is None:
            return False
        self.counters.waiting = len(self._waiting)
        if ticket.session is None or ticket.request is None:
            self._talk(PRIORITIES[ticket.priority], None, [ticket.frame], False, moment)
        else:
            self._grant(ticket, ticket.session, ticket.request, moment)
        return True

    def _grant(self, ticket: Ticket, session: Session, request: Request, moment: Moment) -> None:
        """Have the machine say its request; what it writes is the turn."""
        if ticket.until is not None and moment.wall >= ticket.until:
            self.counters.expired += 1
            self._silence.cost(ticket.estimate, 0.0)
            self._end(session, request, EXPIRED, moment)
            return
        if session.link is None or session.link is not self.link or not session.machine.ready:
            self._silence.cost(ticket.estimate, 0.0)
            self._end(session, request, Failure("lost", "the terminal is not on this line"), moment)
            return
        options = self.options
        wait = max(self._times.of(session).timeout(options), ticket.patience or 0.0)
        request.timeout = (
            options.key_up_s + options.key_down_s + 2 * (options.longest_s + options.silence_s) + wait + options.drain_s
        ) + _SLACK_S
        request.retries = 0
        ticket.epoch = session.machine.epoch
        self._given[session] = ticket
        self._granting, self._granted = ticket, []
        try:
            self._context.dispatch(session, session.machine.submit(request, moment), moment)
            self.link.flush()
        finally:
            self._granting = None
        frames, self._granted = self._granted, []
        if not frames:
            # Refused by the machine, which has said so.
            self._given.pop(session, None)
            self._silence.cost(ticket.estimate, 0.0)
            return
        if ticket.priority == POLL and not ticket.repeated:
            self._rounds.begin(session, self.counters, moment.mono)
        self._talk(PRIORITIES[ticket.priority], ticket, frames, True, moment)
        if ticket.sent is not None:
            sent, ticket.sent = ticket.sent, None
            sent(moment)

    def _talk(self, name: str, ticket: Ticket | None, frames: list[bytes], listens: bool, moment: Moment) -> None:
        options, now = self.options, moment.mono
        octets = b"".join(PREAMBLE * options.preamble + frame for frame in frames)
        if self._quiet_at > now:
            self.counters.jams += 1
        starts = now + options.key_up_s
        ends = starts + options.airtime(len(octets)) + options.key_down_s
        turn = self._turn = Turn(name, ticket, listens, octets, now, starts, ends)
        if ticket is not None and ticket.session is not None:
            turn.window = self._times.of(ticket.session).timeout(options)
            turn.patience = max(turn.window, ticket.patience or 0.0)
        self.counters.turns[name] = self.counters.turns.get(name, 0) + 1
        self.state = "sending"
        kept = self._echo.said(octets)
        self._line.key(True)
        if kept:
            self._line.deliver(kept, moment)

    def _next_write(self, turn: Turn) -> float:
        """When octets are to be written next: all that are due within `pace_ahead_s`; then, the end."""
        if turn.written >= len(turn.octets):
            return turn.ends
        if not turn.written:
            return turn.starts
        return turn.starts + self.options.airtime(turn.written) - self.options.pace_ahead_s / 2

    def _transmit(self, turn: Turn, moment: Moment) -> bool:
        now, options = moment.mono, self.options
        if now < self._next_write(turn):
            return False
        if turn.written < len(turn.octets):
            due = int((now - turn.starts + options.pace_ahead_s) / options.airtime(1)) + 1
            piece = turn.octets[turn.written : max(due, turn.written + 1)]
            turn.written += len(piece)
            self._line.write(piece)
            return True
        self._line.key(False)
        # Whatever was heard meanwhile was heard over our own voice.
        self._noisy_since, self._quiet_at = None, 0.0
        if turn.listens:
            self.state = "listening"
        else:
            self._release(moment, options.turnaround_s)
        return True

    # --- listening ----------------------------------------------------------------------------------------------

    def _listens_until(self, turn: Turn) -> float:
        """The end of the answer time; later while something is being heard, at most by the longest frame."""
        options = self.options
        end = turn.ends + turn.window
        if turn.patience > turn.window and not self._waiting.count(CONTROL):
            end = turn.ends + turn.patience
        heard = self._heard + options.silence_s if self._heard >= turn.ends else 0.0
        return min(max(end, heard), end + options.longest_s + 2 * options.silence_s)

    def _give_up(self, turn: Turn, moment: Moment) -> None:
        """No answer in time. The machine goes on waiting for a while; the medium does not."""
        ticket = turn.ticket
        if ticket is not None:
            ticket.ended = turn.ends
        early = moment.mono < turn.ends + turn.patience
        if early:
            # Its answer may still come, and its machine waits for it.
            self.counters.preempted += 1
        elif turn.first is None and ticket is not None and ticket.session is not None:
            self._times.of(ticket.session).silent()
        kept = self._echo.over()
        if kept:
            self._deliver(kept, moment)
        if self._turn is turn and self.state == "listening":
            self._release(moment, self.options.drain_s)
            self._unheard = None if early else ticket

    def _drop(self, moment: Moment) -> None:
        """The guard is over, too: the machine of whom nobody has answered need not wait any longer."""
        ticket, self._unheard = self._unheard, None
        if ticket is None or ticket.session is None or ticket.request is None:
            return
        session = ticket.session
        if self._given.get(session) is ticket and isinstance(session.machine, Impatient):
            self._context.dispatch(session, session.machine.give_up(ticket.request, moment), moment)

    def _release(self, moment: Moment, guard: float) -> None:
        """The turn is over; `guard` s of rest belong to it."""
        turn, self._turn = self._turn, None
        self._unheard = None
        self.state = "resting"
        self._rests_until = moment.mono + guard
        self._noisy_since, self._quiet_at = None, 0.0
        if turn is not None:
            taken = self._rests_until - turn.began
            self.counters.took(turn.name, taken)
            if turn.ticket is not None and turn.ticket.estimate:
                self._silence.cost(turn.ticket.estimate, taken)
                turn.ticket.estimate = 0.0
        self._wake()


def _named(session: Session, terminal: str) -> bool:
    return session.machine.terminal == terminal


_LOST: Final = Failure("lost", "the line is gone")
_SKIPPED: Final = Failure("skipped", "the terminal does not answer, and is asked more rarely")
