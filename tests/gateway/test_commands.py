"""Laws of commands, whatever happens when: one final status each, told in the order of the contract, at most one job
under way at a terminal, and no control twice on the wire.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast
from zoneinfo import ZoneInfo

from e2e_parts import HandClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from gateway.air import FreeAir
from gateway.commands import Commands
from gateway.interlocks import InterlockLimits, Interlocks
from gateway.jobs import CommandLimits
from gateway.journal import Journal, JournalFull
from gateway.ledger import Record, body_of
from gateway.outlet import Outlet
from gateway.sessions import Session, Sessions
from messages import Ack, Command, Topics, class_of_verb, decode, is_final
from protocols.commands import Quirks
from protocols.dlt698_options import Options
from protocols.events import Answered, Failure, Late, Request
from protocols.registry import PROTOCOLS
from wire698 import access
from wire698.pieces import ResultNormal
from wire698.rows import Row
from wire698.values import BitString, Dar, Data, Tag

TERMINALS = ("000000000001", "000000000002")
NEXT = {
    None: {"accepted"},
    "accepted": {"sent", "rejected", "expired", "cancelled", "unknown"},
    "sent": {"sent", "succeeded", "failed", "timed_out", "unknown", "cancelled"},
    "succeeded": {"verified", "not_effective", "unknown"},
    "unknown": {"verified", "not_effective", "unknown"},
}
"""What may follow what, `late` aside. `accepted` to `unknown`: killed between the journal and the wire."""


COLUMNS = "id terminal class verb body member_of stage status final attempts accepted_at expires_at sent_at at ack"


class FakeJournal:
    """Durable when `commit` says so; full when told so. Its tables are real enough for the ledger."""

    def __init__(self) -> None:
        self.next_seq = 1
        self.full = False
        self.waiting: list[tuple[Sequence[Any], Callable[[], None] | None, Sequence[Any]]] = []
        self.acks: list[Ack] = []
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[Ack] = []

    def append(self, rows: Sequence[Any], committed: Callable[[], None] | None = None, statements: Any = ()) -> None:
        if self.full:
            raise JournalFull("disk")
        self.next_seq += len(rows)
        self.waiting.append((rows, committed, statements))

    def commit(self) -> None:
        """All that waits now becomes durable, then whoever waits for it is told."""
        batch, self.waiting = self.waiting, []
        for rows, _, statements in batch:
            self.acks += [decode(row.payload, Ack) for row in rows if row.topic.endswith("/ack")]
            for statement in statements:
                self._carry_out(*statement)
        for _, committed, _ in batch:
            if committed is not None:
                committed()

    def _carry_out(self, sql: str, values: tuple[Any, ...]) -> None:
        match sql.split()[:3]:
            case ["INSERT", _, _] if "INTO command_status" in sql:
                self.history.append(decode(values[4], Ack))
            case ["INSERT", _, _]:
                names = COLUMNS.split()
                self.rows[values[0], values[1]] = dict(zip(names, values, strict=True))
            case ["UPDATE", "command", _]:
                names = [part.split()[0] for part in sql.partition(" SET ")[2].partition(" WHERE ")[0].split(",")]
                self.rows[values[-2], values[-1]].update(zip(names, values, strict=False))

    async def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        assert "WHERE final = 0" in sql
        names = sql.partition("SELECT ")[2].partition(" FROM")[0].split(", ")
        return [tuple(row[name] for name in names) for row in self.rows.values() if not row["final"]]


class FakeMachine:
    """One terminal of which the test says what happens."""

    def __init__(self, terminal: str, sent: list[tuple[str, Request]]) -> None:
        self.terminal = terminal
        self.request: Request | None = None
        self.given_up: list[Request] = []
        self.open = True
        self._sent = sent

    @property
    def ready(self) -> bool:
        return self.open and self.request is None

    def submit(self, request: Request, moment: Any) -> list[Any]:
        assert self.ready, "submitted to a machine that cannot send at once"
        self.request = request
        request.attempts = 1
        request.sent_at = moment.wall
        self._sent.append((self.terminal, request))
        return []

    def cancel(self, request: Request, moment: Any) -> list[Any]:
        return []


class SharedAir:
    """A medium on which a request waits for its turn: `transmit` gives it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._waiting: list[tuple[Session, Request, int | None, Callable[[Any], None] | None]] = []

    def ask(
        self,
        session: Session,
        request: Request,
        priority: int,
        *,
        until: int | None = None,
        sent: Callable[[Any], None] | None = None,
    ) -> None:
        self._waiting.append((session, request, until, sent))

    def cancel(self, session: Session, request: Request) -> bool:
        kept = [entry for entry in self._waiting if entry[1] is not request]
        known, self._waiting = len(kept) < len(self._waiting), kept
        if known:
            self._end(session, request, Failure("cancelled", "taken back"))
        return known

    def _end(self, session: Session, request: Request, failure: Failure) -> None:
        self._bench.commands.answered(session, Answered(request, failure), self._bench.clock.moment())

    def transmit(self) -> None:
        """The turn of the one that waits longest, if its terminal is free."""
        moment = self._bench.clock.moment()
        for entry in self._waiting:
            session, request, until, sent = entry
            if until is not None and moment.wall >= until:
                self._waiting.remove(entry)
                self._end(session, request, Failure("expired", "too late"))
                return
            if session.machine.ready:
                self._waiting.remove(entry)
                session.machine.submit(request, moment)
                if sent is not None:
                    sent(moment)
                return

    def lose(self, session: Session) -> None:
        """The terminal has no connection any more: nothing of it waits."""
        lost = [entry for entry in self._waiting if entry[0] is session]
        self._waiting = [entry for entry in self._waiting if entry[0] is not session]
        for _, request, _, _ in lost:
            self._end(session, request, Failure("lost", "the connection was closed"))


