"""PROXY services: the terminal forwards to meters behind it (wire.md b.11)."""

from __future__ import annotations

from .access import (
    ACTION_ITEMS,
    ACTION_RESULTS,
    ACTION_THEN_GET_RESULTS,
    ACTION_THEN_GETS,
    GET_RECORD,
    OADS,
    SET_ITEMS,
    SET_RESULTS,
    SET_THEN_GET_RESULTS,
    SET_THEN_GETS,
    ActionItem,
    ActionResult,
    ActionThenGet,
    ActionThenGetResult,
    GetRecord,
    SetItem,
    SetResult,
    SetThenGet,
    SetThenGetResult,
)
from .data import COMDCB, OAD, OCTET_STRING, OPTIONAL_TIME_TAG, TSA, U16
from .notation import Choice, SequenceOf, on_wire, record, wire
from .pieces import (
    DAR,
    FOLLOW,
    PIID,
    RESULT_NORMAL,
    RESULT_RECORD,
    ClientApdu,
    FollowReport,
    ResultNormal,
    ResultRecord,
    ServerApdu,
    service,
)
from .values import Comdcb, Dar, Oad, Piid, TimeTag

# --- PROXY (b.11) -------------------------------------------------------------------------------------------------


@record
class ProxyGet:
    """One meter to be read; timeout in s, 0: the overall one."""

    tsa: bytes = on_wire(TSA, "目标服务器地址")
    timeout: int = on_wire(U16, "代理一个服务器的超时时间")
    items: tuple[Oad, ...] = on_wire(OADS, "若干个对象属性")


@record
class ProxySet:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    timeout: int = on_wire(U16, "代理一个服务器的超时时间")
    items: tuple[SetItem, ...] = on_wire(SET_ITEMS, "若干个对象属性及其数据")


@record
class ProxySetThenGet:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    timeout: int = on_wire(U16, "代理一个服务器的超时时间")
    items: tuple[SetThenGet, ...] = on_wire(SET_THEN_GETS, "若干个设置后读取")


@record
class ProxyAction:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    timeout: int = on_wire(U16, "代理一个服务器的超时时间")
    items: tuple[ActionItem, ...] = on_wire(ACTION_ITEMS, "若干个对象方法及其参数")


@record
class ProxyActionThenGet:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    timeout: int = on_wire(U16, "代理一个服务器的超时时间")
    items: tuple[ActionThenGet, ...] = on_wire(ACTION_THEN_GETS, "若干个操作后读取")


@record
class ProxyGetResult:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    results: tuple[ResultNormal, ...] = on_wire(SequenceOf(RESULT_NORMAL), "若干个对象属性及其结果")


@record
class ProxySetResult:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    results: tuple[SetResult, ...] = on_wire(SET_RESULTS, "若干个设置结果")


@record
class ProxySetThenGetResult:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    results: tuple[SetThenGetResult, ...] = on_wire(SET_THEN_GET_RESULTS, "若干个设置后读取结果")


@record
class ProxyActionResult:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    results: tuple[ActionResult, ...] = on_wire(ACTION_RESULTS, "若干个操作结果")


@record
class ProxyActionThenGetResult:
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    results: tuple[ActionThenGetResult, ...] = on_wire(ACTION_THEN_GET_RESULTS, "若干个操作后读取结果")


GETS = SequenceOf(wire(ProxyGet))


