"""Load curves 负荷曲线: how much power a place takes over the day, smooth and the same for the same seed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from .stamps import ZONE_SECONDS

_MASK = (1 << 64) - 1
_SCALE = 1.0 / (1 << 63)

Kind = Literal["office", "factory", "home"]


def mix(seed: int, number: int) -> int:
    """64 well-mixed bits of a seed and a number (the finalizer of splitmix64)."""
    h = (seed + number * 0x9E3779B97F4A7C15) & _MASK
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & _MASK
    return h ^ (h >> 31)


def share(seed: int, number: int) -> float:
    """A number in [0, 1) of a seed and a number."""
    return mix(seed, number) / 2.0**64


def noise(seed: int, x: float) -> float:
    """Smooth noise in [-1, 1]: random values at whole x, eased between them."""
    left = int(x // 1)
    f = x - left
    a = mix(seed, left) * _SCALE - 1.0
    b = mix(seed, left + 1) * _SCALE - 1.0
    return a + (b - a) * f * f * (3.0 - 2.0 * f)


class Profile(NamedTuple):
    """A kind of consumer: relative power by hour of the day, and the range its meters are drawn from.

    `peak_kw`: at the meter's terminals, that is behind the current transformers of ratio `ct`.
    """

    weekday: tuple[float, ...]
    weekend: tuple[float, ...]
    peak_kw: tuple[float, float]
    power_factor: float
    ct: tuple[int, ...]
    roughness: float


def _hours(text: str) -> tuple[float, ...]:
    values = tuple(int(word) / 100 for word in text.split())
    if len(values) != 24:
        raise ValueError("a profile has 24 hours")
    return values


PROFILES: dict[str, Profile] = {
    "office": Profile(
        # In at nine, a dip at noon, the last ones leave at eight; a server room hums at night.
        _hours("18 17 17 17 17 18 22 38 68 90 97 98 84 86 96 99 97 88 62 42 32 26 21 19"),
        _hours("17 16 16 16 16 16 17 19 22 25 27 27 26 26 26 26 25 23 21 20 19 18 17 17"),
        (1.2, 3.0),
        0.93,
        (20, 40, 60),
        0.06,
    ),
    "factory": Profile(
        # Three shifts: day and evening full, the night thin; less at every change of shift.
        _hours("46 45 45 44 45 46 44 40 72 96 98 97 82 90 98 97 70 84 88 88 86 84 76 50"),
        _hours("38 37 37 37 37 37 36 34 42 46 47 46 42 44 46 45 38 38 38 38 38 38 38 38"),
        (1.5, 3.2),
        0.86,
        (60, 120, 200),
        0.09,
    ),
    "home": Profile(
        # Breakfast, an empty flat by day, the evening; at home all day at weekends.
        _hours("24 19 16 15 15 18 34 52 44 28 24 27 38 30 24 24 30 48 74 94 98 90 66 40"),
        _hours("28 22 18 16 16 17 24 40 54 56 52 58 68 60 50 46 50 62 80 96 99 92 72 46"),
        (3.0, 9.0),
        0.96,
        (1,),
        0.16,
    ),
}


class Curve:
    """Active and reactive power of one consumer as a function of the simulated instant, in kW and kvar."""

    __slots__ = ("_peak_pf", "_profile", "_seed", "ct", "kind", "peak_kw")

    def __init__(self, kind: str, seed: int) -> None:
        profile = PROFILES[kind]
        low, high = profile.peak_kw
        self.kind = kind
        self.peak_kw = low + (high - low) * share(seed, 1)
        self.ct = profile.ct[mix(seed, 2) % len(profile.ct)]
        self._profile = profile
        self._peak_pf = profile.power_factor + 0.02 * (share(seed, 3) - 0.5)
        self._seed = seed

    def kilowatts(self, at: float) -> float:
        """Active power that the consumer wants at the instant `at`; never negative."""
        hours = (at + ZONE_SECONDS) / 3600.0
        hour = int(hours)
        f = hours - hour
        here, there = self._relative(hour), self._relative(hour + 1)
        shape = here + (there - here) * f * f * (3.0 - 2.0 * f)
        slow = noise(self._seed + 11, hours * 0.7)
        quick = noise(self._seed + 12, hours * 7.0)
        rough = self._profile.roughness
        return max(0.0, self.peak_kw * shape * (1.0 + rough * (0.7 * slow + 0.5 * quick)))

    def _relative(self, hour: int) -> float:
        # Hour 0 of the count is a Thursday, 1970-01-01.
        profile = self._profile
        table = profile.weekend if (hour // 24 + 4) % 7 in (0, 6) else profile.weekday
        return table[hour % 24]

    def power_factor(self, at: float) -> float:
        """Displacement factor of the load, in (0.5, 0.999)."""
        pf = self._peak_pf + 0.025 * noise(self._seed + 13, (at + ZONE_SECONDS) / 2400.0)
        return min(0.999, max(0.5, pf))
