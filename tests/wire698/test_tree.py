"""The annotated tree: its columns, what it says, and that it says something of any octets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies698 import apdus, datas, frames, law, mutated, vectors

from wire698 import model
from wire698.__main__ import main
from wire698.catalogue import column
from wire698.errors import WireError
from wire698.frame import Address, build_fragment, build_frame, parse_frame
from wire698.hexline import octets_of_text, whole_frames
from wire698.tree import (
    Line,
    apdu_lines,
    apdu_tree,
    broken_text,
    display_width,
    frame_lines,
    frame_tree,
    render,
)
from wire698.treetext import data_text, escaped, scaled, tsa_text
from wire698.values import BitString, Comdcb, Data, ScalerUnit, Tag, Ti

OWN = Address.of("123456789012")
GET = bytes.fromhex("681700430512907856341210223E0501014001020000C60716")

GET_TREE = """\
    0  68                        start 起始符
    1  17 00                     length L 长度域               23 octets between 68 and 16
    3  43                        control C 控制域              DIR 0 master to terminal, PRM 1 started by master, \
function 3 data 用户数据
    4  05                        address flag AF 地址标志      single 单地址, logical 0, 6 octets
    5  12 90 78 56 34 12         server address SA 服务器地址  123456789012
   11  10                        client address CA 客户机地址  10
   12  22 3E                     header checksum HCS 帧头校验  3E22 good
   14  05 01 01 40 01 02 00 00   user data 链路用户数据        8 octets
   14  05 01                       GetRequestNormal 读取一个对象属性请求
   16  01                            piid 序号及优先标志       1
   17  40 01 02 00                   oad 对象属性描述符        40010200 address 通信地址
   21  00                            timetag 时间标签          absent
   22  C6 07                     frame checksum FCS 帧校验     07C6 good
   24  16                        end 结束符"""


def squeezed(tree: str) -> list[str]:
    """Lines with their columns put together: for comparing what they say."""
    return [re.sub(r" {2,}", "  ", line.strip()) for line in tree.splitlines()]


def test_a_whole_frame() -> None:
    lines = squeezed(frame_tree(parse_frame(GET)))
    assert lines == squeezed(GET_TREE)


def test_columns_line_up_in_a_terminal() -> None:
    tree = frame_tree(parse_frame(GET))
    values = ["23 octets", "DIR 0", "single", "123456789012", "3E22 good", "absent", "40010200 address"]
    starts = set()
    for value in values:
        (line,) = [line for line in tree.splitlines() if value in line]
        starts.add(display_width(line[: line.index(value)]))
    assert len(starts) == 1
    assert {line[:5].strip().isdigit() for line in tree.splitlines()} == {True}
    assert display_width("电能表 abc é") == 6 + 4 + 2


def test_long_octets_are_cut_and_long_names_are_not() -> None:
    name = "x" * 100
    text = render([Line(0, 3, bytes(20), name, "", "v"), Line(1, 3, bytes(8), "y", "", "w")])
    assert text.splitlines()[0] == f"    3  00 00 00 00 00 00 00 …    {name}  v"
    assert text.splitlines()[1].startswith("    3  00 00 00 00 00 00 00 00     y")


def _says(octets: str, *expected: str) -> None:
    lines = squeezed(apdu_tree(bytes.fromhex(octets)))
    for text in expected:
        assert any(text in line for line in lines), (text, lines)


def test_values_are_scaled_and_named_by_the_catalogue() -> None:
    _says(
        "850101 20000200 01 0103 120898 12FFFF 00 0000",
        "result 结果  array 3 items",
        "[0] voltage.a  long-unsigned 2200 → 220.0 V",
        "[2] voltage.c  NULL",
        "oad 对象属性描述符  20000200 voltage 电压",
    )
    _says("850101 20000201 01 120898 0000", "result 结果  long-unsigned 2200 → 220.0 V")
    _says("850101 00100201 01 0600000001 0000", "double-long-unsigned 1 → 0.01 kWh")
    _says("850101 FF000201 01 0600000001 0000", "oad 对象属性描述符  FF000201", "result 结果  double-long-unsigned 1")


def test_demand_scales_its_number_and_shows_its_time() -> None:
    info = column(0x10100201)
    assert info.value_kind == "demand"
    _says("850101 10100201 01 0202 0600001234 1C07E90B180A1E00 0000", scaled(0x1234, info), "2025-11-24 10:30:00")


def test_records_row_by_row_with_column_names() -> None:
    _says(
        "88020B 01 50040200 02 0020210200 0150040200 01 00100201 01 02"
        "1C07E90B180000000600002710 1C07E90B19000000 00 0000",
        "[0]  2 columns, 2 rows",
        "[1]  50040200 day_freeze 日冻结: 1 columns",
        "row 1 记录",
        "20210200 freeze_time 数据冻结时间  date_time_s 2025-11-24 00:00:00",
        "00100201 active_energy_import.total 正向有功电能  double-long-unsigned 10000 → 100.00 kWh",
        "row 2 记录",
        "00100201 active_energy_import.total 正向有功电能  NULL",
    )


def test_results_services_and_link_in_words() -> None:
    _says(
        "850101400102000004 0000",
        "GetResponseNormal 读取一个对象属性响应",
        "result 结果  DAR 4 object undefined 对象未定义",
    )
    _says("010101012C07E90B18010A1E000000", "type 请求类型  1 heartbeat", "period 心跳周期  300 s", "w1 10:30:00.000")
    _says("8100F1" + "00" * 30, "result 结果  F1: clock trusted, 1 address duplicate")
    _says("810007" + "00" * 30, "result 结果  07: clock not trusted, 7 unknown")
    _says("EE00020000", "error 异常类型  2 service not supported")
    _says("EE00090000", "error 异常类型  9 unknown")
    _says(
        "0501 C1 40010200 0107E90B180A1E0000003C", "1, high priority, ACD", "sent  2025-11-24 10:30:00", "delay  60 s"
    )
    _says("090713F20102010302080100000A00640168 00", "2400 bit/s, even, 8 data bits, 1 stop bits, no flow control")
    _says(
        "0701068000810001010204 51F2050201 1101 120000 0300 00",
        "omd 对象方法描述符  80008100 Remote control 遥控, method 129",
        "OAD F2050201 relay_output.1 继电器输出",
        "bool false",
    )
    _says(
        "050305 60120300 05 07E90B18000000 03 01 0705123456789012 0100202A0200 00",
        "rsd 记录行选择  selector 5: collection store time",
        "meters  addresses 123456789012 (single)",
    )
    _says(
        "020000 10" + "FF" * 24 + "04000400010400000000640106313233343536" + "00",
        'mechanism 认证请求对象  1 password "123456"',
    )
    _says("020000 10" + "FF" * 24 + "0400040001040000000064 00 00", "0 public connection 公共连接")


def test_envelopes_are_opened_in_place() -> None:
    octets = bytes.fromhex("100008050101400102000001 04 01020304".replace(" ", ""))
    lines = {line.name: line for line in apdu_lines(octets, 14)}
    assert (lines["GetRequestNormal"].offset, lines["GetRequestNormal"].level) == (17, 2)
    assert (lines["oad"].offset, lines["oad"].octets.hex()) == (20, "40010200")
    assert lines["check"].value == "RN 01 02 03 04"
    _says("90021600", "unit 应用数据单元  DAR 22 ESAM verification failed ESAM验证失败", "absent")
    _says("900104A0A1A2A300", "unit 应用数据单元  ciphertext 密文, 4 octets")
    deep = GET[14:22]
    for _ in range(1000):
        deep = b"\x10\x00\x82" + len(deep).to_bytes(2) + deep + b"\x01\x00"
    assert "more than 4 are not opened" in apdu_tree(deep)


def test_fragments() -> None:
    raw = build_frame(0xA3, OWN, 0, build_fragment(5, 0, bytes.fromhex("85030101"), 3))
    lines = squeezed(frame_tree(parse_frame(raw)))
    assert any("fragment format 分帧格式域  number 5, first, reserved bits 3" in line for line in lines)
    assert any("piece of an APDU APDU片断  4 octets, begins GetResponseRecord" in line for line in lines)
    for data, text in ((b"\x05", "broken"), (build_fragment(5, 2), "number 5, ack"), (b"\0\0\xff", "no known service")):
        assert text in frame_tree(parse_frame(build_frame(0xA3, OWN, 0, data)))


def test_headers_of_all_kinds() -> None:
    raw = build_frame(0x4B | 0x10, Address(0x26, bytes.fromhex("12907856341201")), 0, GET[14:22], scrambled=True)
    text = frame_tree(parse_frame(raw))
    for part in ("scrambled 扰码", "reserved bit 4 set", "33 was taken off each", "extended logical address 1 in SA"):
        assert part in text
    lines = list(frame_lines(parse_frame(raw), 100))
    (data,) = [line for line in lines if line.name == "user data"]
    assert (data.offset, data.octets) == (115, GET[14:22])
    assert "function 5 reserved" in frame_tree(parse_frame(build_frame(0x45, OWN, 0, b"")))


def test_broken_apdus_show_what_was_whole() -> None:
    _says(
        "850101 20000200 01 0103 12096D 1209",
        "20000200 voltage 电压",
        "[0] voltage.a  long-unsigned 2413 → 241.3 V",
        "15  broken  long-unsigned: 1 octets are missing",
    )
    _says("0508", "1  08  broken  service 05 has no kind 08")
    _says("", "0  broken  an APDU has at least one octet")
    _says("85010140010200 01 0906123456789012 00", "oddities  tail-missing")


def test_the_place_of_what_is_broken() -> None:
    error = WireError(12, "wrong")
    first, octets, mark = broken_text(GET, error).splitlines()
    assert first == "broken at octet 12: wrong"
    assert octets[mark.index("^^") :].startswith("22 3E")
    assert broken_text(b"\x68", WireError(1, "short")).splitlines()[2].index("^^") == len("  68 ")


def test_texts_cannot_steer_the_terminal() -> None:
    assert escaped(b"\x1b[2J\x07ok") == '"\\x1B[2J\\x07ok"'
    assert escaped("电力".encode("gbk")) == '"电力"'
    assert escaped(b"\xff") == '"\\xff"'
    tree = apdu_tree(bytes.fromhex("8501014103020001 0A03 1B5B32 0000"))
    assert "\x1b" not in tree


def test_data_in_words() -> None:
    for item, text in (
        (Data(Tag.BIT_STRING, BitString(10, b"\xc0\x40")), "10 bits 1100000001"),
        (Data(Tag.TI, Ti(1, 15)), "15 min"),
        (Data(Tag.TI, Ti(9, 15)), "15 of unit 9"),
        (Data(Tag.SCALER_UNIT, ScalerUnit(-1, 38)), "10^-1 V"),
        (Data(Tag.SCALER_UNIT, ScalerUnit(0, 255)), "10^0 no unit"),
        (Data(Tag.OI, 0x2301), "2301"),
        (Data(Tag.COMDCB, Comdcb(255, 9, 8, 1, 0)), "auto, code 9, 8 data bits, 1 stop bits, no flow control"),
        (Data(Tag.FLOAT64, float("inf")), "inf"),
    ):
        assert text in data_text(item.tag, item.value, column(0x20000200))
    assert tsa_text(b"") == "empty"
    assert tsa_text(bytes.fromhex("000000000001")) == "000000000001 (no descriptor octet)"
    assert tsa_text(bytes.fromhex("15123456789012")) == "123456789012 (single, logical 1)"


@law(150)
@given(apdus(), st.integers(0, 50))
def test_every_apdu_has_a_tree_in_order(apdu: model.Apdu, base: int) -> None:
    octets = model.build(apdu)
    lines = list(apdu_lines(octets, base))
    assert lines[0].name == apdu.SERVICE
    for line in lines:
        start = line.offset - base
        assert octets[start : start + len(line.octets)] == line.octets
    assert "\n" not in "".join(line.name + line.value for line in lines)
    assert len(render(lines).splitlines()) == len(lines)


@law(100)
@given(datas(3), st.sampled_from(["20000200", "00100200", "10100200", "40010200", "33000200", "FF000200"]))
def test_any_data_under_any_object(item: Data, oad: str) -> None:
    info = column(int(oad, 16))
    assert isinstance(data_text(item.tag, item.value, info), str)


@law(200)
@given(st.one_of(st.binary(max_size=60), apdus().map(model.build).flatmap(mutated)))
def test_any_octets_have_a_tree(octets: bytes) -> None:
    assert apdu_tree(octets, 7)
    for data in (octets, b"\x00" + octets):
        assert "16" in frame_tree(parse_frame(build_frame(0xA3 if data is octets else 0x83, OWN, 0, data)))


@pytest.mark.parametrize("entry", vectors("frames.json"), ids=lambda entry: entry["id"])
def test_every_public_frame_has_a_tree(entry: dict[str, str]) -> None:
    raw = bytes.fromhex(entry["hex"])
    lines = list(frame_lines(parse_frame(raw)))
    outer = [line for line in lines if line.level == 0]
    assert sum(len(line.octets) for line in outer) == len(raw)
    assert [line.offset for line in outer] == sorted(line.offset for line in outer)


# --- octets as people write them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["68 17 00", "681700", "0x68,0x17,0x0", "0x681700", " 68,17 ,00\n", "68\t17\n00", "0X68 1700"]
)
def test_octets_of_text(text: str) -> None:
    assert octets_of_text(text) == b"\x68\x17\x00"


@pytest.mark.parametrize("text", ["6", "68 1", "xyz", "0x", "68-17", "电", "6 81700", "q" * 1000])
def test_text_that_is_no_octets(text: str) -> None:
    if text == "0x":
        assert octets_of_text(text) == b""
        return
    with pytest.raises(ValueError, match="is not hexadecimal octets") as caught:
        octets_of_text(text)
    assert len(str(caught.value)) < 100


@law(100)
@given(st.lists(st.tuples(st.integers(0, 5), frames()), min_size=1, max_size=4))
def test_whole_frames_back_to_back(parts: list[tuple[int, bytes]]) -> None:
    octets = b"".join([b"\xfe" * count + raw for count, raw in parts])
    found = list(whole_frames(octets))
    assert [(item.preamble, item.frame.raw) for item in found] == parts  # type: ignore[union-attr]
    assert all(octets[item.offset :].startswith(raw) for item, (_, raw) in zip(found, parts, strict=True))


@pytest.mark.parametrize(
    ("octets", "good", "offset", "reason"),
    [
        (b"", 0, 0, "at least 12"),
        (b"\xfe\xfe", 0, 2, "at least 12"),
        (GET + b"\x66\x66", 1, 27, "at least 12"),
        (GET + b"\xfe", 1, 26, "at least 12"),
        (GET + GET[:-1] + b"\x17", 1, 49, "ends with 16"),
        (b"\x00" + GET, 0, 0, "starts with 68"),
        (GET[:-1], 0, 1, "length field 23, but 22 octets"),
        (GET[:12] + b"\0" + GET[13:], 0, 12, "header checksum"),
    ],
)
def test_what_stands_around_whole_frames(octets: bytes, good: int, offset: int, reason: str) -> None:
    *found, last = whole_frames(octets)
    assert len(found) == good
    assert isinstance(last.frame, WireError)
    assert last.frame.offset == offset
    assert reason in last.frame.reason


# --- python -m wire698 --------------------------------------------------------------------------------------------


def test_the_module_prints_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GET.hex(" ").split()) == 0
    assert squeezed(capsys.readouterr().out) == squeezed(GET_TREE)
    assert main(["--apdu", GET[14:22].hex()]) == 0
    assert "GetRequestNormal" in capsys.readouterr().out
    assert main([GET[:-1].hex()]) == 1
    assert capsys.readouterr().out.startswith("broken at octet 1: length field")
    with pytest.raises(SystemExit, match="2"):
        main(["zz"])
    assert "'zz' is not hexadecimal octets" in capsys.readouterr().err
