"""The command, as a process of its own: help, exit statuses, lazy imports, `config`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main as command
from gateway.settings import Settings, commented_toml

TIMEOUT_S = 60


def loadgate(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, encoding="utf-8", **options)


@pytest.fixture
def subcommand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module with the given body of `run` into the place of `decode`, in a process of its own."""

    def start(body: str, **options) -> subprocess.Popen[bytes]:
        (tmp_path / "given.py").write_text(f"def add_arguments(parser): pass\ndef run(args):\n    {body}\n")
        # Whoever runs the tests in the background of a shell has SIGINT ignored, and hands that on.
        program = (
            "import signal, sys; from cli import main\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "main.COMMANDS['decode'] = ('given', 'x')\n"
            "sys.exit(main.main(['decode']))"
        )
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.Popen([sys.executable, "-c", program], env=environment, **options)

    return start


def test_help_lists_every_command_and_an_example():
    result = loadgate("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for name, (_, text) in command.COMMANDS.items():
        assert any(line.split()[:1] == [name] and line.endswith(text) for line in result.stdout.splitlines()), name
    assert "loadgate serve --config gateway.toml" in result.stdout


def test_help_and_version_import_no_subcommand():
    program = (
        "import sys\nfrom cli.main import main\n"
        "try: main([sys.argv[1]])\nexcept SystemExit: pass\n"
        "ours = ('cli.', 'gateway', 'messages', 'wire698', 'asyncio')\n"
        "print([name for name in sys.modules if name.startswith(ours)], file=sys.stderr)"
    )
    for option in ("--help", "--version"):
        words = [sys.executable, "-c", program, option]
        result = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        assert result.stderr == "['cli.main']\n"


def test_version():
    assert loadgate("--version").stdout == "loadgate 0.1.0\n"


def test_wrong_usage_is_2():
    nothing = loadgate()
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "usage: loadgate" in nothing.stderr
    unknown = loadgate("serv")
    assert unknown.returncode == 2
    assert "invalid choice: 'serv' (choose from " in unknown.stderr
    option = loadgate("config", "--chek", "x")
    assert option.returncode == 2
    assert "unrecognized arguments: --chek" in option.stderr


def test_statuses_are_those_of_the_subcommand(subcommand):
    for status in (0, 1):
        assert subcommand(f"return {status}").wait(TIMEOUT_S) == status


def test_interrupt_is_130_without_a_traceback(subcommand):
    process = subcommand(
        "print('ready', flush=True); __import__('signal').pause()", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (130, b"")


def test_a_reader_that_goes_away_is_no_traceback(subcommand):
    process = subcommand(
        "[print('line', n) for n in range(100_000)]; return 0", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(TIMEOUT_S), errors) == (141, b"")
    process.stderr.close()


# -- config ---------------------------------------------------------------------------------------------------


def test_config_prints_the_commented_file():
    result = loadgate("config")
    assert (result.returncode, result.stdout) == (0, commented_toml(Settings()))


def test_config_json():
    settings = json.loads(loadgate("config", "--json").stdout)
    assert settings["mqtt"]["window"] == 4096
    assert settings["channels"][0]["name"] == "tcp"


def test_config_check(tmp_path: Path):
    path = tmp_path / "gateway.toml"
    path.write_text('[mqtt]\nurl = "mqtts://user:hunter2@broker"\n')
    good = loadgate("config", "--check", str(path))
    assert (good.returncode, good.stdout, good.stderr) == (0, f"{path}: ok\n", "")
    as_json = loadgate("config", "--json", "--check", str(path))
    assert json.loads(as_json.stdout)["settings"]["mqtt"]["url"] == "mqtts://***@broker"

    path.write_text("[mqtt]\nurll = 1\nwindow = 0\n")
    bad = loadgate("config", "--check", str(path))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.splitlines() == [
        f"{path}: [mqtt] unknown key 'urll'; nearest known key: 'url'",
        f"{path}: [mqtt] window = 0: expected a whole number, 1 to 65_535",
    ]
    as_json = loadgate("config", "--check", str(path), "--json")
    assert as_json.returncode == 1
    answer = json.loads(as_json.stdout)
    assert (answer["ok"], [problem["key"] for problem in answer["problems"]]) == (False, ["mqtt.urll", "mqtt.window"])