class FakeLink:
    closing = False

    def flush(self) -> None:
        pass


class FakeContext:
    """A channel's context: events go straight to the commands."""

    name = "tcp"

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.dialogue = bench.dialogue
        self.air: FreeAir | SharedAir = SharedAir(bench) if bench.shared else FreeAir(bench.clock)

    def answered(self, session: Session, event: Answered, moment: Any) -> None:
        self._bench.commands.answered(session, event, moment)

    def dispatch(self, session: Session, events: list[Any], moment: Any) -> None:
        for event in events:
            self._bench.commands.answered(session, event, moment)


class FakeSessions(dict[str, Session]):
    """What `Sessions.get` is asked for."""


class Bench:
    """Commands with all that is around them; `restart` is a kill -9: what was not committed is gone."""

    def __init__(self, *, shared: bool = False, **limits: Any) -> None:
        self.shared = shared
        self.clock = HandClock()
        self.journal = FakeJournal()
        self.sent: list[tuple[str, Request]] = []
        self.dialogue = PROTOCOLS["dlt698.45"].dialogue(Options(), ZoneInfo("Asia/Shanghai"), 16)
        self.limits = InterlockLimits(**{"approvals": 0, **limits})
        self.control = True
        self.sessions = FakeSessions()
        self.machines: dict[str, FakeMachine] = {}
        self.start()

    def start(self) -> None:
        """A process begins."""
        self.sessions.clear()
        self.machines.clear()
        context = FakeContext(self)
        for terminal in TERMINALS:
            machine = self.machines[terminal] = FakeMachine(terminal, self.sent)
            self.sessions[terminal] = Session(cast("Any", machine), cast("Any", context))
        journal = cast("Journal", self.journal)
        outlet = Outlet(journal, Topics(), "n1", "msgpack", lambda *_: True)
        interlocks = Interlocks(self.limits, control=self.control, tripped=set())
        self.commands = Commands(
            journal,
            outlet,
            cast("Sessions", self.sessions),
            self.clock,
            CommandLimits(max_per_terminal=8),
            interlocks,
            self.dialogue,
            lambda _: Quirks(),
        )

    def restart(self) -> None:
        self.journal.waiting.clear()
        self.journal.full = False
        self.start()
        run(self.commands.recover())

    def accept(self, command: Command, terminal: str) -> bool:
        """As the intake does; False where it has to say no."""
        command_class = class_of_verb(command.verb)
        assert command_class is not None
        now = self.clock.moment().wall
        if command_class == "control" and self.commands.interlocks.on_entry(command) is not None:
            return False
        if not self.commands.room(terminal):
            return False
        plan = self.commands.plan_of(command, command_class, terminal, now)
        record = Record(command, terminal, command_class, None, "waiting", "accepted", 0, now, None)
        try:
            self.commands.accept(record, plan, lambda: None)
        except JournalFull:
            return False
        return True

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.forward(seconds)
        self.commands.tick(self.clock.moment())

    def attach(self, terminal: str) -> None:
        session = self.sessions[terminal]
        self.lose(terminal)
        session.link = cast("Any", FakeLink())
        self.commands.arrived(session)

    def lose(self, terminal: str) -> None:
        session, machine = self.sessions[terminal], self.machines[terminal]
        session.link = None
        self.finish(terminal, Failure("lost", "the connection was closed"))
        assert machine.request is None
        air = session.context.air
        if isinstance(air, SharedAir):
            air.lose(session)

    def transmit(self) -> None:
        """On a shared medium, the next one's turn."""
        for session in self.sessions.values():
            if isinstance(session.context.air, SharedAir):
                session.context.air.transmit()
                return

    def finish(self, terminal: str, result: Any) -> None:
        """The request under way at a terminal comes to its end."""
        machine = self.machines[terminal]
        request, machine.request = machine.request, None
        if request is None:
            return
        if isinstance(result, Failure) and result.name == "timed_out":
            machine.given_up.append(request)
        self.commands.answered(self.sessions[terminal], Answered(request, result), self.clock.moment())

    def reply(self, terminal: str, *, good: bool, state: int = 0x80) -> None:
        """The terminal answers: does or refuses, has or has not the effect."""
        request = self.machines[terminal].request
        if request is not None:
            self.finish(terminal, answer_to(request.apdu, good=good, state=state))

    def late(self, terminal: str) -> None:
        for request in self.machines[terminal].given_up[-1:]:
            self.machines[terminal].given_up.pop()
            event = Late(request, answer_to(request.apdu, good=True, state=0x80))
            self.commands.late(self.sessions[terminal], event, self.clock.moment())

    def settle(self) -> None:
        """Let everything come to its end: terminals that are there and answer, room, and time."""
        self.journal.full = False
        for _ in range(400):
            if not len(self.commands.jobs) and not self.journal.waiting and not self.commands.counters.untold:
                return
            for terminal in TERMINALS:
                if self.sessions[terminal].link is None:
                    self.attach(terminal)
                self.machines[terminal].open = True
                self.transmit()
                self.reply(terminal, good=True)
            self.journal.commit()
            self.tick(10.0)
        raise AssertionError(f"never at an end: {[(j.phase, j.record) for j in self.commands.jobs]}")


