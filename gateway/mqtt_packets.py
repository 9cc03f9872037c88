"""The few MQTT control packets that a publisher needs, as octets: MQTT 3.1.1 and 5.

Sources: OASIS MQTT 3.1.1 and MQTT 5.0; section numbers below are of MQTT 5.0. No I/O here. Everything that
comes from the broker is capped and checked; `PacketError` says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CONNACK",
    "DISCONNECT",
    "PINGREQ",
    "PINGRESP",
    "PUBACK",
    "Connack",
    "PacketError",
    "PacketReader",
    "Will",
    "content_type_property",
    "encode_connect",
    "encode_disconnect",
    "encode_publish",
    "parse_connack",
    "parse_disconnect",
    "parse_puback",
]

CONNACK, PUBACK, PINGRESP, DISCONNECT = 0x20, 0x40, 0xD0, 0xE0
PINGREQ = b"\xc0\x00"
MAX_INCOMING = 65_536  # octets; no packet that a publisher gets is near this

_UNSUPPORTED_VERSION = 0x84
_U8 = frozenset({0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A})
_U16 = frozenset({0x13, 0x21, 0x22, 0x23})
_U32 = frozenset({0x02, 0x11, 0x18, 0x27})
_TEXT = frozenset({0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F})
_BINARY = frozenset({0x09, 0x16})
_SUBSCRIPTION_ID, _USER_PROPERTY = 0x0B, 0x26
_SERVER_KEEPALIVE, _RECEIVE_MAXIMUM, _MAXIMUM_QOS, _RETAIN_AVAILABLE = 0x13, 0x21, 0x24, 0x25
_MAXIMUM_PACKET_SIZE, _REASON_STRING, _CONTENT_TYPE = 0x27, 0x1F, 0x03


class PacketError(Exception):
    """The broker sent octets that are not MQTT, or not what may come here."""


@dataclass(frozen=True, slots=True)
class Will:
    """Last will (遗嘱): what the broker publishes, QoS 1, when the connection dies."""

    topic: str
    payload: bytes
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker's answer to CONNECT (3.2). `reason` 0 is success; limits are 0 or None where there is none.

    `max_packet`: octets of a whole packet; `keepalive_s`: seconds that the broker wants instead of ours.
    """

    reason: int
    receive_maximum: int = 65_535
    max_packet: int = 0
    max_qos: int = 2
    retain_available: bool = True
    keepalive_s: int | None = None
    text: str = ""

    @property
    def unsupported_version(self) -> bool:
        """Whether the broker does not speak the protocol version that we asked for."""
        return self.reason == _UNSUPPORTED_VERSION


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    octets = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        octets.append(low | 0x80 if number else low)
        if not number:
            return bytes(octets)


def _field(value: str | bytes) -> bytes:
    octets = value.encode() if isinstance(value, str) else value
    if len(octets) > 65_535:
        raise ValueError(f"MQTT field of {len(octets)} octets, at most 65535")
    return len(octets).to_bytes(2, "big") + octets


def encode_connect(
    client_id: str,
    *,
    version: int,
    keepalive_s: int,
    username: str | None,
    password: str | None,
    will: Will | None,
) -> bytes:
    """CONNECT with clean start (3.1). `version` is 4 (MQTT 3.1.1) or 5."""
    flags = 0x02
    payload = _field(client_id)
    if will is not None:
        flags |= 0x04 | 0x08 | (0x20 if will.retain else 0)
        payload += (b"\0" if version == 5 else b"") + _field(will.topic) + _field(will.payload)
    if username is not None:
        flags |= 0x80
        payload += _field(username)
    if password is not None:
        flags |= 0x40
        payload += _field(password)
    properties = b""
    if version == 5:
        properties = bytes((5, _MAXIMUM_PACKET_SIZE)) + MAX_INCOMING.to_bytes(4, "big")
    body = _field("MQTT") + bytes((version, flags)) + keepalive_s.to_bytes(2, "big") + properties + payload
    return b"\x10" + _varint(len(body)) + body


def encode_publish(topic: str, payload: bytes, packet_id: int, retain: bool, properties: bytes) -> bytes:
    """PUBLISH of QoS 1 (3.3). `properties`: with their length in front for MQTT 5, empty for 3.1.1."""
    name = topic.encode()
    length = 4 + len(name) + len(properties) + len(payload)
    return b"".join(
        (
            b"\x33" if retain else b"\x32",
            _varint(length),
            len(name).to_bytes(2, "big"),
            name,
            packet_id.to_bytes(2, "big"),
            properties,
            payload,
        )
    )


def encode_publish_at_most_once(topic: str, payload: bytes, properties: bytes) -> bytes:
    """PUBLISH of QoS 0, not retained: no packet identifier, no answer."""
    name = topic.encode()
    length = 2 + len(name) + len(properties) + len(payload)
    return b"".join((b"\x30", _varint(length), len(name).to_bytes(2, "big"), name, properties, payload))


def encode_disconnect(version: int) -> bytes:
    """DISCONNECT, normal: the broker drops the will (3.14)."""
    return b"\xe0\x02\x00\x00" if version == 5 else b"\xe0\x00"


def content_type_property(content_type: str) -> bytes:
    """The property block of a PUBLISH that says what its payload is (3.3.2.3.9); empty text: no property."""
    if not content_type:
        return b"\0"
    block = bytes((_CONTENT_TYPE,)) + _field(content_type)
    return _varint(len(block)) + block


