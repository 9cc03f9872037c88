"""Aggregation groups 总加组 2301..2308: what several meters add up to, in power and in energy.

Everything is in 10^-4 kW, kvar, kWh or kvarh, on the primary side: the meters' values times their CT. Nothing is
sampled: powers and averages come from the load curves when somebody asks, energies from the meters' readings and what
they were when the day and the month began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from .stamps import local
from .world import Meter, Premises, Reading

FIRST_GROUP = 0x2301
GROUPS = range(FIRST_GROUP, FIRST_GROUP + 8)
"""Their OIs."""
MOST_MEMBERS = 8
UNIT = 10_000
_ENERGY = 100
"""10^-4 kWh in a register's 0.01 kWh."""


class Member(NamedTuple):
    """A meter in a group: `reverse` takes its export 反向, `minus` subtracts it."""

    tsa: bytes
    reverse: bool = False
    minus: bool = False


@dataclass(slots=True)
class Group:
    """One group. Sets of rounds: bit 0 is round 1.

    bought, bought_at: what remained of the purchase (10^-4 kWh or yuan) when the group's energy was `bought_at`;
    price: yuan a kWh where the purchase is a fee, else None. frozen: attribute 12.
    """

    members: list[Member] = field(default_factory=list)
    sliding_min: int = 1
    power_rounds: int = 0
    energy_rounds: int = 0
    bought: int = 0
    bought_at: int = 0
    price: float | None = None
    frozen: int = 0


class Groups:
    """The eight groups of one terminal; group 1 begins with all meters, the others are empty.

    Both round configurations begin with all rounds, so that a control works on a terminal that nobody set up.
    """

    def __init__(self, premises: Premises, tsa_of: Callable[[str], bytes], at: float, shown: float) -> None:
        self._meters = {tsa_of(meter.address): meter for meter in premises.meters}
        rounds = (1 << premises.relays) - 1
        self.all = {oi: Group(power_rounds=rounds, energy_rounds=rounds) for oi in GROUPS}
        self.all[FIRST_GROUP].members = [Member(tsa) for tsa in list(self._meters)[:MOST_MEMBERS]]
        self._day: dict[bytes, Reading] = {}
        self._month: dict[bytes, Reading] = {}
        self._date = (0, 0, 0)
        self.date_is(at, shown)

    def date_is(self, at: float, shown: float) -> None:
        """The clock shows this: where the day or the month is new, its energies begin at 0."""
        now = local(shown)
        date = (now.year, now.month, now.day)
        if date == self._date:
            return
        new_month = date[:2] != self._date[:2]
        self._date = date
        self._day = {tsa: meter.read(at) for tsa, meter in self._meters.items()}
        if new_month:
            self._month = dict(self._day)

    def consist_of(self, oi: int, members: list[Member], at: float) -> None:
        """Put the group together anew; what remains of a purchase stays what it is."""
        group, remains = self.all[oi], self.remaining(oi, at)
        group.members = members
        group.bought, group.bought_at = remains, self.energy(oi, at)

    # --- power ---

    def power(self, oi: int, at: float) -> tuple[int, int]:
        """(active, reactive)."""
        return self._sum(oi, lambda meter: (meter.kilowatts(at), meter.kilovars(at)))

    def average(self, oi: int, at: float, seconds: float) -> tuple[int, int]:
        """Mean (active, reactive) of the last `seconds`."""
        return self._sum(oi, lambda meter: meter.average(at, seconds))

    def powers(self, at: float) -> list[int]:
        """Active power of every group."""
        return [self.power(oi, at)[0] for oi in GROUPS]

    def _sum(self, oi: int, of: Callable[[Meter], tuple[float, float]]) -> tuple[int, int]:
        active = reactive = 0.0
        for tsa, reverse, minus in self.all[oi].members:
            meter = self._meters.get(tsa)
            if meter is None or reverse:
                # The loads of these premises never run back.
                continue
            factor = -meter.curve.ct if minus else meter.curve.ct
            kilowatts, kilovars = of(meter)
            active += factor * kilowatts
            reactive += factor * kilovars
        return round(active * UNIT), round(reactive * UNIT)

    # --- energy ---

    def energy(self, oi: int, at: float) -> int:
        """Active energy since ever, total."""
        return self._energies(oi, at, {})[0][0]

    def day(self, oi: int, at: float) -> tuple[list[int], list[int]]:
        """(active, reactive) since midnight, each total and rates."""
        return self._energies(oi, at, self._day)

    def month(self, oi: int, at: float) -> tuple[list[int], list[int]]:
        """(active, reactive) since the month began, each total and rates."""
        return self._energies(oi, at, self._month)

    def _energies(self, oi: int, at: float, since: dict[bytes, Reading]) -> tuple[list[int], list[int]]:
        active, reactive = [0] * 5, [0] * 5
        for tsa, reverse, minus in self.all[oi].members:
            meter = self._meters.get(tsa)
            if meter is None or reverse:
                continue
            now, then = meter.read(at), since.get(tsa)
            factor = meter.curve.ct * (-_ENERGY if minus else _ENERGY)
            for n in range(5):
                active[n] += factor * (now.energy_import[n] - (then.energy_import[n] if then else 0))
                reactive[n] += factor * (now.reactive_q1[n] - (then.reactive_q1[n] if then else 0))
        return active, reactive

    # --- what was bought ---

    def remaining(self, oi: int, at: float) -> int:
        """Remaining energy or fee 剩余电量（费）: decreases with the energy, never below 0."""
        group = self.all[oi]
        used = self.energy(oi, at) - group.bought_at
        return max(0, group.bought - round(used if group.price is None else used * group.price))

    def buy(self, oi: int, at: float, amount: int, *, append: bool, price: float | None) -> None:
        """Book an order: add to what remains, or replace it."""
        group = self.all[oi]
        before = self.remaining(oi, at) if append else 0
        group.bought, group.bought_at, group.price = before + amount, self.energy(oi, at), price
