"""The bounds that fire against a whole gateway: what is dropped, paused or refused, what is not, and what tells."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e_parts import Node, Peer, consuming, metric, running, settings_of, until
from terminal_side import dated, login, octets_report

from gateway.journal_store import Row, Store
from wire698.frame import Address, build_frame

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

GARBAGE_MB = 8
TERMINALS = [f"{number:012d}" for number in range(1, 7)]


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class HeldCommits:
    """Commits of rows wait while `gate` is clear."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        commit = Store.commit

        def held(store: Store, rows: Sequence[Row], **how: Any) -> int:
            if rows and not self.gate.is_set():
                self.waiting.set()
                assert self.gate.wait(30)
            return commit(store, rows, **how)

        patch.setattr(Store, "commit", held)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldCommits]:
    held = HeldCommits(monkeypatch)
    yield held
    held.gate.set()


async def test_endless_garbage_and_oversized_lengths_keep_no_memory(
    broker: Mosquitto, make_node: Callable[..., Node]
) -> None:
    """Four kinds of endless garbage at once, after a login or without; an honest terminal is served meanwhile."""
    node = make_node(url=broker.url)
    await node.start()
    long = bytearray(build_frame(0x83, Address.of("112233445566"), 0x10, b"\x00" * 2000))
    long[1:3] = b"\xff\x3f"
    kinds = [b"\x00" * 4096, b"\x68" * 4096, os.urandom(4096), bytes(long)]
    async with consuming(broker) as consumer, AsyncExitStack() as stack:
        honest = await stack.enter_async_context(Peer.on(node.port, "000000000099"))
        await honest.ask(login(), 0x81)
        floods = [await stack.enter_async_context(Peer.on(node.port, terminal)) for terminal in TERMINALS[:4]]
        for flood in floods[2:]:
            await flood.ask(login(), 0x81)
        before = rss_mb(node.pid)

        async def flow(peer: Peer, kind: bytes) -> None:
            for _ in range(GARBAGE_MB * 1_000_000 // 4 // len(kind)):
                peer.send(kind)
                await peer.drained()

        async with asyncio.TaskGroup() as tasks:
            flows = [tasks.create_task(flow(*pair)) for pair in zip(floods, kinds, strict=True)]
            told = 0
            while not all(task.done() for task in flows):
                await honest.ask(dated(energy=told))
                told += 1
        sent = sum(GARBAGE_MB * 1_000_000 // 4 // len(kind) * len(kind) for kind in kinds)
        async with asyncio.timeout(20):
            # What the framer holds back in hope of a frame is less than one frame a link.
            while await node.metric("loadgate_frames_garbage_octets_total") < sent - 4 * 16_400:
                await honest.ask(dated(energy=told))
                told += 1
        assert await node.metric("loadgate_frames_oversized_total") > 0
        assert await node.metric("loadgate_frames_header_errors_total") > 0
        assert rss_mb(node.pid) - before < 20
        # A flooder that comes to its senses is served: after what it still seems to owe of a frame.
        floods[3].send(b"\x00" * 16_400)
        assert (await floods[3].ask(dated(piid=5))).piid == 5
        await consumer.until(lambda: len(consumer.readings) == told + 1)


async def test_half_a_frame_and_silence(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url, {"protocol.fragment_timeout_s": 0.1})
    async with running(settings) as gateway, Peer.on(gateway.channels[0].port) as peer:
        await peer.ask(login(), 0x81)
        peer.send(peer.octets(dated())[:-5])
        await until(lambda: metric(gateway, "loadgate_tcp_half_frames_total") == 1)
        assert int((await peer.ask(dated(piid=6))).piid) == 6
        assert metric(gateway, "loadgate_frames_garbage_octets_total") == len(peer.octets(dated())) - 5


async def test_unsettled_reports_of_a_link_pause_it_alone(
    broker: Mosquitto, tmp_path: Path, commits: HeldCommits
) -> None:
    settings = settings_of(tmp_path, broker.url, {"channels.0.max_unsettled": 8})
    async with running(settings) as gateway, consuming(broker) as consumer:
        port = gateway.channels[0].port
        async with Peer.on(port) as busy, Peer.on(port, "000000000002") as other:
            await busy.ask(login(), 0x81)
            await other.ask(login(), 0x81)
            commits.gate.clear()
            said = 0
            while not metric(gateway, "loadgate_link_holds_total"):
                busy.say(dated(piid=said % 64, energy=said))
                said += 1
                await busy.drained()
                await asyncio.sleep(0)
            assert said >= 8
            octets = metric(gateway, "loadgate_frames_octets_in_total")
            for more in range(100):
                busy.say(dated(piid=(said + more) % 64, energy=said + more))
            await busy.drained()
            heartbeat = len(other.octets(login(kind=1), 0x81))
            for _ in range(5):
                await other.ask(login(kind=1), 0x81)
            # The other link was read meanwhile, this one was not.
            assert metric(gateway, "loadgate_frames_octets_in_total") == octets + 5 * heartbeat
            assert metric(gateway, "loadgate_link_holds_total") == 1
            commits.gate.set()
            for _ in range(said + 100):
                await busy.answer()
            await consumer.until(lambda: len(consumer.readings) == said + 100)
            assert consumer.tally.repeated == 0


async def test_the_journal_queue_pauses_all_links(broker: Mosquitto, tmp_path: Path, commits: HeldCommits) -> None:
    settings = settings_of(tmp_path, broker.url, {"journal.queue_rows": 100})
    async with running(settings) as gateway, consuming(broker) as consumer, AsyncExitStack() as stack:
        port = gateway.channels[0].port
        peers = [await stack.enter_async_context(Peer.on(port, terminal)) for terminal in TERMINALS]
        for peer in peers:
            await peer.ask(login(), 0x81)
        commits.gate.clear()
        assert gateway._ready() == []
        said = 0
        while not metric(gateway, "loadgate_link_pauses_total"):
            peers[said % 5].say(dated(piid=said % 64, energy=said))
            said += 1
            await asyncio.sleep(0)
        assert metric(gateway, "loadgate_journal_queue_rows") >= 100
        assert gateway._ready() == ["the journal is behind"]
        octets = metric(gateway, "loadgate_frames_octets_in_total")
        for number, peer in enumerate(peers):
            peer.say(dated(energy=10_000 + number))
            await peer.drained()
        # A terminal that comes now waits as well.
        late = await stack.enter_async_context(Peer.on(port, "000000000088"))
        late.say(login(), 0x81)
        await until(lambda: metric(gateway, "loadgate_tcp_connections") == 7)
        assert metric(gateway, "loadgate_frames_octets_in_total") == octets
        commits.gate.set()
        await late.answer()
        answers = [0] * len(peers)
        for number in range(said):
            await peers[number % 5].answer()
            answers[number % 5] += 1
        for peer in peers:
            await peer.answer()
        await consumer.until(lambda: len(consumer.readings) == said + 6)
        assert gateway._ready() == []
        assert metric(gateway, "loadgate_link_pauses_total") == 1
        assert metric(gateway, "loadgate_journal_refused_total") == 0


async def test_the_journal_is_full_on_disk(broker: Mosquitto, tmp_path: Path) -> None:
    """No broker: rows cannot go. Terminals are no longer acknowledged, nothing is deleted, heartbeats are answered;
    when the broker comes, rows are published, and terminals are acknowledged again.
    """
    broker.stop()
    settings = settings_of(tmp_path, broker.url, {"journal.max_bytes": 1 << 20, "journal.queue_bytes": 1 << 20})
    async with running(settings) as gateway, Peer.on(gateway.channels[0].port) as peer:
        await peer.ask(login(), 0x81)

        def said(number: int) -> Any:
            return octets_report(number % 64, number.to_bytes(4) + b"\x55" * 4000)

        stored = 0
        with contextlib.suppress(TimeoutError):
            while True:
                await peer.ask(said(stored), seconds=0.5)
                stored += 1
        assert stored > 50
        assert metric(gateway, "loadgate_journal_full") == 1
        assert metric(gateway, "loadgate_journal_refused_total") == 1
        assert gateway._ready() == ["the journal has no room"]
        # Neither its repetition nor a new report is acknowledged; the link lives.
        peer.say(said(stored))
        peer.say(said(stored + 1))
        assert type(await peer.ask(login(kind=1), 0x81)).__name__ == "LinkResponse"
        assert metric(gateway, "loadgate_journal_refused_total") == 3
        assert metric(gateway, "loadgate_link_pauses_total") == 0
        with contextlib.closing(sqlite3.connect(settings.journal_path)) as db:
            rows = db.execute("SELECT count(*), min(seq), max(seq) FROM row WHERE topic LIKE '%/reading'").fetchone()
        assert rows[0] == stored
        broker.start()
        async with consuming(broker) as consumer:
            await until(lambda: metric(gateway, "loadgate_journal_full") == 0)
            assert metric(gateway, "loadgate_journal_purged_early_total") > 0
            assert type(await peer.ask(said(stored))).__name__ == "ReportResponseTransData"
            await consumer.until(lambda: consumer.readings)
        assert gateway._ready() == []
        assert metric(gateway, "loadgate_uplink_acknowledged_total") >= stored + 2
