"""What the one end-to-end test of all channel kinds is made of: kinds, bad transports, fleets, orders, the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiomqtt
import msgspec

from gateway.daemon import Gateway
from gateway.settings import Settings, load
from messages import Ack, Command, Reading, Topics, class_of_verb, encode
from simulators.faults import Chunk, FaultyLine, LineFaults
from simulators.fleet import Fleet, Options, Station, Summary
from simulators.lines import RadioWay, SerialWay
from simulators.scenario import Scenario, parse
from simulators.truth import Truth

if TYPE_CHECKING:
    from tests.e2e.e2e_parts import LOOPBACK, Consumer, until
    from tests.gateway.mosquitto import Mosquitto
else:
    from e2e_parts import LOOPBACK, Consumer, until

TERMINALS: Final = 3
REPORTS: Final = 2
"""Reports of each terminal that are acknowledged at least, where terminals report."""
STEP_S: Final = -30.0
"""So far clocks are behind before they are set."""
OFFICE: Final = "duty.wang"

SCENARIO = """
seed = {seed}
[fleet]
terminals = {terminals}
first_address = "1000000{seed:02d}001"
first_meter = "5000000{seed:02d}001"
meters = 2
frame_size = 256
protected = 0.3
scrambled = 0.3
login_timeout_s = 0.3
retry_s = 0.3
rest_s = 0.3
backoff_s = 0.02
backoff_limit_s = 0.05
clock_drift_ppm = 0.0
[tasks]
minute_s = 1
spread_s = 0
[[event]]
kind = "voltage_loss"
at_s = 1
duration_s = 1
[[fault]]
at_s = 0
clock_step_s = {step}
"""

LINES: Final = {
    "whole": LineFaults(),
    "octets": LineFaults(),
    "lossy": LineFaults(lose=0.1, lose_answer=0.1),
    "delayed": LineFaults(delay=0.5, delay_s=0.15),
    "cut": LineFaults(disconnect=0.1),
    "bit-errors": LineFaults(bad_checksum=0.15),
}
"""Bad transports 不良信道, as the terminals' ends of them."""
BIT_ERROR_RATE: Final = 3e-4
"""On the radio, both ways: every tenth frame or so."""

STREAM: Final = tuple(LINES)
KINDS: Final = {
    "tcp_server": STREAM,
    "tcp_client": STREAM,
    "udp": ("whole", "lossy", "delayed", "cut", "bit-errors"),
    "serial": STREAM,
    "serial_shared": ("whole", "octets", "lossy", "cut", "bit-errors"),
    "radio": ("whole", "lossy", "delayed", "cut", "bit-errors"),
}
"""Kinds of channels, and the transports that each can have. A datagram does not come octet by octet."""
TRANSPORTS: Final = {
    "tcp_server": "tcp",
    "tcp_client": "listen",
    "udp": "udp",
    "serial": "serial",
    "serial_shared": "serial",
    "radio": "radio",
}
POLLED: Final = ("serial", "serial_shared", "radio")
SILENT: Final = ("serial_shared", "radio")
"""There terminals say nothing unasked."""

HEAD = """
channels = [{channels}]
tcp_clients = [{tcp_clients}]
udp = [{udp}]
serial = [{serial}]
radio = [{radio}]
polls = [{polls}]
[node]
id = "n1"
data_dir = "{data}"
[http]
listen = ""
[mqtt]
url = "{url}"
reconnect_min_s = 0.02
reconnect_max_s = 0.1
drain_timeout_s = 5.0
[clock]
enabled = false
[protocol]
clock_trusted = "yes"
request_timeout_s = 0.6
request_retries = 3
fragment_timeout_s = 0.5
"""


class OctetLine(FaultyLine):
    """Writes one octet at a time."""

    def out(self, frames: list[bytes]) -> list[Chunk]:
        return [Chunk(0.0002, bytes((octet,))) for frame in frames for octet in frame]


class OctetFleet(Fleet):
    def _station(self, *given: object) -> Station:
        station = super()._station(*given)  # type: ignore[arg-type]
        station.line = OctetLine(LineFaults(), 1, self.counters)
        return station


