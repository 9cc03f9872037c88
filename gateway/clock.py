"""The gateway's clock: one monotonic, for waiting, and one for telling the time. Passed to whoever needs it."""

from __future__ import annotations

import ctypes
import time
from typing import Final

from protocols.events import Moment

_TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the kernel's clock is not synchronized."""
_TIMEX_OCTETS: Final = 512
"""Room for `struct timex`, which has 208 octets on 64-bit Linux; zeros ask without setting anything."""


class Clock:
    """The system's clocks. Tests pass another."""

    __slots__ = ()

    @staticmethod
    def moment() -> Moment:
        """Now: (monotonic s, ms since 1970 UTC)."""
        return Moment(time.monotonic(), time.time_ns() // 1_000_000)

    @staticmethod
    def wall() -> float:
        """Seconds since 1970 UTC."""
        return time.time()

    @staticmethod
    def synchronized() -> bool:
        """Whether the kernel says that something keeps its clock right (NTP, PTP, GPS)."""
        try:
            adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
        except (OSError, AttributeError):
            return False
        state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_OCTETS)))
        return 0 <= state < _TIME_ERROR
