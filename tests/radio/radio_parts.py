"""A gateway's medium and a simulated radio in one virtual time: what is due next happens, and nobody sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from link_side import Bench

from gateway.channels.serial import Sieve
from gateway.channels.stream import LineLink
from gateway.medium import CONTROL, POLL, PRIORITIES, Medium, MediumOptions
from gateway.sessions import Session
from protocols.dlt698 import Dlt698Machine
from protocols.events import Answered, Failure, Late, Moment, Request
from simulators.counters import Counters
from simulators.radio import MASTER, Carrier, Radio, RadioSettings, Saying, Station, TerminalStation
from simulators.settings import TerminalSettings
from simulators.stamps import Timebase
from simulators.terminal import Terminal
from simulators.truth import Truth
from wire698 import access, model
from wire698.frame import Address, Frame, Garbage, build_frame
from wire698.pieces import ResultNormal
from wire698.rows import Row
from wire698.values import Dar, Data, Oad, Omd, Piid, Tag

POINTS = tuple(
    Oad(number)
    for number in (
        0x20000200,
        0x20010200,
        0x20040200,
        0x20050200,
        0x200A0200,
        0x00100200,
        0x00200200,
        0x200F0200,
    )
)
"""Voltage, current, active and reactive power, power factor, energy both ways, frequency."""
VALUES = (Data(Tag.DOUBLE_LONG_UNSIGNED, 1234),) * len(POINTS)


def names(count: int) -> list[str]:
    return [f"{100_000_000_001 + number}" for number in range(count)]


def get(*oads: Oad) -> Any:
    """Asks for points: all eight, or those given."""
    return access.GetRequestNormalList(Piid(0), oads or POINTS)


def trip() -> Any:
    return access.ActionRequestNormal(Piid(0), Omd(0x80008100), Data(Tag.NULL, None))


# --- stations --------------------------------------------------------------------------------------------------------


class Script:
    """A station that answers what it is told to: `answers(apdu, now)` gives the seconds to wait, or None for nothing.

    `spoken`: what it says unasked, (instant, frame).
    """

    def __init__(self, name: str, delay: Callable[[int], float | None] = lambda _: 0.0) -> None:
        self.name = name
        self.address = Address.of(name)
        self.asked = 0
        self.heard: list[tuple[float, Any]] = []
        self.unasked: list[tuple[float, bytes]] = []
        self._delay = delay

    def take(self, frame: Frame, now: float) -> list[Saying]:
        if frame.address.sa != self.address.sa and frame.address.kind == 0:
            return []
        apdu = model.parse(frame.data).apdu
        self.heard.append((now, apdu))
        if frame.address.kind != 0 or not hasattr(apdu, "piid") or not frame.control & 0x40:
            return []
        self.asked += 1
        delay = self._delay(self.asked)
        return [] if delay is None else [Saying(delay, (self.frame(self.answer(apdu)),))]

    def answer(self, apdu: Any) -> Any:
        if isinstance(apdu, access.GetRequestNormalList):
            results = tuple(ResultNormal(oad, Row.of((value,))) for oad, value in zip(apdu.oads, VALUES, strict=False))
            return access.GetResponseNormalList(apdu.piid, results)
        return access.ActionResponseNormal(apdu.piid, apdu.omd, Dar(0))

    def frame(self, apdu: Any, control: int = 0xC3) -> bytes:
        return build_frame(control, self.address, 0x10, model.build(apdu))

    def tick(self, now: float) -> list[Saying]:
        due = [octets for at, octets in self.unasked if at <= now]
        self.unasked = [(at, octets) for at, octets in self.unasked if at > now]
        return [Saying(0.0, tuple(due))] if due else []

    def deadline(self) -> float | None:
        return min((at for at, _ in self.unasked), default=None)


class Dead:
    """A station without power: it hears nothing and says nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def take(self, frame: Frame, now: float) -> list[Saying]:
        return []

    def tick(self, now: float) -> list[Saying]:
        return []

    def deadline(self) -> float | None:
        return None


def terminal(name: str, now: float) -> TerminalStation:
    """A whole simulated terminal."""
    settings = TerminalSettings(address=name, seed=int(name) % 1000, meters=(f"5{name[1:]}",))
    return TerminalStation(Terminal(settings, Timebase(1_772_409_600.0, now), Truth(), Counters()))


# --- the bench -------------------------------------------------------------------------------------------------------


@dataclass
class Done:
    """A request that has come to its end."""

    terminal: str
    request: Request
    result: Any
    at: float

    @property
    def failure(self) -> str | None:
        return self.result.name if isinstance(self.result, Failure) else None


