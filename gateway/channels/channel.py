"""What every channel (通道) is: a way by which terminals are reached, one file per kind beside this one.

A channel makes a `Link` for each peer, or one for the whole line, and drives it: octets in with `received`, the end
with `lost`; the link acts through a `Transport`. Above the link nobody knows the kind of a channel, only its traits.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from gateway.link import ChannelContext

__all__ = ["Channel", "Traits"]


class Traits(NamedTuple):
    """What the rest of the gateway must know of a channel.

    kind: `stream` a way of its own for each peer; `datagram` the same, but what is sent may be lost, doubled or late;
    `shared` one medium for all, on which one talks at a time (half-duplex 半双工). max_frame: octets from 68 to 16 of
    the longest frame that should be sent there in one piece; longer APDUs go in link fragments.
    """

    kind: Literal["stream", "datagram", "shared"]
    max_frame: int


class Channel(Protocol):
    """One channel, as the daemon sees it. Loop thread only."""

    @property
    def context(self) -> ChannelContext:
        """What its links share."""

    @property
    def traits(self) -> Traits:
        """What it can do."""

    @property
    def counters(self) -> Any:
        """A dataclass of numbers for the metrics: totals since start, except those that `gauges` names."""

    @property
    def gauges(self) -> tuple[str, ...]:
        """The counters that say what is now."""

    @property
    def place(self) -> str:
        """Where it is to be found, for the log: an address, a device. Holds no secret."""

    async def start(self) -> None:
        """Be there. Raises OSError where that cannot be and nothing will mend it by itself."""

    async def run(self) -> None:
        """Keep time, and whatever else goes on, until cancelled."""

    async def stop_accepting(self) -> None:
        """Take on nobody new, and read no more from those that are there."""

    async def close(self) -> None:
        """Close everything when what is written is out."""
