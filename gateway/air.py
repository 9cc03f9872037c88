"""What the arbiter of a shared medium counts and keeps: who waits, airtime, answer times, silence, echoes.

Nothing here acts or waits; times are arguments (mono, s). `gateway/medium.py` puts it to work.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, runtime_checkable

from gateway.clock import Clock
from gateway.sessions import Session
from protocols.events import Answered, Event, Failure, Moment, Request

CONTROL: Final = 0
CLOCK: Final = 1
QUERY: Final = 2
POLL: Final = 3
BACKFILL: Final = 4
PRIORITIES: Final = ("control", "clock", "query", "poll", "backfill")
"""Names of the priorities, which are indices here: a smaller one goes first."""
REPLY: Final = "reply"
"""Under this name the airtime of what we owe (answers to logins and reports) is accounted; it goes after control."""
_KEPT: Final = 8192
"""Terminals whose answer times are kept."""


@dataclass(frozen=True, slots=True)
class MediumOptions:
    """Settings of a shared medium; times in s.

    bit_rate, character_bits: 11 for 8E1. preamble: FE octets before each frame. key_up_s: between the carrier and the
    first octet (发射建立时间); key_down_s: carrier behind the last one. turnaround_s: guard between an answer and what
    we say next. gap_s, gap_octets: a silence so long, and of so many octets' time, ends what is being heard. drain_s:
    guard after an answer that did not come, in which a late one may still end. answer_min_s, answer_max_s,
    answer_deviations: bounds of the adaptive answer timeout, and its distance from the mean. patience_max_s: of a
    request that brings a timeout of its own. max_frame: octets of the longest answer in one frame. retries: of a
    request that does not say. max_waiting: requests that wait in one priority; max_per_terminal: of one terminal in one
    priority; max_replies: frames that we owe. skip_most: rounds that a silent terminal is left out at most.
    silent_share, silent_burst_s: airtime for terminals that have been silent twice. pace_ahead_s: octets are written so
    long before their time.
    """

    bit_rate: int = 9600
    character_bits: int = 11
    preamble: int = 4
    key_up_s: float = 0.05
    key_down_s: float = 0.0
    turnaround_s: float = 0.02
    gap_s: float = 0.05
    gap_octets: int = 32
    drain_s: float = 0.2
    answer_min_s: float = 0.1
    answer_max_s: float = 1.0
    answer_deviations: float = 4.0
    patience_max_s: float = 60.0
    max_frame: int = 1024
    retries: int = 1
    max_waiting: int = 4096
    max_per_terminal: int = 16
    max_replies: int = 256
    skip_most: int = 31
    silent_share: float = 0.05
    silent_burst_s: float = 1.0
    pace_ahead_s: float = 0.1

    def airtime(self, octets: int) -> float:
        """How long so many octets take, s, without key-up."""
        return octets * self.character_bits / self.bit_rate

    @property
    def silence_s(self) -> float:
        """The silence that ends what is being heard."""
        return max(self.gap_s, self.airtime(self.gap_octets))

    @property
    def longest_s(self) -> float:
        """The time of the longest frame with its preamble."""
        return self.airtime(self.max_frame + self.preamble)


@dataclass(slots=True)
class MediumCounters:
    """Totals since start, except `waiting`, `cycle_seconds`, `answer_rate` (now).

    air_seconds: the medium taken, by priority: key-up to the end of the guard, answers included. turns: transmissions,
    by priority. answers, silences: exchanges that ended so. late: answers after their time. retries: repeated attempts.
    skipped: polls of silent terminals that were left out. refused: no room in the queue. expired: not sent in time.
    preempted: long waits for an answer cut short by a control. echo_octets: our own, heard again. jams: talked although
    something was heard without end. held: times that nothing was granted because the journal had no room.
    replies_dropped: owed frames without room. cycle_seconds: the last round of polls. answer_rate: a running share.
    """

    air_seconds: dict[str, float] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    silences: int = 0
    late: int = 0
    retries: int = 0
    skipped: int = 0
    refused: int = 0
    expired: int = 0
    preempted: int = 0
    echo_octets: int = 0
    jams: int = 0
    held: int = 0
    replies_dropped: int = 0
    waiting: int = 0
    cycle_seconds: float = 0.0
    answer_rate: float = 1.0

    GAUGES = ("waiting", "cycle_seconds", "answer_rate")

    def judged(self, *, answered: bool) -> None:
        """An exchange is over."""
        self.answers += answered
        self.silences += not answered
        self.answer_rate += (answered - self.answer_rate) / 64

    def took(self, priority: str, seconds: float) -> None:
        """The medium was taken so long."""
        self.air_seconds[priority] = self.air_seconds.get(priority, 0.0) + seconds


# --- the way to terminals -------------------------------------------------------------------------------------------

EXPIRED: Final = Failure("expired", "its time ran out before it could be sent")


class Air(Protocol):
    """The way to terminals, as those see it who ask them something."""

    def ask(
        self,
        session: Session,
        request: Request,
        priority: int,
        *,
        until: int | None = None,
        sent: Callable[[Moment], None] | None = None,
    ) -> None:
        """Have a request sent when its turn comes; its end is told as that of any request.

        until: wall ms from which it is not sent any more (Failure `expired`). sent: called once, when octets go out.
        Failures of the air itself: `busy`, `expired`, `skipped` (a poll of a terminal that does not answer), `lost`.
        """

    def cancel(self, session: Session, request: Request) -> bool:
        """Take back a request that has not been sent: it ends as `cancelled`. False: it is sent, or is none."""


class FreeAir:
    """The air of a channel on which nobody waits for another."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def ask(
        self,
        session: Session,
        request: Request,
        priority: int,
        *,
        until: int | None = None,
        sent: Callable[[Moment], None] | None = None,
    ) -> None:
        """Give the request to the machine."""
        del priority
        moment = self._clock.moment()
        if until is not None and moment.wall >= until:
            session.context.answered(session, Answered(request, EXPIRED), moment)
            return
        session.context.dispatch(session, session.machine.submit(request, moment), moment)
        if session.link is not None:
            session.link.flush()
        if sent is not None and request.attempts:
            sent(moment)

    def cancel(self, session: Session, request: Request) -> bool:
        """Take it back from the machine."""
        moment = self._clock.moment()
        events = session.machine.cancel(request, moment)
        session.context.dispatch(session, events, moment)
        return bool(events)


