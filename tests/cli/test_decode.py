"""`loadgate decode` and `loadgate encode`: forms of input, JSON both ways, exit statuses, never a traceback."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli import decode, encode

DATA = Path(__file__).parent.parent / "data"
FRAMES = [entry["hex"] for entry in json.loads((DATA / "frames.json").read_text())]
GET = "681700430512907856341210223E0501014001020000C60716"
ANSWER = "682100C305129078563412104D9C850101400102000109061234567890120000CB8916"
BAD = GET[:24] + "00" + GET[26:]


class _Stdin:
    def __init__(self, octets: bytes) -> None:
        self.buffer = io.BytesIO(octets)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a subcommand in this process: (status, stdout, stderr)."""

    def call(command, *arguments: str, stdin: str | bytes = "") -> tuple[int, str, str]:
        octets = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", _Stdin(octets))
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        status = command.run(parser.parse_args(arguments))
        out = capsys.readouterr()
        assert "Traceback" not in out.out + out.err
        return status, out.out, out.err

    return call


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- decode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [GET],
        GET_WORDS := [GET[at : at + 2] for at in range(0, len(GET), 2)],
        [",".join(f"0x{word}" for word in GET_WORDS)],
    ],
    ids=["digits", "words", "0x and commas"],
)
def test_octets_as_arguments(run, arguments):
    status, out, err = run(decode, *arguments)
    assert (status, err) == (0, "")
    assert out.startswith("GetRequestNormal, 25 octets\n    0  68 ")
    assert "40010200 address 通信地址" in out
    status, out, err = run(decode, "--json", *arguments)
    assert status == 0
    (form,) = objects(out)
    assert form == {
        "ok": True,
        "frame": {
            "length": 23,
            "control": 0x43,
            "dir": 0,
            "prm": 1,
            "fragment": 0,
            "scrambled": 0,
            "function": 3,
            "address": "123456789012",
            "address_type": "single",
            "logical_address": 0,
            "client_address": 0x10,
        },
        "service": "GetRequestNormal",
        "apdu": {
            "service": "GetRequestNormal",
            "piid": {"n": 1, "prio": 0, "acd": 0},
            "oad": "40010200",
            "timetag": None,
        },
        "warnings": [],
    }


def test_lines_of_a_file_and_of_stdin(run, tmp_path):
    text = f"# a capture\n\n{GET}  # asked\n  FE FE {ANSWER} {GET}\n"
    file = tmp_path / "capture.txt"
    file.write_text(text)
    by_file = run(decode, "--json", "--file", str(file))
    assert by_file == run(decode, "--json", "-", stdin=text)
    assert by_file[0] == 0
    forms = objects(by_file[1])
    assert [(form["line"], form["service"]) for form in forms] == [
        (3, "GetRequestNormal"),
        (4, "GetResponseNormal"),
        (4, "GetRequestNormal"),
    ]
    assert [(form.get("at"), form.get("preamble")) for form in forms] == [(None, None), (2, 2), (37, None)]
    status, out, _ = run(decode, "--file", str(file))
    assert status == 0
    assert "line 4: GetResponseNormal, 35 octets, 2 octets FE before it\n    2  68" in out


def test_a_broken_frame_among_good_ones(run):
    text = f"{GET}\n{BAD}\n{GET}{BAD}\nzz\n{ANSWER}\n"
    status, out, err = run(decode, "--json", "-", stdin=text)
    assert (status, err) == (1, "")
    forms = objects(out)
    assert [form["ok"] for form in forms] == [True, False, True, False, False, True]
    reason = "header checksum HCS 3E00, 3E22 expected"
    assert forms[1] == {"ok": False, "offset": 12, "reason": reason, "raw": BAD, "line": 2}
    assert (forms[3]["offset"], forms[3]["reason"]) == (25 + 12, reason)
    assert forms[4] == {"ok": False, "offset": 0, "reason": "'zz' is not hexadecimal octets", "line": 4}
    status, out, err = run(decode, "-", stdin=text)
    assert (status, err) == (1, "")
    assert f"broken at octet 12: {reason}" in out
    assert "line 4: broken: 'zz' is not hexadecimal octets" in out
    assert out.count("起始符") == 3