class PacketReader:
    """Cuts the broker's stream into packets. One for each connection."""

    def __init__(self, max_packet: int = MAX_INCOMING) -> None:
        self._rest = b""
        self._max_packet = max_packet

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (first octet, body) for every whole packet; raises `PacketError` for an impossible length."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        start, end = 0, len(data)
        while start + 2 <= end:
            length = data[start + 1]
            body = start + 2
            if length & 0x80:
                length, body = self._long_length(data, start)
                if body == 0:
                    break
            if body + length > end:
                break
            yield data[start], data[body : body + length]
            start = body + length
        self._rest = data[start:]

    def _long_length(self, data: bytes, start: int) -> tuple[int, int]:
        length = 0
        for index in range(4):
            at = start + 1 + index
            if at >= len(data):
                return 0, 0
            length |= (data[at] & 0x7F) << (7 * index)
            if not data[at] & 0x80:
                if length > self._max_packet:
                    raise PacketError(f"packet of {length} octets, at most {self._max_packet} are taken")
                return length, at + 1
        raise PacketError("remaining length of more than four octets")


def parse_puback(body: bytes) -> tuple[int, int]:
    """(packet id, reason code) of a PUBACK (3.4); the reason is 0 where the packet leaves it out."""
    if len(body) < 2:
        raise PacketError(f"PUBACK with a body of {len(body)} octets")
    packet_id = body[0] << 8 | body[1]
    if packet_id == 0:
        raise PacketError("PUBACK with packet id 0")
    return packet_id, body[2] if len(body) > 2 else 0


def parse_disconnect(body: bytes) -> tuple[int, str]:
    """(reason code, reason text) of a DISCONNECT from the broker, MQTT 5 (3.14)."""
    if not body:
        return 0, ""
    return body[0], str(_properties(body, 1).get(_REASON_STRING, "")) if len(body) > 1 else ""


def parse_connack(body: bytes, version: int) -> Connack:
    """CONNACK (3.2). An old broker answers a MQTT 5 CONNECT in the form of 3.1.1; that is understood too."""
    if len(body) < 2:
        raise PacketError(f"CONNACK with a body of {len(body)} octets")
    if body[0]:
        raise PacketError(f"CONNACK flags {body[0]:#04x} after a clean start")
    if len(body) == 2:
        reason = body[1]
        if reason == 1:
            return Connack(_UNSUPPORTED_VERSION, text="unacceptable protocol version")
        if version == 5 and reason == 0:
            raise PacketError("CONNACK without properties on MQTT 5")
        return Connack(reason, text=_V4_REASONS.get(reason, ""))
    if version != 5:
        raise PacketError(f"CONNACK with a body of {len(body)} octets on MQTT 3.1.1")
    found = _properties(body, 2)
    keepalive = found.get(_SERVER_KEEPALIVE)
    receive_maximum = _number(found, _RECEIVE_MAXIMUM, 65_535)
    max_packet = _number(found, _MAXIMUM_PACKET_SIZE, 0)
    if receive_maximum == 0 or (_MAXIMUM_PACKET_SIZE in found and max_packet == 0):
        raise PacketError("CONNACK with a receive maximum or a maximum packet size of 0")
    return Connack(
        body[1],
        receive_maximum=receive_maximum,
        max_packet=max_packet,
        max_qos=_number(found, _MAXIMUM_QOS, 2),
        retain_available=bool(_number(found, _RETAIN_AVAILABLE, 1)),
        keepalive_s=int(keepalive) if keepalive is not None else None,
        text=str(found.get(_REASON_STRING, "")),
    )


_V4_REASONS = {
    2: "identifier rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}


def _number(found: dict[int, int | str], name: int, default: int) -> int:
    return int(found.get(name, default))


def _properties(body: bytes, at: int) -> dict[int, int | str]:
    """The property block at `at`, which must end the body (2.2.2). Only numbers and texts are kept."""
    length, at = _read_varint(body, at)
    end = at + length
    if end != len(body):
        raise PacketError(f"properties of {length} octets where {len(body) - at} are left")
    found: dict[int, int | str] = {}
    while at < end:
        name = body[at]
        at += 1
        if name in _U8:
            found[name], at = _read_number(body, at, 1)
        elif name in _U16:
            found[name], at = _read_number(body, at, 2)
        elif name in _U32:
            found[name], at = _read_number(body, at, 4)
        elif name in _TEXT:
            octets, at = _read_field(body, at)
            found[name] = octets.decode("utf-8", "replace")
        elif name in _BINARY:
            _, at = _read_field(body, at)
        elif name == _USER_PROPERTY:
            _, at = _read_field(body, at)
            _, at = _read_field(body, at)
        elif name == _SUBSCRIPTION_ID:
            _, at = _read_varint(body, at)
        else:
            raise PacketError(f"unknown property {name:#04x}")
    return found


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(4):
        if at + index >= len(body):
            raise PacketError("packet ends inside a length")
        octet = body[at + index]
        value |= (octet & 0x7F) << (7 * index)
        if not octet & 0x80:
            return value, at + index + 1
    raise PacketError("length of more than four octets")


def _read_number(body: bytes, at: int, size: int) -> tuple[int, int]:
    if at + size > len(body):
        raise PacketError("packet ends inside a property")
    return int.from_bytes(body[at : at + size], "big"), at + size


def _read_field(body: bytes, at: int) -> tuple[bytes, int]:
    length, at = _read_number(body, at, 2)
    if at + length > len(body):
        raise PacketError("packet ends inside a field")
    return body[at : at + length], at + length
