"""Channels made from the settings: the one place where the kinds of channels are told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeAlias

from gateway.air import MediumOptions
from gateway.channels.channel import Channel
from gateway.channels.radio import RadioLine, RadioOptions
from gateway.channels.serial import PortSettings, SerialLine, SerialOptions
from gateway.channels.tcp_client import Place, TcpClient, TcpClientOptions
from gateway.channels.tcp_server import TcpServer, TcpServerOptions
from gateway.channels.udp import Udp, UdpOptions
from gateway.clock import Clock
from gateway.link import ChannelContext, Link
from gateway.outlet import Outlet
from gateway.sessions import Session, Sessions
from gateway.settings import Channel as TcpServerChannel
from gateway.settings import (
    RadioChannel,
    SerialChannel,
    Settings,
    TcpClientChannel,
    UdpChannel,
    pattern_filter,
    split_listen,
    time_zone,
)
from gateway.settings_channels import CHANNEL_SECTIONS, place_of
from protocols.dlt698_options import Options
from protocols.events import Answered, Late, Moment
from protocols.registry import PROTOCOLS

PROTOCOL: Final = "dlt698.45"
_ON_A_LINE: Final = 256
"""Terminals on one line that serves others than those it names."""
_FRAGMENT: Final = 900
"""Octets of APDU in one frame of ours, where the channel takes as much."""
_AROUND: Final = 40
"""Octets of a frame around its APDU: header, longest address, checksums, fragment field."""

AnyChannel: TypeAlias = TcpServerChannel | TcpClientChannel | UdpChannel | SerialChannel | RadioChannel


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all channels of a node work with."""

    settings: Settings
    sessions: Sessions
    outlet: Outlet
    clock: Clock
    rng: Random
    clock_trusted: Callable[[], bool]
    flush_soon: Callable[[Link], None]
    answered: Callable[[Session, Answered | Late, Moment], None]
    arrived: Callable[[Session], None]


def all_channels(settings: Settings) -> list[AnyChannel]:
    """The tables of all channels, in the order of their kinds."""
    return [channel for section in CHANNEL_SECTIONS for channel in getattr(settings, section)]


def terminals_at_most(settings: Settings) -> int:
    """How many terminals the channels may bring."""
    return 2 * sum(_terminals_of(channel) for channel in all_channels(settings))


def _terminals_of(channel: AnyChannel) -> int:
    match channel:
        case TcpServerChannel() | TcpClientChannel():
            return channel.max_connections
        case UdpChannel():
            return channel.max_links
        case _:
            return max(_ON_A_LINE, len(channel.terminals))


def make_channel(channel: AnyChannel, around: Surroundings) -> Channel:
    """One channel, ready to be started."""
    settings, clock, rng = around.settings, around.clock, around.rng
    match channel:
        case TcpServerChannel():
            host, port = split_listen(channel.listen)
            server = TcpServerOptions(
                host=host,
                port=port,
                half_frame_timeout_s=settings.protocol.fragment_timeout_s,
                **_same(channel, TcpServerOptions),
            )
            return TcpServer(_context(channel, around), server, clock)
        case TcpClientChannel():
            client = TcpClientOptions(
                places=tuple([Place(*place_of(place)) for place in channel.places]),
                half_frame_timeout_s=settings.protocol.fragment_timeout_s,
                **_same(channel, TcpClientOptions, "places"),
            )
            return TcpClient(_context(channel, around), client, clock, rng)
        case UdpChannel():
            host, port = split_listen(channel.listen)
            udp = UdpOptions(host=host, port=port, **_same(channel, UdpOptions))
            return Udp(_context(channel, around, channel.max_datagram), udp, clock)
        case SerialChannel(shared=False):
            line = SerialOptions(port=_port(channel), **_same(channel, SerialOptions, "port"))
            return SerialLine(_context(channel, around), line, clock, rng)
        case SerialChannel():
            medium = MediumOptions(
                bit_rate=channel.bit_rate,
                character_bits=_character_bits(channel),
                preamble=channel.preamble,
                key_up_s=0.0,
                gap_octets=channel.gap_octets,
                gap_s=channel.gap_min_s,
            )
            return _shared(channel, around, RadioOptions(_port(channel), medium, **_same(channel, RadioOptions)))
        case RadioChannel():
            medium = MediumOptions(character_bits=_character_bits(channel), **_same(channel, MediumOptions))
            return _shared(channel, around, RadioOptions(_port(channel), medium, **_same(channel, RadioOptions)))


def _shared(channel: SerialChannel | RadioChannel, around: Surroundings, options: RadioOptions) -> Channel:
    """A line on which one talks at a time: its terminals are asked through the medium."""
    made = RadioLine(_context(channel, around, options.medium.max_frame), options, around.clock, around.rng)
    made.context.air = made.air
    return made


def _same(channel: AnyChannel, options: type[Any], *but: str) -> dict[str, Any]:
    """The settings that the channel's own options have by the same name."""
    skipped = {"host", "port", "medium", "half_frame_timeout_s", *but}
    names = [name for name in options.__dataclass_fields__ if name not in skipped]
    return {name: getattr(channel, name) for name in names if hasattr(channel, name)}


def _port(channel: SerialChannel | RadioChannel) -> PortSettings:
    return PortSettings(channel.url, channel.bit_rate, channel.parity, channel.stop_bits, channel.open_timeout_s)


def _character_bits(channel: SerialChannel | RadioChannel) -> int:
    return 1 + 8 + (channel.parity != "N") + channel.stop_bits


def _context(channel: AnyChannel, around: Surroundings, frame: int | None = None) -> ChannelContext:
    """What the links of a channel share. `frame`: octets of the longest frame that should be sent there."""
    settings = around.settings
    protocol = PROTOCOLS[PROTOCOL]
    options = _options(channel, around, _FRAGMENT if frame is None else min(_FRAGMENT, frame - _AROUND))
    raw = settings.terminals.raw
    return ChannelContext(
        name=channel.name,
        protocol=protocol,
        dialogue=protocol.dialogue(options, time_zone(channel.time_zone), settings.protocol.layouts_cached),
        sessions=around.sessions,
        outlet=around.outlet,
        clock=around.clock,
        flush_soon=around.flush_soon,
        answered=around.answered,
        arrived=around.arrived,
        raw=pattern_filter(raw) if raw else lambda _: False,
        max_frame=settings.protocol.max_frame_octets,
        max_unsettled=channel.max_unsettled,
    )


def _options(channel: AnyChannel, around: Surroundings, fragment: int) -> Options:
    protocol, terminals = around.settings.protocol, around.settings.terminals
    return Options(
        heartbeat_default_s=protocol.heartbeat_default_s,
        suspect_after=protocol.suspect_after_heartbeats,
        offline_after=protocol.offline_after_heartbeats,
        clock_trusted=around.clock_trusted,
        request_timeout_s=protocol.request_timeout_s,
        request_retries=protocol.request_retries,
        report_repeat_window_s=protocol.report_repeat_window_s,
        max_apdu=protocol.max_apdu_octets,
        fragment_timeout_s=protocol.fragment_timeout_s,
        fragment_octets=fragment,
        connect=protocol.connect,
        client_address=channel.client_address,
        allow=pattern_filter(terminals.allow) if terminals.allow else lambda _: True,
        unregistered=terminals.without_login,
    )