@pytest.mark.parametrize("text", ["6", "zz", "电", "6816", "", "   ", GET + "16", GET[2:]])
@pytest.mark.parametrize(
    "options", [[], ["--json"], ["--apdu"], ["--apdu", "--json"], ["--scan"], ["--scan", "--json"]]
)
def test_broken_input_has_status_1(run, text, options):
    status, out, err = run(decode, *options, text)
    assert status == (0 if "--scan" in options and text == GET + "16" else 1)
    if "--scan" in options and status:
        assert err == "loadgate decode: no frame was found\n"
    else:
        assert err == ""
        assert out


@pytest.mark.parametrize("text", [entry["hex"] for entry in json.loads((DATA / "invalid.json").read_text())])
def test_invalid_frames_of_public_sources(run, text):
    status, out, _ = run(decode, "--json", text)
    assert status == 1
    last = objects(out)[-1]
    assert (last["ok"], last["raw"]) == (False, text)
    assert run(decode, text)[0] == 1


def test_apdus(run):
    status, out, _ = run(decode, "--apdu", "--json", "05 01 01 40 01 02 00 00")
    assert status == 0
    assert objects(out)[0]["apdu"]["oad"] == "40010200"
    status, out, _ = run(decode, "--apdu", "-", stdin="0501014001020000\n0501014001\n")
    assert status == 1
    assert "line 1: GetRequestNormal, 8 octets" in out
    assert "line 2: broken APDU, 5 octets" in out
    assert "OAD: 2 octets are missing" in out
    (form,) = objects(run(decode, "--apdu", "--json", "0501014001")[1])
    assert form == {"ok": False, "offset": 5, "reason": "OAD: 2 octets are missing"}


def test_octets_that_are_no_apdu_do_not_make_the_frame_broken(run):
    vendor = "681800430511111111111110262A0506000100000001008E7D16"
    status, out, _ = run(decode, "--json", vendor)
    assert status == 0
    assert objects(out)[0]["apdu"] == {"raw": "050600010000000100"}
    status, out, _ = run(decode, vendor)
    assert status == 0
    assert out.startswith("unknown 0506, 26 octets")


def test_scan_finds_frames_among_other_octets(run):
    stream = f"000102 {GET} {BAD}\n{ANSWER} 68 17"
    status, out, _ = run(decode, "--scan", "--json", "-", stdin=stream)
    assert status == 0
    assert [
        (form["ok"], form.get("garbage"), form.get("octets"), form.get("at", form.get("offset")))
        for form in objects(out)
    ] == [
        (False, "noise", 3, 0),
        (True, None, None, 3),
        (False, "header-checksum", 25, 28),
        (True, None, None, 53),
        (False, "stale", 2, 88),
    ]
    status, out, _ = run(decode, "--scan", "-", stdin=stream)
    assert status == 0
    assert "   28  garbage: 25 octets (header-checksum)" in out
    assert "   53  68 " in out
    # A frame may lie across lines; without one there is nothing to be glad of.
    assert run(decode, "--scan", "-", stdin=f"{GET[:20]}\n{GET[20:]}")[0] == 0
    assert run(decode, "--scan", "00 01 02")[0] == 1


def test_usage(run, tmp_path):
    for arguments in ([], ["--file", str(tmp_path / "none")], [GET, "--file", "x"], ["--file", str(tmp_path)]):
        status, out, err = run(decode, *arguments)
        assert (status, out) == (2, "")
        assert err.startswith("loadgate decode: ")
    assert "No such file" in run(decode, "--file", str(tmp_path / "none"))[2]
    assert run(decode, "--scan", "--apdu", GET)[0] == 2
    assert run(decode, "-", stdin="# nothing\n\n") == (2, "", "loadgate decode: stdin: there is no line of HEX in it\n")


def test_files_that_are_no_text(run):
    status, out, err = run(decode, "-", stdin=bytes(range(256)))
    assert (status, err) == (1, "")
    assert "is not hexadecimal octets" in out


def test_a_fragment_without_its_field_is_broken(run):
    from wire698.frame import Address, build_frame

    raw = build_frame(0xA3, Address.of("123456789012"), 0, b"\x05").hex()
    status, out, _ = run(decode, "--json", raw)
    assert status == 1
    assert objects(out)[0]["reason"] == "a fragment format field has 2 octets, here are 1"
    assert run(decode, raw)[0] == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.text(max_size=60), st.binary(max_size=40).map(bytes.hex)),
    options=st.sampled_from(["--json", "--apdu", "--scan"]),
)
def test_any_text_ends_without_a_traceback(run, text, options):
    for more in ([options], [options, "--json"]):
        status, out, _ = run(decode, *more, "-", stdin=text.encode("utf-8", "replace"))
        assert status in (0, 1, 2)
        assert (status == 2) == all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines())
        if "--json" in more:
            assert all(isinstance(form["ok"], bool) for form in objects(out))


