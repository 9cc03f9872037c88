"""A terminal at its line: what asyncio tells it, its one timer, and what it writes, with the faults of the line.

Theory of operation. Everything a station does is driven by two things, octets from the master and one timer at the
terminal's next deadline, so thousands of idle stations cost nothing. How it comes to have a connection is the affair of
a `Way` (see ways); the connection is anything that can be written to, and closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from wire698.frame import Frame, Framer

from .counters import Counters
from .faults import HOLD_S, Chunk, FaultyLine
from .terminal import Terminal

_LONGEST_WAIT_S = 3600.0
_SHORTEST_WAIT_S = 0.001


class Outward(Protocol):
    """What a station writes to. `close` and `abort` may be called more than once; `connection_lost` follows, later."""

    def write(self, octets: bytes) -> None:
        """Send octets."""

    def close(self) -> None:
        """End it when what was written is out."""

    def abort(self) -> None:
        """End it now."""


class Station(asyncio.Protocol):
    """A terminal at its line; also the protocol of its present connection.

    asked_only: it says nothing unasked, as on a line that it shares. each_alone: each frame is a write of its own, as
    where one is a datagram. preamble: stands before each frame.
    """

    def __init__(
        self,
        terminal: Terminal,
        line: FaultyLine,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
        *,
        asked_only: bool = False,
        each_alone: bool = False,
        preamble: bytes = b"",
    ) -> None:
        self.terminal = terminal
        self.line = line
        self.power = asyncio.Event()
        self.power.set()
        self.closed = asyncio.Event()
        self._counters = counters
        self._loop = loop
        self._changed = changed
        self._asked_only = asked_only
        self._each_alone = each_alone
        self._preamble = preamble
        self._asleep = False
        self._framer = Framer()
        self._transport: Outward | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pending: deque[Chunk] = deque()
        self._pending_timer: asyncio.TimerHandle | None = None
        self._hold_timer: asyncio.TimerHandle | None = None

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection by asyncio."""
        # uvloop's transports are not subclasses of asyncio's.
        self.begin(cast("asyncio.Transport", transport))

    def begin(self, outward: Outward) -> None:
        """A connection: log in, or wait to be asked."""
        self._transport = outward
        self._framer = Framer()
        self.closed.clear()
        self.line.reset()
        self._counters.connections += 1
        if self._asked_only:
            self.terminal.attached()
        else:
            self._write(self.terminal.connected(self._loop.time()))
        self._after()

    def data_received(self, data: bytes) -> None:
        """Octets of the master."""
        frames: list[Frame] = []
        for item in self._framer.feed(data):
            if isinstance(item, Frame):
                frames.append(item)
            else:
                self._counters.garbage += 1
        self.take(frames)

    def datagram(self, data: bytes) -> None:
        """A datagram of the master: no frame goes on in the next."""
        self.data_received(data)
        self._counters.garbage += self._framer.discard() is not None

    def take(self, frames: Iterable[Frame]) -> None:
        """Frames of the master."""
        now = self._loop.time()
        said: list[bytes] = []
        for frame in frames:
            if self.line.hears():
                said += self.terminal.feed(frame, now)
        self._write(said)
        self._after()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Whoever ended it; a terminal does not ask why."""
        self._transport = None
        self._drop_pending()
        self._counters.disconnects += 1
        self.terminal.disconnected()
        self.closed.set()
        self._after()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def close(self, *, abort: bool = False) -> None:
        """End the connection, if there is one."""
        if self._transport is not None:
            if abort:
                self._transport.abort()
            else:
                self._transport.close()

    def say_goodbye(self) -> None:
        """Log out before the end."""
        self._write(self.terminal.logout(self._loop.time()))

    # --- time ---

    def wake(self) -> None:
        """Do what fell due and set the timer for what comes next."""
        self._timer = None
        self._write(self.terminal.tick(self._loop.time()))
        self._after()

    def wake_now(self) -> None:
        """Something outside changed: look again."""
        if self._timer is not None:
            self._timer.cancel()
        self.terminal.look_again()
        self.wake()

    def sleep(self) -> None:
        """No more timers, for good."""
        self._asleep = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_pending()

    def _after(self) -> None:
        terminal = self.terminal
        if terminal.powered:
            self.power.set()
        else:
            self.power.clear()
        if terminal.close_wanted:
            self.close(abort=not terminal.powered)
        if self._asleep:
            return
        now = self._loop.time()
        wait = min(max(terminal.deadline() - now, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
        if self._timer is None:
            self._timer = self._loop.call_at(now + wait, self.wake)
        elif self._timer.when() > now + wait:
            self._timer.cancel()
            self._timer = self._loop.call_at(now + wait, self.wake)
        self._changed()

    # --- writing ---

    def _write(self, frames: list[bytes]) -> None:
        if not frames or self._transport is None:
            return
        if self._preamble:
            frames = [self._preamble + frame for frame in frames]
        for together in [[frame] for frame in frames] if self._each_alone else [frames]:
            self._queue(self.line.out(together))
        if self.line.held and self._hold_timer is None:
            self._hold_timer = self._loop.call_later(HOLD_S, self._release)

    def _release(self) -> None:
        self._hold_timer = None
        if self._transport is not None:
            self._queue(self.line.release())

    def _queue(self, chunks: list[Chunk]) -> None:
        self._pending.extend(chunks)
        if self._pending_timer is None:
            self._flush()

    def _flush(self, *, waited: bool = False) -> None:
        """Write what needs not wait; wait for the next, in order."""
        self._pending_timer = None
        while self._pending and self._transport is not None:
            chunk = self._pending[0]
            if chunk.wait > 0.0 and not waited:
                self._pending_timer = self._loop.call_later(chunk.wait, self._waited)
                return
            waited = False
            self._pending.popleft()
            self._transport.write(chunk.octets)
            if chunk.cut:
                self._pending.clear()
                self._transport.close()
                return

    def _waited(self) -> None:
        self._flush(waited=True)

    def _drop_pending(self) -> None:
        self._pending.clear()
        for timer in (self._pending_timer, self._hold_timer):
            if timer is not None:
                timer.cancel()
        self._pending_timer = self._hold_timer = None
