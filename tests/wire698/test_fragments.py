"""Link fragments (分帧): cut, put together, and what happens when they come wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies698 import law

from wire698.errors import WireError
from wire698.frame import (
    ACK,
    FIRST,
    LAST,
    MIDDLE,
    Fragment,
    Reassembler,
    build_fragment,
    parse_fragment,
    split_fragments,
)

APDU = bytes.fromhex("0501014001020000")


def pieces_of(apdu: bytes, size: int) -> list[Fragment]:
    return [parse_fragment(data) for data in split_fragments(apdu, size)]


@law(200)
@given(st.integers(0, 0xFFF), st.integers(0, 3), st.integers(0, 3), st.binary(max_size=40))
def test_a_fragment_parses_to_what_it_was_built_of(seq: int, kind: int, reserved: int, piece: bytes) -> None:
    assert parse_fragment(build_fragment(seq, kind, piece, reserved)) == Fragment(seq, kind, reserved, piece)


def test_the_worked_example() -> None:
    assert [data.hex() for data in split_fragments(APDU, 5)] == ["000005010140", "014001020000"]
    assert build_fragment(0, FIRST, APDU[:3]).hex() == "0000050101"
    assert build_fragment(0, ACK).hex() == "0080"
    assert build_fragment(1, LAST, APDU[3:]).hex() == "01404001020000"


@pytest.mark.parametrize("data", [b"", b"\x00"])
def test_a_fragment_has_its_format_field(data: bytes) -> None:
    with pytest.raises(WireError, match="2 octets"):
        parse_fragment(data, 14)


@law(200)
@given(st.binary(min_size=2, max_size=200), st.integers(1, 250))
def test_all_sizes_split_and_come_together(apdu: bytes, size: int) -> None:
    fragments = pieces_of(apdu, size)
    assert len(fragments) >= 2
    assert all(1 <= len(fragment.piece) <= size for fragment in fragments)
    assert [fragment.kind for fragment in fragments] == [FIRST] + [MIDDLE] * (len(fragments) - 2) + [LAST]
    reassembler = Reassembler(len(apdu))
    for fragment in fragments[:-1]:
        assert reassembler.feed(fragment) == (build_fragment(fragment.seq, ACK), None, None)
        assert reassembler.open
    assert reassembler.feed(fragments[-1]) == (build_fragment(fragments[-1].seq, ACK), apdu, None)
    assert not reassembler.open


@law(100)
@given(st.binary(min_size=2, max_size=100), st.integers(1, 40), st.data())
def test_repeated_fragments_are_acknowledged_again_and_not_added(apdu: bytes, size: int, source: st.DataObject) -> None:
    reassembler = Reassembler(1000)
    done = []
    for fragment in pieces_of(apdu, size):
        for number in range(source.draw(st.integers(1, 3))):
            acknowledgement, whole, warning = reassembler.feed(fragment)
            assert acknowledgement == build_fragment(fragment.seq, ACK)
            assert warning is None
            assert whole is None or number == 0
            done.append(whole)
    assert [whole for whole in done if whole is not None] == [apdu]


@law(100)
@given(st.integers(3, 8), st.data())
def test_a_lost_fragment_gives_the_whole_up(count: int, source: st.DataObject) -> None:
    fragments = pieces_of(bytes(range(count)), 1)
    lost = source.draw(st.integers(0, count - 2))
    reassembler = Reassembler(1000)
    results = [reassembler.feed(fragment) for number, fragment in enumerate(fragments) if number != lost]
    assert all(whole is None for _, whole, _ in results)
    assert results[lost] == (None, None, "fragment-out-of-order")
    assert not reassembler.open
    # The next one is not hurt.
    assert [reassembler.feed(fragment)[1] for fragment in fragments][-1] == bytes(range(count))


def test_a_new_first_fragment_starts_again() -> None:
    first, *rest = pieces_of(APDU, 3)
    other = Fragment(0, FIRST, 0, b"\x05\x01\x02")
    reassembler = Reassembler(100)
    reassembler.feed(other)
    assert reassembler.feed(first) == (build_fragment(0, ACK), None, "fragment-restart")
    assert [reassembler.feed(fragment)[1] for fragment in rest][-1] == APDU


def test_what_is_too_long_is_given_up() -> None:
    first, *rest = pieces_of(bytes(30), 10)
    reassembler = Reassembler(25)
    assert reassembler.feed(first)[2] is None
    assert reassembler.feed(rest[0])[2] is None
    assert reassembler.feed(rest[1]) == (None, None, "fragment-too-long")
    assert not reassembler.open
    assert reassembler.feed(Fragment(0, FIRST, 0, bytes(26))) == (None, None, "fragment-too-long")


def test_numbers_wrap_after_4095() -> None:
    reassembler = Reassembler(100_000)
    fragments = pieces_of(bytes(5000), 1)
    assert fragments[4096].seq == 0
    assert [reassembler.feed(fragment)[1] for fragment in fragments][-1] == bytes(5000)


def test_a_sequence_may_start_anywhere() -> None:
    reassembler = Reassembler(100)
    assert reassembler.feed(Fragment(261, FIRST, 0, b"\x05"))[2] is None
    assert reassembler.feed(Fragment(262, MIDDLE, 3, b"\x01"))[2] is None
    assert reassembler.feed(Fragment(263, LAST, 0, b"\x15"))[1] == b"\x05\x01\x15"
