"""The intake of commands: from MQTT to the ledger. A message is acknowledged to the broker when it is stored.

What cannot be taken on is told as `rejected`, with what is wrong and where; what has no id to be told by is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.clock import Clock
from gateway.commands import Commands
from gateway.downlink import Inbound, NotNow, Route
from gateway.journal import JournalFull
from gateway.ledger import Record, body_of
from gateway.logs import get_logger
from messages import (
    AckError,
    BadMessage,
    CancelRequest,
    Command,
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


class Intake:
    """Takes commands, cancellations and the kill switch from MQTT.

    `groups`: members of the named groups. `broadcast(channel, command)`: send it on a whole channel, False where that
    cannot be. `switched(on)`: the kill switch was turned.
    """

    def __init__(
        self,
        commands: Commands,
        topics: Topics,
        clock: Clock,
        groups: dict[str, tuple[str, ...]],
        broadcast: Callable[[str, Command], bool],
        switched: Callable[[bool], None],
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
        await self._take(inbound, address.command_class, [address.terminal], None)

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
        await self._take(inbound, address.command_class, list(members), address.group)

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

    async def _take(self, inbound: Inbound, command_class: str, terminals: list[str], group: str | None) -> None:
        now = self._clock.moment().wall
        try:
            command = decode(inbound.payload, Command)
        except BadMessage as error:
            command_id = peek_id(inbound.payload)
            log.warning("bad command", topic=inbound.topic, error=str(error), command=command_id)
            if not command_id or len(command_id) > _LONGEST_ID:
                return
            stand_in = Command(id=command_id, verb="?", issued_by="?", expires_at=now)
            for terminal in terminals:
                await self._reject(stand_in, command_class, terminal, group, "bad_message", str(error), keep=False)
            return
        for terminal in terminals:
            await self._take_one(command, command_class, terminal, group, retained=inbound.retained)

    async def _take_one(
        self, command: Command, command_class: str, terminal: str, group: str | None, *, retained: bool
    ) -> None:
        if retained:
            text = "a retained command would act again at every restart: publish it without the retain flag"
            await self._reject(command, command_class, terminal, group, "retained", text, keep=False)
            return
        if await self._known(command, command_class, terminal, group):
            return
        now = self._clock.moment().wall
        if class_of_verb(command.verb) not in (None, command_class):
            text = (
                f"verb: {command.verb} is of class {class_of_verb(command.verb)}, the topic's class is {command_class}"
            )
            await self._reject(command, command_class, terminal, group, "wrong_class", text)
            return
        try:
            plan = self._commands.plan_of(command, command_class, terminal, now)
        except Invalid as error:
            await self._reject(command, command_class, terminal, group, error.name, f"{error.field}: {error.text}")
            return
        if command.expires_at <= now:
            text = f"expires_at is {now - command.expires_at} ms in the past"
            await self._finish(command, command_class, terminal, group, "expired", AckError(name="expired", text=text))
            return
        if plan.control:
            refused = self._commands.interlocks.on_entry(command)
            if refused is not None:
                await self._finish(command, command_class, terminal, group, "rejected", refused)
                return
        if plan.dry_run:
            result = {"dry_run": True, "octets": self._commands.octets_of(plan, terminal)}
            await self._finish(command, command_class, terminal, group, "succeeded", None, result)
            return
        if plan.if_offline == "reject" and not self._commands.online(terminal):
            await self._reject(command, command_class, terminal, group, "offline", "the terminal is not connected")
            return
        if not self._commands.room(terminal):
            await self._reject(command, command_class, terminal, group, "busy", "too many commands wait already")
            return
        record = Record(command, terminal, command_class, group, "waiting", "accepted", 0, now, None)
        await self._stored(lambda stored: self._commands.accept(record, plan, stored))

    async def _known(self, command: Command, command_class: str, terminal: str, group: str | None) -> bool:
        """Whether this id was here before: the same command is told of again, another one is rejected."""
        body = body_of(command)
        job = self._commands.jobs.get((command.id, terminal))
        if job is not None:
            if body_of(job.command) == body:
                self._commands.retell(job)
                return True
        else:
            found = await self._commands.ledger.find(command.id, terminal)
            if found is None:
                return False
            if found[0] == body:
                self._commands.tell_again(found[1])
                return True
        text = "this id was used for another command: give each command an id of its own"
        await self._reject(command, command_class, terminal, group, "id_reused", text, keep=False)
        return True

    async def _reject(
        self,
        command: Command,
        command_class: str,
        terminal: str,
        group: str | None,
        name: str,
        text: str,
        *,
        keep: bool = True,
    ) -> None:
        error = AckError(name=name, text=text)
        await self._finish(command, command_class, terminal, group, "rejected", error, keep=keep)

    async def _finish(
        self,
        command: Command,
        command_class: str,
        terminal: str,
        group: str | None,
        status: Status,
        error: AckError | None,
        result: Any = None,
        *,
        keep: bool = True,
    ) -> None:
        """Tell a first and last status. Without `keep` the ledger is left as it is."""
        now = self._clock.moment().wall
        record = Record(command, terminal, command_class, group, "ended", status, 0, now, None)
        await self._stored(lambda stored: self._commands.refuse(record, status, error, result, stored, keep=keep))

    async def _stored(self, store: Callable[[Callable[[], None]], None]) -> None:
        """Store, and wait until it is on the disk. Raises NotNow where the journal has no room."""
        done = asyncio.Event()
        try:
            store(done.set)
        except JournalFull as full:
            raise NotNow("the journal has no room") from full
        await done.wait()

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
        found = 0
        for job in self._commands:
            if job.command.id == request.command_id and only in (None, job.terminal):
                found += 1
                self._commands.cancel(job, request.issued_by)
        if not found:
            log.warning("nothing to cancel", command=request.command_id, terminal=only, by=request.issued_by)
            await self._commands.tell_all_again(request.command_id, only)

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
        self._switched(request.control == "on")
