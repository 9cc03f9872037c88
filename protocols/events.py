"""What a machine and its shell say to each other.

The shell moves octets and time; the machine returns what it means (h11's division of labour). A machine is fed frames,
requests, settled tokens and the passing of time; it gives events and octets to be sent.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

from messages import Up


class ProgrammingError(RuntimeError):
    """A machine was used in a way that its rules forbid: our fault, never a peer's."""


class Moment(NamedTuple):
    """An instant: `mono` s of a clock that never jumps, for waiting; `wall` ms since 1970 UTC, for telling."""

    mono: float
    wall: int


ANSWERS_OWED = 16
"""Answers that one token keeps; a terminal that repeats itself more often while it waits gets the latest ones."""


class Token:
    """Stands for messages that must be durable before the terminal may forget them.

    `answers` are the frames that tell it so: more than one when it said the same again while it waited, none where it
    asks for none (follow reports). `settled`: the messages are durable, or given up.
    """

    __slots__ = ("answers", "epoch", "identity", "settled")

    def __init__(self, epoch: int, identity: str, *answers: bytes) -> None:
        self.epoch = epoch
        self.identity = identity
        self.answers = list(answers)
        self.settled = False

    def owe(self, epoch: int, answer: bytes) -> None:
        """One more frame to be sent on settling; those that an older link waited for are owed no longer."""
        if epoch != self.epoch:
            self.epoch, self.answers = epoch, []
        if answer not in self.answers:
            self.answers = [*self.answers[1 - ANSWERS_OWED :], answer]


class Identified(NamedTuple):
    """The peer is this terminal. `login` is False for one that speaks without having logged in (oddity 34)."""

    terminal: str
    login: bool


class Deliver(NamedTuple):
    """Messages to be stored, then published; with a token, `settle` it once they are stored."""

    messages: list[Up]
    token: Token | None


class Answered(NamedTuple):
    """A request has come to its end: `result` is the answering APDU, or a Failure."""

    request: Request
    result: Any


class Late(NamedTuple):
    """An answer to a request that had been given up: `result` is the APDU. It changes nothing."""

    request: Request
    result: Any


class Failure(NamedTuple):
    """Why a request has no answer.

    name: `timed_out`, `cancelled`, `lost` (connection), `refused` (error response; code), `bad_answer`, `busy`; of a
    shared medium also `expired` and `skipped` (a poll of a terminal that does not answer).
    """

    name: str
    text: str
    code: int | None = None


class Violation(NamedTuple):
    """The peer broke the rules: counted by `reason`, logged, never fatal to others."""

    reason: str
    raw: bytes


class Oddity(NamedTuple):
    """Something accepted although the text does not have it so (field-oddities); counted by name."""

    name: str


class CloseWanted(NamedTuple):
    """Close the connection when the octets given out are written."""

    reason: str


Event: TypeAlias = Identified | Deliver | Answered | Late | Violation | Oddity | CloseWanted


class Request:
    """Something asked of a terminal.

    `apdu` is built anew for each attempt with the PIID of that attempt; `timeout` s for one attempt; `retries` attempts
    after the first. `context` is the caller's own.
    """

    __slots__ = ("apdu", "attempts", "context", "retries", "sent_at", "timeout")

    def __init__(
        self, apdu: Any, *, timeout: float | None = None, retries: int | None = None, context: Any = None
    ) -> None:
        self.apdu = apdu
        self.timeout = timeout
        self.retries = retries
        self.context = context
        self.attempts = 0
        self.sent_at: int | None = None


class Machine(Protocol):
    """One terminal's dialogue, whatever its protocol."""

    terminal: str
    epoch: int

    @property
    def presence(self) -> str:
        """`online`, `suspect` or `offline`."""

    @property
    def clock_offset_ms(self) -> int | None:
        """The terminal's clock minus ours at its last LINK-Request, ms; None while not known."""

    @property
    def ready(self) -> bool:
        """Whether a request that is submitted now goes out at once: the terminal has shown itself, nothing waits."""

    def attach(self, moment: Moment) -> list[Event]:
        """A link has taken this terminal; `epoch` goes up, and what an older link still says is void."""

    def expect(self, moment: Moment) -> list[Event]:
        """The terminal is known to be on this link, though it has not spoken: it may be asked."""

    def detach(self, epoch: int, moment: Moment) -> list[Event]:
        """The link of `epoch` is gone; nothing happens if a newer one has taken over."""

    def feed(self, frame: Any, moment: Moment) -> list[Event]:
        """A frame of this terminal. Raises ProgrammingError while no link is attached."""

    def submit(self, request: Request, moment: Moment) -> list[Event]:
        """Ask the terminal something. Raises ProgrammingError for what cannot be asked, or is asked already."""

    def cancel(self, request: Request, moment: Moment) -> list[Event]:
        """Take back a request that has not been sent."""

    def settle(self, token: Token, moment: Moment) -> None:
        """The messages of a token are durable. Raises ProgrammingError for one that is settled or abandoned."""

    def abandon(self, token: Token) -> None:
        """The messages of a token could not be stored. Raises ProgrammingError for one that is settled or abandoned."""

    def tick(self, moment: Moment) -> list[Event]:
        """Time has passed; call it at `deadline` or later."""

    def deadline(self) -> float | None:
        """The `mono` instant at which `tick` has something to do."""

    def outgoing(self) -> list[bytes]:
        """Octets to be written, each once."""
