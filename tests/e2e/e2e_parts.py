"""What end-to-end tests share: gateways in this process and as processes, a consumer, a terminal that obeys a test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cli.tally import Tally
from gateway.clock import Clock
from gateway.daemon import Gateway
from gateway.settings import Settings, commented_toml, load
from messages import Alarm, Message, NodeStatus, Reading, ReplayRequest, State, Topics, decode, encode
from protocols.events import Moment
from simulators.fleet import Fleet, Options, Summary
from simulators.scenario import Scenario
from simulators.truth import TrueReport, Truth
from wire698 import model
from wire698.frame import Address, Frame, Framer, build_frame
from wire698.pieces import Apdu

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

LOOPBACK = "127.0.0.1"
BASE: dict[str, object] = {
    "channels.0.listen": f"{LOOPBACK}:0",
    "node.id": "n1",
    "http.listen": "",
    "mqtt.reconnect_min_s": 0.02,
    "mqtt.reconnect_max_s": 0.1,
    "mqtt.drain_timeout_s": 5.0,
}
UPWARD = 0x83


def settings_of(directory: Path, broker_url: str, given: Mapping[str, object] | None = None) -> Settings:
    """Settings for tests; `given` has dotted keys."""
    return load(None, {**BASE, "node.data_dir": str(directory / "data"), "mqtt.url": broker_url, **(given or {})})


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Let the loop turn until the condition holds; for what tells nobody that it changed."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- the gateway ---------------------------------------------------------------------------------------------------


class HandClock(Clock):
    """A clock that a test moves."""

    __slots__ = ("mono", "wall_ms")

    def __init__(self) -> None:
        self.mono = 1000.0
        self.wall_ms = 1_764_000_000_000

    def forward(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_ms += round(seconds * 1000)

    def moment(self) -> Moment:  # type: ignore[override]
        return Moment(self.mono, self.wall_ms)

    def wall(self) -> float:  # type: ignore[override]
        return self.wall_ms / 1000

    def synchronized(self) -> bool:  # type: ignore[override]
        return True


@asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Gateway]:
    """A gateway in this process, from `listening` to the end of its drain."""
    gateway = Gateway(settings, clock=clock, rng=Random(1))
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.run(stop))
    listening = asyncio.create_task(gateway.started.wait())
    try:
        await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield gateway
    finally:
        listening.cancel()
        stop.set()
        async with asyncio.timeout(30):
            await task


def metric(gateway: Gateway, name: str, /, **labels: str) -> float:
    """A sample as Prometheus would read it. Raises LookupError where there is none."""
    return sample(gateway.metrics.exposition().decode(), name, **labels)


def sample(page: str, name: str, /, **labels: str) -> float:
    """One sample of a Prometheus page whose labels include these. Raises LookupError where there is none."""
    for line in page.splitlines():
        key, _, value = line.rpartition(" ")
        if key.partition("{")[0] == name and all(f'{label}="{text}"' in key for label, text in labels.items()):
            return float(value)
    raise LookupError(f"{name} {labels}")


class Node:
    """`loadgate serve` as a process, on ports that stay the same over restarts; its log as JSON objects."""

    def __init__(self, directory: Path, given: Mapping[str, object]) -> None:
        self.directory = directory
        self.port = free_port()
        self.probes = free_port()
        given = {
            "channels.0.listen": f"{LOOPBACK}:{self.port}",
            "http.listen": f"{LOOPBACK}:{self.probes}",
            "log.format": "json",
            **{key.replace("__", "."): value for key, value in given.items()},
        }
        url = str(given.pop("url"))
        self.settings = settings_of(directory, url, given)
        self.log: list[dict[str, Any]] = []
        self._config = directory / "gateway.toml"
        self._config.write_text(commented_toml(self.settings))
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, listening: bool = True) -> None:
        """Start; return when it listens."""
        self.log.clear()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "serve", "--config", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        if listening:
            await self.logged("listening")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"text": line.decode(errors="replace").rstrip()})
            self._changed.set()
        await process.wait()
        self._changed.set()

    async def logged(self, event: str, seconds: float = 20.0) -> dict[str, Any]:
        """The first log line of this event; raises RuntimeError when the process ends without one."""
        async with asyncio.timeout(seconds):
            while True:
                for line in self.log:
                    if line.get("event") == event:
                        return line
                assert self._process is not None
                if self._process.returncode is not None:
                    raise RuntimeError(f"ended with {self._process.returncode}: {self.log[-5:]}")
                self._changed.clear()
                await self._changed.wait()

    async def _end(self, seconds: float) -> int:
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(seconds):
            await self._reading
            return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait for the end; nothing if it does not run."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            await self._end(10.0)
            self._process = None

    def terminate(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    async def ended(self, seconds: float = 20.0) -> int:
        """Wait for the end; the exit status."""
        status = await self._end(seconds)
        self._process = None
        return status

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a probe."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.probes)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body.decode()

    async def metric(self, name: str, /, **labels: str) -> float:
        return sample((await self.get("/metrics"))[1], name, **labels)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# --- the consumer --------------------------------------------------------------------------------------------------


class Consumer:
    """Reads everything below the prefix, over connections that break; asks for gaps as the contract says."""

    def __init__(self, broker: Mosquitto, node: str = "n1", *, lasting: bool = False) -> None:
        """`lasting`: the broker keeps the subscription, and what comes, while this consumer is away."""
        self.tally = Tally()
        self.messages: list[Message] = []
        self.seqs: dict[int, str] = {}
        """Message id by journal row."""
        self.contents: dict[str, Message] = {}
        """First message of each id, states included."""
        self.statuses: list[str] = []
        self.formats: Counter[str] = Counter()
        self.ready = asyncio.Event()
        self._broker = broker
        self._node = node
        self._lasting = lasting
        self._topics = Topics()
        self._changed = asyncio.Event()
        self._client: aiomqtt.Client | None = None

    async def run(self) -> None:
        """Read until cancelled."""
        task = asyncio.current_task()
        assert task is not None
        # The client's goodbye may put an error of its own in the place of a cancellation.
        while not task.cancelling():
            with suppress(aiomqtt.MqttError):
                async with self._connection() as client:
                    await client.subscribe(f"{self._topics.prefix}/#", qos=1)
                    self._client = client
                    self.ready.set()
                    async for received in client.messages:
                        self._take(received)
            self.ready.clear()
            await asyncio.sleep(0.02)  # nobody tells that a broker is back

    def _connection(self) -> aiomqtt.Client:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600 if self._lasting else 0
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            protocol=aiomqtt.ProtocolVersion.V5,
            identifier="consumer" if self._lasting else None,
            clean_start=not self._lasting,
            properties=properties,
        )

    def _take(self, received: aiomqtt.Message) -> None:
        kind = self._topics.parse(received.topic.value).message
        if kind is ReplayRequest:
            return
        message = decode(received.payload, kind)
        self.messages.append(message)
        self.formats["json" if received.payload[:1] == b"{" else "msgpack"] += 1
        self.tally.take(message)
        if isinstance(message, NodeStatus):
            self.statuses.append(message.status)
        elif isinstance(message, Reading | Alarm | State):
            assert self.seqs.setdefault(message.seq, message.id) == message.id, "one row, two ids"
            self.contents.setdefault(message.id, message)
        self._changed.set()

    async def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until the condition holds; looked at after each message."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def said(self, *statuses: str) -> None:
        """Wait until the node has said just these, in this order."""
        await self.until(lambda: self.statuses == list(statuses))

    async def all_of(self, reports: list[TrueReport], seconds: float = 20.0) -> None:
        """Wait until all that these reports said has come, and check that nothing false has."""
        left = deque(reports)

        def come() -> bool:
            while left and not self.tally.judge([left[0]]).missing:
                left.popleft()
            return not left

        await self.until(come, seconds)
        verdict = self.tally.judge(reports)
        assert (verdict.missing, verdict.false) == ([], [])

    def gaps(self, last: int) -> list[tuple[int, int]]:
        """Ranges of rows up to `last` that have not come."""
        ranges: list[tuple[int, int]] = []
        for seq in range(1, last + 1):
            if seq in self.seqs:
                continue
            if ranges and ranges[-1][1] == seq - 1:
                ranges[-1] = (ranges[-1][0], seq)
            else:
                ranges.append((seq, seq))
        return ranges

    async def ask(self, from_seq: int, to_seq: int) -> None:
        """A replay request."""
        assert self._client is not None
        request = ReplayRequest(from_seq=from_seq, to_seq=to_seq)
        await self._client.publish(self._topics.replay(self._node), encode(request), qos=1)

    @property
    def readings(self) -> list[Reading]:
        return [message for message in self.messages if isinstance(message, Reading)]

    @property
    def states(self) -> list[State]:
        return [message for message in self.messages if isinstance(message, State)]

    def doubled(self) -> list[tuple[object, ...]]:
        """What two messages with different ids say both: rows of one series, or events."""
        told: Counter[tuple[object, ...]] = Counter()
        for message in self.contents.values():
            if isinstance(message, Reading):
                names = tuple(column.name for column in message.columns)
                told.update((message.terminal, message.series, names, *row[:2]) for row in message.rows)
            elif isinstance(message, Alarm):
                told[message.terminal, message.event, message.record_no, message.transition, message.occurred_at] += 1
        return [key for key, count in told.items() if count > 1]


@asynccontextmanager
async def consuming(broker: Mosquitto, node: str = "n1", *, lasting: bool = False) -> AsyncIterator[Consumer]:
    """A consumer that is subscribed already."""
    consumer = Consumer(broker, node, lasting=lasting)
    task = asyncio.create_task(consumer.run())
    try:
        async with asyncio.timeout(10):
            await consumer.ready.wait()
        yield consumer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- terminals -----------------------------------------------------------------------------------------------------


class Watched(Truth):
    """What a fleet says, with waiting for a number of acknowledgements and a look at each."""

    def __init__(self, look: Callable[[TrueReport], None] = lambda _: None) -> None:
        super().__init__()
        self._look = look
        self._moved = asyncio.Event()

    def was_acknowledged(self, entry: TrueReport, now: float) -> None:
        super().was_acknowledged(entry, now)
        self._look(entry)
        self._moved.set()

    async def more(self, number: int, seconds: float = 20.0) -> None:
        """Wait for so many acknowledgements from now on."""
        wanted = self.acknowledged + number
        async with asyncio.timeout(seconds):
            while self.acknowledged < wanted:
                self._moved.clear()
                await self._moved.wait()


async def fleet_through(
    port: int,
    scenario: Scenario,
    *,
    truth: Truth | None = None,
    make: type[Fleet] = Fleet,
    stop: asyncio.Event | None = None,
    **options: Any,
) -> tuple[Fleet, Summary]:
    """A fleet's whole life against a port."""
    fleet = make(Options(host=LOOPBACK, port=port, scenario=scenario, **options), truth=truth)
    async with asyncio.timeout(90):
        return fleet, await fleet.run(stop)


