"""What was read back about a control: the ground of every verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from messages import Value
from wire698.access import GetResponseNext, GetResponseNormal, GetResponseNormalList
from wire698.catalogue import column
from wire698.dar import describe
from wire698.pieces import Apdu, ResultNormal
from wire698.values import Dar, Data, Oad, Tag

from .encoding import FIRST_GROUP
from .quirks import Quirks
from .states import (
    by_group,
    decoded,
    number_in,
    plain,
    relays_in,
    rounds_in,
    setting_in,
    state_in,
    units_by_group,
    yes_no,
)


def results_of(answer: Apdu | None) -> Iterator[ResultNormal]:
    """The attributes that an answer to GET tells of, however it is framed."""
    if isinstance(answer, GetResponseNormal):
        yield answer.result
    elif isinstance(answer, GetResponseNormalList):
        yield from answer.results
    elif isinstance(answer, GetResponseNext) and not isinstance(answer.content, Dar):
        yield from (item for item in answer.content if isinstance(item, ResultNormal))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Attributes read back, by OAD; those that were refused are not in it."""

    found: dict[int, Data]
    quirks: Quirks
    named: dict[str, Value]

    @classmethod
    def of(cls, answers: Sequence[Apdu | None], quirks: Quirks) -> Evidence:
        """From the answers of one look; None for one that is missing."""
        found: dict[int, Data] = {}
        named: dict[str, Value] = {}
        for answer in answers:
            for result in results_of(answer):
                name = column(result.oad).name
                if result.data is None:
                    reason = result.result if isinstance(result.result, Dar) else Dar(0)
                    named.setdefault(name, {"error": describe(reason).slug} if reason else None)
                    continue
                found[result.oad] = result.data
                known = decoded(result.oad, result.data, quirks)
                named[name] = plain(result.data) if known is None else known
        return cls(found, quirks, named)

    def _read(self, target: Oad, read: Callable[[Data], Any]) -> Any:
        data = self.found.get(target)
        return None if data is None else read(data)

    def rounds(self, target: Oad, reach: int = 1) -> list[int] | None:
        """Relays or rounds set in a bitmap; None too for one that does not reach to round `reach`."""
        found: list[int] | None = self._read(target, lambda data: rounds_in(data, self.quirks))
        return found if found is not None and self.found[target].value.bits >= reach else None

    def number(self, target: Oad) -> int | None:
        """An enumeration."""
        found: int | None = self._read(target, lambda data: number_in(data, Tag.ENUM, Tag.UNSIGNED))
        return found

    def amount(self, target: Oad) -> int | None:
        """A long64, unscaled."""
        found: int | None = self._read(target, lambda data: number_in(data, Tag.LONG64, Tag.LONG64_UNSIGNED))
        return found

    def input_of(self, target: Oad, group: int) -> bool | None:
        """Whether a control is input for a group; a group that is not in the table is not input."""
        found = self._read(target, lambda data: by_group(data, yes_no))
        return None if found is None else bool(found.get(group, False))

    def unit_of(self, target: Oad, group: int) -> tuple[Data, ...] | None:
        """The unit of a group: () when there is none, None when the table cannot be read."""
        found = self._read(target, units_by_group)
        return None if found is None else found.get(group, ())

    def setting(self, group: int) -> dict[str, Any] | None:
        """2301 attribute 16 of a group."""
        found: dict[str, Any] | None = self._read(_of_group(group, 16), lambda data: setting_in(data, self.quirks))
        return found

    def state(self, group: int) -> dict[str, Any] | None:
        """2301 attribute 17 of a group."""
        found: dict[str, Any] | None = self._read(_of_group(group, 17), lambda data: state_in(data, self.quirks))
        return found

    def relays(self, target: Oad) -> list[dict[str, Any]] | None:
        """The relays of F205."""
        found: list[dict[str, Any]] | None = self._read(target, relays_in)
        return found


def _of_group(group: int, attribute: int) -> Oad:
    return Oad(FIRST_GROUP + group - 1 << 16 | attribute << 8)
