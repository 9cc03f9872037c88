"""Services of a terminal as a server: what it answers to each request APDU (wire.md b.4 to b.13)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from wire698 import access, link, model, proxy
from wire698.data import DATA
from wire698.notation import build_all
from wire698.pieces import ClientApdu, ResultNormal, ResultRecord, ServerApdu
from wire698.rows import Table
from wire698.values import Dar, Data, Oad, Omd, Piid

from . import meter645
from .body import Body
from .objects import Objects, TerminalObjects, result_of

TIMEOUT, NO_TRANSFER, BAD_BLOCK = Dar(33), Dar(11), Dar(14)
CANNOT_PARSE, NOT_SUPPORTED = 1, 2
VERSION = 0x0010
_ASSOCIATION_S = 56400
_FACTORY = b"LGSM" + b"0100" + b"260101" + b"0100" + b"260101" + bytes(8)

Blocks = list[tuple[ResultNormal, ...] | tuple[ResultRecord, ...]]


class Services:
    """Answers requests. `connected`: CONNECT has been made, or is not wanted by this terminal."""

    def __init__(self, body: Body, frame_size: int, apdu_size: int) -> None:
        self.objects = TerminalObjects(body)
        self.connected = not body.settings.connect_first
        self.agreed_frame: int | None = None
        self.acted: list[tuple[Omd, Dar]] = []
        """Methods of the terminal's own objects that the last request carried out or was refused."""
        self._body = body
        self._frame_size = frame_size
        self._apdu_size = apdu_size
        self._blocks: Blocks = []
        self._sent = 0
        self._first = body.settings.first_block

    def reset(self) -> None:
        """The connection is new."""
        self.connected = not self._body.settings.connect_first
        self.agreed_frame = None
        self._blocks = []

    def answer(self, request: ClientApdu, at: float) -> ServerApdu:
        """The response to a request at the simulated instant `at`; its time tag is echoed."""
        self.acted = []
        service = _SERVICES.get(type(request))
        if isinstance(request, link.ConnectRequest):
            response: ServerApdu = self._connect(request)
        elif service is None or not self.connected:
            response = link.ServerError(piid=request.piid, error=NOT_SUPPORTED)
        else:
            response = service(self, request, at)
        # Every response has the field; the common base only declares it.
        response.timetag = request.timetag  # type: ignore[misc]
        return response

    # --- association ---

    def _connect(self, request: link.ConnectRequest) -> ServerApdu:
        right = request.version == VERSION
        self.connected = self.connected or right
        size = max(64, min(self._frame_size, request.receive_size))
        if right:
            self.agreed_frame = size
        return link.ConnectResponse(
            piid=request.piid,
            factory=_FACTORY,
            version=VERSION,
            protocol=request.protocol,
            function=request.function,
            send_size=size,
            receive_size=min(self._frame_size, request.send_size),
            window=1,
            apdu_size=min(self._apdu_size, request.apdu_size or self._apdu_size),
            timeout=min(_ASSOCIATION_S, request.timeout) or _ASSOCIATION_S,
            result=0 if right else 5,
        )

    def _release(self, request: link.ReleaseRequest, at: float) -> ServerApdu:  # noqa: ARG002
        self.connected = not self._body.settings.connect_first
        return link.ReleaseResponse(piid=request.piid, result=0)

    # --- GET ---

    def _get(self, request: access.GetRequestNormal, at: float) -> ServerApdu:
        result = result_of(request.oad, self.objects.get(request.oad, at))
        return access.GetResponseNormal(piid=request.piid, result=result)

    def _get_list(self, request: access.GetRequestNormalList, at: float) -> ServerApdu:
        results = tuple(result_of(oad, self.objects.get(oad, at)) for oad in request.oads)
        return access.GetResponseNormalList(piid=request.piid, results=results)

    def _record(self, request: access.GetRequestRecord, at: float) -> ServerApdu:  # noqa: ARG002
        return access.GetResponseRecord(piid=request.piid, record=self.objects.records(request.record))

    def _record_list(self, request: access.GetRequestRecordList, at: float) -> ServerApdu:  # noqa: ARG002
        records = tuple(self.objects.records(wanted) for wanted in request.records)
        return access.GetResponseRecordList(piid=request.piid, records=records)

    def _md5(self, request: access.GetRequestMd5, at: float) -> ServerApdu:
        value = self.objects.get(request.oad, at)
        digest: bytes | Dar = value if isinstance(value, Dar) else _digest(value)
        return access.GetResponseMd5(piid=request.piid, oad=request.oad, md5=digest)

    # --- blocks ---

    def in_blocks(self, response: ServerApdu, room: int) -> ServerApdu:
        """The first block of an answer that is longer than `room` octets, or the answer where it cannot be cut."""
        items: Sequence[ResultNormal] | Sequence[ResultRecord]
        match response:
            case access.GetResponseNormalList():
                items = response.results
            case access.GetResponseRecord():
                items = _thin(response.record, room - 16)
            case access.GetResponseRecordList():
                items = [part for record in response.records for part in _thin(record, room - 16)]
            case _:
                return response
        self._blocks = _packed(items, room - 16)
        self._sent = 0
        if len(self._blocks) < 2:
            return response
        return self._block(response.piid)

    def _block(self, piid: Piid) -> ServerApdu:
        last = self._sent == len(self._blocks) - 1
        return access.GetResponseNext(
            piid=piid, last=last, block=self._first + self._sent, content=self._blocks[self._sent]
        )

    def _next(self, request: access.GetRequestNext, at: float) -> ServerApdu:  # noqa: ARG002
        got = request.block - self._first
        if not self._blocks:
            refused = NO_TRANSFER
        elif got in (self._sent, self._sent - 1) and got + 1 < len(self._blocks):
            # The block before the present one again: the master lost the answer.
            self._sent = got + 1
            return self._block(request.piid)
        else:
            refused = BAD_BLOCK
        return access.GetResponseNext(piid=request.piid, last=True, block=request.block, content=refused)

    # --- SET, ACTION ---

    def _set(self, request: access.SetRequestNormal, at: float) -> ServerApdu:
        dar = self.objects.set(request.oad, request.value, at)
        return access.SetResponseNormal(piid=request.piid, oad=request.oad, dar=dar)

    def _set_list(self, request: access.SetRequestNormalList, at: float) -> ServerApdu:
        results = _set_all(self.objects, request.sets, at)
        return access.SetResponseNormalList(piid=request.piid, results=results)

    def _set_then_get(self, request: access.SetThenGetRequest, at: float) -> ServerApdu:
        results = _set_then_get_all(self.objects, request.sets, at)
        return access.SetThenGetResponse(piid=request.piid, results=results)

    def _act(self, request: access.ActionRequestNormal, at: float) -> ServerApdu:
        dar = self._carry_out(request.omd, request.param, at)
        return access.ActionResponseNormal(piid=request.piid, omd=request.omd, dar=dar)

    def _act_list(self, request: access.ActionRequestNormalList, at: float) -> ServerApdu:
        results = _act_all(self._carry_out, request.actions, at)
        return access.ActionResponseNormalList(piid=request.piid, results=results)

    def _act_then_get(self, request: access.ActionThenGetRequest, at: float) -> ServerApdu:
        results = _act_then_get_all(self._carry_out, self.objects, request.actions, at)
        return access.ActionThenGetResponse(piid=request.piid, results=results)

    def _carry_out(self, omd: Omd, parameter: Data, at: float) -> Dar:
        dar = self.objects.act(omd, parameter, at)
        self.acted.append((omd, dar))
        return dar

    # --- PROXY ---

    def _meter(self, tsa: bytes) -> Objects:
        """The meter at an address; one that is not there lets every request time out."""
        return self.objects.meters.get(tsa, _ABSENT)

    def _proxy_get(self, request: proxy.ProxyGetRequestList, at: float) -> ServerApdu:
        targets = []
        for target in request.targets:
            meter = self._meter(target.tsa)
            results = tuple(result_of(oad, meter.get(oad, at)) for oad in target.items)
            targets.append(proxy.ProxyGetResult(tsa=target.tsa, results=results))
        return proxy.ProxyGetResponseList(piid=request.piid, targets=tuple(targets))

    def _proxy_record(self, request: proxy.ProxyGetRequestRecord, at: float) -> ServerApdu:  # noqa: ARG002
        record = self._meter(request.tsa).records(request.record)
        return proxy.ProxyGetResponseRecord(piid=request.piid, tsa=request.tsa, record=record)

    def _proxy_set(self, request: proxy.ProxySetRequestList, at: float) -> ServerApdu:
        targets = tuple(
            proxy.ProxySetResult(tsa=t.tsa, results=_set_all(self._meter(t.tsa), t.items, at)) for t in request.targets
        )
        return proxy.ProxySetResponseList(piid=request.piid, targets=targets)

    def _proxy_set_then_get(self, request: proxy.ProxySetThenGetRequestList, at: float) -> ServerApdu:
        targets = tuple(
            proxy.ProxySetThenGetResult(tsa=t.tsa, results=_set_then_get_all(self._meter(t.tsa), t.items, at))
            for t in request.targets
        )
        return proxy.ProxySetThenGetResponseList(piid=request.piid, targets=targets)

    def _proxy_act(self, request: proxy.ProxyActionRequestList, at: float) -> ServerApdu:
        targets = tuple(
            proxy.ProxyActionResult(tsa=t.tsa, results=_act_all(self._meter(t.tsa).act, t.items, at))
            for t in request.targets
        )
        return proxy.ProxyActionResponseList(piid=request.piid, targets=targets)

    def _proxy_act_then_get(self, request: proxy.ProxyActionThenGetRequestList, at: float) -> ServerApdu:
        targets = tuple(
            proxy.ProxyActionThenGetResult(tsa=t.tsa, results=_act_then_get_all(meter.act, meter, t.items, at))
            for t in request.targets
            for meter in (self._meter(t.tsa),)
        )
        return proxy.ProxyActionThenGetResponseList(piid=request.piid, targets=targets)

    def _transparent(self, request: proxy.ProxyTransCommandRequest, at: float) -> ServerApdu:
        got = meter645.answer(request.command, self._body.premises.meters, at)
        result: bytes | Dar = TIMEOUT if got is None else got
        return proxy.ProxyTransCommandResponse(piid=request.piid, port=request.port, result=result)


