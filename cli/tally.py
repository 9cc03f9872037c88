"""What came over MQTT against what the simulated terminals said: nothing lost, nothing false."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from messages import Alarm, Message, Reading, State
from simulators.truth import TrueReport

RowKey = tuple[str, str | None, int]


@dataclass(slots=True)
class Verdict:
    """The outcome. `missing` and `false` hold a line each, for people; counts are of distinct things said."""

    readings: int = 0
    alarms: int = 0
    missing: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)


class Tally:
    """Collects messages. One that comes again, with the same id, counts in `repeated` and nowhere else."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.repeated = 0
        self.readings = 0
        self.alarms = 0
        self.rows: dict[RowKey, dict[str, Any]] = {}
        self.events: dict[tuple[str, str, int | None], list[Alarm]] = {}
        self.present: set[str] = set()

    def take(self, message: Message) -> bool:
        """Take a message; False for one that was there before."""
        if isinstance(message, State):
            if message.presence == "online":
                self.present.add(message.terminal)
            return True
        if not isinstance(message, Reading | Alarm):
            return False
        if message.id in self.ids:
            self.repeated += 1
            return False
        self.ids.add(message.id)
        if isinstance(message, Alarm):
            self.alarms += 1
            self.events.setdefault((message.terminal, message.event, message.record_no), []).append(message)
            return True
        self.readings += 1
        names = [column.name for column in message.columns]
        for row in message.rows:
            meter, time = row[0], row[1]
            key = (message.terminal, str(meter) if meter is not None else None, int(str(time)) if time else 0)
            self.rows.setdefault(key, {}).update(zip(names, row[2:], strict=True))
        return True

    def judge(self, reports: list[TrueReport]) -> Verdict:
        """Every row and event of these reports must have come with its values."""
        verdict = Verdict()
        for report in reports:
            if report.kind == "event":
                self._judge_event(report, verdict)
                continue
            verdict.readings += 1
            for row in report.rows:
                place = f"{report.terminal} {row.meter} {row.time} {report.series}"
                came = self.rows.get((report.terminal, row.meter, row.time))
                if came is None:
                    verdict.missing.append(place)
                    continue
                for name, value in row.values.items():
                    if name not in came:
                        verdict.missing.append(f"{place} {name}")
                    elif came[name] != value:
                        verdict.false.append(f"{place} {name}: said {value!r}, came {came[name]!r}")
        return verdict

    def _judge_event(self, report: TrueReport, verdict: Verdict) -> None:
        verdict.alarms += 1
        event = report.event or {}
        place = f"{report.terminal} {report.series} {event}"
        came = self.events.get((report.terminal, report.series, event.get("record_no")))
        if not came:
            verdict.missing.append(place)
            return
        told = {name: event[name] for name in ("occurred_at", "ended_at", "meter", "phase") if name in event}
        if not any(all(getattr(alarm, name) == value for name, value in told.items()) for alarm in came):
            verdict.false.append(f"{place}: came {came}")
