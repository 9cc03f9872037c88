"""What tests of commands share: who gives orders over MQTT, and a terminal that answers by a table."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import aiomqtt
from e2e_parts import LOOPBACK, HandClock, metric, running, until
from terminal_side import TERMINAL, login

from gateway.channels.tcp_server import TcpServer
from gateway.daemon import Gateway
from gateway.settings import Settings
from messages import (
    Ack,
    Alarm,
    CancelRequest,
    Command,
    CommandClass,
    ControlSwitch,
    Message,
    NodeStatus,
    Reading,
    Topics,
    class_of_verb,
    decode,
    encode,
)
from wire698 import access, model
from wire698.errors import WireError
from wire698.frame import PRM, Address, Frame, Framer, build_frame
from wire698.pieces import ResultNormal
from wire698.rows import Row
from wire698.values import Dar, Data, Oad, Omd, Tag

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

NOON = 1_763_951_400_000
"""2025-11-24 10:30:00 in Shanghai, far from any full hour."""
GUARANTEE, RELAY_OUTPUT, ALARM_STATE, COMMAND_STATE = 0x80010200, 0x80000300, 0x80000400, 0x80000500
CLOCK = 0x40000200
PERIOD_S = 60_000
"""Heartbeat period: a test that moves the clock by hours keeps its connection."""
TRIP, CLOSE = 0x800081, 0x800082
"""OMDs without their last octet."""
TRIP_ARGS: dict[str, Any] = {"relays": [{"relay": 1, "alarm_delay_min": 1}]}
CLOSE_ARGS: dict[str, Any] = {"relays": [{"relay": 1, "mode": "permit"}]}
READ_ARGS: dict[str, Any] = {"points": ["40010200"]}


class NoonClock(HandClock):
    """A clock that a test moves, from `NOON` on."""

    __slots__ = ()

    def __init__(self, wall_ms: int = NOON) -> None:
        super().__init__()
        self.wall_ms = wall_ms


@asynccontextmanager
async def serving(settings: Settings, clock: HandClock | None = None) -> AsyncIterator[Gateway]:
    """A gateway in this process that has its subscriptions: what is said from now on it hears."""
    async with running(settings, clock) as gateway:
        await until(lambda: metric(gateway, "loadgate_downlink_connected") == 1)
        yield gateway


def port_of(gateway: Gateway) -> int:
    """The port of a gateway's first channel."""
    channel = gateway.channels[0]
    assert isinstance(channel, TcpServer)
    return channel.port


def enum(value: int) -> Data:
    return Data(Tag.ENUM, value)


def rounds(first: int) -> Data:
    """A round bitmap 轮次 of eight bits."""
    from wire698.values import BitString

    return Data(Tag.BIT_STRING, BitString(8, bytes((first,))))


def numberless(apdu: bytes) -> str:
    """The octets of a request with invoke number 0, hexadecimal."""
    place = 1 if apdu[0] in (1, 2, 3) else 2
    return (apdu[:place] + bytes((apdu[place] & 0x80,)) + apdu[place + 1 :]).hex(" ").upper()


# --- who gives orders ----------------------------------------------------------------------------------------------


