"""Instants and their octets: seconds since 1970 UTC here, the terminal's local time (UTC+8) on the wire."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

ZONE_SECONDS = 8 * 3600
ZONE = timezone(timedelta(seconds=ZONE_SECONDS))
"""Terminals stamp local time; China has one zone and no summer time."""

DAY = 86400


def local(at: float) -> datetime:
    """The local date and time of an instant."""
    return datetime.fromtimestamp(at, ZONE)


def instant(moment: datetime) -> float:
    """Seconds since 1970 UTC of a date and time; one without a zone is taken as local."""
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=ZONE)).timestamp()


@lru_cache(maxsize=4096)
def date_time_s(at: int) -> bytes:
    """The 7 octets of date_time_s: year u16, month, day, hour, minute, second."""
    t = local(at)
    return t.year.to_bytes(2) + bytes((t.month, t.day, t.hour, t.minute, t.second))


def date_time(at: float) -> bytes:
    """The 10 octets of date_time: as above with the day of the week (0 Sunday) and milliseconds u16."""
    milliseconds = round(at * 1000)
    t = local(milliseconds // 1000)
    day = bytes((t.month, t.day, t.isoweekday() % 7, t.hour, t.minute, t.second))
    return t.year.to_bytes(2) + day + (milliseconds % 1000).to_bytes(2)


def read_date_time_s(octets: bytes) -> int | None:
    """The instant in 7 octets of date_time_s; None where they are no date (FF patterns)."""
    if len(octets) != 7:
        return None
    try:
        month, day, hour, minute, second = octets[2:]
        moment = datetime(int.from_bytes(octets[:2]), month, day, hour, minute, second, tzinfo=ZONE)
    except ValueError:
        return None
    return int(moment.timestamp())


def read_date_time(octets: bytes) -> float | None:
    """The instant in 10 octets of date_time; None where they are no date."""
    if len(octets) != 10:
        return None
    at = read_date_time_s(octets[:4] + octets[5:8])
    milliseconds = int.from_bytes(octets[8:])
    return None if at is None or milliseconds > 999 else at + milliseconds / 1000


def next_day(at: float) -> int:
    """The first local midnight after `at`."""
    return int((at + ZONE_SECONDS) // DAY + 1) * DAY - ZONE_SECONDS


def next_month(at: float) -> int:
    """The first start of a local month after `at`."""
    t = local(at)
    year, month = (t.year + 1, 1) if t.month == 12 else (t.year, t.month + 1)
    return int(datetime(year, month, 1, tzinfo=ZONE).timestamp())


class Timebase(NamedTuple):
    """Simulated time against the time of the link: `speed` simulated seconds pass in each real one.

    `start`: the simulated instant at the real time `origin` (of whatever clock the caller passes as now).
    """

    start: float
    origin: float
    speed: float = 1.0

    def simulated(self, now: float) -> float:
        """The simulated instant at the real time `now`."""
        return self.start + (now - self.origin) * self.speed

    def real(self, at: float) -> float:
        """The real time of a simulated instant."""
        return self.origin + (at - self.start) / self.speed


class TerminalClock:
    """The clock of a terminal: it runs off by `drift_ppm` and is set by the master (对时)."""

    __slots__ = ("_ppm", "_shown", "_since")

    def __init__(self, at: float, *, offset: float = 0.0, drift_ppm: float = 0.0) -> None:
        self._since = at
        self._shown = at + offset
        self._ppm = drift_ppm

    def read(self, at: float) -> float:
        """What the clock shows at the simulated instant `at`."""
        return self._shown + (at - self._since) * (1 + self._ppm * 1e-6)

    def when(self, shown: float) -> float:
        """The simulated instant at which the clock shows `shown`, as it runs now."""
        return self._since + (shown - self._shown) / (1 + self._ppm * 1e-6)

    def set(self, at: float, shown: float) -> None:
        """Set the clock."""
        self._since, self._shown = at, shown

    def run_off(self, at: float, drift_ppm: float) -> None:
        """Let it run off by `drift_ppm` from now on."""
        self._shown = self.read(at)
        self._since = at
        self._ppm = drift_ppm
