"""The other side of a machine: a terminal that says what a test wants, and reads what the master answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from messages import Format, Message, State, Up, decode, encode
from protocols.dlt698 import Dlt698Machine
from protocols.dlt698_options import Options
from protocols.events import Answered, Deliver, Event, Moment, Request, Token
from protocols.mapping import Mapper
from protocols.times import Instants
from wire698 import access, link, model
from wire698.fast import FastDecoder
from wire698.frame import Address, Frame, build_fragment, build_frame, parse_frame, split_fragments
from wire698.pieces import AnyApdu, Apdu, ResultNormal, ResultRecord
from wire698.rows import Row, Table
from wire698.values import Data, Oad, Piid, Rcsd, Road, Tag

ZONE = ZoneInfo("Asia/Shanghai")
WALL = 1_764_000_000_000
"""2025-11-25 00:00:00 in Shanghai, ms."""
TERMINAL = "112233445566"
ADDRESS = Address.of(TERMINAL)
UPWARD = 0x83
ANSWER = 0xC3
CLIENT = 0x10


def at(seconds: float) -> Moment:
    """The instant so many seconds after the start."""
    return Moment(1000.0 + seconds, WALL + round(seconds * 1000))


START = at(0)


class Pair:
    """A machine and its terminal. `now` goes on only when a test says so."""

    def __init__(self, terminal: str = TERMINAL, decoder: FastDecoder | None = None, **options: Any) -> None:
        instants = Instants(ZONE)
        self.options = Options(**options)
        self.machine = Dlt698Machine(terminal, self.options, decoder or FastDecoder(), Mapper(instants), instants)
        self.address = Address.of(terminal)
        self.now = START

    def after(self, seconds: float) -> Pair:
        """The same, so many seconds after the start."""
        self.now = at(seconds)
        return self

    def attach(self) -> list[Event]:
        return self.machine.attach(self.now)

    def feed(
        self, said: Apdu | bytes | str, control: int = UPWARD, client: int = CLIENT, address: Address | None = None
    ) -> list[Event]:
        """What the machine makes of an APDU, its octets, or the hexadecimal of them."""
        return self.machine.feed(framed(said, control, client, address or self.address), self.now)

    def feed_frame(self, raw: bytes) -> list[Event]:
        return self.machine.feed(parse_frame(raw), self.now)

    def feed_fragments(self, said: Apdu | bytes, size: int, control: int = UPWARD) -> list[Event]:
        """The APDU in link fragments of `size` octets; all that comes of them."""
        events: list[Event] = []
        for piece in split_fragments(octets_of(said), size):
            events += self.feed(piece, control | 0x20)
        return events

    def log_in(self, period: int = 300) -> list[Event]:
        """Attach, log in, and take the answer away."""
        self.attach()
        events = self.feed(login(period), 0x81)
        assert [frame.control for frame in self.out()][:1] == [0x01]
        return events

    def out(self) -> list[Frame]:
        """The frames that the machine wants written."""
        return [parse_frame(raw) for raw in self.machine.outgoing()]

    def out_hex(self) -> list[str]:
        """The user data of those frames."""
        return [frame.data.hex().upper() for frame in self.out()]

    def out_apdus(self) -> list[Apdu]:
        return [model.parse(frame.data).apdu for frame in self.out()]

    def ask(self, apdu: Apdu, **how: Any) -> tuple[Request, list[Event]]:
        request = Request(apdu, **how)
        return request, self.machine.submit(request, self.now)

    def tick(self) -> list[Event]:
        return self.machine.tick(self.now)

    def settle(self, token: Token) -> None:
        self.machine.settle(token, self.now)


def octets_of(said: Apdu | bytes | str) -> bytes:
    if isinstance(said, str):
        return bytes.fromhex(said)
    return said if isinstance(said, bytes) else model.build(said)


def framed(said: Apdu | bytes | str, control: int = UPWARD, client: int = CLIENT, address: Address = ADDRESS) -> Frame:
    return parse_frame(build_frame(control, address, client, octets_of(said)))


def ack(seq: int) -> bytes:
    """User data that acknowledges a fragment."""
    return build_fragment(seq, 2)


def login(period: int = 300, kind: int = link.LOGIN, time: str = "07E90B19020000000000", piid: int = 0) -> Apdu:
    """A LINK-Request; the default time is 2025-11-25 00:00:00."""
    return link.LinkRequest(Piid(piid), kind, period, bytes.fromhex(time))


# --- what is said --------------------------------------------------------------------------------------------------


def u32(value: int) -> Data:
    return Data(Tag.DOUBLE_LONG_UNSIGNED, value)


def u16(value: int) -> Data:
    return Data(Tag.LONG_UNSIGNED, value)


def instant(text: str) -> Data:
    """date_time_s from `2025-11-24 10:30:00`."""
    year, month, day, hour, minute, second = (int(part) for part in text.replace("-", " ").replace(":", " ").split())
    return Data(Tag.DATE_TIME_S, year.to_bytes(2) + bytes((month, day, hour, minute, second)))


def tsa(digits: str) -> Data:
    octets = bytes.fromhex(digits + "F" * (len(digits) & 1))
    return Data(Tag.TSA, bytes((len(octets) - 1,)) + octets)


def array(*items: Data) -> Data:
    return Data(Tag.ARRAY, items)


def structure(*items: Data) -> Data:
    return Data(Tag.STRUCTURE, items)


def oad(text: str) -> Oad:
    return Oad.of(text)


def road(text: str, *columns: str) -> Road:
    return Road(oad(text), tuple(map(oad, columns)))


def record(table: str, columns: list[str | Road], *rows: tuple[Data, ...], flat: bool = True) -> ResultRecord:
    rcsd: Rcsd = tuple([oad(column) if isinstance(column, str) else column for column in columns])
    return ResultRecord(oad(table), rcsd, Table.of([Row.of(row) for row in rows]), flat)


def report(*records: ResultRecord, piid: int = 1, **tails: Any) -> access.ReportNotificationRecordList:
    """88 02."""
    return access.ReportNotificationRecordList(Piid(piid), records, **tails)


def values_report(piid: int = 1, values: dict[str, Data] | None = None, **tails: Any) -> access.ReportNotificationList:
    """88 01 of OAD -> value; by default of one undated voltage."""
    said = {"20000200": array(u16(2200), u16(2201), u16(2202))} if values is None else values
    results = tuple([ResultNormal(oad(name), Row.of((data,))) for name, data in said.items()])
    return access.ReportNotificationList(Piid(piid), results, **tails)


def octets_report(piid: int = 1, *items: bytes, port: str = "F2010201") -> access.ReportNotificationTransData:
    """88 03."""
    return access.ReportNotificationTransData(Piid(piid), oad(port), items)


def dated(piid: int = 1, energy: int = 123456, **tails: Any) -> access.ReportNotificationRecordList:
    """A day freeze of one meter, whose messages have a device time."""
    made = record(
        "60120300",
        ["202A0200", road("50040200", "20210200", "00100200")],
        (tsa("000000000001"), instant("2025-11-25 00:00:00"), array(u32(energy), u32(1), u32(2), u32(3), u32(4))),
    )
    return report(made, piid=piid, **tails)


def get_response(piid: int, value: Data | None = None, name: str = "40010200", **tails: Any) -> Apdu:
    data = value if value is not None else Data(Tag.OCTET_STRING, bytes.fromhex("112233445566"))
    return access.GetResponseNormal(Piid(piid), ResultNormal(oad(name), Row.of((data,))), **tails)


def get_request(name: str = "40010200", piid: int = 0) -> access.GetRequestNormal:
    return access.GetRequestNormal(Piid(piid), oad(name))


def with_piid(apdu: AnyApdu, piid: int) -> Any:
    return replace(apdu, piid=Piid(piid))  # type: ignore[type-var]


# --- what comes of it ----------------------------------------------------------------------------------------------


def of_kind(events: list[Event], kind: Any) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def data_deliveries(events: list[Event]) -> list[Deliver]:
    """Deliveries that are not of a State."""
    return [event for event in of_kind(events, Deliver) if not isinstance(event.messages[0], State)]


def states(events: list[Event]) -> list[State]:
    return [message for event in of_kind(events, Deliver) for message in event.messages if isinstance(message, State)]


def presences(events: list[Event]) -> list[tuple[str, str]]:
    return [(state.presence, state.reason) for state in states(events)]


def token_of(events: list[Event]) -> Token:
    """The token of the only delivery of data."""
    (delivery,) = data_deliveries(events)
    assert delivery.token is not None
    return delivery.token


def messages_of(events: list[Event]) -> list[Any]:
    return [message for delivery in data_deliveries(events) for message in delivery.messages]


def answers(events: list[Event]) -> list[Answered]:
    return of_kind(events, Answered)


def answered(events: list[Event]) -> Any:
    """The result of the only request that has come to its end."""
    (event,) = answers(events)
    return event.result


def names(events: list[Event], kind: Any) -> list[str]:
    """Reasons or names of the events of a kind."""
    return [getattr(event, "reason", None) or event.name for event in of_kind(events, kind)]


def checked(message: Up) -> dict[str, Any]:
    """A message as a consumer reads it, msgpack and JSON alike."""
    kind: type[Message] = type(message)
    forms: tuple[Format, ...] = ("msgpack", "json")
    for form in forms:
        again = decode(encode(message, form), kind)
        assert again == message, form
    plain: dict[str, Any] = msgspec.to_builtins(message)
    return plain
