"""Fleets that do not dial over TCP: they listen, or share a line behind a pseudo-terminal."""

from __future__ import annotations

import asyncio
import os
import tty
from pathlib import Path

import pytest

from simulators.fleet import Fleet, Options
from simulators.scenario import Scenario, parse
from simulators.wire import Wire, check_place
from wire698 import access, model
from wire698.frame import Address, Frame, Framer, build_frame
from wire698.values import Oad, Piid

SCENARIO: Scenario = parse(
    "[fleet]\nterminals = 3\nprotected = 0.0\nbackoff_s = 0.01\n[tasks]\nminute_s = 60\n[radio]\nswitch_s = 0.0"
)
TERMINALS = ["100000000001", "100000000002", "100000000003"]


def request(terminal: str) -> bytes:
    return build_frame(0x43, Address.of(terminal), 0x10, model.build(access.GetRequestNormal(Piid(1), Oad(0x40010200))))


class Device:
    """The gateway's end of a line."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._fd)
        self._octets: asyncio.Queue[bytes] = asyncio.Queue()
        self._framer = Framer()
        asyncio.get_running_loop().add_reader(self._fd, lambda: self._octets.put_nowait(os.read(self._fd, 4096)))

    def send(self, octets: bytes) -> None:
        os.write(self._fd, octets)

    async def frame(self) -> Frame:
        async with asyncio.timeout(5):
            while True:
                for found in self._framer.feed(await self._octets.get()):
                    if isinstance(found, Frame):
                        return found

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)


@pytest.mark.parametrize("transport", ["serial", "radio"])
async def test_terminals_of_one_line_answer_by_address_and_say_nothing_else(tmp_path: Path, transport: str) -> None:
    path, stop = tmp_path / "line", asyncio.Event()
    options = Options(transport=transport, place=str(path), bit_rate=19_200, scenario=SCENARIO)  # type: ignore[arg-type]
    fleet = Fleet(options)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(fleet.run(stop))
        await fleet.ready.wait()
        device = Device(path)
        try:
            for terminal in reversed(TERMINALS):
                device.send(b"\xfe" * 4 + request(terminal))
                assert (await device.frame()).address.text == terminal
        finally:
            device.close()
            stop.set()
        summary = await run
    assert (summary.requests, summary.logins, summary.reports, summary.garbage) == (3, 0, 0, 0)
    assert summary.complete
    assert not path.is_symlink()


async def test_listening_terminals_log_in_and_serve_one_master_at_a_time() -> None:
    stop = asyncio.Event()
    fleet = Fleet(Options(transport="listen", host="127.0.0.1", scenario=SCENARIO, drain_s=0.1))
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(fleet.run(stop))
        await fleet.ready.wait()
        assert list(fleet.places) == TERMINALS
        host, _, port = fleet.places[TERMINALS[1]].rpartition(":")
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, int(port))
            login = await reader.read(4096)
            second, other = await asyncio.open_connection(host, int(port))
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await second.readexactly(1)
            other.close()
            writer.close()
        stop.set()
        await run
    (frame,) = Framer().feed(login)
    assert isinstance(frame, Frame)
    assert frame.address.text == TERMINALS[1]


async def test_a_link_that_leads_nowhere_is_replaced_and_what_nobody_takes_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "line"
    path.symlink_to(tmp_path / "gone")
    wire = Wire(str(path), 9600, lambda _: None, lambda: None)
    await wire.open()
    wire.write(bytes(200_000))
    assert wire.lost >= 200_000 - 65_536
    wire.close()
    assert not path.is_symlink()


@pytest.mark.parametrize("place", ["", "rfc2217://x:1", "socket://x", "socket://x:0"])
def test_what_is_no_wire(place: str) -> None:
    with pytest.raises(ValueError, match="wanted"):
        check_place(place)
