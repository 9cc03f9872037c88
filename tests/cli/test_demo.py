"""`loadgate demo`: one summary line and 0 when all has come, non-zero when something is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cli import demo
from cli.tally import Tally, Verdict
from messages import Alarm, Column, Reading, State
from simulators.fleet import Summary
from simulators.truth import TrueReport, TrueRow

AT = 1_764_000_000_000
TERMINAL, METER = "100000000001", "500000000001"


def test_it_runs_by_itself() -> None:
    words = [sys.executable, "-m", "cli.main", "demo", "--duration", "6", "--plain"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    summaries = [line for line in lines if line.startswith("demo: ")]
    assert len(summaries) == 1
    assert lines[-1] == summaries[0]
    found = re.fullmatch(
        r"demo: terminals=20 readings=(\d+) alarms=(\d+) reports=(\d+) acknowledged=(\d+) lost=0 ok", summaries[0]
    )
    assert found is not None, summaries[0]
    readings, alarms, reports, acknowledged = (int(number) for number in found.groups())
    assert readings >= 40
    assert alarms >= 1
    assert reports == acknowledged == readings + alarms


# --- the verdict ---------------------------------------------------------------------------------------------------


def told(value: float = 220.5, **changes: Any) -> Reading:
    made = Reading(
        id="0000000000000001",
        terminal=TERMINAL,
        received_at=AT,
        cause="report",
        series="minute",
        columns=(Column(name="voltage.a", unit="V", scale=-1, oad="20000201"),),
        rows=[[METER, AT, value]],
    )
    return msgspec.structs.replace(made, **changes)


def alarm(**changes: Any) -> Alarm:
    made = Alarm(
        id="0000000000000002",
        terminal=TERMINAL,
        received_at=AT,
        event="voltage_loss",
        oi="3000",
        record_no=3,
        meter=METER,
        transition="raised",
        occurred_at=AT,
        source="report",
        severity="warning",
        values={},
    )
    return msgspec.structs.replace(made, **changes)


ROW = TrueRow(METER, AT, {"voltage.a": 220.5})
SAID = TrueReport(1, TERMINAL, "88 02", "task", "minute", (ROW,))
EVENT = TrueReport(
    2, TERMINAL, "88 02", "event", "voltage_loss", (), {"record_no": 3, "occurred_at": AT, "meter": METER}
)


def judged(*messages: Reading | Alarm) -> tuple[int, int]:
    """(missing, false) after these messages."""
    tally = Tally()
    for message in messages:
        tally.take(message)
    verdict = tally.judge([SAID, EVENT])
    assert (verdict.readings, verdict.alarms) == (1, 1)
    return len(verdict.missing), len(verdict.false)


@pytest.mark.parametrize(
    ("messages", "missing", "false"),
    [
        ((told(), alarm()), 0, 0),
        ((told(), told(), alarm(), alarm()), 0, 0),
        ((), 2, 0),
        ((told(),), 1, 0),
        ((alarm(),), 1, 0),
        ((told(rows=[[METER, AT + 1, 220.5]]), alarm()), 1, 0),
        ((told(columns=(Column(name="voltage.b", unit="V", scale=-1, oad="20000202"),)), alarm()), 1, 0),
        ((told(220.6), alarm()), 0, 1),
        ((told(terminal="100000000002"), alarm()), 1, 0),
        ((told(), alarm(occurred_at=AT + 1)), 0, 1),
        ((told(), alarm(record_no=4)), 1, 0),
    ],
)
def test_what_is_missing_or_false_is_found(messages: tuple[Reading | Alarm, ...], missing: int, false: int) -> None:
    assert judged(*messages) == (missing, false)


def test_a_repetition_counts_once() -> None:
    tally = Tally()
    assert [tally.take(told()), tally.take(told()), tally.take(alarm())] == [True, False, True]
    assert (tally.readings, tally.alarms, tally.repeated) == (1, 1, 1)


def summary(**changes: Any) -> Summary:
    numbers = dict.fromkeys(Summary.__struct_fields__, 0)
    return Summary(**{**numbers, "faults": {}, "reports": 2, "acknowledged": 2, **changes})


def test_the_summary_line() -> None:
    tally = Tally()
    for message in (told(), alarm()):
        tally.take(message)
    tally.take(
        State(
            id="0000000000000003",
            terminal=TERMINAL,
            received_at=AT,
            presence="online",
            reason="login",
            since=AT,
            last_seen=AT,
            heartbeat_s=60,
        )
    )
    assert demo.summary_line(summary(), tally, Verdict()) == (
        "demo: terminals=1 readings=1 alarms=1 reports=2 acknowledged=2 lost=0 ok"
    )
    line = demo.summary_line(summary(acknowledged=1), tally, Verdict(missing=["x"], false=["y"]))
    assert line.endswith("acknowledged=1 lost=2 FAILED")


@pytest.mark.parametrize(
    ("verdict", "status"), [(Verdict(), 0), (Verdict(missing=["m"]), 1), (Verdict(false=["f"]), 1)]
)
def test_the_exit_status(
    verdict: Verdict, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def played(*_: object) -> tuple[Verdict, str]:
        return verdict, "demo: the line"

    monkeypatch.setattr(demo, "_demo", played)
    assert demo.run(SimpleNamespace()) == status  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert captured.out == "demo: the line\n"
    assert captured.err.split() == verdict.missing + verdict.false


async def test_absent_terminals_and_unacknowledged_reports_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_SETTLE_S", 0.0)
    fleet = SimpleNamespace(truth=SimpleNamespace(reports=[SAID]), settings=[SimpleNamespace(address=TERMINAL)])
    tally = Tally()
    tally.take(told())
    verdict = await demo._settled(fleet, SimpleNamespace(tally=tally))  # type: ignore[arg-type]
    assert sorted(verdict.missing) == [
        f"{TERMINAL} minute: not acknowledged",
        f"terminal {TERMINAL}: never online",
    ]
