"""Values of the wire as the contract writes them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal_side import array, instant, structure, tsa, u16, u32

from protocols import plain
from protocols.mapping import Mapper
from protocols.plain import Printed, address_of, bits_of, date_of, environment, number_expression, text_of, time_of
from protocols.times import Instants
from wire698.values import BitString, Comdcb, Data, Oad, Omd, Region, Road, ScalerUnit, Tag, Ti

MAPPER = Mapper(Instants(ZoneInfo("Asia/Shanghai")))
NAMES = environment(Instants(ZoneInfo("Asia/Shanghai")), Printed())

UNSIGNED = [Tag.UNSIGNED, Tag.LONG_UNSIGNED, Tag.DOUBLE_LONG_UNSIGNED, Tag.LONG64_UNSIGNED]
SIGNED = [Tag.INTEGER, Tag.LONG, Tag.DOUBLE_LONG, Tag.LONG64]


def number(value: int, tag: Tag, scale: int | None) -> Any:
    return eval(f"lambda c: {number_expression('c[0]', tag, scale)}", NAMES)((value,))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-8, 0))
def test_a_scaled_number_is_the_nearest_double_of_the_exact_decimal(raw: int, scale: int) -> None:
    assert number(raw, Tag.LONG64, scale) == float(Decimal(raw).scaleb(scale)) or scale == 0


@given(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-8, 3))
def test_up_to_15_digits_the_exact_number_comes_back(raw: int, scale: int) -> None:
    value = number(raw, Tag.LONG64, scale)
    exact = Decimal(raw).scaleb(scale)
    assert Decimal(repr(value)) == exact
    assert round(value, -scale) == value
    assert Decimal(repr(round(value, -scale))) == exact
    assert Decimal(json.dumps(value)) == exact


@pytest.mark.parametrize(("tag", "bits"), list(zip(UNSIGNED, (8, 16, 32, 64), strict=True)))
@pytest.mark.parametrize("scale", [None, 0, -1, 2])
def test_all_ff_is_no_value(tag: Tag, bits: int, scale: int | None) -> None:
    assert number(2**bits - 1, tag, scale) is None
    assert number(2**bits - 2, tag, scale) is not None
    assert number(0, tag, scale) == 0
    assert plain.is_absent(Data(tag, 2**bits - 1))
    assert not plain.is_absent(Data(tag, 2**bits - 2))


@pytest.mark.parametrize("tag", SIGNED)
def test_minus_one_is_a_number(tag: Tag) -> None:
    assert number(-1, tag, None) == -1
    assert number(-1, tag, -3) == -0.001
    assert not plain.is_absent(Data(tag, -1))


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"ok", "ok"),
        ("电".encode("gbk"), "电"),
        (b"meter\x00\x00\x00", "meter"),
        (b"", ""),
        (b"\x00\x00", ""),
        (b"a\xff", "a\ufffd"),
    ],
)
def test_text_is_best_effort(octets: bytes, text: str) -> None:
    assert text_of(octets) == text


@given(st.binary(max_size=40))
def test_any_octets_are_some_text(octets: bytes) -> None:
    json.dumps(text_of(octets)).encode()
    text_of(octets).encode()
    plain.utf8_of(octets).encode()


@given(st.integers(1, 70).flatmap(lambda n: st.tuples(st.just(n), st.binary(min_size=-(-n // 8), max_size=-(-n // 8)))))
def test_bits_are_in_their_order(case: tuple[int, bytes]) -> None:
    bits, octets = case
    value = BitString(bits, octets)
    assert bits_of(octets, bits) == "".join("1" if value.bit(n) else "0" for n in range(bits))


def test_no_bits() -> None:
    assert bits_of(b"", 0) == ""


@pytest.mark.parametrize(
    ("octets", "digits"),
    [
        ("112233445566", "112233445566"),
        ("000000000001", "000000000001"),
        ("12345F", "12345"),
        ("FFFFFFFFFFFF", None),
        ("FF", None),
        ("", None),
    ],
)
def test_an_address_is_its_printed_digits(octets: str, digits: str | None) -> None:
    assert address_of(bytes.fromhex(octets)) == digits


@pytest.mark.parametrize(
    ("octets", "digits"),
    [
        ("05112233445566", "112233445566"),
        ("112233445566", "112233445566"),  # no descriptor octet (oddity 6)
        ("0212345F", "12345"),
        ("15112233445566", "112233445566"),  # logical address 1
        ("00AA", "AA"),
        ("", None),
        ("05", "05"),
        ("05FFFFFFFFFFFF", None),
    ],
)
def test_a_tsa_is_its_printed_digits(octets: str, digits: str | None) -> None:
    printed = Printed()
    assert printed[bytes.fromhex(octets)] == digits
    assert printed[bytes.fromhex(octets)] == digits


def test_printed_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_PRINTED_KEPT", 10)
    printed = Printed()
    for n in range(100):
        assert printed[bytes((1, n, 0))] == f"{n:02X}00"
        assert len(printed) <= 10


def test_dates_and_times_of_day() -> None:
    assert date_of(bytes.fromhex("07E90B1801")) == "2025-11-24"
    assert date_of(bytes.fromhex("FFFF0101FF")) == "*-01-01"
    assert date_of(bytes.fromhex("07E9FFFFFF")) == "2025-*-*"
    assert date_of(bytes.fromhex("FFFFFFFFFF")) is None
    assert time_of(bytes.fromhex("0A1E00")) == "10:30:00"
    assert time_of(bytes.fromhex("FF1E00")) == "*:30:00"
    assert time_of(bytes.fromhex("FFFFFF")) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Data(Tag.NULL, None), None),
        (Data(Tag.BOOL, True), True),
        (Data(Tag.ENUM, 255), 255),
        (u16(0xFFFF), 0xFFFF),  # of an unknown object: the plain typed value
        (Data(Tag.BIT_STRING, BitString(10, b"\x80\x40")), "1000000001"),
        (Data(Tag.OCTET_STRING, b"\xab\xcd"), "ABCD"),
        (Data(Tag.VISIBLE_STRING, "保电".encode("gbk")), "保电"),
        (Data(Tag.UTF8_STRING, "保电".encode()), "保电"),
        (Data(Tag.FLOAT64, 1.5), 1.5),
        (Data(Tag.DATE, bytes.fromhex("07E90B1801")), "2025-11-24"),
        (Data(Tag.TIME, bytes.fromhex("0A1E00")), "10:30:00"),
        (instant("2025-11-25 00:00:00"), 1_764_000_000_000),
        (Data(Tag.DATE_TIME, bytes.fromhex("07E90B190200000001F4")), 1_764_000_000_500),
        (Data(Tag.OI, 0x3106), "3106"),
        (Data(Tag.OAD, Oad(0x20000201)), "20000201"),
        (Data(Tag.OMD, Omd(0x80008100)), "80008100"),
        (tsa("000000000001"), "000000000001"),
        (Data(Tag.TI, Ti(1, 15)), {"unit": 1, "n": 15}),
        (Data(Tag.SCALER_UNIT, ScalerUnit(-2, 33)), {"scaler": -2, "unit": 33}),
        (Data(Tag.COMDCB, Comdcb(6, 2, 8, 1, 0)), [6, 2, 8, 1, 0]),
        (Data(Tag.ROAD, Road(Oad(0x50040200), (Oad(0x20210200),))), {"oad": "50040200", "oads": ["20210200"]}),
        (structure(u32(1), array(u16(2), Data(Tag.NULL, None)), array()), [1, [2, None], []]),
    ],
)
def test_every_type_has_a_plain_value(data: Data, expected: Any) -> None:
    value = MAPPER.value(data)
    if data.tag == Tag.ROAD:
        assert json.loads(json.dumps(value)) is not None
        assert "50040200" in json.dumps(value)
        assert "20210200" in json.dumps(value)
    else:
        assert value == expected
        assert type(value) is type(expected)


def test_what_nests_too_deep_for_a_message_is_its_octets() -> None:
    data = Data(Tag.REGION, Region(0, u16(1), u16(2)))
    shallow = MAPPER.value(data)
    assert shallow["from"] == {"t": "long-unsigned", "v": 1}
    for _ in range(14):
        data = Data(Tag.REGION, Region(0, data, u16(2)))
    deep = MAPPER.value(data)
    assert isinstance(deep, str)
    assert bytes.fromhex(deep)[:2] == b"\x58\x00"
