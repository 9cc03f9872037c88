"""The reports a terminal owes its master: sent, re-sent with a new PIID, kept until acknowledged (reports.md 5 and 6).

Theory of operation. Events and task uploads are two streams with a PIID count each, so the same PIID may be under way
twice. Of each stream one report is in flight. It is sent, and after each `retry` seconds without an acknowledgement
sent again with the next PIID; after `resends` of these it steps aside so that the others get their turn, and comes
back with the next connection, or after `rest` seconds on the same one. It leaves the outbox by no other way than the
acknowledgement.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from wire698.values import Oad

from .counters import Counters
from .truth import TrueReport, Truth

EVENT, TASK = "event", "task"


@dataclass(slots=True)
class Report:
    """A notification. `apdu`: its octets with PIID 0; `oads`: those of its results, which the answer must repeat."""

    stream: str
    apdu: bytes
    oads: tuple[Oad, ...]
    truth: TrueReport
    sends: int = 0
    piid: int = -1

    @property
    def kind(self) -> int:
        """The second octet: 1 list, 2 record list."""
        return self.apdu[1]

    def octets(self) -> bytes:
        """The APDU under its present PIID."""
        return self.apdu[:2] + bytes((self.piid,)) + self.apdu[3:]


class _Stream:
    __slots__ = ("due", "flight", "piid", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Report] = deque()
        self.flight: Report | None = None
        self.due = 0.0
        self.piid = 0


class Outbox:
    """The two streams of one terminal; at most `limit` reports are held in all."""

    __slots__ = (
        "_counters",
        "_limit",
        "_resends",
        "_rest",
        "_resting",
        "_retry",
        "_streams",
        "_truth",
        "open",
    )

    def __init__(
        self,
        truth: Truth,
        counters: Counters,
        *,
        limit: int = 1000,
        retry: float = 5.0,
        resends: int = 3,
        rest: float = 60.0,
    ) -> None:
        self.open = False
        """Whether reports may go out: the terminal is logged in (and connected, where it wants that first)."""
        self._truth = truth
        self._counters = counters
        self._limit = limit
        self._retry = retry
        self._resends = resends
        self._rest = rest
        self._streams = {EVENT: _Stream(), TASK: _Stream()}
        self._resting: deque[tuple[float, Report]] = deque()

    def __len__(self) -> int:
        held = sum(len(s.waiting) + (s.flight is not None) for s in self._streams.values())
        return held + len(self._resting)

    @property
    def full(self) -> bool:
        """No further report may be made."""
        return len(self) >= self._limit

    def add(self, report: Report) -> None:
        """Queue a report; the caller has looked at `full`."""
        self._streams[report.stream].waiting.append(report)

    def reconnected(self) -> None:
        """A new connection: what was in flight or resting goes again, first come first served."""
        self.open = False
        for name, stream in self._streams.items():
            owed = [report for _, report in self._resting if report.stream == name]
            if stream.flight is not None:
                owed.append(stream.flight)
                stream.flight = None
            for report in owed:
                report.sends = 0
            owed.sort(key=lambda report: report.truth.number)
            stream.waiting.extendleft(reversed(owed))
        self._resting.clear()

    def deadline(self) -> float | None:
        """When something is to be sent; the past for at once."""
        if not self.open:
            return None
        dues = [due for due, _ in list(self._resting)[:1]]
        for stream in self._streams.values():
            if stream.flight is not None:
                dues.append(stream.due)
            elif stream.waiting:
                return 0.0
        return min(dues, default=None)

    def tick(self, now: float, *, busy: bool) -> list[Report]:
        """What to send now. While the link is `busy` with fragments nothing is sent again."""
        if not self.open:
            return []
        while self._resting and self._resting[0][0] <= now:
            _, report = self._resting.popleft()
            report.sends = 0
            self._streams[report.stream].waiting.append(report)
        sent = []
        for stream in self._streams.values():
            if stream.flight is not None and stream.due <= now:
                if busy:
                    stream.due = now + self._retry
                elif stream.flight.sends > self._resends:
                    self._resting.append((now + self._rest, stream.flight))
                    stream.flight = None
                else:
                    sent.append(self._send(stream, stream.flight, now))
            if stream.flight is None and stream.waiting:
                stream.flight = stream.waiting.popleft()
                sent.append(self._send(stream, stream.flight, now))
        return sent

    def _send(self, stream: _Stream, report: Report, now: float) -> Report:
        if report.truth.attempts:
            self._counters.retries += 1
        else:
            self._counters.reports_sent += 1
        report.piid = stream.piid
        stream.piid = stream.piid + 1 & 0x3F
        report.sends += 1
        stream.due = now + self._retry
        self._truth.was_sent(report.truth, now)
        return report

    def acknowledge(self, kind: int, piid: int, oads: tuple[Oad, ...], now: float) -> Report | None:
        """The report that this answer settles: equal in kind, whole PIID octet and OADs; None where none is."""
        for stream in self._streams.values():
            report = stream.flight
            if report is not None and (report.kind, report.piid, report.oads) == (kind, piid, oads):
                stream.flight = None
                self._counters.acknowledged += 1
                self._truth.was_acknowledged(report.truth, now)
                return report
        self._counters.stale_acks += 1
        return None
