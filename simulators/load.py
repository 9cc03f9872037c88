"""Load generator: many terminals that send precomputed reports in a closed loop, each next when one is acknowledged.

Faster than what it measures: frames are made once, and only the octets that differ from report to report - the PIID, a
running number in a value, the checksum - are written anew. It measures the time from a report to its acknowledgement.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, cast

from fastcrc.crc16 import ibm_sdlc as crc16

from wire698 import link, model
from wire698.access import ReportNotificationRecordList
from wire698.frame import Address, build_frame
from wire698.pieces import ResultRecord
from wire698.rows import Row, Table
from wire698.values import Data, Oad, Piid, Tag

_CONNECT_S: Final = 30.0
_AT_ONCE: Final = 200
_ACK_PIID: Final = 2
"""Octet of the PIID in an acknowledgement's APDU."""


@dataclass(slots=True)
class LoadOptions:
    """`window`: reports in flight of one terminal; `rows`: in one report; `seconds`: measured, after `warmup_s`."""

    host: str
    port: int
    terminals: int = 100
    window: int = 8
    rows: int = 1
    seconds: float = 10.0
    first_address: int = 200_000_000_001
    warmup_s: float = 1.0


@dataclass(slots=True)
class LoadResult:
    """Counts after the warm-up; `latencies` in s, of reports that were acknowledged then."""

    acknowledged: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Reports a second."""
        return self.acknowledged / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """Latency that `share` of the reports did not pass, s."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def report_apdu(rows: int) -> bytes:
    """A task upload of `rows` meters: three times, energies, voltages, currents, powers, power factors."""
    at = Data(Tag.DATE_TIME_S, bytes.fromhex("07EA0B180F0000"))

    def numbers(tag: Tag, values: tuple[int, ...]) -> Data:
        return Data(Tag.ARRAY, tuple([Data(tag, value) for value in values]))

    oads = ("202A0200", "60400200", "60410200", "60420200", "00100200", "20000200", "20010200", "20040200", "200A0200")
    table = [
        Row.of(
            (
                Data(Tag.TSA, b"\x05" + number.to_bytes(6)),
                at,
                at,
                at,
                numbers(Tag.DOUBLE_LONG_UNSIGNED, (123456,) * 5),
                numbers(Tag.LONG_UNSIGNED, (2200, 2201, 2202)),
                numbers(Tag.DOUBLE_LONG, (1500, 1501, 1502)),
                numbers(Tag.DOUBLE_LONG, (9000, 9001, 9002, 9003)),
                numbers(Tag.LONG, (987,) * 4),
            )
        )
        for number in range(rows)
    ]
    record = ResultRecord(Oad.of("60120300"), tuple([Oad.of(oad) for oad in oads]), Table.of(table))
    return model.build(ReportNotificationRecordList(Piid(0), (record,)))


class _Terminal(asyncio.Protocol):
    """One terminal: its frame with two octets of PIID and value to be changed, and what is in flight."""

    def __init__(self, address: str, options: LoadOptions, result: LoadResult, clock: _Clock) -> None:
        self._result = result
        self._clock = clock
        self._window = options.window
        self._sent: dict[int, float] = {}
        self._free: deque[int] = deque(range(64))
        self._count = 0
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        at = Address.of(address)
        self._login = build_frame(0x81, at, 0, model.build(link.LinkRequest(Piid(0), link.LOGIN, 300, bytes(10))))
        frame = bytearray(build_frame(0x83, at, 0x10, report_apdu(options.rows)))
        self._frame = frame
        self._piid_at = 14 + 2
        self._value_at = frame.index(b"\x06\x00\x01\xe2\x40") + 1
        self._logged_in = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._login)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at, size = 0, len(data)
        answers = 0
        now = time.perf_counter()
        while size - at >= 12:
            length = (data[at + 1] | data[at + 2] << 8) + 2
            if size - at < length:
                break
            if data[at + 14] == 0x08:
                piid = data[at + 14 + _ACK_PIID]
                began = self._sent.pop(piid, None)
                if began is not None:
                    self._free.append(piid)
                    answers += 1
                    if self._clock.measuring:
                        self._result.acknowledged += 1
                        self._result.latencies.append(now - began)
            elif not self._logged_in:
                self._logged_in = True
                answers = self._window
            at += length
        self._buffer = data[at:]
        if answers and self._clock.running:
            self._send(answers)

    def _send(self, count: int) -> None:
        out: list[bytes] = []
        now = time.perf_counter()
        frame = self._frame
        for _ in range(min(count, len(self._free))):
            piid = self._free.popleft()
            self._count += 1
            frame[self._piid_at] = piid
            frame[self._value_at : self._value_at + 4] = self._count.to_bytes(4)
            frame[-3:-1] = crc16(bytes(frame[1:-3])).to_bytes(2, "little")
            self._sent[piid] = now
            out.append(bytes(frame))
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(slots=True)
class _Clock:
    running: bool = True
    measuring: bool = False


async def run_load(options: LoadOptions) -> LoadResult:
    """Connect the terminals, warm up, measure, close."""
    loop = asyncio.get_running_loop()
    result, clock = LoadResult(), _Clock()
    gate = asyncio.Semaphore(_AT_ONCE)
    terminals = [
        _Terminal(f"{options.first_address + number:012d}", options, result, clock)
        for number in range(options.terminals)
    ]

    async def connect(terminal: _Terminal) -> None:
        async with gate, asyncio.timeout(_CONNECT_S):
            await loop.create_connection(lambda: terminal, options.host, options.port)

    await asyncio.gather(*[connect(terminal) for terminal in terminals])
    await asyncio.sleep(options.warmup_s)
    clock.measuring, began = True, time.perf_counter()
    await asyncio.sleep(options.seconds)
    result.seconds = time.perf_counter() - began
    clock.measuring = clock.running = False
    for terminal in terminals:
        terminal.close()
    return result