def run(coroutine: Any) -> None:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def answer_to(apdu: Any, *, good: bool, state: int) -> Any:
    """The answer to a request."""
    dar = Dar(0) if good else Dar(3)

    def result(oad: Any) -> ResultNormal:
        if not good:
            return ResultNormal(oad, dar)
        if int(oad) == 0x80010200:
            return ResultNormal(oad, Row.of((Data(Tag.ENUM, 0),)))
        return ResultNormal(oad, Row.of((Data(Tag.BIT_STRING, BitString(8, bytes((state,)))),)))

    match apdu:
        case access.GetRequestNormal():
            return access.GetResponseNormal(apdu.piid, result(apdu.oad))
        case access.GetRequestNormalList():
            return access.GetResponseNormalList(apdu.piid, tuple([result(oad) for oad in apdu.oads]))
        case access.SetRequestNormal():
            return access.SetResponseNormal(apdu.piid, apdu.oad, dar)
        case access.ActionRequestNormal():
            return access.ActionResponseNormal(apdu.piid, apdu.omd, dar)
    raise AssertionError(apdu)


VERBS_TRIED: list[tuple[str, dict[str, Any]]] = [
    ("read", {"points": ["40010200"]}),
    ("set_clock", {}),
    ("trip", {"relays": [{"relay": 1, "alarm_delay_min": 0}]}),
    ("trip", {"relays": [{"relay": 1, "alarm_delay_min": 2}]}),
    ("close", {"relays": [{"relay": 1}]}),
    ("monthly_control", {"group": 1, "limit_kwh": 1, "alarm_percent": 80}),
]


