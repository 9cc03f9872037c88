"""The arguments of a command, taken apart strictly: what is not understood is refused, never ignored.

A value is a plain one of MessagePack or JSON. Numbers with a unit may be whole numbers, decimals or text ("120.5"):
they are read as exact decimals, so a limit of 0.1 kW is 0.1 kW.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any, Final, TypeVar

from .errors import Invalid, bad

_MISSING: Final[Any] = object()
_NUMBER: Final = re.compile(r"[+-]?\d{1,18}(\.\d{1,12})?")
_LARGEST: Final = 10**18
_CLOCK: Final = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)")
SHOWN: Final = 60
"""Characters of a wrong value that an error shows."""
T = TypeVar("T")


def shown(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value) if not isinstance(value, int) or abs(value) < _LARGEST else "a number of more than 64 bits"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def nearest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """`; did you mean 'relays'?` for a word that is close to a known one, else what there is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


class Arguments:
    """A map of arguments at a place in the command. Raises Invalid for names that are not in `known`."""

    def __init__(self, values: Any, place: str, known: tuple[str, ...]) -> None:
        if not isinstance(values, dict):
            raise bad(place, f"a map of {', '.join(known) or 'nothing'} expected, got {shown(values)}")
        for name in values:
            if name not in known:
                text = name if isinstance(name, str) else shown(name)
                if not known:
                    raise bad(place, f"no argument {text[:SHOWN]!r}: there are none here")
                raise bad(place, f"no argument {text[:SHOWN]!r}{nearest(text[:SHOWN], known)}")
        self._values: dict[str, Any] = values
        self.place = place

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def at(self, name: str) -> str:
        """The dotted place of an argument."""
        return f"{self.place}.{name}"

    def _of(self, name: str, read: Callable[[Any, str], T], default: Any) -> T:
        if name not in self._values:
            if default is _MISSING:
                raise bad(self.at(name), "missing")
            return default  # type: ignore[no-any-return]
        return read(self._values[name], self.at(name))

    def raw(self, name: str, default: Any = _MISSING) -> Any:
        """The value as it stands."""
        return self._of(name, lambda value, _: value, default)

    def whole(self, name: str, least: int, most: int, default: Any = _MISSING, unit: str = "") -> Any:
        """A whole number of `least` to `most`."""
        return self._of(name, lambda value, place: whole_of(value, place, least, most, unit), default)

    def flag(self, name: str, default: Any = _MISSING) -> Any:
        """True or false."""
        return self._of(name, flag_of, default)

    def word(self, name: str, words: tuple[str, ...], default: Any = _MISSING) -> Any:
        """One of some words."""
        return self._of(name, lambda value, place: word_of(value, place, words), default)

    def text(self, name: str, default: Any = _MISSING) -> Any:
        """Text, whatever it says."""
        return self._of(name, text_of, default)

    def scaled(
        self,
        name: str,
        scale: int,
        unit: str,
        default: Any = _MISSING,
        *,
        least: int = 0,
        most: int = _LARGEST // 10_000,
    ) -> Any:
        """A number of `unit` as the whole number of ten to `scale` that stands on the wire."""
        return self._of(name, lambda value, place: scaled_of(value, place, scale, unit, least, most), default)

    def items(
        self, name: str, read: Callable[[Any, str], T], most: int, default: Any = _MISSING, *, least: int = 1
    ) -> Any:
        """A list of `least` to `most` items, each read by `read`."""
        return self._of(name, lambda value, place: items_of(value, place, read, least, most), default)

    def read(self, name: str, read: Callable[[Any, str], T], default: Any = _MISSING) -> Any:
        """A value read by `read(value, place)`."""
        return self._of(name, read, default)


def whole_of(value: Any, place: str, least: int, most: int, unit: str = "") -> int:
    """A whole number; a decimal without a fraction is one, and so is text of digits."""
    what = f"a whole number of {least} to {most}{' ' if unit else ''}{unit} expected"
    number = _exact(value, place, what)
    if number != number.to_integral_value() or not least <= number <= most:
        raise bad(place, f"{what}, got {shown(value)}")
    return int(number)


def _exact(value: Any, place: str, what: str) -> Decimal:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return Decimal(value)
    if isinstance(value, float) and abs(value) <= _LARGEST:
        return Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value) <= _LARGEST:
        return value
    if isinstance(value, str) and value.isascii() and _NUMBER.fullmatch(value):
        return Decimal(value)
    raise bad(place, f"{what}, got {shown(value)}")


def scaled_of(value: Any, place: str, scale: int, unit: str, least: int, most: int) -> int:
    """The whole number of ten to `scale` that an engineering value is; refuses what would have to be rounded."""
    what = f"{unit or 'a number'} of {least} to {most} expected"
    number = _exact(value, place, what)
    if not least <= number <= most:
        raise bad(place, f"{what}, got {shown(value)}")
    steps = number.scaleb(-scale)
    if steps != steps.to_integral_value():
        finest = f"at most {-scale} decimals" if scale < 0 else f"multiples of {10**scale}"
        raise bad(place, f"{finest} expected, got {shown(value)}")
    return int(steps)


def flag_of(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise bad(place, f"true or false expected, got {shown(value)}")
    return value


def text_of(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise bad(place, f"text expected, got {shown(value)}")
    return value


def word_of(value: Any, place: str, words: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in words:
        hint = nearest(value[:SHOWN], words) if isinstance(value, str) else ""
        hint = hint if hint.startswith("; did") else ""
        raise bad(place, f"one of {', '.join(words)} expected, got {shown(value)}{hint}")
    return value


def items_of(value: Any, place: str, read: Callable[[Any, str], T], least: int, most: int) -> list[T]:
    counts = f"{least} to {most}" if least != most else f"exactly {most}"
    if not isinstance(value, list | tuple):
        raise bad(place, f"a list of {counts} expected, got {shown(value)}")
    if not least <= len(value) <= most:
        raise bad(place, f"a list of {counts} expected, here are {len(value)}")
    return [read(item, f"{place}[{number}]") for number, item in enumerate(value)]


def octets_of(value: Any, place: str, most: int) -> bytes:
    """Octets written in hexadecimal; blanks between them are allowed."""
    text = text_of(value, place)
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        raise bad(place, f"octets in hexadecimal expected, got {shown(value)}") from None
    if not 1 <= len(octets) <= most:
        raise bad(place, f"1 to {most} octets expected, here are {len(octets)}")
    return octets


def instant_of(value: Any, place: str) -> int | datetime:
    """An instant: ms since 1970 UTC, or ISO 8601 text; without an offset it is the terminal's local time."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise bad(place, f"an instant such as 2025-11-24T10:30:00 expected, got {shown(value)}") from None
    return whole_of(value, place, 0, 4_102_444_800_000, "ms since 1970 UTC")


def clock_of(value: Any, place: str) -> time | None:
    """A time of day `HH:MM`; 24:00 is None, the end of the day."""
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[1] == "24" and match[2] != "00"):
        raise bad(place, f"a time of day HH:MM of 00:00 to 24:00 expected, got {shown(value)}")
    return None if match[1] == "24" else time(int(match[1]), int(match[2]))


def distinct(items: list[T], place: str, what: str) -> list[T]:
    """The items, none of them twice."""
    seen: list[T] = []
    for number, item in enumerate(items):
        if item in seen:
            raise bad(f"{place}[{number}]", f"{what} {item} is given twice")
        seen.append(item)
    return seen


def unsupported(place: str, text: str) -> Invalid:
    """What this terminal or the settings do not have."""
    return Invalid("unsupported", place, text)
