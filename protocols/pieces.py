"""Link fragments 链路分帧 that come in: put together, acknowledged, given up in time."""

from __future__ import annotations

from wire698.frame import DIR, SCRAMBLED, Fragment, Frame, Reassembler, build_frame

from .dlt698_options import Options


class Pieces:
    """The APDU that a terminal is sending in fragments. `deadline`: when the next one is overdue (mono, s)."""

    __slots__ = ("_options", "_reassembler", "deadline")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._reassembler = Reassembler(options.max_apdu)
        self.deadline: float | None = None

    @property
    def open(self) -> bool:
        """A first piece has come and the last has not."""
        return self._reassembler.open

    def take(self, frame: Frame, fragment: Fragment, mono: float) -> tuple[bytes | None, bytes | None, str | None]:
        """The frame that acknowledges a fragment, the APDU when it is whole, and what was wrong; each may be None."""
        acknowledgement, whole, warning = self._reassembler.feed(fragment)
        self.deadline = mono + self._options.fragment_timeout_s if self.open else None
        answer = None
        if acknowledgement is not None and (whole is None or self._options.acknowledge_last_fragment):
            answer = build_frame(frame.control & ~(DIR | SCRAMBLED), frame.address, frame.client, acknowledgement)
        return answer, whole, warning
