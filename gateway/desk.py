"""The command desk: the parts that commands need, made from the settings and put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import tzinfo
from typing import Any, Final

from gateway.channels.assembly import all_channels
from gateway.clock import Clock
from gateway.clockkeeper import ClockKeeper, ClockLimits
from gateway.commands import Commands
from gateway.downlink import Route
from gateway.intake import Intake
from gateway.interlocks import InterlockLimits, Interlocks
from gateway.jobs import CommandLimits
from gateway.journal import Journal, JournalFull
from gateway.ledger import forget
from gateway.link import ChannelContext
from gateway.logs import get_logger
from gateway.outlet import Outlet
from gateway.sessions import Session, Sessions
from gateway.settings import Quirk, Settings, pattern_filter, time_zone
from messages import Command, Topics
from protocols.commands import Quirks
from protocols.events import Answered, Late, Moment

log = get_logger(__name__)

_SWITCH: Final = "commands.control"
"""Key of the kill switch in the journal's settings."""
_CLOCKS_S: Final = 30.0
_FORGET_S: Final = 60.0
_MS: Final = 1000


class CommandDesk:
    """One for a node. `open` before the channels listen; `tick` often."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        outlet: Outlet,
        sessions: Sessions,
        clock: Clock,
        channels: list[ChannelContext],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._sessions = sessions
        self._clock = clock
        self._channels = channels
        self._tasks: set[asyncio.Task[None]] = set()
        self._clocks_at = 0.0
        self._forget_at = 0.0
        self.on_switched: Callable[[], None] = lambda: None
        locks = settings.interlocks
        limits = InterlockLimits(locks.guarantee, locks.approvals, locks.trips_per_minute, locks.trips_in_force)
        self.interlocks = Interlocks(limits, control=journal.meta.get(_SWITCH) != "off", tripped=set())
        self.quirks = quirks_by_terminal(settings.quirks)
        bounds = settings.commands
        self.commands = Commands(
            journal,
            outlet,
            sessions,
            clock,
            CommandLimits(bounds.max_per_terminal, bounds.max_open, bounds.query_attempts),
            self.interlocks,
            channels[0].dialogue,
            self.quirks,
        )
        keeping = settings.clock
        clock_limits = ClockLimits(keeping.from_s, keeping.to_s, keeping.quiet_s, keeping.times_a_month)
        zones = {channel.name: time_zone(channel.time_zone) for channel in all_channels(settings)}

        def zone_of(session: Session) -> tzinfo:
            return zones[session.context.name]

        self.clocks = ClockKeeper(self.commands, outlet, clock_limits, zone_of, self._later)

    @property
    def control(self) -> bool:
        """Whether controls are allowed: the kill switch is on."""
        return self.interlocks.control

    async def open(self) -> None:
        """Take up what the ledger holds."""
        self.interlocks.tripped |= await self.commands.ledger.tripped()
        await self.commands.recover()

    def routes(self, topics: Topics) -> list[Route]:
        """What the downlink subscribes to for commands."""
        groups = {group.name: group.terminals for group in self._settings.groups}
        intake = Intake(self.commands, topics, self._clock, groups, self._broadcast, self._switch)
        return intake.routes(self._settings.node.id)

    def arrived(self, session: Session) -> None:
        """A terminal is on a link."""
        self.commands.arrived(session)

    def answered(self, session: Session, event: Answered | Late, moment: Moment) -> None:
        """An answer goes to whoever asked."""
        if isinstance(event, Late):
            self.commands.late(session, event, moment)
        elif callable(event.request.context):
            event.request.context(session, event, moment)
            self.commands.pump(session.machine.terminal)
        else:
            self.commands.answered(session, event, moment)

    def tick(self, moment: Moment) -> None:
        """Expiries, looks at effects, clocks, old entries."""
        self.commands.tick(moment)
        if self._settings.clock.enabled and moment.mono >= self._clocks_at:
            self._clocks_at = moment.mono + _CLOCKS_S
            self.clocks.forget(moment)
            for session in self._sessions:
                self.clocks.look(session, moment)
        if moment.mono >= self._forget_at:
            self._forget_at = moment.mono + _FORGET_S
            before = moment.wall - int(self._settings.commands.keep_s * _MS)
            try:
                self._journal.append((), None, forget(before))
            except JournalFull:
                self._forget_at = moment.mono + _CLOCKS_S

    def _switch(self, on: bool, stored: Callable[[], None]) -> None:
        """Turn the kill switch: at once, and for good when `stored` is called."""
        self.commands.switch(on)
        self._journal.set_meta(_SWITCH, "on" if on else "off", stored)
        self.on_switched()

    def _broadcast(self, channel: str, command: Command) -> bool:
        """Send a broadcast frame to every link of a channel; terminals do not answer it."""
        now = self._clock.moment().wall
        for one in self._channels:
            if one.name != channel or command.expires_at <= now:
                continue
            octets = one.dialogue.broadcast(command, now)
            if octets is None:
                return False
            links = list(one.links)
            for link in links:
                link.broadcast(octets)
            log.info("broadcast", channel=channel, verb=command.verb, links=len(links), by=command.issued_by)
            return True
        return False

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a piece of work that has to wait for the ledger."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("work failed", error=repr(task.exception()))


def quirks_by_terminal(tables: tuple[Quirk, ...]) -> Callable[[str], Quirks]:
    """The quirks of a terminal: those of the first table that it is in."""
    rules = [(pattern_filter(table.terminals), _quirks(table)) for table in tables]
    usual = Quirks()

    def quirks(terminal: str) -> Quirks:
        return next((found for matches, found in rules if matches(terminal)), usual)

    return quirks


def _quirks(table: Quirk) -> Quirks:
    same = {name: getattr(table, name) for name in Quirks.__dataclass_fields__ if hasattr(table, name)}
    same["rest_day_bits"] = tuple([int(digit) for digit in table.rest_day_bits])
    same["relay_open_state"] = None if table.relay_open_state < 0 else table.relay_open_state
    return Quirks(**same)
