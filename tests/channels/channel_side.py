"""What is around a channel: a bench whose machines can be told who is there; terminals at real sockets and ports."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from e2e_parts import LOOPBACK, until
from link_side import Bench
from terminal_side import ANSWER, TERMINAL, UPWARD, dated, get_request, get_response, login

from gateway.channels.channel import Channel
from protocols.dialogue698 import Dlt698Dialogue
from protocols.dlt698_options import Options
from protocols.events import Request
from wire698 import model
from wire698.frame import Address, Frame, Framer, build_frame
from wire698.pieces import Apdu

SECOND = "112233445577"


class ChannelBench(Bench):
    """A bench with such machines; `arrived` has the terminals that were told to be there, or have shown themselves."""

    def __init__(self, *, max_unsettled: int = 64, **options: Any) -> None:
        super().__init__(max_unsettled=max_unsettled, **options)
        self.arrived: list[str] = []
        self.context.dialogue = Dlt698Dialogue(Options(**options), ZoneInfo("Asia/Shanghai"), 16)
        self.context.arrived = lambda session: self.arrived.append(session.machine.terminal)

    def ask(self, terminal: str = TERMINAL) -> Request:
        """What whoever asks a terminal does."""
        session = self.sessions.get(terminal)
        assert session is not None
        assert session.link is not None
        request, moment = Request(get_request()), self.clock.moment()
        self.context.dispatch(session, session.machine.submit(request, moment), moment)
        session.link.flush()
        return request

    def results(self) -> list[str]:
        """The services or failures that requests ended with."""
        return [getattr(event.result, "name", type(event.result).__name__) for _, event in self.answered]


@asynccontextmanager
async def running(channel: Channel) -> AsyncIterator[None]:
    """A channel as the daemon runs it."""
    await channel.start()
    task = asyncio.create_task(channel.run())
    try:
        yield
    finally:
        await channel.stop_accepting()
        await channel.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: not channel.context.links)


class Speaker:
    """A terminal's voice and ear, over something that a subclass knows; it obeys a test."""

    def __init__(self, terminal: str = TERMINAL) -> None:
        self.address = Address.of(terminal)
        self.octets_heard = b""
        self._framer = Framer()
        self._heard: asyncio.Queue[Frame] = asyncio.Queue()

    def send(self, octets: bytes) -> None:
        raise NotImplementedError

    def hear(self, octets: bytes) -> None:
        self.octets_heard += octets
        for found in self._framer.feed(octets):
            if isinstance(found, Frame):
                self._heard.put_nowait(found)

    def frame(self, said: Apdu | bytes, control: int = UPWARD, terminal: str | None = None) -> bytes:
        address = self.address if terminal is None else Address.of(terminal)
        return build_frame(control, address, 0x10, said if isinstance(said, bytes) else model.build(said))

    def say(self, said: Apdu | bytes, control: int = UPWARD) -> None:
        self.send(self.frame(said, control))

    async def heard(self, seconds: float = 10.0) -> Frame:
        """The next frame of the master."""
        async with asyncio.timeout(seconds):
            return await self._heard.get()

    async def answer(self) -> Any:
        """The next APDU of the master."""
        return model.parse((await self.heard()).data).apdu

    @property
    def unheard(self) -> int:
        """Frames of the master that wait to be taken."""
        return self._heard.qsize()


async def logs_in(peer: Any) -> None:
    peer.say(login(), 0x81)
    answer = await peer.answer()
    assert (type(answer).__name__, answer.result & 7) == ("LinkResponse", 0)


async def reports(bench: Bench, peer: Any, energy: int = 1, piid: int = 1) -> None:
    """A report is acknowledged when it is committed, not before."""
    before = len(bench.shelf.data)
    peer.say(dated(piid=piid, energy=energy))
    await until(lambda: len(bench.shelf.data) == before + 1)
    assert bench.commit() == 1
    answer = await peer.answer()
    assert (type(answer).__name__, answer.piid) == ("ReportResponseRecordList", piid)


async def is_asked(bench: ChannelBench, peer: Any, terminal: str = TERMINAL) -> None:
    """A request goes out, and its answer comes back to who asked."""
    before = len(bench.answered)
    bench.ask(terminal)
    await answers(peer)
    await until(lambda: len(bench.answered) == before + 1)
    assert bench.results()[-1] == "GetResponseNormal"


async def answers(peer: Any) -> None:
    """The terminal answers what it is asked next."""
    asked = await peer.answer()
    assert type(asked).__name__ == "GetRequestNormal"
    peer.say(get_response(asked.piid), ANSWER)


# --- UDP -----------------------------------------------------------------------------------------------------------


class _Mailbox(asyncio.DatagramProtocol):
    def __init__(self, speaker: DatagramSpeaker) -> None:
        self._speaker = speaker

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._speaker.datagrams.append(data)
        self._speaker.hear(data)


class DatagramSpeaker(Speaker):
    """A terminal behind a NAT: `rebind` gives it another port."""

    def __init__(self, terminal: str = TERMINAL) -> None:
        super().__init__(terminal)
        self.datagrams: list[bytes] = []
        self.transport: Any = None
        self._to = 0

    @classmethod
    @asynccontextmanager
    async def on(cls, port: int, terminal: str = TERMINAL) -> AsyncIterator[DatagramSpeaker]:
        speaker = cls(terminal)
        speaker._to = port
        await speaker.rebind()
        try:
            yield speaker
        finally:
            speaker.transport.close()

    async def rebind(self) -> None:
        """Another socket, so another source; what comes for the old one is lost."""
        if self.transport is not None:
            self.transport.close()
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(
            lambda: _Mailbox(self), local_addr=(LOOPBACK, 0), remote_addr=(LOOPBACK, self._to)
        )

    @property
    def peer(self) -> str:
        host, port = self.transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def send(self, octets: bytes) -> None:
        self.transport.sendto(octets)


# --- serial --------------------------------------------------------------------------------------------------------


class PtySpeaker(Speaker):
    """A terminal on a pseudo-terminal whose other end is at `path`; it can be unplugged. `echo`: the line hears us."""

    def __init__(self, path: Path, terminal: str = TERMINAL) -> None:
        super().__init__(terminal)
        self.path = path
        self.echo = False
        self.cable = 0
        """Octets that have come from the gateway."""
        self._master = -1
        self._slave = -1

    def plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path.symlink_to(os.ttyname(self._slave))
        asyncio.get_running_loop().add_reader(self._master, self._ready)

    def unplug(self) -> None:
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            self.path.unlink()
            os.close(self._master)
            os.close(self._slave)
            self._master = -1

    def _ready(self) -> None:
        octets = os.read(self._master, 65_536)
        self.cable += len(octets)
        if self.echo:
            os.write(self._master, octets)
        self.hear(octets)

    def send(self, octets: bytes) -> None:
        assert os.write(self._master, octets) == len(octets)

    @property
    def device(self) -> int:
        """The descriptor by which the line's settings can be read."""
        return self._slave