@dataclass
class RadioBench:
    """The medium under test between a context and a radio. `now` is the clock's mono."""

    stations: Iterable[Station]
    radio_settings: RadioSettings = field(default_factory=RadioSettings)
    options: MediumOptions = field(default_factory=MediumOptions)
    keyed: bool = True
    machine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bench = Bench(limit=1000, **self.machine)
        self.clock = self.bench.clock
        self.done: list[Done] = []
        self.late: list[Late] = []
        self.when_done: Callable[[Done], None] = lambda _: None
        self.bench.context.answered = self._answered
        self.radio = Radio(self.radio_settings, self.stations)
        self.sent: list[tuple[float, int]] = []
        self.medium = Medium(self.bench.context, self.options, self, self.clock, lambda: None)
        self.sieve = Sieve(self.bench.context.protocol, 16_385)
        names = [station.name for station in self.radio.stations]
        self.link = LineLink(self.bench.context, _End(self), names, others=True)
        self.medium.link = self.link
        self.link.expect(self.clock.moment())
        self.sessions: dict[str, Session] = {}
        for name in names:
            session = self.bench.sessions.get(name)
            assert session is not None
            self.sessions[name] = session

    def _answered(self, session: Session, event: Answered | Late, moment: Moment) -> None:
        if isinstance(event, Late):
            self.late.append(event)
            return
        done = Done(session.machine.terminal, event.request, event.result, moment.mono)
        self.done.append(done)
        self.when_done(done)

    # --- the line of the medium ---

    def key(self, on: bool) -> None:
        if self.keyed:
            self.radio.key(on, self.now)

    def write(self, octets: bytes) -> None:
        self.sent.append((self.now, len(octets)))
        self.radio.write(octets, self.now)

    def deliver(self, octets: bytes, moment: Moment) -> None:
        for item in self.sieve.feed(octets):
            if not isinstance(item, Garbage):
                self.link.received(item.raw, moment)

    # --- time ---

    @property
    def now(self) -> float:
        return self.clock.mono

    def ask(self, name: str, priority: int = POLL, apdu: Any = None, **more: Any) -> Request:
        retries = more.pop("retries", None)
        request = Request(apdu or get(), timeout=more.pop("timeout", None), retries=retries, context=priority)
        self.medium.ask(self.sessions[name], request, priority, **more)
        return request

    def step(self, until: float) -> bool:
        """The next thing that is due, at `until` latest; False when nothing is."""
        heard = self.radio.tick(self.now)
        if heard:
            self.medium.received(heard, self.clock.moment())
        self.medium.tick(self.clock.moment())
        dues = [self.radio.deadline(), self.medium.deadline(), self.bench.sessions.next_due()]
        due = min((due for due in dues if due is not None), default=until)
        if due >= until:
            self.clock.forward(max(0.0, until - self.now))
            return False
        # One float step beyond, so that a deadline met is a thing done.
        self.clock.forward(max(0.0, due - self.now) + 1e-7)
        heard = self.radio.tick(self.now)
        if heard:
            self.medium.received(heard, self.clock.moment())
        self.bench.tick()
        self.bench.commit()
        self.medium.tick(self.clock.moment())
        return True

    def run(self, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        until = self.now + seconds
        for _ in range(2_000_000):
            if stop() or not self.step(until):
                return
        raise AssertionError("time does not move")

    def finish(self, seconds: float = 600.0) -> None:
        """Until nothing waits and nothing is on the air."""
        self.run(seconds, lambda: self.idle)
        assert self.idle

    @property
    def idle(self) -> bool:
        open_still = any(not session.machine.ready for session in self.sessions.values())
        return self.medium.state == "idle" and not self.medium.counters.waiting and not open_still

    def round(self, names: Iterable[str], priority: int = POLL) -> float:
        """Ask each once, at once; how long it took until all were done."""
        began, before = self.now, len(self.done)
        wanted = [self.ask(name, priority) for name in names]
        self.run(3600, lambda: len(self.done) - before >= len(wanted) and self.medium.state == "idle")
        assert len(self.done) - before == len(wanted)
        return self.now - began

    def on_air(self, since: float = 0.0) -> list[Carrier]:
        return [carrier for carrier in self.radio.carriers if carrier.begins >= since]

    def order(self) -> list[str]:
        """The priorities of the requests that were answered, in the order of their ends."""
        return [PRIORITIES[done.request.context] for done in self.done]


class _End:
    """What the link acts through."""

    peer = "radio"

    def __init__(self, bench: RadioBench) -> None:
        self._bench = bench

    def write(self, octets: bytes) -> None:
        self._bench.medium.say(octets)

    def pause(self) -> None:
        self._bench.medium.hold(True)

    def resume(self) -> None:
        self._bench.medium.hold(False)

    def close(self, reason: str) -> None:
        raise AssertionError(f"the line is closed: {reason}")


def _give_up(self: Any, request: Request, moment: Moment) -> list[Any]:
    """What `Impatient` says, for a machine that has it not yet."""
    exchange = self._exchange
    events: list[Any] = []
    if exchange is not None and exchange.request is request:
        self._finish(exchange, Failure("timed_out", "no answer in the turn"), moment, events)
    return events


if not hasattr(Dlt698Machine, "give_up"):
    Dlt698Machine.give_up = _give_up  # type: ignore[attr-defined]


__all__ = ["CONTROL", "MASTER", "POLL", "Dead", "RadioBench", "Script", "get", "names", "terminal", "trip"]
