"""kill -9 in each state of a command: what is told after the restart is true, and no control goes out twice.

The terminal's own record is the judge.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any

import aiomqtt
from command_parts import ALARM_STATE, COMMAND_STATE, READ_ARGS, RELAY_OUTPUT, Office, Scripted, office_of, rounds
from e2e_parts import Node, until

from gateway.journal_store import connect_reader

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

MakeNode = Callable[..., Node]
TRIP_NOW: dict[str, Any] = {"relays": [{"relay": 1, "alarm_delay_min": 0}]}
READ = "05 01 00 40 01 02 00"
SET_CLOCK = "06 01 00 40 00 02 00"


def tripped(terminal: Scripted) -> None:
    """What 8000 says when relay 1 is open."""
    terminal.values.update({RELAY_OUTPUT: rounds(0x80), COMMAND_STATE: rounds(0x80), ALARM_STATE: rounds(0)})


async def up(node: Node) -> None:
    """Start it; it has its subscriptions."""
    await node.start()
    while await node.metric("loadgate_downlink_connected") < 1:
        pass  # each look is a request of its own


def in_ledger(node: Node, command_id: str) -> str:
    """The status of a command that is on the disk."""
    db = connect_reader(node.settings.journal_path)
    try:
        return str(db.execute("SELECT status FROM command WHERE id = ?", (command_id,)).fetchone()[0])
    finally:
        db.close()


def on_time(office: Office) -> Office:
    """The node's clock is the real one."""
    office.now = int(time() * 1000)
    return office


async def test_killed_while_it_waits(broker: Mosquitto, make_node: MakeNode) -> None:
    """Accepted: it goes out after the restart, once; what has expired meanwhile does not."""
    node, terminal = make_node(url=broker.url), Scripted()
    tripped(terminal)
    await up(node)
    async with office_of(broker) as office:
        name = await on_time(office).order("trip", TRIP_NOW)
        short = await office.order("read", READ_ARGS, expires_at=office.now + 1500)
        await office.status(short, "accepted")
        await node.kill()
        assert office.statuses(name) == ["accepted"]
        await up(node)
        await office.final(short)
        async with terminal.on(node.port):
            await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "succeeded", "verified"]
        assert office.statuses(short) == ["accepted", "expired"]
        assert (terminal.trips, terminal.count(READ)) == (1, 0)


async def test_killed_when_it_may_be_out(broker: Mosquitto, make_node: MakeNode) -> None:
    """`sending` is on the disk and nobody knows more: a control is unknown, looked at, and not sent."""
    node, terminal = make_node(url=broker.url), Scripted()
    tripped(terminal)
    await up(node)
    async with office_of(broker) as office:
        trip = await on_time(office).order("trip", TRIP_NOW)
        clock = await office.order("set_clock")
        read = await office.order("read", READ_ARGS)
        await office.status(read, "accepted")
        await node.kill()
        with sqlite3.connect(node.settings.journal_path) as db:
            assert db.execute("UPDATE command SET stage = 'sending' WHERE stage = 'waiting'").rowcount == 3
        db.close()
        await up(node)
        async with terminal.on(node.port):
            for name in (trip, clock, read):
                await office.final(name)
        assert office.statuses(trip) == ["accepted", "unknown", "verified"]
        assert office.statuses(clock) == ["accepted", "unknown"]
        assert office.statuses(read) == ["accepted", "sent", "failed"]
        assert (terminal.trips, terminal.count(SET_CLOCK), terminal.count(READ)) == (0, 0, 1)