class Peer:
    """A terminal on a real connection that says what a test wants and reads what it is answered."""

    def __init__(self, terminal: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address = Address.of(terminal)
        self.heard: list[Frame] = []
        self._reader = reader
        self._writer = writer
        self._framer = Framer()
        self._waiting: list[Frame] = []

    @classmethod
    @asynccontextmanager
    async def on(
        cls, port: int, terminal: str = "112233445566", receive_buffer: int | None = None
    ) -> AsyncIterator[Peer]:
        """Connected while the block runs."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (LOOPBACK, port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=16_384)
        try:
            yield cls(terminal, reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def octets(self, said: Apdu, control: int = UPWARD) -> bytes:
        """The frame of an APDU."""
        return build_frame(control, self.address, 0x10, model.build(said))

    def send(self, octets: bytes) -> None:
        self._writer.write(octets)

    def say(self, said: Apdu, control: int = UPWARD) -> None:
        self.send(self.octets(said, control))

    async def drained(self) -> None:
        """Wait until what was sent is in the kernel."""
        await self._writer.drain()

    async def answer(self, seconds: float = 10.0) -> Any:
        """The next APDU of the master; ConnectionError when the connection ends instead."""
        async with asyncio.timeout(seconds):
            while not self._waiting:
                octets = await self._reader.read(4096)
                if not octets:
                    raise ConnectionError("closed by the master")
                frames = [item for item in self._framer.feed(octets) if isinstance(item, Frame)]
                self._waiting += frames
                self.heard += frames
        return model.parse(self._waiting.pop(0).data).apdu

    async def ask(self, said: Apdu, control: int = UPWARD, seconds: float = 10.0) -> Any:
        """Say something and return the next APDU."""
        self.say(said, control)
        return await self.answer(seconds)

    async def closed(self, seconds: float = 10.0) -> None:
        """Wait until the master has closed; what it says before is kept in `heard`."""
        with suppress(ConnectionError):
            while True:
                await self.answer(seconds)
