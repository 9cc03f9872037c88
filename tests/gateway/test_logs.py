"""The log: no secrets, no second lines, no floods, no cost when off."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs import MAX_TEXT, RepeatLimit, configure, get_logger, mask, mask_text


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; the set-up of the process is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    config = structlog.get_config()
    yield io.StringIO()
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


SECRETS = {
    "password": "hunter2",
    "mqtt_password": "hunter2",
    "Secret": "hunter2",
    "token": b"hunter2",
    "key": 2,
    "tls-key": "hunter2",
    "url": "mqtt://user:hunter2@broker:1883",
    "urls": ["mqtts://hunter2@a", {"deep": ("mqtt://u:h/u?n#ter2@b hunter", "password=hunter2")}],
    "text": "connect(password='hunt er2', host='b')",
    "more": 'login {"passwd": "hunt\\"er2"} failed, token: hunter2',
}


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_leaves(stream: io.StringIO, form: Any):
    class Options:
        def __repr__(self) -> str:
            return "Options(host='b', password='hunter2')"

    configure("info", form, stream=stream)
    log = get_logger("gateway.x", mqtt={"password": "hunter2"})
    log.info("connected to mqtt://user:hunter2@broker", options=Options(), **SECRETS)
    log.error("failed", exc_info=ValueError("cannot reach mqtt://user:hunter2@broker"))
    logging.getLogger("aiomqtt").error("bad url %s", "mqtt://user:hunter2@broker")
    text = stream.getvalue()
    for part in ("hunter2", "er2", "user", "ter2"):
        assert part not in text
    assert text.count("mqtt://***@broker") >= 4
    assert "host='b'" in text
    assert "ValueError: cannot reach" in text


@given(
    before=st.text(max_size=20),
    user=st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="<>"), max_size=9),
    after=st.text(max_size=20),
)
def test_userinfo_of_a_url_is_masked_wherever_it_stands(before: str, user: str, after: str):
    masked = mask_text(f"{before} mqtt://{user}:s3cr3t@host {after}")
    assert "s3cr3t" not in masked
    assert "@host" in masked


def test_masking_keeps_the_rest():
    assert mask({"terminal": "112233445566", "n": 1.5, "ok": True, "none": None, "keys": ["a"], "monkey": "b"}) == {
        "terminal": "112233445566",
        "n": 1.5,
        "ok": True,
        "none": None,
        "keys": ["a"],
        "monkey": "b",
    }
    assert mask_text("mqtt://broker:1883 and user@host") == "mqtt://broker:1883 and user@host"


def test_values_are_bounded():
    deep: Any = "end"
    for _ in range(50):
        deep = [deep]
    assert len(repr(mask(deep))) < 60
    assert len(mask("x" * 100_000)) < MAX_TEXT + 40
    assert len(mask(list(range(10_000)))) == 256


def test_json_lines(stream: io.StringIO):
    configure("info", "json", stream=stream)
    get_logger("gateway.link", channel="tcp").info("login", terminal="1122", note="终端")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "login",
        "level": "info",
        "logger": "gateway.link",
        "channel": "tcp",
        "terminal": "1122",
        "note": "终端",
    }


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_peer_cannot_begin_a_line(stream: io.StringIO, form: Any):
    configure("info", form, stream=stream)
    get_logger("x").info("got", text="a\n2024 forged\r\x1b[2J\x85\u2028b", inner=["c\nd"])
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_level_that_is_off_formats_nothing(stream: io.StringIO):
    class Costly:
        def __repr__(self) -> str:
            raise AssertionError("formatted")

        __str__ = __repr__

    configure("warning", "json", stream=stream)
    log = get_logger("x")
    log.info("off %s", Costly(), value=Costly())
    log.debug("off", value=Costly())
    assert stream.getvalue() == ""
    log.warning("on")
    assert [line["event"] for line in lines(stream)] == ["on"]


def test_logs_of_libraries_take_the_same_road(stream: io.StringIO):
    configure("info", "json", stream=stream)
    configure("info", "json", stream=stream)  # twice is once
    logging.getLogger("paho").info("chatter")
    logging.getLogger("aiohttp.server").warning("odd %s", "request")
    logging.getLogger("asyncio").error("task failed", exc_info=RuntimeError("boom"))
    odd, failed = lines(stream)
    assert (odd["logger"], odd["level"], odd["event"]) == ("aiohttp.server", "warning", "odd request")
    assert (failed["logger"], failed["level"]) == ("asyncio", "error")
    assert "RuntimeError: boom" in failed["exception"]
    configure("debug", "json", stream=stream)
    logging.getLogger("paho").debug("chatter %d", 1)
    assert lines(stream)[-1]["event"] == "chatter 1"


def test_a_closed_standard_error_is_no_reason_to_die(stream: io.StringIO):
    configure("info", "json", stream=stream)
    log = get_logger("x")
    log.info("one")
    stream.close()
    log.info("two")


@pytest.fixture
def limited(stream: io.StringIO) -> Callable[..., tuple[RepeatLimit, list[float]]]:
    def make(**options: Any) -> tuple[RepeatLimit, list[float]]:
        now = [0.0]
        limit = RepeatLimit(clock=lambda: now[0], **options)
        return configure("debug", "json", stream=stream, limit=limit), now

    return make


def test_repeated_warnings_are_limited_and_counted(stream: io.StringIO, limited: Any):
    limit, now = limited(burst=3, window_s=60.0)
    log = get_logger("x")
    for number in range(10):
        log.warning("bad frame", terminal=str(number))
    assert [line["terminal"] for line in lines(stream)] == ["0", "1", "2"]
    now[0] = 59.9
    log.warning("bad frame")
    now[0] = 60.0
    log.warning("bad frame", terminal="later")
    log.warning("bad frame", terminal="after")
    later, after = lines(stream)[3:]
    assert (later["terminal"], later["suppressed"]) == ("later", 8)
    assert "suppressed" not in after
    assert limit.suppressed == 8


def test_other_events_loggers_and_levels_are_not_hit(stream: io.StringIO, limited: Any):
    limited(burst=1)
    log = get_logger("x")
    for _ in range(3):
        log.warning("a")
        log.error("b")
        get_logger("y").warning("a")
        log.info("c")
        log.critical("d")
    events = [(line["logger"], line["event"]) for line in lines(stream)]
    assert {event: events.count(event) for event in set(events)} == {
        ("x", "a"): 1,
        ("x", "b"): 1,
        ("y", "a"): 1,
        ("x", "c"): 3,
        ("x", "d"): 3,
    }


def test_records_of_libraries_are_limited_by_their_template(stream: io.StringIO, limited: Any):
    limited(burst=2)
    for number in range(5):
        logging.getLogger("paho").warning("failed %d", number)
    assert [line["event"] for line in lines(stream)] == ["failed 0", "failed 1"]
    assert all("_template" not in line for line in lines(stream))


def test_remembered_events_are_bounded(stream: io.StringIO, limited: Any):
    limit, _ = limited(burst=1, names=10)
    log = get_logger("x")
    for number in range(25):
        event = f"event {number}"
        log.warning(event)
    assert len(limit._seen) == 10
    assert limit.forgotten == 15
    log.warning("event 24")
    log.warning("event 0")
    assert [line["event"] for line in lines(stream)][25:] == ["event 0"]
