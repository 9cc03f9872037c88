"""What a terminal's body did, as the outside hears of it: uploads, events, relays that moved, words on the display."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from wire698.values import Oad

from .records import Collected, Event


class Upload(NamedTuple):
    """Rows that a task wants reported, all of one freeze object."""

    of: Oad
    rows: tuple[Collected, ...]


class Occurrence(NamedTuple):
    """An event that began (`raised`) or ended (`cleared`)."""

    event: Event
    transition: str


class Switched(NamedTuple):
    """A relay 继电器 opened or closed at the simulated instant `at`; kW of the whole premises before and after.

    Several relays that move together share the two powers. `cause`: remote, local, the slug of a control (`period`,
    `purchase`, ...) for an opening; `close`, `customer`, `limit_time`, `guarantee`, `restored`, ... for a closing.
    """

    at: float
    relay: int
    is_open: bool
    cause: str
    before_kw: float
    after_kw: float


class Shown(NamedTuple):
    """The display shows something: `kind` normal, important (8003, 8004), arrears (8002), guarantee, alarm."""

    at: float
    kind: str
    number: int | None
    text: str


Happening: TypeAlias = Upload | Occurrence | Switched | Shown
