"""APDUs and frames as JSON and back: what `decode --json` prints and `encode` reads.

The form follows the model: a record is an object with its field names, a sequence a list, octets upper-case
hexadecimal, an OAD eight digits, Data `{"t": type, "v": value}`. It keeps every octet of what has no oddity.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from construct import Construct

from . import data, link, model, pieces, proxy, security
from .access import MD5, GetResponseNext, GetResponseNormal, GetResponseRecord
from .errors import WireError
from .forms import (
    FormError,
    bool_of,
    csd_form,
    csd_of,
    data_form,
    data_of,
    date_time,
    date_time_s,
    from_date_time_s,
    from_text,
    hex_of,
    int_of,
    list_of,
    member,
    oad_of,
    octets_of,
    text_form,
    value_form,
    value_of,
)
from .frame import FRAGMENT_KINDS, SCRAMBLED, Address, Frame, build_fragment, build_frame, parse_fragment
from .notation import BuildError, Fixed, Optional, Prefixed, RecordBlock, SequenceOf
from .pieces import BY_NAME, Apdu, ResultNormal, ResultRecord
from .rows import Row, Table
from .values import Dar, Piid, Tag, TimeTag

ADDRESS_KINDS = ("single", "wildcard", "group", "broadcast")
LINK_KINDS = ("login", "heartbeat", "logout")

_NAMES = {
    link.ConnectRequest: {
        "protocol": "proto",
        "function": "func",
        "send_size": "tx",
        "receive_size": "rx",
        "window": "win",
        "apdu_size": "apdu",
        "mechanism": "mech",
    },
    proxy.ProxyTransCommandRequest: {
        "rx_timeout": "rx_timeout_s",
        "byte_timeout": "byte_timeout_ms",
        "command": "cmd",
    },
}
_NAMES[link.ConnectResponse] = _NAMES[link.ConnectRequest]


# --- records, by the model's own notation -------------------------------------------------------------------------


def _result_form(result: ResultNormal) -> dict[str, Any]:
    if isinstance(result.result, Row):
        return {"oad": str(result.oad), "result": data_form(result.result.data)}
    return {"oad": str(result.oad), "dar": int(result.result)}


def _result_of(form: Any) -> ResultNormal:
    oad = oad_of(member(form, "oad", "result"))
    if "dar" in form:
        return ResultNormal(oad, Dar(int_of(form["dar"], "dar")))
    return ResultNormal(oad, Row.of((data_of(member(form, "result", "result")),)))


def _record_form(record: ResultRecord) -> dict[str, Any]:
    form: dict[str, Any] = {"oad": str(record.oad), "rcsd": [csd_form(csd) for csd in record.rcsd]}
    if isinstance(record.result, Table):
        form["rows"] = [[data_form(item) for item in row.columns] for row in record.result.rows]
    else:
        form["dar"] = int(record.result)
    if not record.flat:
        form["flat"] = False
    return form


def _record_of(form: Any) -> ResultRecord:
    oad = oad_of(member(form, "oad", "record"))
    rcsd = tuple([csd_of(csd) for csd in list_of(member(form, "rcsd", "record"), "rcsd")])
    flat = form.get("flat", True)
    if "dar" in form:
        return ResultRecord(oad, rcsd, Dar(int_of(form["dar"], "dar")), flat)
    rows = [
        Row.of(tuple([data_of(item) for item in list_of(row, "row")]))
        for row in list_of(member(form, "rows", "record"), "rows")
    ]
    return ResultRecord(oad, rcsd, Table.of(rows), flat)


def _mechanism_form(mechanism: Any) -> Any:
    if mechanism is None:
        return "null"
    if isinstance(mechanism, bytes):
        return {"password": text_form(mechanism)}
    name = "symmetry" if isinstance(mechanism, link.SymmetrySecurity) else "signature"
    return {name: {"ciphertext": hex_of(mechanism.ciphertext), "signature": hex_of(mechanism.signature)}}


def _mechanism_of(form: Any) -> Any:
    if form == "null":
        return None
    if isinstance(form, dict) and "password" in form:
        return from_text(form["password"])
    kinds = {"symmetry": link.SymmetrySecurity, "signature": link.SignatureSecurity}
    for name, kind in kinds.items():
        if isinstance(form, dict) and name in form:
            return kind(
                octets_of(member(form[name], "ciphertext", name), name),
                octets_of(member(form[name], "signature", name), name),
            )
    raise FormError(f"mech: null, password, symmetry or signature expected, not {form!r:.80}")


def _dar_or_octets_of(form: Any, what: str) -> bytes | Dar:
    return Dar(int_of(member(form, "dar", what), what)) if isinstance(form, dict) else octets_of(form, what)


def _follow_form(items: Any) -> Any:
    if pieces.holds_records(items):
        return {"records": [_record_form(item) for item in items]}
    return {"results": [_result_form(item) for item in items]}


def _follow_of(form: Any) -> Any:
    if isinstance(form, dict) and "records" in form:
        return pieces.Records([_record_of(item) for item in list_of(form["records"], "follow")])
    return tuple([_result_of(item) for item in list_of(member(form, "results", "follow"), "follow")])


# --- a field by its block -----------------------------------------------------------------------------------------

_TAGGED: dict[Construct, Tag] = {
    data.DATE_TIME_S: Tag.DATE_TIME_S,
    data.DATE_TIME: Tag.DATE_TIME,
    data.TI: Tag.TI,
    data.RSD: Tag.RSD,
    data.RCSD: Tag.RCSD,
    data.CSD: Tag.CSD,
    data.MS: Tag.MS,
    data.COMDCB: Tag.COMDCB,
    data.OAD: Tag.OAD,
    data.OMD: Tag.OMD,
    data.TSA: Tag.TSA,
    data.VISIBLE_STRING: Tag.VISIBLE_STRING,
}


def field_form(block: Construct, value: Any) -> Any:
    """JSON of one field's value."""
    if block in _TAGGED:
        return value_form(_TAGGED[block], value)
    if isinstance(block, Optional):
        return None if value is None else field_form(block.subcon, value)
    if isinstance(block, SequenceOf):
        return [field_form(block.subcon, item) for item in value]
    if block is data.DATA:
        return data_form(value)
    if block is data.TIME_TAG:
        return {"time": date_time_s(value.sent), "ti": {"unit": value.delay.unit, "n": value.delay.n}}
    if block is pieces.PIID:
        return {"n": value.number, "prio": value.priority, "acd": value.acd}
    if block is pieces.RESULT_NORMAL:
        return _result_form(value)
    if block is pieces.RESULT_RECORD:
        return _record_form(value)
    if block is pieces.FOLLOW.subcon:
        return _follow_form(value)
    if block is link.MECHANISM:
        return _mechanism_form(value)
    if block is MD5 or block is proxy.TRANS_RESULT:
        return {"dar": int(value)} if isinstance(value, Dar) else hex_of(value)
    if isinstance(block, RecordBlock):
        return _fields_form(value)
    if isinstance(value, bytes):
        return hex_of(value)
    return value


