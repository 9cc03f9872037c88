"""Clock keeping 对时: terminals whose clocks have run off are set right, and told of when they do it again.

A heartbeat carries the terminal's time, so an offset is seen without asking. Before anything is set the clock itself
(4000) is read: a delayed heartbeat is no wrong clock. The setting is a command like any other, in the ledger and told.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Final

from gateway.air import CLOCK
from gateway.commands import Commands
from gateway.journal import JournalFull
from gateway.ledger import Record
from gateway.logs import get_logger
from gateway.outlet import Outlet
from gateway.sessions import Session
from messages import Alarm, Command, message_id
from protocols.commands import Invalid
from protocols.events import Answered, Failure, Moment, Request

log = get_logger(__name__)

_REST_S: Final = 1800.0
"""After a look at a terminal's clock, the next is so much later."""
_EXPIRY_MS: Final = 600_000
_MS: Final = 1000
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class ClockLimits:
    """Settings, see `[clock]`; s, except times_a_month."""

    from_s: float = 60.0
    to_s: float = 900.0
    quiet_s: float = 300.0
    times_a_month: int = 1


class ClockKeeper:
    """Looks at the offsets that machines have seen. `zone`: the terminals'. `later(work)` runs a coroutine."""

    def __init__(
        self,
        commands: Commands,
        outlet: Outlet,
        limits: ClockLimits,
        zone: Callable[[Session], tzinfo],
        later: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.corrected = 0
        self.faults = 0
        self._commands = commands
        self._outlet = outlet
        self._limits = limits
        self._zone = zone
        self._later = later
        self._rests: dict[str, float] = {}

    def look(self, session: Session, moment: Moment) -> None:
        """See to one terminal, if its last heartbeat says that its clock is off."""
        offset = session.machine.clock_offset_ms
        terminal = session.machine.terminal
        if offset is None or abs(offset) < self._limits.from_s * _MS or session.link is None:
            return
        if self._rests.get(terminal, 0.0) > moment.mono or self._left(offset, session, moment.wall) <= 0:
            return
        if not session.machine.ready or self._commands.jobs.busy(terminal):
            return  # commands come first
        self._rests[terminal] = moment.mono + _REST_S
        request = Request(session.context.dialogue.clock_request(), context=self._read)
        session.context.air.ask(session, request, CLOCK)

    def _left(self, offset: int, session: Session, wall: int) -> float:
        """Seconds for which no full hour is near, by our clock and by the terminal's: freezes are made then."""
        return min(self._until_quiet(session, instant) for instant in (wall, wall + offset))

    def _until_quiet(self, session: Session, wall: int) -> float:
        at = datetime.fromtimestamp(wall / _MS, self._zone(session))
        past = at.minute * 60 + at.second
        return 0.0 if past < self._limits.quiet_s else _HOUR_S - past - self._limits.quiet_s

    def _read(self, session: Session, event: Answered, moment: Moment) -> None:
        """The terminal's clock has been read."""
        if isinstance(event.result, Failure):
            return
        offset = session.context.dialogue.clock_offset(event.result, moment.wall)
        if offset is None or abs(offset) < self._limits.from_s * _MS or self._left(offset, session, moment.wall) <= 0:
            return
        self._later(self._correct(session, offset, moment))

    async def _correct(self, session: Session, offset: int, moment: Moment) -> None:
        terminal = session.machine.terminal
        at = datetime.fromtimestamp(moment.wall / _MS, self._zone(session))
        month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        times = await self._commands.ledger.settings_since(terminal, int(month.timestamp()) * _MS)
        too_far = abs(offset) > self._limits.to_s * _MS
        if too_far or times >= self._limits.times_a_month:
            self._fault(session, offset, times, moment)
        if too_far:
            return
        command = Command(
            id=f"clock-{terminal}-{moment.wall}",
            verb="set_clock",
            issued_by="gateway",
            expires_at=moment.wall + min(_EXPIRY_MS, int(self._left(offset, session, moment.wall) * _MS)),
        )
        try:
            plan = self._commands.plan_of(command, "config", terminal, moment.wall)
            record = Record(command, terminal, "config", None, "waiting", "accepted", 0, moment.wall, None)
            self._commands.accept(record, plan, lambda: None)
        except (Invalid, JournalFull) as error:
            log.warning("clock is not set", terminal=terminal, error=str(error))
            return
        self.corrected += 1
        log.info("clock is set", terminal=terminal, offset_s=offset / _MS, times_this_month=times + 1)

    def _fault(self, session: Session, offset: int, times: int, moment: Moment) -> None:
        """Alarm `clock_fault`: the clock runs off again and again, or further than may be corrected."""
        self.faults += 1
        terminal = session.machine.terminal
        alarm = Alarm(
            id=message_id(terminal, b"clock_fault", moment.wall.to_bytes(8)),
            terminal=terminal,
            channel=session.context.name,
            received_at=moment.wall,
            event="clock_fault",
            oi="4000",
            transition="recorded",
            occurred_at=moment.wall,
            severity="warning",
            values={"offset_s": offset / _MS, "settings_this_month": times},
        )
        try:
            self._outlet.store([alarm], None)
        except JournalFull:
            log.warning("clock fault is not stored", terminal=terminal)

    def forget(self, moment: Moment) -> None:
        """Let go of rests that are over."""
        self._rests = {terminal: until for terminal, until in self._rests.items() if until > moment.mono}
