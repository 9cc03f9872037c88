"""What a verb is given besides its arguments, and what it makes."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.times import Instants

from .plans import Step, Verification
from .quirks import Limits, Quirks


@dataclass(frozen=True, slots=True)
class Context:
    """now_ms: the instant of sending, ms since 1970 UTC. meters: those behind the terminal; None: not known."""

    quirks: Quirks
    limits: Limits
    now_ms: int
    instants: Instants
    meters: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The steps of a verb, and how to see their effect."""

    steps: tuple[Step, ...]
    verification: Verification | None = None
