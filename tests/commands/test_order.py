"""Order at one terminal, and that terminals do not wait for each other."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from command_parts import CLOSE_ARGS, READ_ARGS, TRIP_ARGS, NoonClock, Scripted, office_of, port_of, serving
from e2e_parts import metric, settings_of, until
from terminal_side import TERMINAL

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

READ = "05 01 00 40 01 02 00"
SET_CLOCK = "06 01 00 40 00 02 00"
CLOSE = "07 01 00 80 00 82"
GUARANTEE = "05 01 00 80 01 02 00"
TRIP = "07 01 00 80 00 81"


def close_of(relay: int) -> dict[str, Any]:
    return {"relays": [{"relay": relay, "mode": "permit"}]}


def relay_in(request: str) -> int:
    return int(request.split("51 F2 05 02 ")[1][:2])


async def test_what_waited_goes_out_at_login_control_first(broker: Mosquitto, tmp_path: Path) -> None:
    """By class, then by priority, then by age; each only when the one before is done."""
    async with serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway, office_of(broker) as office:
        orders: list[tuple[str, dict[str, Any], int]] = [
            ("read", READ_ARGS, 9),
            ("set_clock", {}, 5),
            ("close", close_of(1), 5),
            ("close", close_of(2), 5),
            ("close", close_of(3), 8),
            ("close", close_of(4), 5),
            ("read", READ_ARGS, 9),
        ]
        names = [await office.order(verb, args, priority=rank, verify=False) for verb, args, rank in orders]
        await office.status(names[-1], "accepted")
        async with Scripted().on(port_of(gateway)) as terminal:
            under_way: list[int] = []
            desk = gateway.desk
            assert desk is not None
            terminal.on_request = lambda _: under_way.append(sum(job.phase == "running" for job in desk.commands.jobs))
            for name in names:
                await office.final(name)
            heard = terminal.said_to
            assert [relay_in(one) for one in heard[:4]] == [3, 1, 2, 4]
            assert heard[4].startswith(SET_CLOCK)
            assert all(one.startswith(READ) for one in heard[5:])
            assert len(heard) == 7
            assert set(under_way) == {1}


async def test_a_control_overtakes_what_waits_and_interrupts_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    async with (
        serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        terminal.hold = True
        names = [await office.order("read", READ_ARGS) for _ in range(3)]
        await office.status(names[0], "sent")
        await office.status(names[2], "accepted")
        names.append(await office.order("close", CLOSE_ARGS, verify=False))
        await office.status(names[3], "accepted")
        assert len(terminal.heard) == 1
        terminal.release()
        for name in names:
            await office.final(name)
        assert [one[: len(READ)] for one in terminal.said_to] == [READ, f"{CLOSE} 00"[: len(READ)], READ, READ]


async def test_equal_ones_keep_their_order_over_a_lost_connection_and_a_restart(
    broker: Mosquitto, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, broker.url)
    async with office_of(broker) as office:
        async with serving(settings, NoonClock()) as gateway:
            async with Scripted().on(port_of(gateway)) as terminal:
                terminal.silent = True
                points = [f"4001{number:02X}00" for number in range(2, 8)]
                names = [await office.order("read", {"points": [point]}) for point in points]
                await office.status(names[0], "sent")
                await office.status(names[-1], "accepted")
            assert gateway.desk is not None
            desk = gateway.desk
            await until(lambda: not desk.commands.online(TERMINAL))
        async with (
            serving(settings, NoonClock()) as gateway,
            Scripted().on(port_of(gateway)) as terminal,
        ):
            for name in names:
                await office.final(name)
            assert [one[9:20].replace(" ", "") for one in terminal.said_to] == points
            assert office.statuses(names[0]) == ["accepted", "sent", "sent", "failed"]
            assert [ack.attempts for ack in office.of(names[0])] == [0, 1, 2, 2]


async def test_a_trip_that_has_to_wait_is_not_overtaken_by_a_later_close(broker: Mosquitto, tmp_path: Path) -> None:
    """Else the close would be undone. Queries go on."""
    clock = NoonClock()
    async with (
        serving(settings_of(tmp_path, broker.url), clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        assert gateway.desk is not None
        jobs = gateway.desk.commands.jobs
        terminal.silent = True
        trip = await office.order("trip", TRIP_ARGS, verify=False)
        await terminal.asked(GUARANTEE)
        clock.forward(61)
        await terminal.asked(GUARANTEE, 2)
        clock.forward(61)
        await until(lambda: jobs.get(trip, TERMINAL).phase == "waiting")  # type: ignore[union-attr]
        terminal.silent = False
        close = await office.order("close", CLOSE_ARGS, verify=False)
        query = await office.order("read", READ_ARGS)
        await office.final(query)
        assert office.statuses(close) == ["accepted"]
        clock.forward(6)
        await office.final(close)
        heads = [one[: len(CLOSE)] for one in terminal.said_to]
        assert heads.index(TRIP) < heads.index(CLOSE)
        assert office.statuses(trip) == ["accepted", "sent", "succeeded"]


async def test_nothing_is_sent_before_the_terminal_has_logged_in_again(broker: Mosquitto, tmp_path: Path) -> None:
    """A frame on a new connection takes the terminal over, but does not make it ready."""
    settings = settings_of(tmp_path, broker.url, {"terminals.without_login": "refuse"})
    async with (
        serving(settings, NoonClock()) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway)) as terminal,
    ):
        terminal.silent = True
        query = await office.order("read", READ_ARGS)
        await office.status(query, "sent")
        await terminal.until(lambda: len(terminal.heard) == 1)
        stranger = Scripted()
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        from wire698.frame import build_frame

        # Known service for nobody: it identifies no one.
        writer.write(build_frame(0xC3, stranger.address, 0x10, bytes.fromhex("0501014001020000")))
        async with asyncio.timeout(10):
            await terminal.until(lambda: terminal._task is not None and terminal._task.done())
        control = await office.order("close", CLOSE_ARGS, verify=False)
        await office.status(control, "accepted")
        again = Scripted()
        async with again.on(port_of(gateway)):
            await office.final(control)
            await office.final(query)
            assert [one[:5] for one in again.said_to] == ["07 01", "05 01"]
            assert office.statuses(control) == ["accepted", "sent", "succeeded"]
            assert office.statuses(query) == ["accepted", "sent", "sent", "failed"]
        assert await reader.read() == b"", "nothing was said to the stranger"
        writer.close()


async def test_a_query_is_tried_on_so_many_connections(broker: Mosquitto, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker.url, {"commands.query_attempts": 2})
    async with serving(settings, NoonClock()) as gateway, office_of(broker) as office:
        terminal = Scripted()
        terminal.deaf_to = lambda _: True
        query = await office.order("read", READ_ARGS)
        await office.status(query, "accepted")
        for _ in range(2):
            await terminal.connect(port_of(gateway))
            await terminal.until(lambda: terminal._task is not None and terminal._task.done())
            await terminal.disconnect()
        ack = await office.final(query)
        assert office.statuses(query) == ["accepted", "sent", "sent", "timed_out"]
        assert ack.error is not None
        assert ack.error.name == "lost"


async def test_a_control_whose_connection_is_lost_is_unknown_and_never_sent_again(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway, office_of(broker) as office:
        terminal = Scripted()
        terminal.deaf_to = lambda apdu: apdu[0] == 7
        await terminal.connect(port_of(gateway))
        name = await office.order("close", CLOSE_ARGS, verify=False)
        ack = await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "unknown"]
        assert ack.error is not None
        assert (ack.error.name, ack.attempts, ack.latency_ms) == ("lost", 1, None)
        await terminal.disconnect()
        await terminal.connect(port_of(gateway))
        await office.final(await office.order("read", READ_ARGS))
        assert terminal.count(CLOSE) == 1
        await terminal.disconnect()


async def test_a_connection_lost_between_two_steps(broker: Mosquitto, tmp_path: Path) -> None:
    """The first step is done, the second never went out: unknown, and neither is sent again."""
    args = {"group": 1, "limit_kwh": 1, "alarm_percent": 80}
    async with serving(settings_of(tmp_path, broker.url), NoonClock()) as gateway, office_of(broker) as office:
        terminal = Scripted()
        terminal.deaf_to = lambda apdu: apdu[3:7] == bytes.fromhex("81080600")
        await terminal.connect(port_of(gateway))
        name = await office.order("monthly_control", args, verify=False)
        await office.final(name)
        assert office.statuses(name) == ["accepted", "sent", "unknown"]
        await terminal.disconnect()
        await terminal.connect(port_of(gateway))
        await office.final(await office.order("read", READ_ARGS))
        assert [one[:14] for one in terminal.said_to[:2]] == ["07 01 00 81 08", "07 01 00 81 08"]
        assert len(terminal.heard) == 3
        await terminal.disconnect()


@pytest.mark.slow
async def test_one_silent_terminal_of_a_thousand_delays_no_other(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All have their answers while the silent one's first command is still in flight."""
    many = 1000
    given: dict[str, object] = {"channels.0.login_rate_per_s": 5000, "channels.0.login_burst": 2000}
    latencies: dict[bool, list[float]] = {}
    async with serving(settings_of(tmp_path, broker.url, given)) as gateway, office_of(broker) as office:
        from time import time

        office.now = int(time() * 1000)
        terminals = [Scripted(f"{number:012d}") for number in range(1, many + 1)]
        for begin in range(0, many, 50):
            await asyncio.gather(*(one.connect(port_of(gateway)) for one in terminals[begin : begin + 50]))
        silent, others = terminals[0], terminals[1:]
        for mute in (False, True):
            silent.silent = mute
            blocked = await office.order("read", READ_ARGS, silent.terminal, expires_at=office.now + 600_000)
            if mute:
                await office.status(blocked, "sent")
            else:
                await office.final(blocked)
            latencies[mute] = []
            for begin in range(0, many - 1, 9):
                given_at = {}
                for one in others[begin : begin + 9]:
                    command = office.command("read", READ_ARGS, expires_at=office.now + 600_000)
                    given_at[command.id] = perf_counter()
                    await office.send(command, one.terminal)
                for name, instant in given_at.items():
                    await office.final(name)
                    latencies[mute].append(perf_counter() - instant)
            assert len(latencies[mute]) == many - 1
            if mute:
                assert office.statuses(blocked) == ["accepted", "sent"], "it is still in flight"
        assert {ack.status for ack in office.acks} == {"accepted", "sent", "failed"}
        assert sum(ack.final for ack in office.acks) == 2 * (many - 1) + 1
        assert metric(gateway, "loadgate_commands_open") == 1
        with capsys.disabled():
            for mute, values in latencies.items():
                p50, p99 = quantiles(values, n=100)[49], quantiles(values, n=100)[98]
                word = "one silent" if mute else "all answer"
                sys.stdout.write(
                    f"\n{many} terminals, {word}: latency p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms\n"
                )
        await asyncio.gather(*(one.disconnect() for one in terminals))
