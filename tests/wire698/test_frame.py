"""Link frames: checksums, taking apart and making, and how they are found in a stream."""

from __future__ import annotations

import random
from collections.abc import Callable

import crcmod.predefined
import pytest
from fastcrc.crc16 import ibm_sdlc
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies698 import addresses, cut, frames, law, mutated, vectors

from wire698 import frame as frame_module
from wire698 import model
from wire698.errors import WireError
from wire698.fast import FastDecoder
from wire698.frame import (
    MAX_FRAME,
    SCRAMBLED,
    Address,
    Frame,
    Framer,
    Garbage,
    build_frame,
    parse_fragment,
    parse_frame,
)

_oracle: Callable[[bytes], int] = crcmod.predefined.mkPredefinedCrcFun("x-25")
GET = bytes.fromhex("681700430512907856341210223E0501014001020000C60716")
OWN = Address.of("123456789012")


def feed(*pieces: bytes, limit: int = MAX_FRAME) -> tuple[list[bytes], int, int]:
    """Frames found, octets of garbage, octets waiting."""
    framer = Framer(limit)
    found = [item for piece in pieces for item in framer.feed(piece)]
    good = [item.raw for item in found if isinstance(item, Frame)]
    return good, sum(item.octets for item in found if isinstance(item, Garbage)), framer.waiting


# --- checksums ----------------------------------------------------------------------------------------------------


def test_crc_check_value() -> None:
    assert ibm_sdlc(b"123456789") == 0x906E
    assert ibm_sdlc(bytes.fromhex("1700430512907856341210")) == 0x3E22


@law(200)
@given(st.binary(max_size=300))
def test_crc_is_that_of_an_independent_implementation(octets: bytes) -> None:
    assert ibm_sdlc(octets) == _oracle(octets)


# --- frames -------------------------------------------------------------------------------------------------------


@law(200)
@given(st.integers(0, 255), addresses, st.integers(0, 255), st.binary(max_size=300), st.booleans())
def test_a_frame_parses_to_what_it_was_built_of(
    control: int, address: Address, client: int, data: bytes, scrambled: bool
) -> None:
    control &= ~SCRAMBLED
    raw = build_frame(control, address, client, data, scrambled=scrambled)
    frame = parse_frame(raw)
    assert frame == Frame(control | scrambled * SCRAMBLED, address, client, data, raw)
    assert raw[frame.data_offset : frame.data_offset + len(data)] == (
        bytes((octet + 0x33) & 0xFF for octet in data) if scrambled else data
    )
    assert Address.of(address.text, address.kind, address.logical) == address


def test_addresses() -> None:
    assert Address(0x05, bytes.fromhex("129078563412")) == OWN
    assert Address.of("000000000001").text == "000000000001"
    assert Address.of("12345") == Address(0x02, bytes.fromhex("5F3412"))
    assert Address.of("12345").text == "12345"
    assert Address.of("AA", kind=3) == Address(0xC0, b"\xaa")
    for digits in ("", "1" * 33, "12x4"):
        with pytest.raises(ValueError):
            Address.of(digits)


def test_a_frame_holds_16383_octets_and_no_more() -> None:
    most = 0x3FFF - 9 - 6
    raw = build_frame(0x83, OWN, 0, bytes(most))
    assert len(raw) == MAX_FRAME
    assert parse_frame(raw).data == bytes(most)
    assert feed(raw) == ([raw], 0, 0)
    with pytest.raises(ValueError, match="fragments"):
        build_frame(0x83, OWN, 0, bytes(most + 1))


