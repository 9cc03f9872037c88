"""Faults of the line: the same seed plays the same faults; nothing but the fault itself changes the octets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.counters import Counters
from simulators.faults import NO_FAULTS, FaultyLine, LineFaults
from wire698.frame import Address, Frame, Framer, build_frame

FRAMES = [build_frame(0x83, Address.of("100000000001"), 1, bytes((n,)) * (n + 1)) for n in range(60)]


def play(faults: LineFaults, seed: int = 1) -> tuple[list[bytes], Counters]:
    """The writes for the frames, one call for each, then what is still held."""
    counters = Counters()
    line = FaultyLine(faults, seed, counters)
    writes = []
    for frame in FRAMES:
        for chunk in line.out([frame]):
            writes.append(chunk.octets)
            if chunk.cut:
                line.reset()
    writes += [chunk.octets for chunk in line.release()]
    return writes, counters


def frames_in(writes: list[bytes]) -> list[bytes]:
    framer = Framer()
    return [item.raw for write in writes for item in framer.feed(write) if isinstance(item, Frame)]


def test_without_faults_frames_go_out_as_they_are_in_one_write() -> None:
    line = FaultyLine(NO_FAULTS, 1, Counters())
    assert [chunk.octets for chunk in line.out(FRAMES[:3])] == [b"".join(FRAMES[:3])]
    assert line.out([]) == []


@pytest.mark.parametrize(
    "faults",
    [LineFaults(split=1.0), LineFaults(merge=1.0), LineFaults(split=0.5, merge=0.5), LineFaults(delay=0.5)],
)
@given(seed=st.integers(0, 1000))
def test_split_merge_and_delay_keep_every_octet_in_order(faults: LineFaults, seed: int) -> None:
    writes, _ = play(faults, seed)
    assert b"".join(writes) == b"".join(FRAMES)


def test_splits_and_merges_change_the_segments() -> None:
    split, counters = play(LineFaults(split=1.0))
    assert len(split) >= 2 * len(FRAMES)
    assert counters.faults == {"split": len(FRAMES)}
    merged, _ = play(LineFaults(merge=1.0))
    assert len(merged) == len(FRAMES) / 2


def test_a_spoilt_frame_is_no_frame_and_its_neighbours_are() -> None:
    writes, counters = play(LineFaults(bad_checksum=0.3))
    spoilt = counters.faults["bad_checksum"]
    assert 5 < spoilt < 40
    assert len(frames_in(writes)) == len(FRAMES) - spoilt


def test_noise_before_a_frame_loses_none() -> None:
    writes, counters = play(LineFaults(garbage=0.5))
    assert counters.faults["garbage"] > 10
    assert set(frames_in(writes)) == set(FRAMES)


def test_duplicates_and_losses() -> None:
    doubled, _ = play(LineFaults(duplicate=1.0))
    assert frames_in(doubled) == [frame for frame in FRAMES for _ in range(2)]
    lost, counters = play(LineFaults(lose=0.4))
    assert len(frames_in(lost)) == len(FRAMES) - counters.faults["lose"]


def test_a_cut_breaks_inside_the_frame() -> None:
    line = FaultyLine(LineFaults(disconnect=1.0), 3, Counters())
    (chunk,) = line.out([FRAMES[40]])
    assert chunk.cut
    assert FRAMES[40].startswith(chunk.octets)
    assert len(chunk.octets) < len(FRAMES[40])


def test_deafness() -> None:
    counters = Counters()
    line = FaultyLine(LineFaults(lose_answer=0.5), 3, counters)
    heard = sum(line.hears() for _ in range(200))
    assert 60 < heard < 140
    assert counters.faults == {"lose_answer": 200 - heard}


def test_the_same_seed_plays_the_same_faults() -> None:
    faults = LineFaults(split=0.3, merge=0.2, bad_checksum=0.2, duplicate=0.2, garbage=0.3, disconnect=0.1, lose=0.1)
    assert play(faults, 5)[0] == play(faults, 5)[0]
    assert play(faults, 5)[0] != play(faults, 6)[0]