def _item_of(block: Construct, form: Any, what: str) -> Any:
    try:
        return field_of(block, form, what)
    except FormError as error:
        text = str(error)
        raise FormError(text if text.startswith(what) else f"{what}: {text}") from None


def field_of(block: Construct, form: Any, what: str) -> Any:
    """The value of a field from its JSON. Raises FormError."""
    if block in _TAGGED:
        return value_of(_TAGGED[block], form, what)
    if isinstance(block, Optional):
        return None if form is None else field_of(block.subcon, form, what)
    if isinstance(block, SequenceOf):
        return tuple([_item_of(block.subcon, item, f"{what}[{n}]") for n, item in enumerate(list_of(form, what))])
    if block is data.DATA:
        return data_of(form)
    if block is data.TIME_TAG:
        return TimeTag(from_date_time_s(member(form, "time", what)), value_of(Tag.TI, member(form, "ti", what), what))
    if block is pieces.PIID:
        number, priority, acd = (
            int_of(member(form, name, what), f"{what}.{name}", most)
            for name, most in (("n", 0x3F), ("prio", 1), ("acd", 1))
        )
        return Piid(priority << 7 | acd << 6 | number)
    if block is pieces.RESULT_NORMAL:
        return _result_of(form)
    if block is pieces.RESULT_RECORD:
        return _record_of(form)
    if block is pieces.FOLLOW.subcon:
        return _follow_of(form)
    if block is link.MECHANISM:
        return _mechanism_of(form)
    if block is MD5 or block is proxy.TRANS_RESULT:
        return _dar_or_octets_of(form, what)
    if block is pieces.DAR:
        return Dar(int_of(form, what))
    if block is pieces.BOOL_OCTET:
        return bool_of(form, what)
    if isinstance(block, RecordBlock):
        return _fields_of(block.kind, form)
    if isinstance(block, Prefixed | Fixed):
        return octets_of(form, what)
    return int_of(form, what)