class Line(Protocol):
    """What a channel gives a medium to act with."""

    def key(self, on: bool) -> None:
        """The transmitter's carrier."""

    def write(self, octets: bytes) -> None:
        """Send octets now; no more at once than a little ahead of their time."""

    def deliver(self, octets: bytes, moment: Moment) -> None:
        """These were heard, and are not ours: for the link."""


@runtime_checkable
class Impatient(Protocol):
    """A machine that can be told to wait no longer. Another is done with a request when its own timer says so."""

    def give_up(self, request: Request, moment: Moment) -> list[Event]:
        """The present attempt has had no answer: as if its time were over. Nothing for a request not under way."""


# --- who waits -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that waits for its turn, or has it; `frame` instead of a request for one that nobody answers.

    left: attempts after the present one. patience: what its asker gives the terminal, s. until: wall ms from which it
    is not sent any more. sent: called when its octets go out for the first time. estimate: airtime charged beforehand
    for a silent terminal, s. asked: timeout and retries as its asker has them. epoch: of the machine when it was
    granted. repeated: an attempt has failed. ended: when the last transmission was out that had no answer in time.
    """

    priority: int
    session: Session | None = None
    request: Request | None = None
    frame: bytes = b""
    left: int = 0
    patience: float | None = None
    until: int | None = None
    sent: Callable[[Moment], None] | None = None
    estimate: float = 0.0
    asked: tuple[float | None, int | None] = (None, None)
    epoch: int = 0
    repeated: bool = False
    ended: float = 0.0


class Waiting:
    """Tickets in the order in which they may talk.

    By priority; first come, first served inside; from POLL on the terminals take turns, so that none starves behind
    one that is asked much. A ticket put back keeps its place before its terminal's others.
    """

    __slots__ = ("_lines", "_per_terminal", "_room", "_sizes", "_turns")

    def __init__(self, room: int, per_terminal: int) -> None:
        self._room = room
        self._per_terminal = per_terminal
        self._sizes = [0] * len(PRIORITIES)
        self._lines: list[deque[Ticket]] = [deque() for _ in PRIORITIES[:POLL]]
        self._turns: list[OrderedDict[Session | None, deque[Ticket]]] = [OrderedDict() for _ in PRIORITIES[POLL:]]

    def __len__(self) -> int:
        return sum(self._sizes)

    def count(self, priority: int) -> int:
        """Tickets of one priority."""
        return self._sizes[priority]

    def __iter__(self) -> Iterator[Ticket]:
        for line in self._lines:
            yield from line
        for turns in self._turns:
            for mine in turns.values():
                yield from mine

    def put(self, ticket: Ticket) -> bool:
        """Take a ticket; False where there is no room for it."""
        priority = ticket.priority
        if self._sizes[priority] >= self._room:
            return False
        if priority < POLL:
            line = self._lines[priority]
            if sum(other.session is ticket.session for other in line) >= self._per_terminal:
                return False
            line.append(ticket)
        else:
            turns = self._turns[priority - POLL]
            mine = turns.get(ticket.session)
            if mine is not None and len(mine) >= self._per_terminal:
                return False
            turns.setdefault(ticket.session, deque()).append(ticket)
        self._sizes[priority] += 1
        return True

    def put_back(self, ticket: Ticket) -> None:
        """It had its turn and needs another: no bound, for it had its place before."""
        priority = ticket.priority
        if priority < POLL:
            self._lines[priority].appendleft(ticket)
        else:
            self._turns[priority - POLL].setdefault(ticket.session, deque()).appendleft(ticket)
        self._sizes[priority] += 1

    def take(self, priority: int, usable: Callable[[Ticket], bool]) -> Ticket | None:
        """The next ticket of a priority that can be used now; it waits no longer."""
        if priority < POLL:
            line = self._lines[priority]
            for place, ticket in enumerate(line):
                if usable(ticket):
                    del line[place]
                    self._sizes[priority] -= 1
                    return ticket
            return None
        turns = self._turns[priority - POLL]
        for session, mine in turns.items():
            if usable(mine[0]):
                ticket = mine.popleft()
                turns.move_to_end(session)
                if not mine:
                    del turns[session]
                self._sizes[priority] -= 1
                return ticket
        return None

    def remove(self, request: Request) -> Ticket | None:
        """Take a request's ticket out; None where it does not wait."""
        found = next((ticket for ticket in self if ticket.request is request), None)
        if found is None:
            return None
        if found.priority < POLL:
            self._lines[found.priority].remove(found)
        else:
            turns = self._turns[found.priority - POLL]
            turns[found.session].remove(found)
            if not turns[found.session]:
                del turns[found.session]
        self._sizes[found.priority] -= 1
        return found


