"""What a DL/T 698.45 machine is told by the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    """What a machine is told by the settings; times in s, sizes in octets.

    heartbeat_default_s: for a terminal that promises 0. suspect_after, offline_after: heartbeat periods of silence.
    report_repeat_window_s: for so long a report of the same content is a repetition. fragment_octets: APDU octets that
    one frame carries. connect: `auto` is on demand (oddity 31). unregistered: what is done with a terminal that speaks
    without having logged in (oddity 34). protected_answer: how a report that came in a SECURITY envelope is
    acknowledged: plainly (oddity 25), or in an envelope too (reports.md 5).
    """

    heartbeat_default_s: int = 300
    suspect_after: float = 1.5
    offline_after: float = 2.5
    clock_trusted: bool | Callable[[], bool] = True
    request_timeout_s: float = 30.0
    request_retries: int = 1
    report_repeat_window_s: float = 600.0
    max_apdu: int = 65536
    fragment_timeout_s: float = 30.0
    fragment_octets: int = 900
    acknowledge_last_fragment: bool = True
    connect: Literal["auto", "always", "never"] = "auto"
    client_address: int = 0x10
    max_requests: int = 64
    allow: Callable[[str], bool] = lambda _: True
    unregistered: Literal["identify", "refuse"] = "identify"
    protected_answer: Literal["plain", "security"] = "plain"
