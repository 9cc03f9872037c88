"""JSON that says no APDU or frame: a FormError that names the place, and nothing else."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies698 import apdus, law, vectors

from wire698 import jsonform
from wire698.forms import FormError, data_of, from_date_time, from_date_time_s
from wire698.frame import parse_frame
from wire698.values import Oad, Omd

_FORMS = [jsonform.decode_frame(parse_frame(bytes.fromhex(entry["hex"]))) for entry in vectors("frames.json")]
_FORMS += [jsonform.decode_apdu(bytes.fromhex(entry["hex"])) for entry in vectors("apdus.json")]
_FORMS = [form for form in _FORMS if form["ok"]]

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 300)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.sampled_from(["40010200", "all", "plain", "9" * 5000, "2025-11-24 10:30:00", "single", "first"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["t", "v", "dar", "oad", "n"]), inner),
    max_leaves=5,
)


def _places(form: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inside = form.items() if isinstance(form, dict) else enumerate(form) if isinstance(form, list) else ()
    for key, value in inside:
        found += _places(value, (*path, key))
    return found


@law(600)
@given(st.data())
def test_changed_json_raises_nothing_but_form_error(source: st.DataObject) -> None:
    form = deepcopy(source.draw(st.sampled_from(_FORMS)))
    for _ in range(source.draw(st.integers(1, 2))):
        *path, last = source.draw(st.sampled_from(_places(form)))
        inside = form
        for key in path:
            inside = inside[key]
        if source.draw(st.booleans()):
            inside[last] = source.draw(_json)
        else:
            del inside[last]
        if not _places(form):
            break
    for encode in (jsonform.encode_apdu, jsonform.encode_frame):
        try:
            octets = encode(form)
        except FormError as error:
            assert str(error)  # noqa: PT017
        else:
            assert isinstance(octets, bytes)


@law(200)
@given(_json)
def test_any_json_raises_nothing_but_form_error(form: Any) -> None:
    for shape in (form, {"apdu": form}, {"apdu": form, "frame": form}, {"apdu": {"service": form}}):
        for encode in (jsonform.encode_apdu, jsonform.encode_frame):
            with pytest.raises(FormError):
                encode(shape)
    with pytest.raises(FormError):
        data_of({"t": form, "v": form})


@law(50)
@given(apdus())
def test_what_is_encoded_is_what_was_decoded_through_text(apdu: Any) -> None:
    text = json.dumps({"apdu": jsonform.apdu_form(apdu)})
    assert jsonform.apdu_of(json.loads(text)["apdu"]) == apdu


PIID = {"n": 1, "prio": 0, "acd": 0}
GET = {"service": "GetRequestNormal", "piid": PIID, "oad": "40010200", "timetag": None}
LIST = {"service": "GetRequestNormalList", "piid": PIID, "oads": ["40010200", "4001020"]}
SET = {"service": "SetRequestNormal", "piid": PIID, "oad": "40010200", "value": {"t": "unsigned", "v": 5}}
REPORT = {"service": "ReportNotificationRecordList", "piid": PIID}
RECORD = {"oad": "50040200", "rcsd": ["20210200"], "rows": [[{"t": "unsigned", "v": 1}, {"t": "unsigned", "v": 1}]]}


@pytest.mark.parametrize(
    ("apdu", "error"),
    [
        (None, "apdu: an object expected"),
        ({}, "apdu: an object with 'service' expected"),
        ({"service": "GetRequest"}, "service 'GetRequest' is not known"),
        ({"service": ["x"]}, "is not known"),
        ({"service": "GetRequestNormal"}, "GetRequestNormal: an object with 'piid' expected"),
        (GET | {"oad": "4001020"}, "oad: 8 hexadecimal digits expected, not '4001020'"),
        (GET | {"oad": "4_010200"}, "oad: 8 hexadecimal digits"),
        (GET | {"oad": 0x40010200}, "oad: 8 hexadecimal digits"),
        (GET | {"piid": 1}, "piid: an object with 'n' expected"),
        (GET | {"piid": PIID | {"n": 64}}, "piid.n: 0 to 63 expected, not 64"),
        (GET | {"piid": PIID | {"acd": 2}}, "piid.acd: 0 to 1 expected"),
        (GET | {"timetag": {"time": "today", "ti": {"unit": 0, "n": 1}}}, "date_time_s: 'today' is not of the form"),
        (GET | {"timetag": {"time": "2025-11-24 10:30:00", "ti": {"unit": 0, "n": 65536}}}, "format requires"),
        (LIST, r"oads\[1\]: oad: 8 hexadecimal digits expected, not '4001020'"),
        (LIST | {"oads": "40010200"}, "oads: a list expected"),
        (SET | {"value": {"t": "byte", "v": 5}}, "data: type 'byte' is not known"),
        (SET | {"value": {"t": "unsigned"}}, "unsigned: an object with 'v' expected"),
        (SET | {"value": {"t": "unsigned", "v": "5"}}, "unsigned: a whole number expected, not '5'"),
        (SET | {"value": {"t": "unsigned", "v": True}}, "unsigned: a whole number expected, not True"),
        (SET | {"value": {"t": "unsigned", "v": 256}}, "ubyte format requires"),
        (SET | {"value": {"t": "bool", "v": "false"}}, "bool: true or false expected, not 'false'"),
        (SET | {"value": {"t": "null", "v": 0}}, "null: has no value, not 0"),
        (SET | {"value": {"t": "OI", "v": "230101"}}, "OI: 4 hexadecimal digits expected"),
        (SET | {"value": {"t": "octet-string", "v": "0"}}, "octet-string: '0' is not hexadecimal octets"),
        (SET | {"value": {"t": "visible-string", "v": "\u1e00"}}, "text: 'Ḁ' has no GBK form"),
        (SET | {"value": {"t": "bit-string", "v": {"bits": 9, "hex": "00"}}}, "9 bits take 2 octets, not 1"),
        (SET | {"value": {"t": "float32", "v": 1e39}}, "float too large"),
        (SET | {"value": {"t": "COMDCB", "v": [1]}}, "COMDCB: five numbers expected"),
        (SET | {"value": {"t": "RSD", "v": {"sel": 11}}}, "RSD: selector 0 to 10 expected, not 11"),
        (SET | {"value": {"t": "MS", "v": "some"}}, "MS: one of"),
        (REPORT | {"records": [RECORD]}, "a row of 1 columns expected, not 2"),
        (REPORT | {"records": [RECORD | {"rows": 5}]}, r"records\[0\]: rows: a list expected"),
        ({"service": "LINK-Request", "piid": PIID, "type": "hello", "period": 1, "time": "x"}, "type: a whole number"),
        (
            {"service": "SECURITY-Request", "mode": "plain", "inner": GET, "verify": {"rn_mac": ["00"]}},
            "rn_mac: RN and MAC expected",
        ),
        ({"service": "SECURITY-Request", "mode": "plain", "inner": GET, "verify": {}}, "verify: sid_mac, rn, rn_mac"),
        ({"service": "SECURITY-Request", "mode": "plain", "inner": LIST, "verify": {}}, r"oads\[1\]"),
        ({"fragment": {"seq": 4096, "kind": "first"}, "data": ""}, "seq: 0 to 4095 expected, not 4096"),
        ({"fragment": {"seq": 1, "kind": "only"}, "data": ""}, "kind: one of .* expected, not 'only'"),
        ({"raw": "x"}, "raw: 'x' is not hexadecimal octets"),
    ],
)
def test_errors_of_an_apdu_name_the_place(apdu: Any, error: str) -> None:
    with pytest.raises(FormError, match=error):
        jsonform.encode_apdu({"apdu": apdu})


FRAME = {"control": 0x43, "address": "123456789012", "client_address": 0x10}


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (None, "frame: an object with 'control' expected"),
        (FRAME | {"control": 256}, "control: 0 to 255 expected"),
        (FRAME | {"address": ""}, "address: 1 to 32 hexadecimal digits expected, not ''"),
        (FRAME | {"address": 123}, "address: 1 to 32 hexadecimal digits"),
        (FRAME | {"address": "12G4"}, "address: 1 to 32 hexadecimal digits"),
        (FRAME | {"address_type": "many"}, "address_type: one of"),
        (FRAME | {"logical_address": 4}, "logical_address: 0 to 3 expected"),
        (FRAME | {"client_address": -1}, "client_address: 0 to 255 expected"),
        ({"control": 0x43}, "frame: an object with 'client_address' expected"),
    ],
)
def test_errors_of_a_frame_name_the_place(frame: Any, error: str) -> None:
    with pytest.raises(FormError, match=error):
        jsonform.encode_frame({"frame": frame, "apdu": GET})


def test_what_is_too_long_for_a_frame_says_so() -> None:
    with pytest.raises(FormError, match="apdu: 20000 octets of user data"):
        jsonform.encode_frame({"frame": FRAME, "apdu": {"raw": "00" * 20000}})
    long = SET | {"value": {"t": "octet-string", "v": "00" * 70000}}
    with pytest.raises(FormError, match="length 70000 does not fit"):
        jsonform.encode_apdu({"apdu": long})


def test_what_is_nested_too_deeply_says_so() -> None:
    value: Any = {"t": "null", "v": None}
    for _ in range(17):
        value = {"t": "structure", "v": [value]}
    with pytest.raises(FormError, match="nested deeper than 16"):
        jsonform.encode_apdu({"apdu": SET | {"value": value}})
    for _ in range(5000):
        value = {"t": "structure", "v": [value]}
    with pytest.raises(FormError, match="nested too deeply"):
        jsonform.encode_apdu({"apdu": SET | {"value": value}})


def test_times_that_are_none() -> None:
    assert from_date_time_s("65535-255-255 255:255:255") == b"\xff" * 7
    for text in ("65536-01-01 00:00:00", "2025-256-01 00:00:00", "9" * 5000 + "-01-01 00:00:00", None, 5):
        with pytest.raises(FormError, match="date_time_s"):
            from_date_time_s(text)
    with pytest.raises(FormError, match="date_time"):
        from_date_time("2025-11-24 10:30:00.000")


@pytest.mark.parametrize(
    "text", ["4001020", "400102000", "4_010200", "+4001020", "0x401020", " 4010200", "４００１０２００"]
)
def test_descriptors_are_eight_hexadecimal_digits(text: str) -> None:
    for kind in (Oad, Omd):
        with pytest.raises(ValueError, match="8 hexadecimal digits"):
            kind.of(text)
