"""Disconnection 停电: whether a customer may be cut now, and which commands were executed. Rules A.14 and D (D04).

The decision is a table without memory; `supply.py` holds the machine that follows an order through it.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum

from consumers.billing.calendars import Holidays
from consumers.billing.prepaid import Balance, PrepaidPolicy, Stage
from consumers.billing.registers import LOCAL
from consumers.billing.validity import ArchiveError, Dated, Value


class Block(StrEnum):
    """Why nobody may be cut, in the order in which it is told."""

    POWER_GUARANTEE = "baodian"
    """保电."""
    IMPORTANT = "important"
    """重要用户 without manual approval and filing."""
    LIFE_SUPPORT = "life_support"
    DISPUTE = "dispute"
    PAYMENT_PENDING = "payment_pending"
    """A payment is on its way, for at most 30 minutes."""
    STALE_DATA = "stale_data"
    ESTIMATED = "estimated"
    """The balance rests on ESTIMATED or TERMINAL data."""
    WEATHER = "weather"
    """Weather alert 恶劣天气."""
    SECURITY_LOAD = "security_load"
    """保安负荷 of a continuous-process customer not checked."""


class DisconnectPolicy(Dated, frozen=True, kw_only=True):
    """Graces, notices, windows and waits; law and contract decide them. Times of day are local, HH:MM."""

    grace_days: int
    notice_leads_minutes: tuple[int, ...]
    """How old each notice must be at the cut; longest first, e.g. 3 days and 30 minutes."""
    notice_valid_hours: int
    """The last notice is given again when it is older."""
    notice_retry_minutes: int
    """A notice not confirmed for so long is sent again."""
    window_from: str
    window_to: str
    workdays_only: bool
    """Not on weekends, holidays and their eves."""
    approvals: int
    """Distinct names that a trip needs; 0: `policy_approval` stands for them (prepaid LV cuts)."""
    policy_approval: str
    max_sends: int
    retry_minutes: int
    command_valid_minutes: int
    verify_minutes: int
    no_effect_percent: Decimal
    """Load after the trip, of the load before it: more is CUT_NO_EFFECT."""
    payment_pending_minutes: int
    reconnect_min: Decimal
    """可用余额 from which supply is restored."""
    reconnect_sends: int
    reconnect_verify_minutes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        leads = self.notice_leads_minutes
        if not leads or list(leads) != sorted(leads, reverse=True) or min(leads) < 0:
            raise ArchiveError(f"{self.ref}: notice leads must be one or more, longest first: {leads}")
        if not _minutes(self.window_from) < _minutes(self.window_to):
            raise ArchiveError(f"{self.ref}: the window {self.window_from} to {self.window_to} is empty")
        if self.reconnect_min < 0 or self.max_sends < 1 or self.reconnect_sends < 1:
            raise ArchiveError(f"{self.ref}: reconnect_min {self.reconnect_min}, sends {self.max_sends}")
        if self.approvals == 0 and not self.policy_approval:
            raise ArchiveError(f"{self.ref}: a cut without approvals needs the id of the policy's approval")

    def window_end(self, now: datetime, zone: timezone = LOCAL) -> datetime:
        """The end of today's window."""
        return _at_minutes(now.astimezone(zone), _minutes(self.window_to))

    def in_window(self, now: datetime, zone: timezone = LOCAL) -> bool:
        """Whether the local time is in [window_from, window_to)."""
        local = now.astimezone(zone)
        return _minutes(self.window_from) <= local.hour * 60 + local.minute < _minutes(self.window_to)


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(hours) <= 24 and int(minutes) < 60):
        raise ArchiveError(f"not a time of day HH:MM: {text!r}")
    return int(hours) * 60 + int(minutes)


def _at_minutes(local: datetime, minutes: int) -> datetime:
    return local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(minutes=minutes)


class Verdict(StrEnum):
    """What `decide` says."""

    BLOCK = "BLOCK"
    NO = "NO"
    WAIT_GRACE = "WAIT_GRACE"
    WAIT_NOTICE = "WAIT_NOTICE"
    WAIT_WINDOW = "WAIT_WINDOW"
    WAIT_WORKDAY = "WAIT_WORKDAY"
    CUT = "CUT"


class Decision(Value, frozen=True, kw_only=True):
    """A verdict; `block` names the block."""

    verdict: Verdict
    block: Block | None = None

    def __str__(self) -> str:
        return f"{self.verdict}:{self.block}" if self.block else str(self.verdict)


def decide(
    *,
    blocks: frozenset[Block],
    available: Decimal,
    grace_days: int,
    noticed: bool,
    in_window: bool,
    free_or_eve: bool,
    policy: DisconnectPolicy,
) -> Decision:
    """The decision table of A.14, first hit wins (A47). `noticed`: every required notice is given and old enough."""
    for block in Block:
        if block in blocks:
            return Decision(verdict=Verdict.BLOCK, block=block)
    if available >= 0:
        return Decision(verdict=Verdict.NO)
    if grace_days < policy.grace_days:
        return Decision(verdict=Verdict.WAIT_GRACE)
    if not noticed:
        return Decision(verdict=Verdict.WAIT_NOTICE)
    if not in_window:
        return Decision(verdict=Verdict.WAIT_WINDOW)
    if policy.workdays_only and free_or_eve:
        return Decision(verdict=Verdict.WAIT_WORKDAY)
    return Decision(verdict=Verdict.CUT)


class Facts(Value, frozen=True, kw_only=True):
    """What is true of the account now. `blocks`: see `blocks_of`."""

    available: Decimal
    stage: Stage
    holidays: Holidays
    blocks: frozenset[Block] = frozenset()
    high_voltage: bool = False
    close_consent: bool = False
    """LV: the customer agreed to being switched on unattended 安全告知."""


def blocks_of(
    balance: Balance,
    now: datetime,
    prepaid: PrepaidPolicy,
    policy: DisconnectPolicy,
    *,
    flags: frozenset[Block] = frozenset(),
    important_cleared: bool = False,
    pending_since: datetime | None = None,
) -> frozenset[Block]:
    """All blocks: `flags` from the archives and those that balance and payments raise by themselves.

    `important_cleared`: manual approval and filing 报备 exist. `pending_since`: start of the newest unfinished payment.
    """
    found = set(flags)
    if important_cleared:
        found.discard(Block.IMPORTANT)
    if pending_since is not None and now - pending_since <= timedelta(minutes=policy.payment_pending_minutes):
        found.add(Block.PAYMENT_PENDING)
    if balance.stale(now, prepaid):
        found.add(Block.STALE_DATA)
    if balance.estimated:
        found.add(Block.ESTIMATED)
    return frozenset(found)


def may_reconnect(available: Decimal, policy: DisconnectPolicy) -> bool:
    """Whether the money covers it: `available >= reconnect_min` (A56)."""
    return available >= policy.reconnect_min


class CommandGate(Value, frozen=True, kw_only=True):
    """Which commands were executed: a repeat is one execution. It forgets an id when its command has expired."""

    seen: dict[str, datetime] = {}  # noqa: RUF012 - msgspec copies an empty default

    def judge(self, command_id: str, valid_until: datetime, now: datetime) -> tuple[CommandGate, str]:
        """`EXPIRED` is checked first, then `DUPLICATE`, else `EXEC` (D04). Valid up to and including `valid_until`."""
        seen = {key: until for key, until in self.seen.items() if now <= until}
        if now > valid_until:
            return CommandGate(seen=seen), "EXPIRED"
        if command_id in seen:
            return CommandGate(seen=seen), "DUPLICATE"
        return CommandGate(seen={**seen, command_id: valid_until}), "EXEC"
