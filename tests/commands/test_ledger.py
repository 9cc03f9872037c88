"""The ledger: what it keeps and how it is read, what a restart makes of it, and what happens without room."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from command_parts import (
    CLOSE_ARGS,
    NOON,
    READ_ARGS,
    TRIP_ARGS,
    NoonClock,
    Office,
    Scripted,
    office_of,
    port_of,
    serving,
)
from e2e_parts import metric, settings_of, until
from terminal_side import TERMINAL

from gateway.ledger import Record, forget, insert
from messages import Ack, Command, decode

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto


def listed(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`loadgate commands`."""
    whole = [sys.executable, "-m", "cli.main", "commands", "--data", str(path / "data"), *words]
    return subprocess.run(whole, capture_output=True, text=True, timeout=30, check=False)


async def test_every_status_that_is_told_is_in_the_ledger_and_can_be_listed(broker: Mosquitto, tmp_path: Path) -> None:
    """While the gateway runs, and after it."""
    async with (
        serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        read = await office.order("read", READ_ARGS)
        await office.final(read)
        terminal.refused[0x800082] = 3
        close = await office.order("close", CLOSE_ARGS)
        await office.final(close)
        waiting = await office.order("read", READ_ARGS, "000000000001")
        await office.status(waiting, "accepted")
        bad = await office.order("read", {})
        await office.final(bad)
        assert gateway.journal is not None
        rows = await gateway.journal.query("SELECT seq, id, terminal, ack FROM command_status ORDER BY seq")
        kept = [decode(row[3], Ack) for row in rows]
        assert kept == sorted(office.acks, key=lambda ack: ack.seq)
        assert [(row[0], row[1], row[2]) for row in rows] == [(a.seq, a.command_id, a.terminal) for a in kept]
        table = await asyncio.to_thread(listed, tmp_path)
        assert (table.returncode, table.stderr) == (0, "")
        for name, status in ((read, "failed"), (close, "failed"), (waiting, "accepted …"), (bad, "rejected")):
            (line,) = [line for line in table.stdout.splitlines() if f" {name} " in f" {line} "]
            assert status in line
    every = await asyncio.to_thread(listed, tmp_path, "--id", read)
    assert [word for line in every.stdout.splitlines() for word in line.split()[2:3]] == ["accepted", "sent", "failed"]
    objects = await asyncio.to_thread(listed, tmp_path, "--json", "--status", "failed", "--terminal", TERMINAL)
    told = [json.loads(line) for line in objects.stdout.splitlines()]
    assert {one["command_id"] for one in told} == {read, close}
    assert all(one["final"] and one["status"] == "failed" for one in told)
    one = await asyncio.to_thread(listed, tmp_path, "--json", "--limit", "1")
    assert len(one.stdout.splitlines()) == 1
    assert (await asyncio.to_thread(listed, tmp_path, "--status", "nowhere")).returncode == 2
    missing = await asyncio.to_thread(listed, tmp_path / "absent")
    assert missing.returncode == 1
    assert "there is no journal" in missing.stderr


def ack_of(command: Command, terminal: str, status: Any, at: int, seq: int, *, final: bool) -> Ack:
    return Ack(
        id=f"{seq:016x}",
        seq=seq,
        terminal=terminal,
        received_at=at,
        command_id=command.id,
        verb=command.verb,
        status=status,
        final=final,
        at=at,
    )


def read_command(number: int) -> Command:
    return Command(id=f"old-{number}", verb="read", args=READ_ARGS, issued_by="x", expires_at=NOON + 3_600_000)


async def test_old_commands_are_let_go_and_open_ones_never(broker: Mosquitto, tmp_path: Path) -> None:
    keep_s = 86_400
    settings = settings_of(tmp_path, broker.url, {"commands.keep_s": float(keep_s)})
    clock = NoonClock()
    async with serving(settings, clock) as gateway, office_of(broker) as office:
        old = await office.order("read", READ_ARGS, expires_at=NOON + 2000)
        lasting = await office.order("read", READ_ARGS, "000000000001", expires_at=NOON + 100 * keep_s * 1000)
        await office.status(lasting, "accepted")
        clock.forward(3)
        await office.final(old)
        clock.forward(keep_s - 10)
        young = await office.order("read", {})
        await office.final(young)
        journal = gateway.journal
        assert journal is not None

        async def ids() -> set[str]:
            found = await journal.query("SELECT DISTINCT id FROM command UNION SELECT id FROM command_status")
            return {row[0] for row in found}

        assert await ids() == {old, lasting, young}
        clock.forward(70)

        async with asyncio.timeout(10):
            while await ids() != {lasting, young}:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)


async def test_forgetting_takes_no_more_than_it_may_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway:
        journal = gateway.journal
        assert journal is not None
        for number in range(20):
            command = read_command(number)
            record = Record(command, TERMINAL, "query", None, "ended", "failed", 1, NOON - number, NOON)
            ack = ack_of(command, TERMINAL, "failed", NOON, 1000 + number, final=True)
            journal.append((), None, insert(record, ack))
        done = asyncio.Event()
        journal.append((), done.set, forget(NOON + 1, 5))
        await done.wait()
        counts = await journal.query("SELECT (SELECT count(*) FROM command), (SELECT count(*) FROM command_status)")
        assert counts == [(15, 15)]
        plan = await journal.query("EXPLAIN QUERY PLAN " + forget(0)[1][0], (NOON, NOON, 5))
        assert any("command_open (final=? AND accepted_at<?)" in row[3] for row in plan), "not the whole table"


