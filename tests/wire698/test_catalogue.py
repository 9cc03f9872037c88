"""The object catalogue, the units and the DAR table against the reference lists they were made from.

`tests/data/dlt698_objects.csv` is the list of objects as it was collected; the two texts below are the tables
of results and units as they were collected.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire698 import catalogue, dar, units

REFERENCE = Path(__file__).parents[1] / "data" / "dlt698_objects.csv"

DAR_TEXT = """
0 success 成功 · 1 hardware failure 硬件失效 · 2 temporarily unavailable 暂时失效
3 read/write refused 拒绝读写 · 4 object undefined 对象未定义
5 interface class mismatch 对象接口类不符合 · 6 object does not exist 对象不存在
7 type mismatch 类型不匹配 · 8 out of range 越界 · 9 data block unavailable 数据块不可用
10 framed transfer cancelled 分帧传输已取消 · 11 not in framed transfer 不处于分帧传输状态
12 block write cancelled 块写取消 · 13 no block write in progress 不存在块写状态
14 bad block number 数据块序号无效 · 15 password wrong/unauthorised 密码错/未授权
16 baud rate cannot change 通信速率不能更改 · 17 too many seasons 年时区数超
18 too many day periods 日时段数超 · 19 too many rates 费率数超
20 security mismatch 安全认证不匹配 · 21 repeated recharge 重复充值
22 ESAM verification failed ESAM验证失败
23 security authentication failed 安全认证失败
24 customer number mismatch 客户编号不匹配 · 25 recharge count wrong 充值次数错误
26 purchase over hoard limit 购电超囤积 · 27 address abnormal 地址异常
28 symmetric decryption error 对称解密错误 · 29 asymmetric decryption error 非对称解密错误
30 signature error 签名错误 · 31 meter suspended 电能表挂起
32 time tag invalid 时间标签无效 · 33 request timeout 请求超时 · 34 ESAM P1P2 wrong
35 ESAM LC wrong · 36 comparison failed 比对失败 · 255 other 其它
"""

UNIT_TEXT = """
1 year a · 2 month · 3 week · 4 day · 5 h · 6 min · 7 s · 8 degree (phase) °
9 °C · 10 currency (yuan) · 11 m · 12 m/s · 13 m3 · 14 m3 (corrected)
15 m3/h · 16 m3/h (corrected) · 17 m3/24h · 18 m3/24h (corrected) · 19 l
20 kg · 21 N · 22 Nm · 23 Pa · 24 bar · 25 J · 26 J/h · 27 W · 28 kW · 29 VA
30 kVA · 31 var · 32 kvar · 33 kWh · 34 kVAh · 35 kvarh · 36 A
37 C (coulomb) · 38 V · 39 V/m · 40 F · 41 Ω · 42 Ω·m · 43 Wb · 44 T · 45 A/m
46 H · 47 Hz · 48 imp/kWh (1/Wh) · 49 imp/kvarh · 50 imp/kVAh · 51 %
52 byte · 53 dBm · 54 yuan/kWh · 55 Ah · 56 ms · 254 other · 255 no unit
"""


def entries(text: str) -> list[tuple[int, str]]:
    """Code and rest of each entry of a table written as running text."""
    items = [item for line in text.strip().splitlines() for item in line.split(" · ")]
    return [(int(code), rest) for code, _, rest in (item.partition(" ") for item in items)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def data_file() -> Path:
    return Path(str(files("wire698").joinpath("objects.csv")))


@pytest.fixture(scope="module")
def rows(data_file: Path) -> list[dict[str, str]]:
    return rows_of(data_file)


# --- the data file


def test_every_object_of_the_reference_is_in_the_data_file_unchanged(rows: list[dict[str, str]]) -> None:
    reference = rows_of(REFERENCE)
    kept = {row["object"]: row for row in rows if row["interface_class"]}
    assert len(reference) == 487
    assert sorted(kept) == sorted(row["oi"] for row in reference)
    for row in reference:
        for name in row.keys() - {"oi"}:
            assert kept[row["oi"]][name] == row[name], (row["oi"], name)


def test_every_object_of_the_reference_is_read(rows: list[dict[str, str]]) -> None:
    units_shown = {"": None, "(none)": None, "min / %": None, "deg": "°", "degC": "°C"}
    for row in rows_of(REFERENCE):
        info = catalogue.lookup(int(row["oi"], 16))
        assert info is not None
        value = info.attributes[info.value_attribute]
        assert (info.chinese, info.english) == (row["chinese_name"], row["english_name"])
        assert f"IC{info.interface_class}" == row["interface_class"]
        assert info.value_attribute == int(row["attribute"])
        assert info.status == row["status"]
        assert value.data_type == row["data_type"]
        assert value.scale == (int(row["scaler"]) if row["scaler"] else None)
        assert value.unit == units_shown.get(row["unit"], row["unit"])


def test_data_file_is_plain_and_sorted(data_file: Path, rows: list[dict[str, str]]) -> None:
    text = data_file.read_text(encoding="utf-8")
    assert "\r" not in text
    assert text.endswith("\n")
    assert len(text.splitlines()) == len(rows) + 1  # one line per row: no cell holds a line break
    assert all(None not in row and None not in row.values() for row in rows)

    def key(row: dict[str, str]) -> tuple[bool, int, int, bool]:
        of_class = row["object"].startswith("IC")
        number = int(row["object"][2:]) if of_class else int(row["object"], 16)
        return of_class, number, int(row["attribute"]), not row["interface_class"]

    keys = [key(row) for row in rows]
    assert keys == sorted(set(keys))


def test_data_file_uses_known_words(rows: list[dict[str, str]]) -> None:
    known_units = {*units.UNITS.values(), "", "=", "(none)", "min / %", "deg", "degC", "times"}
    for row in rows:
        place = (row["object"], row["attribute"])
        assert row["value_kind"] in get_args(catalogue.ValueKind), place
        assert row["kind"] in get_args(catalogue.Kind) if row["interface_class"] else row["kind"] == "", place
        assert row["status"] in {"", "single source", "unsourced", "inferred"}, place
        assert row["unit"] in known_units, place


def test_slugs_are_unique_snake_case(rows: list[dict[str, str]]) -> None:
    slugs = [info.slug for info in catalogue.objects()]
    assert len(slugs) == len(set(slugs)) == 487
    for row in rows:
        assert row["slug"].isascii()
        assert row["slug"].isidentifier()
        assert row["slug"] == row["slug"].lower()


def test_attribute_slugs_are_unique_within_an_object() -> None:
    for info in catalogue.objects():
        slugs = [attribute.slug for attribute in info.attributes.values()]
        assert len(slugs) == len(set(slugs)), info.slug


# --- names


@pytest.mark.parametrize(
    ("oad", "name"),
    [
        (0x00100200, "active_energy_import"),
        (0x00100201, "active_energy_import.total"),
        (0x00100202, "active_energy_import.t1"),
        (0x00100205, "active_energy_import.t4"),
        (0x00110201, "active_energy_import_a.total"),
        (0x00100401, "active_energy_import.extended.total"),
        (0x00200200, "active_energy_export"),
        (0x00500200, "reactive_energy_q1"),
        (0x00800200, "reactive_energy_q4"),
        (0x10100201, "max_demand_import.total"),
        (0x11100200, "freeze_period_max_demand_import"),
        (0x20000201, "voltage.a"),
        (0x20000203, "voltage.c"),
        (0x20010204, "current.n"),
        (0x20010400, "current.neutral"),
        (0x20040201, "active_power.total"),
        (0x20040204, "active_power.c"),
        (0x20050200, "reactive_power"),
        (0x200A0202, "power_factor.a"),
        (0x200D0201, "voltage_harmonic_content.a.total"),
        (0x200D0303, "voltage_harmonic_content.b.h3"),
        (0x20210200, "freeze_time"),
        (0x60400200, "collection_start_time"),
        (0x202A0200, "target_address"),
        (0x20220200, "event_record_no"),
        (0x201E0200, "event_start_time"),
        (0x20200200, "event_end_time"),
        (0x20240200, "event_source"),
        (0x33000200, "report_status"),
        (0x30000600, "voltage_loss.a"),
        (0x30000902, "voltage_loss.total.2"),
        (0x31150200, "remote_trip"),
        (0x33050900, "power_control_trip_record.limit"),
        (0x33090600, "power_off_record.flags"),
        (0x330A0601, "remote_control_record.group_power_after.g1"),
        (0x23010300, "group_1.active_power"),
        (0x23080901, "group_8.month_active_energy.total"),
        (0x24010700, "pulse_1.day_active_energy_import"),
        (0x43000800, "device.active_report"),
        (0x80000500, "remote_control.command_state"),
        (0x80010300, "power_guarantee.auto_after_silence"),
        (0xF2050201, "relay_output.1"),
        (0x40001900, "clock.attr25"),
        (0x20000000, "voltage.attr0"),
        (0x23012300, "group_1.active_power@before"),
        (0x23014900, "group_1.month_active_energy@after"),
        (0x20002201, "voltage.a@before"),
        (0x20006200, "voltage@before_end"),
        (0x20008200, "voltage@after_end"),
        (0xFFFF2203, "oad:FFFF2203"),
    ],
)
def test_name_of_an_oad(oad: int, name: str) -> None:
    assert catalogue.column(oad).name == name
    assert catalogue.find(name) == oad


def test_a_whole_array_names_its_members() -> None:
    voltage = catalogue.column(0x20002200)
    assert voltage.elements == ("a", "b", "c")
    assert voltage.cells(3) == ("voltage.a@before", "voltage.b@before", "voltage.c@before")
    energy = catalogue.column(0x00100200)
    assert energy.elements == ("total", "t1", "t2", "t3", "t4")
    assert energy.cells(3) == (
        "active_energy_import.total",
        "active_energy_import.t1",
        "active_energy_import.t2",
    )
    assert catalogue.column(0x20040200).cells(5)[3:] == ("active_power.c", "active_power.5")
    assert catalogue.column(0x20010200).cells(4)[3] == "current.n"
    assert catalogue.column(0x40180200).cells(2) == ("rate_prices.t1", "rate_prices.t2")
    assert catalogue.column(0x20250200).cells(2) == (
        "event_current_value.count",
        "event_current_value.duration",
    )


def test_names_of_a_long_array_are_made_but_not_kept() -> None:
    energy = catalogue.column(0x00100200)
    before = catalogue._cached_cell_names.cache_info().currsize
    assert energy.cells(5000)[-1] == "active_energy_import.t4999"
    assert catalogue._cached_cell_names.cache_info().currsize == before
    assert catalogue.column.cache_info().maxsize is not None


def test_demand_has_an_instant() -> None:
    whole = catalogue.column(0x10100200)
    assert (whole.value_kind, whole.unit, whole.scale) == ("demand", "kW", -4)
    assert whole.cell("total") == "max_demand_import.total"
    assert whole.cell("total", time=True) == "max_demand_import.total.time"
    assert catalogue.column(0x10100201).cell(time=True) == "max_demand_import.total.time"
    assert catalogue.find("max_demand_import.total.time") == 0x10100201
    with pytest.raises(LookupError):
        catalogue.find("voltage.a.time")


def test_round_trip_of_every_catalogued_attribute() -> None:
    seen: dict[str, int] = {}
    for info in catalogue.objects():
        for number in info.attributes:
            for index in (0, 1, 2, 4, 9, 255):
                for feature in (0, 1, 4):
                    oad = info.oi << 16 | feature << 13 | number << 8 | index
                    name = catalogue.column(oad).name
                    assert catalogue.find(name) == oad
                    assert seen.setdefault(name, oad) == oad
    assert len(seen) > 20_000


@given(st.integers(0, 0xFFFFFFFF))
def test_round_trip_of_any_oad(oad: int) -> None:
    assert catalogue.find(catalogue.column(oad).name) == oad


@given(st.sampled_from(sorted(info.oi for info in catalogue.objects())), st.integers(0, 0xFFFF))
def test_round_trip_of_any_oad_of_a_known_object(oi: int, rest: int) -> None:
    assert catalogue.find(catalogue.column(oi << 16 | rest).name) == oi << 16 | rest


@given(st.text() | st.from_regex(r"[a-z_]+(\.[a-z0-9]+)*(@[a-z]+)?"))
def test_find_answers_or_refuses_any_text(name: str) -> None:
    try:
        oad = catalogue.find(name)
    except LookupError:
        return
    assert 0 <= oad <= 0xFFFFFFFF


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no object"),
        ("no_such_thing", "no object 'no_such_thing'"),
        ("voltage.z", "no attribute or element 'z'"),
        ("voltage.a.b", "no attribute or element 'a.b'"),
        ("voltage.0", "no attribute or element '0'"),
        ("voltage.256", "no attribute or element '256'"),
        ("voltage.attr32", "no attribute or element"),
        ("voltage." + "9" * 5000, "no attribute or element"),
        ("voltage@", "no feature ''"),
        ("voltage@later", "no feature 'later'"),
        ("voltage_loss", "one of .*voltage_loss.a, voltage_loss.b"),
        ("oad:2000020", "eight hexadecimal digits"),
        ("oad:2000020Z", "eight hexadecimal digits"),
        ("oad:20 00 02", "eight hexadecimal digits"),
    ],
)
def test_find_says_what_is_wrong(name: str, reason: str) -> None:
    with pytest.raises(LookupError, match=reason):
        catalogue.find(name)


def test_find_takes_positions_and_hexadecimal() -> None:
    assert catalogue.find("voltage.2") == catalogue.find("voltage.b") == 0x20000202
    assert catalogue.find("oad:20000200") == 0x20000200
    assert catalogue.find("oad:f2050201") == 0xF2050201


# --- what a column is


@pytest.mark.parametrize(
    ("oad", "unit", "scale", "value_kind"),
    [
        (0x00100200, "kWh", -2, "number"),
        (0x00100400, "kWh", -4, "number"),
        (0x00500400, "kvarh", -4, "number"),
        (0x00900400, "kVAh", -4, "number"),
        (0x00100300, None, None, "other"),
        (0x20000200, "V", -1, "number"),
        (0x20010200, "A", -3, "number"),
        (0x20020200, "°", -1, "number"),
        (0x20100200, "°C", -1, "number"),
        (0x200A0200, None, -3, "number"),
        (0x20210200, None, None, "time"),
        (0x202A0200, None, None, "address"),
        (0x41030200, None, None, "text"),
        (0x20150200, None, None, "bits"),
        (0x20240200, None, None, "other"),
        (0x23010300, "kW", -4, "number"),
        (0x23010700, "kWh", -4, "number"),
        (0x23010D00, "min", 0, "number"),
        (0x24010D00, "kvarh", -4, "number"),
        (0x33060800, "kWh", -4, "number"),
        (0x330A0600, "kW", -4, "number"),
        (0x80000300, None, None, "bits"),
        (0x81000200, "kW", -4, "number"),
    ],
)
def test_unit_scale_and_kind_of_value(oad: int, unit: str | None, scale: int | None, value_kind: str) -> None:
    info = catalogue.column(oad)
    assert (info.unit, info.scale, info.value_kind) == (unit, scale, value_kind)


def test_a_structure_of_different_units_is_never_scaled() -> None:
    wallet = catalogue.column(0x202C0200)
    assert wallet.attribute is not None
    assert wallet.attribute.scale == -2
    assert (wallet.scale, wallet.unit) == (None, None)
    assert catalogue.column(0x202C0201).name == "wallet.balance"


def test_an_unknown_object_keeps_its_oad() -> None:
    info = catalogue.column(0xFFFF2203)
    assert info.name == "oad:FFFF2203"
    assert (info.info, info.kind, info.feature, info.elements, info.is_array) == (None, None, None, (), False)
    assert info.value_kind == "other"
    assert catalogue.lookup(0xFFFF) is None


def test_an_unknown_attribute_of_a_known_object() -> None:
    info = catalogue.column(0x20001900)
    assert (info.name, info.attribute, info.unit, info.scale) == ("voltage.attr25", None, None, None)
    assert info.kind == "variable"


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_a_number_that_is_no_oad(number: int) -> None:
    with pytest.raises(ValueError, match="not an OAD"):
        catalogue.column(number)


# --- events and series


@pytest.mark.parametrize(
    ("oi", "slug"),
    [
        (0x3000, "voltage_loss"),
        (0x3003, "phase_break"),
        (0x3007, "current_reversal"),
        (0x300F, "reverse_phase_sequence"),
        (0x3011, "meter_power_down"),
        (0x301B, "meter_cover_open"),
        (0x3106, "power_off"),
        (0x3115, "remote_trip"),
    ],
)
def test_alarm_names_of_the_contract(oi: int, slug: str) -> None:
    info = catalogue.event(oi)
    assert info is not None
    assert info.slug == slug


def test_every_event_object_has_a_severity_and_nothing_else_has() -> None:
    for info in catalogue.objects():
        is_event = info.interface_class in {7, 24}
        assert is_event == (catalogue.event(info.oi) is not None), info.slug
        assert is_event == (info.severity in get_args(catalogue.Severity)), info.slug


def test_phase_of_a_record_table() -> None:
    loss = catalogue.event(0x3000)
    assert loss is not None
    assert dict(loss.phases) == {6: "a", 7: "b", 8: "c", 9: "total"}
    for oi in (0x300B, 0x301B):  # tables that are no phases; one table
        info = catalogue.event(oi)
        assert info is not None
        assert not info.phases


def test_unknown_events_are_named_and_not_hidden() -> None:
    info = catalogue.event(0x30FF)
    assert info is not None
    assert (info.slug, info.severity) == ("event:30FF", "warning")
    assert catalogue.event(0x33F0) is None
    assert catalogue.event(0x4000) is None
    assert catalogue.event(0xF4FF) is None


@pytest.mark.parametrize(
    ("oad", "series"),
    [
        (0x50000200, "instant"),
        (0x50010200, "other"),
        (0x50020200, "minute"),
        (0x50030200, "hour"),
        (0x50040200, "day"),
        (0x50050200, "other"),
        (0x50060200, "month"),
        (0x50070200, "other"),
        (0x31060200, "event"),
        (0x30000600, "event"),
        (0x30FF0200, "event"),
        (0x20000200, "instant"),
        (0x23010300, "instant"),
        (0x20210200, "other"),
        (0x21020200, "other"),
        (0x60120300, "other"),
        (0xFFFF0200, "other"),
    ],
)
def test_series_of_a_record_object(oad: int, series: str) -> None:
    assert catalogue.series_of(oad) == series


# --- units and results


def test_units_are_the_reference_table() -> None:
    table = dict(entries(UNIT_TEXT))
    assert table.pop(units.NO_UNIT) == "no unit"
    assert set(units.UNITS) == set(table)
    for code, text in table.items():
        assert units.UNITS[code] in {text, text.split(" (")[0], text.split()[-1].strip("()")}
    assert len(set(units.UNITS.values())) == len(units.UNITS)


def test_a_unit_without_a_symbol() -> None:
    assert units.unit_symbol(33) == "kWh"
    assert units.unit_symbol(255) is None
    assert units.unit_symbol(0) is None
    assert units.unit_symbol(200) is None


def test_results_are_the_reference_table() -> None:
    table = dict(entries(DAR_TEXT))
    assert set(dar.TABLE) == set(table)
    for code, text in table.items():
        row = dar.describe(code)
        assert row.code == code
        assert text in {row.name, f"{row.name} {row.zh}"}
    assert len({row.slug for row in dar.TABLE.values()}) == len(table)


@given(st.integers(0, 255))
def test_any_result_has_a_name(code: int) -> None:
    row = dar.describe(code)
    assert row.slug.isidentifier()
    assert row.slug == row.slug.lower()


def test_a_result_that_no_table_has() -> None:
    assert dar.describe(77) == dar.Dar(77, "unknown result 77", "未知结果77")
    assert dar.describe(77).slug == "unknown_result_77"
