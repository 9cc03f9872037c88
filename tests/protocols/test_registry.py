"""What every protocol of the registry keeps to, so that the gateway needs to know none of them."""

from __future__ import annotations

import inspect
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from terminal_side import ADDRESS, TERMINAL, dated, get_request, get_response, login

from messages import Up
from protocols.events import Answered, Deliver, Identified, Machine, Moment, ProgrammingError, Request
from protocols.registry import PROTOCOLS, TerminalProtocol
from wire698 import model
from wire698.frame import build_frame

START = Moment(1.0, 1_764_000_000_000)


class Samples:
    """Octets and requests of one protocol, by which the tests below talk to its machine: an entry for each protocol."""

    def __init__(self, *, login: bytes, report: bytes, other_report: bytes, request: Any, answer: bytes) -> None:
        self.login = login
        self.report = report
        self.other_report = other_report
        self.request = request
        self.answer = answer


def _frame698(apdu: Any, control: int) -> bytes:
    return build_frame(control, ADDRESS, 0x10, model.build(apdu))


SAMPLES = {
    "dlt698.45": Samples(
        login=_frame698(login(), 0x81),
        report=_frame698(dated(), 0x83),
        other_report=_frame698(dated(2, 5), 0x83),
        request=get_request(),
        answer=_frame698(get_response(1), 0xC3),
    )
}

every_protocol = pytest.mark.parametrize("name", sorted(PROTOCOLS))


class Line:
    """A framer and a machine of one protocol."""

    def __init__(self, name: str) -> None:
        self.protocol: TerminalProtocol = PROTOCOLS[name]
        self.samples = SAMPLES[name]
        self.framer = self.protocol.framer(4096)
        self.make = self.protocol.dialogue(self.protocol.options(), ZoneInfo("Asia/Shanghai"), 64).machine
        self.machine: Machine = self.make(TERMINAL)

    def feed(self, octets: bytes, moment: Moment = START) -> list[Any]:
        (frame,) = self.framer.feed(octets)
        assert self.protocol.terminal_of(frame) == TERMINAL
        return self.machine.feed(frame, moment)

    def log_in(self) -> list[Any]:
        self.machine.attach(START)
        events = self.feed(self.samples.login)
        assert self.machine.outgoing()
        return events


def test_every_protocol_has_samples() -> None:
    assert set(SAMPLES) == set(PROTOCOLS)
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())


@every_protocol
def test_a_machine_has_all_that_the_gateway_calls(name: str) -> None:
    machine = Line(name).machine
    for method, wanted in inspect.getmembers(Machine, inspect.isfunction):
        if not method.startswith("_"):
            made = getattr(type(machine), method)
            assert list(inspect.signature(made).parameters) == list(inspect.signature(wanted).parameters), method
    assert machine.terminal == TERMINAL
    assert (machine.epoch, machine.presence) == (0, "offline")
    assert machine.deadline() is None
    assert machine.outgoing() == []
    assert machine.tick(START) == []


@every_protocol
def test_login_identifies(name: str) -> None:
    line = Line(name)
    events = line.log_in()
    assert [event for event in events if isinstance(event, Identified)] == [Identified(TERMINAL, login=True)]
    assert line.machine.presence == "online"
    assert line.machine.deadline() is not None


@every_protocol
def test_frames_are_found_in_any_pieces(name: str) -> None:
    line = Line(name)
    octets = line.samples.login + b"\x00\xff" + line.samples.report
    found = [frame for n in range(len(octets)) for frame in line.framer.feed(octets[n : n + 1])]
    assert [frame.raw for frame in found if hasattr(frame, "raw")] == [line.samples.login, line.samples.report]


@every_protocol
def test_a_report_is_acknowledged_when_it_is_settled(name: str) -> None:
    line = Line(name)
    line.log_in()
    (delivery,) = [event for event in line.feed(line.samples.report) if isinstance(event, Deliver)]
    assert delivery.token is not None
    assert delivery.messages
    for message in delivery.messages:
        assert isinstance(message, Up)
        assert (message.terminal, message.protocol, message.received_at) == (TERMINAL, name, START.wall)
        assert len(message.id) == 16
    assert line.machine.outgoing() == []
    line.machine.settle(delivery.token, START)
    assert len(line.machine.outgoing()) == 1
    with pytest.raises(ProgrammingError):
        line.machine.settle(delivery.token, START)


@every_protocol
def test_a_report_that_is_said_again_is_answered_and_not_delivered_again(name: str) -> None:
    line = Line(name)
    line.log_in()
    (delivery,) = line.feed(line.samples.report)
    line.machine.settle(delivery.token, START)
    line.machine.outgoing()
    again = line.feed(line.samples.report)
    assert not [event for event in again if isinstance(event, Deliver)]
    assert len(line.machine.outgoing()) == 1
    assert [event for event in line.feed(line.samples.other_report) if isinstance(event, Deliver)]


@every_protocol
def test_a_request_has_one_answer(name: str) -> None:
    line = Line(name)
    line.log_in()
    request = Request(line.samples.request)
    assert line.machine.submit(request, START) == []
    assert len(line.machine.outgoing()) == 1
    events = line.feed(line.samples.answer)
    assert [event.request for event in events if isinstance(event, Answered)] == [request]
    assert not [event for event in line.feed(line.samples.answer) if isinstance(event, Answered)]


@every_protocol
def test_the_newest_link_wins(name: str) -> None:
    line = Line(name)
    line.log_in()
    old = line.machine.epoch
    line.log_in()
    assert line.machine.epoch == old + 1
    assert line.machine.detach(old, START) == []
    assert [event for event in line.feed(line.samples.report) if isinstance(event, Deliver)]


@every_protocol
def test_silence_ends_presence(name: str) -> None:
    line = Line(name)
    line.log_in()
    told: list[str] = []
    for _ in range(10):
        deadline = line.machine.deadline()
        if deadline is None:
            break
        for event in line.machine.tick(Moment(deadline, START.wall)):
            assert isinstance(event, Deliver)
            told += [message.presence for message in event.messages]  # type: ignore[attr-defined]
    assert told == ["suspect", "offline"]


@every_protocol
def test_machines_of_one_channel_do_not_mix(name: str) -> None:
    line = Line(name)
    line.log_in()
    other = line.make("000000000007")
    assert (other.presence, other.epoch, other.outgoing()) == ("offline", 0, [])
