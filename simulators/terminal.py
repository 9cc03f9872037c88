"""A terminal 采集终端 as a sans-IO machine: login, heartbeats, reports until acknowledged, answers to requests.

Theory of operation. The shell tells it of connections, frames and time; it returns the octets to write. A connection
begins with LINK login; reports leave only when the login (and CONNECT, where this terminal insists) is through. `now`
is the link's real time; the body lives in simulated time, which the Timebase derives from it. What is unanswered is
asked again; after three LINK-Requests without an answer the terminal wants the connection closed.
"""

from __future__ import annotations

import hashlib
from collections import deque

from wire698 import access, link, model
from wire698.errors import WireError
from wire698.frame import BROADCAST, DATA_FUNCTION, DIR, GROUP, LINK_FUNCTION, PRM, SCRAMBLED, Address, Frame
from wire698.pieces import Apdu, ClientApdu, ResultNormal, ResultRecord, ServerApdu
from wire698.rows import Row
from wire698.security import PLAIN, REFUSED, Check, SecurityRequest, SecurityResponse, Unit
from wire698.values import Dar, Data, Oad, Piid, Tag

from .answers import CANNOT_PARSE, NOT_SUPPORTED, Services
from .body import Body
from .carrier import Carrier, Outgoing
from .counters import Counters
from .happenings import Happening, Occurrence, Shown, Switched, Upload
from .outbox import EVENT, TASK, Outbox, Report
from .records import SERIES, TASKS, Event, table_of
from .settings import RequestKind, TerminalSettings
from .stamps import Timebase, date_time, read_date_time
from .truth import TrueMessage, TrueSwitch, Truth
from .uploads import true_rows, upload_apdu

_LINK, _LINK_ANSWERS = DIR | LINK_FUNCTION, 0x03
_REPORT = DIR | DATA_FUNCTION
_ANSWER = DIR | PRM | DATA_FUNCTION
_UNANSWERED = 3
"""So many LINK-Requests without an answer end the connection."""
_ACTION, _PROXY = 0x07, 0x09
_KINDS: dict[int, RequestKind] = {0x05: "get", 0x06: "set", 0x07: "action", _PROXY: "proxy"}
_ESAM_FAILED = Dar(22)
_CLIENT_TAGS = frozenset({0x02, 0x03, 0x05, 0x06, 0x07, 0x09})
_RESULT = 0x07

OFFLINE, LOGGING_IN, ONLINE, ATTACHED = "offline", "logging_in", "online", "attached"


