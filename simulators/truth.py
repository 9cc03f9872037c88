"""What really happened: every report that the fleet made, what it said, whether it was acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

import msgspec


class TrueRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One meter's values at one instant.

    time: ms since 1970 UTC; values: engineering values by name (`voltage.a`), as the MQTT contract names them.
    """

    meter: str | None
    time: int
    values: Mapping[str, float | int | str | None]


class TrueReport(msgspec.Struct, omit_defaults=True):
    """One report, from the moment it stands in the terminal's queue.

    form: `88 01` or `88 02`; kind: `task` or `event`; series: minute, day, month, or the event's slug.
    sent, acknowledged: real time of the first sending and of the acknowledgement, as the fleet's clock counts.
    """

    number: int
    terminal: str
    form: str
    kind: str
    series: str
    rows: tuple[TrueRow, ...]
    event: dict[str, Any] | None = None
    attempts: int = 0
    sent: float | None = None
    acknowledged: float | None = None


class Truth:
    """Collects reports. With `keep`, `reports` holds them all; with `file`, lines of JSON go there.

    A report is one line when it is made (`"report"`), and one when it is acknowledged (`"acknowledged"`: its number).
    """

    def __init__(self, *, keep: bool = True, file: TextIO | None = None) -> None:
        self.reports: list[TrueReport] = []
        self.made = 0
        self.sent = 0
        self.acknowledged = 0
        self.rows = 0
        self.events = 0
        self._keep = keep
        self._file = file

    @property
    def wants_rows(self) -> bool:
        """Somebody will look at the values."""
        return self._keep or self._file is not None

    @property
    def unacknowledged(self) -> int:
        """Reports that were made and are not acknowledged yet."""
        return self.made - self.acknowledged

    def report(
        self,
        terminal: str,
        form: str,
        kind: str,
        series: str,
        rows: tuple[TrueRow, ...],
        event: dict[str, Any] | None = None,
        *,
        count: int = 0,
    ) -> TrueReport:
        """Enter a report that has just been queued; `count`: its rows, also where they are not told."""
        self.made += 1
        self.rows += count
        self.events += kind == "event"
        entry = TrueReport(self.made, terminal, form, kind, series, rows, event)
        if self._keep:
            self.reports.append(entry)
        if self._file is not None:
            self._line({"report": entry})
        return entry

    def was_sent(self, entry: TrueReport, now: float) -> None:
        """It was given to the link, for the first time or again."""
        entry.attempts += 1
        if entry.sent is None:
            entry.sent = now
            self.sent += 1

    def was_acknowledged(self, entry: TrueReport, now: float) -> None:
        """The master acknowledged it."""
        entry.acknowledged = now
        self.acknowledged += 1
        if self._file is not None:
            self._line({"acknowledged": entry.number, "attempts": entry.attempts})

    def _line(self, value: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(msgspec.json.encode(value).decode() + "\n")