class Laws(RuleBasedStateMachine):
    """Anything in any order."""

    accepted = Bundle("accepted")
    bench: Bench
    numbers: ClassVar[Counter[str]] = Counter()

    @initialize(
        shared=st.booleans(), guarantee=st.booleans(), online=st.sampled_from([(), TERMINALS[:1], TERMINALS, TERMINALS])
    )
    def begin(self, shared: bool, guarantee: bool, online: tuple[str, ...]) -> None:
        self.bench = Bench(shared=shared, guarantee=guarantee)
        for terminal in online:
            self.bench.attach(terminal)
        self.number = self.kills = 0
        self.known: dict[tuple[str, str], Command] = {}

    @rule(
        target=accepted,
        terminal=st.sampled_from(TERMINALS),
        what=st.sampled_from(VERBS_TRIED),
        life=st.sampled_from([5, 60, 600]),
        priority=st.integers(0, 9),
        verify=st.booleans(),
        commit=st.booleans(),
    )
    def order(
        self, terminal: str, what: tuple[str, dict[str, Any]], life: int, priority: int, verify: bool, commit: bool
    ) -> Any:
        verb, args = what
        self.number += 1
        command = Command(
            id=f"c-{self.number}",
            verb=verb,
            args=args,
            issued_by="wang",
            expires_at=self.bench.clock.wall_ms + life * 1000,
            priority=priority,
            verify=verify,
        )
        if not self.bench.accept(command, terminal):
            return multiple()
        self.known[command.id, terminal] = command
        if commit:
            self.bench.journal.commit()
            self.bench.journal.commit()
        return command.id, terminal

    @rule()
    def commit(self) -> None:
        self.bench.journal.commit()

    @rule(full=st.booleans())
    def fill(self, full: bool) -> None:
        self.bench.journal.full = full

    @rule(terminal=st.sampled_from(TERMINALS))
    def attach(self, terminal: str) -> None:
        self.bench.attach(terminal)

    @rule(terminal=st.sampled_from(TERMINALS))
    def lose(self, terminal: str) -> None:
        self.bench.lose(terminal)

    @precondition(lambda self: self.bench.shared)
    @rule()
    def transmit(self) -> None:
        self.bench.transmit()

    @rule(terminal=st.sampled_from(TERMINALS), open_=st.booleans())
    def occupy(self, terminal: str, open_: bool) -> None:
        self.bench.machines[terminal].open = open_

    def asked(self) -> list[str]:
        return [terminal for terminal, machine in self.bench.machines.items() if machine.request is not None]

    @precondition(lambda self: bool(self.asked()))
    @rule(first=st.booleans(), good=st.sampled_from([True, True, False]), state=st.sampled_from([0, 0x80]))
    def reply(self, first: bool, good: bool, state: int) -> None:
        self.bench.reply(self.asked()[0 if first else -1], good=good, state=state)

    @precondition(lambda self: bool(self.asked()))
    @rule(first=st.booleans(), error=st.sampled_from([("timed_out", None), ("refused", 1), ("lost", None)]))
    def fail(self, first: bool, error: tuple[str, int | None]) -> None:
        self.bench.finish(self.asked()[0 if first else -1], Failure(error[0], "no answer", error[1]))

    @precondition(lambda self: any(machine.given_up for machine in self.bench.machines.values()))
    @rule(terminal=st.sampled_from(TERMINALS))
    def late(self, terminal: str) -> None:
        self.bench.late(terminal)

    @rule(which=accepted)
    def cancel(self, which: tuple[str, str]) -> None:
        job = self.bench.commands.jobs.get(*which)
        if job is not None:
            try:
                self.bench.commands.cancel(job, "li")
            except JournalFull:
                assert self.bench.journal.full or self.bench.commands.counters.untold

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        self.bench.control = on
        self.bench.commands.switch(on)

    @rule(seconds=st.sampled_from([0.0, 0.3, 6.0, 11.0, 70.0, 700.0, 5000.0]))
    def tick(self, seconds: float) -> None:
        self.bench.tick(seconds)

    @rule()
    def killed(self) -> None:
        """A kill -9 and a restart: what was not durable was never said, except that octets may be out."""
        self.kills += 1
        durable = set(self.bench.journal.rows)
        self.bench.restart()
        self.known = {key: command for key, command in self.known.items() if key in durable}

    @invariant()
    def a_control_goes_out_at_most_once(self) -> None:
        if not hasattr(self, "bench"):
            return
        steps = Counter(
            (request.context.command.id, terminal, place)
            for terminal, request in self.bench.sent
            if not request.context.repeatable
            for place, step in enumerate(request.context.plan.steps)
            if step.apdu is request.apdu
        )
        assert not [step for step, times in steps.items() if times > 1]

    @invariant()
    def one_job_is_under_way_at_a_terminal(self) -> None:
        if not hasattr(self, "bench"):
            return
        under_way = Counter(
            job.terminal
            for job in self.bench.commands.jobs
            if job.phase in ("guarding", "running") or (job.phase == "checking" and job.request is not None)
        )
        assert all(number == 1 for number in under_way.values())
        lines = self.bench.commands.jobs._lines.values()
        assert all(line.active is None or line.active.phase != "ended" for line in lines), "nobody is in the way"

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        bench.settle()
        told: defaultdict[tuple[str, str], list[Ack]] = defaultdict(list)
        for ack in bench.journal.acks:
            if not any(ack.id == before.id for before in told[ack.command_id, ack.terminal]):
                told[ack.command_id, ack.terminal].append(ack)
        assert set(told) == set(self.known)
        for key, command in self.known.items():
            acks = [ack for ack in told[key] if ack.status != "late"]
            verified = bool(command.verify) and class_of_verb(command.verb) == "control"
            unreadable = [ack.error is not None and ack.error.name == "unreadable" for ack in acks]
            usual = [is_final(ack.status, verified=verified) for ack in acks]
            final = [one or other for one, other in zip(usual, unreadable, strict=True)]
            assert [ack.final for ack in acks] == final
            assert [ack.final for ack in acks].count(True) == 1, [ack.status for ack in acks]
            assert acks[-1].final
            before: str | None = None
            for ack in acks:
                assert ack.status in NEXT[before], (key, command.verb, [ack.status for ack in acks])
                before = ack.status
            row = bench.journal.rows[key]
            assert (row["status"], row["final"], row["stage"]) == (acks[-1].status, 1, "ended")
            assert row["body"] == body_of(command)
            sent = any(request.context.command.id == key[0] for _, request in bench.sent if is_step(request))
            if acks[-1].status in ("expired", "rejected") and not (self.kills and command.verb == "read"):
                # A query may be killed after its octets are out and before that is durable: it does no harm.
                assert not sent, "what was never sent is told so"
            if any(ack.status in ("sent", "succeeded", "failed") for ack in acks):
                assert sent
        assert [ack.seq for ack in bench.journal.acks] == sorted({ack.seq for ack in bench.journal.acks})
        assert len(bench.commands.jobs) == 0
        type(self).numbers.update(ack.status for ack in bench.journal.acks)


def is_step(request: Request) -> bool:
    """Whether a request carries a command, not a question of the gateway's own."""
    return any(step.apdu is request.apdu for step in request.context.plan.steps)


TestLaws = Laws.TestCase
TestLaws.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
