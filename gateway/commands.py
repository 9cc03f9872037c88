"""Commands on their way 命令: order, sending, answers, verification, the final status. What is told is always true.

Theory of operation. A job is a command at one terminal. Its stage is durable before the world can notice a difference:
a control is `sending` in the ledger before its octets are out, so that after a crash it is never sent twice; a status
and the Ack that tells it are one transaction. One terminal has one job under way; which goes next is decided when the
one before is done: control before configuration before queries, then by priority, then by age. A request is given to a
machine only when it goes out at once: what waits in a machine could go out after its time.

    waiting --turn--> [guarding] --> sending --> sent --answer--> checking --> ended
       |                                 |                            |
       +--expired, cancelled, rejected   +--crash: unknown, checked   +-- verified | not_effective
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from gateway.air import CLOCK, CONTROL, QUERY
from gateway.clock import Clock
from gateway.interlocks import Interlocks
from gateway.jobs import CommandCounters, CommandLimits, Job, Jobs
from gateway.journal import Journal
from gateway.ledger import Ledger, Record, history, insert, move, update
from gateway.outlet import Outlet
from gateway.sessions import Session, Sessions
from gateway.telling import Telling, ack_of
from messages import Ack, AckError, Command, Status, Up
from protocols.commands import Invalid, Outcome, Plan, Quirks
from protocols.events import Answered, Failure, Late, Moment, Request
from protocols.registry import Dialogue

_RETRY_S: Final = 5.0
"""Wait before a pre-check that had no answer is made again."""
_BUSY_S: Final = 0.2
"""Wait before a machine that is busy with something of its own is asked again."""
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
        self._telling = Telling(journal, outlet, self.counters)
        self.interlocks = interlocks
        self._dialogue = dialogue
        self._quirks = quirks
        self.jobs = Jobs()
        self._journal = journal
        self._outlet = outlet
        self._sessions = sessions
        self._clock = clock
        self.limits = limits
        self._blocked: set[str] = set()
        """Terminals on a link whose machine could not take a request when it was their turn."""

    # --- taking on ----------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take up what the ledger holds open: queries go out again, a control that may have gone out is looked at."""
        moment = self._clock.moment()
        for record, told in await self.ledger.open():
            try:
                plan = self.plan_of(record.command, record.command_class, record.terminal, moment.wall)
            except Invalid as error:
                self._unplanned(Job(record, _NO_PLAN), _invalid(error))
                continue
            job = Job(record, plan)
            job.told = told
            self._enter(job)
            if record.stage == "waiting" or (job.repeatable and record.stage in ("sending", "sent")):
                self.jobs.wait(job)
                continue
            if record.stage in ("sending", "sent"):
                self._tell(job, "unknown", error=_CRASHED)
            if job.phase != "ended":
                self._check(job, moment)

    def _unplanned(self, job: Job, error: AckError) -> None:
        """A command of the ledger that cannot be planned any more (other settings, another version) is at its end."""
        self._enter(job)
        status: Status = "rejected"
        if job.record.stage == "checking":
            status = "not_effective"
        elif job.record.stage != "waiting":
            status = "timed_out" if job.repeatable else "unknown"
        self._tell(job, status, error=error)

    def plan_of(self, command: Command, command_class: str, terminal: str, now: int) -> Plan:
        """What a command becomes at a terminal. Raises Invalid."""
        return self._dialogue_of(terminal).plan(command, command_class, self._quirks(terminal), now)

    def _dialogue_of(self, terminal: str) -> Dialogue:
        """What speaks with a terminal: its channel's, or the first channel's for one that was never here."""
        session = self._sessions.get(terminal)
        return session.context.dialogue if session is not None else self._dialogue

    def room(self, terminal: str) -> bool:
        """Whether one more job may be taken on for a terminal."""
        return self.jobs.open_at(terminal) < self.limits.max_per_terminal and len(self.jobs) < self.limits.max_open

    def accept(self, record: Record, plan: Plan, stored: Callable[[], None]) -> None:
        """Take a command on: `accepted` is told, and `stored` called, once it is durable. Raises JournalFull."""
        job = Job(record, plan)
        ack = job.told = self._ack(job, "accepted")

        def committed() -> None:
            if job.phase != "ended":
                self.jobs.wait(job)
                self.pump(job.terminal)
            stored()

        self._outlet.store([ack], committed, lambda: insert(record, ack))
        self._enter(job)
        self._telling.counted("accepted")

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
        self._telling.counted(status)

    def online(self, terminal: str) -> bool:
        """Whether a terminal is on a link."""
        session = self._sessions.get(terminal)
        return session is not None and session.link is not None and not session.link.closing

    def octets_of(self, plan: Plan, terminal: str) -> list[str]:
        """What would be sent, hexadecimal, an APDU each."""
        return self._dialogue_of(terminal).octets(plan)

    def _enter(self, job: Job) -> None:
        self.jobs.enter(job)
        self.counters.open = len(self.jobs)

    # --- whose turn it is ---------------------------------------------------------------------------------------

    def pump(self, terminal: str) -> None:
        """Start the next job of a terminal, if it is there and free."""
        session = self._sessions.get(terminal)
        while session is not None and session.link is not None and self.jobs.idle(terminal):
            if not _ready(session):
                self._blocked.add(terminal)
                return
            moment = self._clock.moment()
            job = self.jobs.next(terminal, moment.mono)
            if job is None:
                return
            self._begin(job, session, moment)

    def _begin(self, job: Job, session: Session, moment: Moment) -> None:
        if job.phase == "checking":
            self.jobs.start(job)
            self._look(job, session, moment)
            return
        if self._stopped(job, moment):
            return
        self.jobs.start(job)
        if job.command.verb == "trip" and self.interlocks.limits.guarantee:
            job.phase = "guarding"
            self._ask(job, session, session.context.dialogue.guarantee_request(), None, 1)
            return
        self._go(job, moment)

    def _stopped(self, job: Job, moment: Moment) -> bool:
        """Whether a job may not go out, now that it could; it is told so."""
        if job.command.expires_at <= moment.wall:
            self._expire(job)
            return True
        refused = self.interlocks.on_sending(job.command, job.terminal, moment.mono) if job.plan.control else None
        if refused is not None:
            self._tell(job, "rejected", error=refused)
        return refused is not None

    def _expire(self, job: Job) -> None:
        """Its time is over; a query that was sent before has had no answer in time."""
        if job.record.attempts:
            text = f"no answer on {job.record.attempts} connection(s) before its time ran out"
            self._tell(job, "timed_out", error=AckError(name="expired", text=text))
        else:
            self._tell(job, "expired", error=AckError(name="expired", text="its time ran out before it could be sent"))

    def _go(self, job: Job, moment: Moment) -> None:
        """Send the first step; what must not go out twice is durable as `sending` first."""
        job.phase = "running"
        job.step = 0
        job.answers = []
        if job.repeatable:
            self._write(job)
            return
        self.interlocks.sent(job.command, job.terminal, moment.mono)
        job.record.stage = "sending"
        statements = move(job.record)

        def committed() -> None:
            self._write(job)
            self.pump(job.terminal)

        self._telling.durably(lambda: self._journal.append((), committed, statements))

    def _write(self, job: Job) -> None:
        """Have the present step sent: at once, or when the medium's turn comes."""
        if job.phase != "running":
            return
        session, moment = self._sessions.get(job.terminal), self._clock.moment()
        if session is None or not _ready(session):
            self._unwritten(job, session, moment)
            return
        if job.step == 0 and not self._setting_out(job, moment):
            return
        step = job.plan.steps[job.step]
        retries = step.retries if job.repeatable else 0
        if job.step:
            self._ask(job, session, step.apdu, step.timeout_s, retries)
        else:
            until, sent = job.command.expires_at, partial(self._sent, job)
            self._ask(job, session, step.apdu, step.timeout_s, retries, until=until, sent=sent)

    def _setting_out(self, job: Job, moment: Moment) -> bool:
        """Look at everything once more at the moment of sending; False: it is told why it does not go out."""
        if self._stopped(job, moment):
            return False
        try:
            job.plan = self.plan_of(job.command, job.record.command_class, job.terminal, moment.wall)
        except Invalid as error:
            self._tell(job, "rejected", error=_invalid(error))
            return False
        return True

    def _sent(self, job: Job, moment: Moment) -> None:
        """The octets of the first step are out."""
        job.record.attempts += 1
        job.record.sent_at = moment.wall
        job.record.stage = "sent"
        self._tell(job, "sent")

    def _unwritten(self, job: Job, session: Session | None, moment: Moment) -> None:
        """The terminal cannot be asked at this moment."""
        gone = session is None or session.link is None or session.link.closing
        if job.step == 0:
            self._back(job, 0.0 if gone else _BUSY_S, moment)
        elif gone:
            self._broken(job, Failure("lost", "the connection was closed between two steps"), moment)
        else:
            job.held = True
            self.jobs.wake(job, moment.mono + _BUSY_S)

    def _ask(
        self,
        job: Job,
        session: Session,
        apdu: Any,
        timeout: float | None,
        retries: int | None,
        *,
        until: int | None = None,
        sent: Callable[[Moment], None] | None = None,
    ) -> None:
        job.request = Request(apdu, timeout=timeout, retries=retries, context=job)
        session.context.air.ask(session, job.request, _priority(job), until=until, sent=sent)

    def _recall(self, job: Job) -> None:
        """Take back what waits for its turn on the medium."""
        request, job.request = job.request, None
        session = self._sessions.get(job.terminal)
        if request is not None and session is not None:
            session.context.air.cancel(session, request)

    def _back(self, job: Job, wait: float, moment: Moment) -> None:
        """Nothing went out, or what did may go out again: wait for another turn."""
        self.jobs.free(job)
        self.interlocks.withdrawn(job.command, job.terminal)
        if job.command.expires_at <= moment.wall:
            self._expire(job)
            return
        job.due = moment.mono + wait
        if job.record.stage != "waiting":
            job.record.stage = "waiting"
            statements = move(job.record)
            self._telling.durably(lambda: self._journal.append((), None, statements))
        self.jobs.wait(job)
        if wait:
            self.jobs.wake(job, job.due)

    # --- what machines say --------------------------------------------------------------------------------------

    def arrived(self, session: Session) -> None:
        """A terminal is on a link: what waits for it goes out, control first."""
        self.pump(session.machine.terminal)

    def answered(self, session: Session, event: Answered, moment: Moment) -> None:
        """A request has come to its end."""
        job = event.request.context
        if isinstance(job, Job) and job.request is event.request:
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
        self.pump(session.machine.terminal)

    def late(self, session: Session, event: Late, moment: Moment) -> None:
        """An answer that nobody waits for any more: told, and nothing else."""
        job = event.request.context
        if not isinstance(job, Job) or all(step.apdu is not event.request.apdu for step in job.plan.steps):
            return  # an answer to a question of the gateway's own is of no interest
        outcome = self._outcome(job, [*job.answers, event.result], session, moment)
        latency = None if event.request.sent_at is None else moment.wall - event.request.sent_at
        ack = self._ack(job, "late", error=outcome.error, result=outcome.result, latency=latency)
        self._telling.durably(lambda: self._outlet.store([ack], None, lambda: [history(ack)]))
        self._telling.counted("late")

    def _guarded(self, job: Job, session: Session, result: Any, moment: Moment) -> None:
        """Whether power guarantee 保电 is in force at the terminal."""
        if isinstance(result, Failure) and result.name in ("timed_out", *_UNSENT):
            self._back(job, 0.0 if result.name == "lost" else _RETRY_S, moment)
            return
        in_force = None if isinstance(result, Failure) else session.context.dialogue.guarantee_in_force(result)
        if in_force:
            text = "power guarantee is in force at the terminal"
            self._tell(job, "rejected", error=AckError(name="power_guarantee", text=text))
        elif not self._stopped(job, moment):
            self._go(job, moment)

    def _broken(self, job: Job, failure: Failure, moment: Moment) -> None:
        """A step had no answer that can be used."""
        error = AckError(code=failure.code, name=failure.name, text=failure.text)
        if job.step == 0 and job.record.stage != "sent" and failure.name in _UNSENT:
            if failure.name == "expired":
                self.jobs.free(job)
                self.interlocks.withdrawn(job.command, job.terminal)
                self._expire(job)
            else:
                self._back(job, _RETRY_S if failure.name != "lost" else 0.0, moment)
        elif failure.name == "refused":
            self.interlocks.refused(job.command, job.terminal)
            self._end(job, "failed", error, moment)
        elif not job.repeatable:
            self._end(job, "unknown", error, moment)
        elif failure.name == "lost" and job.record.attempts < self.limits.query_attempts:
            self._back(job, 0.0, moment)
        else:
            self._end(job, "timed_out", error, moment)

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
        self.jobs.free(job)
        answered, sent_at = status in ("succeeded", "failed"), job.record.sent_at
        latency = moment.wall - sent_at if answered and sent_at is not None else None
        readings = outcome.readings if outcome is not None else []
        result = outcome.result if outcome is not None else None
        self._tell(job, status, error=error, result=result, latency=latency, readings=readings)
        if job.phase != "ended":
            self._check(job, moment)

    # --- seeing the effect --------------------------------------------------------------------------------------

    def _check(self, job: Job, moment: Moment) -> None:
        """Begin to look for the effect: when it is due, and at once where no answer came."""
        verification = job.plan.verification
        assert verification is not None
        job.phase = "checking"
        job.looks = []
        job.deadline = None
        job.effect_at = moment.mono + verification.after_s
        job.until = job.effect_at + verification.window_s + _UNREADABLE_S
        self.jobs.wake(job, job.until)
        self.jobs.check(job, job.effect_at if job.record.status == "succeeded" else moment.mono)

    def _look(self, job: Job, session: Session, moment: Moment) -> None:
        """Read the next source of the effect."""
        verification = job.plan.verification
        assert verification is not None
        if job.deadline is None:
            job.deadline = max(moment.mono, job.effect_at) + verification.window_s
        self._ask(job, session, verification.steps[len(job.looks)], None, 1)

    def _looked(self, job: Job, session: Session, result: Any, moment: Moment) -> None:
        verification = job.plan.verification
        assert verification is not None
        assert job.deadline is not None
        if isinstance(result, Failure) and result.name == "lost":
            self.jobs.free(job)
            job.looks, job.deadline = [], None
            if moment.mono >= job.until:
                self._unreadable(job, {})
            else:
                self.jobs.check(job, moment.mono)
            return
        job.looks.append(None if isinstance(result, Failure) else result)
        shows, seen = verification.judge(job.looks)
        if shows is None and len(job.looks) < len(verification.steps) and _ready(session):
            self._look(job, session, moment)
            return
        again = max(moment.mono + verification.every_s, job.effect_at)
        self.jobs.free(job)
        if shows:
            self._tell(job, "verified", result=seen)
        elif again <= job.deadline:
            job.looks = []
            self.jobs.check(job, again)
        elif shows is None:
            self._unreadable(job, seen)
        else:
            text = f"the effect did not show within {verification.window_s:g} s"
            self._tell(job, "not_effective", error=AckError(name="not_effective", text=text), result=seen)

    def _unreadable(self, job: Job, seen: dict[str, Any]) -> None:
        """Nobody can say whether it had its effect, so nothing is said: neither that it had, nor that it had not."""
        error = AckError(name="unreadable", text="nothing that the terminal lets read tells whether it had an effect")
        self._tell(job, "unknown", error=error, result=seen, final=True)

    # --- taking back, the kill switch ---------------------------------------------------------------------------

    def cancel(self, job: Job, issued_by: str) -> None:
        """Take back a job that has not been sent; for another its status is told again. Raises JournalFull."""
        if job.revocable:
            self._recall(job)
            self._tell(job, "cancelled", error=AckError(name="cancelled", text=f"taken back by {issued_by}"))
            self.pump(job.terminal)
        else:
            self.retell(job)

    def retell(self, job: Job) -> None:
        """Tell the present status again; it is no new one. Raises JournalFull."""
        assert job.told is not None
        self._telling.again(job.told)

    def tell_again(self, ack: bytes) -> None:
        """Tell the last status of a command that has ended, `ack` as the ledger has it. Raises JournalFull."""
        self._telling.again(msgspec.json.decode(ack, type=Ack))

    async def tell_all_again(self, command_id: str, terminal: str | None) -> None:
        """Tell the last status of every terminal's part in a command that has ended. Raises JournalFull."""
        for ack in await self.ledger.ended(command_id, terminal):
            self.tell_again(ack)

    def switch(self, on: bool) -> None:
        """Turn the kill switch; off also rejects the controls that have not been sent."""
        self.interlocks.control = on
        if on:
            return
        for job in self.jobs:
            if job.plan.control and job.revocable:
                self._recall(job)
                self._tell(job, "rejected", error=self.interlocks.on_entry(job.command))
                self.pump(job.terminal)

    def settled(self, stored: Callable[[], None]) -> None:
        """Call `stored` when everything that has been told so far is durable."""
        self._telling.settled(stored)

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
        session = self._sessions.get(job.terminal)
        channel = session.context.name if session is not None else ""
        return ack_of(job, status, self._clock.moment(), channel, error, result, latency)

    def _tell(
        self,
        job: Job,
        status: Status,
        *,
        error: AckError | None = None,
        result: Any = None,
        latency: int | None = None,
        readings: list[Up] | None = None,
        final: bool = False,
    ) -> None:
        """A new status: ledger, Ack and what was read, all at once. `final`: the last, though it is usually not."""
        record = job.record
        record.status = status
        ack = job.told = self._ack(job, status, error=error, result=result, latency=latency)
        ack.final = ack.final or final
        if ack.final:
            job.phase = "ended"
            job.request = None
            record.stage = "ended"
            if not record.attempts:
                self.interlocks.withdrawn(job.command, job.terminal)
            self.interlocks.ended(job.command, job.terminal)
            self.jobs.leave(job)
            self.counters.open = len(self.jobs)
        elif status in ("succeeded", "unknown"):
            record.stage = "checking"
        self._telling.counted(status)
        messages: list[Up] = [*(readings or ()), ack]
        then = replace(record)  # as it is now, whenever the journal has room
        self._telling.durably(lambda: self._outlet.store(messages, None, lambda: update(then, ack)))

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self, moment: Moment) -> None:
        """Tell what could not be told; end what has expired; start what is due."""
        if not self._telling.catch_up():
            return
        turns, self._blocked = self._blocked, set()
        for job in self.jobs.expired(moment.wall):
            if job.revocable:
                self._recall(job)
                self._expire(job)
                turns.add(job.terminal)
        for job in self.jobs.due(moment.mono):
            if job.phase == "checking" and moment.mono >= job.until and job.request is None:
                self._unreadable(job, {})
            elif job.held:
                job.held = False
                self._write(job)
            turns.add(job.terminal)
        for terminal in turns:
            self.pump(terminal)


def _ready(session: Session) -> bool:
    """Whether what is submitted now is written at once."""
    return session.link is not None and not session.link.closing and session.machine.ready


_NO_PLAN: Final = Plan(verb="", command_class="query", steps=())
_CRASHED: Final = AckError(name="restarted", text="the gateway was restarted before an answer came")
_UNSENT: Final = ("lost", "busy", "expired", "skipped", "cancelled")
"""Failures that a request may end with before its octets are out."""


def _priority(job: Job) -> int:
    """Whose turn it is on a shared medium."""
    if job.plan.control:
        return CONTROL
    return CLOCK if job.command.verb == "set_clock" else QUERY


def _invalid(error: Invalid) -> AckError:
    return AckError(name=error.name, text=f"{error.field}: {error.text}")
