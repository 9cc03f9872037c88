"""Seeing the effect of a control: verified, not effective, or what cannot be told; with a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_parts import (
    ALARM_STATE,
    CLOSE_ARGS,
    COMMAND_STATE,
    GUARANTEE,
    READ_ARGS,
    RELAY_OUTPUT,
    TRIP_ARGS,
    NoonClock,
    Office,
    Scripted,
    enum,
    given_up,
    office_of,
    port_of,
    rounds,
    serving,
)
from e2e_parts import settings_of, until
from terminal_side import TERMINAL

from gateway.daemon import Gateway

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

LOOK = "05 02 00 04 80 00 03 00 80 00 04 00 80 00 05 00 80 01 02 00 00"
"""Relay output, alarm, command state, power guarantee in one GET."""


def standing(terminal: Scripted, *, output: int, alarm: int = 0, command: int = 0x80) -> None:
    """What 8000 says at the terminal."""
    terminal.values.update({RELAY_OUTPUT: rounds(output), ALARM_STATE: rounds(alarm), COMMAND_STATE: rounds(command)})


def waits(gateway: Gateway, name: str) -> bool:
    """Whether a job waits for its next look."""
    assert gateway.desk is not None
    job = gateway.desk.commands.jobs.get(name, TERMINAL)
    return job is not None and job.phase == "checking" and job.request is None


async def looks(gateway: Gateway, terminal: Scripted, office: Office, name: str) -> int:
    """Wait until a look is over; how many there have been."""
    del office
    await until(lambda: waits(gateway, name))
    return terminal.count(LOOK)


async def test_the_alarm_delay_is_respected_then_it_is_looked_at_until_it_shows(
    broker: Mosquitto, tmp_path: Path
) -> None:
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        standing(terminal, output=0, alarm=0x80)
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "succeeded")
        clock.forward(61.9)
        await office.final(await office.order("read", READ_ARGS))
        assert terminal.count(LOOK) == 0, "the delay of a minute, and two seconds of grace"
        clock.forward(0.2)
        await terminal.asked(LOOK)
        assert await looks(gateway, terminal, office, name) == 1
        assert office.statuses(name)[-1] == "succeeded"
        standing(terminal, output=0x80)
        clock.forward(9.8)
        await office.final(await office.order("read", READ_ARGS))
        assert terminal.count(LOOK) == 1
        clock.forward(0.3)
        ack = await office.final(name)
        assert terminal.count(LOOK) == 2
        assert office.statuses(name) == ["accepted", "sent", "succeeded", "verified"]
        assert isinstance(ack.result, dict)
        assert ack.result["remote_control.relay_output"] == [1]
        assert terminal.trips == 1


async def test_an_effect_that_does_not_show_in_the_window(broker: Mosquitto, tmp_path: Path) -> None:
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        standing(terminal, output=0)
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "succeeded")
        clock.forward(63)
        number = 0
        while "not_effective" not in office.statuses(name):
            number += 1
            await terminal.asked(LOOK, number)
            await until(lambda: waits(gateway, name) or "not_effective" in office.statuses(name))
            clock.forward(10.1)
        ack = await office.final(name)
        assert number == 12, "every 10 s for 120 s"
        assert ack.error is not None
        assert ack.error.name == "not_effective"
        assert office.statuses(name) == ["accepted", "sent", "succeeded", "not_effective"]
        assert isinstance(ack.result, dict)
        assert ack.result["remote_control.relay_output"] == []
        assert terminal.trips == 1


async def test_guarantee_that_came_into_force_is_no_effect(broker: Mosquitto, tmp_path: Path) -> None:
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "succeeded")
        standing(terminal, output=0x80)
        terminal.values[GUARANTEE] = enum(1)
        clock.forward(63)
        await terminal.asked(LOOK)
        await until(lambda: waits(gateway, name))
        clock.forward(121)
        ack = await office.final(name)
        assert (ack.status, ack.error and ack.error.name) == ("not_effective", "not_effective")


async def test_what_nothing_tells_is_unreadable(broker: Mosquitto, tmp_path: Path) -> None:
    """All three sources are asked in each look."""
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "succeeded")
        clock.forward(63)
        await terminal.asked("05 01 00 23 01 11 00 00")
        assert await looks(gateway, terminal, office, name) == 1
        assert terminal.count("05 01 00 F2 05 02 00 00") == 1
        clock.forward(121)
        ack = await office.final(name)
        assert (ack.status, ack.error and ack.error.name) == ("unknown", "unreadable")


@pytest.mark.parametrize(("output", "last"), [(0x80, "verified"), (0, "not_effective")])
async def test_unknown_is_read_back_at_once_and_again_when_the_effect_is_due(
    broker: Mosquitto, tmp_path: Path, output: int, last: str
) -> None:
    """While the alarm delay runs the relay is still closed: that denies nothing."""
    clock = NoonClock()
    args: dict[str, Any] = {"relays": [{"relay": 1, "alarm_delay_min": 10}]}
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        standing(terminal, output=0, alarm=0x80)
        terminal.deaf_to = lambda apdu: apdu[0] == 7
        name = await office.order("trip", args)
        await office.status(name, "unknown")
        terminal.deaf_to = lambda _: False
        await terminal.disconnect()
        await terminal.connect(port_of(gateway))
        await terminal.asked(LOOK)
        assert await looks(gateway, terminal, office, name) == 1
        clock.forward(300)
        assert await looks(gateway, terminal, office, name) == 1
        standing(terminal, output=output)
        clock.forward(303)
        await terminal.asked(LOOK, 2)
        if last == "not_effective":
            await until(lambda: waits(gateway, name))
            assert office.statuses(name)[-1] == "unknown"
            clock.forward(121)
        await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "unknown", last]
        assert terminal.trips == 1


async def test_a_control_without_answer_in_time_is_unknown_then_read_back(broker: Mosquitto, tmp_path: Path) -> None:
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        standing(terminal, output=0, command=0)
        terminal.silent = True
        name = await office.order("close", CLOSE_ARGS)
        await given_up(office, terminal, clock, name)
        assert terminal.count("07 01 00 80 00 82") == 1, "no retry of a control"
        terminal.silent = False
        clock.forward(61)
        await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "unknown", "verified"]


async def test_a_connection_lost_while_looking(broker: Mosquitto, tmp_path: Path) -> None:
    """The look is made again, from its beginning, on the next connection; the window begins anew."""
    clock = NoonClock()
    async with serving(settings_of(tmp_path, broker.url), clock) as gateway, office_of(broker) as office:
        terminal = Scripted()
        await terminal.connect(port_of(gateway))
        standing(terminal, output=0x80)
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "succeeded")
        terminal.deaf_to = lambda apdu: apdu[:2] == b"\x05\x02"
        clock.forward(63)
        await terminal.asked(LOOK)
        await terminal.disconnect()
        await until(lambda: waits(gateway, name))
        clock.forward(600)
        terminal.deaf_to = lambda _: False
        await terminal.connect(port_of(gateway))
        await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "succeeded", "verified"]
        await terminal.disconnect()


@pytest.mark.parametrize("answered", [True, False])
async def test_one_that_can_never_be_read_back_is_given_up(broker: Mosquitto, tmp_path: Path, answered: bool) -> None:
    """The terminal stays away: after an hour it is told, although nobody connects."""
    clock = NoonClock()
    async with serving(settings_of(tmp_path, broker.url), clock) as gateway, office_of(broker) as office:
        terminal = Scripted()
        if not answered:
            terminal.deaf_to = lambda apdu: apdu[0] == 7
        await terminal.connect(port_of(gateway))
        name = await office.order("trip", TRIP_ARGS)
        await office.status(name, "succeeded" if answered else "unknown")
        await terminal.disconnect()
        assert gateway.desk is not None
        desk = gateway.desk
        await until(lambda: not desk.commands.online(TERMINAL))
        clock.forward(3600)
        await office.status(await office.order("read", READ_ARGS, expires_at=clock.wall_ms + 9000), "accepted")
        assert office.statuses(name)[-1] in ("succeeded", "unknown")
        clock.forward(200)
        ack = await office.final(name)
        assert (ack.status, ack.error and ack.error.name) == ("unknown", "unreadable")


async def test_a_control_goes_before_a_look_that_is_not_due(broker: Mosquitto, tmp_path: Path) -> None:
    """A close during the alarm delay of a trip goes out at once, and each is verified by itself."""
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        standing(terminal, output=0, alarm=0x80)
        trip = await office.order("trip", TRIP_ARGS)
        await office.status(trip, "succeeded")
        close = await office.order("close", CLOSE_ARGS)
        await office.status(close, "succeeded")
        standing(terminal, output=0, command=0)
        clock.forward(3)
        await office.final(close)
        assert office.statuses(close)[-1] == "verified"
        clock.forward(60)
        await terminal.asked(LOOK)
        await until(lambda: waits(gateway, trip))
        clock.forward(121)
        assert (await office.final(trip)).status == "not_effective"
