"""The protocols that a channel can speak: the one place to enter another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final

from wire698.fast import FastDecoder
from wire698.frame import Framer

from . import dlt698
from .events import Machine
from .mapping import Mapper
from .times import Instants


@dataclass(frozen=True, slots=True)
class Protocol:
    """How to find frames, whose they are, and who talks with each terminal.

    `framer(limit)`: a framer for one channel, for frames of at most `limit` octets. `terminal_of(frame)`: its address,
    or None where it has no single one.
    `machines(options, zone, layouts)`: for one channel, a function from address to a new machine.
    """

    name: str
    framer: Callable[[int], Any]
    terminal_of: Callable[[Any], str | None]
    machines: Callable[[Any, tzinfo, int], Callable[[str], Machine]]
    options: type[Any]


def _dlt698_machines(options: dlt698.Options, zone: tzinfo, layouts: int) -> Callable[[str], Machine]:
    instants = Instants(zone)
    decoder = FastDecoder(layouts)
    mapper = Mapper(instants)
    return lambda terminal: dlt698.Dlt698Machine(terminal, options, decoder, mapper, instants)


PROTOCOLS: Final[dict[str, Protocol]] = {
    dlt698.NAME: Protocol(dlt698.NAME, Framer, dlt698.terminal_of, _dlt698_machines, dlt698.Options),
}
