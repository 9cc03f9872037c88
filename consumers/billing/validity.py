"""Versions with validity dates 有效期, and the two ways in which billing says no.

Every number that a regulation decides is a `Dated` value: it holds from `valid_from` (its first day) up to and not
including `valid_to`. `in_force` finds the one version for a day, or refuses: a gap and an overlap are archive errors
and never a wrong bill.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

import msgspec


class ArchiveError(ValueError):
    """The archives 档案 contradict themselves: overlapping validity, unknown version, impossible value."""


class HoldReason(StrEnum):
    """Why a bill is held 挂起 and not issued. Each needs a person or a better reading."""

    BACKWARD = "BACKWARD"
    """示度下降: a forward register fell and it is no rollover (A.1)."""
    REGISTER_RANGE = "REGISTER_RANGE"
    """A reading that the register's digits cannot show."""
    FUTURE = "FUTURE"
    """A reading of an instant later than the time of the run."""
    IMPLAUSIBLE = "HOLD_IMPLAUSIBLE"
    """More energy than 1.2 times the capacity could carry (A.1)."""
    STRADDLE = "STRADDLE"
    """A reading outside its segment, or a segment edge without its register (A.2)."""
    MISSING_READING = "MISSING_READING"
    """No rung of the ladder gives a value (A.3)."""
    ESTIMATES_EXHAUSTED = "ESTIMATES_EXHAUSTED"
    """Two estimates in a row already: a field order is due (A.3)."""
    NEGATIVE_ENERGY = "NEGATIVE_ENERGY"
    """The true-up or a nested meter takes away more than was used."""
    DEMAND_NOT_RESET = "DEMAND_NOT_RESET"
    """The time of the maximum demand is outside the period (A.6)."""
    POWER_FACTOR_REVIEW = "POWER_FACTOR_REVIEW"
    """Reactive energy without active energy: cosφ 0.00 (A29)."""
    CURVE_INCOMPLETE = "CURVE_INCOMPLETE"
    """Too few points to split by the calendar, and no shares of last month (A.4)."""
    RECON_MISMATCH = "RECON_MISMATCH"
    """核抄不符: the manual reading disagrees (A.15)."""


class BillHold(Exception):  # noqa: N818 - it is no error of the program or the archives but a verdict
    """A bill cannot be computed from these readings. `reason` for machines, `detail` for people."""

    def __init__(self, reason: HoldReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the immutable values of billing: comparable by content, readable from TOML and JSON, canonical."""


class Dated(Value, frozen=True, kw_only=True):
    """One version of something that a regulation, a contract or a utility decides.

    `source` says where the numbers come from; `valid_to` None: until further notice.
    """

    id: str
    version: str
    valid_from: date
    valid_to: date | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ArchiveError(f"{self.id}@{self.version}: valid_to {self.valid_to} is not after {self.valid_from}")

    @property
    def ref(self) -> str:
        """How bill lines name this version."""
        return f"{self.id}@{self.version}"

    def holds_on(self, day: date) -> bool:
        """Whether this version is in force on `day`."""
        return self.valid_from <= day and (self.valid_to is None or day < self.valid_to)


D = TypeVar("D", bound=Dated)


def in_force(versions: Iterable[D], day: date) -> D:
    """The one version in force on `day`. Raises ArchiveError when there is none or more than one."""
    versions = list(versions)
    holding = [version for version in versions if version.holds_on(day)]
    if len(holding) == 1:
        return holding[0]
    names = ", ".join(version.ref for version in (holding or versions)) or "no versions at all"
    what = "more than one version is" if holding else "no version is"
    raise ArchiveError(f"{what} in force on {day}: {names}")


def check_validity(versions: Sequence[Dated]) -> None:
    """Raise ArchiveError where two versions of one id overlap. A gap is allowed: it is found when a bill needs it."""
    ordered = sorted(versions, key=lambda version: (version.id, version.valid_from))
    for earlier, later in pairwise(ordered):
        if earlier.id == later.id and (earlier.valid_to is None or earlier.valid_to > later.valid_from):
            raise ArchiveError(f"{earlier.ref} and {later.ref} overlap from {later.valid_from}")
