"""What values of settings must be, where limits cannot say it, and the words that say what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

_OFFSET: Final = re.compile(r"([+-])(\d\d):([0-5]\d)\Z")
_PATTERN: Final = re.compile(r"(?:[0-9A-F]{1,32}\*?|\*)\Z")


# -- what a value must be, where limits cannot say it ---------------------------------------------------------


def split_listen(listen: str) -> tuple[str, int]:
    """`"0.0.0.0:4000"` or `"[::1]:4000"` as host and port (0: any free one); raises `ValueError`."""
    match = re.match(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([A-Za-z0-9._-]+)):(\d{1,5})\Z", listen)
    if match is None or int(match[3]) > 65_535:
        raise ValueError("not HOST:PORT")
    return match[1] or match[2], int(match[3])


def time_zone(name: str) -> tzinfo:
    """`Asia/Shanghai` or `+08:00` as a time zone; raises `ValueError`.

    China has had no summer time since 1991, so its zone is known even where no tz database is installed.
    """
    if match := _OFFSET.match(name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if offset > timedelta(hours=14):
            raise ValueError("an offset is at most 14 hours")
        return timezone(-offset if match[1] == "-" else offset) if offset else UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # KeyError: ZoneInfoNotFoundError; OSError: the name is a directory
        if name == "Asia/Shanghai":
            return timezone(timedelta(hours=8), name)
        raise ValueError("not a known time zone") from None


def pattern_filter(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a terminal address is one of `patterns`: addresses, or prefixes with a star (`1122*`)."""
    exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return lambda terminal: terminal in exact or terminal.startswith(prefixes)


def _check_listen(value: str) -> None:
    split_listen(value)


def _check_listen_or_off(value: str) -> None:
    if value:
        split_listen(value)


def _check_time_zone(value: str) -> None:
    time_zone(value)


def _check_pattern(value: str) -> None:
    if _PATTERN.match(value) is None:
        raise ValueError("not an address or a prefix with a star")


def check_meters(value: str) -> None:
    """`own`, `known`, or an address."""
    if value not in ("own", "known") and re.fullmatch(r"[0-9A-F]{1,32}", value) is None:
        raise ValueError("not own, known or an address")


def _check_url(value: str) -> None:
    if re.search(r"\s", value):
        raise ValueError("white space")
    parts = urlsplit(value)
    _ = parts.port  # raises ValueError when it is none
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise ValueError("not mqtt://HOST or mqtts://HOST")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("nothing may follow the port")


def _check_prefix(value: str) -> None:
    if not all(value.split("/")) or re.search(r"[+#$\x00-\x1f\x7f]", value):
        raise ValueError("not levels of a topic")


def _check_plain(value: str) -> None:
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
        raise ValueError("control characters")


LISTEN = {"expected": '"HOST:PORT", such as "0.0.0.0:4000" or "[::]:4000"', "check": _check_listen}
LISTEN_OR_OFF = {"expected": '"HOST:PORT", or "" for off', "check": _check_listen_or_off}
ZONE = {"expected": 'a time zone, such as "Asia/Shanghai" or "+08:00"', "check": _check_time_zone}
ADDRESSES = {
    "expected": 'an array of addresses or prefixes, such as "112233445566" or "1122*"',
    "check": _check_pattern,
}
URL = {"expected": '"mqtt://[USER:PASSWORD@]HOST[:PORT]", or mqtts:// for TLS', "check": _check_url}
TOPIC = {
    "expected": 'levels of a topic such as "loadgate/v1", without + # $, 1 to 256 characters',
    "check": _check_prefix,
}
NAME = {"expected": "1 to 64 letters, digits, . _ -, the first a letter or digit"}
PATH = {"expected": "a path, without control characters", "check": _check_plain}
CLIENT_ID = {"expected": "a text of at most 64 characters", "check": _check_plain}
BOOL = {"expected": "true or false"}
HEX = {"expected": "a whole number, 0x00 to 0xFF", "hex": True}
NAME_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
