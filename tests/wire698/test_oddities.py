"""What real terminals do beyond the text (field-oddities.md), a test a number, as far as the codec is concerned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wire698 import jsonform, model
from wire698.access import ReportNotificationList, ReportResponseList
from wire698.errors import WireError
from wire698.fast import FastDecoder
from wire698.frame import (
    BROADCAST,
    GROUP,
    SINGLE,
    WILDCARD,
    Address,
    Frame,
    Framer,
    Garbage,
    build_frame,
    parse_fragment,
    parse_frame,
)
from wire698.link import LinkRequest
from wire698.values import Piid

GET = bytes.fromhex("0501014001020000")
OWN = Address.of("123456789012")


def apdu(text: str) -> dict[str, Any]:
    form = jsonform.decode_apdu(bytes.fromhex(text))
    assert form["ok"], form
    return form


def keeps_octets(octets: bytes, control: int = 0xC3) -> dict[str, Any]:
    """Decode a frame around `octets` to JSON and back; gives the JSON."""
    raw = build_frame(control, OWN, 0x10, octets)
    form: dict[str, Any] = json.loads(json.dumps(jsonform.decode_frame(parse_frame(raw))))
    assert form["ok"]
    assert jsonform.encode_frame(form) == raw
    return form


@pytest.mark.parametrize(
    ("af", "sa", "kind", "text"),
    [
        (0x05, "129078563412", SINGLE, "123456789012"),
        (0x45, "AAAAAAAAAAAA", WILDCARD, "AAAAAAAAAAAA"),
        (0x85, "010000000000", GROUP, "000000000001"),
        (0xC0, "AA", BROADCAST, "AA"),
        (0x05, "AAAAAAAAAAAA", SINGLE, "AAAAAAAAAAAA"),
    ],
)
def test_oddity_01_all_address_types(af: int, sa: str, kind: int, text: str) -> None:
    raw = build_frame(0x43, Address(af, bytes.fromhex(sa)), 0x10, GET)
    address = parse_frame(raw).address
    assert (address.kind, address.text, address.terminal) == (kind, text, text)
    assert jsonform.encode_frame(jsonform.decode_frame(parse_frame(raw))) == raw


def test_oddity_02_extended_logical_address_has_both_readings() -> None:
    address = Address(0x26, bytes.fromhex("12907856341201"))
    assert (address.logical, address.text) == (2, "01123456789012")
    assert (address.extended_logical, address.terminal) == (1, "123456789012")
    plain = Address.of("123456789012", logical=1)
    assert (plain.logical, plain.extended_logical, plain.terminal) == (1, None, "123456789012")
    raw = build_frame(0x43, address, 0, GET)
    assert jsonform.encode_frame(jsonform.decode_frame(parse_frame(raw))) == raw


@pytest.mark.parametrize("client", [0x00, 0x10, 0xA0, 0xA1, 0x0B, 0xFF])
def test_oddity_03_any_client_address(client: int) -> None:
    assert parse_frame(build_frame(0x43, OWN, client, GET)).client == client


def test_oddity_04_link_response_result_and_times_are_kept_as_they_come() -> None:
    times = "07E00513070805000089" + "07E0051307080501025F" + "201605130408050202DA"
    form = keeps_octets(bytes.fromhex("810000" + times), 0x01)["apdu"]
    assert (form["clock_trusted"], form["result"]) == (0, 0)
    assert form["request"] == "2016-05-19 w7 08:05:00.137"
    assert form["response"].startswith("8214-")
    assert apdu("8100FB" + times)["apdu"] | {"reserved": 15} == apdu("8100FB" + times)["apdu"]


@pytest.mark.parametrize("control", [0x81, 0x83, 0xC3, 0x43])
def test_oddity_05_the_tag_and_not_the_control_octet_tells_the_service(control: int) -> None:
    for octets, service in ((GET, "GetRequestNormal"), (bytes.fromhex("88010A000000"), "ReportNotificationList")):
        assert keeps_octets(octets, control)["service"] == service


def test_oddity_06_draft_dates_and_tsa_without_descriptor_are_raw() -> None:
    form = keeps_octets(bytes.fromhex("06020302400102005506000000000001400002001C2016012016271100"), 0x43)
    address, clock = form["apdu"]["sets"]
    assert address["value"] == {"t": "TSA", "v": "000000000001"}
    assert clock["value"] == {"t": "date_time_s", "v": "8214-01-32 22:39:17"}
    assert form["warnings"] == []


def test_oddity_07_a_tsa_length_counts_its_descriptor() -> None:
    target = apdu("09010D001E010705123456789012000A012000020000")["apdu"]["targets"][0]
    assert target == {"tsa": "05123456789012", "timeout": 10, "items": ["20000200"]}


def test_oddity_08_non_minimal_lengths() -> None:
    form = keeps_octets(bytes.fromhex("850101FFFF0200010A8200074E4F20544553540000"))
    assert form["warnings"] == ["non-minimal-length"]
    assert form["apdu"]["result"] == {"t": "visible-string", "v": "NO TEST"}
    assert apdu("850101FFFF0200010981020102" + "0000")["warnings"] == ["non-minimal-length"]


@pytest.mark.parametrize(
    ("octets", "value"),
    [
        ("4142000000", "AB\0\0\0"),
        ("B5E7C1A6", "电力"),
        ("FFFFFFFF", {"hex": "FFFFFFFF"}),
        ("B5", {"hex": "B5"}),
    ],
)
def test_oddity_09_strings_keep_their_octets(octets: str, value: Any) -> None:
    form = keeps_octets(bytes.fromhex(f"85010140010200010A{len(octets) // 2:02X}{octets}0000"))
    assert form["apdu"]["result"]["v"] == value


def test_oddity_10_piid_bit_6_in_requests_and_answers() -> None:
    form = keeps_octets(bytes.fromhex("0501C14001020000"), 0x43)
    assert form["apdu"]["piid"] == {"n": 1, "prio": 1, "acd": 1}
    assert form["warnings"] == []
    report = model.parse(bytes.fromhex("88014A01202202000106000000010000")).apdu
    assert isinstance(report, ReportNotificationList)
    answer = ReportResponseList(report.piid, tuple([result.oad for result in report.results]))
    assert model.build(answer).hex().upper() == "08014A012022020000"


def test_oddity_11_unknown_choices_are_raw_and_do_not_kill_the_frame() -> None:
    form = keeps_octets(bytes.fromhex("050600010000000100"), 0x43)
    assert form["apdu"] == {"raw": "050600010000000100"}
    assert form["warnings"][0].startswith("apdu-unreadable: ")
    assert keeps_octets(bytes.fromhex("0509FF"), 0x43)["service"] == "unknown 0509"
    assert keeps_octets(b"")["apdu"] == {"raw": ""}


def test_oddity_12_missing_tails_and_one_surplus_octet() -> None:
    whole = "8501014001020001090612345678901200 00"
    for octets, warning in (
        (whole[:-2], "tail-missing"),
        (whole[:-5], "tail-missing"),
        (whole + "00", "surplus-octet"),
    ):
        form = keeps_octets(bytes.fromhex(octets))
        assert form["warnings"] == [warning]
        assert form["apdu"] == apdu(whole)["apdu"]
    with pytest.raises(WireError, match="2 octets are left over"):
        model.parse(bytes.fromhex(whole + "0000"))
    with pytest.raises(WireError, match="1 octets are missing"):
        model.parse(bytes.fromhex(whole[:-7]))


def test_oddity_13_null_cells_are_one_octet() -> None:
    text = "88020B 01 31060200 02 00201E0200 0020200200 01 02 1C07E90B180A0000 00 00 00 0000"
    rows = keeps_octets(bytes.fromhex(text), 0x83)["apdu"]["records"][0]["rows"]
    assert [[cell["t"] for cell in row] for row in rows] == [["date_time_s", "null"], ["null", "null"]]


def test_oddity_14_all_columns_and_empty_results() -> None:
    request = apdu("05030A 31060200 0901 00 00")["apdu"]["record"]
    assert request["rcsd"] == []
    for octets in ("85030A 31060200 01 00201E0200 0100 0000", "85030A 31060200 00 0100 0000"):
        answer = keeps_octets(bytes.fromhex(octets))["apdu"]
        assert answer["rows"] == []


def test_oddity_15_plaintext_with_rn_is_opened() -> None:
    form = apdu("100008" + GET.hex() + "0110" + bytes(range(16)).hex())
    assert form["service"] == "SECURITY-Request(GetRequestNormal)"
    assert form["apdu"]["inner"]["oad"] == "40010200"
    answer = apdu("90000B 8501014001020000040000 0100 04 11223344")
    assert answer["apdu"]["inner"]["dar"] == 4


def test_oddity_15_envelopes_within_envelopes_are_opened_only_so_far() -> None:
    octets = GET
    for _ in range(1500):
        octets = b"\x10\x00\x82" + len(octets).to_bytes(2) + octets + b"\x01\x00"
    form = keeps_octets(octets, 0x43)
    depth = 0
    inner = form["apdu"]
    while "inner" in inner:
        inner = inner["inner"]
        depth += 1
    assert depth == jsonform.MAX_ENVELOPES
    assert inner["inner_error"] == f"more than {jsonform.MAX_ENVELOPES} envelopes"


def test_oddity_16_fragment_headers_with_reserved_bits_and_cut_values() -> None:
    for text, seq, kind, reserved in (("06F1F10102", 262, 3, 3), ("00000501", 0, 0, 0), ("0741", 263, 1, 0)):
        fragment = parse_fragment(bytes.fromhex(text))
        assert (fragment.seq, fragment.kind, fragment.reserved) == (seq, kind, reserved)
        raw = build_frame(0xA3, OWN, 0, bytes.fromhex(text))
        assert jsonform.encode_frame(jsonform.decode_frame(parse_frame(raw))) == raw


@pytest.mark.parametrize("answer", ["FEFEFEFE6811223344556668910033333333AA16", "FEFEFEFE" + "68" * 20, ""])
def test_oddity_17_transparent_answers_hold_any_octets(answer: str) -> None:
    text = f"890713 F2010201 01 {len(answer) // 2:02X} {answer} 0000"
    assert keeps_octets(bytes.fromhex(text))["apdu"]["data"] == answer


def test_oddity_18_any_method_number_and_a_dar_back() -> None:
    assert apdu("0701054000020000 00".replace(" ", ""))["apdu"]["omd"] == "40000200"
    assert apdu("8701054000020003 00 0000")["apdu"]["dar"] == 3


@pytest.mark.parametrize("checksum", [b"\xff\xff", b"CS"])
def test_oddity_19_checksum_placeholders_are_refused_and_counted(checksum: bytes) -> None:
    good = build_frame(0x43, OWN, 0x10, GET)
    bad = good[:-3] + checksum + b"\x16"
    with pytest.raises(WireError, match="FCS"):
        parse_frame(bad)
    assert Framer().feed(bad + good) == [Garbage("frame-checksum", len(bad)), parse_frame(good)]


@pytest.mark.parametrize("count", range(8))
def test_oddity_20_fe_octets_before_a_frame(count: int) -> None:
    good = build_frame(0x43, OWN, 0x10, GET)
    found = Framer().feed(b"\xfe" * count + good)
    assert found == [Garbage("noise", count)] * (count > 0) + [parse_frame(good)]


@pytest.mark.parametrize(
    "neighbour",
    [
        "68 112233445566 68 11 04 33333433 B0 16",  # DL/T 645 read request
        "68 AAAAAAAAAAAA 68 13 00 DF 16",  # DL/T 645 address search
        "68 3200 3200 68 4B 04440200 02 02700000 0100 49 16",  # Q/GDW 1376.1 login
    ],
)
def test_oddity_21_neighbours_on_the_port_are_garbage(neighbour: str) -> None:
    octets = bytes.fromhex(neighbour)
    good = build_frame(0x43, OWN, 0x10, GET)
    for stream in (octets + good, good + octets + good):
        found = Framer().feed(stream)
        assert [item for item in found if isinstance(item, Frame)] == [parse_frame(good)] * stream.count(good)
        assert sum(item.octets for item in found if isinstance(item, Garbage)) == len(octets)


def test_oddity_21_an_address_may_hold_start_octets() -> None:
    raw = build_frame(0x43, Address.of("686868686868"), 0x68, b"\x68" * 30)
    assert Framer().feed(raw + raw) == [parse_frame(raw)] * 2


@pytest.mark.parametrize("period", [0, 5, 60, 180, 240, 300, 600, 65535])
def test_oddity_22_any_heartbeat_period(period: int) -> None:
    octets = bytes.fromhex("010101") + period.to_bytes(2) + bytes.fromhex("07E90B18010A1E000000")
    for parsed in (model.parse(octets).apdu, FastDecoder().parse(octets)[0]):
        assert isinstance(parsed, LinkRequest)
        assert parsed.period == period


@pytest.mark.parametrize("oad", ["FF100200", "F4010200", "AAAAAAAA", "00000000", "FFFFFFFF"])
def test_oddity_23_vendor_objects_pass(oad: str) -> None:
    assert keeps_octets(bytes.fromhex(f"850101{oad}0111050000"))["apdu"]["oad"] == oad


def test_oddity_24_a_stray_51_before_the_oad() -> None:
    form = keeps_octets(bytes.fromhex("88010A01512022020001060000000100 00"), 0x83)
    assert form["warnings"] == ["stray-oad-tag"]
    assert form["apdu"]["results"] == [{"oad": "20220200", "result": {"t": "double-long-unsigned", "v": 1}}]
    # An object whose number begins with 51 is no oddity.
    assert apdu("88010A01 51002202 01 0600000001 0000")["warnings"] == []
    # Both: stray tag and broken; the plain reading's reason is given.
    with pytest.raises(WireError):
        model.parse(bytes.fromhex("88010A0151202202000106000000"))


def test_oddity_25_a_plain_acknowledgement_of_a_protected_report() -> None:
    raw = build_frame(0x03, OWN, 0x10, model.build(ReportResponseList(Piid(10), ())))
    frame = parse_frame(raw)
    assert (frame.from_server, frame.control & 0x40, frame.data.hex()) == (False, 0, "08010a0000")


def test_oddity_26_bit_strings_keep_their_octets_for_either_bit_order() -> None:
    value = model.parse(bytes.fromhex("8501013200020001 0408 80 0000")).apdu.result.data.value  # type: ignore[attr-defined]
    assert [value.bit(n) for n in range(8)] == [True] + [False] * 7
    assert value.octets == b"\x80"


def test_oddity_27_two_frames_in_one_segment() -> None:
    one, two = (build_frame(0xC3, OWN, 0x10, bytes((n,)) * 8) for n in (1, 2))
    assert Framer().feed(one + two) == [parse_frame(one), parse_frame(two)]


def test_oddity_30_dar_0_as_a_result_and_targets_without_anything() -> None:
    form = keeps_octets(bytes.fromhex("850101 20000200 00 00 0000"))
    assert (form["apdu"]["dar"], form["warnings"]) == (0, [])
    result = model.parse(bytes.fromhex("85010120000200 0000 0000")).apdu.result  # type: ignore[attr-defined]
    assert result.data is None
    # `89 01 PIID 01 00 00`: one target announced, and behind it an empty TSA and no results: both tails are missing.
    form = keeps_octets(bytes.fromhex("89010D010000"))
    assert form["apdu"]["targets"] == [{"tsa": "", "results": []}]
    assert form["warnings"] == ["tail-missing"]


def test_oddity_31_other_versions_and_conformances_of_connect() -> None:
    text = "02 00 0011 " + "00" * 8 + "FF" * 16 + "0400 0400 01 0400 00000064 00 00"
    assert keeps_octets(bytes.fromhex(text), 0x43)["apdu"]["version"] == 0x11
    assert apdu("EE000200 00")["apdu"]["error"] == 2


def test_oddity_32_time_tags_are_values_and_never_judged_here() -> None:
    form = keeps_octets(bytes.fromhex("0501014001020001 0000FFFFFFFFFF FF 0000"), 0x43)
    assert form["apdu"]["timetag"] == {"time": "0000-255-255 255:255:255", "ti": {"unit": 255, "n": 0}}


def test_oddity_33_a_block_answer_in_fragments() -> None:
    octets = bytes.fromhex("850506 00 0001 01 01 40010200 01 0906123456789012 0000")
    form = keeps_octets(octets)
    assert (form["service"], form["apdu"]["last"], form["apdu"]["block"]) == ("GetResponseNext", False, 1)
    # A block of no records is not a block of no results.
    for choice, name in (("01", "results"), ("02", "records")):
        answer = keeps_octets(bytes.fromhex(f"850506 01 0002 {choice} 00 0000"))["apdu"]
        assert answer[name] == []


def test_oddity_34_local_times_are_read_without_a_zone() -> None:
    assert apdu("840007E00513101B0B07E0051310200B0000")["apdu"]["now"] == "2016-05-19 16:32:11"