class Terminal:
    """One terminal. `feed`, `tick`, `connected` and `logout` return the frames to write, in their order.

    `close_wanted` tells the shell to close the connection; a body without power cannot open one (`powered`).
    """

    def __init__(self, settings: TerminalSettings, timebase: Timebase, truth: Truth, counters: Counters) -> None:
        self.settings = settings
        self.address = Address.of(settings.address)
        self.state = OFFLINE
        self.close_wanted = False
        self.refused = False
        self.made = 0
        self._closed = False
        self.clock_offset_s: float | None = None
        self.body = Body(settings, timebase.start)
        self.outbox = Outbox(
            truth,
            counters,
            limit=settings.queue_limit,
            retry=settings.retry_s,
            resends=settings.resends,
            rest=settings.rest_s,
        )
        self.services = Services(self.body, settings.frame_size, settings.apdu_size)
        self._timebase = timebase
        self._truth = truth
        self._counters = counters
        self._carrier = Carrier(self.address, settings.frame_size, settings.fragment_patience_s, counters)
        self._client = 0
        self._link_piid = 0
        self._link_time: bytes | None = None
        self._unanswered = 0
        self._link_due: float | None = None
        self._later: deque[tuple[float, Outgoing]] = deque()
        self._body_due = timebase.real(self.body.deadline())

    # --- what the shell tells ---

    @property
    def powered(self) -> bool:
        """The premises have power; without it there is no connection."""
        return self.body.powered

    @property
    def finished(self) -> bool:
        """It made all the reports it may, and all are acknowledged."""
        limit = self.settings.report_limit
        return limit is not None and self.made >= limit and not len(self.outbox)

    def connected(self, now: float) -> list[bytes]:
        """A connection is there: log in."""
        self._begin(LOGGING_IN)
        return self._link_request(link.LOGIN, now)

    def attached(self) -> None:
        """A line is there on which terminals speak only when they are spoken to: no login, and no reports from now on.

        What it would have reported stays in its records, to be read.
        """
        self._begin(ATTACHED)
        self.make_no_more()

    def _begin(self, state: str) -> None:
        self._carrier.reset()
        self.services.reset()
        self.outbox.reconnected()
        self._later.clear()
        self.state = state
        self.close_wanted = self.refused = False
        self._unanswered = 0

    def disconnected(self) -> None:
        """The connection is gone."""
        if self.state == ONLINE:
            self._counters.online -= 1
        self.state = OFFLINE
        self.outbox.open = False
        self._link_due = None
        self._link_time = None

    def logout(self, now: float) -> list[bytes]:
        """Say goodbye, if this terminal does (most never do)."""
        if self.state != ONLINE or not self.settings.logs_out:
            return []
        self._counters.logouts += 1
        return self._link_request(link.LOGOUT, now)

    def make_no_more(self) -> None:
        """Only what is queued goes out from now on."""
        self._closed = True

    def look_again(self) -> None:
        """The body was changed from outside: find its next deadline anew."""
        self._body_due = self._timebase.real(self.body.deadline())

    def deadline(self) -> float:
        """The real time at which `tick` has something to do."""
        due = self._body_due
        if self.state == OFFLINE:
            return due
        for other in (self._link_due, self.outbox.deadline(), self._carrier.deadline()):
            if other is not None and other < due:
                due = other
        return min(due, self._later[0][0]) if self._later else due

    def tick(self, now: float) -> list[bytes]:
        """Do what fell due."""
        self._live(now)
        if self.state == OFFLINE:
            return []
        frames = self._carrier.tick(now)
        if self._link_due is not None and now >= self._link_due:
            frames += self._link_again(now)
        while self._later and self._later[0][0] <= now:
            frames += self._carrier.send(self._later.popleft()[1], now)
        return frames + self._reports(now)

    def feed(self, frame: Frame, now: float) -> list[bytes]:
        """Take a frame of the master."""
        self._counters.frames_in += 1
        mine, answered = self._for_me(frame.address)
        if frame.from_server or not mine:
            self._counters.foreign += 1
            return []
        if self.body.control.heard(self._timebase.simulated(now)):
            self.look_again()
        try:
            frames, apdu = self._carrier.take(frame, now)
        except WireError:
            return []
        if apdu is not None:
            frames += self._take(apdu, frame, now, answered=answered)
        return frames + self.tick(now)

    def _for_me(self, address: Address) -> tuple[bool, bool]:
        """(whether a frame to this address is taken, whether it is answered)."""
        if address.kind in (GROUP, BROADCAST):
            return True, False
        if address.sa == self.address.sa:
            return True, True
        digits, own = address.text, self.address.text
        same = len(digits) == len(own) and all(a in ("A", b) for a, b in zip(digits, own, strict=True))
        return same and "A" in digits, True

    # --- LINK ---

    def _link_request(self, kind: int, now: float) -> list[bytes]:
        self._link_time = date_time(self._shown(now))
        piid = Piid(self._link_piid)
        self._link_piid = self._link_piid + 1 & 0x3F
        apdu = link.LinkRequest(piid=piid, type=kind, period=self.body.heartbeat_s, time=self._link_time)
        waits = self.settings.login_timeout_s if kind == link.LOGIN else self.body.heartbeat_s or 300
        self._link_due = now + waits
        self._unanswered += 1
        return self._carrier.send(Outgoing(_LINK, self._client, model.build(apdu)), now)

    def _link_again(self, now: float) -> list[bytes]:
        if self._unanswered:
            self._counters.link_timeouts += 1
        if self._unanswered >= _UNANSWERED:
            self.close_wanted = True
            self._link_due = None
            return []
        if self.state != ONLINE:
            return self._link_request(link.LOGIN, now)
        self._counters.heartbeats += 1
        return self._link_request(link.HEARTBEAT, now)

    def _link_answered(self, apdu: link.LinkResponse, client: int, now: float) -> None:
        if self._link_time is None or apdu.request != self._link_time:
            return
        self._link_time = None
        self._unanswered = 0
        self._client = client
        if apdu.result & _RESULT:
            if self.state != ONLINE:
                self._counters.refused_logins += 1
                self.close_wanted = self.refused = True
            return
        self._compare_clocks(apdu, now)
        if self.state != ONLINE:
            self.state = ONLINE
            self._counters.logins += 1
            self._counters.online += 1
            self._link_due = now + (self.body.heartbeat_s or 300)
            self.outbox.open = self.services.connected

    def _compare_clocks(self, apdu: link.LinkResponse, now: float) -> None:
        t1, t2, t3 = map(read_date_time, (apdu.request, apdu.received, apdu.response))
        if t1 is None or t2 is None or t3 is None:
            return
        # K = (U - V) / 2 of reports.md section 9, from the four times.
        self.clock_offset_s = ((t2 - t1) - (self._shown(now) - t3)) / 2
        offset_ms = abs(self.clock_offset_s) * 1000
        self._counters.clock_offset_ms = max(self._counters.clock_offset_ms, offset_ms)

    def _shown(self, now: float) -> float:
        return self.body.clock.read(self._timebase.simulated(now))

    # --- requests ---

    def _take(self, octets: bytes, frame: Frame, now: float, *, answered: bool) -> list[bytes]:
        try:
            apdu: Apdu = model.parse(octets).apdu
        except WireError:
            if not answered or not octets or octets[0] not in _CLIENT_TAGS:
                return []
            error = link.ServerError(piid=_piid_of(octets), error=CANNOT_PARSE)
            return self._reply(self._cut(error), frame, now)
        if isinstance(apdu, link.LinkResponse):
            self._link_answered(apdu, frame.client, now)
            return []
        if isinstance(apdu, SecurityResponse):
            # The answer to a protected report: what counts is inside.
            inner = model.inner_of(apdu)
            return [] if inner is None else self._take(inner, frame, now, answered=False)
        if isinstance(apdu, access.ReportResponseList | access.ReportResponseRecordList):
            self.outbox.acknowledge(apdu.HEAD[1], apdu.piid, apdu.oads, now)
            return []
        asked = isinstance(apdu, SecurityRequest) or (isinstance(apdu, ClientApdu) and apdu.HEAD[0] in _CLIENT_TAGS)
        if asked and self.settings.silent:
            self._counters.ignored += 1
            return []
        if isinstance(apdu, SecurityRequest):
            return self._protected(apdu, frame, now) if answered else []
        if asked and isinstance(apdu, ClientApdu):
            return self._serve(apdu, frame, now, answered=answered)
        return []

    def _serve(self, apdu: ClientApdu, frame: Frame, now: float, *, answered: bool) -> list[bytes]:
        response = self._answer(apdu, now, answered=answered)
        return self._reply(self._cut(response), frame, now, _KINDS.get(apdu.HEAD[0])) if answered else []

    def _answer(self, apdu: ClientApdu, now: float, *, answered: bool = True) -> ServerApdu:
        self._live(now)
        self._counters.requests += 1
        at = self._timebase.simulated(now)
        power = self.body.premises.kilowatts(at) if apdu.HEAD[0] == _ACTION else 0.0
        response = self.services.answer(apdu, at)
        for omd, dar in self.services.acted:
            self._counters.controls += dar == 0
            self._counters.refused_controls += dar != 0
            self._truth.control(
                self.settings.address, now, round(at * 1000), str(omd), apdu.piid, dar, power, answered=answered
            )
        if isinstance(response, link.ServerError):
            self._counters.refused_requests += 1
        if self.services.agreed_frame is not None:
            self._carrier.limit(self.services.agreed_frame)
        if self.state == ONLINE:
            self.outbox.open = self.services.connected
        if self.services.objects.restart_wanted:
            self.services.objects.restart_wanted = False
            self.close_wanted = True
        # A clock or a task may have been set.
        self.look_again()
        return response

    def _cut(self, response: ServerApdu) -> bytes:
        octets = model.build(response)
        if len(octets) > self._carrier.room and self.settings.big_answers == "blocks":
            octets = model.build(self.services.in_blocks(response, self._carrier.room))
        return octets

    def _reply(self, octets: bytes, frame: Frame, now: float, kind: RequestKind | None = None) -> list[bytes]:
        out = Outgoing(_ANSWER, frame.client, octets, frame.control & SCRAMBLED != 0)
        delay = self.settings.proxy_delay_s if kind == "proxy" else self.settings.answer_delay_s
        if kind is not None:
            delay += self.settings.answers_late_s.get(kind, 0.0)
        if delay <= 0 and not self._later:
            return self._carrier.send(out, now)
        # Answers leave in the order of their requests.
        due = max(now + delay, self._later[-1][0] if self._later else now)
        self._later.append((due, out))
        return []

    def _protected(self, apdu: SecurityRequest, frame: Frame, now: float) -> list[bytes]:
        inner = model.inner_of(apdu)
        if inner is None:
            refused = SecurityResponse(unit=Unit(REFUSED, _ESAM_FAILED))
            return self._reply(model.build(refused), frame, now)
        try:
            request = model.parse(inner).apdu
        except WireError:
            request = None
        if isinstance(request, access.ReportResponseList | access.ReportResponseRecordList):
            self.outbox.acknowledge(request.HEAD[1], request.piid, request.oads, now)
            return []
        if isinstance(request, ClientApdu):
            response = self._answer(request, now)
        else:
            error = CANNOT_PARSE if request is None else NOT_SUPPORTED
            response = link.ServerError(piid=_piid_of(inner), error=error)
        octets = self._cut(response)
        envelope = SecurityResponse(unit=Unit(PLAIN, octets), mac=_mac(octets))
        return self._reply(model.build(envelope), frame, now, _KINDS.get(inner[0]))

    # --- reports ---

    def _live(self, now: float) -> None:
        """Let the body catch up with the time."""
        if now < self._body_due:
            return
        # The margin covers the rounding between the two times, so that a deadline met is a thing done.
        for happening in self.body.advance(self._timebase.simulated(now) + 1e-5):
            self._tell(happening)
        self._body_due = self._timebase.real(self.body.deadline())
        if not self.body.powered and self.state != OFFLINE:
            self.close_wanted = True

    def _tell(self, happening: Happening) -> None:
        if isinstance(happening, Upload):
            if self.body.reporting:
                self._upload(happening)
            return
        if isinstance(happening, Switched):
            self._counters.switches += 1
            self._truth.switched(
                TrueSwitch(
                    self.settings.address,
                    round(happening.at * 1000),
                    happening.relay,
                    happening.is_open,
                    happening.cause,
                    round(happening.before_kw, 4),
                    round(happening.after_kw, 4),
                )
            )
            return
        if isinstance(happening, Shown):
            at, kind, number, words = happening
            self._truth.shown(TrueMessage(self.settings.address, round(at * 1000), kind, number, words))
            return
        if happening.transition == "raised":
            self._counters.events += 1
        if self.body.wants_report(happening):
            self._event(happening)

    def _may_make(self) -> bool:
        limit = self.settings.report_limit
        if self._closed or (limit is not None and self.made >= limit):
            return False
        if self.outbox.full:
            self._counters.withheld += 1
            return False
        self.made += 1
        self._counters.reports_made += 1
        return True

    def _upload(self, upload: Upload) -> None:
        size = self.settings.rows_per_report
        for at in range(0, len(upload.rows), size):
            if not self._may_make():
                return
            rows = upload.rows[at : at + size]
            told = true_rows(upload.of, rows) if self._truth.wants_rows else ()
            entry = self._truth.report(self.settings.address, "88 02", "task", SERIES[upload.of], told, count=len(rows))
            self.outbox.add(Report(TASK, upload_apdu(upload.of, rows), (TASKS,), entry))

    def _event(self, occurrence: Occurrence) -> None:
        if not self._may_make():
            return
        event = occurrence.event
        # 3300: bit 0 the occurrence, bit 2 the end has been told.
        event.status |= 1 if occurrence.transition == "raised" else 4
        oad = event.table
        form = "88 02" if self.settings.event_form == "record" else "88 01"
        entry = self._truth.report(self.settings.address, form, "event", event.kind.slug, (), _true_event(occurrence))
        self.outbox.add(Report(EVENT, self._event_apdu(event, oad), (oad,), entry))

    def _event_apdu(self, event: Event, oad: Oad) -> bytes:
        piid = Piid(0)
        if self.settings.event_form == "record":
            record = ResultRecord(oad, event.rcsd, table_of([event], event.rcsd))
            return model.build(access.ReportNotificationRecordList(piid=piid, records=(record,)))
        value = event.structure()
        if self.settings.event_form == "array":
            value = Data(Tag.ARRAY, (value,))
        result = ResultNormal(oad=oad, result=Row.of((value,)))
        return model.build(access.ReportNotificationList(piid=piid, results=(result,)))

    def _reports(self, now: float) -> list[bytes]:
        if not self.outbox.open:
            return []
        frames: list[bytes] = []
        for report in self.outbox.tick(now, busy=self._carrier.busy):
            octets = report.octets()
            if self.settings.protected:
                octets = _sealed(octets)
            out = Outgoing(_REPORT, self._client, octets, self.settings.scrambled)
            frames += self._carrier.send(out, now)
        return frames


def _true_event(occurrence: Occurrence) -> dict[str, object]:
    event = occurrence.event
    return {
        "event": event.kind.slug,
        "oi": f"{event.kind.oi:04X}",
        "phase": "abc"[event.phase] if event.phase is not None else None,
        "meter": event.meter,
        "record_no": event.number,
        "transition": occurrence.transition,
        "occurred_at": event.began * 1000,
        "ended_at": None if event.ended is None else event.ended * 1000,
    }


def _piid_of(octets: bytes) -> Piid:
    """Where a PIID would stand in an APDU that cannot be read."""
    place = 1 if octets[:1] in (b"\x02", b"\x03") else 2
    return Piid(octets[place] if len(octets) > place else 0)


def _mac(octets: bytes) -> bytes:
    """Four octets in the place of a MAC; the cipher machine's key is not ours."""
    return hashlib.sha256(octets).digest()[:4]


def _sealed(octets: bytes) -> bytes:
    """A report in a SECURITY-Request, plaintext with RN and MAC (wire.md b.12)."""
    rn = hashlib.sha256(b"rn" + octets).digest()[:16]
    return model.build(SecurityRequest(unit=Unit(PLAIN, octets), check=Check(2, (rn, _mac(rn + octets)))))
