"""What must be read when a control has its effect, and the verdict on what was.

A verdict is True when the effect shows, False when it plainly does not (or not yet), None when the sources that
answered cannot tell. The state that is the effect itself decides; what only says that the command is in force speaks
where that state cannot be read. F205 继电器输出 reads in opposite ways in different terminals, so it never speaks
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from wire698.values import Data, Oad

from .encoding import FIRST_GROUP
from .evidence import Evidence
from .states import CONTROLS, ENERGY_TYPES, GUARANTEE_STATES, POWER_TYPES

RELAY_OUTPUT: Final = Oad(0x80000300)
ALARM_STATE: Final = Oad(0x80000400)
COMMAND_STATE: Final = Oad(0x80000500)
GUARANTEE: Final = Oad(0x80010200)
ARREARS: Final = Oad(0x80020200)
RELAYS: Final = Oad(0xF2050200)


@dataclass(frozen=True, slots=True)
class Relays:
    """Relays are open (tripped 跳闸) or closed (合闸).

    open: which is expected. permit: closing is only permitted 合闸允许; a hand may still have to do it, so a relay that
    is open does not deny it. group: the aggregation group whose trip output is a further source.
    """

    relays: tuple[int, ...]
    open: bool
    permit: bool = False
    group: int = 1

    def judge(self, evidence: Evidence) -> bool | None:
        if self.open and evidence.number(GUARANTEE) in (1, 2):
            return False  # 保电: no trip is carried out (control.md 1)
        reach = max(self.relays)
        output = evidence.rounds(RELAY_OUTPUT, reach)
        command = evidence.rounds(COMMAND_STATE, reach)
        if self.permit and command is not None:
            return not set(self.relays) & set(command)
        if output is not None:
            return self._all_in(output) if self._all_in(output) or not self.permit else None
        if command is None:
            return self._of_group(evidence)
        if not self._all_in(command):
            return False
        alarming = evidence.rounds(ALARM_STATE)
        if self.open and alarming is not None and set(self.relays) & set(alarming):
            return False  # the alarm delay 告警延时 is running
        return self._of_relays(evidence) is not False

    def _all_in(self, rounds: list[int]) -> bool:
        found = set(self.relays) & set(rounds)
        return found == set(self.relays) if self.open else not found

    def _of_group(self, evidence: Evidence) -> bool | None:
        """By the trip output of 2301 attribute 17: rounds that are out confirm a trip; nothing there denies one."""
        state = evidence.state(self.group)
        output = state["power_output"] if state is not None else None
        if not self.open or not output:
            return None
        confirmed = set(self.relays) <= set(output) and self._of_relays(evidence) is not False
        return True if confirmed else None

    def _of_relays(self, evidence: Evidence) -> bool | None:
        """By F205, where the settings say how this terminal writes it."""
        relays = evidence.relays(RELAYS)
        wanted = evidence.quirks.relay_open_state
        if relays is None or wanted is None or len(relays) < max(self.relays):
            return None
        states = [relays[relay - 1]["state"] for relay in self.relays]
        return None if None in states else all((state == wanted) is self.open for state in states)


@dataclass(frozen=True, slots=True)
class Alarming:
    """The alarm of remote control 告警 sounds, or is silent: attribute 4 of 8000."""

    on: bool

    def judge(self, evidence: Evidence) -> bool | None:
        rounds = evidence.rounds(ALARM_STATE)
        return None if rounds is None else bool(rounds) is self.on


@dataclass(frozen=True, slots=True)
class Guarantee:
    """Power guarantee 保电: `on` in force, `off` not in force, `not_automatic` not by itself."""

    wanted: Literal["on", "off", "not_automatic"]

    def judge(self, evidence: Evidence) -> bool | None:
        state = evidence.number(GUARANTEE)
        if state is None or state >= len(GUARANTEE_STATES):
            return None
        if self.wanted == "not_automatic":
            return state != 2
        return (state != 0) is (self.wanted == "on")


@dataclass(frozen=True, slots=True)
class Arrears:
    """Arrears alarm 催费告警."""

    on: bool

    def judge(self, evidence: Evidence) -> bool | None:
        state = evidence.number(ARREARS)
        return None if state not in (0, 1) else bool(state) is self.on


@dataclass(frozen=True, slots=True)
class Input:
    """A control is input 投入 for a group, or released 解除: by attribute 3 of its object, else 16 of the group."""

    control: str
    group: int
    on: bool

    def judge(self, evidence: Evidence) -> bool | None:
        state = evidence.input_of(input_state(self.control), self.group)
        if state is None:
            setting = evidence.setting(self.group)
            types = setting and setting["power_types" if self.control in POWER_TYPES else "energy_types"]
            state = None if types is None else self.control in types
        return None if state is None else state is self.on


@dataclass(frozen=True, slots=True)
class Stored:
    """The configuration unit 控制单元 of a group is as it was sent: attribute 2."""

    control: str
    group: int
    unit: tuple[Data, ...]

    def judge(self, evidence: Evidence) -> bool | None:
        unit = evidence.unit_of(units(self.control), self.group)
        return None if unit is None else unit == self.unit


@dataclass(frozen=True, slots=True)
class Purchased:
    """An order of 8107 购电 is booked: its number stands in the unit; else what remains is what was bought.

    amount: 10^-4 kWh or yuan. refresh: the remainder was replaced by it, so it is known; an addition is not.
    """

    group: int
    order: int
    amount: int
    refresh: bool

    def judge(self, evidence: Evidence) -> bool | None:
        unit = evidence.unit_of(units("purchase"), self.group)
        if unit is not None:
            return len(unit) > 1 and unit[1].value == self.order
        remaining = evidence.amount(remainder(self.group))
        if remaining is None or not self.refresh:
            return None
        if remaining > self.amount:
            return False
        # Some of it may be used already; much less than was bought can be both.
        return True if remaining * 10 >= self.amount * 9 else None


@dataclass(frozen=True, slots=True)
class All:
    """Several things must show: False where one plainly does not."""

    parts: tuple[Relays | Input | Purchased, ...]

    def judge(self, evidence: Evidence) -> bool | None:
        verdicts = [part.judge(evidence) for part in self.parts]
        if False in verdicts:
            return False
        return None if None in verdicts else True


def units(control: str) -> Oad:
    return Oad(CONTROLS[control] << 16 | 0x0200)


def input_state(control: str) -> Oad:
    return Oad(CONTROLS[control] << 16 | 0x0300)


def group_setting(group: int) -> Oad:
    return Oad(FIRST_GROUP + group - 1 << 16 | 0x1000)


def group_state(group: int) -> Oad:
    return Oad(FIRST_GROUP + group - 1 << 16 | 0x1100)


def remainder(group: int) -> Oad:
    return Oad(FIRST_GROUP + group - 1 << 16 | 0x0B00)


assert set(CONTROLS) == {*POWER_TYPES, *ENERGY_TYPES}
