"""The supply machine: one whole order, what goes wrong on the way, and its laws over random histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consumers.billing.calendars import Holidays
from consumers.billing.disconnect import Block, DisconnectPolicy, Facts, Verdict, blocks_of, may_reconnect
from consumers.billing.policies import default_policies, pick
from consumers.billing.prepaid import Balance, Stage
from consumers.billing.registers import LOCAL
from consumers.billing.supply import (
    TRANSITIONS,
    Action,
    Approved,
    CancelCommand,
    CommandStatus,
    Control,
    Event,
    FieldOrder,
    FieldResult,
    Measured,
    NoticeDelivered,
    RaiseEvidence,
    RequestApproval,
    SendCommand,
    SendNotice,
    State,
    VerifyCut,
    deadline,
    may_cut,
    step,
)
from consumers.billing.validity import ArchiveError

BOOK = default_policies()
DAY = date(2026, 4, 1)
LV, HV, POSTPAID = (pick(BOOK.disconnect, DAY, name) for name in ("prepaid-lv", "prepaid-hv", "postpaid"))
PREPAID = pick(BOOK.prepaid, DAY)
HOLIDAYS = Holidays(id="h", version="1", valid_from=DAY, holidays=frozenset({date(2026, 4, 22)}))
MONDAY = datetime(2026, 4, 6, 8, 0, tzinfo=LOCAL)


@dataclass
class Account:
    """An account driven by hand: keeps state and all actions, and counts transitions against the table."""

    policy: DisconnectPolicy = LV
    control: Control = field(default_factory=lambda: Control(account="a"))
    now: datetime = MONDAY
    facts: Facts = field(default_factory=lambda: facts_of("100"))
    done: list[Action] = field(default_factory=list)

    def step(self, event: Event | None = None) -> list[Action]:
        self.control, actions = step(self.control, self.facts, self.now, self.policy, event)
        self.done += actions
        return list(actions)

    def is_in(self, state: State) -> bool:
        return self.control.state is state

    def at(self, moment: datetime, event: Event | None = None) -> list[Action]:
        self.now = moment
        return self.step(event)

    def owe(self, amount: str = "-10", **changes: object) -> list[Action]:
        self.facts = facts_of(amount, **changes)
        return self.step()

    def confirm(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, SendNotice) and action.template == "disconnect":
                self.step(NoticeDelivered(notice_id=action.id, at=self.now))

    def to_notice(self) -> datetime:
        """Below zero, grace over, the notice delivered at 09:00 of a day when a cut is possible."""
        self.owe()
        assert self.is_in(State.ARREARS)
        morning = (MONDAY + timedelta(days=7)).replace(hour=9)
        self.at(morning)
        self.confirm(self.at(morning))
        if self.control.state is not State.NOTICED:
            self.confirm([action for action in self.done if isinstance(action, SendNotice)])
        assert self.is_in(State.NOTICED)
        return morning

    def to_trip(self) -> SendCommand:
        morning = self.to_notice()
        return next(a for a in self.at(morning + timedelta(minutes=30)) if isinstance(a, SendCommand))

    def to_cut(self) -> SendCommand:
        trip = self.to_trip()
        self.step(CommandStatus(command_id=trip.id, status="succeeded"))
        self.step(Measured(relay_open=True, load_percent=Decimal(0)))
        assert self.is_in(State.CUT_VERIFIED)
        return trip


def facts_of(available: str, **changes: object) -> Facts:
    amount = Decimal(available)
    stage = Stage.ARREARS if amount < 0 else Stage.OK
    return Facts(available=amount, stage=stage, holidays=HOLIDAYS, **changes)  # type: ignore[arg-type]


def commands(actions: list[Action], verb: str) -> list[SendCommand]:
    return [action for action in actions if isinstance(action, SendCommand) and action.verb == verb]


def of(actions: list[Action], kind: type) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]


def test_one_order_from_warning_to_reconnection() -> None:
    account = Account()
    account.facts = Facts(available=Decimal(40), stage=Stage.WARN1, holidays=HOLIDAYS)
    account.step()
    assert account.is_in(State.WARN1)
    trip = account.to_trip()
    assert trip.approvals == ("prepaid-lv@1",)
    assert account.is_in(State.CUT_SENT)
    [check] = account.step(CommandStatus(command_id=trip.id, status="succeeded"))
    assert check == VerifyCut(command_id=trip.id)
    account.step(CommandStatus(command_id=trip.id, status="verified"))
    assert account.is_in(State.CUT_ACKED)  # the relay alone does not prove it
    account.step(Measured(load_percent=Decimal("0.4")))
    assert account.is_in(State.CUT_VERIFIED)
    [close] = account.owe("-0.01") + account.owe("0.00", close_consent=True)
    assert isinstance(close, SendCommand)
    assert (close.verb, close.mode, close.priority) == ("close", "direct", 9)
    account.step(CommandStatus(command_id=close.id, status="verified"))
    assert account.is_in(State.RECON_VERIFIED)
    account.step()
    assert account.is_in(State.NORMAL)
    told = [action.template for action in account.done if isinstance(action, SendNotice)]
    assert told == ["arrears", "disconnect", "cut", "reconnected"]
    assert [(c.mode) for c in commands(account.done, "arrears_alarm")] == ["on", "off"]


def test_a_trip_is_valid_no_longer_than_the_window() -> None:
    account = Account()
    account.to_notice()
    late = account.now.replace(hour=15, minute=55)
    [trip] = commands(account.at(late), "trip")
    assert trip.valid_until == late.replace(hour=16, minute=0)


@pytest.mark.parametrize(
    ("consent", "high_voltage", "mode"), [(True, False, "direct"), (False, False, "permit"), (True, True, "permit")]
)
def test_close_mode(consent: bool, high_voltage: bool, mode: str) -> None:
    account = Account()
    account.to_cut()
    [close] = commands(account.owe("0", close_consent=consent, high_voltage=high_voltage), "close")
    assert close.mode == mode


@pytest.mark.parametrize("state", ["ARREARS", "NOTICED"])
def test_payment_before_the_trip_cancels_the_order(state: str) -> None:
    account = Account()
    account.to_notice()
    if state == "ARREARS":
        account = Account()
        account.owe()
    actions = account.owe("0.00")
    assert account.is_in(State.NORMAL)
    assert [a.template for a in actions if isinstance(a, SendNotice)] == ["cancelled"]
    account.owe()
    assert account.control.order == 2
    assert not account.control.notices


def test_reconnection_is_never_blocked_and_never_waits() -> None:
    account = Account()
    account.to_cut()
    night = account.now.replace(day=18, hour=23)  # a Saturday
    account.facts = facts_of("5", blocks=frozenset(Block))
    assert commands(account.at(night), "close")


def test_reconnection_is_repeated_then_a_field_order() -> None:
    account = Account()
    account.to_cut()
    closes = commands(account.owe("5"), "close")
    for _ in range(3):
        due = deadline(account.control)
        assert due is not None
        actions = account.at(due)
        closes += commands(actions, "close")
    assert len({close.id for close in closes}) == len(closes) == LV.reconnect_sends
    assert account.is_in(State.RECON_FAILED)
    [order] = of(account.done, FieldOrder)
    assert isinstance(order, FieldOrder)
    assert order.urgent
    account.step(FieldResult(supplied=True))
    assert account.is_in(State.RECON_VERIFIED)


def test_a_refused_trip_is_decided_anew_and_sent_at_most_twice() -> None:
    account = Account()
    trips = [account.to_trip()]
    account.step(CommandStatus(command_id=trips[0].id, status="rejected"))
    assert account.is_in(State.NOTICED)
    assert not account.step()
    trips += commands(account.at(account.now + timedelta(minutes=LV.retry_minutes)), "trip")
    account.step(CommandStatus(command_id=trips[1].id, status="expired"))
    assert trips[0].id != trips[1].id
    assert account.is_in(State.CUT_FAILED)
    assert of(account.done, FieldOrder)
    assert not account.at(account.now + timedelta(hours=1))


def test_a_retry_waits_for_a_block_to_end() -> None:
    account = Account()
    trip = account.to_trip()
    account.step(CommandStatus(command_id=trip.id, status="failed"))
    account.facts = facts_of("-10", blocks=frozenset({Block.DISPUTE}))
    assert not account.at(account.now + timedelta(minutes=LV.retry_minutes))


def test_an_unanswered_trip_is_never_repeated() -> None:
    account = Account()
    trip = account.to_trip()
    account.step(CommandStatus(command_id=trip.id, status="unknown"))
    due = deadline(account.control)
    assert due is not None
    account.at(due)
    assert account.is_in(State.CUT_FAILED)
    assert len(commands(account.done, "trip")) == 1
    account.step(FieldResult(supplied=False))
    assert account.is_in(State.CUT_VERIFIED)


def test_a_cut_not_verified_in_time_is_a_field_order() -> None:
    account = Account()
    trip = account.to_trip()
    account.step(CommandStatus(command_id=trip.id, status="succeeded"))
    assert deadline(account.control) == account.now + timedelta(minutes=5)
    [order] = account.at(account.now + timedelta(minutes=5))
    assert isinstance(order, FieldOrder)
    assert account.is_in(State.CUT_FAILED)


@pytest.mark.parametrize(
    "event",
    [Measured(relay_open=True, load_percent=Decimal("5.1")), Measured(relay_open=False), "not_effective"],
    ids=["load", "relay", "ack"],
)
def test_a_cut_without_effect_is_evidence(event: Measured | str) -> None:
    account = Account()
    trip = account.to_trip()
    account.step(CommandStatus(command_id=trip.id, status="succeeded"))
    actions = account.step(CommandStatus(command_id=trip.id, status=event) if isinstance(event, str) else event)
    assert [action.code for action in actions if isinstance(action, RaiseEvidence)] == ["CUT_NO_EFFECT"]
    assert account.is_in(State.CUT_FAILED)


def test_a_trip_overtaken_by_its_payment_is_withdrawn_and_undone() -> None:
    account = Account()
    trip = account.to_trip()
    cancel, close = account.owe("5")
    assert cancel == CancelCommand(id=trip.id)
    assert isinstance(close, SendCommand)
    account.step(CommandStatus(command_id=close.id, status="verified"))
    account.step()
    assert account.is_in(State.NORMAL)
    [again] = account.step(CommandStatus(command_id=trip.id, status="succeeded"))
    assert isinstance(again, SendCommand)
    assert again.verb == "close"
    assert again.id != close.id
    assert account.is_in(State.RECON_SENT)


def test_hv_cuts_need_two_names() -> None:
    account = Account(policy=HV)
    morning = account.to_notice()
    [request] = account.at(morning + timedelta(minutes=30))
    assert request == RequestApproval(order_id="a-order-1", needed=2)
    assert not account.step(Approved(by="wang"))
    assert not account.step(Approved(by=" wang "))
    [trip] = commands(account.step(Approved(by="li")), "trip")
    assert trip.approvals == ("li", "wang")


def test_postpaid_needs_both_notices() -> None:
    account = Account(policy=POSTPAID)
    account.owe()
    day = (MONDAY + timedelta(days=35)).replace(hour=10)  # a Monday, 30 days are over
    [first] = [a for a in account.at(day) if isinstance(a, SendNotice)]
    account.step(NoticeDelivered(notice_id=first.id, at=day))
    assert not account.at(day + timedelta(days=2))
    [second] = account.at(day + timedelta(days=3))
    assert isinstance(second, SendNotice)
    assert second.legal
    account.step(NoticeDelivered(notice_id=second.id, at=account.now))
    account.step(Approved(by="li"))
    account.step(Approved(by="wang"))
    assert not account.at(account.now + timedelta(minutes=29))
    assert commands(account.at(account.now + timedelta(minutes=1)), "trip")


def test_a_notice_counts_from_its_delivery_and_is_repeated_without_one() -> None:
    account = Account()
    account.owe()
    morning = (MONDAY + timedelta(days=7)).replace(hour=9)
    [first] = [a for a in account.at(morning) if isinstance(a, SendNotice)]
    assert not account.at(morning + timedelta(minutes=59))
    assert account.is_in(State.ARREARS)
    [second] = account.at(morning + timedelta(minutes=60))
    assert isinstance(second, SendNotice)
    assert second.id != first.id
    # A receipt dated before the notice was asked for makes it no older.
    account.step(NoticeDelivered(notice_id=second.id, at=morning - timedelta(days=1)))
    assert not account.at(morning + timedelta(minutes=89))
    assert commands(account.at(morning + timedelta(minutes=90)), "trip")


def test_an_old_last_notice_is_given_again() -> None:
    account = Account()
    morning = account.to_notice()
    account.facts = facts_of("-10", blocks=frozenset({Block.WEATHER}))
    account.at(morning + timedelta(minutes=30))
    account.facts = facts_of("-10")
    [again] = account.at(morning + timedelta(days=1, minutes=30))
    assert isinstance(again, SendNotice)


def test_blocks_come_from_archives_balance_and_payments() -> None:
    balance = Balance(cash=Decimal(-1), as_of=MONDAY, estimated=True)
    late = MONDAY + timedelta(hours=24, seconds=1)
    found = blocks_of(
        balance,
        late,
        PREPAID,
        LV,
        flags=frozenset({Block.IMPORTANT, Block.POWER_GUARANTEE}),
        important_cleared=True,
        pending_since=late - timedelta(minutes=30),
    )
    assert found == {Block.POWER_GUARANTEE, Block.ESTIMATED, Block.STALE_DATA, Block.PAYMENT_PENDING}
    assert not blocks_of(
        replace(balance, estimated=False), MONDAY, PREPAID, LV, pending_since=MONDAY - timedelta(minutes=31)
    )


def test_events_about_something_else_change_nothing() -> None:
    account = Account()
    trip = account.to_trip()
    before = account.control
    for event in (
        CommandStatus(command_id="other", status="verified"),
        FieldResult(supplied=True),
        NoticeDelivered(notice_id="other", at=account.now),
        CommandStatus(command_id=trip.id, status="accepted"),
        CommandStatus(command_id=trip.id, status="sent"),
    ):
        assert not account.step(event)
        assert account.control == before


def test_an_impossible_transition_is_a_bug() -> None:
    broken = Facts(available=Decimal(1), stage=Stage.ARREARS, holidays=HOLIDAYS)
    with pytest.raises(ValueError, match="stage ARREARS"):
        step(Control(account="a"), broken, MONDAY, LV)


@pytest.mark.parametrize(
    "changes",
    [
        {"notice_leads_minutes": ()},
        {"notice_leads_minutes": (30, 4320)},
        {"window_from": "16:00", "window_to": "09:00"},
        {"window_from": "nine"},
        {"policy_approval": ""},
        {"max_sends": 0},
    ],
)
def test_an_impossible_policy_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ArchiveError):
        DisconnectPolicy(**{**{name: getattr(LV, name) for name in LV.__struct_fields__}, **changes})


CUT_STATES = {State.CUT_SENT, State.CUT_ACKED, State.CUT_VERIFIED, State.CUT_FAILED}
minutes = st.sampled_from([0, 1, 10, 29, 30, 61, 300, 1440, 3000])
happenings = st.lists(
    st.tuples(
        minutes,
        st.sampled_from(["-10", "-10", "-10", "0", "40"]),
        st.sets(st.sampled_from(Block), max_size=1).map(frozenset) | st.just(frozenset()),
        st.sampled_from(
            [
                "tick",
                "tick",
                "deliver",
                "deliver",
                "approve-li",
                "approve-wang",
                "measure-0",
                "measure-50",
                "open",
                "shut",
            ]
            + [f"ack-{s}" for s in ("sent", "succeeded", "verified", "failed", "rejected", "unknown", "not_effective")]
        ),
    ),
    max_size=60,
)


def event_of(what: str, account: Account) -> Event | None:
    kind, _, detail = what.partition("-")
    match kind:
        case "deliver" if account.control.notices:
            return NoticeDelivered(notice_id=account.control.notices[-1].id, at=account.now)
        case "approve":
            return Approved(by=detail)
        case "measure":
            return Measured(relay_open=True, load_percent=Decimal(detail))
        case "open" | "shut":
            return FieldResult(supplied=kind == "shut")
        case "ack" if account.control.command_id:
            return CommandStatus(command_id=account.control.command_id, status=detail)
    return None


def begun(start: str) -> Account:
    """An account from which random histories go on: `policy` or `policy+state`; at 09:00 or later of a workday."""
    name, _, state = start.partition("+")
    account = Account(policy={"lv": LV, "hv": HV, "postpaid": POSTPAID}[name])
    if state:
        {"sent": account.to_trip, "cut": account.to_cut}[state]()
        return account
    account.owe()
    account.now += timedelta(days=account.policy.grace_days, hours=1)
    account.confirm(account.step())
    return account


@settings(max_examples=300)
@given(happenings, st.sampled_from(["lv", "hv", "postpaid", "lv+sent", "lv+cut"]))
def test_laws_of_the_machine(history: list[tuple[int, str, frozenset[Block], str]], start: str) -> None:
    account = begun(start)
    policy = account.policy
    ids = {action.id for action in account.done if isinstance(action, SendCommand)}
    receipts = {n.id: n.delivered for n in account.control.notices if n.delivered is not None}
    for wait, available, blocks, what in history:
        account.now += timedelta(minutes=wait)
        before = account.control
        account.facts = facts_of(available, blocks=blocks)
        event = event_of(what, account)
        if isinstance(event, NoticeDelivered):
            receipts.setdefault(event.notice_id, account.now)
        actions = account.step(event)
        again, same = step(before, account.facts, account.now, policy, event)
        assert (again, list(same)) == (account.control, actions)  # a pure function: a replay repeats it
        for action in actions:
            if isinstance(action, SendCommand) and action.verb == "trip":
                local = account.now.astimezone(LOCAL)
                assert not blocks
                assert account.facts.available < 0
                assert 9 <= local.hour < 16
                assert not HOLIDAYS.free_or_eve(local.date())
                assert action.valid_until <= local.replace(hour=16, minute=0, second=0, microsecond=0)
                assert before.arrears_since is not None
                assert account.now - before.arrears_since >= timedelta(days=policy.grace_days)
                for number, lead in enumerate(policy.notice_leads_minutes):
                    assert any(
                        n.number == number
                        and n.id in receipts
                        and account.now - receipts[n.id] >= timedelta(minutes=lead)
                        for n in account.control.notices
                    )
                assert len(action.approvals) >= max(policy.approvals, 1)
                assert may_cut(before, account.facts, account.now, policy).verdict is Verdict.CUT
                assert account.control.sends <= policy.max_sends
            if isinstance(action, SendCommand) and action.verb in {"trip", "close"}:
                assert action.id not in ids
                ids.add(action.id)
        if before.state in CUT_STATES and may_reconnect(account.facts.available, policy):
            if account.control.state is State.RECON_SENT:
                assert len(commands(actions, "close")) == 1
            else:  # the trip was refused in the same moment: nobody was cut
                assert what in {"ack-failed", "ack-rejected"}
                assert before.state is State.CUT_SENT
                assert account.is_in(State.NORMAL)
        assert len(account.control.notices) <= 5 * len(policy.notice_leads_minutes)


def test_the_random_histories_do_reach_the_far_states() -> None:
    """The law above would be empty if nothing were ever cut: this history is one of its kind."""
    account = Account()
    trip = account.to_cut()
    assert trip.verb == "trip"
    assert set(TRANSITIONS) == set(State)
