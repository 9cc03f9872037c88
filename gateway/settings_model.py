"""The gateway's settings: the definitions, which document themselves.

A field is declared once: type, limits, default, its line of documentation, and where the limits cannot say it
a check with the words for what is expected. `gateway.settings` reads and writes files by them. Names carry
units: `_s` seconds, `_ms` milliseconds, `_bytes` and `_octets` octets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.settings_channels import (
    CHANNEL_SECTIONS,
    Channel,
    RadioChannel,
    SerialChannel,
    TcpClientChannel,
    UdpChannel,
)
from gateway.settings_checks import (
    ADDRESSES,
    CLIENT_ID,
    LISTEN_OR_OFF,
    NAME,
    NAME_PATTERN,
    PATH,
    TOPIC,
    URL,
    pattern_filter,
    split_listen,
    time_zone,
)
from gateway.settings_collection import Collection, Fetching, Poll
from gateway.settings_command import ClockKeeping, Commands, Group, Interlocks, Quirk

__all__ = [
    "Channel",
    "ClockKeeping",
    "Collection",
    "Commands",
    "Fetching",
    "Group",
    "Http",
    "Interlocks",
    "JournalFile",
    "Log",
    "Mqtt",
    "Node",
    "Poll",
    "Protocol",
    "Quirk",
    "RadioChannel",
    "SerialChannel",
    "Settings",
    "TcpClientChannel",
    "Terminals",
    "UdpChannel",
    "cross_check",
    "pattern_filter",
    "split_listen",
    "time_zone",
]

# -- the definitions ------------------------------------------------------------------------------------------


class Node(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This gateway (前置机) as other systems see it."""

    id: Annotated[
        str, Meta(description="Name of this node: part of topics and messages.", pattern=NAME_PATTERN, extra=NAME)
    ] = "gate-1"
    data_dir: Annotated[
        str, Meta(description="Directory of the journal; one for each node.", min_length=1, extra=PATH)
    ] = "data"


