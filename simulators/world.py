"""The physical world behind a terminal: premises with relays, meters, power and the energy it adds up to.

Theory of operation. A meter's power is a function of the instant and of what happened to it (supply, phases, relays).
Energy is the integral of that power: a trapezoid for each minute of the clock, and a part of one up to the instant that
is read. So a reading depends only on the seed, the instant and the history, not on how often somebody looks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from .curves import Curve, noise, share
from .stamps import ZONE_SECONDS, next_month

STEP = 60
"""Seconds of one trapezoid."""
DEMAND_PERIOD = 900
_CUTS = 64
"""So many movements of relays are remembered for averages over the past."""
"""Seconds over which a demand 需量 is averaged."""

TARIFF_HOURS = "444444432223333333211334"
"""Tariff 费率 of each hour of the day: 1 sharp 尖, 2 peak 峰, 3 flat 平, 4 valley 谷."""

NOMINAL_VOLTS = 220.0
PHASES = ("a", "b", "c")

Energies = tuple[int, int, int, int, int]


class Reading(NamedTuple):
    """The registers of a meter at one instant, in the units of the wire.

    energies: 0.01 kWh / kvarh, total then t1..t4; demand: (1e-4 kW, instant) likewise; voltage 0.1 V, current 1 mA by
    phase; powers 0.1 W / var / VA and power factor 0.001 as total, a, b, c; frequency 0.01 Hz.
    """

    energy_import: Energies
    energy_export: Energies
    reactive_q1: Energies
    demand: tuple[tuple[int, int], ...]
    voltage: tuple[int, ...]
    current: tuple[int, ...]
    active: tuple[int, ...]
    reactive: tuple[int, ...]
    apparent: tuple[int, ...]
    power_factor: tuple[int, ...]
    frequency: int


class Meter:
    """A three-phase meter 电能表 and the load behind it, from the instant `start` on."""

    __slots__ = (
        "_at",
        "_broken",
        "_cut",
        "_cuts",
        "_demand",
        "_demand_from",
        "_demand_kwh",
        "_edge",
        "_kvarh",
        "_kwh",
        "_month_end",
        "_seed",
        "_supplied",
        "_tariff",
        "address",
        "curve",
        "number",
    )

    def __init__(
        self, address: str, kind: str, seed: int, start: float, *, number: int = 1, tariff: str = TARIFF_HOURS
    ) -> None:
        self.address = address
        self.number = number
        self.curve = Curve(kind, seed)
        self._seed = seed
        self._tariff = tuple(int(digit) - 1 for digit in tariff)
        self._at = float(start)
        # What was counted before the simulation began, split as an ordinary year splits it.
        before = 500.0 + 20000.0 * share(seed, 4)
        self._kwh = [before * part for part in (0.08, 0.27, 0.4, 0.25)]
        self._kvarh = [kwh * 0.4 for kwh in self._kwh]
        self._supplied = True
        self._cut = 0.0
        self._cuts: deque[tuple[float, float]] = deque([(-math.inf, 0.0)], maxlen=_CUTS)
        self._broken: dict[int, float] = {}
        self._edge: tuple[float, float] | None = None
        self._month_end = next_month(start)
        self._demand = [(0, int(start))] * 5
        self._demand_from = float(start)
        self._demand_kwh = sum(self._kwh)

    # --- what happens to it ---

    def supply(self, at: float, on: bool) -> None:
        """Power fails or comes back 停电/上电."""
        self._commit(at)
        self._supplied = on

    def break_phase(self, at: float, phase: int, remaining: float | None) -> None:
        """Phase 0..2 keeps only `remaining` (0..1) of its voltage and carries no current; None heals it."""
        self._commit(at)
        if remaining is None:
            self._broken.pop(phase, None)
        else:
            self._broken[phase] = remaining

    def cut(self, at: float, part: float) -> None:
        """Relays take `part` (0..1) of the load off."""
        self._commit(at)
        self._cut = part
        self._cuts.append((at, part))

    # --- power ---

    def kilowatts(self, at: float) -> float:
        """Active power through the meter."""
        return self._uncut(at) * (1.0 - self._cut)

    def _uncut(self, at: float) -> float:
        """The same, were all relays closed."""
        if not self._supplied:
            return 0.0
        power = self.curve.kilowatts(at)
        if self._broken:
            shares = self._shares(at)
            power *= sum(part for phase, part in enumerate(shares) if phase not in self._broken)
        return power

    def kilovars(self, at: float) -> float:
        """Reactive power through the meter."""
        return self.kilowatts(at) * self._tangent(at)

    def average(self, at: float, seconds: float) -> tuple[float, float]:
        """Mean (kW, kvar) of the last `seconds`, from samples a minute or less apart.

        What the relays did in that time counts as it was; supply and phases as they are now.
        """
        samples = max(1, math.ceil(seconds / STEP))
        active = reactive = 0.0
        for n in range(samples):
            then = at - seconds * (n + 0.5) / samples
            cut = next((part for since, part in reversed(self._cuts) if since <= then), 0.0)
            kilowatts = self._uncut(then) * (1.0 - cut)
            active += kilowatts
            reactive += kilowatts * self._tangent(then)
        return active / samples, reactive / samples

    def _tangent(self, at: float) -> float:
        factor = self.curve.power_factor(at)
        return math.sqrt(1.0 - factor * factor) / factor

    def _shares(self, at: float) -> tuple[float, float, float]:
        hours = at / 5400.0
        a = (1.0 + 0.12 * noise(self._seed + 21, hours)) / 3.0
        b = (1.0 + 0.12 * noise(self._seed + 22, hours)) / 3.0
        return a, b, 1.0 - a - b

    def _volts(self, at: float, phase: int, kilowatts: float) -> float:
        if not self._supplied:
            return 0.0
        swing = 0.018 * noise(self._seed + 31 + phase, at / 1800.0)
        sag = 0.02 * kilowatts / self.curve.peak_kw
        return NOMINAL_VOLTS * (1.02 + swing - sag) * self._broken.get(phase, 1.0)

    # --- energy ---

    def _commit(self, to: float) -> None:
        """Add the energy up to the instant `to` for good."""
        while self._at < to:
            if self._at >= self._month_end:
                self._demand = [(0, self._month_end)] * 5
                self._month_end = next_month(self._at)
            end = min(to, (self._at // STEP + 1) * STEP)
            rate, kwh, kvarh = self._piece(end)
            self._kwh[rate] += kwh
            self._kvarh[rate] += kvarh
            self._at = end
            if end % DEMAND_PERIOD == 0:
                self._demand_ends(end)
        self._edge = None

    def _piece(self, end: float) -> tuple[int, float, float]:
        """(rate, kWh, kvarh) between what is committed and `end`, at most one STEP."""
        start = self._at
        known = self._edge
        p0 = known[1] if known is not None and known[0] == start else self.kilowatts(start)
        p1 = self.kilowatts(end)
        self._edge = (end, p1)
        kwh = (p0 + p1) * (end - start) / 7200.0
        hour = int((start + ZONE_SECONDS) // 3600) % 24
        return self._tariff[hour], kwh, kwh * self._tangent((start + end) / 2.0)

    def _demand_ends(self, end: float) -> None:
        total = sum(self._kwh)
        hours = (end - self._demand_from) / 3600.0
        value = int((total - self._demand_kwh) / hours * 10000.0) if hours > 0 else 0
        hour = int((self._demand_from + ZONE_SECONDS) // 3600) % 24
        for place in (0, self._tariff[hour] + 1):
            if value > self._demand[place][0]:
                self._demand[place] = (value, int(end))
        self._demand_from, self._demand_kwh = end, total

    def read(self, at: float) -> Reading:
        """The registers at the instant `at`; energies never run back, so neither may `at` by more than a STEP.

        An instant before the last change is read as that change.
        """
        at = max(at, self._at)
        self._commit(at // STEP * STEP)
        kwh, kvarh = list(self._kwh), list(self._kvarh)
        if at > self._at:
            rate, more, reactive = self._piece(at)
            self._edge = None
            kwh[rate] += more
            kvarh[rate] += reactive
        return self._registers(at, kwh, kvarh)

    def _registers(self, at: float, kwh: list[float], kvarh: list[float]) -> Reading:
        power = self.kilowatts(at)
        tangent = self._tangent(at)
        shares = self._shares(at)
        alive = sum(part for phase, part in enumerate(shares) if phase not in self._broken) or 1.0
        volts = [self._volts(at, phase, power) for phase in range(3)]
        watts = [0.0 if phase in self._broken else 1000.0 * power * part / alive for phase, part in enumerate(shares)]
        vars_ = [p * tangent for p in watts]
        vas = [math.hypot(p, q) for p, q in zip(watts, vars_, strict=True)]
        amps = [s / u if u > 1.0 else 0.0 for s, u in zip(vas, volts, strict=True)]
        total = (sum(watts), sum(vars_))
        factors = [p / s if s > 0 else 1.0 for p, s in zip((total[0], *watts), (math.hypot(*total), *vas), strict=True)]
        return Reading(
            energy_import=_energies(kwh),
            energy_export=(0, 0, 0, 0, 0),
            reactive_q1=_energies(kvarh),
            demand=tuple(self._demand),
            voltage=tuple(round(u * 10) for u in volts),
            current=tuple(round(i * 1000) for i in amps),
            active=tuple(round(p * 10) for p in (total[0], *watts)),
            reactive=tuple(round(q * 10) for q in (total[1], *vars_)),
            apparent=tuple(round(s * 10) for s in (math.hypot(*total), *vas)),
            power_factor=tuple(round(factor * 1000) for factor in factors),
            frequency=round(5000 + 3 * noise(77, at / 120.0)) if self._supplied else 0,
        )


def _energies(rates: Sequence[float]) -> Energies:
    t1, t2, t3, t4 = (int(value * 100) for value in rates)
    return int(sum(rates) * 100), t1, t2, t3, t4


RELAY_SHARES = (0.4, 0.3, 0.2, 0.1)
"""Part of the load behind each relay; together all of it."""


class Premises:
    """One terminal's premises: its meters, and the relays 轮次 that can take load off all of them."""

    __slots__ = ("_open", "_shares", "meters")

    def __init__(self, meters: Sequence[Meter], relay_shares: Sequence[float] = RELAY_SHARES) -> None:
        self.meters = tuple(meters)
        self._shares = tuple(relay_shares)
        self._open: set[int] = set()

    @property
    def relays(self) -> int:
        """How many relays there are."""
        return len(self._shares)

    @property
    def open_relays(self) -> frozenset[int]:
        """Numbers (1..) of the relays that are open."""
        return frozenset(self._open)

    def kilowatts(self, at: float) -> float:
        """Active power of the whole premises, on the primary side of the current transformers."""
        return sum(meter.kilowatts(at) * meter.curve.ct for meter in self.meters)

    def switch(self, at: float, relay: int, is_open: bool) -> None:
        """Open 跳闸 or close 合闸 relay 1..n. Raises IndexError where there is none."""
        if not 1 <= relay <= len(self._shares):
            raise IndexError(f"relay {relay}: there are {len(self._shares)}")
        if is_open:
            self._open.add(relay)
        else:
            self._open.discard(relay)
        part = sum(self._shares[number - 1] for number in self._open)
        # Shares such as 0.1 do not add up to one exactly.
        part = 1.0 if part > 1.0 - 1e-9 else part
        for meter in self.meters:
            meter.cut(at, part)

    def supply(self, at: float, on: bool) -> None:
        """The mains fail or come back."""
        for meter in self.meters:
            meter.supply(at, on)
