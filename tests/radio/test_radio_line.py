"""The channel in real time: over a pseudo-terminal, over TCP, keyed by RTS, lost and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from link_side import Bench
from radio_parts import Dead, Script, get, names, trip

from gateway.channels.radio import RadioLine, RadioOptions
from gateway.channels.serial import Lost, PortSettings, Received, SerialPort
from gateway.clock import Clock
from gateway.medium import CONTROL, POLL, MediumOptions
from protocols.events import Answered, Failure, Moment, Request
from simulators.radio import Radio, RadioServer, RadioSettings
from wire698 import model
from wire698.frame import Frame, Framer

RATE = 19_200
FAST = RadioSettings(bit_rate=RATE, key_up_s=0.01, turn_s=0.005)
MEDIUM = MediumOptions(bit_rate=RATE, key_up_s=0.005, answer_max_s=0.3, drain_s=0.05)


class Running:
    """A radio channel with what a daemon does around it."""

    def __init__(self, url: str, terminals: list[str], keying: Any = "auto", opener: Any = None) -> None:
        self.bench = Bench()
        self.clock = Clock()
        context = self.bench.context
        context.clock = self.clock
        self.done: list[tuple[str, Request, Any]] = []
        self.news = asyncio.Condition()
        self.changed = asyncio.Event()
        context.answered = self._answered
        options = RadioOptions(
            PortSettings(url, RATE), MEDIUM, keying, tuple(terminals), reconnect_min_s=0.01, reconnect_max_s=0.02
        )
        self.line = RadioLine(context, options, self.clock, Random(1), opener)

    def _answered(self, session: Any, event: Any, moment: Moment) -> None:
        if isinstance(event, Answered):
            self.done.append((session.machine.terminal, event.request, event.result))
        self.changed.set()

    def ask(self, terminal: str, priority: int = POLL, apdu: Any = None) -> Request:
        session = self.bench.sessions.get(terminal)
        assert session is not None
        request = Request(apdu or get(), retries=1)
        self.line.air.ask(session, request, priority)
        return request

    async def timers(self) -> None:
        """The machines' times, as the daemon keeps them."""
        while True:
            moment = self.clock.moment()
            for session in self.bench.sessions.overdue(moment):
                self.bench.context.dispatch(session, session.machine.tick(moment), moment)
            self.changed.set()
            await asyncio.sleep(0.01)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(channel: Running, server: RadioServer | None = None) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(channel.line.run()), tasks.create_task(channel.timers())]
        if server is not None:
            started.append(tasks.create_task(server.run()))
        await channel.line.start()
        await channel.until(lambda: channel.line.link is not None)
        try:
            yield
        finally:
            await channel.line.stop_accepting()
            await channel.line.close()
            for task in started:
                task.cancel()
            if server is not None:
                server.close()


@pytest.mark.parametrize("way", ["pty", "tcp"])
async def test_terminals_are_asked_over_a_line_in_real_time(way: str) -> None:
    terminals = names(5)
    radio = Radio(FAST, [*map(Script, terminals[:4]), Dead(terminals[4])])
    server = RadioServer(radio)
    url = server.open_pty() if way == "pty" else f"socket://127.0.0.1:{await server.open_tcp()}"
    channel = Running(url, terminals)
    async with running(channel, server):
        for _ in range(2):
            for terminal in terminals:
                channel.ask(terminal)
        control = channel.ask(terminals[3], CONTROL, trip())
        await channel.until(lambda: len(channel.done) == 11)
        counters = channel.line.medium.counters
        assert channel.done[0][1] is control
        silent = [terminal for terminal, _, result in channel.done if isinstance(result, Failure)]
        assert silent == [terminals[4]] * 2
        assert counters.turns == {"control": 1, "poll": 8 + counters.retries + 2}
        assert not radio.violations
        assert channel.line.place.startswith(url.split(":")[0])
        assert channel.line.traits.kind == "shared"


class FakePort:
    """A port that remembers what is done with it."""

    def __init__(self, received: Received, lost: Lost) -> None:
        self.received = received
        self.lost = lost
        self.acts: list[tuple[str, Any]] = []

    def write(self, octets: bytes) -> None:
        self.acts.append(("write", octets))

    def pending(self) -> int:
        return 0

    def pause(self) -> None:
        raise AssertionError("a radio is always read")

    def resume(self) -> None:
        raise AssertionError("a radio is always read")

    def close(self) -> None:
        self.lost(None)

    async def key(self, on: bool) -> None:
        self.acts.append(("key", on))


async def test_the_transmitter_is_keyed_around_the_octets() -> None:
    ports: list[FakePort] = []

    async def opener(settings: PortSettings, received: Received, lost: Lost) -> SerialPort:
        ports.append(FakePort(received, lost))
        return ports[-1]

    (terminal,) = names(1)
    channel = Running("fake", [terminal], "rts", opener)
    async with running(channel):
        channel.ask(terminal)
        await channel.until(lambda: ("key", False) in ports[0].acts)
        kinds = [act for act, _ in ports[0].acts]
        assert ports[0].acts[0] == ("key", True)
        assert kinds[1 : kinds.index("key", 1)] == ["write"] * (kinds.index("key", 1) - 1)
        octets = b"".join(octets for act, octets in ports[0].acts[: kinds.index("key", 1)] if act == "write")
        assert octets.startswith(b"\xfe\xfe\xfe\xfe\x68")


async def test_a_lost_line_is_opened_again_and_asked_again() -> None:
    ports: list[FakePort] = []

    async def opener(settings: PortSettings, received: Received, lost: Lost) -> SerialPort:
        ports.append(FakePort(received, lost))
        return ports[-1]

    (terminal,) = names(1)
    channel = Running("fake", [terminal], opener=opener)
    async with running(channel):
        channel.ask(terminal)
        channel.ask(terminal)
        await channel.until(lambda: bool(ports[0].acts))
        ports[0].lost(OSError("unplugged"))
        assert [result.name for _, _, result in channel.done] == ["lost", "lost"]
        channel.ask(terminal)
        assert channel.done[-1][2].name == "lost"
        await channel.until(lambda: len(ports) == 2 and channel.line.link is not None)
        channel.ask(terminal)
        await channel.until(lambda: bool(ports[1].acts))
        assert channel.line.counters.lost == 1


async def test_a_full_journal_stops_the_asking_and_not_the_reading() -> None:
    ports: list[FakePort] = []

    async def opener(settings: PortSettings, received: Received, lost: Lost) -> SerialPort:
        ports.append(FakePort(received, lost))
        return ports[-1]

    first, second = names(2)
    channel = Running("fake", [first, second], opener=opener)
    async with running(channel):
        channel.bench.context.pause(True)
        poll, control = channel.ask(first), channel.ask(second, CONTROL, trip())
        await channel.until(lambda: bool(ports[0].acts))
        assert (poll.attempts, control.attempts) == (0, 1)
        (asked,) = Framer().feed(ports[0].acts[0][1].lstrip(b"\xfe"))
        assert isinstance(asked, Frame)
        station = Script(second)
        ports[0].received(station.frame(station.answer(model.parse(asked.data).apdu)))
        await channel.until(lambda: len(channel.done) == 1)
        assert channel.done[0][1] is control
        assert poll.attempts == 0
        channel.bench.context.pause(False)
        await channel.until(lambda: poll.attempts == 1)
