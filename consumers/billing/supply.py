"""Supply control 停复电: the machine that follows one arrears order from the first notice to supply restored.

Theory of operation (rule A.14). `step` is a pure function: state, facts, now (and an event) in; state and actions out.
It holds no clock and sends nothing. Whoever runs it stores the new state and the actions in one transaction, performs
the actions, and asks `may_cut` again right before a trip leaves (the balance may have changed).

- Every transition stands in `TRANSITIONS`; one that does not is a bug and raises.
- Below zero an order opens (ARREARS). After the grace days its notices go out, one for each lead of the policy, inside
  the hours of the window. A notice counts from its confirmed delivery, not from its sending.
- `decide` is asked anew each time; the first rule that hits wins: block, no arrears, grace, notice, window, workday.
  Only CUT sends a trip, with the approvals that the supply needs, and its validity ends with the window.
- A trip is proven by the relay's state and by a current near zero. A trip that surely did not act may be sent again
  after everything is decided anew, at most `max_sends` times; one that may have acted never is: a field order is.
- Money that covers the debt cancels the order at any point before the trip, and from then on reconnects at once: no
  block, window, stale datum or other queue holds a reconnection.
- A trip that was under way when the money came is withdrawn; should it act all the same, however late, supply is
  restored again (`overtaken`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from msgspec.structs import replace

from consumers.billing.disconnect import Decision, DisconnectPolicy, Facts, Verdict, decide, may_reconnect
from consumers.billing.prepaid import Stage
from consumers.billing.registers import LOCAL
from consumers.billing.validity import Value


class State(StrEnum):
    """Where an account stands."""

    NORMAL = "NORMAL"
    WARN1 = "WARN1"
    WARN2 = "WARN2"
    ARREARS = "ARREARS"
    """欠费."""
    NOTICED = "NOTICED"
    """已通知: the first notice of disconnection is delivered."""
    APPROVED = "APPROVED"
    """已审批."""
    CUT_SENT = "CUT_SENT"
    CUT_ACKED = "CUT_ACKED"
    CUT_VERIFIED = "CUT_VERIFIED"
    """已停电: relay open, current near zero."""
    CUT_FAILED = "CUT_FAILED"
    """The trip had no proven effect; a field order 现场工单 is open."""
    PAID = "PAID"
    """已缴费, still to be reconnected."""
    RECON_SENT = "RECON_SENT"
    RECON_FAILED = "RECON_FAILED"
    """Reconnection not proven; an urgent field order is open."""
    RECON_VERIFIED = "RECON_VERIFIED"
    """已复电."""


_S = State
_STAGES = frozenset({_S.NORMAL, _S.WARN1, _S.WARN2, _S.ARREARS})
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    _S.NORMAL: _STAGES | {_S.PAID},
    _S.WARN1: _STAGES | {_S.PAID},
    _S.WARN2: _STAGES | {_S.PAID},
    _S.ARREARS: _STAGES | {_S.NOTICED, _S.PAID},
    _S.NOTICED: _STAGES | {_S.APPROVED, _S.PAID},
    _S.APPROVED: _STAGES | {_S.NOTICED, _S.CUT_SENT, _S.PAID},
    _S.CUT_SENT: frozenset({_S.CUT_ACKED, _S.CUT_VERIFIED, _S.CUT_FAILED, _S.NOTICED, _S.PAID}),
    _S.CUT_ACKED: frozenset({_S.CUT_VERIFIED, _S.CUT_FAILED, _S.PAID}),
    _S.CUT_VERIFIED: frozenset({_S.CUT_FAILED, _S.PAID}),
    _S.CUT_FAILED: frozenset({_S.CUT_VERIFIED, _S.PAID}),
    _S.PAID: frozenset({_S.RECON_SENT}),
    _S.RECON_SENT: frozenset({_S.RECON_VERIFIED, _S.RECON_FAILED}),
    _S.RECON_FAILED: frozenset({_S.RECON_VERIFIED}),
    _S.RECON_VERIFIED: _STAGES | {_S.PAID},
}
_POWERED: Final = frozenset({_S.NORMAL, _S.WARN1, _S.WARN2, _S.ARREARS, _S.NOTICED, _S.APPROVED})
_ORDERED: Final = frozenset({_S.ARREARS, _S.NOTICED, _S.APPROVED})
_CUT: Final = frozenset({_S.CUT_SENT, _S.CUT_ACKED, _S.CUT_VERIFIED, _S.CUT_FAILED})
_STATE_OF_STAGE: Final = {
    Stage.OK: _S.NORMAL,
    Stage.WARN1: _S.WARN1,
    Stage.WARN2: _S.WARN2,
    Stage.ARREARS: _S.ARREARS,
}


class Notice(Value, frozen=True, kw_only=True):
    """A notice of disconnection. `number` from 0, by lead; `delivered` None while it is on its way."""

    id: str
    number: int
    asked: datetime
    delivered: datetime | None = None


class Control(Value, frozen=True, kw_only=True):
    """The stored state of one account. `order` counts its arrears orders; ids are made of it: a replay repeats them."""

    account: str
    state: State = State.NORMAL
    order: int = 0
    arrears_since: datetime | None = None
    notices: tuple[Notice, ...] = ()
    notice_count: int = 0
    approvals: frozenset[str] = frozenset()
    approval_asked: bool = False
    sends: int = 0
    """Of the command under way: of its trip, then of its close."""
    closes: int = 0
    command_id: str | None = None
    wait_until: datetime | None = None
    """When the command under way counts as unanswered, or when one may be sent again."""
    relay_open: bool = False
    overtaken: str | None = None
    """A trip that a payment overtook; whether it acted is not known yet."""


class SendNotice(Value, frozen=True, kw_only=True, tag="notice"):
    """Tell the customer. `template`: arrears, disconnect, cancelled, cut, reconnected; `legal`: a required one."""

    id: str
    template: str
    legal: bool = False


class SendCommand(Value, frozen=True, kw_only=True, tag="command"):
    """A command of the contract: trip, close (mode permit or direct), arrears_alarm (mode on or off)."""

    id: str
    verb: str
    mode: str
    valid_until: datetime
    priority: int
    reason: str
    approvals: tuple[str, ...] = ()


class CancelCommand(Value, frozen=True, kw_only=True, tag="cancel"):
    """Withdraw a command that may not have been sent."""

    id: str


class VerifyCut(Value, frozen=True, kw_only=True, tag="verify"):
    """Read relay state and current of the supply and report them as `Measured`."""

    command_id: str


class RequestApproval(Value, frozen=True, kw_only=True, tag="approval"):
    """Ask people. `needed`: how many distinct names."""

    order_id: str
    needed: int


class FieldOrder(Value, frozen=True, kw_only=True, tag="field_order"):
    """Send somebody 现场工单."""

    id: str
    reason: str
    urgent: bool = False


class RaiseEvidence(Value, frozen=True, kw_only=True, tag="evidence"):
    """Evidence for inspection 用电检查."""

    id: str
    code: str


Action = SendNotice | SendCommand | CancelCommand | VerifyCut | RequestApproval | FieldOrder | RaiseEvidence


class NoticeDelivered(Value, frozen=True, kw_only=True):
    """The channel confirmed the notice."""

    notice_id: str
    at: datetime


class Approved(Value, frozen=True, kw_only=True):
    """Somebody approved the open order."""

    by: str


class CommandStatus(Value, frozen=True, kw_only=True):
    """An Ack of the contract: any of its statuses."""

    command_id: str
    status: str


class Measured(Value, frozen=True, kw_only=True):
    """Relay and load as read after a trip, `load_percent` of the load before it; None: not read."""

    relay_open: bool | None = None
    load_percent: Decimal | None = None


class FieldResult(Value, frozen=True, kw_only=True):
    """What the field crew left behind."""

    supplied: bool


Event = NoticeDelivered | Approved | CommandStatus | Measured | FieldResult

_DID_NOT_ACT: Final = frozenset({"failed", "rejected", "expired", "cancelled"})
_KEPT_NOTICES: Final = 4
"""Earlier sendings of one notice that may still be confirmed."""
CUT_PRIORITY: Final = 5
RECONNECT_PRIORITY: Final = 9
"""Reconnection goes before every other queue."""


def _move(control: Control, state: State, **changes: Any) -> Control:
    if state not in TRANSITIONS[control.state]:
        raise RuntimeError(f"{control.account}: no transition from {control.state} to {state}")
    return replace(control, state=state, **changes)


def _order_id(control: Control) -> str:
    return f"{control.account}-order-{control.order}"


def noticed(control: Control, now: datetime, policy: DisconnectPolicy) -> bool:
    """Whether every required notice is delivered and old enough, and the last one not too old."""
    return _next_notice(control, now, policy) is None


def _next_notice(control: Control, now: datetime, policy: DisconnectPolicy) -> int | None:
    """The first lead whose notice is missing, too young, or (the last one) too old."""
    leads = policy.notice_leads_minutes
    for number, lead in enumerate(leads):
        times = [n.delivered for n in control.notices if n.number == number and n.delivered is not None]
        if not times:
            return number
        if number == len(leads) - 1:
            limit = timedelta(hours=policy.notice_valid_hours)
            times = [at for at in times if now - at <= limit]
        if not any(now - at >= timedelta(minutes=lead) for at in times):
            return number
    return None


def may_cut(
    control: Control, facts: Facts, now: datetime, policy: DisconnectPolicy, zone: timezone = LOCAL
) -> Decision:
    """`decide` for this account now; asked again immediately before a trip leaves."""
    since = control.arrears_since
    return decide(
        blocks=facts.blocks,
        available=facts.available,
        grace_days=(now - since).days if since is not None else 0,
        noticed=noticed(control, now, policy),
        in_window=policy.in_window(now, zone),
        free_or_eve=facts.holidays.free_or_eve(now.astimezone(zone).date()),
        policy=policy,
    )


def step(
    control: Control,
    facts: Facts,
    now: datetime,
    policy: DisconnectPolicy,
    event: Event | None = None,
    zone: timezone = LOCAL,
) -> tuple[Control, tuple[Action, ...]]:
    """Take an event, if any, then do all that is due at `now`. Events about something else change nothing."""
    actions: list[Action] = []
    if event is not None:
        control = _on_event(control, event, now, policy, actions)
    if control.state in _POWERED:
        control = _powered(control, facts, now, policy, zone, actions)
    elif control.state in _CUT:
        control = _cut(control, facts, now, policy, actions)
    elif control.state is State.PAID:
        control = _send_close(control, facts, now, policy, actions)
    elif control.state is State.RECON_SENT:
        control = _reconnecting(control, facts, now, policy, actions)
    elif control.state is State.RECON_VERIFIED and event is None:
        control = _settle(control, facts, now, actions)
    return control, tuple(actions)


def deadline(control: Control) -> datetime | None:
    """When `step` is due by a timer of its own; besides that on any news and at least every few minutes."""
    return control.wait_until if control.state in _CUT | {State.NOTICED, State.RECON_SENT} else None


def _on_event(
    control: Control, event: Event, now: datetime, policy: DisconnectPolicy, actions: list[Action]
) -> Control:
    match event:
        case NoticeDelivered(notice_id=notice_id, at=at) if control.state in _ORDERED:
            notices = tuple(
                replace(n, delivered=max(n.asked, min(at, now))) if n.id == notice_id and n.delivered is None else n
                for n in control.notices
            )
            if control.state is State.ARREARS and any(n.delivered is not None for n in notices):
                return _move(control, State.NOTICED, notices=notices)
            return replace(control, notices=notices)
        case Approved(by=by) if control.state in _ORDERED and by.strip():
            return replace(control, approvals=control.approvals | {by.strip()})
        case CommandStatus(command_id=command_id, status=status) if command_id == control.overtaken:
            return _on_overtaken(control, status, now)
        case CommandStatus(command_id=command_id, status=status) if command_id == control.command_id:
            return _on_status(control, status, now, policy, actions)
        case Measured() if control.state in {State.CUT_SENT, State.CUT_ACKED, State.CUT_VERIFIED}:
            return _on_measured(control, event, policy, actions)
        case Measured(relay_open=False) if control.state in {State.RECON_SENT, State.RECON_FAILED}:
            return _reconnected(control, actions)
        case FieldResult(supplied=True) if control.state in {State.RECON_SENT, State.RECON_FAILED}:
            return _reconnected(control, actions)
        case FieldResult(supplied=False) if control.state is State.CUT_FAILED:
            return _move(control, State.CUT_VERIFIED, wait_until=None)
    return control


def _on_overtaken(control: Control, status: str, now: datetime) -> Control:
    """What became of a trip that a payment overtook: if it acted, close once more."""
    if status in _DID_NOT_ACT or status == "not_effective":
        return replace(control, overtaken=None)
    if status not in {"succeeded", "verified"} or control.state is State.RECON_FAILED:
        return control
    if control.state is State.RECON_SENT:
        return replace(control, overtaken=None, sends=0, wait_until=now)
    return _move(control, State.PAID, overtaken=None, sends=0)


def _on_status(
    control: Control, status: str, now: datetime, policy: DisconnectPolicy, actions: list[Action]
) -> Control:
    if control.state in {State.RECON_SENT, State.RECON_FAILED}:
        if status == "verified":
            return _reconnected(control, actions)
        if control.state is State.RECON_SENT and (status in _DID_NOT_ACT or status == "not_effective"):
            return replace(control, wait_until=now)
        return control
    if control.state not in {State.CUT_SENT, State.CUT_ACKED}:
        return control
    if status == "succeeded" and control.state is State.CUT_SENT:
        assert control.command_id is not None
        actions.append(VerifyCut(command_id=control.command_id))
        return _move(control, State.CUT_ACKED, wait_until=now + timedelta(minutes=policy.verify_minutes))
    if status == "verified":
        assert control.command_id is not None
        actions.append(VerifyCut(command_id=control.command_id))
        if control.state is State.CUT_SENT:
            control = _move(control, State.CUT_ACKED, wait_until=now + timedelta(minutes=policy.verify_minutes))
        return replace(control, relay_open=True)
    if status == "not_effective":
        return _no_effect(control, actions)
    if status == "unknown":
        return replace(control, wait_until=now + timedelta(minutes=policy.verify_minutes))
    if status in _DID_NOT_ACT and control.state is State.CUT_SENT:
        if control.sends >= policy.max_sends:
            return _cut_failed(control, f"trip {status} {control.sends} times", actions)
        later = now + timedelta(minutes=policy.retry_minutes)
        return _move(control, State.NOTICED, command_id=None, wait_until=later)
    return control


def _on_measured(control: Control, event: Measured, policy: DisconnectPolicy, actions: list[Action]) -> Control:
    load = event.load_percent
    if event.relay_open is False or (load is not None and load > policy.no_effect_percent):
        return _no_effect(control, actions)
    control = replace(control, relay_open=control.relay_open or event.relay_open is True)
    if load is None or not control.relay_open or control.state is State.CUT_VERIFIED:
        return control
    actions.append(SendNotice(id=f"{_order_id(control)}-cut", template="cut"))
    return _move(control, State.CUT_VERIFIED, relay_open=True, wait_until=None)


def _no_effect(control: Control, actions: list[Action]) -> Control:
    actions.append(RaiseEvidence(id=f"{_order_id(control)}-no-effect", code="CUT_NO_EFFECT"))
    return _cut_failed(control, "trip without effect", actions)


def _cut_failed(control: Control, reason: str, actions: list[Action]) -> Control:
    actions.append(FieldOrder(id=f"{_order_id(control)}-field-cut", reason=reason))
    return _move(control, State.CUT_FAILED, wait_until=None)


def _reconnected(control: Control, actions: list[Action]) -> Control:
    actions.append(SendNotice(id=f"{_order_id(control)}-reconnected", template="reconnected"))
    return _move(control, State.RECON_VERIFIED, wait_until=None)


def _settle(control: Control, facts: Facts, now: datetime, actions: list[Action]) -> Control:
    """Go to the state of the stage: closes an open order, or opens one below zero."""
    target = _STATE_OF_STAGE[facts.stage] if facts.available >= 0 else State.ARREARS
    if target is State.ARREARS and facts.available >= 0:
        raise ValueError(f"{control.account}: stage {facts.stage.name} with {facts.available} available")
    if control.state in _ORDERED | {State.RECON_VERIFIED}:
        if control.state is not State.RECON_VERIFIED:
            actions.append(SendNotice(id=f"{_order_id(control)}-cancelled", template="cancelled"))
        actions.append(_alarm(control, now, "off"))
    fresh = Control(
        account=control.account,
        state=control.state,
        order=control.order,
        closes=control.closes,
        overtaken=control.overtaken,
    )
    if target is not State.ARREARS:
        return _move(fresh, target)
    opened = _move(fresh, target, order=control.order + 1, closes=0, arrears_since=now)
    actions.append(SendNotice(id=f"{_order_id(opened)}-arrears", template="arrears"))
    return opened


def _alarm(control: Control, now: datetime, mode: str) -> SendCommand:
    return SendCommand(
        id=f"{_order_id(control)}-alarm-{mode}",
        verb="arrears_alarm",
        mode=mode,
        valid_until=now + timedelta(days=1),
        priority=CUT_PRIORITY,
        reason=_order_id(control),
    )


def _powered(
    control: Control,
    facts: Facts,
    now: datetime,
    policy: DisconnectPolicy,
    zone: timezone,
    actions: list[Action],
) -> Control:
    if facts.available >= 0 or control.state not in _ORDERED:
        return _settle(control, facts, now, actions)
    decision = may_cut(control, facts, now, policy, zone)
    if decision.verdict is not Verdict.CUT and control.state is State.APPROVED:
        control = _move(control, State.NOTICED)
    if decision.verdict is Verdict.WAIT_NOTICE:
        return _give_notice(control, facts, now, policy, zone, actions)
    if decision.verdict is not Verdict.CUT or control.state is State.ARREARS:
        return control
    if control.wait_until is not None and now < control.wait_until:
        return control
    if len(control.approvals) < policy.approvals:
        if not control.approval_asked:
            actions.append(RequestApproval(order_id=_order_id(control), needed=policy.approvals))
        return replace(control, approval_asked=True)
    if control.state is State.NOTICED:
        control = _move(control, State.APPROVED)
    sends = control.sends + 1
    command = SendCommand(
        id=f"{_order_id(control)}-trip-{sends}",
        verb="trip",
        mode="",
        valid_until=min(now + timedelta(minutes=policy.command_valid_minutes), policy.window_end(now, zone)),
        priority=CUT_PRIORITY,
        reason=_order_id(control),
        approvals=tuple(sorted(control.approvals)) or (policy.policy_approval,),
    )
    actions.append(command)
    wait = command.valid_until + timedelta(minutes=policy.verify_minutes)
    return _move(control, State.CUT_SENT, sends=sends, command_id=command.id, wait_until=wait, relay_open=False)


def _give_notice(
    control: Control,
    facts: Facts,
    now: datetime,
    policy: DisconnectPolicy,
    zone: timezone,
    actions: list[Action],
) -> Control:
    """Send the next notice unless it is on its way or delivered and only too young. Inside the window's hours only."""
    number = _next_notice(control, now, policy)
    if number is None or not policy.in_window(now, zone):
        return control
    final = number == len(policy.notice_leads_minutes) - 1
    if final and policy.workdays_only and facts.holidays.free_or_eve(now.astimezone(zone).date()):
        return control
    given = [n for n in control.notices if n.number == number]
    retry = timedelta(minutes=policy.notice_retry_minutes)
    valid = timedelta(hours=policy.notice_valid_hours)
    for notice in given:
        if notice.delivered is None and now - notice.asked < retry:
            return control
        if notice.delivered is not None and (not final or now - notice.delivered <= valid):
            return control
    count = control.notice_count + 1
    notice = Notice(id=f"{_order_id(control)}-notice-{count}", number=number, asked=now)
    actions.append(SendNotice(id=notice.id, template="disconnect", legal=True))
    if not control.notices:
        actions.append(_alarm(control, now, "on"))
    others = tuple(n for n in control.notices if n.number != number)
    return replace(control, notices=(*others, *given[-_KEPT_NOTICES:], notice), notice_count=count)