# --- encode -------------------------------------------------------------------------------------------------------


def test_decode_and_encode_are_inverse_over_all_public_frames(run):
    status, forms, _ = run(decode, "--json", "-", stdin="\n".join(FRAMES))
    assert status == 0
    assert len(forms.splitlines()) == len(FRAMES)
    status, out, err = run(encode, "-", stdin=forms)
    assert (status, err) == (0, "")
    assert out.split() == FRAMES


def test_apdu_forms_encode_too(run):
    octets = "0501014001020000"
    form = run(decode, "--apdu", "--json", octets)[1]
    assert run(encode, "--apdu", form) == (0, f"{octets}\n", "")
    frame = run(decode, "--json", GET)[1]
    assert run(encode, "--apdu", frame) == (0, f"{octets}\n", "")


def test_the_octets_are_put_right_when_the_raw_ones_are_left_out(run):
    odd = next(text for text in FRAMES if "0A820007" in text)
    form = objects(run(decode, "--json", odd)[1])[0]
    del form["raw"]
    status, out, _ = run(encode, json.dumps(form))
    assert status == 0
    again = objects(run(decode, "--json", out)[1])[0]
    assert again["warnings"] == []
    assert again["apdu"] == form["apdu"]
    assert len(out.strip()) == len(odd) - 4


def test_errors_of_encode_name_the_line_and_the_place(run):
    form = objects(run(decode, "--json", GET)[1])[0]
    bad = form | {"apdu": form["apdu"] | {"oad": "4001"}}
    lines = [
        json.dumps(form),
        "# a comment",
        "{",
        json.dumps(bad),
        '{"ok": false, "reason": "too short"}',
        "5",
        "[" * 100_000,
    ]
    status, out, err = run(encode, "-", stdin="\n".join([*lines, json.dumps(form)]))
    assert status == 1
    assert out == f"{GET}\n{GET}\n"
    messages = err.splitlines()
    assert messages[0].startswith("loadgate encode: line 3: no JSON: ")
    assert messages[1] == "loadgate encode: line 4: oad: 8 hexadecimal digits expected, not '4001'"
    assert messages[2] == "loadgate encode: line 5: is what could not be decoded: too short"
    assert messages[3].startswith("loadgate encode: line 6: input: an object with 'frame' expected")
    assert messages[4].startswith("loadgate encode: line 7: no JSON: ")
    assert run(encode, "{")[2].startswith("loadgate encode: no JSON: ")


def test_usage_of_encode(run, tmp_path):
    assert run(encode)[0] == 2
    assert run(encode, "--file", str(tmp_path / "none"))[0] == 2
    file = tmp_path / "forms.jsonl"
    file.write_text(run(decode, "--json", GET)[1])
    assert run(encode, "--file", str(file)) == (0, f"{GET}\n", "")


# --- as processes -------------------------------------------------------------------------------------------------


def loadgate(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, encoding="utf-8", check=False, **options)


def test_the_commands_in_a_pipe():
    made = loadgate("decode", "--json", "-", input=f"{GET}\n{ANSWER}\n")
    assert (made.returncode, made.stderr) == (0, "")
    back = loadgate("encode", "-", input=made.stdout)
    assert (back.returncode, back.stdout.split(), back.stderr) == (0, [GET, ANSWER], "")


@pytest.mark.parametrize("command", ["decode", "encode"])
def test_help_has_examples(command):
    result = loadgate(command, "--help")
    assert result.returncode == 0
    assert "examples:" in result.stdout
    assert "Exit status" in result.stdout


def test_a_terminal_without_chinese_is_no_reason_to_stop():
    import os

    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = loadgate("decode", GET, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\u8d77\\u59cb\\u7b26" in result.stdout


def test_the_examples_of_the_help_work(run):
    words = decode.EPILOG.splitlines()[1].split()[2:]
    assert run(decode, *words)[0] == 0
    words = decode.EPILOG.splitlines()[2].split()[2:]
    status, out, _ = run(decode, *words)
    assert status == 0
    assert "DAR 4 object undefined 对象未定义" in out
    form = encode.EPILOG.split("'")[1]
    assert run(encode, "--apdu", form) == (0, "0501014001020000\n", "")
    digits = encode.EPILOG.splitlines()[1].split()[3:5]
    assert run(decode, "--json", *digits)[0] == 0