@dataclass
class Case:
    """One channel with its terminals: a kind, a transport, and what came of it."""

    kind: str
    transport: str
    seed: int
    directory: Path
    truth: Truth = field(default_factory=Truth)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    orders: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Terminal and verb by the command's id."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.transport}".replace("_", "-")

    @property
    def path(self) -> str:
        """Where the pseudo-terminal of a line is."""
        return str(self.directory / self.name)

    @property
    def addresses(self) -> list[str]:
        return [settings.address for settings in self.fleet.settings]

    @property
    def terminals(self) -> int:
        """Where all may talk at any time, octets of several would come between each other."""
        return 1 if (self.kind, self.transport) == ("serial", "octets") else TERMINALS

    def make(self, place: str = "") -> None:
        """The fleet; `place`: HOST:PORT of the gateway, where terminals dial it."""
        text = SCENARIO.format(seed=self.seed, terminals=self.terminals, step=STEP_S)
        scenario: Scenario = msgspec.structs.replace(parse(text), line=LINES[self.transport])
        if self.kind == "radio" and self.transport == "bit-errors":
            radio = msgspec.structs.replace(scenario.radio, bit_error_rate=BIT_ERROR_RATE)
            scenario = msgspec.structs.replace(scenario, line=LineFaults(), radio=radio)
        host, _, port = place.rpartition(":")
        options: dict[str, Any] = {
            "transport": TRANSPORTS[self.kind],
            "host": host or LOOPBACK,
            "port": int(port or 0),
            "place": self.path,
            "bit_rate": 19_200,
            "unasked": self.kind == "serial",
        }
        made = OctetFleet if self.transport == "octets" else Fleet
        self.fleet = made(Options(scenario=scenario, drain_s=20.0, **options), truth=self.truth)

    async def run(self) -> Summary:
        """The fleet's life, until `stop`."""
        return await self.fleet.run(self.stop)

    def table(self) -> str:
        """The channel in the settings, TOML."""
        name = f'name = "{self.name}"'
        known = ", ".join(f'"{address}"' for address in self.addresses) if self.kind in POLLED else ""
        line = f'{name}, url = "{self.path}", bit_rate = 19200, terminals = [{known}], reconnect_min_s = 0.1'
        match self.kind:
            case "tcp_client":
                places = ", ".join(f'"{address}={place}"' for address, place in self.fleet.places.items())
                return f"{{ {name}, places = [{places}], reconnect_min_s = 0.1, reconnect_max_s = 0.2 }}"
            case "serial":
                return f"{{ {line}, reconnect_max_s = 0.2 }}"
            case "serial_shared":
                return f"{{ {line}, reconnect_max_s = 0.2, shared = true }}"
            case "radio":
                return f"{{ {line}, reconnect_max_s = 0.2, retries = 3 }}"
        return f'{{ {name}, listen = "{LOOPBACK}:0" }}'

    async def unplug(self) -> None:
        """A line is pulled out, twice, whatever is on it."""
        way = self.fleet.way
        if self.transport != "cut" or not isinstance(way, SerialWay):
            return
        for _ in range(2):
            heard = self.fleet.counters.requests
            await until(lambda before=heard: self.fleet.counters.requests > before)  # type: ignore[misc]
            way.wire.unplug()

    def violations(self) -> list[Any]:
        """What the radio's medium suffered."""
        way = self.fleet.way
        return list(way.radio.violations) if isinstance(way, RadioWay) else []


def settings_for(cases: list[Case], directory: Path, url: str) -> Settings:
    """Settings of a gateway with the channels of these cases."""
    sections: dict[str, list[str]] = {name: [] for name in ("channels", "tcp_clients", "udp", "serial", "radio")}
    section_of = {"tcp_server": "channels", "tcp_client": "tcp_clients", "serial_shared": "serial"}
    for case in cases:
        sections[section_of.get(case.kind, case.kind)].append(case.table())
    polled = ", ".join(f'"{case.name}"' for case in cases if case.kind in POLLED)
    polls = (
        f'{{ name = "p", points = ["voltage", "active_power"], every_s = 1, spread_s = 0.5, channels = [{polled}] }}'
        if polled
        else ""
    )
    tables = {name: ", ".join(listed) for name, listed in sections.items()}
    path = directory / "gateway.toml"
    path.write_text(HEAD.format(url=url, data=directory / "data", polls=polls, **tables))
    return load(path)


class Orders:
    """Gives commands over MQTT."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._topics = Topics()

    @classmethod
    @asynccontextmanager
    async def through(cls, broker: Mosquitto) -> AsyncIterator[Orders]:
        async with aiomqtt.Client(broker.host, broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            yield cls(client)

    async def give(self, case: Case, terminal: str, verb: str, args: dict[str, Any]) -> None:
        name = f"{verb}-{terminal}"
        command = Command(
            id=name,
            verb=verb,
            args=args,
            issued_by=OFFICE,
            expires_at=round(time.time() * 1000) + 60_000,
            approvals=["chief.li"],
        )
        case.orders[name] = terminal, verb
        command_class = class_of_verb(verb)
        assert command_class is not None
        await self._client.publish(self._topics.command(terminal, command_class), encode(command), qos=1)


def finals(consumer: Consumer, case: Case) -> dict[str, Ack]:
    """The final statuses of a case's commands, by id."""
    acks = [message for message in consumer.messages if isinstance(message, Ack)]
    return {ack.command_id: ack for ack in acks if ack.final and ack.command_id in case.orders}


def polls(consumer: Consumer, case: Case) -> dict[str, int]:
    """Polled readings with values, by terminal."""
    counts = dict.fromkeys(case.addresses, 0)
    for reading in consumer.readings:
        if reading.cause == "poll" and reading.terminal in counts:
            assert reading.channel == case.name
            counts[reading.terminal] += all(value is not None for row in reading.rows for value in row[2:3])
    return counts


def channel_of(gateway: Gateway, case: Case) -> Any:
    return next(channel for channel in gateway.channels if channel.context.name == case.name)


def told_twice(consumer: Consumer) -> list[tuple[object, ...]]:
    """Rows or events of reports in two messages with different ids; a poll may find the same value again."""
    consumer.contents = {
        name: message
        for name, message in consumer.contents.items()
        if not isinstance(message, Reading) or message.cause == "report"
    }
    return consumer.doubled()