class Owed(NamedTuple):
    """A frame to be said that is no new request. `ticket`: it goes on with this exchange, and is answered."""

    ticket: Ticket | None
    frame: bytes


@dataclass(slots=True, eq=False)
class Turn:
    """Who talks now. `name`: for the account. `ends`: when the last octet is out. `first`: when an answer began."""

    name: str
    ticket: Ticket | None
    listens: bool
    octets: bytes
    began: float
    starts: float
    ends: float
    written: int = 0
    window: float = 0.0
    patience: float = 0.0
    first: float | None = None


# --- how long an answer takes ----------------------------------------------------------------------------------------


class AnswerTime:
    """From the end of what we say to the first octet of the answer, of one terminal: mean and mean deviation.

    As RFC 6298 measures a round trip: 1/8 of the difference to the mean, 1/4 to the deviation; after a silence
    twice as long, until an answer has been measured.
    """

    __slots__ = ("_backoff", "_deviation", "mean")

    def __init__(self) -> None:
        self.mean: float | None = None
        self._deviation = 0.0
        self._backoff = 1.0

    def measured(self, seconds: float) -> None:
        """An answer began so long after the request had ended."""
        self._backoff = 1.0
        if self.mean is None:
            self.mean = seconds
            self._deviation = seconds / 2
            return
        self._deviation += (abs(seconds - self.mean) - self._deviation) / 4
        self.mean += (seconds - self.mean) / 8

    def silent(self) -> None:
        """No octet came in time."""
        self._backoff = min(self._backoff * 2, 64.0)

    def timeout(self, options: MediumOptions) -> float:
        """How long to wait for the first octet; the longest time for a terminal that has never answered."""
        if self.mean is None:
            return options.answer_max_s
        wait = (self.mean + options.answer_deviations * self._deviation) * self._backoff
        return min(max(wait, options.answer_min_s), options.answer_max_s)