class _Absent:
    """A meter that is not on the line."""

    def get(self, oad: Oad, at: float) -> Data | Dar:  # noqa: ARG002
        return TIMEOUT

    def set(self, oad: Oad, value: Data, at: float) -> Dar:  # noqa: ARG002
        return TIMEOUT

    def act(self, omd: Omd, parameter: Data, at: float) -> Dar:  # noqa: ARG002
        return TIMEOUT

    def records(self, wanted: access.GetRecord) -> ResultRecord:
        return ResultRecord(wanted.oad, wanted.rcsd, TIMEOUT)


_ABSENT: Objects = _Absent()


def _digest(value: Data) -> bytes:
    return hashlib.md5(build_all(DATA, value)).digest()  # noqa: S324 - the protocol's fingerprint


def _set_all(objects: Objects, items: Sequence[access.SetItem], at: float) -> tuple[access.SetResult, ...]:
    return tuple(access.SetResult(oad=item.oad, dar=objects.set(item.oad, item.value, at)) for item in items)


def _set_then_get_all(
    objects: Objects, items: Sequence[access.SetThenGet], at: float
) -> tuple[access.SetThenGetResult, ...]:
    results = []
    for item in items:
        dar = objects.set(item.oad, item.value, at)
        got = result_of(item.get, objects.get(item.get, at))
        results.append(access.SetThenGetResult(oad=item.oad, dar=dar, get=got))
    return tuple(results)