def _cut(control: Control, facts: Facts, now: datetime, policy: DisconnectPolicy, actions: list[Action]) -> Control:
    if may_reconnect(facts.available, policy):
        overtaken = control.command_id if control.state in {State.CUT_SENT, State.CUT_FAILED} else None
        if control.state is State.CUT_SENT and control.command_id is not None:
            actions.append(CancelCommand(id=control.command_id))
        paid = _move(control, State.PAID, sends=0, overtaken=overtaken)
        return _send_close(paid, facts, now, policy, actions)
    if control.wait_until is not None and now >= control.wait_until:
        if control.state is State.CUT_SENT:
            return _cut_failed(control, "trip unanswered: it may have acted", actions)
        if control.state is State.CUT_ACKED:
            return _cut_failed(control, "cut not verified in time", actions)
    return control


def _send_close(
    control: Control, facts: Facts, now: datetime, policy: DisconnectPolicy, actions: list[Action]
) -> Control:
    """HV supplies get a permit 合闸允许 (the user closes the switch), LV ones a direct close if they consented."""
    closes = control.closes + 1
    wait = now + timedelta(minutes=policy.reconnect_verify_minutes)
    command = SendCommand(
        id=f"{_order_id(control)}-close-{closes}",
        verb="close",
        mode="direct" if facts.close_consent and not facts.high_voltage else "permit",
        valid_until=wait,
        priority=RECONNECT_PRIORITY,
        reason=_order_id(control),
    )
    actions.append(command)
    if control.state is State.PAID:
        control = _move(control, State.RECON_SENT)
    return replace(control, sends=control.sends + 1, closes=closes, command_id=command.id, wait_until=wait)


def _reconnecting(
    control: Control, facts: Facts, now: datetime, policy: DisconnectPolicy, actions: list[Action]
) -> Control:
    if control.wait_until is None or now < control.wait_until:
        return control
    if control.sends < policy.reconnect_sends:
        return _send_close(control, facts, now, policy, actions)
    actions.append(FieldOrder(id=f"{_order_id(control)}-field-close", reason="reconnection not verified", urgent=True))
    return _move(control, State.RECON_FAILED, wait_until=None)
