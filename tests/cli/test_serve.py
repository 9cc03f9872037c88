"""`loadgate serve` as a process: what keeps it from starting is said in a line, with the exit status to match."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.journal_store import MIGRATIONS

TIMEOUT_S = 30
NO_BROKER = ("--mqtt", "mqtt://127.0.0.1:1", "--http", "")


def serve(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "cli.main", "serve", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, **options)


def refused(status: int, *arguments: str) -> str:
    """It ends with this status, says why on standard error, and shows no traceback."""
    result = serve(*arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_wrong_settings_are_2_and_all_are_told(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[node]\nidd = "x"\n[mqtt]\nurl = "http://broker"\n[[channels]]\nlisten = "nowhere"\n')
    text = refused(2, "--config", str(file))
    for part in ("[node] unknown key 'idd'; nearest known", '[mqtt] url = "http://broker"', 'listen = "nowhere"'):
        assert part in text
    assert len(text.splitlines()) == 3


def test_wrong_values_of_the_command_line_are_2() -> None:
    assert "channels" in refused(2, "--listen", "everywhere")
    assert "[mqtt] url" in refused(2, "--mqtt", "broker:1883")
    assert "unrecognized arguments" in refused(2, "--lisen", "x:1")


def test_a_missing_or_broken_file_is_2(tmp_path: Path) -> None:
    assert "cannot be read" in refused(2, "--config", str(tmp_path / "absent.toml"))
    (tmp_path / "broken.toml").write_text("[node\n")
    assert "not TOML" in refused(2, "--config", str(tmp_path / "broken.toml"))


def test_a_port_in_use_is_1(data: Path, taken: int) -> None:
    text = refused(1, "--listen", f"127.0.0.1:{taken}", "--data", str(data), *NO_BROKER)
    assert "address already in use" in text.lower()
    assert str(taken) in text


def test_a_probe_port_in_use_is_1(data: Path, taken: int) -> None:
    words = ("--listen", "127.0.0.1:0", "--data", str(data), "--mqtt", "mqtt://127.0.0.1:1")
    text = refused(1, *words, "--http", f"127.0.0.1:{taken}")
    assert "address already in use" in text.lower()
    assert str(taken) in text


def test_a_journal_of_another_process_is_1(data: Path) -> None:
    with (data / "journal.db.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = refused(1, "--listen", "127.0.0.1:0", "--data", str(data), *NO_BROKER)
    assert "is open in another process" in text


def test_a_journal_of_a_newer_version_is_1(data: Path) -> None:
    version = len(MIGRATIONS) + 1
    with sqlite3.connect(data / "journal.db") as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    text = refused(1, "--listen", "127.0.0.1:0", "--data", str(data), *NO_BROKER)
    assert f"has schema {version}" in text
    assert "newer version" in text


def test_a_journal_that_is_no_database_is_1(data: Path) -> None:
    (data / "journal.db").write_bytes(b"not a database " * 100)
    assert "not a database" in refused(1, "--listen", "127.0.0.1:0", "--data", str(data), *NO_BROKER)


def test_a_data_directory_that_cannot_be_made_is_1(data: Path) -> None:
    (data / "file").write_text("")
    words = ("--listen", "127.0.0.1:0", "--data", str(data / "file" / "below"), *NO_BROKER)
    assert "Not a directory" in refused(1, *words)


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "cli.main", "serve", *arguments]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **options)


def await_line(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"ended with {process.wait(TIMEOUT_S)} before {word!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[mqtt]\ndrain_timeout_s = 0.1\n")
    with start(
        *("--config", str(file), "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), *NO_BROKER)
    ) as process:
        await_line(process, "listening")
        os.kill(process.pid, number)
        await_line(process, "draining")
        assert process.wait(TIMEOUT_S) == 0


def test_it_takes_as_many_open_files_as_it_may(tmp_path: Path) -> None:
    """The usual soft limit is 1024, and each connection is a file."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))

    words = ("--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), *NO_BROKER)
    with start(*words, preexec_fn=few) as process:
        line = await_line(process, "fewer open files are allowed than connections")
        assert "2048" in line
        await_line(process, "listening")
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        (files,) = [line.split() for line in limits.splitlines() if line.startswith("Max open files")]
        process.kill()
        assert files[3] == "2048"