def _fields_form(value: Any) -> dict[str, Any]:
    names = _NAMES.get(type(value), {})
    return {
        names.get(field.name, field.name): field_form(field.metadata["block"], getattr(value, field.name))
        for field in dataclasses.fields(value)
    }


def _fields_of(kind: type[Any], form: Any) -> Any:
    names = _NAMES.get(kind, {})
    values = {}
    if not isinstance(form, dict):
        raise FormError(f"{kind.__name__}: an object expected, not {form!r:.80}")
    for field in dataclasses.fields(kind):
        name = names.get(field.name, field.name)
        if name not in form and field.default is not dataclasses.MISSING:
            continue
        values[field.name] = field_of(field.metadata["block"], member(form, name, kind.__name__), name)
    return kind(**values)


# --- services -----------------------------------------------------------------------------------------------------


MAX_ENVELOPES = 4
"""SECURITY envelopes within one another that are opened; what is deeper is given as octets."""


def apdu_form(apdu: Apdu, depth: int = 0) -> dict[str, Any]:
    """JSON of an APDU; `service` names it. `depth` counts the SECURITY envelopes around it."""
    form: dict[str, Any] = {"service": apdu.SERVICE}
    match apdu:
        case link.LinkRequest():
            form |= _fields_form(apdu)
            form["type"] = LINK_KINDS[apdu.type] if apdu.type < len(LINK_KINDS) else apdu.type
        case link.LinkResponse():
            form["piid"] = field_form(pieces.PIID, apdu.piid)
            form |= {"clock_trusted": apdu.result >> 7, "result": apdu.result & 7}
            if apdu.result & 0x78:
                form["reserved"] = apdu.result >> 3 & 0xF
            for name in ("request", "received", "response"):
                form[name] = date_time(getattr(apdu, name))
        case GetResponseNormal():
            form |= _fields_form(apdu)
            form |= form.pop("result")
            form |= {"follow": form.pop("follow"), "timetag": form.pop("timetag")}
        case GetResponseRecord():
            form |= _fields_form(apdu)
            form |= form.pop("record")
            form |= {"follow": form.pop("follow"), "timetag": form.pop("timetag")}
        case proxy.ProxyTransCommandResponse():
            form |= _fields_form(apdu)
            form["data"] = form.pop("result")
            form |= {"follow": form.pop("follow"), "timetag": form.pop("timetag")}
        case security.SecurityRequest() | security.SecurityResponse():
            form |= _security_form(apdu, depth)
        case _:
            form |= _fields_form(apdu)
            if "content" in form:
                form |= _block_form(form.pop("content"))
    return form


def _block_form(content: Any) -> dict[str, Any]:
    if isinstance(content, Dar):
        return {"dar": int(content)}
    form: dict[str, Any] = _follow_form(content)
    return form


_TAILS = ((pieces.FOLLOW, "follow"), (data.OPTIONAL_TIME_TAG, "timetag"))


def apdu_of(form: Any) -> Apdu:
    """The APDU that JSON says. Raises FormError."""
    name = member(form, "service", "apdu")
    kind = BY_NAME.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FormError(f"service {name!r} is not known")
    if kind is link.LinkRequest:
        asked = member(form, "type", name)
        form = form | {"type": LINK_KINDS.index(asked) if asked in LINK_KINDS else asked}
    elif kind is link.LinkResponse:
        result = int_of(member(form, "result", name), "result", 7)
        result |= int_of(form.get("reserved", 0), "reserved", 15) << 3
        result |= int_of(member(form, "clock_trusted", name), "clock_trusted", 1) << 7
        form = form | {"result": result}
    elif kind is GetResponseNormal:
        form = form | {"result": {key: form[key] for key in ("oad", "result", "dar") if key in form}}
    elif kind is GetResponseRecord:
        form = form | {"record": form}
    elif kind is proxy.ProxyTransCommandResponse:
        form = form | {"result": member(form, "data", name)}
    elif kind in (security.SecurityRequest, security.SecurityResponse):
        return _security_of(kind, form)
    elif kind is GetResponseNext:
        content = Dar(int_of(form["dar"], name)) if "dar" in form else _follow_of(form)
        tails = [field_of(block, form.get(tail), tail) for block, tail in _TAILS]
        return GetResponseNext(
            field_of(pieces.PIID, member(form, "piid", name), name),
            bool_of(member(form, "last", name), "last"),
            int_of(member(form, "block", name), name),
            content,
            *tails,
        )
    made: Apdu = _fields_of(kind, form)
    return made