class Office:
    """A client of the broker that sends commands and keeps all that is said of them."""

    def __init__(self, client: aiomqtt.Client, node: str = "n1") -> None:
        self.topics = Topics()
        self.acks: list[Ack] = []
        self.readings: list[Reading] = []
        self.alarms: list[Alarm] = []
        self.nodes: list[NodeStatus] = []
        self.seqs: dict[int, str] = {}
        self._client = client
        self._node = node
        self._changed = asyncio.Event()
        self._ids = itertools.count(1)
        self.now = NOON

    async def gather(self) -> None:
        """Read until cancelled."""
        kept: dict[type[Message], list[Any]] = {
            Ack: self.acks,
            Reading: self.readings,
            Alarm: self.alarms,
            NodeStatus: self.nodes,
        }
        async for received in self._client.messages:
            message = decode(received.payload, self.topics.parse(received.topic.value).message)
            kept[type(message)].append(message)
            self._changed.set()

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until the condition holds; looked at after each message."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            said = [(ack.command_id, ack.status, ack.error) for ack in self.acks]
            raise AssertionError(f"not within {seconds:g} s; told so far: {said[-40:]}") from None

    def command(self, verb: str, args: dict[str, Any] | None = None, **given: Any) -> Command:
        """A command with sensible members where none are given."""
        fields: dict[str, Any] = {
            "id": f"c-{next(self._ids)}",
            "verb": verb,
            "args": args or {},
            "issued_by": "duty.wang",
            "expires_at": self.now + 300_000,
            "approvals": ["chief.li"],
            **given,
        }
        return Command(**fields)

    async def send(
        self, command: Command, terminal: str = TERMINAL, command_class: str | None = None, *, retain: bool = False
    ) -> str:
        """Publish a command; returns its id."""
        proper = command_class or class_of_verb(command.verb)
        assert proper is not None
        topic = self.topics.command(terminal, cast("CommandClass", proper))
        await self.publish(topic, encode(command), retain=retain)
        return command.id

    async def order(self, verb: str, args: dict[str, Any] | None = None, terminal: str = TERMINAL, **given: Any) -> str:
        """Make and publish a command; returns its id."""
        return await self.send(self.command(verb, args, **given), terminal)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        await self._client.publish(topic, payload, qos=1, retain=retain)

    async def cancel(self, command_id: str, terminal: str | None = None) -> None:
        from msgspec import UNSET

        request = CancelRequest(command_id=command_id, terminal=terminal or UNSET, issued_by="chief.li")
        await self.publish(self.topics.cancel(self._node), encode(request))

    async def switch(self, control: Any) -> None:
        """Turn the kill switch, and wait until the node says so."""
        switch = ControlSwitch(control=control, issued_by="chief.li", reason="test")
        await self.publish(self.topics.control_switch(self._node), encode(switch))
        await self.until(lambda: self.nodes and self.nodes[-1].control == control)

    def of(self, command_id: str, terminal: str | None = None) -> list[Ack]:
        """What was told of a command, each status once, by the order of the journal."""
        found: dict[str, Ack] = {}
        for ack in sorted(self.acks, key=lambda ack: ack.seq):
            if ack.command_id == command_id and terminal in (None, ack.terminal):
                found.setdefault(ack.id, ack)
        return list(found.values())

    def statuses(self, command_id: str, terminal: str | None = None) -> list[str]:
        return [ack.status for ack in self.of(command_id, terminal)]

    async def status(self, command_id: str, status: str, terminal: str | None = None) -> Ack:
        """Wait for a status; the Ack that tells it first."""
        await self.until(lambda: status in self.statuses(command_id, terminal))
        return next(ack for ack in self.of(command_id, terminal) if ack.status == status)

    async def final(self, command_id: str, terminal: str | None = None) -> Ack:
        """Wait for the final status."""
        await self.until(lambda: any(ack.final for ack in self.of(command_id, terminal)))
        return next(ack for ack in self.of(command_id, terminal) if ack.final)


@asynccontextmanager
async def office_of(broker: Mosquitto, **how: Any) -> AsyncIterator[Office]:
    """A subscribed Office."""
    async with aiomqtt.Client(broker.host, broker.port, protocol=aiomqtt.ProtocolVersion.V5, **how) as client:
        office = Office(client)
        for kind in ("ack", "reading", "alarm", "node_status"):
            await client.subscribe(office.topics.filter(kind), qos=1)
        task = asyncio.create_task(office.gather())
        try:
            yield office
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def given_up(office: Office, terminal: Scripted, clock: HandClock, command_id: str) -> None:
    """Let the attempts of a command run into their timeouts until it has a final status, or is looked at."""
    await office.status(command_id, "sent")
    for _ in range(10):
        heard, told = len(terminal.heard), len(office.acks)
        clock.forward(61)
        await until(lambda: len(terminal.heard) > heard or len(office.acks) > told)  # noqa: B023 (awaited here)
        if {"timed_out", "unknown"} & set(office.statuses(command_id)):
            return
    raise AssertionError(f"{command_id} is not given up: {office.statuses(command_id)}")


# --- who obeys them ------------------------------------------------------------------------------------------------


