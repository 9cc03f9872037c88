"""The outlet: stamps messages with the node and their place in the journal, encodes them, hands them to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.journal import Journal, JournalClosed, JournalFull
from gateway.journal_store import Row, Statement
from messages import Alarm, Format, Message, Raw, Reading, State, Topics, Up, encode

Say = Callable[[str, bytes], bool]


class Marks(Protocol):
    """What is kept of a batch of messages: statements for its transaction, and the way back if that cannot be."""

    @property
    def statements(self) -> Sequence[Statement]:
        """To be carried out with the messages."""

    def take_back(self) -> None:
        """The messages were not stored."""


class Outlet:
    """One for a node. Loop thread only. `say` sends what need not be durable."""

    __slots__ = ("_format", "_journal", "_node", "_say", "_topics", "alarms", "marks", "readings", "states", "unsaid")

    def __init__(self, journal: Journal, topics: Topics, node: str, form: Format, say: Say) -> None:
        self._journal = journal
        self._topics = topics
        self._node = node
        self._format: Format = form
        self._say = say
        self.marks: Callable[[list[Up]], Marks] | None = None
        """What else is to be kept of messages, in their transaction."""
        self.readings = 0
        self.alarms = 0
        self.states = 0
        self.unsaid = 0

    def store(
        self,
        messages: list[Up],
        committed: Callable[[], None] | None,
        also: Callable[[], Sequence[Statement]] | None = None,
    ) -> None:
        """Queue messages for the journal; `committed` is called once they are on the disk. Raises JournalFull.

        `also` is asked for statements for the same transaction when the messages have their place in the journal.
        """
        seq = self._journal.next_seq
        rows: list[Row] = []
        for message in messages:
            message.node = self._node
            message.seq = seq
            rows.append(self._row(seq, message))
            seq += 1
        statements = also() if also is not None else ()
        marks = self.marks(messages) if self.marks is not None else None
        if marks is None:
            self._journal.append(rows, committed, statements)
            return
        try:
            self._journal.append(rows, committed, [*statements, *marks.statements] if marks.statements else statements)
        except (JournalFull, JournalClosed):
            marks.take_back()
            raise

    def tell(self, topic: str, message: Message) -> bool:
        """Queue a message that is about no terminal; False where the journal has no room."""
        try:
            self._journal.append([Row(self._journal.next_seq, topic, encode(message, self._format))])
        except (JournalFull, JournalClosed):
            return False
        return True

    def _row(self, seq: int, message: Up) -> Row:
        topics = self._topics.terminal(message.terminal)
        payload = encode(message, self._format)
        if isinstance(message, Reading):
            self.readings += 1
            return Row(seq, topics.reading, payload)
        if isinstance(message, Alarm):
            self.alarms += 1
            return Row(seq, topics.alarm, payload)
        if isinstance(message, State):
            self.states += 1
            return Row(seq, topics.state, payload, retain=True)
        return Row(seq, topics.ack, payload)

    def pass_on(self, raw: Raw) -> None:
        """Send a raw frame at once or not at all."""
        raw.node = self._node
        topics = self._topics.terminal(raw.terminal)
        topic = topics.raw_up if raw.direction == "up" else topics.raw_down
        if not self._say(topic, encode(raw, self._format)):
            self.unsaid += 1