class Terminals(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which terminals (终端) are served."""

    allow: Annotated[
        tuple[str, ...],
        Meta(description="Who may log in; empty: all. Others get result 2 (illegal device).", extra=ADDRESSES),
    ] = ()
    without_login: Annotated[
        Literal["identify", "refuse"],
        Meta(description="A peer that reports without a login: its frames identify it, or it is closed."),
    ] = "identify"
    raw: Annotated[
        tuple[str, ...], Meta(description="Terminals whose raw frames (原始报文) are published.", extra=ADDRESSES)
    ] = ()


class Protocol(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dialogue with terminals, DL/T 698.45."""

    heartbeat_default_s: Annotated[
        int, Meta(description="Heartbeat period (心跳周期) of a terminal that promised none.", ge=1, le=65_535)
    ] = 300
    suspect_after_heartbeats: Annotated[
        float, Meta(description="Silence after which a terminal is `suspect`, in heartbeat periods.", ge=1, le=100)
    ] = 1.5
    offline_after_heartbeats: Annotated[
        float, Meta(description="Silence after which a terminal is `offline`, in heartbeat periods.", ge=1, le=100)
    ] = 2.5
    clock_trusted: Annotated[
        Literal["auto", "yes", "no"],
        Meta(description="Bit 7 of LINK-Response, whether our clock may be trusted; auto: as the system says."),
    ] = "auto"
    connect: Annotated[
        Literal["auto", "always", "never"],
        Meta(description="Application connection (CONNECT) after login; auto: when a terminal asks for it."),
    ] = "auto"
    request_timeout_s: Annotated[float, Meta(description="Wait for the answer to a request.", ge=0.1, le=3_600)] = 30.0
    request_retries: Annotated[
        int, Meta(description="Times that an unanswered request is sent again; a control never is.", ge=0, le=10)
    ] = 1
    report_repeat_window_s: Annotated[
        float,
        Meta(description="A report without device time that is repeated within this keeps its id.", ge=0, le=86_400),
    ] = 600.0
    max_frame_octets: Annotated[
        int, Meta(description="Longest frame taken; longer is garbage. The length field ends here.", ge=64, le=16_385)
    ] = 16_383 + 2
    max_apdu_octets: Annotated[
        int, Meta(description="Longest APDU put together from link fragments.", ge=64, le=1 << 24)
    ] = 65_536
    fragment_timeout_s: Annotated[
        float,
        Meta(description="Wait for the next link fragment (分帧) before the others are dropped.", ge=0.1, le=3_600),
    ] = 30.0
    max_nesting: Annotated[
        int, Meta(description="Arrays and structures within each other in a value, at most.", ge=1, le=64)
    ] = 16
    layouts_cached: Annotated[
        int, Meta(description="Learnt layouts of record rows that are kept; the least used goes.", ge=0, le=65_536)
    ] = 512


class Mqtt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker to which messages go and from which commands come."""

    url: Annotated[
        str,
        Meta(
            description="Broker; percent-encode user and password, and keep the file unreadable to others.", extra=URL
        ),
    ] = "mqtt://127.0.0.1:1883"
    version: Annotated[Literal[5, 4], Meta(description="MQTT 5, or 4 for 3.1.1 (to which 5 falls back by itself).")] = 5
    prefix: Annotated[
        str, Meta(description="First levels of every topic.", min_length=1, max_length=256, extra=TOPIC)
    ] = "loadgate/v1"
    format: Annotated[Literal["msgpack", "json"], Meta(description="How messages are encoded.")] = "msgpack"
    window: Annotated[
        int,
        Meta(description="Messages without PUBACK, at most; the broker's receive maximum counts too.", ge=1, le=65_535),
    ] = 4_096
    keepalive_s: Annotated[int, Meta(description="MQTT keep-alive.", ge=1, le=65_535)] = 30
    client_id: Annotated[
        str, Meta(description='Client identifier; "": loadgate-NODE.', max_length=64, extra=CLIENT_ID)
    ] = ""
    tls_ca: Annotated[str, Meta(description='Authorities to trust (PEM); "": the system\'s.', extra=PATH)] = ""
    tls_cert: Annotated[str, Meta(description='Our certificate (PEM); "": none.', extra=PATH)] = ""
    tls_key: Annotated[str, Meta(description='Its private key (PEM); "": none.', extra=PATH)] = ""
    reconnect_min_s: Annotated[float, Meta(description="First wait before connecting again.", ge=0.01, le=3_600)] = 0.2
    reconnect_max_s: Annotated[float, Meta(description="Longest wait before connecting again.", ge=0.01, le=3_600)] = (
        15.0
    )
    drain_timeout_s: Annotated[
        float, Meta(description="At a stop: wait for PUBACKs; the journal keeps what is left.", ge=0, le=3_600)
    ] = 10.0


class JournalFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The journal: what was acknowledged to a terminal is in this file until the broker has it."""

    file: Annotated[
        str, Meta(description="File name within node.data_dir, or a path of its own.", min_length=1, extra=PATH)
    ] = "journal.db"
    keep_s: Annotated[
        float, Meta(description="Published rows are kept so long for replay (补发).", ge=0, le=366 * 86_400)
    ] = 604_800.0
    max_bytes: Annotated[
        int,
        Meta(description="Size on disk at which terminals are no longer acknowledged.", ge=1 << 20, le=1 << 50),
    ] = 20 << 30
    queue_rows: Annotated[
        int, Meta(description="Rows waiting for the disk at which all links stop reading.", ge=100, le=10_000_000)
    ] = 20_000
    queue_bytes: Annotated[
        int, Meta(description="Octets waiting for the disk at which all links stop reading.", ge=1 << 20, le=1 << 36)
    ] = 64 << 20


class Http(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The probes /metrics (Prometheus), /healthz and /readyz. They ask for no password."""

    listen: Annotated[str, Meta(description="Where; anything but loopback is warned about.", extra=LISTEN_OR_OFF)] = (
        "127.0.0.1:9698"
    )


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log, on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], Meta(description="What is logged: this and above.")
    ] = "info"
    format: Annotated[Literal["console", "json"], Meta(description="For people, or one JSON object a line.")] = (
        "console"
    )


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one gateway."""

    node: Node = Node()
    channels: tuple[Channel, ...] = (Channel(),)
    tcp_clients: tuple[TcpClientChannel, ...] = ()
    udp: tuple[UdpChannel, ...] = ()
    serial: tuple[SerialChannel, ...] = ()
    radio: tuple[RadioChannel, ...] = ()
    terminals: Terminals = Terminals()
    protocol: Protocol = Protocol()
    commands: Commands = Commands()
    interlocks: Interlocks = Interlocks()
    clock: ClockKeeping = ClockKeeping()
    groups: tuple[Group, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    polls: tuple[Poll, ...] = ()
    collection: tuple[Collection, ...] = ()
    fetching: Fetching = Fetching()
    mqtt: Mqtt = Mqtt()
    journal: JournalFile = JournalFile()
    http: Http = Http()
    log: Log = Log()

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return Path(self.node.data_dir) / self.journal.file

    @property
    def mqtt_client_id(self) -> str:
        """The client identifier at the broker."""
        return self.mqtt.client_id or f"loadgate-{self.node.id}"


def cross_check(settings: Settings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong between values, each good in itself: (path, text)."""
    protocol, mqtt, journal = settings.protocol, settings.mqtt, settings.journal
    if not any(getattr(settings, section) for section in CHANNEL_SECTIONS):
        yield ("channels",), "at least one channel is needed"
    names: set[str] = set()
    listens: set[str] = set()
    for section in CHANNEL_SECTIONS[1:]:
        for index, one in enumerate(getattr(settings, section)):
            if one.name in names or one.name in {channel.name for channel in settings.channels}:
                yield (section, index, "name"), "expected a name that no other channel has"
            names.add(one.name)
    for index, channel in enumerate(settings.channels):
        if channel.name in names:
            yield ("channels", index, "name"), "expected a name that no other channel has"
        if channel.listen in listens and not channel.listen.endswith(":0"):
            yield ("channels", index, "listen"), "expected an address that no other channel listens on"
        names.add(channel.name)
        listens.add(channel.listen)
    groups: set[str] = set()
    for index, group in enumerate(settings.groups):
        if group.name in groups or group.name.startswith("channel."):
            yield ("groups", index, "name"), "expected a name that no other group has, not beginning with channel."
        if any(terminal.endswith("*") for terminal in group.terminals):
            yield ("groups", index, "terminals"), "expected whole addresses"
        groups.add(group.name)
    plans: set[str] = set()
    for section in ("polls", "collection"):
        tables: tuple[Poll | Collection, ...] = getattr(settings, section)
        for index, plan in enumerate(tables):
            if plan.name in plans:
                yield (section, index, "name"), "expected a name that no other poll or collection has"
            plans.add(plan.name)
            if len(plan.meters) != 1 and {"own", "known"} & set(plan.meters):
                yield (section, index, "meters"), 'expected "own" or "known" alone, or addresses'
    for index, owed in enumerate(settings.collection):
        if 1440 % owed.period_min:
            yield ("collection", index, "period_min"), "expected a divisor of 1440"
    if settings.clock.from_s > settings.clock.to_s:
        yield ("clock", "from_s"), "expected at most to_s"
    if protocol.suspect_after_heartbeats >= protocol.offline_after_heartbeats:
        yield ("protocol", "suspect_after_heartbeats"), "expected less than offline_after_heartbeats"
    if protocol.max_apdu_octets < protocol.max_frame_octets:
        yield ("protocol", "max_apdu_octets"), "expected at least max_frame_octets"
    if mqtt.reconnect_min_s > mqtt.reconnect_max_s:
        yield ("mqtt", "reconnect_min_s"), "expected at most reconnect_max_s"
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(mqtt, key) and not getattr(mqtt, other):
            yield ("mqtt", key), f"expected together with {other}"
    if not mqtt.url.startswith("mqtts:"):
        for key in ("tls_ca", "tls_cert", "tls_key"):
            if getattr(mqtt, key):
                yield ("mqtt", key), 'expected "" unless mqtt.url begins with mqtts://'
    if journal.queue_bytes > journal.max_bytes:
        yield ("journal", "queue_bytes"), "expected at most max_bytes"
