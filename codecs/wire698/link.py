"""LINK, CONNECT, RELEASE and ERROR services (wire.md b.3, b.4, b.5, b.13)."""

from __future__ import annotations

from typing import Any

from .data import DATE_TIME, DATE_TIME_S, OCTET_STRING, OPTIONAL_TIME_TAG, RN, U8, U16, U32, VISIBLE_STRING
from .notation import Choice, Fixed, Optional, on_wire, record, wire
from .pieces import (
    FOLLOW,
    PIID,
    AnyApdu,
    ClientApdu,
    FollowReport,
    ServerApdu,
    service,
)
from .values import Piid, TimeTag

# --- LINK, CONNECT, RELEASE, ERROR (b.3, b.4, b.5, b.13) ----------------------------------------------------------

LOGIN, HEARTBEAT, LOGOUT = 0, 1, 2


@service("01", "LINK-Request", "预连接请求")
@record
class LinkRequest(AnyApdu):
    """type: 0 login, 1 heartbeat, 2 logout; period: heartbeat period in s; time: 10-octet date_time."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    type: int = on_wire(U8, "请求类型")
    period: int = on_wire(U16, "心跳周期")
    time: bytes = on_wire(DATE_TIME, "请求时间")


@service("81", "LINK-Response", "预连接响应")
@record
class LinkResponse(AnyApdu):
    """result: bit 7 clock trusted, bits 2-0 0 success, 1 address duplicate, 2 illegal device, 3 capacity, 4 other."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    result: int = on_wire(U8, "结果")
    request: bytes = on_wire(DATE_TIME, "请求时间")
    received: bytes = on_wire(DATE_TIME, "收到时间")
    response: bytes = on_wire(DATE_TIME, "响应时间")


@record
class SymmetrySecurity:
    """对称加密: CONNECT mechanism 2."""

    ciphertext: bytes = on_wire(OCTET_STRING, "密文1")
    signature: bytes = on_wire(OCTET_STRING, "客户机签名1")


@record
class SignatureSecurity:
    """数字签名: CONNECT mechanism 3."""

    ciphertext: bytes = on_wire(OCTET_STRING, "密文2")
    signature: bytes = on_wire(OCTET_STRING, "客户机签名2")


def _mechanism_encode(mechanism: Any) -> tuple[int, Any]:
    if mechanism is None:
        return 0, None
    if isinstance(mechanism, bytes):
        return 1, mechanism
    return (2 if isinstance(mechanism, SymmetrySecurity) else 3), mechanism


MECHANISM = Choice(
    "ConnectMechanismInfo",
    {
        0: None,
        1: VISIBLE_STRING,
        2: wire(SymmetrySecurity),
        3: wire(SignatureSecurity),
    },
    lambda _, value: value,
    _mechanism_encode,
)


@service("02", "CONNECT-Request", "建立应用连接请求")
@record
class ConnectRequest(ClientApdu):
    """mechanism: None public, bytes password, SymmetrySecurity or SignatureSecurity."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    version: int = on_wire(U16, "应用层协议版本号")
    protocol: bytes = on_wire(Fixed(8, "ProtocolConformance"), "协议一致性块")
    function: bytes = on_wire(Fixed(16, "FunctionConformance"), "功能一致性块")
    send_size: int = on_wire(U16, "客户机发送帧最大尺寸")
    receive_size: int = on_wire(U16, "客户机接收帧最大尺寸")
    window: int = on_wire(U8, "客户机接收帧最大窗口尺寸")
    apdu_size: int = on_wire(U16, "客户机最大可处理APDU尺寸")
    timeout: int = on_wire(U32, "期望的应用连接超时时间")
    mechanism: Any = on_wire(MECHANISM, "认证请求对象", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@record
class SecurityData:
    """认证附加信息: random number and the server's signature."""

    rn: bytes = on_wire(RN, "服务器随机数")
    signature: bytes = on_wire(OCTET_STRING, "服务器签名信息")


@service("82", "CONNECT-Response", "建立应用连接响应")
@record
class ConnectResponse(ServerApdu):
    """result: 0 permitted, 1 password wrong, 2, 3 decryption, 4 signature, 5 version, 255 other."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    factory: bytes = on_wire(Fixed(32, "FactoryVersion"), "服务器厂商版本信息")
    version: int = on_wire(U16, "商定的应用层协议版本号")
    protocol: bytes = on_wire(Fixed(8, "ProtocolConformance"), "商定的协议一致性块")
    function: bytes = on_wire(Fixed(16, "FunctionConformance"), "商定的功能一致性块")
    send_size: int = on_wire(U16, "服务器发送帧最大尺寸")
    receive_size: int = on_wire(U16, "服务器接收帧最大尺寸")
    window: int = on_wire(U8, "服务器接收帧最大窗口尺寸")
    apdu_size: int = on_wire(U16, "服务器最大可处理APDU尺寸")
    timeout: int = on_wire(U32, "商定的应用连接超时时间")
    result: int = on_wire(U8, "应用连接请求认证的结果")
    security: SecurityData | None = on_wire(
        Optional(wire(SecurityData)),
        "认证附加信息",
        default=None,
    )
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("03", "RELEASE-Request", "断开应用连接请求")
@record
class ReleaseRequest(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("83", "RELEASE-Response", "断开应用连接响应")
@record
class ReleaseResponse(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    result: int = on_wire(U8, "结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("84", "RELEASE-Notification", "断开应用连接通知")
@record
class ReleaseNotification(ServerApdu):
    """Both times are 7-octet date_time_s."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    established: bytes = on_wire(DATE_TIME_S, "应用连接建立时间")
    now: bytes = on_wire(DATE_TIME_S, "服务器当前时间")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("6E", "ERROR-Request", "异常响应")
@record
class ClientError(ClientApdu):
    """error: 1 APDU cannot be parsed, 2 service not supported, 255 other."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    error: int = on_wire(U8, "异常类型")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("EE", "ERROR-Response", "异常响应")
@record
class ServerError(ServerApdu):
    """error: 1 APDU cannot be parsed, 2 service not supported, 255 other."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    error: int = on_wire(U8, "异常类型")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)
