"""An RFC 2217 server: Telnet's COM-PORT-OPTION around a line, with a terminal behind it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from channel_side import Speaker
from e2e_parts import LOOPBACK

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240
BINARY, SUPPRESS, COM_PORT = 0, 3, 44
NAMES = {1: "bit_rate", 2: "data_bits", 3: "parity", 4: "stop_bits"}


class Rfc2217Server(Speaker):
    """Takes one client at a time; `settings` has what it asked of the line."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, int] = {}
        self.port = 0
        self.deaf = False
        """Orders are no longer answered."""
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        assert self._server is not None
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    def send(self, octets: bytes) -> None:
        assert self._writer is not None
        self._writer.write(octets.replace(b"\xff", b"\xff\xff"))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._writers.append(writer)
        try:
            while True:
                octet = (await reader.readexactly(1))[0]
                if octet != IAC:
                    self.hear(bytes((octet,)))
                    continue
                verb = (await reader.readexactly(1))[0]
                if verb == IAC:
                    self.hear(b"\xff")
                elif verb in (WILL, DO):
                    option = (await reader.readexactly(1))[0]
                    known = option in (BINARY, SUPPRESS, COM_PORT)
                    writer.write(bytes((IAC, {WILL: (DONT, DO), DO: (WONT, WILL)}[verb][known], option)))
                elif verb in (WONT, DONT):
                    await reader.readexactly(1)
                elif verb == SB:
                    said = self._ordered(await self._subnegotiation(reader))
                    writer.write(b"" if self.deaf else said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _subnegotiation(reader: asyncio.StreamReader) -> bytes:
        """What stands between SB and SE."""
        body = bytearray()
        while True:
            octet = (await reader.readexactly(1))[0]
            if octet == IAC:
                octet = (await reader.readexactly(1))[0]
                if octet == SE:
                    return bytes(body)
            body.append(octet)

    def _ordered(self, body: bytes) -> bytes:
        """Note what the client asks of the line, and say that it is so."""
        option, command, value = body[0], body[1], body[2:]
        if option != COM_PORT:
            return b""
        if command in NAMES:
            self.settings[NAMES[command]] = int.from_bytes(value)
        said = bytes((COM_PORT, command + 100)) + value
        return bytes((IAC, SB)) + said.replace(b"\xff", b"\xff\xff") + bytes((IAC, SE))
