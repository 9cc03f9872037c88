"""What really happened: every report that the fleet made and whether it was acknowledged; every control it obeyed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TextIO, TypeVar

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


class TrueControl(msgspec.Struct, frozen=True, omit_defaults=True):
    """One execution of a method, however often it was asked for: a terminal cannot know a repetition.

    at: real time, as the fleet's clock counts; time: simulated ms since 1970; omd: `80008100`; dar: 0 accepted;
    answered: False for a broadcast; power_kw: of the premises when it came.
    """

    number: int
    terminal: str
    at: float
    time: int
    omd: str
    piid: int
    dar: int
    power_kw: float
    answered: bool = True

    @property
    def accepted(self) -> bool:
        """The terminal took it."""
        return self.dar == 0


class TrueSwitch(msgspec.Struct, frozen=True):
    """A relay that opened or closed (see happenings.Switched); powers in kW of the whole premises."""

    terminal: str
    time: int
    relay: int
    is_open: bool
    cause: str
    before_kw: float
    after_kw: float


class TrueMessage(msgspec.Struct, frozen=True):
    """Words that appeared on a display (see happenings.Shown)."""

    terminal: str
    time: int
    kind: str
    number: int | None
    text: str


E = TypeVar("E", TrueControl, TrueSwitch, TrueMessage)
Watcher = Callable[[TrueControl | TrueSwitch | TrueMessage], None]


class Truth:
    """Collects reports, executed controls, movements of relays, and what displays showed.

    With `keep`, `reports`, `controls`, `switches` and `messages` hold them all; with `file`, lines of JSON go there;
    `watch` is called with each of the last three as it happens. A report is one line when it is made (`"report"`), and
    one when it is acknowledged (`"acknowledged"`: its number).
    """

    def __init__(self, *, keep: bool = True, file: TextIO | None = None, watch: Watcher | None = None) -> None:
        self.reports: list[TrueReport] = []
        self.controls: list[TrueControl] = []
        self.switches: list[TrueSwitch] = []
        self.messages: list[TrueMessage] = []
        self.executed = 0
        self._watch = watch
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

    def control(
        self, terminal: str, at: float, time: int, omd: str, piid: int, dar: int, power_kw: float, *, answered: bool
    ) -> None:
        """A method was carried out, or refused."""
        self.executed += 1
        entry = TrueControl(self.executed, terminal, at, time, omd, int(piid), int(dar), round(power_kw, 4), answered)
        self._tell("control", entry, self.controls)

    def switched(self, entry: TrueSwitch) -> None:
        """A relay moved."""
        self._tell("switch", entry, self.switches)

    def shown(self, entry: TrueMessage) -> None:
        """A display showed something."""
        self._tell("message", entry, self.messages)

    def _tell(self, name: str, entry: E, kept: list[E]) -> None:
        if self._keep:
            kept.append(entry)
        if self._file is not None:
            self._line({name: entry})
        if self._watch is not None:
            self._watch(entry)

    def _line(self, value: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(msgspec.json.encode(value).decode() + "\n")
