"""What can go wrong with octets from a peer."""

from __future__ import annotations


class WireError(ValueError):
    """Octets that DL/T 698.45 does not allow: the peer's fault, never ours.

    `offset` is the octet, counted from the start of the frame or APDU handed in, at which reading stopped;
    `reason` says what was expected there.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"octet {offset}: {reason}")
        self.offset = offset
        self.reason = reason