async def test_killed_when_it_is_sent(broker: Mosquitto, make_node: MakeNode) -> None:
    """A control becomes unknown, then what is read back; configuration unknown; a query is sent again."""
    node = make_node(url=broker.url)
    trips, clocks, reads = Scripted("000000000001"), Scripted("000000000002"), Scripted("000000000003")
    await up(node)
    async with office_of(broker) as office:
        on_time(office)
        names = {}
        orders: list[tuple[Scripted, str, dict[str, Any]]] = [
            (trips, "trip", TRIP_NOW),
            (clocks, "set_clock", {}),
            (reads, "read", READ_ARGS),
        ]
        for terminal, verb, args in orders:
            await terminal.connect(node.port)
            terminal.hold = verb != "trip"
            names[verb] = await office.order(verb, args, terminal.terminal)
            if verb == "trip":
                await terminal.asked("05 01 00 80 01 02 00")
                terminal.hold = True
            await office.status(names[verb], "sent")
        await node.kill()
        for terminal, _, _ in orders:
            await terminal.disconnect()
            terminal.hold = False
        tripped(trips)
        await up(node)
        for terminal, verb, _ in orders:
            await terminal.connect(node.port)
            await office.final(names[verb])
            await terminal.disconnect()
        assert office.statuses(names["trip"]) == ["accepted", "sent", "unknown", "verified"]
        assert office.statuses(names["set_clock"]) == ["accepted", "sent", "unknown"]
        assert office.statuses(names["read"]) == ["accepted", "sent", "sent", "failed"]
        assert (trips.trips, clocks.count(SET_CLOCK), reads.count(READ)) == (1, 1, 2)
        unknown = next(ack for ack in office.of(names["trip"]) if ack.status == "unknown")
        assert unknown.error is not None
        assert unknown.error.name == "restarted"


async def test_killed_when_it_is_answered_and_the_broker_is_away(broker: Mosquitto, make_node: MakeNode) -> None:
    """The answer is in the journal: it is published after the restart, and nothing is asked again."""
    node, terminal = make_node(url=broker.url), Scripted()
    await up(node)
    with suppress(aiomqtt.MqttError):
        async with office_of(broker) as office:
            await terminal.connect(node.port)
            terminal.hold = True
            close = await on_time(office).order("close", {"relays": [{"relay": 1}]}, verify=False)
            await office.status(close, "sent")
            assert office.statuses(close) == ["accepted", "sent"]
            broker.stop(kill=True)
    terminal.release()
    await until(lambda: in_ledger(node, close) == "succeeded")
    await node.kill()
    await terminal.disconnect()
    broker.start()
    async with office_of(broker) as office:
        await up(node)
        async with terminal.on(node.port):
            await office.final(close)
            read = await on_time(office).order("read", READ_ARGS, id="next")
            await office.final(read)
        assert office.statuses(close)[-1] == "succeeded"
        assert [ack.final for ack in office.of(close)].count(True) == 1
        assert terminal.count("07 01 00 80 00 82") == 1


async def test_killed_while_its_effect_is_looked_for(broker: Mosquitto, make_node: MakeNode) -> None:
    """Succeeded, not verified yet: it is looked at again, and not sent again."""
    node, terminal = make_node(url=broker.url), Scripted()
    await up(node)
    async with office_of(broker) as office:
        await terminal.connect(node.port)
        trip = await on_time(office).order("trip", TRIP_NOW)
        await office.status(trip, "succeeded")
        await node.kill()
        await terminal.disconnect()
        tripped(terminal)
        await up(node)
        async with terminal.on(node.port):
            await office.final(trip)
        assert office.statuses(trip) == ["accepted", "sent", "succeeded", "verified"]
        assert terminal.trips == 1


async def test_killed_before_the_broker_was_told(broker: Mosquitto, make_node: MakeNode) -> None:
    """A command is acknowledged to the broker only when it is stored: what was not comes again."""
    node = make_node(url=broker.url)
    await up(node)
    async with office_of(broker) as office:
        first = await on_time(office).order("read", READ_ARGS)
        await office.status(first, "accepted")
        await node.kill()
        names = [first, *[await office.order("read", READ_ARGS) for _ in range(20)]]
        await up(node)
        for name in names:
            await office.status(name, "accepted")
        await node.kill()
        await up(node)
        async with Scripted().on(node.port) as terminal:
            for name in names:
                await office.final(name)
                assert office.statuses(name) == ["accepted", "sent", "failed"]
            assert terminal.count(READ) == 21