class AnswerTimes:
    """The answer times of terminals; of the latest `_KEPT` that were met."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: dict[Session, AnswerTime] = {}

    def of(self, session: Session) -> AnswerTime:
        """The answer time of one terminal."""
        known = self._times.get(session)
        if known is None:
            if len(self._times) >= _KEPT:
                del self._times[next(iter(self._times))]
            known = self._times[session] = AnswerTime()
        return known


class Rounds:
    """Rounds of polls (轮询周期): one is over when nobody waits for a poll any more, or a terminal comes again."""

    __slots__ = ("_began", "_members")

    def __init__(self) -> None:
        self._members: set[Session] = set()
        self._began: float | None = None

    def begin(self, session: Session, counters: MediumCounters, mono: float) -> None:
        """A terminal is polled."""
        if session in self._members:
            self.end(counters, mono)
        if self._began is None:
            self._began = mono
        self._members.add(session)

    def end(self, counters: MediumCounters, mono: float) -> None:
        """The round is over; how long it took is told."""
        if self._began is not None:
            counters.cycle_seconds = mono - self._began
        self._began = None
        self._members.clear()


class Silence:
    """Who does not answer, and how often that one is still polled.

    After n silences in a row a terminal is left out of 2^(n-1) - 1 rounds, at most `skip_most`. Terminals that were
    silent twice and more share `silent_share` of all time: when it is used up, a poll of theirs is left out too.
    """

    __slots__ = ("_at", "_counts", "_line", "_options", "_purse", "_skips")

    def __init__(self, options: MediumOptions) -> None:
        self._options = options
        self._counts: dict[Session, int] = {}
        self._skips: dict[Session, int] = {}
        self._purse = options.silent_burst_s
        self._at: float | None = None
        self._line: OrderedDict[Session, float] = OrderedDict()
        """Those who were left out for want of airtime, the longest waiting first, with when they were asked last."""

    def count(self, session: Session) -> int:
        """Silences in a row."""
        return self._counts.get(session, 0)

    def admits(self, session: Session, cost: float, mono: float) -> float | None:
        """What a poll of a terminal is charged now, s: 0.0 for one that answers, None where it is left out."""
        self._fill(mono)
        count = self._counts.get(session, 0)
        if count < 2:
            return 0.0
        skips = self._skips.get(session, 0)
        if skips > 0:
            self._skips[session] = skips - 1
            return None
        if not self._first(session, mono):
            return None
        self._purse -= cost
        return cost

    def _first(self, session: Session, mono: float) -> bool:
        """Whether there is airtime left, and no other has been waiting for it longer."""
        line = self._line
        asked = line.get(session, float("-inf"))
        # One who has not been asked since this one was asked last is asked no more, and waits no more.
        while line and (head := next(iter(line))) is not session and line[head] < asked:
            del line[head]
        if self._purse > 0 and (not line or next(iter(line)) is session):
            line.pop(session, None)
            return True
        line[session] = mono
        return False

    def _fill(self, mono: float) -> None:
        if self._at is not None:
            options = self._options
            self._purse = min(self._purse + (mono - self._at) * options.silent_share, options.silent_burst_s)
        self._at = mono

    def cost(self, charged: float, cost: float) -> None:
        """What was charged has cost this in truth."""
        self._purse += charged - cost

    def silent(self, session: Session) -> None:
        """It has not answered, retries included."""
        count = self._counts[session] = self._counts.get(session, 0) + 1
        self._skips[session] = min((1 << min(count - 1, 16)) - 1, self._options.skip_most)

    def heard(self, session: Session) -> None:
        """It has answered."""
        self._counts.pop(session, None)
        self._skips.pop(session, None)
        self._line.pop(session, None)


# --- our own voice ---------------------------------------------------------------------------------------------------


class Echo:
    """Takes our own octets out of what is heard: the whole of what was said, or nothing.

    Octets that begin like what was said are kept until they prove to be it, and dropped, or something else, and given
    out. So nothing need be told about a line: no answer is equal to its request.
    """

    __slots__ = ("_kept", "_said", "octets")

    def __init__(self) -> None:
        self._said = b""
        self._kept = b""
        self.octets = 0
        """Dropped so far."""

    def said(self, octets: bytes) -> bytes:
        """This goes out now, and what came before is an echo no more: what was kept."""
        kept, self._kept = self._kept, b""
        self._said = octets
        return kept

    def heard(self, octets: bytes) -> bytes:
        """What of the octets heard, and of those kept, is not ours."""
        said = self._said
        if not said:
            return octets
        data = self._kept + octets
        place = data.find(said)
        if place >= 0:
            self.octets += len(said)
            self._said = self._kept = b""
            return data[:place] + data[place + len(said) :]
        size = min(len(said) - 1, len(data))
        while size and not said.startswith(data[-size:]):
            size -= 1
        self._kept = data[len(data) - size :]
        return data[: len(data) - size]

    def over(self) -> bytes:
        """The echo's time is over: what was kept is not ours."""
        return self.said(b"")
