"""A real mosquitto for tests: on a free loopback port, with a given configuration, stopped by process id."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiomqtt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START_S = 10.0
STOP_S = 5.0
SETTINGS = """\
per_listener_settings false
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
log_dest stderr
"""


def find_mosquitto() -> str:
    """The program's path; raises `FileNotFoundError` where it is not installed."""
    path = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if path is None:
        raise FileNotFoundError("mosquitto is not installed: apt-get install mosquitto")
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker; its port stays the same over `stop` and `start`. `extra`: more lines of mosquitto.conf."""

    def __init__(self, directory: Path, extra: str = "", settings: str = SETTINGS) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._config = directory / f"mosquitto-{self.port}.conf"
        self._config.write_text(f"listener {self.port} {self.host}\nuser {getpass.getuser()}\n{settings}{extra}\n")
        self._log = directory / f"mosquitto-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return when it accepts connections."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [find_mosquitto(), "-c", str(self._config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection((self.host, self.port), timeout=1.0).close()
            except ConnectionRefusedError:
                time.sleep(0.01)  # no event tells that another process has begun to listen
            else:
                return
        self.stop()
        raise RuntimeError(f"mosquitto does not accept:\n{self._log.read_text()[-2000:]}")

    def stop(self, *, kill: bool = False) -> None:
        """SIGTERM (or SIGKILL), and wait for the end; nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    @asynccontextmanager
    async def collect(self, *topics: str) -> AsyncIterator[Collected]:
        """Subscribe with QoS 1 (default: everything) and gather messages for as long as the block runs."""
        async with aiomqtt.Client(self.host, self.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            for topic in topics or ("#",):
                await client.subscribe(topic, qos=1)
            collected = Collected()
            task = asyncio.create_task(collected.gather(client))
            try:
                yield collected
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class Collected:
    """Messages in the order of arrival; `until` waits for a condition on them."""

    def __init__(self) -> None:
        self.messages: list[aiomqtt.Message] = []
        self._arrived = asyncio.Event()

    async def gather(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self.messages.append(message)
            self._arrived.set()

    @property
    def payloads(self) -> list[bytes]:
        return [bytes(message.payload) for message in self.messages]

    async def until(self, condition: Callable[[list[aiomqtt.Message]], bool], seconds: float = 15.0) -> None:
        """Wait until `condition(messages)`; raises `TimeoutError` that says how many there are."""
        try:
            async with asyncio.timeout(seconds):
                while not condition(self.messages):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise TimeoutError(f"{len(self.messages)} messages after {seconds} s") from None

    async def count(self, number: int, seconds: float = 15.0) -> list[aiomqtt.Message]:
        """Wait for `number` messages; returns all that have arrived."""
        await self.until(lambda messages: len(messages) >= number, seconds)
        return self.messages
