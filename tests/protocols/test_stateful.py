"""The machine under whatever comes: frames good, odd and broken, settles, requests, links that come and go.

Laws: nothing but ProgrammingError for our own misuse is raised; every request has exactly one end; the answers of a
token are written at most once each, and only on the link that they are for; memory is bounded; a tick at or behind the
deadline gets on, and one before it does nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from terminal_side import (
    TERMINAL,
    Pair,
    array,
    checked,
    dated,
    framed,
    get_request,
    get_response,
    login,
    oad,
    octets_of,
    octets_report,
    record,
    report,
    u16,
    values_report,
)

from messages import State
from protocols.events import (
    ANSWERS_OWED,
    Answered,
    Deliver,
    Event,
    Failure,
    Moment,
    Oddity,
    ProgrammingError,
    Request,
    Token,
    Violation,
)
from protocols.reports import RECENT_KEPT
from wire698 import link, model
from wire698.access import ActionRequestNormal, GetResponseNext, SetRequestNormal
from wire698.errors import WireError
from wire698.frame import Address, build_fragment, parse_frame, split_fragments
from wire698.security import PLAIN, Check, SecurityRequest, Unit
from wire698.values import Data, Omd, Piid, Tag

DATA = Path(__file__).parents[1] / "data"


def known_apdus() -> list[bytes]:
    """APDUs of both sides, from public sources."""
    found = [bytes.fromhex(entry["hex"]) for entry in json.loads((DATA / "apdus.json").read_text(encoding="utf-8"))]
    for entry in json.loads((DATA / "frames.json").read_text(encoding="utf-8")):
        try:
            found.append(parse_frame(bytes.fromhex(entry["hex"])).data)
        except (WireError, ValueError):
            continue
    return found


APDUS = known_apdus()
ADDRESSES = [Address.of(TERMINAL), Address.of(TERMINAL, logical=1), Address(0x26, Address.of(TERMINAL).sa + b"\x01")]

controls = st.sampled_from([0x81, 0x83, 0xC3, 0xA3, 0xE3, 0x43, 0x03])
piids = st.integers(0, 255)
reports = st.one_of(
    st.builds(dated, piids, st.integers(0, 5)),
    st.builds(values_report, piids),
    st.builds(lambda piid, value: values_report(piid, {"20010200": array(u16(value))}), piids, st.integers(0, 60)),
    st.builds(octets_report, piids, st.binary(max_size=3)),
    st.builds(lambda piid: report(record("50040200", ["20210200"]), piid=piid), piids),
)
logins = st.builds(login, st.sampled_from([0, 1, 60, 65535]), st.integers(0, 3), piid=piids)
requests = st.one_of(
    st.builds(get_request),
    st.just(SetRequestNormal(Piid(0), oad("40010200"), Data(Tag.OCTET_STRING, bytes(100)))),
    st.just(ActionRequestNormal(Piid(0x80), Omd(0x80017F00), Data(Tag.NULL, None))),
    st.just(link.ReleaseRequest(Piid(0))),
)


class Terminals(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(max_requests=4, max_apdu=400, fragment_octets=40, request_timeout_s=20, request_retries=1)
        self.machine = self.pair.machine
        self.tokens: list[Token] = []
        self.open: list[Request] = []
        self.ended: set[int] = set()
        self.kept: list[Request] = []
        self.answer_count: dict[tuple[int, bytes], int] = {}

    @initialize(
        connect=st.sampled_from(["auto", "always", "never"]),
        refuse=st.sampled_from(["identify", "refuse"]),
        last=st.booleans(),
        protected=st.sampled_from(["plain", "security"]),
    )
    def begin(self, connect: Any, refuse: Any, last: bool, protected: Any) -> None:
        self.pair = Pair(
            max_requests=4,
            max_apdu=400,
            fragment_octets=40,
            request_timeout_s=20,
            request_retries=1,
            connect=connect,
            unregistered=refuse,
            acknowledge_last_fragment=last,
            protected_answer=protected,
        )
        self.machine = self.pair.machine
        self.taken(self.pair.attach())

    # --- what happens ----------------------------------------------------------------------------------------------

    def taken(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Deliver(messages, token):
                    assert messages
                    for message in messages:
                        assert message.terminal == TERMINAL
                        checked(message)
                    if token is None:
                        assert all(isinstance(message, State) for message in messages)
                    else:
                        assert not token.settled
                        self.tokens.append(token)
                case Answered(request, result):
                    assert id(request) not in self.ended
                    assert request in self.open
                    self.open.remove(request)
                    self.ended.add(id(request))
                    assert isinstance(result, Failure) or hasattr(result, "HEAD")
                case Violation(reason, _):
                    assert reason
                case Oddity(name):
                    assert name

    def written(self) -> list[bytes]:
        frames = self.machine.outgoing()
        for raw in frames:
            frame = parse_frame(raw)
            assert frame.address.terminal == TERMINAL
            assert not frame.control & 0x80
        return frames

    def feed(self, said: Any, control: int, address: Address) -> None:
        frame = framed(said, control, address=address)
        if not self.machine.attached:
            with pytest.raises(ProgrammingError):
                self.machine.feed(frame, self.pair.now)
            return
        self.taken(self.machine.feed(frame, self.pair.now))

    # --- the terminal ----------------------------------------------------------------------------------------------

    @rule(said=reports, control=st.sampled_from([0x83, 0xC3]), address=st.sampled_from(ADDRESSES))
    def says_report(self, said: Any, control: int, address: Address) -> None:
        self.feed(said, control, address)

    @rule(said=reports, size=st.integers(5, 60), address=st.sampled_from(ADDRESSES[:2]))
    def says_report_in_fragments(self, said: Any, size: int, address: Address) -> None:
        for piece in split_fragments(octets_of(said), size):
            self.feed(piece, 0xA3, address)

    @rule(said=reports)
    def says_report_wrapped(self, said: Any) -> None:
        self.feed(SecurityRequest(Unit(PLAIN, octets_of(said)), Check(1, bytes(16))), 0x83, ADDRESSES[0])

    @rule(said=logins)
    def links(self, said: Any) -> None:
        self.feed(said, 0x81, ADDRESSES[0])

    @rule(
        kind=st.sampled_from(["answer", "refusal", "unsupported", "block", "last", "connected", "released"]),
        near=st.integers(-1, 1),
    )
    def answers(self, kind: str, near: int) -> None:
        piid = Piid(self.machine._piid + near & 0x3F)
        said: Any = {
            "answer": get_response(piid),
            "refusal": link.ServerError(piid, 255),
            "unsupported": link.ServerError(piid, 2),
            "block": GetResponseNext(piid, False, 1, dated().records),
            "last": GetResponseNext(piid, True, 2, dated().records),
            "connected": link.ConnectResponse(
                piid, bytes(32), 0x10, bytes(8), bytes(16), 1, 1, 1, 1, 1, 0 if near == 0 else 5
            ),
            "released": link.ReleaseNotification(piid, bytes(7), bytes(7)),
        }[kind]
        self.feed(said, 0xC3, ADDRESSES[0])

    @rule(
        apdu=st.sampled_from(APDUS),
        flips=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 255)), max_size=3),
        cut=st.one_of(st.none(), st.integers(0, 40)),
        control=controls,
    )
    def says_anything(self, apdu: bytes, flips: list[tuple[int, int]], cut: int | None, control: int) -> None:
        octets = bytearray(apdu[: cut if cut is not None else 2000])
        for place, change in flips:
            if octets:
                octets[place % len(octets)] ^= change
        self.feed(bytes(octets), control, ADDRESSES[0])

    @rule(octets=st.binary(max_size=60), control=controls)
    def says_noise(self, octets: bytes, control: int) -> None:
        self.feed(octets, control, ADDRESSES[0])

    @rule(seq=st.integers(0, 5), kind=st.integers(0, 3), octets=st.binary(max_size=200))
    def says_fragments(self, seq: int, kind: int, octets: bytes) -> None:
        self.feed(build_fragment(seq, kind, octets if kind != 2 else b""), 0xE3, ADDRESSES[0])

    # --- we --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), stored=st.booleans())
    def settles(self, data: st.DataObject, stored: bool) -> None:
        token = self.tokens.pop(data.draw(st.integers(0, len(self.tokens) - 1)))
        self.written()
        owed = list(token.answers)
        if stored:
            self.machine.settle(token, self.pair.now)
            due = owed if self.machine.attached and token.epoch == self.machine.epoch else []
            assert self.written() == due
            assert len(set(due)) == len(due)
        else:
            self.machine.abandon(token)
            assert self.written() == []
        with pytest.raises(ProgrammingError):
            self.machine.settle(token, self.pair.now)
        with pytest.raises(ProgrammingError):
            self.machine.abandon(token)
        assert self.written() == []

    @rule(apdu=requests, retries=st.one_of(st.none(), st.integers(0, 2)))
    def asks(self, apdu: Any, retries: int | None) -> None:
        request = Request(apdu, retries=retries)
        self.open.append(request)
        self.kept.append(request)
        self.taken(self.machine.submit(request, self.pair.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), again=st.booleans())
    def takes_back(self, data: st.DataObject, again: bool) -> None:
        request = data.draw(st.sampled_from(self.open))
        if again:
            with pytest.raises(ProgrammingError):
                self.machine.submit(request, self.pair.now)
        else:
            self.taken(self.machine.cancel(request, self.pair.now))

    @rule(seconds=st.one_of(st.floats(0, 2), st.floats(0, 1000), st.floats(0, 10**6)))
    def waits(self, seconds: float) -> None:
        deadline = self.machine.deadline()
        now = self.pair.now
        self.pair.now = Moment(now.mono + seconds, now.wall + round(seconds * 1000))
        if deadline is None or self.pair.now.mono < deadline:
            assert self.machine.tick(self.pair.now) == []
            assert self.machine.deadline() == deadline
        else:
            self.overdue()

    @rule()
    def meets_the_deadline(self) -> None:
        deadline = self.machine.deadline()
        if deadline is not None:
            now = self.pair.now
            self.pair.now = Moment(max(now.mono, deadline), now.wall + round(max(0.0, deadline - now.mono) * 1000))
            self.overdue()

    def overdue(self) -> None:
        """Ticks at one instant come to an end: nothing stays overdue."""
        for _ in range(20):
            deadline = self.machine.deadline()
            if deadline is None or deadline > self.pair.now.mono:
                return
            self.taken(self.machine.tick(self.pair.now))
        raise AssertionError("the deadline does not get on")

    @rule()
    def attaches(self) -> None:
        epoch = self.machine.epoch
        self.taken(self.pair.attach())
        assert self.machine.epoch == epoch + 1
        assert self.written() == []

    @rule(old=st.booleans())
    def detaches(self, old: bool) -> None:
        attached = self.machine.attached
        events = self.machine.detach(self.machine.epoch - old, self.pair.now)
        self.taken(events)
        if old:
            assert events == []
            assert self.machine.attached == attached
        else:
            assert not self.machine.attached
            assert self.written() == []

    # --- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def nothing_grows_without_bound(self) -> None:
        machine = self.machine
        assert machine._recent is None or len(machine._recent) <= RECENT_KEPT
        assert all(len(token.answers) <= ANSWERS_OWED for token in self.tokens)
        assert machine._queue is None or len(machine._queue) <= 4 + 2
        if machine._exchange is not None:
            assert machine._exchange._block_octets <= 400 + 2000
        if machine._pieces is not None:
            assert sum(map(len, machine._pieces._reassembler._pieces)) <= 400

    @invariant()
    def every_request_is_somewhere_or_has_ended(self) -> None:
        machine = self.machine
        held = [request for request in machine._queue or () if request in self.open]
        if machine._exchange is not None and machine._exchange.request in self.open:
            held.append(machine._exchange.request)
        assert len(held) == len(self.open)
        assert set(map(id, held)) == set(map(id, self.open))
        assert machine.attached or machine._exchange is None

    @invariant()
    def what_is_written_is_frames(self) -> None:
        if len(self.kept) % 3 == 0:
            self.written()

    def teardown(self) -> None:
        """With time and no answers every request that could be sent comes to its end."""
        self.taken(self.pair.attach())
        self.taken(self.machine.feed(framed(login(65535), 0x81), self.pair.now))
        for _ in range(200):
            if not self.open:
                break
            now = self.pair.now
            self.pair.now = Moment(now.mono + 25, now.wall + 25_000)
            self.taken(self.machine.tick(self.pair.now))
        assert self.open == []


TestTerminals = Terminals.TestCase
TestTerminals.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def test_known_apdus_are_of_both_sides() -> None:
    """So that the machine above sees what it claims to see."""
    kinds = set()
    for octets in APDUS:
        try:
            kinds.add(type(model.parse(octets).apdu).__name__)
        except WireError:
            continue
    assert {"GetRequestNormal", "GetResponseNormal", "LinkResponse", "SecurityResponse", "ConnectRequest"} <= kinds
