"""Whose a frame is."""

from __future__ import annotations

from wire698.frame import Address, Frame


def terminal_of(frame: Frame) -> str | None:
    """The terminal that a frame comes from; None where its address is no single one (group, wildcard, broadcast)."""
    return frame.address.terminal if frame.address.kind == 0 else None


def logical_of(address: Address) -> int:
    """The logical address, in whichever way it is written (oddity 2)."""
    extended = address.extended_logical
    return address.logical if extended is None else extended
