"""Interlocks 闭锁: what keeps a control from doing harm, asked in the gateway before the terminal is.

Each has its own error name: `control_off`, `approvals`, `power_guarantee`, `trip_rate`, `trips_in_force`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from messages import AckError, Command

_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class InterlockLimits:
    """Settings. approvals: distinct names for a trip; the others count terminals."""

    guarantee: bool = True
    approvals: int = 1
    trips_per_minute: int = 60
    trips_in_force: int = 1000


class Interlocks:
    """What the gateway knows of controls under way. `tripped`: terminals tripped by it and not closed since."""

    def __init__(self, limits: InterlockLimits, *, control: bool, tripped: set[str]) -> None:
        self.limits = limits
        self.control = control
        """The kill switch: False rejects all control."""
        self.tripped = tripped
        self._recent: deque[tuple[float, str]] = deque()
        self._under_way: dict[tuple[str, str], bool] = {}
        """Trips that go out, by (command id, terminal): whether the terminal was not tripped before."""

    def on_entry(self, command: Command) -> AckError | None:
        """Why a control may not even be accepted."""
        if not self.control:
            return AckError(name="control_off", text="the kill switch of this node rejects all control")
        if command.verb != "trip":
            return None
        names = {name.strip() for name in command.approvals if name.strip()} - {command.issued_by.strip()}
        needed = self.limits.approvals
        if len(names) < needed:
            text = f"a trip needs {needed} approval(s) by others than {command.issued_by!r}, has {len(names)}"
            return AckError(name="approvals", text=text)
        return None

    def on_sending(self, command: Command, terminal: str, mono: float) -> AckError | None:
        """Why a control may not be sent now."""
        if not self.control:
            return AckError(name="control_off", text="the kill switch of this node rejects all control")
        if command.verb != "trip":
            return None
        while self._recent and self._recent[0][0] <= mono - _MINUTE_S:
            self._recent.popleft()
        recent = {name for _, name in self._recent} - {terminal}
        if len(recent) >= self.limits.trips_per_minute:
            text = f"{len(recent)} terminals were tripped within a minute, {self.limits.trips_per_minute} at most"
            return AckError(name="trip_rate", text=text)
        others = len(self.tripped - {terminal})
        if others >= self.limits.trips_in_force:
            text = f"{others} terminals are tripped and not closed, {self.limits.trips_in_force} at most"
            return AckError(name="trips_in_force", text=text)
        return None

    def sent(self, command: Command, terminal: str, mono: float) -> None:
        """A control goes out."""
        if command.verb == "trip":
            self._recent.append((mono, terminal))
            self._under_way[command.id, terminal] = terminal not in self.tripped
            self.tripped.add(terminal)

    def withdrawn(self, command: Command, terminal: str) -> None:
        """It did not go out after all."""
        if (command.id, terminal) in self._under_way:
            self.refused(command, terminal)
            latest = max(place for place, (_, name) in enumerate(self._recent) if name == terminal)
            del self._recent[latest]

    def refused(self, command: Command, terminal: str) -> None:
        """The terminal refused it: it is as it was before."""
        if self._under_way.pop((command.id, terminal), False):
            self.tripped.discard(terminal)

    def succeeded(self, command: Command, terminal: str) -> None:
        """The terminal took it."""
        if command.verb == "close":
            self.tripped.discard(terminal)

    def ended(self, command: Command, terminal: str) -> None:
        """Its final status has been told."""
        self._under_way.pop((command.id, terminal), None)
