"""Interlocks: what keeps a control from doing harm, each with its own error name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_parts import (
    CLOSE_ARGS,
    GUARANTEE,
    READ_ARGS,
    TRIP_ARGS,
    NoonClock,
    Office,
    Scripted,
    enum,
    office_of,
    port_of,
    serving,
)
from e2e_parts import settings_of

from messages import Ack

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

MANY = [f"{number:012d}" for number in range(1, 7)]


def error_of(ack: Ack) -> tuple[str, str]:
    return ack.status, ack.error.name if ack.error is not None else ""


@pytest.mark.parametrize(
    ("approvals", "enough"),
    [
        ([], False),
        (["chief.li"], False),
        (["chief.li", "chief.li"], False),
        (["chief.li", " chief.li "], False),
        (["chief.li", "duty.wang"], False),  # who gives the order does not approve it
        (["chief.li", ""], False),
        (["chief.li", "safety.zhao"], True),
        (["duty.wang", "chief.li", "safety.zhao"], True),
    ],
)
async def test_a_trip_needs_distinct_approvals_by_others(
    broker: Mosquitto, tmp_path: Path, approvals: list[str], enough: bool
) -> None:
    settings = settings_of(tmp_path, broker.url, {"interlocks.approvals": 2})
    async with (
        serving(settings, NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        name = await office.order("trip", TRIP_ARGS, approvals=approvals, verify=False)
        assert error_of(await office.final(name)) == (("succeeded", "") if enough else ("rejected", "approvals"))
        assert terminal.trips == enough
        close = await office.order("close", CLOSE_ARGS, approvals=[], verify=False)
        assert (await office.final(close)).status == "succeeded", "closing needs none"


@pytest.mark.parametrize(("state", "passes"), [(0, True), (1, False), (2, False), (None, True)])
async def test_no_trip_under_power_guarantee(
    broker: Mosquitto, tmp_path: Path, state: int | None, passes: bool
) -> None:
    """Ordered (1) or automatic (2). Where the terminal does not tell, it is the terminal that refuses."""
    async with (
        serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        if state is None:
            del terminal.values[GUARANTEE]
        else:
            terminal.values[GUARANTEE] = enum(state)
        name = await office.order("trip", TRIP_ARGS, verify=False)
        assert error_of(await office.final(name)) == (("succeeded", "") if passes else ("rejected", "power_guarantee"))
        assert (terminal.trips, terminal.count("05 01 00 80 01 02 00")) == (int(passes), 1)


async def test_guarantee_is_not_asked_for_where_the_settings_say_so(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url, {"interlocks.guarantee": False})
    async with (
        serving(settings, NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        terminal.values[GUARANTEE] = enum(1)
        await office.final(await office.order("trip", TRIP_ARGS, verify=False))
        assert terminal.said_to == ["07 01 00 80 00 81 00 01 01 02 04 51 F2 05 02 01 11 01 12 00 00 03 00 00"]


async def all_trip(office: Office, terminals: list[str]) -> dict[str, tuple[str, str]]:
    """A trip for each, given at once; what came of it."""
    names = {terminal: await office.order("trip", TRIP_ARGS, terminal, verify=False) for terminal in terminals}
    return {terminal: error_of(await office.final(name)) for terminal, name in names.items()}


async def test_no_more_trips_a_minute_than_allowed_however_many_are_under_way(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """All of them ask for power guarantee at the same time; a second trip of one terminal is not another terminal."""
    settings = settings_of(tmp_path, broker.url, {"interlocks.trips_per_minute": 3})
    clock = NoonClock()
    async with serving(settings, clock) as gateway, office_of(broker) as office:
        terminals = [Scripted(name) for name in MANY]
        for terminal in terminals:
            terminal.hold = True
            await terminal.connect(port_of(gateway))
        names = [await office.order("trip", TRIP_ARGS, name, verify=False) for name in MANY]
        for terminal in terminals:
            await terminal.asked("05 01 00 80 01 02 00")
        for terminal in terminals:
            terminal.release()
        came = [error_of(await office.final(name)) for name in names]
        assert sorted(came) == [("rejected", "trip_rate")] * 3 + [("succeeded", "")] * 3
        assert sum(terminal.trips for terminal in terminals) == 3
        tripped = MANY[came.index(("succeeded", ""))]
        assert await all_trip(office, [tripped]) == {tripped: ("succeeded", "")}
        clock.forward(61)
        office.now = clock.wall_ms
        rejected = MANY[came.index(("rejected", "trip_rate"))]
        assert await all_trip(office, [rejected]) == {rejected: ("succeeded", "")}
        for terminal in terminals:
            await terminal.disconnect()


async def test_no_more_trips_in_force_than_allowed_also_after_a_restart(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url, {"interlocks.trips_in_force": 2})
    one, two, three = MANY[:3]
    async with office_of(broker) as office:
        async with serving(settings, NoonClock()) as gateway:
            port = port_of(gateway)
            terminals = {name: Scripted(name) for name in MANY[:3]}
            for terminal in terminals.values():
                await terminal.connect(port)
            terminals[three].refused[0x800081] = 3
            assert (await all_trip(office, [three]))[three] == ("failed", "read_write_refused")
            terminals[three].refused.clear()
            assert set((await all_trip(office, [one, two])).values()) == {("succeeded", "")}
            assert (await all_trip(office, [three]))[three] == ("rejected", "trips_in_force")
            assert (await all_trip(office, [one]))[one] == ("succeeded", ""), "one that is tripped is not another one"
            for terminal in terminals.values():
                await terminal.disconnect()
        async with serving(settings, NoonClock()) as gateway:
            port = port_of(gateway)
            terminals = {name: Scripted(name) for name in MANY[:3]}
            for terminal in terminals.values():
                await terminal.connect(port)
            assert (await all_trip(office, [three]))[three] == ("rejected", "trips_in_force")
            await office.final(await office.order("close", CLOSE_ARGS, one, verify=False))
            assert (await all_trip(office, [three]))[three] == ("succeeded", "")
            for terminal in terminals.values():
                await terminal.disconnect()


async def test_a_refused_second_trip_leaves_the_first_in_force(broker: Mosquitto, tmp_path: Path) -> None:
    async with (
        serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        assert gateway.desk is not None
        await office.final(await office.order("trip", TRIP_ARGS, verify=False))
        assert gateway.desk.interlocks.tripped == {terminal.terminal}
        terminal.refused[0x800081] = 3
        await office.final(await office.order("trip", TRIP_ARGS, verify=False))
        assert gateway.desk.interlocks.tripped == {terminal.terminal}


async def test_the_kill_switch_rejects_all_control_at_once_and_over_a_restart(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """What waits, what asks for power guarantee, what comes; queries and configuration go on."""
    settings = settings_of(tmp_path, broker.url)
    off = ("rejected", "control_off")
    async with office_of(broker) as office:
        async with serving(settings, NoonClock()) as gateway, Scripted().on(port_of(gateway)) as terminal:
            waiting = await office.order("close", CLOSE_ARGS, MANY[0])
            await office.status(waiting, "accepted")
            terminal.hold = True
            guarding = await office.order("trip", TRIP_ARGS)
            await terminal.asked("05 01 00 80 01 02 00")
            behind = await office.order("close", CLOSE_ARGS)
            await office.status(behind, "accepted")
            query = await office.order("read", READ_ARGS)
            await office.switch("off")
            for name in (waiting, guarding, behind):
                assert error_of(await office.final(name)) == off
            terminal.release()
            await office.final(query)
            assert office.statuses(query) == ["accepted", "sent", "failed"]
            assert error_of(await office.final(await office.order("alarm", {"on": True}))) == off
            assert error_of(await office.final(await office.order("alarm", {"on": True, "dry_run": True}))) == off
            assert (await office.final(await office.order("set_clock"))).status == "succeeded"
            assert [one[:5] for one in terminal.said_to] == ["05 01", "05 01", "06 01"]
        async with serving(settings, NoonClock()) as gateway, Scripted().on(port_of(gateway)) as terminal:
            assert error_of(await office.final(await office.order("close", CLOSE_ARGS))) == off
            await office.switch("on")
            await office.final(await office.order("close", CLOSE_ARGS, verify=False))
            assert terminal.count("07 01 00 80 00 82") == 1
        async with serving(settings, NoonClock()) as gateway, Scripted().on(port_of(gateway)) as terminal:
            last = await office.order("close", CLOSE_ARGS, verify=False)
            assert (await office.final(last)).status == "succeeded"


async def test_the_kill_switch_does_not_undo_what_was_sent(broker: Mosquitto, tmp_path: Path) -> None:
    async with (
        serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        terminal.hold = True
        name = await office.order("close", CLOSE_ARGS, verify=False)
        await office.status(name, "sent")
        await office.switch("off")
        terminal.release()
        assert (await office.final(name)).status == "succeeded"


def test_settings_of_interlocks_are_counted_right() -> None:
    """A trip that did not go out after all counts for nothing."""
    from gateway.interlocks import InterlockLimits, Interlocks
    from messages import Command

    def trip(name: str) -> Command:
        return Command(id=name, verb="trip", issued_by="wang", expires_at=0)

    locks = Interlocks(InterlockLimits(trips_per_minute=1, trips_in_force=1), control=True, tripped=set())
    one: Any = trip("1")
    locks.sent(one, MANY[0], 0.0)
    for name in ("trip_rate", "trips_in_force"):
        refused = locks.on_sending(trip("2"), MANY[1], 0.0 if name == "trip_rate" else 60.0)
        assert refused is not None
        assert refused.name == name
    locks.sent(one, MANY[0], 60.0)
    locks.withdrawn(one, MANY[0])
    assert locks.tripped == {MANY[0]}, "the first of the two did go out"
    locks = Interlocks(InterlockLimits(trips_per_minute=1, trips_in_force=1), control=True, tripped=set())
    locks.sent(one, MANY[0], 0.0)
    locks.withdrawn(one, MANY[0])
    assert locks.on_sending(trip("2"), MANY[1], 0.0) is None
    locks.withdrawn(one, MANY[0])
    assert locks.tripped == set()
