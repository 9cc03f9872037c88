"""SECURITY envelopes 安全传输 (wire.md b.12). What is inside plaintext is a complete APDU; ciphers are not ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .data import MAC, OCTET_STRING, RN, SID, SID_MAC
from .notation import Choice, Optional, Tupled, on_wire, record
from .pieces import DAR, Apdu, service
from .values import Dar, Sid, SidMac

PLAIN, CIPHER, REFUSED = 0, 1, 2


@dataclass(slots=True)
class Unit:
    """Application data unit: mode 0 plaintext APDU octets, 1 ciphertext, 2 (in a response) a DAR."""

    mode: int
    content: bytes | Dar


def _encode_unit(unit: Unit) -> tuple[int, Any]:
    return unit.mode, unit.content


REQUEST_UNIT = Choice("SECURITY-Request unit", {0: OCTET_STRING, 1: OCTET_STRING}, Unit, _encode_unit)
RESPONSE_UNIT = Choice("SECURITY-Response unit", {0: OCTET_STRING, 1: OCTET_STRING, 2: DAR}, Unit, _encode_unit)


@dataclass(slots=True)
class Check:
    """数据验证信息: kind 0 SID_MAC, 1 RN, 2 (RN, MAC), 3 SID."""

    kind: int
    value: SidMac | bytes | tuple[bytes, bytes] | Sid


def _pair(rn: bytes, mac: bytes) -> tuple[bytes, bytes]:
    return rn, mac


CHECK = Choice(
    "SECURITY-Request check",
    {0: SID_MAC, 1: RN, 2: Tupled(_pair, ("rn", RN), ("mac", MAC)), 3: SID},
    Check,
    lambda check: (check.kind, check.value),
)

ANSWER_CHECK = Choice("SECURITY-Response check", {0: MAC}, lambda _, mac: mac, lambda mac: (0, mac))


@service("10", "SECURITY-Request", "安全请求")
@record
class SecurityRequest(Apdu):
    """Also sent by terminals around their protected reports."""

    unit: Unit = on_wire(REQUEST_UNIT, "应用数据单元")
    check: Check = on_wire(CHECK, "数据验证信息")


@service("90", "SECURITY-Response", "安全响应")
@record
class SecurityResponse(Apdu):
    """mac: over the answer (and the request's RN), when there is one."""

    unit: Unit = on_wire(RESPONSE_UNIT, "应用数据单元")
    mac: bytes | None = on_wire(Optional(ANSWER_CHECK), "数据验证信息", default=None)
