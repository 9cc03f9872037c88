"""A bench for one sans-IO terminal: a small master that frames, unframes and answers as the test says."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from simulators.counters import Counters
from simulators.settings import TerminalSettings
from simulators.stamps import Timebase
from simulators.terminal import Terminal
from simulators.truth import Truth
from wire698 import access, link, model
from wire698.frame import (
    ACK,
    Address,
    Frame,
    Framer,
    Reassembler,
    build_frame,
    parse_fragment,
    split_fragments,
)
from wire698.pieces import Apdu

sys.path.insert(0, str(Path(__file__).parent))

ADDRESS = "100000000001"
METERS = ("500000000001", "500000000002")
START = 1772409600.0
"""2026-03-02 08:00 local, a Monday."""
CLIENT = 0x21


@dataclass
class Bench:
    """`now` is real time; what the terminal sent since the last look is in `sent` (frames) and `said` (APDUs)."""

    terminal: Terminal
    counters: Counters
    truth: Truth
    now: float = 0.0
    sent: list[Frame] = field(default_factory=list)
    acknowledge_fragments: bool = True
    _pieces: Reassembler = field(default_factory=lambda: Reassembler(1 << 20))

    def take(self, octets: list[bytes]) -> list[Apdu]:
        """The APDUs in what the terminal wrote; fragments are acknowledged on the way."""
        said: list[Apdu] = []
        for frame in Framer().feed(b"".join(octets)):
            assert isinstance(frame, Frame)
            self.sent.append(frame)
            if not frame.is_fragment:
                said.append(model.parse(frame.data).apdu)
                continue
            fragment = parse_fragment(frame.data)
            if fragment.kind == ACK:
                continue
            ack, whole, _ = self._pieces.feed(fragment)
            if whole is not None:
                said.append(model.parse(whole).apdu)
            if ack is not None and self.acknowledge_fragments:
                control = frame.control & 0x7F
                said += self.take(self.feed_raw(control, ack))
        return said

    def feed_raw(self, control: int, data: bytes, address: Address | None = None) -> list[bytes]:
        frame = build_frame(control, address or self.terminal.address, CLIENT, data)
        (item,) = Framer().feed(frame)
        assert isinstance(item, Frame)
        return self.terminal.feed(item, self.now)

    def ask(self, apdu: Apdu, *, control: int = 0x43, address: Address | None = None) -> list[Apdu]:
        """Send a request; what comes back at once."""
        return self.take(self.feed_raw(control, model.build(apdu), address))

    def ask_in_fragments(self, apdu: Apdu, size: int) -> list[Apdu]:
        said: list[Apdu] = []
        for piece in split_fragments(model.build(apdu), size):
            said += self.take(self.feed_raw(0x63, piece))
        return said

    def tick(self) -> list[Apdu]:
        return self.take(self.terminal.tick(self.now))

    def run(self, until: float) -> list[Apdu]:
        """Go from deadline to deadline up to the real time `until`."""
        said: list[Apdu] = []
        for _ in range(100_000):
            due = self.terminal.deadline()
            if due > until:
                self.now = until
                return said
            self.now = max(self.now, due)
            said += self.tick()
        raise AssertionError("the terminal's deadline does not move")

    def login(self, result: int = 0x80) -> list[Apdu]:
        (request,) = self.take(self.terminal.connected(self.now))
        assert isinstance(request, link.LinkRequest)
        return self.accept(request, result)

    def accept(self, request: link.LinkRequest, result: int = 0x80) -> list[Apdu]:
        response = link.LinkResponse(
            piid=request.piid, result=result, request=request.time, received=request.time, response=request.time
        )
        return self.ask(response, control=0x01)

    def acknowledge(self, report: Any) -> list[Apdu]:
        kind: Any = access.ReportResponseRecordList
        results: Any = getattr(report, "records", None)
        if results is None:
            kind, results = access.ReportResponseList, report.results
        return self.ask(kind(piid=report.piid, oads=tuple(r.oad for r in results)), control=0x03)


@pytest.fixture
def make_bench() -> Any:
    def make(speed: float = 60.0, **settings: Any) -> Bench:
        counters, truth = Counters(), Truth()
        given: dict[str, Any] = {"address": ADDRESS, "seed": 7, "meters": METERS, **settings}
        terminal = Terminal(TerminalSettings(**given), Timebase(START, 0.0, speed), truth, counters)
        return Bench(terminal, counters, truth)

    return make
