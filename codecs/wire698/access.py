"""GET, SET, ACTION and REPORT services (wire.md b.7 to b.10)."""

from __future__ import annotations

from typing import Any

from construct import Construct

from .data import DATA, OAD, OCTET_STRING, OMD, OPTIONAL_DATA, OPTIONAL_TIME_TAG, RCSD, RSD, U8, U16
from .notation import Choice, SequenceOf, on_wire, record, wire
from .pieces import (
    BOOL_OCTET,
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
    results_decode,
    results_encode,
    service,
)
from .values import Dar, Data, Oad, Omd, Piid, Rcsd, Rsd, TimeTag

# --- GET (b.7) ----------------------------------------------------------------------------------------------------


@record
class GetRecord:
    """What to read of a record object: its OAD, row selection, columns."""

    oad: Oad = on_wire(OAD, "对象属性描述符")
    rsd: Rsd = on_wire(RSD, "记录行选择")
    rcsd: Rcsd = on_wire(RCSD, "记录列选择")


GET_RECORD: Construct = wire(GetRecord)
OADS = SequenceOf(OAD)


@service("0501", "GetRequestNormal", "读取一个对象属性请求")
@record
class GetRequestNormal(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oad: Oad = on_wire(OAD, "对象属性描述符")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0502", "GetRequestNormalList", "读取若干个对象属性请求")
@record
class GetRequestNormalList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oads: tuple[Oad, ...] = on_wire(OADS, "对象属性描述符")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0503", "GetRequestRecord", "读取一个记录型对象属性请求")
@record
class GetRequestRecord(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    record: GetRecord = on_wire(GET_RECORD, "读取记录型对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0504", "GetRequestRecordList", "读取若干个记录型对象属性请求")
@record
class GetRequestRecordList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    records: tuple[GetRecord, ...] = on_wire(SequenceOf(GET_RECORD), "读取记录型对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0505", "GetRequestNext", "读取分帧响应的下一个数据块请求")
@record
class GetRequestNext(ClientApdu):
    """block: the number of the last block received correctly, as received."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    block: int = on_wire(U16, "最近一次接收的数据块序号")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0506", "GetRequestMD5", "读取一个对象属性的MD5值请求")
@record
class GetRequestMd5(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oad: Oad = on_wire(OAD, "对象属性描述符")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8501", "GetResponseNormal", "读取一个对象属性响应")
@record
class GetResponseNormal(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    result: ResultNormal = on_wire(RESULT_NORMAL, "一个对象属性及结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8502", "GetResponseNormalList", "读取若干个对象属性响应")
@record
class GetResponseNormalList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    results: tuple[ResultNormal, ...] = on_wire(SequenceOf(RESULT_NORMAL), "若干个对象属性及结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8503", "GetResponseRecord", "读取一个记录型对象属性响应")
@record
class GetResponseRecord(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    record: ResultRecord = on_wire(RESULT_RECORD, "一个记录型对象属性及结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8504", "GetResponseRecordList", "读取若干个记录型对象属性响应")
@record
class GetResponseRecordList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    records: tuple[ResultRecord, ...] = on_wire(SequenceOf(RESULT_RECORD), "若干个记录型对象属性及结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


def _block_encode(content: Any) -> tuple[int, Any]:
    if isinstance(content, Dar):
        return 0, content
    return results_encode(content)


BLOCK = Choice(
    "Get-Response-Next",
    {0: DAR, 1: SequenceOf(RESULT_NORMAL), 2: SequenceOf(RESULT_RECORD)},
    results_decode,
    _block_encode,
)


@service("8505", "GetResponseNext", "读取分帧响应下一个数据块响应")
@record
class GetResponseNext(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    last: bool = on_wire(BOOL_OCTET, "末帧标志")
    block: int = on_wire(U16, "分帧序号")
    content: Dar | tuple[ResultNormal, ...] | tuple[ResultRecord, ...] = on_wire(BLOCK, "分帧响应")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


MD5 = Choice(
    "Get-Result-MD5",
    {0: DAR, 1: OCTET_STRING},
    lambda _, value: value,
    lambda obj: (0, obj) if isinstance(obj, Dar) else (1, obj),
)


@service("8506", "GetResponseMD5", "读取一个对象属性的MD5值响应")
@record
class GetResponseMd5(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oad: Oad = on_wire(OAD, "对象属性描述符")
    md5: bytes | Dar = on_wire(MD5, "MD5值")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


# --- SET (b.8) ----------------------------------------------------------------------------------------------------


@record
class SetItem:
    oad: Oad = on_wire(OAD, "对象属性描述符")
    value: Data = on_wire(DATA, "数据")


@record
class SetThenGet:
    """delay: s before reading; 0 is the server's default."""

    oad: Oad = on_wire(OAD, "设置的对象属性")
    value: Data = on_wire(DATA, "数据")
    get: Oad = on_wire(OAD, "读取的对象属性")
    delay: int = on_wire(U8, "延时读取时间")


@record
class SetResult:
    oad: Oad = on_wire(OAD, "对象属性描述符")
    dar: Dar = on_wire(DAR, "设置执行结果")


@record
class SetThenGetResult:
    oad: Oad = on_wire(OAD, "设置的对象属性")
    dar: Dar = on_wire(DAR, "设置执行结果")
    get: ResultNormal = on_wire(RESULT_NORMAL, "读取结果")


SET_ITEMS = SequenceOf(wire(SetItem))
SET_THEN_GETS = SequenceOf(wire(SetThenGet))
SET_RESULTS = SequenceOf(wire(SetResult))
SET_THEN_GET_RESULTS = SequenceOf(wire(SetThenGetResult))


@service("0601", "SetRequestNormal", "设置一个对象属性请求")
@record
class SetRequestNormal(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oad: Oad = on_wire(OAD, "对象属性描述符")
    value: Data = on_wire(DATA, "数据")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0602", "SetRequestNormalList", "设置若干个对象属性请求")
@record
class SetRequestNormalList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    sets: tuple[SetItem, ...] = on_wire(SET_ITEMS, "若干个对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0603", "SetThenGetRequestNormalList", "设置后读取若干个对象属性请求")
@record
class SetThenGetRequest(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    sets: tuple[SetThenGet, ...] = on_wire(SET_THEN_GETS, "若干个设置后读取对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8601", "SetResponseNormal", "设置一个对象属性响应")
@record
class SetResponseNormal(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oad: Oad = on_wire(OAD, "对象属性描述符")
    dar: Dar = on_wire(DAR, "设置执行结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8602", "SetResponseNormalList", "设置若干个对象属性响应")
@record
class SetResponseNormalList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    results: tuple[SetResult, ...] = on_wire(SET_RESULTS, "若干个对象属性设置结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8603", "SetThenGetResponseNormalList", "设置后读取若干个对象属性响应")
@record
class SetThenGetResponse(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    results: tuple[SetThenGetResult, ...] = on_wire(SET_THEN_GET_RESULTS, "设置后读取结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


# --- ACTION (b.9) -------------------------------------------------------------------------------------------------


@record
class ActionItem:
    omd: Omd = on_wire(OMD, "对象方法描述符")
    param: Data = on_wire(DATA, "方法参数")


@record
class ActionThenGet:
    omd: Omd = on_wire(OMD, "对象方法描述符")
    param: Data = on_wire(DATA, "方法参数")
    get: Oad = on_wire(OAD, "读取的对象属性")
    delay: int = on_wire(U8, "延时读取时间")


@record
class ActionResult:
    """data: what the method returned; most return nothing."""

    omd: Omd = on_wire(OMD, "对象方法描述符")
    dar: Dar = on_wire(DAR, "操作执行结果")
    data: Data | None = on_wire(OPTIONAL_DATA, "操作返回数据")


@record
class ActionThenGetResult:
    omd: Omd = on_wire(OMD, "对象方法描述符")
    dar: Dar = on_wire(DAR, "操作执行结果")
    data: Data | None = on_wire(OPTIONAL_DATA, "操作返回数据")
    get: ResultNormal = on_wire(RESULT_NORMAL, "读取结果")


ACTION_ITEMS = SequenceOf(wire(ActionItem))
ACTION_THEN_GETS = SequenceOf(wire(ActionThenGet))
ACTION_RESULTS = SequenceOf(wire(ActionResult))
ACTION_THEN_GET_RESULTS = SequenceOf(wire(ActionThenGetResult))


@service("0701", "ActionRequestNormal", "操作一个对象方法请求")
@record
class ActionRequestNormal(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    omd: Omd = on_wire(OMD, "对象方法描述符")
    param: Data = on_wire(DATA, "方法参数")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0702", "ActionRequestNormalList", "操作若干个对象方法请求")
@record
class ActionRequestNormalList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    actions: tuple[ActionItem, ...] = on_wire(ACTION_ITEMS, "若干个对象方法")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0703", "ActionThenGetRequestNormalList", "操作若干个对象方法后读取若干个对象属性请求")
@record
class ActionThenGetRequest(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    actions: tuple[ActionThenGet, ...] = on_wire(ACTION_THEN_GETS, "若干个操作后读取")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8701", "ActionResponseNormal", "操作一个对象方法响应")
@record
class ActionResponseNormal(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    omd: Omd = on_wire(OMD, "对象方法描述符")
    dar: Dar = on_wire(DAR, "操作执行结果")
    data: Data | None = on_wire(OPTIONAL_DATA, "操作返回数据", default=None)
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8702", "ActionResponseNormalList", "操作若干个对象方法响应")
@record
class ActionResponseNormalList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    results: tuple[ActionResult, ...] = on_wire(ACTION_RESULTS, "若干个操作结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8703", "ActionThenGetResponseNormalList", "操作若干个对象方法后读取若干个属性响应")
@record
class ActionThenGetResponse(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    results: tuple[ActionThenGetResult, ...] = on_wire(ACTION_THEN_GET_RESULTS, "操作后读取结果")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


# --- REPORT (b.10) ------------------------------------------------------------------------------------------------


@service("8801", "ReportNotificationList", "上报若干个对象属性")
@record
class ReportNotificationList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    results: tuple[ResultNormal, ...] = on_wire(SequenceOf(RESULT_NORMAL), "若干个对象属性及其数据")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8802", "ReportNotificationRecordList", "上报若干个记录型对象属性")
@record
class ReportNotificationRecordList(ServerApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    records: tuple[ResultRecord, ...] = on_wire(SequenceOf(RESULT_RECORD), "若干个记录型对象属性及其数据")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("8803", "ReportNotificationTransData", "上报透明数据")
@record
class ReportNotificationTransData(ServerApdu):
    """port: the port the octets came from."""

    piid: Piid = on_wire(PIID, "序号及优先标志")
    port: Oad = on_wire(OAD, "数据来源端口号")
    data: tuple[bytes, ...] = on_wire(SequenceOf(OCTET_STRING), "数据")
    follow: FollowReport | None = on_wire(FOLLOW, "跟随上报信息域", default=None)
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0801", "ReportResponseList", "上报若干个对象属性的响应")
@record
class ReportResponseList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oads: tuple[Oad, ...] = on_wire(OADS, "若干个对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0802", "ReportResponseRecordList", "上报若干个记录型对象属性的响应")
@record
class ReportResponseRecordList(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    oads: tuple[Oad, ...] = on_wire(OADS, "若干个记录型对象属性")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)


@service("0803", "ReportResponseTransData", "上报透明数据的响应")
@record
class ReportResponseTransData(ClientApdu):
    piid: Piid = on_wire(PIID, "序号及优先标志")
    timetag: TimeTag | None = on_wire(OPTIONAL_TIME_TAG, "时间标签", default=None)
