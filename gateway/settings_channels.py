"""Settings of channels 通道: the ways by which terminals reach the gateway, a table for each kind."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from gateway.settings_checks import ADDRESSES, BOOL, HEX, LISTEN, NAME, NAME_PATTERN, ZONE, split_listen

CHANNEL_SECTIONS: Final = ("channels", "tcp_clients", "udp", "serial", "radio")


def place_of(value: str) -> tuple[str, str, int]:
    """`112233445566=10.0.0.7:4000` as address, host and port; raises `ValueError`."""
    terminal, equals, listen = value.partition("=")
    if not equals or re.fullmatch(r"[0-9A-F]{1,32}", terminal) is None:
        raise ValueError("not ADDRESS=HOST:PORT")
    host, port = split_listen(listen)
    return terminal, host, port


def _check_place(value: str) -> None:
    place_of(value)


_PLACES = {"expected": 'an array of "ADDRESS=HOST:PORT"', "check": _check_place}
_SERIAL = {"expected": "a device, socket://HOST:PORT or rfc2217://HOST:PORT"}


_Name: TypeAlias = Annotated[
    str, Meta(description="Name in messages, metrics and logs.", pattern=NAME_PATTERN, extra=NAME)
]
_Unsettled: TypeAlias = Annotated[
    int, Meta(description="Messages of one link that wait for the journal before reading stops.", ge=1, le=65_536)
]
_Zone: TypeAlias = Annotated[str, Meta(description="Time zone of the terminals' clocks.", extra=ZONE)]
_ClientAddress: TypeAlias = Annotated[
    int, Meta(description="Client address (客户机地址, CA) in the frames that we send.", ge=0, le=255, extra=HEX)
]


class Channel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way (通道) by which terminals reach the gateway. Repeat the table for more of them."""

    name: _Name = "tcp"
    kind: Annotated[Literal["tcp_server"], Meta(description="tcp_server: terminals connect to us.")] = "tcp_server"
    listen: Annotated[str, Meta(description="Where terminals connect to.", extra=LISTEN)] = "0.0.0.0:4000"
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
    max_unsettled: _Unsettled = 64
    time_zone: _Zone = "Asia/Shanghai"
    client_address: _ClientAddress = 0x10


class TcpClientChannel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terminals that listen (服务器模式): we dial, and keep one connection to each. Repeat the table for more."""

    name: _Name = "dial"
    places: Annotated[tuple[str, ...], Meta(description="Which terminal listens where.", extra=_PLACES)] = ()
    others: Annotated[bool, Meta(description="Serve other addresses on these connections too.", extra=BOOL)] = False
    max_connections: Annotated[int, Meta(description="Connections at most; others wait.", ge=1, le=1_000_000)] = 20_000
    max_dialling: Annotated[int, Meta(description="Connections being made at once.", ge=1, le=10_000)] = 64
    connect_timeout_s: Annotated[float, Meta(description="Time for one to be made.", ge=0.1, le=300)] = 10.0
    reconnect_min_s: Annotated[float, Meta(description="First wait after an end.", ge=0.1, le=3_600)] = 1.0
    reconnect_max_s: Annotated[float, Meta(description="Longest wait.", ge=0.1, le=86_400)] = 300.0
    write_buffer_bytes: Annotated[
        int, Meta(description="Octets waiting for one slow peer, above which it is closed.", ge=16_384, le=1 << 30)
    ] = 262_144
    max_unsettled: _Unsettled = 64
    time_zone: _Zone = "Asia/Shanghai"
    client_address: _ClientAddress = 0x10


class UdpChannel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One UDP socket for many terminals. Repeat the table for more."""

    name: _Name = "udp"
    listen: Annotated[str, Meta(description="Where terminals send to.", extra=LISTEN)] = "0.0.0.0:4000"
    max_links: Annotated[int, Meta(description="Terminals at most; offline ones give way.", ge=1, le=1_000_000)] = (
        20_000
    )
    new_rate_per_s: Annotated[float, Meta(description="New terminals taken a second.", ge=0.1, le=1_000_000)] = 2_000.0
    new_burst: Annotated[int, Meta(description="At once after a quiet time.", ge=1, le=1_000_000)] = 4_000
    datagram_rate_per_s: Annotated[
        float, Meta(description="Datagrams a second; more are dropped.", ge=1, le=10_000_000)
    ] = 50_000.0
    datagram_burst: Annotated[int, Meta(description="At once after a quiet time.", ge=1, le=10_000_000)] = 100_000
    max_datagram: Annotated[
        int, Meta(description="Longest frame sent without fragments, octets.", ge=128, le=65_507)
    ] = 1_400
    receive_buffer_bytes: Annotated[int, Meta(description="Receive buffer of the kernel.", ge=65_536, le=1 << 30)] = (
        4 << 20
    )
    write_buffer_bytes: Annotated[int, Meta(description="Octets that may wait to be sent.", ge=65_536, le=1 << 30)] = (
        4 << 20
    )
    max_unsettled: _Unsettled = 64
    time_zone: _Zone = "Asia/Shanghai"
    client_address: _ClientAddress = 0x10