@service("0901", "ProxyGetRequestList", "代理读取若干个服务器的若干个对象属性请求")
@record
class ProxyGetRequestList(ClientApdu):
    """timeout: s for the whole request."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    timeout: int = on_wire(U16, "整个代理请求的超时时间")
    targets: tuple[ProxyGet, ...] = on_wire(GETS, "若干个代理读取")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0902", "ProxyGetRequestRecord", "代理读取一个服务器的一个记录型对象属性请求")
@record
class ProxyGetRequestRecord(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timeout: int = on_wire(U16, "整个代理请求的超时时间")
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    record: GetRecord = on_wire(GET_RECORD, "读取记录型对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0903", "ProxySetRequestList", "代理设置若干个服务器的若干个对象属性请求")
@record
class ProxySetRequestList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timeout: int = on_wire(U16, "整个代理请求的超时时间")
    targets: tuple[ProxySet, ...] = on_wire(SequenceOf(wire(ProxySet)), "若干个代理设置")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0904", "ProxySetThenGetRequestList", "代理设置后读取若干个服务器的若干个对象属性请求")
@record
class ProxySetThenGetRequestList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timeout: int = on_wire(U16, "整个代理请求的超时时间")
    targets: tuple[ProxySetThenGet, ...] = on_wire(SequenceOf(wire(ProxySetThenGet)), "若干个代理设置后读取")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0905", "ProxyActionRequestList", "代理操作若干个服务器的若干个对象方法请求")
@record
class ProxyActionRequestList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timeout: int = on_wire(U16, "整个代理请求的超时时间")
    targets: tuple[ProxyAction, ...] = on_wire(SequenceOf(wire(ProxyAction)), "若干个代理操作")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0906", "ProxyActionThenGetRequestList", "代理操作后读取若干个服务器请求")
@record
class ProxyActionThenGetRequestList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timeout: int = on_wire(U16, "整个代理请求的超时时间")
    targets: tuple[ProxyActionThenGet, ...] = on_wire(SequenceOf(wire(ProxyActionThenGet)), "若干个代理操作后读取")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0907", "ProxyTransCommandRequest", "代理透明转发命令请求")
@record
class ProxyTransCommandRequest(ClientApdu):
    """rx_timeout: s to wait for the answer; byte_timeout: ms between octets; command: octets for the meter."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    port: Oad = on_wire(OAD, "数据转发端口号")
    comdcb: Comdcb = on_wire(COMDCB, "端口通信控制块")
    rx_timeout: int = on_wire(U16, "接收等待报文超时时间")
    byte_timeout: int = on_wire(U16, "接收等待字节超时时间")
    command: bytes = on_wire(OCTET_STRING, "透明转发命令")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8901", "ProxyGetResponseList", "代理读取若干个服务器的若干个对象属性响应")
@record
class ProxyGetResponseList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    targets: tuple[ProxyGetResult, ...] = on_wire(SequenceOf(wire(ProxyGetResult)), "若干个代理读取结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8902", "ProxyGetResponseRecord", "代理读取一个服务器的一个记录型对象属性响应")
@record
class ProxyGetResponseRecord(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    tsa: bytes = on_wire(TSA, "目标服务器地址")
    record: ResultRecord = on_wire(RESULT_RECORD, "一个记录型对象属性及结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8903", "ProxySetResponseList", "代理设置若干个服务器的若干个对象属性响应")
@record
class ProxySetResponseList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    targets: tuple[ProxySetResult, ...] = on_wire(SequenceOf(wire(ProxySetResult)), "若干个代理设置结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8904", "ProxySetThenGetResponseList", "代理设置后读取若干个服务器的若干个对象属性响应")
@record
class ProxySetThenGetResponseList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    targets: tuple[ProxySetThenGetResult, ...] = on_wire(
        SequenceOf(wire(ProxySetThenGetResult)), "若干个代理设置后读取结果"
    )
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8905", "ProxyActionResponseList", "代理操作若干个服务器的若干个对象方法响应")
@record
class ProxyActionResponseList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    targets: tuple[ProxyActionResult, ...] = on_wire(SequenceOf(wire(ProxyActionResult)), "若干个代理操作结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8906", "ProxyActionThenGetResponseList", "代理操作后读取若干个服务器响应")
@record
class ProxyActionThenGetResponseList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    targets: tuple[ProxyActionThenGetResult, ...] = on_wire(
        SequenceOf(wire(ProxyActionThenGetResult)), "若干个代理操作后读取结果"
    )
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


TRANS_RESULT = Choice(
    "TransCommand-Result",
    {0: DAR, 1: OCTET_STRING},
    lambda _, value: value,
    lambda obj: (0, obj) if isinstance(obj, Dar) else (1, obj),
)


@service("8907", "ProxyTransCommandResponse", "代理透明转发命令响应")
@record
class ProxyTransCommandResponse(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    port: Oad = on_wire(OAD, "数据转发端口号")
    result: bytes | Dar = on_wire(TRANS_RESULT, "透明转发命令结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)
