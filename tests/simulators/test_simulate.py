"""`loadgate simulate`: options, the summary, the exit status."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli import simulate
from simulators.truth import TrueControl, TrueMessage

COMMAND = """
import argparse, sys
from cli import simulate
parser = argparse.ArgumentParser("loadgate simulate")
simulate.add_arguments(parser)
sys.exit(simulate.run(parser.parse_args()))
"""

MASTER = """
import asyncio
from wire698 import access, link, model
from wire698.frame import Frame, Framer, build_frame

class Master(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.framer = transport, Framer()
    def data_received(self, data):
        for frame in self.framer.feed(data):
            apdu = model.parse(frame.data).apdu
            if isinstance(apdu, link.LinkRequest):
                answer = link.LinkResponse(piid=apdu.piid, result=0x80, request=apdu.time, received=apdu.time,
                                           response=apdu.time)
                control = 1
            else:
                oads = tuple(record.oad for record in apdu.records)
                answer = access.ReportResponseRecordList(piid=apdu.piid, oads=oads)
                control = 3
            self.transport.write(build_frame(control, frame.address, 1, model.build(answer)))
            if getattr(apdu, "type", None) == link.LOGOUT:
                self.transport.close()

async def main():
    server = await asyncio.get_running_loop().create_server(Master, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with asyncio.timeout(30):
        await server.serve_forever()

asyncio.run(main())
"""

QUIET = "[fleet]\nprotected = 0.0\nframe_size = 4096\n[tasks]\nspread_s = 0.0\n"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=40,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture
def port() -> object:
    process = subprocess.Popen([sys.executable, "-c", MASTER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_that_is_complete_ends_with_0_and_one_json_object(port: str, tmp_path: Path) -> None:
    scenario, truth = tmp_path / "s.toml", tmp_path / "truth.jsonl"
    scenario.write_text(QUIET)
    done = run(
        *("--connect", f"127.0.0.1:{port}", "--terminals", "5", "--scenario", str(scenario), "--speed", "60"),
        *("--rate", "25", "--reports-per-terminal", "2", "--truth", str(truth), "--json", "--quiet"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["terminals"], summary["logins"], summary["reports"]) == (5, 5, 10)
    assert (summary["acknowledged"], summary["unacknowledged"]) == (10, 0)
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert len([line for line in lines if "acknowledged" in line]) == 10


SHOWN = """
[fleet]
terminals = 2
protected = 0.0
array_events = 0.0
structure_events = 0.0
frame_size = 4096
[time]
start = 2026-03-02T10:00:00
speed = 60
[[event]]
kind = "remote_trip"
at_s = 60
duration_s = 60
terminals = [2]
[[quirk]]
relay_shares = [0.5, 0.5]
answers_late_s = { action = 1.0 }
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_show_prints_each_relay_that_moves(port: str, tmp_path: Path, form: str) -> None:
    scenario = tmp_path / "s.toml"
    scenario.write_text(SHOWN)
    json_too = ["--json"] if form == "json" else []
    done = run("--connect", f"127.0.0.1:{port}", "--scenario", str(scenario), "--duration", "3", "--show", *json_too)
    assert done.returncode == 0
    shown = done.stderr if form == "json" else done.stdout
    lines = [line for line in shown.splitlines() if "relay 1" in line]
    opened, closed = lines
    assert opened.startswith("2026-03-02 10:01:00  100000000002  relay 1 opened (local): ")
    assert closed.startswith("2026-03-02 10:02:00  100000000002  relay 1 closed (local): ")
    before, after = (float(part.split()[0]) for part in opened.split(": ")[1].split("-> "))
    assert after == pytest.approx(before / 2, abs=0.01)
    if form == "json":
        assert json.loads(done.stdout)["switches"] == 2


def test_a_message_is_shown_as_the_display_has_it() -> None:
    out = io.StringIO()
    simulate._show(out, TrueMessage("100000000001", 1772409600000, "important", 3, "明天停电"))
    simulate._show(out, TrueMessage("100000000001", 1772409600000, "arrears", None, "欠费"))
    simulate._show(out, TrueControl(1, "100000000001", 0.0, 0, "80008100", 6, 0, 1.0))
    assert out.getvalue().splitlines() == [
        "2026-03-02 08:00:00  100000000001  display important 3: 明天停电",
        "2026-03-02 08:00:00  100000000001  display arrears: 欠费",
    ]


def test_a_run_that_is_not_complete_ends_with_1(port: str) -> None:
    done = run("--connect", "127.0.0.1:1", "--speed", "3600", "--duration", "1", "--drain", "0.1", "--seed", "3")
    assert done.returncode == 1
    assert "acknowledged 0" in done.stdout
    assert "connections 0" in done.stdout


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--connect", "127.0.0.1:9", "--scenario", "/nowhere.toml"], "No such file"),
        (["--connect", "127.0.0.1:9", "--terminals", "5", "--rate", "100"], "speed of at least"),
        (["--connect", "127.0.0.1:9", "--first-address", "12X4"], "options: "),
        (["--connect", "nowhere"], "HOST:PORT"),
        (["--connect", "127.0.0.1:9", "--terminals", "0"], "1 or more"),
        (["--connect", "127.0.0.1:9", "--speed", "-1"], "above 0"),
        (["--terminals", "3"], "one of the arguments --connect --udp --listen --serial --radio is required"),
        (["--connect", "127.0.0.1:9", "--udp", "127.0.0.1:9"], "not allowed with"),
        (["--udp", "127.0.0.1:9", "--bitrate", "9600"], "--bitrate: only with --serial or --radio"),
        (["--listen", "127.0.0.1:9", "--unasked"], "--unasked: only with --serial or --radio"),
        (["--listen", "127.0.0.1:65530"], "would end at 65549"),
        (["--serial", "rfc2217://x:1"], "socket://HOST:PORT"),
        (["--serial", "/nowhere/line", "--bitrate", "9601"], "invalid choice"),
        (["--radio", "/nowhere/radio", "--duration", "1"], "no link can be made"),
        (["--serial", "/etc/hostname", "--duration", "1"], "/etc/hostname"),
        (["--radio", "/tmp/r", "--reports-per-terminal", "3"], "only with --unasked"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(args: list[str], complaint: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_options_overrule_the_scenario_file(tmp_path: Path) -> None:
    scenario = tmp_path / "s.toml"
    scenario.write_text("seed = 4\n[fleet]\nterminals = 3\nmeters = 7\n[time]\nstart = 2026-03-02T08:00:00\n")
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    base = ["--connect", "[::1]:9001", "--scenario", str(scenario)]
    options = simulate._options(parser.parse_args([*base, "--terminals", "9", "--speed", "5"]))
    assert (options.host, options.port) == ("::1", 9001)
    assert (options.scenario.fleet.terminals, options.scenario.fleet.meters) == (9, 7)
    assert (options.scenario.seed, options.scenario.time.speed) == (4, 5.0)
    assert options.scenario.time.start is not None


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "loadgate simulate --connect 127.0.0.1:9001 --terminals 20" in done.stdout
    assert "--reports-per-terminal" in done.stdout