class SerialChannel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A serial line (RS-232, RS-485). Repeat the table for more."""

    name: _Name = "serial"
    url: Annotated[str, Meta(description="The line.", min_length=1, max_length=256, extra=_SERIAL)] = "/dev/ttyUSB0"
    bit_rate: Annotated[int, Meta(description="Bits a second.", ge=1_200, le=115_200)] = 9_600
    parity: Annotated[Literal["N", "E", "O"], Meta(description="Parity (校验).")] = "E"
    stop_bits: Annotated[Literal[1, 2], Meta(description="Stop bits.")] = 1
    open_timeout_s: Annotated[float, Meta(description="Time to open it.", ge=0.1, le=300)] = 10.0
    preamble: Annotated[int, Meta(description="FE octets (前导字节) before each frame.", ge=0, le=32)] = 4
    gap_octets: Annotated[int, Meta(description="Silence in a frame that ends it, octet times.", ge=2, le=10_000)] = 50
    gap_min_s: Annotated[float, Meta(description="At least so long; more over networks.", ge=0.01, le=30)] = 0.25
    shared: Annotated[bool, Meta(description="Half-duplex (半双工): one talks at a time.", extra=BOOL)] = False
    echo: Annotated[bool, Meta(description="Our own frames come back.", extra=BOOL)] = False
    terminals: Annotated[
        tuple[str, ...], Meta(description="Who is on the line, to be asked unprompted.", extra=ADDRESSES)
    ] = ()
    others: Annotated[bool, Meta(description="Serve those that are not named, too.", extra=BOOL)] = True
    reconnect_min_s: Annotated[float, Meta(description="First wait after an end.", ge=0.1, le=3_600)] = 0.5
    reconnect_max_s: Annotated[float, Meta(description="Longest wait.", ge=0.1, le=3_600)] = 30.0
    write_buffer_bytes: Annotated[int, Meta(description="Octets that may wait.", ge=1_024, le=1 << 24)] = 65_536
    max_unsettled: _Unsettled = 64
    time_zone: _Zone = "Asia/Shanghai"
    client_address: _ClientAddress = 0x10


class RadioChannel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """230 MHz data radio (数传电台) behind a serial port or a serial server: shared, half-duplex. Repeat the table."""

    name: _Name = "radio"
    url: Annotated[str, Meta(description="The line to it.", min_length=1, max_length=256, extra=_SERIAL)] = "/dev/ttyS0"
    bit_rate: Annotated[int, Meta(description="Bits a second, of the port and on the air.", ge=1_200, le=19_200)] = (
        9_600
    )
    parity: Annotated[Literal["N", "E", "O"], Meta(description="Parity (校验).")] = "E"
    stop_bits: Annotated[Literal[1, 2], Meta(description="Stop bits.")] = 1
    open_timeout_s: Annotated[float, Meta(description="Time to open it.", ge=0.1, le=300)] = 10.0
    keying: Annotated[
        Literal["auto", "rts"], Meta(description="What raises the carrier: the radio itself, or the RTS line.")
    ] = "auto"
    preamble: Annotated[int, Meta(description="FE octets (前导字节) before each frame.", ge=0, le=32)] = 4
    key_up_s: Annotated[float, Meta(description="From the carrier to the first octet (发射建立时间).", ge=0, le=5)] = (
        0.05
    )
    key_down_s: Annotated[float, Meta(description="Carrier behind the last octet.", ge=0, le=5)] = 0.0
    turnaround_s: Annotated[float, Meta(description="Guard behind an answer, before we talk.", ge=0, le=5)] = 0.02
    drain_s: Annotated[
        float, Meta(description="Guard after an answer that did not come, for one that comes late.", ge=0, le=10)
    ] = 0.2
    answer_min_s: Annotated[float, Meta(description="Shortest wait for an answer.", ge=0.01, le=60)] = 0.1
    answer_max_s: Annotated[float, Meta(description="Longest wait for an answer.", ge=0.01, le=60)] = 1.0
    max_frame: Annotated[int, Meta(description="Longest frame, octets.", ge=64, le=16_385)] = 1_024
    retries: Annotated[int, Meta(description="Repetitions of a request that does not say.", ge=0, le=10)] = 1
    max_waiting: Annotated[int, Meta(description="Requests that wait, of one priority.", ge=1, le=1_000_000)] = 4_096
    skip_most: Annotated[
        int, Meta(description="Rounds that a silent terminal is left out, at most.", ge=0, le=10_000)
    ] = 31
    terminals: Annotated[tuple[str, ...], Meta(description="Who is on the air.", extra=ADDRESSES)] = ()
    others: Annotated[bool, Meta(description="Serve those that are not named, too.", extra=BOOL)] = True
    reconnect_min_s: Annotated[float, Meta(description="First wait after the port's end.", ge=0.1, le=3_600)] = 0.5
    reconnect_max_s: Annotated[float, Meta(description="Longest wait.", ge=0.1, le=3_600)] = 30.0
    max_unsettled: _Unsettled = 64
    time_zone: _Zone = "Asia/Shanghai"
    client_address: _ClientAddress = 0x10
