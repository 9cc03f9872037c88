"""The intake of commands: from MQTT to the ledger. A message is acknowledged to the broker when it is stored.

What cannot be taken on is told as `rejected`, with what is wrong and where; what has no id to be told by is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.clock import Clock
from gateway.commands import Commands
from gateway.downlink import Inbound, NotNow, Route
from gateway.journal import JournalClosed, JournalFull
from gateway.ledger import Record, body_of
from gateway.logs import get_logger
from messages import (
    AckError,
    BadMessage,
    CancelRequest,
    Command,
    CommandClass,
    ControlSwitch,
    Status,
    Topics,
    class_of_verb,
    decode,
    peek_id,
)
from protocols.commands import Invalid

log = get_logger(__name__)

_LONGEST_ID: Final = 128
_NO_ROOM: Final = (JournalFull, JournalClosed)
_FULL: Final = "the journal has no room"


@dataclass(frozen=True, slots=True)
class _Order:
    """A command as it came. `stored`: set, each, when a part of what was told of it is on the disk."""

    command: Command
    command_class: CommandClass
    group: str | None
    stored: list[asyncio.Event] = field(default_factory=list)


class Intake:
    """Takes commands, cancellations and the kill switch from MQTT.

    `groups`: members of the named groups. `broadcast(channel, command)`: send it on a whole channel, False where that
    cannot be. `switched(on, stored)`: turn the kill switch, and call `stored` when that is on the disk.
    """

    def __init__(
        self,
        commands: Commands,
        topics: Topics,
        clock: Clock,
        groups: dict[str, tuple[str, ...]],
        broadcast: Callable[[str, Command], bool],
        switched: Callable[[bool, Callable[[], None]], None],
    ) -> None:
        self._commands = commands
        self._topics = topics
        self._clock = clock
        self._groups = groups
        self._broadcast = broadcast
        self._switched = switched

    def routes(self, node: str) -> list[Route]:
        """What the downlink subscribes to."""
        topics = self._topics
        return [
            Route(topics.filter("command"), self._on_command),
            Route(topics.filter("group_command"), self._on_group),
            Route(topics.filter("group_config"), self._on_group),
            Route(topics.cancel(node), self._on_cancel),
            Route(topics.control_switch(node), self._on_switch),
        ]

    # --- commands -----------------------------------------------------------------------------------------------

    async def _on_command(self, inbound: Inbound) -> None:
        address = self._topics.parse(inbound.topic)
        assert address.terminal is not None
        assert address.command_class is not None
        await self._take(inbound, address.command_class, (address.terminal,), None)

    async def _on_group(self, inbound: Inbound) -> None:
        address = self._topics.parse(inbound.topic)
        assert address.group is not None
        assert address.command_class is not None
        if address.group.startswith("channel."):
            self._on_channel(inbound, address.group.removeprefix("channel."))
            return
        members = self._groups.get(address.group)
        if not members:
            log.warning("command to an unknown group", group=address.group, known=sorted(self._groups)[:20])
            return
        await self._take(inbound, address.command_class, members, address.group)

    def _on_channel(self, inbound: Inbound, channel: str) -> None:
        """A broadcast on a channel: nobody answers, so nothing is told of it but in the log."""
        command = self._decoded(inbound)
        if command is not None and (inbound.retained or not self._broadcast(channel, command)):
            log.warning("broadcast refused", channel=channel, verb=command.verb, retained=inbound.retained)

    def _decoded(self, inbound: Inbound) -> Command | None:
        try:
            return decode(inbound.payload, Command)
        except BadMessage as error:
            log.warning("bad command", topic=inbound.topic, error=str(error))
            return None

    async def _take(
        self, inbound: Inbound, command_class: CommandClass, terminals: tuple[str, ...], group: str | None
    ) -> None:
        """Take a command on for each terminal, then wait until all of it is on the disk."""
        try:
            command = decode(inbound.payload, Command)
        except BadMessage as error:
            command_id = peek_id(inbound.payload)
            log.warning("bad command", topic=inbound.topic, error=str(error), command=command_id)
            if not command_id or len(command_id) > _LONGEST_ID:
                return
            now = self._clock.moment().wall
            order = _Order(Command(id=command_id, verb="?", issued_by="?", expires_at=now), command_class, group)
            for terminal in terminals:
                self._reject(order, terminal, "bad_message", str(error), keep=False)
        else:
            order = _Order(command, command_class, group)
            for terminal in terminals:
                await self._take_one(order, terminal, retained=inbound.retained)
        for stored in order.stored:
            await stored.wait()

    async def _take_one(self, order: _Order, terminal: str, *, retained: bool) -> None:
        command = order.command
        if retained:
            text = "a retained command would act again at every restart: publish it without the retain flag"
            self._reject(order, terminal, "retained", text, keep=False)
            return
        if await self._known(order, terminal):
            return
        now = self._clock.moment().wall
        proper = class_of_verb(command.verb)
        if proper not in (None, order.command_class):
            text = f"verb: {command.verb} is of class {proper}, the topic's class is {order.command_class}"
            self._reject(order, terminal, "wrong_class", text)
            return
        try:
            plan = self._commands.plan_of(command, order.command_class, terminal, now)
        except Invalid as error:
            self._reject(order, terminal, error.name, f"{error.field}: {error.text}")
            return
        if command.expires_at <= now:
            text = f"expires_at is {now - command.expires_at} ms in the past"
            self._finish(order, terminal, "expired", AckError(name="expired", text=text))
            return
        refused = self._commands.interlocks.on_entry(command) if plan.control else None
        if refused is not None:
            self._finish(order, terminal, "rejected", refused)
        elif plan.dry_run:
            result = {"dry_run": True, "octets": self._commands.octets_of(plan, terminal)}
            self._finish(order, terminal, "succeeded", None, result)
        elif plan.if_offline == "reject" and not self._commands.online(terminal):
            self._reject(order, terminal, "offline", "the terminal is not connected")
        elif not self._commands.room(terminal):
            self._reject(order, terminal, "busy", "too many commands wait already")
        else:
            record = Record(command, terminal, order.command_class, order.group, "waiting", "accepted", 0, now, None)
            self._store(order, lambda stored: self._commands.accept(record, plan, stored))

    async def _known(self, order: _Order, terminal: str) -> bool:
        """Whether this id was here before: the same command is told of again, another one is rejected."""
        body = body_of(order.command)
        job = self._commands.jobs.get(order.command.id, terminal)
        try:
            if job is not None:
                if body_of(job.command) == body:
                    self._commands.retell(job)
                    return True
            else:
                found = await self._commands.ledger.find(order.command.id, terminal)
                if found is None:
                    return False
                if found[0] == body:
                    self._commands.tell_again(found[1])
                    return True
        except _NO_ROOM as full:
            raise NotNow(_FULL) from full
        text = "this id was used for another command: give each command an id of its own"
        self._reject(order, terminal, "id_reused", text, keep=False)
        return True

    def _reject(self, order: _Order, terminal: str, name: str, text: str, *, keep: bool = True) -> None:
        self._finish(order, terminal, "rejected", AckError(name=name, text=text), keep=keep)

    def _finish(
        self,
        order: _Order,
        terminal: str,
        status: Status,
        error: AckError | None,
        result: Any = None,
        *,
        keep: bool = True,
    ) -> None:
        """Tell a first and last status. Without `keep` the ledger is left as it is."""
        now = self._clock.moment().wall
        record = Record(order.command, terminal, order.command_class, order.group, "ended", status, 0, now, None)
        self._store(order, lambda stored: self._commands.refuse(record, status, error, result, stored, keep=keep))

    def _store(self, order: _Order, store: Callable[[Callable[[], None]], None]) -> None:
        """Store; the order's `stored` are set when it is on the disk. Raises NotNow where the journal has no room."""
        done = asyncio.Event()
        try:
            store(done.set)
        except _NO_ROOM as full:
            raise NotNow(_FULL) from full
        order.stored.append(done)

    # --- cancellation, kill switch ------------------------------------------------------------------------------

    async def _on_cancel(self, inbound: Inbound) -> None:
        try:
            request = decode(inbound.payload, CancelRequest)
        except BadMessage as error:
            log.warning("bad cancel request", error=str(error))
            return
        if inbound.retained:
            log.warning("retained cancel request is ignored", command=request.command_id)
            return
        only = None if request.terminal is msgspec.UNSET else request.terminal
        done, found = asyncio.Event(), 0
        try:
            for job in self._commands.jobs:
                if job.command.id == request.command_id and only in (None, job.terminal):
                    found += 1
                    self._commands.cancel(job, request.issued_by)
            if not found:
                log.warning("nothing to cancel", command=request.command_id, terminal=only, by=request.issued_by)
                await self._commands.tell_all_again(request.command_id, only)
            self._commands.settled(done.set)
        except _NO_ROOM as full:
            raise NotNow(_FULL) from full
        await done.wait()

    async def _on_switch(self, inbound: Inbound) -> None:
        try:
            request = decode(inbound.payload, ControlSwitch)
        except BadMessage as error:
            log.warning("bad control switch", error=str(error))
            return
        if inbound.retained:
            log.warning("retained control switch is ignored", control=request.control)
            return
        log.warning("kill switch", control=request.control, by=request.issued_by, reason=request.reason)
        done = asyncio.Event()
        self._switched(request.control == "on", done.set)
        await done.wait()
