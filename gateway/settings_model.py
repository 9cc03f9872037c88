"""The gateway's settings: the definitions, which document themselves.

A field is declared once: type, limits, default, its line of documentation, and where the limits cannot say it
a check with the words for what is expected. `gateway.settings` reads and writes files by them. Names carry
units: `_s` seconds, `_ms` milliseconds, `_bytes` and `_octets` octets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

__all__ = [
    "Channel",
    "ClockKeeping",
    "Commands",
    "Group",
    "Http",
    "Interlocks",
    "JournalFile",
    "Log",
    "Mqtt",
    "Node",
    "Protocol",
    "Quirk",
    "Settings",
    "Terminals",
    "cross_check",
    "pattern_filter",
    "split_listen",
    "time_zone",
]

_OFFSET: Final = re.compile(r"([+-])(\d\d):([0-5]\d)\Z")
_PATTERN: Final = re.compile(r"(?:[0-9A-F]{1,32}\*?|\*)\Z")


# -- what a value must be, where limits cannot say it ---------------------------------------------------------


def split_listen(listen: str) -> tuple[str, int]:
    """`"0.0.0.0:4000"` or `"[::1]:4000"` as host and port (0: any free one); raises `ValueError`."""
    match = re.match(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([A-Za-z0-9._-]+)):(\d{1,5})\Z", listen)
    if match is None or int(match[3]) > 65_535:
        raise ValueError("not HOST:PORT")
    return match[1] or match[2], int(match[3])


def time_zone(name: str) -> tzinfo:
    """`Asia/Shanghai` or `+08:00` as a time zone; raises `ValueError`.

    China has had no summer time since 1991, so its zone is known even where no tz database is installed.
    """
    if match := _OFFSET.match(name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset > timedelta(hours=14):
            raise ValueError("an offset is at most 14 hours")
        return timezone(-offset if match[1] == "-" else offset) if offset else UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # KeyError: ZoneInfoNotFoundError; OSError: the name is a directory
        if name == "Asia/Shanghai":
            return timezone(timedelta(hours=8), name)
        raise ValueError("not a known time zone") from None


def pattern_filter(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a terminal address is one of `patterns`: addresses, or prefixes with a star (`1122*`)."""
    exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return lambda terminal: terminal in exact or terminal.startswith(prefixes)


def _check_listen(value: str) -> None:
    split_listen(value)


def _check_listen_or_off(value: str) -> None:
    if value:
        split_listen(value)


def _check_time_zone(value: str) -> None:
    time_zone(value)


def _check_pattern(value: str) -> None:
    if _PATTERN.match(value) is None:
        raise ValueError("not an address or a prefix with a star")


def _check_url(value: str) -> None:
    if re.search(r"\s", value):
        raise ValueError("white space")
    parts = urlsplit(value)
    _ = parts.port  # raises ValueError when it is none
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise ValueError("not mqtt://HOST or mqtts://HOST")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("nothing may follow the port")


def _check_prefix(value: str) -> None:
    if not all(value.split("/")) or re.search(r"[+#$\x00-\x1f\x7f]", value):
        raise ValueError("not levels of a topic")


def _check_plain(value: str) -> None:
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise ValueError("control characters")


_LISTEN = {"expected": '"HOST:PORT", such as "0.0.0.0:4000" or "[::]:4000"', "check": _check_listen}
_LISTEN_OR_OFF = {"expected": '"HOST:PORT", or "" for off', "check": _check_listen_or_off}
_ZONE = {"expected": 'a time zone, such as "Asia/Shanghai" or "+08:00"', "check": _check_time_zone}
_ADDRESSES = {
    "expected": 'an array of addresses or prefixes, such as "112233445566" or "1122*"',
    "check": _check_pattern,
}
_URL = {"expected": '"mqtt://[USER:PASSWORD@]HOST[:PORT]", or mqtts:// for TLS', "check": _check_url}
_TOPIC = {
    "expected": 'levels of a topic such as "loadgate/v1", without + # $, 1 to 256 characters',
    "check": _check_prefix,
}
_NAME = {"expected": "1 to 64 letters, digits, . _ -, the first a letter or digit"}
_PATH = {"expected": "a path, without control characters", "check": _check_plain}
_CLIENT_ID = {"expected": "a text of at most 64 characters", "check": _check_plain}
_BOOL = {"expected": "true or false"}
_HEX = {"expected": "a whole number, 0x00 to 0xFF", "hex": True}
_NAME_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"


# -- the definitions ------------------------------------------------------------------------------------------


