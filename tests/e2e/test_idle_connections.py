"""10,000 connections that never log in, against a gateway as a process: all closed in time, honest terminals served."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_parts import LOOPBACK, Node, Peer, consuming
from terminal_side import dated, login

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

log = logging.getLogger(__name__)

IDLE = 10_000
LOGIN_TIMEOUT_S = 4.0
SOURCES = ("127.0.0.2", "127.0.0.3")
MOST_RSS_MB = 160


@contextmanager
def many_files(number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        pytest.skip(f"this machine allows {hard} open files, {number} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_all(port: int) -> list[socket.socket]:
    idle = []
    for number in range(IDLE):
        sock = socket.socket()
        sock.bind((SOURCES[number % len(SOURCES)], 0))
        sock.connect((LOOPBACK, port))
        idle.append(sock)
    return idle


def wait_all_closed(idle: list[socket.socket], seconds: float) -> int:
    """Wait until the other side has closed them; returns how many it has not."""
    poll = select.epoll(len(idle))
    left = {sock.fileno() for sock in idle}
    for number in left:
        poll.register(number, select.EPOLLIN)
    give_up = time.monotonic() + seconds
    with poll:
        while left and time.monotonic() < give_up:
            for number, _ in poll.poll(0.2):
                poll.unregister(number)
                left.discard(number)
    return len(left)


@pytest.mark.slow
async def test_ten_thousand_that_never_log_in(broker: Mosquitto, make_node: Callable[..., Node]) -> None:
    node = make_node(url=broker.url, channels__0__login_timeout_s=LOGIN_TIMEOUT_S)
    idle: list[socket.socket] = []
    latencies: list[float] = []

    async def serve(peer: Peer, stop: asyncio.Event) -> int:
        """An honest terminal's day: a report each time the one before is acknowledged."""
        told = 0
        while not stop.is_set():
            began = time.monotonic()
            await peer.ask(dated(energy=told))
            latencies.append(time.monotonic() - began)
            told += 1
        return told

    with many_files(IDLE + 500):
        await node.start()
        quiet_mb = rss_mb(node.pid)
        try:
            async with consuming(broker) as consumer, Peer.on(node.port) as honest:
                await honest.ask(login(), 0x81)
                stop = asyncio.Event()
                serving = asyncio.create_task(serve(honest, stop))
                began = time.monotonic()
                idle += await asyncio.to_thread(open_all, node.port)
                opened_s = time.monotonic() - began
                async with Peer.on(node.port, "000000000077") as late:
                    # Behind the storm in the queue, and served in its turn.
                    await late.ask(login(), 0x81, seconds=LOGIN_TIMEOUT_S + 6)
                    late_s = time.monotonic() - began
                    peak = await node.metric("loadgate_tcp_connections", channel="tcp")
                    full_mb = rss_mb(node.pid)
                    left = await asyncio.to_thread(wait_all_closed, idle, LOGIN_TIMEOUT_S + 10)
                    closed_s = time.monotonic() - began
                    await late.ask(dated())
                stop.set()
                told = await serving
                assert left == 0
                assert await node.metric("loadgate_tcp_login_timeouts_total") == IDLE
                assert await node.metric("loadgate_tcp_accepted_total") == IDLE + 2
                assert await node.metric("loadgate_tcp_deferred_total") > 0
                assert await node.metric("loadgate_tcp_waiting") == 0
                assert await node.metric("loadgate_tcp_refused_total") == 0
                await consumer.until(lambda: len(consumer.readings) == told + 1)
        finally:
            for sock in idle:
                sock.close()
    assert peak > 0.9 * IDLE
    assert full_mb < MOST_RSS_MB
    assert told > 100
    assert max(latencies) < 2.0
    log.info(
        "opened in %.1f s, late login after %.1f s, all closed after %.1f s; %.0f connections at the peak, "
        "RSS %.0f -> %.0f MB; the honest terminal said %d reports, slowest acknowledgement %.3f s",
        *(opened_s, late_s, closed_s, peak, quiet_mb, full_mb, told, max(latencies)),
    )