async def test_ten_thousand_open_commands_are_taken_up_quickly(broker: Mosquitto, tmp_path: Path) -> None:
    many, terminals = 10_000, 500
    settings = settings_of(tmp_path, broker.url)
    async with serving(settings, NoonClock()) as gateway:
        journal = gateway.journal
        assert journal is not None
        done = asyncio.Event()
        for number in range(many):
            command, address = read_command(number), f"{number % terminals:012d}"
            record = Record(command, address, "query", None, "waiting", "accepted", 0, NOON, None)
            ack = ack_of(command, address, "accepted", NOON, many - number, final=False)
            journal.append((), done.set if number == many - 1 else None, insert(record, ack))
        await done.wait()
    begun = perf_counter()
    async with serving(settings, NoonClock()) as gateway, office_of(broker) as office:
        seconds = perf_counter() - begun
        sys.stdout.write(f"\nstart with {many} open commands: {seconds:.2f} s\n")
        assert metric(gateway, "loadgate_commands_open") == many
        async with Scripted(f"{0:012d}").on(port_of(gateway)) as terminal:
            await office.until(lambda: sum(ack.final for ack in office.acks) == many // terminals)
            assert len(terminal.heard) == many // terminals
            order = [int(ack.command_id.removeprefix("old-")) for ack in office.acks if ack.final]
            assert order == sorted(order, reverse=True), "in the order of their entry in the journal"


class Fullness:
    """Makes a journal full, and gives it room again."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self._limits = journal.limits

    def full(self) -> None:
        self._journal.limits = replace(self._limits, max_bytes=1)

    def room(self) -> None:
        self._journal.limits = self._limits


async def told_in_order(office: Office, name: str, statuses: list[str]) -> None:
    await office.final(name)
    assert office.statuses(name) == statuses
    assert [ack.status for ack in office.acks if ack.command_id == name] == statuses, "also as it came"


async def test_a_full_journal_takes_nothing_on_and_loses_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    """Commands stay with the broker; what happens to those under way is told later, in order."""
    async with (
        serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        fullness = Fullness(gateway.journal)
        terminal.hold = True
        under_way = await office.order("close", CLOSE_ARGS, verify=False)
        behind = await office.order("read", READ_ARGS)
        await office.status(under_way, "sent")
        await office.status(behind, "accepted")
        fullness.full()
        kept_out = [await office.order("read", READ_ARGS) for _ in range(3)]
        await office.cancel("nothing-of-that-name")
        await until(lambda: metric(gateway, "loadgate_downlink_deferred_total") >= 2)
        terminal.release()
        await terminal.asked("05 01 00 40 01 02 00")
        await until(lambda: metric(gateway, "loadgate_commands_untold") >= 3)
        assert office.statuses(under_way) == ["accepted", "sent"]
        assert all(office.statuses(name) == [] for name in kept_out)
        fullness.room()
        await told_in_order(office, under_way, ["accepted", "sent", "succeeded"])
        await told_in_order(office, behind, ["accepted", "sent", "failed"])
        for name in kept_out:
            await told_in_order(office, name, ["accepted", "sent", "failed"])
        assert (terminal.count("07"), terminal.count("05")) == (1, 4)
        assert metric(gateway, "loadgate_commands_untold") == 0


async def test_a_control_is_not_sent_before_there_is_room_nor_after_its_time(broker: Mosquitto, tmp_path: Path) -> None:
    """Its `sending` cannot be stored: it waits, and is looked at once more when it could be."""
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        fullness = Fullness(gateway.journal)
        assert gateway.desk is not None
        desk = gateway.desk
        for end in ("room", "expiry", "switch"):
            terminal.heard.clear()
            terminal.hold = True
            name = await office.order("trip", TRIP_ARGS, verify=False, expires_at=clock.wall_ms + 60_000)
            await terminal.asked("05 01 00 80 01 02 00")
            fullness.full()
            terminal.release()
            await until(lambda: metric(gateway, "loadgate_commands_untold") == 1)
            if end == "expiry":
                clock.forward(61)
                assert terminal.trips == 0
            if end == "switch":
                desk.commands.switch(False)
            fullness.room()
            last = await office.final(name)
            expected = {"room": "succeeded", "expiry": "expired", "switch": "rejected"}[end]
            assert last.status == expected
            assert terminal.trips == (end == "room")
            assert len(desk.interlocks.tripped) == 1, "what did not go out does not count"
            desk.commands.switch(True)


async def test_the_same_id_again_without_room_is_not_lost(broker: Mosquitto, tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway, office_of(broker) as office:
        fullness = Fullness(gateway.journal)
        command = office.command("read", READ_ARGS)
        await office.send(command)
        await office.status(command.id, "accepted")
        fullness.full()
        await office.send(command)
        await until(lambda: metric(gateway, "loadgate_downlink_deferred_total") >= 1)
        assert metric(gateway, "loadgate_commands_untold") == 0
        fullness.room()
        await office.until(lambda: Counter(ack.status for ack in office.acks) == {"accepted": 2})
        assert len({ack.id for ack in office.acks}) == 1
