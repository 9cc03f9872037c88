"""The end of a wire: a serial device, a pseudo-terminal of our own, or a TCP-to-serial server.

Octets that the other side does not take wait, up to a bound; what is beyond it is lost, as on any line.
"""

from __future__ import annotations

import asyncio
import os
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

_SOCKET: Final = "socket://"
_READ: Final = 4096
_WAITING: Final = 65_536
"""Octets that may wait to be taken."""
_CONNECT_S: Final = 10.0


def check_place(place: str) -> None:
    """Raises ValueError for what is no place of a wire."""
    if place.startswith(_SOCKET):
        _host_and_port(place)
    elif "://" in place or not place:
        raise ValueError(f"{place}: a device, a path for a pseudo-terminal, or socket://HOST:PORT is wanted")


def _host_and_port(place: str) -> tuple[str, int]:
    host, colon, port = place.removeprefix(_SOCKET).rstrip("/").rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{place}: socket://HOST:PORT is wanted")
    return host.strip("[]"), int(port)


class Wire:
    """One wire. `received` is called with octets, `ended` once when the other side is gone.

    place: `socket://HOST:PORT`; a device, which is set to 8E1 and the bit rate; or a path where nothing is, which
    becomes a link to a pseudo-terminal as long as the wire is open. Raises ValueError for another.
    """

    def __init__(self, place: str, bit_rate: int, received: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        check_place(place)
        self.place = place
        self.lost = 0
        """Octets that nobody took."""
        self._bit_rate = bit_rate
        self._received = received
        self._ended = ended
        self._fd = -1
        self._far = -1
        """The other end of our own pseudo-terminal: while it is open, whoever uses it may come and go."""
        self._link: Path | None = None
        self._socket: asyncio.Transport | None = None
        self._waiting = bytearray()

    @property
    def is_open(self) -> bool:
        return self._fd >= 0 or self._socket is not None

    async def open(self) -> None:
        """Open it. Raises OSError, TimeoutError."""
        if not self.place.startswith(_SOCKET):
            self._open_device()
            return
        host, port = _host_and_port(self.place)
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().create_connection(lambda: _Stream(self), host, port)

    def _open_device(self) -> None:
        path = Path(self.place)
        if path.exists():
            self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                _set(self._fd, self._bit_rate)
            except termios.error as error:
                self.close()
                raise OSError(f"{self.place}: {error.args[-1]}") from None
        else:
            self._fd, self._far = os.openpty()
            _set(self._far, self._bit_rate)
            os.set_blocking(self._fd, False)
            try:
                if path.is_symlink():  # it leads nowhere: whoever made it has not ended well
                    path.unlink()
                path.symlink_to(os.ttyname(self._far))
            except OSError as error:
                self.close()
                raise OSError(f"{self.place}: no device, and no link can be made there: {error.strerror}") from None
            self._link = path
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def write(self, octets: bytes) -> None:
        """Send octets."""
        if self._socket is not None:
            if self._socket.get_write_buffer_size() + len(octets) > _WAITING:
                self.lost += len(octets)
            else:
                self._socket.write(octets)
        elif self._fd >= 0:
            before = len(self._waiting)
            room = max(0, _WAITING - before)
            self.lost += max(0, len(octets) - room)
            self._waiting += octets[:room]
            if not before:
                self._writable()

    def close(self) -> None:
        """Close it; `ended` is not called."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._fd >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._far >= 0:
            os.close(self._far)
            self._far = -1
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            self._link = None
        self._waiting.clear()

    def unplug(self) -> None:
        """As if the other side were gone."""
        if self.is_open:
            self.close()
            self._ended()

    def _readable(self) -> None:
        try:
            octets = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if octets:
            self._received(octets)
        else:
            self.unplug()

    def _writable(self) -> None:
        try:
            with suppress(BlockingIOError):
                del self._waiting[: os.write(self._fd, self._waiting)]
        except OSError:
            self.unplug()
            return
        loop = asyncio.get_running_loop()
        if self._waiting:
            loop.add_writer(self._fd, self._writable)
        else:
            loop.remove_writer(self._fd)

    # --- of a stream ---

    def connected(self, transport: asyncio.Transport) -> None:
        """The server is there."""
        self._socket = transport

    def heard(self, octets: bytes) -> None:
        """The server gives octets."""
        if self._socket is not None:
            self._received(octets)

    def disconnected(self) -> None:
        """The server is gone."""
        self.unplug()


class _Stream(asyncio.Protocol):
    """The connection to a TCP-to-serial server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire.connected(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._wire.heard(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._wire.disconnected()


def _set(descriptor: int, bit_rate: int) -> None:
    """Octets as they are, 8E1. Raises termios.error, and OSError for a rate that the system does not know."""
    speed = getattr(termios, f"B{bit_rate}", None)
    if speed is None:
        raise OSError(f"no line has {bit_rate} bit/s")
    tty.setraw(descriptor)
    attributes: list[Any] = termios.tcgetattr(descriptor)
    attributes[2] = attributes[2] & ~(termios.PARODD | termios.CSTOPB) | termios.PARENB | termios.CLOCAL | termios.CREAD
    attributes[4] = attributes[5] = speed
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
