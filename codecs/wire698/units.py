"""Units of Scaler_Unit 换算及单位: the second octet of the pair (wire.md, section e)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

NO_UNIT: Final = 255

UNITS: Final = MappingProxyType(
    {
        1: "a",
        2: "month",
        3: "week",
        4: "day",
        5: "h",
        6: "min",
        7: "s",
        8: "°",
        9: "°C",
        10: "yuan",
        11: "m",
        12: "m/s",
        13: "m3",
        14: "m3 (corrected)",
        15: "m3/h",
        16: "m3/h (corrected)",
        17: "m3/24h",
        18: "m3/24h (corrected)",
        19: "l",
        20: "kg",
        21: "N",
        22: "Nm",
        23: "Pa",
        24: "bar",
        25: "J",
        26: "J/h",
        27: "W",
        28: "kW",
        29: "VA",
        30: "kVA",
        31: "var",
        32: "kvar",
        33: "kWh",
        34: "kVAh",
        35: "kvarh",
        36: "A",
        37: "C",
        38: "V",
        39: "V/m",
        40: "F",
        41: "Ω",
        42: "Ω·m",
        43: "Wb",
        44: "T",
        45: "A/m",
        46: "H",
        47: "Hz",
        48: "imp/kWh",
        49: "imp/kvarh",
        50: "imp/kVAh",
        51: "%",
        52: "byte",
        53: "dBm",
        54: "yuan/kWh",
        55: "Ah",
        56: "ms",
        254: "other",
    }
)
"""Unit code to symbol. 14, 16, 18 and 48 to 50 are known from one implementation only."""


def unit_symbol(code: int) -> str | None:
    """The symbol of a unit code, None for "no unit" (255) and for a code the table does not have."""
    return UNITS.get(code)