@pytest.mark.parametrize(
    ("at", "octet", "reason"),
    [
        (0, 0x69, "starts with 68"),
        (1, 0x18, "header checksum"),
        (12, 0x23, "header checksum"),
        (16, 0x02, "frame checksum"),
        (22, 0x00, "frame checksum"),
        (24, 0x17, "ends with 16"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(at: int, octet: int, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_frame(GET[:at] + bytes((octet,)) + GET[at + 1 :])


def test_a_frame_of_another_length_than_it_says() -> None:
    for raw in (GET + b"\x16", GET[:-1]):
        with pytest.raises(WireError, match="length field 23"):
            parse_frame(raw)
    for size in range(12):
        with pytest.raises(WireError, match="at least 12"):
            parse_frame(GET[:size])


def test_lengths_in_kilobytes_are_refused() -> None:
    head = bytes.fromhex("1740 43 05 129078563412 10")
    head += ibm_sdlc(head).to_bytes(2, "little")
    body = head + bytes.fromhex("0501014001020000")
    raw = b"\x68" + body + ibm_sdlc(body).to_bytes(2, "little") + b"\x16"
    with pytest.raises(WireError, match="kilobytes"):
        parse_frame(raw)
    good, garbage, waiting = feed(raw + GET)
    assert (good, garbage, waiting) == ([GET], len(raw), 0)


# --- the stream ---------------------------------------------------------------------------------------------------

_noise = st.binary(max_size=30).map(lambda octets: octets.replace(b"\x68", b"\x67"))
_parts = st.lists(
    st.one_of(frames(), _noise, st.binary(max_size=30), frames().flatmap(mutated), st.just(b"\xfe\xfe\xfe\xfe")),
    max_size=6,
).map(b"".join)


@law(200)
@given(_parts.flatmap(lambda stream: st.tuples(st.just(stream), cut(stream))))
def test_any_split_of_the_stream_gives_the_same_frames(found: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = found
    whole = feed(stream)
    assert feed(*pieces) == whole
    assert feed(*[stream[at : at + 1] for at in range(len(stream))]) == whole
    good, garbage, waiting = whole
    assert sum(map(len, good)) + garbage + waiting == len(stream)
    assert waiting <= MAX_FRAME


@law(100)
@given(st.lists(st.tuples(_noise, frames()), max_size=5), _noise)
def test_noise_without_a_start_octet_loses_no_frame(parts: list[tuple[bytes, bytes]], rest: bytes) -> None:
    stream = b"".join([noise + raw for noise, raw in parts]) + rest
    good, garbage, waiting = feed(stream)
    assert good == [raw for _, raw in parts]
    assert garbage == sum(len(noise) for noise, _ in parts) + len(rest)
    assert waiting == 0


def _believable(octets: bytes, before: int) -> bool:
    """Whether a header with a good checksum starts in the first `before` octets."""
    for at in range(before):
        head = at + 7 + (octets[at + 4] & 0x0F) if at + 4 < len(octets) else len(octets)
        if octets[at] == 0x68 and ibm_sdlc(octets[at + 1 : head]) == int.from_bytes(octets[head : head + 2], "little"):
            return True
    return False


@law(200)
@given(st.lists(st.sampled_from([0x68, 0x16, 0x00, 0x05, 0x17, 0x43]), max_size=40).map(bytes), frames())
def test_garbage_that_forms_no_good_header_loses_no_frame(garbage: bytes, raw: bytes) -> None:
    assume(not _believable(garbage + raw, len(garbage)))
    # A false start may be waiting for its header: 23 octets settle that.
    assert feed(garbage + raw, raw, raw) == ([raw, raw, raw], len(garbage), 0)


def test_a_good_header_that_lies_about_its_frame_costs_only_a_delay() -> None:
    lie = build_frame(0x83, OWN, 0, bytes(1000))[:14]
    framer = Framer()
    assert framer.feed(lie + GET) == []
    assert framer.waiting == len(lie) + len(GET)
    found = framer.feed(bytes(1000))
    assert [item.raw for item in found if isinstance(item, Frame)] == [GET]
    assert sum(item.octets for item in found if isinstance(item, Garbage)) + framer.waiting == len(lie) + 1000
    # Or, sooner, whoever owns the channel gives the wait up.
    framer = Framer()
    framer.feed(lie)
    assert framer.discard() == Garbage("stale", 14)
    assert framer.discard() is None
    assert framer.feed(GET) == [parse_frame(GET)]


@pytest.mark.parametrize(
    ("stream", "garbage"),
    [
        (b"\x00\x01" + GET, Garbage("noise", 2)),
        (GET[:12] + b"\0" + GET[13:], Garbage("header-checksum", 25)),
        (GET[:20] + b"\1" + GET[21:], Garbage("frame-checksum", 25)),
        (GET[:24] + b"\x17", Garbage("end", 25)),
        (bytes.fromhex("68FFFF4305"), None),
        (bytes.fromhex("68FFFF430500"), Garbage("length", 6)),
        (bytes.fromhex("680A00430500"), Garbage("length", 6)),
    ],
)
def test_garbage_has_a_reason(stream: bytes, garbage: Garbage | None) -> None:
    found = [item for item in Framer().feed(stream) if isinstance(item, Garbage)]
    assert found == ([] if garbage is None else [garbage])


@law(100)
@given(st.integers(12, 60), st.lists(frames(), max_size=5), st.binary(max_size=20))
def test_longer_frames_than_the_limit_are_skipped_and_never_kept(limit: int, raws: list[bytes], rest: bytes) -> None:
    framer = Framer(limit)
    good = []
    for octet in b"".join(raws) + rest:
        good += [item.raw for item in framer.feed(bytes((octet,))) if isinstance(item, Frame)]
        assert framer.waiting <= max(limit, 24)
    assert all(len(raw) <= limit for raw in good)
    if all(0x68 not in raw[1:] for raw in raws):
        assert good == [raw for raw in raws if len(raw) <= limit]


class _Counted:
    """The checksum, counting how often it is asked and over how many octets."""

    def __init__(self) -> None:
        self.calls = 0
        self.octets = 0

    def __call__(self, octets: bytes) -> int:
        self.calls += 1
        self.octets += len(octets)
        return int(ibm_sdlc(octets))


@pytest.mark.parametrize(
    "unit",
    [b"\x68", bytes.fromhex("681700430500"), bytes.fromhex("68FF3F430500"), GET[:12] + b"\0\0", GET[:14]],
    ids=["starts", "small headers", "large headers", "bad headers", "good headers"],
)
@pytest.mark.parametrize("size", [1 << 20, 1], ids=["one call", "single octets"])
def test_work_is_proportional_to_what_comes(monkeypatch: pytest.MonkeyPatch, unit: bytes, size: int) -> None:
    counted = _Counted()
    monkeypatch.setattr(frame_module, "crc16", counted)
    total = 1 << 20 if size > 1 else 1 << 15
    stream = (unit * (total // len(unit) + 1))[:total]
    framer = Framer()
    garbage = 0
    for at in range(0, total, size):
        garbage += sum(item.octets for item in framer.feed(stream[at : at + size]) if isinstance(item, Garbage))
        assert framer.waiting <= MAX_FRAME
    assert garbage + framer.waiting == total
    # A checksum for a header as each octet comes, one for a frame at each start: never more than two an octet, and
    # no more octets than a header has or, behind a good header, the frame that it announces.
    assert counted.calls <= 2 * total
    assert counted.octets <= 26 * total


def test_garbage_for_ever_keeps_nothing() -> None:
    source = random.Random(698)
    framer = Framer(limit=512)
    skipped = 0
    for _ in range(200):
        piece = source.randbytes(1000).replace(b"\x00\x02", b"\x68\x68")
        skipped += sum(item.octets for item in framer.feed(piece) if isinstance(item, Garbage))
        assert framer.waiting <= 512
    assert skipped + framer.waiting == 200_000


_FRAMES = [bytes.fromhex(entry["hex"]) for entry in vectors("frames.json")]


@law(400)
@given(st.lists(st.sampled_from(_FRAMES), min_size=1, max_size=3).map(b"".join).flatmap(mutated))
def test_changed_frames_raise_nothing_but_wire_error(stream: bytes) -> None:
    decoder = FastDecoder()
    octets = 0
    framer = Framer()
    for item in framer.feed(stream):
        if isinstance(item, Garbage):
            octets += item.octets
            continue
        octets += len(item.raw)
        assert parse_frame(item.raw) == item
        for decode in (decoder.parse, model.parse, parse_fragment):
            try:
                decode(item.data)  # type: ignore[operator]
            except WireError as error:
                assert error.reason  # noqa: PT017
    assert octets + framer.waiting == len(stream)
    try:
        parse_frame(stream)
    except WireError as error:
        assert 0 <= error.offset <= len(stream)  # noqa: PT017
