"""What is inside octets that callers send through: nothing that acts on a load may hide there.

The topics of queries, configuration and control are apart so that a broker can say who may do what; a control inside
`apdu`, `write` or `transparent` would walk past that, past approvals and past the interlocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wire698 import model
from wire698.access import (
    ActionRequestNormal,
    ActionRequestNormalList,
    ActionThenGetRequest,
    GetRequestMd5,
    GetRequestNormal,
    GetRequestNormalList,
    GetRequestRecord,
    GetRequestRecordList,
    SetRequestNormal,
    SetRequestNormalList,
    SetThenGetRequest,
)
from wire698.errors import WireError
from wire698.frame import FRAGMENT, Frame, parse_frame
from wire698.link import ConnectRequest, ReleaseRequest
from wire698.pieces import Apdu, ClientApdu
from wire698.proxy import (
    ProxyActionRequestList,
    ProxyActionThenGetRequestList,
    ProxyGetRequestList,
    ProxyGetRequestRecord,
    ProxySetRequestList,
    ProxySetThenGetRequestList,
    ProxyTransCommandRequest,
)
from wire698.security import SecurityRequest
from wire698.values import Oad, Omd

from .meter645 import telegram_at

READS: Final = (
    GetRequestNormal,
    GetRequestNormalList,
    GetRequestRecord,
    GetRequestRecordList,
    GetRequestMd5,
    ProxyGetRequestList,
    ProxyGetRequestRecord,
)
"""Services that only read; sending one twice is the same as once."""
SENDABLE: Final = (
    *READS,
    ConnectRequest,
    ReleaseRequest,
    SetRequestNormal,
    SetRequestNormalList,
    SetThenGetRequest,
    ActionRequestNormal,
    ActionRequestNormalList,
    ActionThenGetRequest,
    ProxySetRequestList,
    ProxySetThenGetRequestList,
    ProxyActionRequestList,
    ProxyActionThenGetRequestList,
    ProxyTransCommandRequest,
)
"""Services that a caller may send as they are: those that a terminal answers and the machine does not need itself."""
_METER_READS: Final = frozenset({0x01, 0x02, 0x03, 0x11, 0x12, 0x13})
"""Control codes of DL/T 645 that read: 11, 12, 13 (2007), 01, 02 and - only without an identity - 03 (1997)."""
_SECURITY_2007: Final = 0x03
_F209_TRANSPARENT: Final = Omd(0xF2097F00)


def is_control_object(oi: int) -> bool:
    """8000..8002 and 8100..81FF: remote control, guarantee, arrears alarm, the control objects and their parameters."""
    return oi >> 8 in (0x80, 0x81)


def controls(omd: Omd) -> bool:
    """Whether a method acts on the load: any of 80xx and 81xx but the messages 8003 and 8004."""
    return is_control_object(omd.oi) and omd.oi not in (0x8003, 0x8004)


def sets_control(oad: Oad) -> bool:
    """Whether writing an attribute would control: the control objects, and the states of 8000..8002."""
    if 0x8103 <= oad.oi <= 0x81FF:
        return True
    states = {0x8000: (0, 3, 4, 5), 0x8001: (0, 2), 0x8002: (0, 2)}
    return oad.attribute in states.get(oad.oi, ())


def hidden_control(apdu: Apdu) -> str | None:
    """What in an APDU of the master acts on a load, in words; None when nothing does."""
    for omd in methods_of(apdu):
        if controls(omd):
            return f"ACTION on {omd.oi:04X} method {omd.method}"
    for oad in written_by(apdu):
        if sets_control(oad):
            return f"SET of {oad.oi:04X} attribute {oad.attribute}"
    return None


def methods_of(apdu: Apdu) -> Iterator[Omd]:
    match apdu:
        case ActionRequestNormal():
            yield apdu.omd
        case ActionRequestNormalList() | ActionThenGetRequest():
            yield from (item.omd for item in apdu.actions)
        case ProxyActionRequestList() | ProxyActionThenGetRequestList():
            yield from (item.omd for target in apdu.targets for item in target.items)


def written_by(apdu: Apdu) -> Iterator[Oad]:
    match apdu:
        case SetRequestNormal():
            yield apdu.oad
        case SetRequestNormalList() | SetThenGetRequest():
            yield from (item.oad for item in apdu.sets)
        case ProxySetRequestList() | ProxySetThenGetRequestList():
            yield from (item.oad for target in apdu.targets for item in target.items)


def carried(apdu: Apdu) -> bytes | None:
    """The octets that an APDU carries on to a meter: PROXY 7, or ACTION F209 method 127."""
    if isinstance(apdu, ProxyTransCommandRequest):
        return apdu.command
    if any(omd >> 8 == _F209_TRANSPARENT >> 8 for omd in methods_of(apdu)):
        return model.build(apdu)
    return None


def more_than_reading(octets: bytes) -> str | None:
    """What the octets for a meter do besides reading, in words; None when nothing is found.

    Every place where a DL/T 645 or a DL/T 698.45 frame with good checksums starts is looked at, so that a preamble or a
    frame around it does not hide one.
    """
    for at in range(len(octets) - 10):
        if telegram_at(octets, at) is not None:
            code, length = octets[at + 8], octets[at + 9]
            if code not in _METER_READS or (code == _SECURITY_2007 and length >= 4):
                return f"DL/T 645 control code {code:02X}H"
    for frame in _frames(octets):
        if frame.control & FRAGMENT:
            return "a fragment of a DL/T 698.45 frame, which cannot be looked into"
        found = _apdu_beyond_reading(frame.data)
        if found is not None:
            return found
    return None


def is_reading(octets: bytes) -> bool:
    """Whether the octets are known to be nothing but reading."""
    at = len(octets) - len(octets.lstrip(b"\xfe"))
    known = telegram_at(octets, at) is not None or _frame_at(octets, at) is not None
    return known and more_than_reading(octets) is None


def _frames(octets: bytes) -> Iterator[Frame]:
    for at, octet in enumerate(octets):
        frame = _frame_at(octets, at) if octet == 0x68 else None
        if frame is not None:
            yield frame


def _frame_at(octets: bytes, at: int) -> Frame | None:
    """The good DL/T 698.45 frame that starts here."""
    end = at + int.from_bytes(octets[at + 1 : at + 3], "little") + 2
    try:
        return parse_frame(octets[at:end]) if end <= len(octets) else None
    except WireError:
        return None


def _apdu_beyond_reading(octets: bytes, depth: int = 0) -> str | None:
    try:
        apdu = model.parse(octets).apdu
    except WireError:
        return "a DL/T 698.45 frame with an APDU that is not understood"
    if isinstance(apdu, SecurityRequest):
        inner = model.inner_of(apdu)
        if inner is None or depth > 2:
            return "a SECURITY-Request in cipher, which cannot be looked into"
        return _apdu_beyond_reading(inner, depth + 1)
    if isinstance(apdu, READS):
        return None
    return f"DL/T 698.45 {apdu.SERVICE}"


def sendable(apdu: Apdu) -> bool:
    """Whether `apdu` is one that callers may send as it is."""
    return isinstance(apdu, ClientApdu) and isinstance(apdu, SENDABLE)
