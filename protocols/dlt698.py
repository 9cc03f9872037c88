"""The DL/T 698.45 machine: one terminal's dialogue with the master, without a socket or a sleep.

Theory of operation. Four things go on side by side, and none waits for another:

- Presence 在线状态: every valid frame is a sign of life, measured against the heartbeat promised (presence.py).
- LINK 预连接: login, heartbeat and logout are answered at once, with the three times that terminals set clocks by.
- Reports 上报: what comes up is delivered with a token; the REPORT-Response goes out when the token is settled, that is
  when the messages are durable. A report that is said again is answered again, not delivered again (oddity 29).
- Requests: one at a time, in order, each with its PIID, its deadline, its retries; an answer may come in link fragments
  and in GET-Next blocks, a request may go out in fragments.

Everything a peer sends ends in events; WireError does not leave this module.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from messages import State, Up, message_id
from wire698 import access, link, model
from wire698.errors import WireError
from wire698.fast import FastDecoder
from wire698.frame import ACK, FRAGMENT, Address, Frame, build_frame, parse_fragment
from wire698.notation import BuildError
from wire698.pieces import ClientApdu, ServerApdu, holds_records
from wire698.values import Piid

from .addresses import logical_of
from .dlt698_options import Options
from .envelopes import ENVELOPES, opened
from .events import (
    Answered,
    CloseWanted,
    Deliver,
    Event,
    Failure,
    Identified,
    Late,
    Moment,
    Oddity,
    ProgrammingError,
    Request,
    Token,
    Violation,
)
from .exchange import Exchange
from .mapping import Mapper, Said
from .pieces import Pieces
from .presence import TRANSITIONS, Presence, Trigger
from .reports import REPORTS, Recent, content_of, follow_content, identify, protected, report_response
from .times import Instants

NAME: Final = "dlt698.45"
CLIENT_ANSWER, LINK_ANSWER = 0x03, 0x01
"""Control octets of what the master says to an exchange that the terminal began."""
ILLEGAL_DEVICE: Final = 2
CLOCK_TRUSTED: Final = 0x80
SERVICE_NOT_SUPPORTED: Final = 2
_VERSION: Final = 0x0010


class Dlt698Machine:
    """One terminal. `decoder` and `mapper` are shared by all terminals of a channel."""

    __slots__ = (
        "_address",
        "_client",
        "_connected",
        "_decoder",
        "_ended",
        "_exchange",
        "_expected",
        "_heartbeat",
        "_identified",
        "_instants",
        "_last_seen",
        "_mapper",
        "_offset",
        "_options",
        "_outgoing",
        "_pieces",
        "_piid",
        "_presence",
        "_queue",
        "_recent",
        "_since",
        "_wall_seen",
        "_wants_connect",
        "attached",
        "epoch",
        "terminal",
    )

    def __init__(
        self, terminal: str, options: Options, decoder: FastDecoder, mapper: Mapper, instants: Instants
    ) -> None:
        self.terminal = terminal
        self.epoch = 0
        self.attached = False
        self._options = options
        self._decoder = decoder
        self._mapper = mapper
        self._instants = instants
        self._outgoing: list[bytes] = []
        self._address: Address | None = None
        self._client = options.client_address
        self._identified = self._expected = False
        self._connected = False
        self._wants_connect = False
        self._presence: Presence = "offline"
        self._since = 0
        self._last_seen = 0.0
        self._wall_seen: int | None = None
        self._heartbeat = options.heartbeat_default_s
        self._offset: int | None = None
        self._piid = 0
        self._queue: deque[Request] | None = None
        self._exchange: Exchange | None = None
        self._ended: tuple[Exchange, ...] = ()
        self._pieces: Pieces | None = None
        self._recent: Recent | None = None

    # --- the link -----------------------------------------------------------------------------------------------

    def attach(self, moment: Moment) -> list[Event]:
        """A link has taken this terminal: the epoch goes up, and what was under way on the old link is lost."""
        del moment
        events = self._lose("another connection has taken over") if self.attached else []
        self.epoch += 1
        self.attached = True
        self._identified = False
        self._connected = False
        self._outgoing = []
        return events

    def detach(self, epoch: int, moment: Moment) -> list[Event]:
        """The link of `epoch` is gone. An older link's end changes nothing."""
        del moment
        if epoch != self.epoch or not self.attached:
            return []
        self.attached = False
        self._outgoing = []
        return self._lose("the connection was closed")

    def _lose(self, text: str) -> list[Event]:
        self._pieces = None
        self._drop_own()
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.request.context is _OWN:
            return []
        return [Answered(exchange.request, Failure("lost", text))]

    def outgoing(self) -> list[bytes]:
        """Frames to be written, each given once."""
        if not self._outgoing:
            return self._outgoing
        frames, self._outgoing = self._outgoing, []
        return frames

    # --- frames -------------------------------------------------------------------------------------------------

    def feed(self, frame: Frame, moment: Moment) -> list[Event]:
        """A frame with this terminal's address. Raises ProgrammingError while no link is attached."""
        if not self.attached:
            raise ProgrammingError(f"a frame of {self.terminal} was fed without a link")
        events: list[Event] = []
        if self._address is None or (frame.address != self._address and not logical_of(frame.address)):
            # Requests go to the terminal itself, not to a server behind it that reports too.
            self._address = frame.address
        octets = frame.data
        if frame.control & FRAGMENT:
            if not self._admitted(frame, moment, events):
                return events
            self._heard(moment, events, "frame")
            whole = self._fragment(frame, moment, events)
            if whole is None:
                return events
            octets = whole
        try:
            apdu, oddities = self._decoder.parse(octets)
            wrapped = type(apdu) in ENVELOPES
            if wrapped:
                octets, apdu, oddities = opened(apdu, self._decoder)
        except WireError as error:
            self._not_for_us(f"apdu: {error.reason}", frame, moment, events)
            return events
        if oddities:
            events.extend([Oddity(name) for name in oddities])
        if type(apdu) is link.LinkRequest:
            self._link(apdu, frame, moment, events)
        elif not isinstance(apdu, ServerApdu):
            self._not_for_us(f"service: {apdu.SERVICE} is not for a master", frame, moment, events)
        elif self._admitted(frame, moment, events):
            self._heard(moment, events, "frame")
            if type(apdu) in REPORTS:
                self._report(apdu, octets, frame, moment, events, wrapped=wrapped)
            else:
                self._answer(apdu, octets, frame, moment, events)
            if apdu.follow is not None:
                self._follow(apdu, frame, moment, events)
        return events

    def _not_for_us(self, reason: str, frame: Frame, moment: Moment, events: list[Event]) -> None:
        """A good frame that says nothing we can use: a sign of life, but nobody is identified by it."""
        if self._identified:
            self._heard(moment, events, "frame")
        events.append(Violation(reason, frame.raw))

    def _fragment(self, frame: Frame, moment: Moment, events: list[Event]) -> bytes | None:
        """Take a link fragment; gives the APDU when it is whole."""
        try:
            fragment = parse_fragment(frame.data, frame.data_offset)
        except WireError as error:
            events.append(Violation(f"fragment: {error.reason}", frame.raw))
            return None
        if fragment.kind == ACK:
            if self._exchange is not None:
                further = self._exchange.acknowledged(fragment, frame.address, self._client, moment.mono)
                if further is not None:
                    self._outgoing.append(further)
            return None
        if self._pieces is None:
            self._pieces = Pieces(self._options)
        waited = self._pieces.open
        answer, whole, warning = self._pieces.take(frame, fragment, moment.mono)
        if warning is not None:
            events.append(Violation(warning, frame.raw))
        if answer is not None:
            self._outgoing.append(answer)
        if self._exchange is not None and (waited or self._pieces.open):
            self._exchange.extend(moment.mono)
        return whole

    # --- LINK and presence --------------------------------------------------------------------------------------

    def _link(self, apdu: link.LinkRequest, frame: Frame, moment: Moment, events: list[Event]) -> None:
        allowed, trusted = self._options.allow(self.terminal), self._options.clock_trusted
        trusted = trusted() if callable(trusted) else trusted
        result = (0 if allowed else ILLEGAL_DEVICE) | (CLOCK_TRUSTED if trusted else 0)
        now = self._instants.date_time(moment.wall)
        response = link.LinkResponse(apdu.piid, result, apdu.time, now, now)
        self._outgoing.append(build_frame(LINK_ANSWER, frame.address, self._client, model.build(response)))
        if not allowed:
            events.append(CloseWanted("terminal is not allowed"))
            return
        self._address = frame.address
        if apdu.type == link.LOGOUT:
            self._identified = False
            self._last_seen, self._wall_seen = moment
            self._trigger("logout", moment, events, "logout")
            events.append(CloseWanted("logout"))
            return
        self._heartbeat = apdu.period or self._options.heartbeat_default_s
        told = self._instants[apdu.time]
        self._offset = None if told is None else told - moment.wall
        login = apdu.type == link.LOGIN
        if login or not self._identified:
            self._identified = True
            self._connected = False
            events.append(Identified(self.terminal, login))
            self._connect_unasked()
        self._heard(moment, events, "login" if login else "heartbeat", tell=login)
        self._proceed(moment)

    def _admitted(self, frame: Frame, moment: Moment, events: list[Event]) -> bool:
        """Whether a terminal that has not logged in on this link may speak (oddity 34)."""
        if self._identified:
            return True
        if not self._options.allow(self.terminal):
            events.append(CloseWanted("terminal is not allowed"))
            return False
        if self._options.unregistered == "refuse" and not self._expected:
            events += [Violation("not-logged-in", frame.raw), CloseWanted("not logged in")]
            return False
        self._identified = True
        events.append(Identified(self.terminal, login=False))
        self._heard(moment, events, "report", tell=True)
        self._proceed(moment)
        return True

    def _heard(self, moment: Moment, events: list[Event], reason: str, *, tell: bool = False) -> None:
        self._last_seen, self._wall_seen = moment
        if self._presence != "online" or tell:
            self._trigger("heard", moment, events, reason, tell=tell)

    def _trigger(
        self, trigger: Trigger, moment: Moment, events: list[Event], reason: str, *, tell: bool = False
    ) -> None:
        before = self._presence
        self._presence = TRANSITIONS[before, trigger]
        if self._presence != before:
            self._since = moment.wall
        elif not tell:
            return
        events.append(Deliver([self._state(reason, moment)], None))

    def _state(self, reason: str, moment: Moment) -> State:
        identity = message_id(self.terminal, reason.encode(), self._presence.encode(), moment.wall.to_bytes(8))
        return State(
            id=identity,
            terminal=self.terminal,
            received_at=moment.wall,
            presence=self._presence,
            reason=reason,
            since=self._since,
            last_seen=self._wall_seen,
            heartbeat_s=self._heartbeat,
            clock_offset_ms=self._offset,
        )

    @property
    def presence(self) -> Presence:
        return self._presence

    @property
    def clock_offset_ms(self) -> int | None:
        return self._offset

    @property
    def ready(self) -> bool:
        """Whether a request that is submitted now goes out at once."""
        return self._askable and self._exchange is None and not self._queue

    @property
    def _askable(self) -> bool:
        return self.attached and (self._identified or self._expected)

    def expect(self, moment: Moment) -> list[Event]:
        """The terminal is known to be on this link, though it has not spoken: it may be asked."""
        self._expected = True
        self._address = self._address or Address.of(self.terminal)
        self._proceed(moment)
        return []

    # --- reports ------------------------------------------------------------------------------------------------

    def _report(
        self, apdu: Any, octets: bytes, frame: Frame, moment: Moment, events: list[Event], *, wrapped: bool
    ) -> None:
        response = report_response(apdu)
        if wrapped and self._options.protected_answer == "security":
            response = protected(response)
        answer = build_frame(CLIENT_ANSWER, frame.address, frame.client, response)
        content = content_of(self.terminal, logical_of(frame.address), apdu, octets)
        known = self._known(content, moment)
        if known is not None:
            # Answered at once when it is durable, else together with the first.
            if known.settled:
                self._outgoing.append(answer)
            else:
                known.owe(self.epoch, answer)
            events.append(Oddity("report-repeated"))
            return
        messages = self._mapped(apdu, frame, moment)
        if messages:
            self._deliver(messages, Token(self.epoch, content, answer), moment, events)
        else:
            # Nothing was said, so nothing need be stored before the terminal may forget it.
            self._outgoing.append(answer)

    def _deliver(self, messages: list[Up], token: Token, moment: Moment, events: list[Event]) -> None:
        identify(messages, token.identity, self.terminal, moment.wall)
        events.append(Deliver(messages, token))
        if self._recent is None:
            self._recent = Recent()
        self._recent.remember(token, moment.mono)

    def _known(self, content: str, moment: Moment) -> Token | None:
        if self._recent is None:
            return None
        return self._recent.find(content, moment.mono, self._options.report_repeat_window_s)

    def _mapped(self, apdu: Any, frame: Frame, moment: Moment) -> list[Up]:
        said = Said(self.terminal, logical_of(frame.address), moment.wall)
        if isinstance(apdu, access.ReportNotificationRecordList):
            return self._mapper.of_records(apdu.records, said)
        if isinstance(apdu, access.ReportNotificationList):
            return self._mapper.of_results(apdu.results, said)
        return self._mapper.of_octets(apdu.port, apdu.data, said)

    def _follow(self, apdu: Any, frame: Frame, moment: Moment, events: list[Event]) -> None:
        """A follow report 跟随上报, which asks for no answer; the token only tells when it is durable."""
        logical = logical_of(frame.address)
        content = follow_content(self.terminal, logical, apdu)
        if self._known(content, moment) is not None:
            events.append(Oddity("report-repeated"))
            return
        said = Said(self.terminal, logical, moment.wall)
        items: Any = apdu.follow
        mapped = self._mapper.of_records if holds_records(items) else self._mapper.of_results
        messages = mapped(items, said)
        if messages:
            self._deliver(messages, Token(self.epoch, content), moment, events)

    def settle(self, token: Token, moment: Moment) -> None:
        """The messages are durable: the terminal is told, unless it has gone since.

        Raises ProgrammingError for a token that is settled or abandoned.
        """
        del moment
        if token.settled:
            raise ProgrammingError("a token is settled or abandoned once")
        token.settled = True
        if self.attached and token.epoch == self.epoch:
            self._outgoing.extend(token.answers)
        token.answers = []

    def abandon(self, token: Token) -> None:
        """The messages could not be stored: the terminal is not told, and its repetition is delivered anew.

        Raises ProgrammingError for a token that is settled or abandoned.
        """
        if token.settled:
            raise ProgrammingError("a token is settled or abandoned once")
        token.settled = True
        token.answers = []
        if self._recent is not None:
            self._recent.forget(token)

    # --- requests -----------------------------------------------------------------------------------------------

    def submit(self, request: Request, moment: Moment) -> list[Event]:
        """Queue a request; it is sent when those before it are answered.

        Raises ProgrammingError for what no terminal can be asked, and for a request that is under way.
        """
        if not isinstance(request.apdu, ClientApdu):
            raise ProgrammingError(f"{type(request.apdu).__name__} is no service of a master")
        try:
            model.build(request.apdu)
        except BuildError as error:
            raise ProgrammingError(f"{request.apdu.SERVICE} has no encoding: {error}") from error
        if self._queue is None:
            self._queue = deque()
        if request in self._queue or (self._exchange is not None and self._exchange.request is request):
            raise ProgrammingError("a request is submitted again only when it is answered")
        request.attempts = 0
        if len(self._queue) >= self._options.max_requests:
            return [Answered(request, Failure("busy", f"{len(self._queue)} requests are waiting for this terminal"))]
        self._queue.append(request)
        self._proceed(moment)
        return []

    def _proceed(self, moment: Moment) -> None:
        """Send the next request, once the terminal has shown itself on this link."""
        if self._exchange is None and self._queue and self._askable:
            request = self._queue.popleft()
            timeout = request.timeout if request.timeout is not None else self._options.request_timeout_s
            self._exchange = Exchange(request, timeout, self._options.max_apdu)
            self._attempt(moment)

    def _attempt(self, moment: Moment) -> None:
        assert self._exchange is not None
        assert self._address is not None
        self._piid = self._piid + 1 & 0x3F
        self._exchange.request.sent_at = moment.wall
        size = self._options.fragment_octets
        self._outgoing.append(self._exchange.start(self._piid, self._address, self._client, moment.mono, size))

    def _answer(self, apdu: ServerApdu, octets: bytes, frame: Frame, moment: Moment, events: list[Event]) -> None:
        if isinstance(apdu, link.ReleaseNotification):
            self._connected = False
            self._connect_unasked()
            self._proceed(moment)
            return
        exchange = self._exchange
        if exchange is None or not exchange.answers(apdu):
            late = [ended for ended in self._ended if ended.answers(apdu)]
            self._ended = tuple([ended for ended in self._ended if ended not in late])
            events.append(Late(late[0].request, apdu) if late else Oddity("unmatched-answer"))
            return
        result: Any = apdu
        if isinstance(apdu, access.GetResponseNext):
            result = exchange.block(apdu, len(octets), moment.mono)
            if isinstance(result, access.GetRequestNext):
                request = model.build(result)
                self._outgoing.append(build_frame(0x43, frame.address, self._client, request))
                return
        elif isinstance(apdu, link.ServerError):
            if apdu.error == SERVICE_NOT_SUPPORTED and self._may_connect(exchange):
                # The terminal serves nothing before CONNECT (oddity 31): connect, then ask again.
                self._exchange = None
                self._wants_connect = True
                self._queue = self._queue if self._queue is not None else deque()
                self._queue.appendleft(exchange.request)
                self._ask_connect()
                self._proceed(moment)
                return
            result = Failure("refused", f"error response {apdu.error}", apdu.error)
        elif isinstance(apdu, link.ConnectResponse):
            self._connected = apdu.result == 0
        self._finish(exchange, result, moment, events)

    def _may_connect(self, exchange: Exchange) -> bool:
        asked = isinstance(exchange.request.apdu, link.ConnectRequest)
        return self._options.connect != "never" and not self._connected and not asked

    def _connect_unasked(self) -> None:
        """CONNECT before anything else where the settings say so, or the terminal wanted it before (oddity 31)."""
        if self._options.connect == "always" or (self._options.connect == "auto" and self._wants_connect):
            self._ask_connect()

    def _ask_connect(self) -> None:
        """Put a CONNECT before everything that waits, unless one is under way."""
        if self._exchange is not None and self._exchange.request.context is _OWN:
            return
        self._drop_own()
        size = min(self._options.max_apdu, 0xFFFF)
        connect = link.ConnectRequest(Piid(0), _VERSION, b"\xff" * 8, b"\xff" * 16, 1024, 1024, 1, size, 7200)
        self._queue = self._queue if self._queue is not None else deque()
        self._queue.appendleft(Request(connect, context=_OWN))

    def _drop_own(self) -> None:
        if self._queue and any(request.context is _OWN for request in self._queue):
            self._queue = deque([request for request in self._queue if request.context is not _OWN])

    def _finish(self, exchange: Exchange, result: Any, moment: Moment, events: list[Event]) -> None:
        self._exchange = None
        if isinstance(result, Failure) and result.name == "timed_out":
            self._ended = (*self._ended[-_REMEMBERED:], exchange)
        if exchange.request.context is not _OWN:
            events.append(Answered(exchange.request, result))
        elif isinstance(result, Failure) or result.result != 0:
            events.append(Oddity("connect-refused"))
            # What waited for the connection is asked all the same; the terminal's answer is then the truth.
            self._connected = True
            self._wants_connect = False
        self._proceed(moment)

    def cancel(self, request: Request, moment: Moment) -> list[Event]:
        """Take back a request that has not been sent; one under way stays."""
        if self._queue is None or request not in self._queue:
            return []
        self._queue.remove(request)
        self._proceed(moment)
        return [Answered(request, Failure("cancelled", "taken back before it was sent"))]

    def give_up(self, request: Request, moment: Moment) -> list[Event]:
        """The present attempt has had no answer: as if its time were over."""
        events: list[Event] = []
        if self._exchange is not None and self._exchange.request is request:
            self._finish(self._exchange, Failure("timed_out", "no answer in its turn"), moment, events)
        return events

    # --- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """The nearest instant (mono) at which something is overdue."""
        nearest = self._silent_at()
        for waiting in (self._exchange, self._pieces):
            other = waiting.deadline if waiting is not None else None
            if other is not None and (nearest is None or other < nearest):
                nearest = other
        return nearest

    def _silent_at(self) -> float | None:
        """When silence changes the presence next; `tick` compares with the same number, so that it meets it."""
        if self._presence == "offline":
            return None
        periods = self._options.suspect_after if self._presence == "online" else self._options.offline_after
        return self._last_seen + self._heartbeat * periods

    def tick(self, moment: Moment) -> list[Event]:
        """Do what is overdue."""
        events: list[Event] = []
        silent_at = self._silent_at()
        if silent_at is not None and moment.mono >= silent_at:
            if moment.mono >= self._last_seen + self._heartbeat * self._options.offline_after:
                self._trigger("missed", moment, events, "heartbeat_missed")
            else:
                self._trigger("late", moment, events, "heartbeat_late")
        if self._pieces is not None and self._pieces.deadline is not None and moment.mono >= self._pieces.deadline:
            self._pieces = None
            events.append(Violation("fragment-timeout", b""))
        if self._exchange is not None and moment.mono >= self._exchange.deadline:
            self._overdue(self._exchange, moment, events)
        return events

    def _overdue(self, exchange: Exchange, moment: Moment, events: list[Event]) -> None:
        request = exchange.request
        retries = request.retries if request.retries is not None else self._options.request_retries
        if request.attempts > retries:
            text = f"no answer to {request.attempts} attempt(s) of {exchange.timeout:g} s"
            self._finish(exchange, Failure("timed_out", text), moment, events)
            return
        assert self._address is not None
        fragment = exchange.repeat(self._address, self._client, moment.mono)
        if fragment is None:
            self._attempt(moment)
        else:
            self._outgoing.append(fragment)


_REMEMBERED: Final = 3
"""Requests without answer, besides the newest, of which a late answer is recognized."""
_OWN = object()
"""Context of the requests that the machine makes for itself."""