class Scripted:
    """A terminal on a real connection. It records the octets of every request, and answers by its tables.

    values: OAD to what is read there, or to what makes it; refused: OAD, or OMD without its last octet, to the DAR.
    canned: answers that go before the tables, in order (their invoke number is put in). silent: hear, and say nothing.
    hold: keep answers back until `release`. deaf_to(apdu): close the connection instead of answering.
    """

    def __init__(self, terminal: str = TERMINAL) -> None:
        self.terminal = terminal
        self.address = Address.of(terminal)
        self.heard: list[bytes] = []
        self.frames: list[bytes] = []
        """Whole frames, broadcasts included."""
        self.values: dict[int, Data | Callable[[], Data]] = {GUARANTEE: enum(0)}
        self.refused: dict[int, int] = {}
        self.canned: deque[bytes] = deque()
        self.silent = False
        self.hold = False
        self.deaf_to: Callable[[bytes], bool] = lambda _: False
        self.on_request: Callable[[bytes], None] = lambda _: None
        self._held: list[bytes] = []
        self._changed = asyncio.Event()
        self._logged_in = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def on(self, port: int, *, login_time: str | None = None) -> AsyncIterator[Scripted]:
        """Connected and logged in while the block runs."""
        await self.connect(port, login_time=login_time)
        try:
            yield self
        finally:
            await self.disconnect()

    async def connect(self, port: int, *, login_time: str | None = None) -> None:
        """Connect and log in; returns when the login is answered."""
        reader, self._writer = await asyncio.open_connection(LOOPBACK, port)
        self._logged_in.clear()
        self._held = []
        self._task = asyncio.create_task(self._read(reader))
        self.link(login_time=login_time)
        async with asyncio.timeout(20):
            await self._logged_in.wait()

    def link(self, kind: int = 0, *, login_time: str | None = None) -> None:
        """A LINK-Request: 0 login, 1 heartbeat."""
        said = login(PERIOD_S, kind) if login_time is None else login(PERIOD_S, kind, login_time)
        self._send(build_frame(0x81, self.address, 0x10, model.build(said)))

    async def disconnect(self) -> None:
        """Close, if the connection is open."""
        if self._writer is not None:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._writer = self._task = None

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until the condition holds; looked at after each frame of the master."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"heard {[numberless(one) for one in self.heard]}") from None

    async def asked(self, head: str, times: int = 1) -> None:
        """Wait until requests whose hexadecimal (invoke number 0) begins so have come."""
        await self.until(lambda: self.count(head) >= times)

    def count(self, head: str) -> int:
        return sum(one.startswith(head) for one in self.said_to)

    @property
    def said_to(self) -> list[str]:
        """Every request, invoke number 0, hexadecimal."""
        return [numberless(one) for one in self.heard]

    @property
    def trips(self) -> int:
        return self.count("07 01 00 80 00 81")

    def release(self) -> None:
        """Give the answers that were held back, and hold no more."""
        self.hold = False
        held, self._held = self._held, []
        for frame in held:
            self._send(frame)

    def _send(self, octets: bytes) -> None:
        assert self._writer is not None
        self._writer.write(octets)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        framer = Framer()
        while octets := await reader.read(4096):
            for frame in framer.feed(octets):
                if isinstance(frame, Frame):
                    self._take(frame)
        self._changed.set()

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame.raw)
        if not frame.control & PRM:
            self._logged_in.set()
        elif frame.address == self.address:
            self.heard.append(frame.data)
            self.on_request(frame.data)
            if self.deaf_to(frame.data):
                assert self._writer is not None
                self._writer.close()
            elif not self.silent:
                self._reply(frame.data)
        self._changed.set()

    def _reply(self, request: bytes) -> None:
        octets = self._answer(request)
        if octets is None:
            return
        frame = build_frame(0xC3, self.address, 0x10, octets)
        if self.hold:
            self._held.append(frame)
        else:
            self._send(frame)

    def _answer(self, request: bytes) -> bytes | None:
        if self.canned and not (request[:2] == b"\x05\x01" and request[3:7] == GUARANTEE.to_bytes(4)):
            canned = self.canned.popleft()
            place = 1 if canned[0] in (0x81, 0x82, 0x83) else 2
            asked = 1 if request[0] in (1, 2, 3) else 2
            return canned[:place] + request[asked : asked + 1] + canned[place + 1 :]
        try:
            apdu: Any = model.parse(request).apdu
        except WireError:
            return None
        match apdu:
            case access.GetRequestNormal():
                return model.build(access.GetResponseNormal(apdu.piid, self._result(apdu.oad)))
            case access.GetRequestNormalList():
                results = tuple([self._result(oad) for oad in apdu.oads])
                return model.build(access.GetResponseNormalList(apdu.piid, results))
            case access.SetRequestNormal():
                dar = Dar(self.refused.get(int(apdu.oad), 0))
                return model.build(access.SetResponseNormal(apdu.piid, apdu.oad, dar))
            case access.ActionRequestNormal():
                dar = Dar(self.refused.get(int(apdu.omd) >> 8, 0))
                return model.build(access.ActionResponseNormal(apdu.piid, Omd(apdu.omd), dar))
        return None

    def _result(self, oad: Oad) -> ResultNormal:
        if int(oad) in self.refused:
            return ResultNormal(oad, Dar(self.refused[int(oad)]))
        value = self.values.get(int(oad))
        if callable(value):
            value = value()
        return ResultNormal(oad, Dar(4) if value is None else Row.of((value,)))