def _security_form(apdu: security.SecurityRequest | security.SecurityResponse, depth: int) -> dict[str, Any]:
    form: dict[str, Any] = {"mode": ("plain", "cipher", "dar")[apdu.unit.mode]}
    inner = model.inner_of(apdu)
    if inner is not None and depth >= MAX_ENVELOPES:
        form |= {"inner_raw": hex_of(inner), "inner_error": f"more than {MAX_ENVELOPES} envelopes"}
    elif inner is not None:
        try:
            parsed = model.parse(inner)
        except WireError as error:
            form |= {"inner_raw": hex_of(inner), "inner_error": str(error)}
        else:
            if parsed.warnings:
                form |= {"inner_raw": hex_of(inner), "inner_warnings": parsed.warnings}
            form["inner"] = apdu_form(parsed.apdu, depth + 1)
    elif isinstance(apdu.unit.content, Dar):
        form["dar"] = int(apdu.unit.content)
    else:
        form["cipher"] = hex_of(apdu.unit.content)
    if isinstance(apdu, security.SecurityResponse):
        form["mac"] = None if apdu.mac is None else hex_of(apdu.mac)
        return form
    check = apdu.check.value
    match apdu.check.kind:
        case 0:
            form["verify"] = {"sid_mac": value_form(Tag.SID_MAC, check)}
        case 1:
            form["verify"] = {"rn": value_form(Tag.RN, check)}
        case 2:
            form["verify"] = {"rn_mac": [value_form(Tag.RN, part) for part in check]}
        case _:
            form["verify"] = {"sid": value_form(Tag.SID, check)}
    return form


def _security_of(kind: type[Apdu], form: Any) -> Apdu:
    if "inner_raw" in form:
        unit = security.Unit(security.PLAIN, octets_of(form["inner_raw"], "inner_raw"))
    elif "inner" in form:
        unit = security.Unit(security.PLAIN, model.build(apdu_of(form["inner"])))
    elif "dar" in form:
        unit = security.Unit(security.REFUSED, Dar(int_of(form["dar"], "dar")))
    else:
        unit = security.Unit(security.CIPHER, octets_of(member(form, "cipher", "SECURITY"), "cipher"))
    if kind is security.SecurityResponse:
        mac = form.get("mac")
        return security.SecurityResponse(unit, None if mac is None else octets_of(mac, "mac"))
    verify = member(form, "verify", "SECURITY")
    if not isinstance(verify, dict):
        raise FormError(f"verify: an object expected, not {verify!r:.80}")
    for number, (name, tag) in enumerate(
        (("sid_mac", Tag.SID_MAC), ("rn", Tag.RN), ("rn_mac", Tag.RN), ("sid", Tag.SID))
    ):
        if name not in verify:
            continue
        if name == "rn_mac":
            parts = [octets_of(part, name) for part in list_of(verify[name], name)]
            if len(parts) != 2:
                raise FormError(f"{name}: RN and MAC expected, not {verify[name]!r:.80}")
            return security.SecurityRequest(unit, security.Check(number, (parts[0], parts[1])))
        return security.SecurityRequest(unit, security.Check(number, value_of(tag, verify[name], name)))
    raise FormError(f"verify: sid_mac, rn, rn_mac or sid expected, not {verify!r:.80}")


# --- frames -------------------------------------------------------------------------------------------------------


def service_name(apdu: Apdu) -> str:
    """The service with what distinguishes it at a glance: the kind of LINK, what is inside an envelope."""
    if isinstance(apdu, link.LinkRequest):
        return f"{apdu.SERVICE} {LINK_KINDS[apdu.type] if apdu.type < len(LINK_KINDS) else apdu.type}"
    if isinstance(apdu, security.SecurityRequest | security.SecurityResponse):
        inner = model.inner_of(apdu)
        if inner is not None:
            try:
                return f"{apdu.SERVICE}({model.parse(inner).apdu.SERVICE})"
            except WireError:
                pass
    return apdu.SERVICE


def frame_form(frame: Frame) -> dict[str, Any]:
    """JSON of a frame's own fields, without its user data."""
    control = frame.control
    return {
        "length": len(frame.raw) - 2,
        "control": control,
        "dir": control >> 7,
        "prm": control >> 6 & 1,
        "fragment": control >> 5 & 1,
        "scrambled": control >> 3 & 1,
        "function": control & 7,
        "address": frame.address.text,
        "address_type": ADDRESS_KINDS[frame.address.kind],
        "logical_address": frame.address.logical,
        "client_address": frame.client,
    }


