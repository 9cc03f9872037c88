"""Commands on their way 命令: order, sending, answers, verification, the final status. What is told is always true.

Theory of operation. A job is a command at one terminal. Its stage is durable before the world can notice a difference:
a control is `sending` in the ledger before its octets are out, so that after a crash it is never sent twice; a status
and the Ack that tells it are one transaction. One terminal has one job under way; which goes next is decided when the
one before is done: control before configuration before queries, then by priority, then by age.

    waiting --turn--> [guarding] --> sending --> sent --answer--> checking --> ended
       |                                 |                            |
       +--expired, cancelled, rejected   +--crash: unknown, checked   +-- verified | not_effective
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from gateway.clock import Clock
from gateway.interlocks import Interlocks
from gateway.jobs import CommandCounters, CommandLimits, Job
from gateway.journal import Journal, JournalFull
from gateway.ledger import Ledger, Record, history, insert, move, update
from gateway.outlet import Outlet
from gateway.sessions import Session, Sessions
from messages import Ack, AckError, Command, Status, Up, is_final, message_id
from protocols.commands import Invalid, Outcome, Plan, Quirks
from protocols.events import Answered, Failure, Late, Moment, Request
from protocols.registry import Dialogue

_RETRY_S: Final = 5.0
"""Wait before a pre-check that had no answer is made again."""
_UNREADABLE_S: Final = 3600.0
"""A control whose effect could not be read back for so long is given up."""


class Commands:
    """All jobs of the node. Loop thread only. `quirks(terminal)` says how that terminal differs."""

    def __init__(
        self,
        journal: Journal,
        outlet: Outlet,
        sessions: Sessions,
        clock: Clock,
        limits: CommandLimits,
        interlocks: Interlocks,
        dialogue: Dialogue,
        quirks: Callable[[str], Quirks],
    ) -> None:
        self.counters = CommandCounters()
        self.ledger = Ledger(journal)
        self.interlocks = interlocks
        self._dialogue = dialogue
        self._quirks = quirks
        self.jobs: dict[tuple[str, str], Job] = {}
        self._journal = journal
        self._outlet = outlet
        self._sessions = sessions
        self._clock = clock
        self.limits = limits
        self._waiting: dict[str, list[tuple[int, int, int, Job]]] = {}
        self._checks: dict[str, deque[Job]] = {}
        self._active: dict[str, Job] = {}
        self._expiries: list[tuple[int, int, Job]] = []
        self._later: list[tuple[float, int, Job]] = []
        self._count = itertools.count()
        self._untold: deque[Callable[[], None]] = deque()

    # --- taking on ----------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take up what the ledger holds open: queries go out again, a control that may have gone out is looked at."""
        moment = self._clock.moment()
        for record in await self.ledger.open():
            try:
                plan = self.plan_of(record.command, record.command_class, record.terminal, record.accepted_at)
            except Invalid as error:
                self._enter(Job(record, _NO_PLAN))
                self._tell(self.jobs[record.command.id, record.terminal], "rejected", error=_invalid(error))
                continue
            job = Job(record, plan)
            self._enter(job)
            if record.stage == "waiting" or (job.repeatable and record.stage in ("sending", "sent")):
                self._queue(job)
            elif record.stage in ("sending", "sent"):
                self._tell(job, "unknown", error=_CRASHED)
                self._check_or_end(job, moment)
            else:
                self._check_or_end(job, moment)

    def plan_of(self, command: Command, command_class: str, terminal: str, now: int) -> Plan:
        """What a command becomes at a terminal. Raises Invalid."""
        return self._dialogue_of(terminal).plan(command, command_class, self._quirks(terminal), now)

    def _dialogue_of(self, terminal: str) -> Dialogue:
        """What speaks with a terminal: its channel's, or the first channel's for one that was never here."""
        session = self._sessions.get(terminal)
        return session.context.dialogue if session is not None else self._dialogue

    def room(self, terminal: str) -> bool:
        """Whether one more job may be taken on for a terminal."""
        mine = len(self._waiting.get(terminal, ())) + len(self._checks.get(terminal, ())) + (terminal in self._active)
        return mine < self.limits.max_per_terminal and len(self.jobs) < self.limits.max_open

    def accept(self, record: Record, plan: Plan, stored: Callable[[], None]) -> None:
        """Take a command on: `accepted` is told, and `stored` called, once it is durable. Raises JournalFull."""
        job = Job(record, plan)
        ack = self._ack(job, "accepted")

        def committed() -> None:
            self._queue(job)
            self.pump(job.terminal)
            stored()

        self._outlet.store([ack], committed, lambda: insert(record, ack))
        self._enter(job)
        self._counted("accepted")

    def refuse(
        self,
        record: Record,
        status: Status,
        error: AckError | None,
        result: Any,
        stored: Callable[[], None],
        *,
        keep: bool,
    ) -> None:
        """A command that ends where it began: rejected, expired, or answered without being sent. Raises JournalFull.

        Without `keep` it is told and not entered: the ledger has, or may have, another command by that id.
        """
        ack = self._ack(Job(record, _NO_PLAN), status, error=error, result=result)
        self._outlet.store([ack], stored, (lambda: insert(record, ack)) if keep else None)
        self._counted(status)

    def online(self, terminal: str) -> bool:
        """Whether a terminal is on a link."""
        session = self._sessions.get(terminal)
        return session is not None and session.link is not None

    def octets_of(self, plan: Plan, terminal: str) -> list[str]:
        """What would be sent, hexadecimal, an APDU each."""
        return self._dialogue_of(terminal).octets(plan)

    def _enter(self, job: Job) -> None:
        self.jobs[job.command.id, job.terminal] = job
        self.counters.open = len(self.jobs)

    def _queue(self, job: Job) -> None:
        if job.phase == "ended":
            return
        job.phase = "waiting"
        key = (job.plan.priority, -job.command.priority, next(self._count))
        heapq.heappush(self._waiting.setdefault(job.terminal, []), (*key, job))
        heapq.heappush(self._expiries, (job.command.expires_at, key[2], job))

    # --- whose turn it is ---------------------------------------------------------------------------------------

    def pump(self, terminal: str) -> None:
        """Start the next job of a terminal, if it is there and free."""
        session = self._sessions.get(terminal)
        while session is not None and session.link is not None and terminal not in self._active:
            job = self._next(terminal)
            if job is None:
                return
            self._begin(job, session, self._clock.moment())

    def _next(self, terminal: str) -> Job | None:
        """The job whose turn it is: a look at the effect of a control, else by class, priority, age."""
        moment = self._clock.moment()
        checks = self._checks.get(terminal)
        if checks:
            for job in checks:
                if job.due <= moment.mono:
                    checks.remove(job)
                    return job
        heap = self._waiting.get(terminal)
        held: list[tuple[int, int, int, Job]] = []
        found: Job | None = None
        while heap and found is None:
            entry = heapq.heappop(heap)
            job = entry[3]
            if job.phase != "waiting":
                continue
            if job.due > moment.mono:
                held.append(entry)
            else:
                found = job
        for entry in held:
            heapq.heappush(self._waiting[terminal], entry)
        if heap is not None and not heap:
            del self._waiting[terminal]
        return found

    def _begin(self, job: Job, session: Session, moment: Moment) -> None:
        if job.phase == "checking":
            self._active[job.terminal] = job
            self._look(job, session, moment)
            return
        if job.command.expires_at <= moment.wall:
            self._tell(job, "expired", error=AckError(name="expired", text="its time ran out before it could be sent"))
            return
        if job.plan.control:
            refused = self.interlocks.on_sending(job.command, job.terminal, moment.mono)
            if refused is not None:
                self._tell(job, "rejected", error=refused)
                return
        self._active[job.terminal] = job
        if job.command.verb == "trip" and self.interlocks.limits.guarantee:
            job.phase = "guarding"
            self._submit(job, session, session.context.dialogue.guarantee_request(), None, 1, moment)
            return
        self._go(job, session, moment)

    def _go(self, job: Job, session: Session, moment: Moment) -> None:
        """Send the first step; what must not go out twice is durable as `sending` first."""
        job.phase = "running"
        job.step = 0
        job.answers = []
        if job.repeatable:
            self._write(job)
            return
        if job.plan.control:
            self.interlocks.sent(job.command, job.terminal, moment.mono)
        job.record.stage = "sending"
        self._durably(lambda: self._journal.append((), lambda: self._write(job), move(job.record)))
        del session

    def _write(self, job: Job) -> None:
        """Give the present step to the machine, which writes it at once."""
        session, moment = self._sessions.get(job.terminal), self._clock.moment()
        if job.phase != "running" or self._active.get(job.terminal) is not job:
            return
        if session is None or session.link is None:
            if job.step == 0:
                self._back(job, 0.0)
            else:
                self._broken(job, Failure("lost", "the connection was closed between two steps"), moment)
            return
        step = job.plan.steps[job.step]
        if job.step == 0:
            job.record.attempts += 1
            job.record.sent_at = moment.wall
        retries = step.retries if job.repeatable else 0
        self._submit(job, session, step.apdu, step.timeout_s, retries, moment)
        if job.step == 0 and job.phase == "running":
            job.record.stage = "sent"
            self._tell(job, "sent")

    def _submit(
        self, job: Job, session: Session, apdu: Any, timeout: float | None, retries: int | None, moment: Moment
    ) -> None:
        job.request = Request(apdu, timeout=timeout, retries=retries, context=job)
        events = session.machine.submit(job.request, moment)
        session.context.dispatch(session, events, moment)
        if session.link is not None:
            session.link.flush()

    def _back(self, job: Job, wait: float) -> None:
        """Nothing went out: wait for another turn."""
        self._active.pop(job.terminal, None)
        job.due = self._clock.moment().mono + wait
        if job.record.stage != "waiting":
            job.record.stage = "waiting"
            self._durably(lambda: self._journal.append((), None, move(job.record)))
        self._queue(job)
        if wait:
            heapq.heappush(self._later, (job.due, next(self._count), job))

    # --- what machines say --------------------------------------------------------------------------------------

    def arrived(self, session: Session) -> None:
        """A terminal is on a link: what waits for it goes out, control first."""
        self.pump(session.machine.terminal)

    def answered(self, session: Session, event: Answered, moment: Moment) -> None:
        """A request has come to its end."""
        job = event.request.context
        if not isinstance(job, Job) or job.request is not event.request:
            return
        job.request = None
        result = event.result
        match job.phase:
            case "guarding":
                self._guarded(job, session, result, moment)
            case "running" if isinstance(result, Failure):
                self._broken(job, result, moment)
            case "running":
                self._stepped(job, session, result, moment)
            case "checking":
                self._looked(job, session, result, moment)
        if job.terminal not in self._active:
            self.pump(job.terminal)

    def late(self, session: Session, event: Late, moment: Moment) -> None:
        """An answer after the final status: told, and nothing else."""
        job = event.request.context
        if not isinstance(job, Job):
            return
        outcome = self._outcome(job, [*job.answers, event.result], session, moment)
        ack = self._ack(
            job, "late", error=outcome.error, result=outcome.result, latency=_latency(event.request, moment)
        )
        ack.final = False
        self._durably(lambda: self._outlet.store([ack], None, lambda: [history(ack)]))
        self._counted("late")

    def _guarded(self, job: Job, session: Session, result: Any, moment: Moment) -> None:
        """Whether power guarantee 保电 is in force at the terminal."""
        if isinstance(result, Failure) and result.name in ("lost", "timed_out", "busy"):
            self._back(job, _RETRY_S)
            return
        in_force = None if isinstance(result, Failure) else session.context.dialogue.guarantee_in_force(result)
        if in_force:
            self._active.pop(job.terminal, None)
            text = "power guarantee is in force at the terminal"
            self._tell(job, "rejected", error=AckError(name="power_guarantee", text=text))
            return
        if job.command.expires_at <= moment.wall:
            self._active.pop(job.terminal, None)
            self._tell(job, "expired", error=AckError(name="expired", text="its time ran out before it could be sent"))
            return
        self._go(job, session, moment)

    def _broken(self, job: Job, failure: Failure, moment: Moment) -> None:
        """A step had no answer that can be used."""
        if failure.name == "refused":
            self.interlocks.refused(job.command, job.terminal)
            self._end(job, "failed", AckError(code=failure.code, name="refused", text=failure.text), moment)
        elif job.repeatable and failure.name == "lost" and job.record.attempts < self.limits.query_attempts:
            self._back(job, 0.0)
        elif job.repeatable:
            self._end(job, "timed_out", AckError(name=failure.name, text=failure.text), moment)
        else:
            self._end(job, "unknown", AckError(name=failure.name, text=failure.text), moment)

    def _stepped(self, job: Job, session: Session, apdu: Any, moment: Moment) -> None:
        job.answers.append(apdu)
        outcome = self._outcome(job, job.answers, session, moment)
        if not outcome.ok:
            self.interlocks.refused(job.command, job.terminal)
            self._end(job, "failed", outcome.error, moment, outcome)
            return
        job.step += 1
        if job.step < len(job.plan.steps):
            self._write(job)
            return
        self.interlocks.succeeded(job.command, job.terminal)
        self._end(job, "succeeded", None, moment, outcome)

    def _outcome(self, job: Job, answers: list[Any], session: Session, moment: Moment) -> Outcome:
        return session.context.dialogue.outcome(job.plan, answers, job.terminal, job.command.id, moment)

    def _end(
        self, job: Job, status: Status, error: AckError | None, moment: Moment, outcome: Outcome | None = None
    ) -> None:
        """The steps are done, one way or another."""
        self._active.pop(job.terminal, None)
        readings = list(outcome.readings) if outcome is not None else []
        result = outcome.result if outcome is not None else None
        if job.record.sent_at is None:
            job.record.sent_at = moment.wall
        latency = moment.wall - job.record.sent_at
        self._tell(job, status, error=error, result=result, latency=latency, readings=readings)
        if job.phase != "ended":
            self._check_or_end(job, moment)

    # --- seeing the effect --------------------------------------------------------------------------------------

    def _check_or_end(self, job: Job, moment: Moment) -> None:
        verification = job.plan.verification
        if not job.verified or verification is None:
            return
        job.phase = "checking"
        job.looks = []
        job.due = moment.mono + (verification.after_s if job.record.status == "succeeded" else 0.0)
        job.deadline = None
        job.until = job.due + verification.window_s + _UNREADABLE_S
        self._look_later(job, job.due)

    def _look_later(self, job: Job, due: float) -> None:
        job.due = due
        self._checks.setdefault(job.terminal, deque()).append(job)
        heapq.heappush(self._later, (due, next(self._count), job))

    def _look(self, job: Job, session: Session, moment: Moment) -> None:
        """Read the next source of the effect."""
        verification = job.plan.verification
        assert verification is not None
        if job.deadline is None:
            job.deadline = moment.mono + verification.window_s
        self._submit(job, session, verification.steps[len(job.looks)], None, 1, moment)

    def _looked(self, job: Job, session: Session, result: Any, moment: Moment) -> None:
        verification = job.plan.verification
        assert verification is not None
        assert job.deadline is not None
        if isinstance(result, Failure) and result.name == "lost":
            self._active.pop(job.terminal, None)
            job.looks, job.deadline = [], None
            if moment.mono >= job.until:
                self._unreadable(job, {}, moment)
            else:
                self._look_later(job, moment.mono)
            return
        job.looks.append(None if isinstance(result, Failure) else result)
        shows, seen = verification.judge(job.looks)
        if shows is None and len(job.looks) < len(verification.steps):
            self._look(job, session, moment)
            return
        self._active.pop(job.terminal, None)
        if shows:
            self._tell(job, "verified", result=seen)
        elif moment.mono + verification.every_s <= job.deadline:
            job.looks = []
            self._look_later(job, moment.mono + verification.every_s)
        elif shows is None:
            self._unreadable(job, seen, moment)
        else:
            text = f"the effect did not show within {verification.window_s:g} s"
            self._tell(job, "not_effective", error=AckError(name="not_effective", text=text), result=seen)

    def _unreadable(self, job: Job, seen: dict[str, Any], moment: Moment) -> None:
        del moment
        error = AckError(name="unreadable", text="nothing that the terminal lets read tells whether it had an effect")
        self._tell(job, "not_effective", error=error, result=seen)

    # --- taking back, the kill switch ---------------------------------------------------------------------------

    def cancel(self, job: Job, issued_by: str) -> None:
        """Take back a job that has not been sent; for another its status is told again."""
        if job.phase in ("waiting", "guarding"):
            if self._active.get(job.terminal) is job:
                del self._active[job.terminal]
            job.request = None
            self._tell(job, "cancelled", error=AckError(name="cancelled", text=f"taken back by {issued_by}"))
            self.pump(job.terminal)
        else:
            self.retell(job)

    def retell(self, job: Job) -> None:
        """Tell the present status again; it is no new one."""
        ack = self._ack(job, job.record.status)
        self.counters.retold += 1
        self._durably(lambda: self._outlet.store([ack], None))

    def tell_again(self, ack: bytes) -> None:
        """Tell the last status of a command that has ended; `ack` as the ledger has it."""
        again = msgspec.json.decode(ack, type=Ack)
        self.counters.retold += 1
        self._durably(lambda: self._outlet.store([again], None))

    async def tell_all_again(self, command_id: str, terminal: str | None) -> None:
        """Tell the last status of every terminal's part in a command that has ended."""
        for ack in await self.ledger.ended(command_id, terminal):
            self.tell_again(ack)

    def switch(self, on: bool) -> None:
        """Turn the kill switch; off also rejects the controls that wait."""
        self.interlocks.control = on
        if on:
            return
        for job in [job for job in self.jobs.values() if job.plan.control and job.phase in ("waiting", "guarding")]:
            if self._active.get(job.terminal) is job:
                del self._active[job.terminal]
                job.request = None
            self._tell(job, "rejected", error=self.interlocks.on_entry(job.command))

    # --- telling ------------------------------------------------------------------------------------------------

    def _ack(
        self,
        job: Job,
        status: Status,
        *,
        error: AckError | None = None,
        result: Any = None,
        latency: int | None = None,
    ) -> Ack:
        moment = self._clock.moment()
        record = job.record
        session = self._sessions.get(record.terminal)
        return Ack(
            id=message_id(record.terminal, record.command.id.encode(), status.encode(), moment.wall.to_bytes(8)),
            terminal=record.terminal,
            channel=session.context.name if session is not None else "",
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

    def _tell(
        self,
        job: Job,
        status: Status,
        *,
        error: AckError | None = None,
        result: Any = None,
        latency: int | None = None,
        readings: list[Up] | None = None,
    ) -> None:
        """A new status: ledger, Ack and what was read, all at once."""
        record = job.record
        record.status = status
        ack = self._ack(job, status, error=error, result=result, latency=latency)
        if ack.final:
            job.phase = "ended"
            record.stage = "ended"
            self.jobs.pop((job.command.id, job.terminal), None)
            self.counters.open = len(self.jobs)
        elif status in ("succeeded", "unknown"):
            record.stage = "checking"
        self._counted(status)
        messages: list[Up] = [*(readings or ()), ack]
        self._durably(lambda: self._outlet.store(messages, None, lambda: update(record, ack)))

    def _durably(self, store: Callable[[], None]) -> None:
        """Store now or, when the journal has no room, as soon as it has, in order."""
        if self._untold:
            self._untold.append(store)
            return
        try:
            store()
        except JournalFull:
            self._untold.append(store)

    def _counted(self, status: str) -> None:
        self.counters.statuses[status] = self.counters.statuses.get(status, 0) + 1

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self, moment: Moment) -> None:
        """Tell what could not be told; end what has expired; start what is due."""
        try:
            while self._untold:
                self._untold[0]()
                self._untold.popleft()
        except JournalFull:
            return
        while self._expiries and self._expiries[0][0] <= moment.wall:
            job = heapq.heappop(self._expiries)[2]
            if job.phase == "waiting" and job.command.expires_at <= moment.wall:
                text = "its time ran out before it could be sent"
                self._tell(job, "expired", error=AckError(name="expired", text=text))
        due: set[str] = set()
        while self._later and self._later[0][0] <= moment.mono:
            job = heapq.heappop(self._later)[2]
            if job.phase == "checking" and moment.mono >= job.until and self._active.get(job.terminal) is not job:
                self._checks.get(job.terminal, deque()).remove(job)
                self._unreadable(job, {}, moment)
            elif job.phase in ("waiting", "checking"):
                due.add(job.terminal)
        for terminal in due:
            self.pump(terminal)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self.jobs.values()))


_NO_PLAN: Final = Plan(verb="", command_class="query", steps=())
_CRASHED: Final = AckError(name="restarted", text="the gateway was restarted before an answer came")


def _invalid(error: Invalid) -> AckError:
    return AckError(name=error.name, text=f"{error.field}: {error.text}")


def _latency(request: Request, moment: Moment) -> int | None:
    return moment.wall - request.sent_at if request.sent_at is not None else None
