"""The identity of messages."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from messages import Raw, decode, encode, message_id

terminals = st.text("0123456789", min_size=1, max_size=12)
said = st.lists(st.binary(max_size=6), max_size=4)


def test_ids_stay_what_they_are() -> None:
    """A change here would make every consumer take retransmissions across an upgrade for news."""
    assert message_id("112233445566") == "67fb8f5ba17f8549"
    assert message_id("112233445566", b"\x88\x01", b"\x00") == "63483d3b2a284678"


@given(terminals, said)
def test_same_words_same_id(terminal: str, parts: list[bytes]) -> None:
    identity = message_id(terminal, *parts)
    assert identity == message_id(terminal, *parts)
    assert re.fullmatch("[0-9a-f]{16}", identity)
    raw = Raw(id=identity, terminal=terminal, received_at=1, direction="up", frame="")
    assert decode(encode(raw), Raw).id == identity


@given(st.tuples(terminals, said), st.tuples(terminals, said))
def test_other_words_other_id(one: tuple[str, list[bytes]], two: tuple[str, list[bytes]]) -> None:
    assert (message_id(one[0], *one[1]) == message_id(two[0], *two[1])) == (one == two)


@given(terminals, st.binary(min_size=1, max_size=12), st.data())
def test_parts_cannot_be_confused(terminal: str, octets: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(octets)))
    other = data.draw(st.integers(0, len(octets)).filter(lambda place: place != cut))
    whole = message_id(terminal, octets)
    split = message_id(terminal, octets[:cut], octets[cut:])
    assert len({whole, split, message_id(terminal, octets[:other], octets[other:])}) == 3
    assert message_id(terminal, b"") != message_id(terminal)
    assert message_id(terminal + "1", octets) != message_id(terminal, b"1" + octets)
