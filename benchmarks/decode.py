"""Decode speed: microseconds a frame, and ratios against the native package in the same run.

    python benchmarks/decode.py [--seconds S] [--json FILE]

Machines are noisy, so figures are medians of interleaved rounds, and the ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

from messages import encode
from protocols.mapping import Mapper, Said
from protocols.times import Instants
from wire698 import model
from wire698.access import ReportNotificationRecordList
from wire698.fast import FastDecoder
from wire698.frame import Framer

FRAMES = Path(__file__).parent.parent / "tests" / "data" / "bench.json"
ROUNDS = 7


def fast(octets: bytes) -> Callable[[], object]:
    """Frame to values: framer and fast path."""
    framer, decoder = Framer(), FastDecoder()
    (frame,) = framer.feed(octets)
    decoder.parse(frame.data)

    def run() -> object:
        (found,) = framer.feed(octets)
        apdu, _ = decoder.parse(found.data)
        return apdu.records[0].result.runs

    run()
    assert decoder.misses == 1, "the fast path must not fall back to the model"
    return run


def by_model(octets: bytes) -> Callable[[], object]:
    """Frame to values: framer and model."""
    framer = Framer()

    def run() -> object:
        (found,) = framer.feed(octets)
        return model.parse(found.data).apdu

    return run


def to_msgpack(octets: bytes) -> Callable[[], object]:
    """Frame to the payload of the Reading."""
    framer, decoder = Framer(), FastDecoder()
    mapper = Mapper(Instants(ZoneInfo("Asia/Shanghai")))
    said = Said("112233445566", 0, 1_700_000_000_000)

    def run() -> object:
        (found,) = framer.feed(octets)
        apdu, _ = decoder.parse(found.data)
        assert isinstance(apdu, ReportNotificationRecordList)
        (reading,) = mapper.of_records(apdu.records, said)
        reading.id = "0123456789abcdef"
        return encode(reading)

    return run


def native(octets: bytes) -> Callable[[], object] | None:
    """Frame to the same values in Python by the native package dlt698; None where it cannot read the frame.

    It reads a ROAD column as one Data, so the frames with ROAD columns are beyond it.
    """
    import dlt698

    decode_frame, decode_apdu = dlt698.codec.decode_frame, dlt698.codec.decode_apdu

    def run() -> object:
        apdu = decode_apdu(decode_frame(octets).payload)
        rows = []
        for row in apdu.payload[0].result:
            cells: list[object] = []
            for data in row:
                value = data.value
                # A time comes as a list of numbers, an array as a list of Data.
                if isinstance(value, list) and not isinstance(value[0], int):
                    cells.extend([item.value for item in value])
                else:
                    cells.append(value)
            rows.append(cells)
        return rows

    try:
        run()
    except dlt698.Dlt698Error:
        return None
    return run


def per_call(run: Callable[[], object], seconds: float) -> float:
    """Microseconds a call, over about `seconds`."""
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            run()
        took = time.perf_counter() - start
        if took >= seconds:
            return took / count * 1e6
        count = max(count * 2, int(count * seconds / max(took, 1e-9)))


def measure(octets: bytes, seconds: float) -> dict[str, float | None]:
    """Medians over interleaved rounds, and the median of the ratios of each round."""
    runs = {"fast": fast(octets), "model": by_model(octets), "msgpack": to_msgpack(octets), "native": native(octets)}
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            if run is not None:
                rounds[name].append(per_call(run, seconds))
    result: dict[str, float | None] = {
        f"{name}_us": statistics.median(times) if times else None for name, times in rounds.items()
    }
    ratios = [native / quick for native, quick in zip(rounds["native"], rounds["fast"], strict=False)]
    result["native_over_fast"] = statistics.median(ratios) if ratios else None
    return result


def main() -> int:
    """Print the table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each figure of each round [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    results = {}
    shown = ("fast_us", "model_us", "msgpack_us", "native_us", "native_over_fast")
    print(f"{'frame':10} {'octets':>6} {'rows':>4}" + "".join(f"{name:>18}" for name in shown))
    for entry in json.loads(FRAMES.read_text()):
        octets = bytes.fromhex(entry["hex"])
        figures = results[entry["id"]] = measure(octets, args.seconds)
        cells = ["-" if figures[name] is None else f"{figures[name]:.1f}" for name in shown]
        print(f"{entry['id']:10} {len(octets):6} {entry['rows']:4}" + "".join(f"{cell:>18}" for cell in cells))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
