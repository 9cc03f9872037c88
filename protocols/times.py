"""Times on the wire <-> instants. Terminals stamp local time; the channel's zone says which."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

MS = 1000
_KEPT = 65536


class Instants(dict[bytes, int | None]):
    """date_time_s (7 octets), date_time (10) -> ms since 1970 UTC; None where the octets are no instant.

    Answers are kept by their octets, since a report repeats the same few instants: `instants[octets]`. A time in the
    hour that daylight saving skips or repeats reads with the offset from before the change; China has had none since
    1991. Milliseconds FFFF are not given: the instant is known to the second.
    """

    def __init__(self, zone: tzinfo) -> None:
        super().__init__()
        self._zone = zone

    def __missing__(self, octets: bytes) -> int | None:
        if len(self) >= _KEPT:
            self.clear()
        instant = self[octets] = self._convert(octets)
        return instant

    def _convert(self, octets: bytes) -> int | None:
        year = octets[0] << 8 | octets[1]
        milliseconds = 0
        if len(octets) == 10:
            month, day, _, hour, minute, second = octets[2:8]
            milliseconds = octets[8] << 8 | octets[9]
            if milliseconds == 0xFFFF:
                milliseconds = 0
        elif len(octets) == 7:
            month, day, hour, minute, second = octets[2:7]
        else:
            return None
        # A year below 1970 or from 2100 on is BCD of a draft (8214 is 2016), zeros, or FF: not a clock (oddity 4).
        if not 1970 <= year < 2100 or milliseconds > 999:
            return None
        try:
            local = datetime(year, month, day, hour, minute, second, tzinfo=self._zone)
        except ValueError:
            return None
        return int(local.timestamp()) * MS + milliseconds

    def date_time(self, wall: int) -> bytes:
        """The 10 octets of an instant, day of week 0 = Sunday."""
        at = datetime.fromtimestamp(wall // MS, UTC).astimezone(self._zone)
        fields = (at.month, at.day, at.isoweekday() % 7, at.hour, at.minute, at.second)
        return at.year.to_bytes(2) + bytes(fields) + (wall % MS).to_bytes(2)

    def date_time_s(self, wall: int) -> bytes:
        """The 7 octets of an instant."""
        at = datetime.fromtimestamp(wall // MS, UTC).astimezone(self._zone)
        return at.year.to_bytes(2) + bytes((at.month, at.day, at.hour, at.minute, at.second))
