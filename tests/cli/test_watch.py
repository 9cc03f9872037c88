"""`loadgate watch`: how a message is shown."""

from __future__ import annotations

import json

import pytest

from cli import main
from cli.watch import line
from messages import Alarm, Column, Reading, Topics, encode

TOPICS = Topics()
TERMINAL = "112233445566"
AT = 1_764_000_000_000


def reading(columns: int = 2) -> Reading:
    return Reading(
        id="0123456789abcdef",
        terminal=TERMINAL,
        received_at=AT,
        cause="report",
        series="minute",
        columns=tuple([Column(name=f"voltage.{n}", unit="V", scale=-1, oad="20000200") for n in range(columns)]),
        rows=[["000000000001", AT, *[220.5] * columns], [None, None, *[None] * columns]],
    )


def shown(message: Reading | Alarm, topic: str, *, as_json: bool = False) -> list[str]:
    texts = {line(TOPICS, topic, encode(message, form), as_json=as_json) for form in ("msgpack", "json")}
    (text,) = texts
    return text.splitlines()


def test_a_reading_is_a_line_a_row_without_nulls() -> None:
    first, second = shown(reading(), TOPICS.reading(TERMINAL))
    assert f"  {TERMINAL}  reading   minute 000000000001 " in first
    assert first.endswith("voltage.0=220.5V voltage.1=220.5V")
    assert second.split("minute ")[1].strip() == "own -"


def test_many_columns_are_cut() -> None:
    assert shown(reading(20), TOPICS.reading(TERMINAL))[0].endswith(" … 8 more")


def test_an_alarm() -> None:
    alarm = Alarm(
        id="0123456789abcdef",
        terminal=TERMINAL,
        received_at=AT,
        event="voltage_loss",
        oi="3000",
        transition="raised",
        occurred_at=AT,
        source="report",
        severity="critical",
        values={},
    )
    (text,) = shown(alarm, TOPICS.alarm(TERMINAL))
    assert "critical voltage_loss raised at " in text
    (as_json,) = shown(alarm, TOPICS.alarm(TERMINAL), as_json=True)
    assert json.loads(as_json)["message"]["event"] == "voltage_loss"


@pytest.mark.parametrize(
    ("payload", "text"),
    [(b'{"a": 1}', "{'a': 1}"), (b"\x81\xa1a\x01", "{'a': 1}"), (b"\xc1\xff", "c1ff"), (b"{broken", "7b62726f6b656e")],
)
def test_what_is_no_message_is_shown_all_the_same(payload: bytes, text: str) -> None:
    for topic in ("somebody/else", TOPICS.reading(TERMINAL)):
        assert text in line(TOPICS, topic, payload, as_json=False)
    assert json.loads(line(TOPICS, "x/y", payload, as_json=True))["topic"] == "x/y"


def test_a_wrong_url_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["watch", "--mqtt", "http://broker"]) == 2
    assert "--mqtt" in capsys.readouterr().err