class Node(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This gateway (前置机) as other systems see it."""

    id: Annotated[
        str, Meta(description="Name of this node: part of topics and messages.", pattern=_NAME_PATTERN, extra=_NAME)
    ] = "gate-1"
    data_dir: Annotated[
        str, Meta(description="Directory of the journal; one for each node.", min_length=1, extra=_PATH)
    ] = "data"


class Channel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way (通道) by which terminals reach the gateway. Repeat the table for more of them."""

    name: Annotated[
        str, Meta(description="Name in messages, metrics and logs.", pattern=_NAME_PATTERN, extra=_NAME)
    ] = "tcp"
    kind: Annotated[Literal["tcp_server"], Meta(description="tcp_server: terminals connect to us.")] = "tcp_server"
    listen: Annotated[str, Meta(description="Where terminals connect to.", extra=_LISTEN)] = "0.0.0.0:4000"
    max_connections: Annotated[
        int, Meta(description="Connections at most; more are closed at once.", ge=1, le=1_000_000)
    ] = 20_000
    backlog: Annotated[int, Meta(description="Connections that the kernel may keep waiting.", ge=1, le=65_535)] = 4_096
    login_rate_per_s: Annotated[
        float,
        Meta(description="New connections taken a second: a storm after an outage is spread.", ge=0.1, le=1_000_000),
    ] = 2_000.0
    login_burst: Annotated[
        int, Meta(description="New connections taken at once after a quiet time.", ge=1, le=1_000_000)
    ] = 4_000
    login_timeout_s: Annotated[
        float, Meta(description="A connection that has not said who it is by then is closed.", ge=0.1, le=3_600)
    ] = 30.0
    write_buffer_bytes: Annotated[
        int, Meta(description="Octets waiting for one slow peer, above which it is closed.", ge=16_384, le=1 << 30)
    ] = 262_144
    max_unsettled: Annotated[
        int, Meta(description="Messages of one link that wait for the journal before reading stops.", ge=1, le=65_536)
    ] = 64
    time_zone: Annotated[str, Meta(description="Time zone of the terminals' clocks.", extra=_ZONE)] = "Asia/Shanghai"
    client_address: Annotated[
        int, Meta(description="Client address (客户机地址, CA) in the frames that we send.", ge=0, le=255, extra=_HEX)
    ] = 0x10


class Terminals(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which terminals (终端) are served."""

    allow: Annotated[
        tuple[str, ...],
        Meta(description="Who may log in; empty: all. Others get result 2 (illegal device).", extra=_ADDRESSES),
    ] = ()
    without_login: Annotated[
        Literal["identify", "refuse"],
        Meta(description="A peer that reports without a login: its frames identify it, or it is closed."),
    ] = "identify"
    raw: Annotated[
        tuple[str, ...], Meta(description="Terminals whose raw frames (原始报文) are published.", extra=_ADDRESSES)
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


class Commands(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands (命令) from MQTT to terminals."""

    max_per_terminal: Annotated[
        int, Meta(description="Commands of one terminal that are not at their end; more are `busy`.", ge=1, le=10_000)
    ] = 64
    max_open: Annotated[
        int, Meta(description="Commands of all terminals that are not at their end.", ge=1, le=10_000_000)
    ] = 100_000
    query_attempts: Annotated[
        int, Meta(description="Connections on which a query may be tried before it is `timed_out`.", ge=1, le=100)
    ] = 3
    keep_s: Annotated[
        float, Meta(description="Ended commands and their statuses are kept so long.", ge=3_600, le=3660 * 86_400)
    ] = 7_776_000.0


class Interlocks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What keeps a control (控制) from doing harm. A command that meets one is `rejected` with its name."""

    guarantee: Annotated[
        bool, Meta(description="No trip while power guarantee (保电) is in force; it is read before each.", extra=_BOOL)
    ] = True
    approvals: Annotated[int, Meta(description="Distinct names that must approve a trip.", ge=0, le=32)] = 1
    trips_per_minute: Annotated[
        int, Meta(description="Terminals tripped within one minute, at most.", ge=0, le=1_000_000)
    ] = 60
    trips_in_force: Annotated[
        int, Meta(description="Terminals tripped and not closed again, at most.", ge=0, le=10_000_000)
    ] = 1_000


class ClockKeeping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Clocks (时钟) of terminals that run off are set right."""

    enabled: Annotated[bool, Meta(description="Whether to do it.", extra=_BOOL)] = True
    from_s: Annotated[float, Meta(description="Smallest offset that is corrected.", ge=1, le=86_400)] = 60.0
    to_s: Annotated[
        float, Meta(description="Largest; beyond it an alarm is raised and nothing is set.", ge=1, le=86_400)
    ] = 900.0
    quiet_s: Annotated[
        float, Meta(description="No clock is set so close to a full hour, midnight included.", ge=0, le=1_500)
    ] = 300.0
    times_a_month: Annotated[
        int, Meta(description="Settings in a month after which the next also raises `clock_fault`.", ge=0, le=1_000)
    ] = 1


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named group (群组) of terminals for group commands. Repeat the table for more of them."""

    name: Annotated[str, Meta(description="Name, a level of topics.", pattern=_NAME_PATTERN, extra=_NAME)] = "group-1"
    terminals: Annotated[tuple[str, ...], Meta(description="Addresses of the members.", extra=_ADDRESSES)] = ()


class Quirk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What terminals of one make do otherwise than the text. Repeat the table; the first that matches counts."""

    terminals: Annotated[
        tuple[str, ...], Meta(description="Which terminals: addresses or prefixes.", extra=_ADDRESSES)
    ] = ()
    round_bits_lsb_first: Annotated[
        bool, Meta(description="Round bitmaps (轮次) count from the least significant bit.", extra=_BOOL)
    ] = False
    control_bits_lsb_first: Annotated[
        bool, Meta(description="So do the bitmaps of periods, schemes and control types.", extra=_BOOL)
    ] = False
    alarm_hours_lsb_first: Annotated[
        bool, Meta(description="So do the hours of the arrears alarm (催费告警).", extra=_BOOL)
    ] = False
    relay_by_index: Annotated[
        bool, Meta(description="A relay is named by the element index of F205 02 nn, else by its place.", extra=_BOOL)
    ] = True
    relays: Annotated[int, Meta(description="Relays that the terminal has.", ge=1, le=8)] = 4
    structured_parameters: Annotated[
        bool, Meta(description="Parameters of 8003, 8103/127, 8106/127 stand in a structure.", extra=_BOOL)
    ] = True
    trip_limit_unit_min: Annotated[
        int, Meta(description="Minutes in one unit of the limit time (限电时间) of a trip.", ge=1, le=60)
    ] = 1
    rest_day_bits: Annotated[
        str,
        Meta(
            description="Day (1 Monday to 7 Sunday, 0 none) of each rest-day bit of 8104, the first on the wire first.",
            pattern=r"\A[0-7]{8}\Z",
            extra={"expected": "eight digits 0 to 7"},
        ),
    ] = "01234567"
    purchase_type_member: Annotated[
        bool,
        Meta(description="A unit of 8107 has the purchase type; false: seven members.", extra=_BOOL),
    ] = True
    purchase_append_code: Annotated[int, Meta(description="Code of append (追加) in 8107.", ge=0, le=255)] = 0
    purchase_refresh_code: Annotated[int, Meta(description="Code of refresh (刷新) in 8107.", ge=0, le=255)] = 1
    period_switch_always: Annotated[
        bool, Meta(description="8103 needs method 127 before any period counts.", extra=_BOOL)
    ] = False
    relay_open_state: Annotated[
        int, Meta(description="State of F205 that means tripped, 0 or 1; -1: not known.", ge=-1, le=1)
    ] = -1


class Mqtt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker to which messages go and from which commands come."""

    url: Annotated[
        str,
        Meta(
            description="Broker; percent-encode user and password, and keep the file unreadable to others.", extra=_URL
        ),
    ] = "mqtt://127.0.0.1:1883"
    version: Annotated[Literal[5, 4], Meta(description="MQTT 5, or 4 for 3.1.1 (to which 5 falls back by itself).")] = 5
    prefix: Annotated[
        str, Meta(description="First levels of every topic.", min_length=1, max_length=256, extra=_TOPIC)
    ] = "loadgate/v1"
    format: Annotated[Literal["msgpack", "json"], Meta(description="How messages are encoded.")] = "msgpack"
    window: Annotated[
        int,
        Meta(description="Messages without PUBACK, at most; the broker's receive maximum counts too.", ge=1, le=65_535),
    ] = 4_096
    keepalive_s: Annotated[int, Meta(description="MQTT keep-alive.", ge=1, le=65_535)] = 30
    client_id: Annotated[
        str, Meta(description='Client identifier; "": loadgate-NODE.', max_length=64, extra=_CLIENT_ID)
    ] = ""
    tls_ca: Annotated[str, Meta(description='Authorities to trust (PEM); "": the system\'s.', extra=_PATH)] = ""
    tls_cert: Annotated[str, Meta(description='Our certificate (PEM); "": none.', extra=_PATH)] = ""
    tls_key: Annotated[str, Meta(description='Its private key (PEM); "": none.', extra=_PATH)] = ""
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
        str, Meta(description="File name within node.data_dir, or a path of its own.", min_length=1, extra=_PATH)
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

    listen: Annotated[str, Meta(description="Where; anything but loopback is warned about.", extra=_LISTEN_OR_OFF)] = (
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
    terminals: Terminals = Terminals()
    protocol: Protocol = Protocol()
    commands: Commands = Commands()
    interlocks: Interlocks = Interlocks()
    clock: ClockKeeping = ClockKeeping()
    groups: tuple[Group, ...] = ()
    quirks: tuple[Quirk, ...] = ()
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
    if not settings.channels:
        yield ("channels",), "at least one channel is needed"
    names: set[str] = set()
    listens: set[str] = set()
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