_Act = Callable[[Omd, Data, float], Dar]


def _act_all(act: _Act, items: Sequence[access.ActionItem], at: float) -> tuple[access.ActionResult, ...]:
    return tuple(access.ActionResult(omd=item.omd, dar=act(item.omd, item.param, at), data=None) for item in items)


def _act_then_get_all(
    act: _Act, objects: Objects, items: Sequence[access.ActionThenGet], at: float
) -> tuple[access.ActionThenGetResult, ...]:
    results = []
    for item in items:
        dar = act(item.omd, item.param, at)
        got = result_of(item.get, objects.get(item.get, at))
        results.append(access.ActionThenGetResult(omd=item.omd, dar=dar, data=None, get=got))
    return tuple(results)


# --- cutting answers into blocks ---------------------------------------------------------------------------------


def _size(item: ResultNormal | ResultRecord) -> int:
    piid = Piid(0)
    if isinstance(item, ResultRecord):
        return len(model.build(access.GetResponseRecord(piid=piid, record=item)))
    return len(model.build(access.GetResponseNormal(piid=piid, result=item)))


def _thin(record: ResultRecord, room: int) -> list[ResultRecord]:
    """The record in parts that fit `room` octets each, as far as one row does."""
    rows = record.table.rows
    if len(rows) < 2 or _size(record) <= room:
        return [record]
    half = len(rows) // 2
    parts = []
    for some in (rows[:half], rows[half:]):
        part = ResultRecord(record.oad, record.rcsd, Table.of(some), record.flat)
        parts += _thin(part, room)
    return parts


def _packed(items: Sequence[ResultNormal] | Sequence[ResultRecord], room: int) -> Blocks:
    blocks: list[list[Any]] = []
    left = 0
    for item in items:
        size = _size(item)
        if not blocks or size > left:
            blocks.append([])
            left = room
        blocks[-1].append(item)
        left -= size
    return [tuple(block) for block in blocks]


_SERVICES: dict[type, Callable[[Services, Any, float], ServerApdu]] = {
    link.ReleaseRequest: Services._release,
    access.GetRequestNormal: Services._get,
    access.GetRequestNormalList: Services._get_list,
    access.GetRequestRecord: Services._record,
    access.GetRequestRecordList: Services._record_list,
    access.GetRequestNext: Services._next,
    access.GetRequestMd5: Services._md5,
    access.SetRequestNormal: Services._set,
    access.SetRequestNormalList: Services._set_list,
    access.SetThenGetRequest: Services._set_then_get,
    access.ActionRequestNormal: Services._act,
    access.ActionRequestNormalList: Services._act_list,
    access.ActionThenGetRequest: Services._act_then_get,
    proxy.ProxyGetRequestList: Services._proxy_get,
    proxy.ProxyGetRequestRecord: Services._proxy_record,
    proxy.ProxySetRequestList: Services._proxy_set,
    proxy.ProxySetThenGetRequestList: Services._proxy_set_then_get,
    proxy.ProxyActionRequestList: Services._proxy_act,
    proxy.ProxyActionThenGetRequestList: Services._proxy_act_then_get,
    proxy.ProxyTransCommandRequest: Services._transparent,
}