def decode_apdu(octets: bytes) -> dict[str, Any]:
    """`{ok, service, apdu, warnings}` of a bare APDU, or `{ok: false, offset, reason}`."""
    try:
        parsed = model.parse(octets)
    except WireError as error:
        return {"ok": False, "offset": error.offset, "reason": error.reason}
    return {
        "ok": True,
        "service": service_name(parsed.apdu),
        "apdu": apdu_form(parsed.apdu),
        "warnings": parsed.warnings,
    }


def decode_frame(frame: Frame) -> dict[str, Any]:
    """`{ok, frame, service, apdu, warnings}` of a good frame.

    Octets that are no APDU do not make the frame bad (oddity 11): they are given raw, with a warning that says why.
    """
    form: dict[str, Any] = {"ok": True, "frame": frame_form(frame)}
    if frame.is_fragment:
        try:
            fragment = parse_fragment(frame.data, frame.data_offset)
        except WireError as error:
            return {"ok": False, "offset": error.offset, "reason": error.reason, "frame": form["frame"]}
        kind = FRAGMENT_KINDS[fragment.kind]
        parts = {"seq": fragment.seq, "kind": kind, "reserved": fragment.reserved}
        return form | {
            "service": f"link-fragment {kind}",
            "apdu": {"fragment": parts, "data": hex_of(fragment.piece)},
            "warnings": [],
        }
    try:
        parsed = model.parse(frame.data, base=frame.data_offset)
    except WireError as error:
        return form | {
            "service": f"unknown {hex_of(frame.data[:2])}",
            "apdu": {"raw": hex_of(frame.data)},
            "warnings": [f"apdu-unreadable: {error}"],
        }
    form |= {"service": service_name(parsed.apdu), "apdu": apdu_form(parsed.apdu)}
    if parsed.warnings:
        form["raw"] = hex_of(frame.data)
    return form | {"warnings": parsed.warnings}


def encode_apdu(form: Any) -> bytes:
    """The octets of the APDU in `{apdu: ...}`. Raises FormError."""
    apdu = member(form, "apdu", "input")
    try:
        if "raw" in form:
            return octets_of(form["raw"], "raw")
        if not isinstance(apdu, dict):
            raise FormError(f"apdu: an object expected, not {apdu!r:.80}")
        if "raw" in apdu:
            return octets_of(apdu["raw"], "raw")
        if "fragment" in apdu:
            return _fragment_of(apdu)
        return model.build(apdu_of(apdu))
    except BuildError as error:
        raise FormError(str(error)) from error
    except RecursionError:
        raise FormError("apdu: nested too deeply") from None


def _fragment_of(apdu: dict[str, Any]) -> bytes:
    parts = apdu["fragment"]
    kind = member(parts, "kind", "fragment")
    if kind not in FRAGMENT_KINDS:
        raise FormError(f"kind: one of {FRAGMENT_KINDS} expected, not {kind!r:.80}")
    return build_fragment(
        int_of(member(parts, "seq", "fragment"), "seq", 0xFFF),
        FRAGMENT_KINDS.index(kind),
        octets_of(member(apdu, "data", "fragment"), "data"),
        int_of(parts.get("reserved", 0), "reserved", 3),
    )


def encode_frame(form: Any) -> bytes:
    """The octets of `{frame: ..., apdu: ...}`, from 68 to 16. Raises FormError.

    Of the frame, `control`, `address` with its type and logical address, and `client_address` are read: the others
    (length, the single bits of control) follow from these.
    """
    head = member(form, "frame", "input")
    control = int_of(member(head, "control", "frame"), "control", 0xFF)
    kind = head.get("address_type", "single")
    if kind not in ADDRESS_KINDS:
        raise FormError(f"address_type: one of {ADDRESS_KINDS} expected, not {kind!r:.80}")
    logical = int_of(head.get("logical_address", 0), "logical_address", 3)
    client = int_of(member(head, "client_address", "frame"), "client_address", 0xFF)
    digits = member(head, "address", "frame")
    try:
        address = Address.of(digits, ADDRESS_KINDS.index(kind), logical)
    except (TypeError, ValueError):
        raise FormError(f"address: 1 to 32 hexadecimal digits expected, not {digits!r:.80}") from None
    octets = encode_apdu(form)
    try:
        return build_frame(control & ~SCRAMBLED, address, client, octets, scrambled=bool(control & SCRAMBLED))
    except ValueError as error:
        raise FormError(f"apdu: {error}") from error
