"""Clock keeping 对时: clocks that run off are set right, away from full hours, and told of when they do it again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_parts import CLOCK, READ_ARGS, NoonClock, Office, Scripted, office_of, port_of, serving
from e2e_parts import settings_of, until
from terminal_side import TERMINAL

from gateway.daemon import Gateway
from wire698.values import Data, Tag

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

SHANGHAI = timezone(timedelta(hours=8))
ASK = "05 01 00 40 00 02 00 00"
SET = "06 01 00 40 00 02 00 1C"


def local(wall_ms: int) -> datetime:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).astimezone(SHANGHAI)


def octets(at: datetime) -> bytes:
    """date_time_s."""
    return at.year.to_bytes(2) + bytes((at.month, at.day, at.hour, at.minute, at.second))


def link_time(at: datetime) -> str:
    """date_time of a LINK-Request."""
    day = at.year.to_bytes(2) + bytes((at.month, at.day, at.isoweekday()))
    return (day + bytes((at.hour, at.minute, at.second)) + (at.microsecond // 1000).to_bytes(2)).hex()


class Watch:
    """A terminal whose clock is so many seconds off, with the house around it."""

    def __init__(self, gateway: Gateway, office: Office, terminal: Scripted, clock: NoonClock) -> None:
        self.gateway, self.office, self.terminal, self.clock = gateway, office, terminal, clock

    async def runs(self, offset_s: float, told_s: float | None = None) -> None:
        """The clock 4000 is `offset_s` off, and the next heartbeat says `told_s`; time goes on to the next look."""
        self.clock.forward(31)
        now = self.clock.wall_ms
        shift = round(offset_s * 1000)
        self.terminal.values[CLOCK] = lambda: Data(Tag.DATE_TIME_S, octets(local(self.clock.wall_ms + shift)))
        told = offset_s if told_s is None else told_s
        self.terminal.link(1, login_time=link_time(local(now + round(told * 1000))))
        session = self.gateway.sessions.get(TERMINAL)
        assert session is not None
        await until(lambda: session.machine.clock_offset_ms == round(told * 1000))
        self.clock.forward(0.001)

    async def looked(self) -> None:
        """Let everything that follows from the last look be over."""
        desk = self.gateway.desk
        assert desk is not None
        self.clock.forward(31)
        at = self.clock.mono
        await until(lambda: desk._clocks_at > at)
        name = await self.office.order("read", READ_ARGS, expires_at=self.clock.wall_ms + 60_000)
        await self.office.final(name)
        await until(lambda: not desk._tasks and not len(desk.commands.jobs))
        name = await self.office.order("read", READ_ARGS, expires_at=self.clock.wall_ms + 60_000)
        await self.office.final(name)

    @property
    def settings(self) -> list[str]:
        return [one for one in self.terminal.said_to if one.startswith(SET)]

    @property
    def asked(self) -> int:
        return self.terminal.count(ASK)

    @property
    def faults(self) -> list[dict[str, object]]:
        return [dict(alarm.values) for alarm in self.office.alarms if alarm.event == "clock_fault"]


@asynccontextmanager
async def watch_of(broker: Mosquitto, path: Path, wall: str = "2025-11-24 10:30:00") -> AsyncIterator[Watch]:
    at = datetime.fromisoformat(f"{wall}+08:00")
    clock = NoonClock(round(at.timestamp() * 1000))
    async with serving(settings_of(path, broker.url), clock) as gateway, office_of(broker) as office:
        terminal = Scripted()
        async with terminal.on(port_of(gateway), login_time=link_time(at)):
            yield Watch(gateway, office, terminal, clock)


@pytest.mark.parametrize("offset", [61, -61, 300, 899, -899])
async def test_a_clock_that_ran_off_is_set_by_a_command_like_any_other(
    broker: Mosquitto, tmp_path: Path, offset: int
) -> None:
    async with watch_of(broker, tmp_path) as watch:
        await watch.runs(offset)
        await watch.looked()
        (setting,) = watch.settings
        assert watch.asked == 1
        said = bytes.fromhex(setting[len(SET) :].strip())[:7]
        assert said in {octets(local(watch.clock.wall_ms - back)) for back in (0, 31_000, 31_001)}
        mine = [ack for ack in watch.office.acks if ack.verb == "set_clock"]
        assert [ack.status for ack in mine] == ["accepted", "sent", "succeeded"]
        assert mine[0].command_id.startswith(f"clock-{TERMINAL}-")
        assert watch.faults == []


@pytest.mark.parametrize(("offset", "told"), [(0, 0), (59, 59), (-59, -59), (2, 300)])
async def test_a_clock_that_is_right_is_left_alone(broker: Mosquitto, tmp_path: Path, offset: int, told: int) -> None:
    """The last one: only the heartbeat was late; the clock itself is read before anything is set."""
    async with watch_of(broker, tmp_path) as watch:
        await watch.runs(offset, told)
        await watch.looked()
        assert (watch.settings, watch.faults) == ([], [])
        assert watch.asked == (1 if told > 60 else 0)


async def test_the_second_time_in_a_month_is_a_fault_too(broker: Mosquitto, tmp_path: Path) -> None:
    async with watch_of(broker, tmp_path) as watch:
        await watch.runs(120)
        await watch.looked()
        assert (len(watch.settings), watch.faults) == (1, [])
        await watch.runs(120)
        await watch.looked()
        assert (watch.asked, len(watch.settings)) == (1, 1), "it rests for half an hour"
        watch.clock.forward(2 * 3600)
        await watch.runs(-125)
        await watch.looked()
        assert len(watch.settings) == 2
        assert watch.faults == [{"offset_s": pytest.approx(-125, abs=1.1), "settings_this_month": 1}]
        for _ in range(7):  # into December
            await watch.runs(0)
            watch.clock.forward(86_400)
        await watch.runs(120)
        await watch.looked()
        assert (len(watch.settings), len(watch.faults)) == (3, 1)


async def test_too_far_off_is_only_told_and_not_every_time(broker: Mosquitto, tmp_path: Path) -> None:
    async with watch_of(broker, tmp_path) as watch:
        for _ in range(5):
            await watch.runs(901.5)
            await watch.looked()
        assert watch.settings == []
        assert len(watch.faults) == 1
        (alarm,) = watch.office.alarms
        assert (alarm.oi, alarm.transition, alarm.severity, alarm.terminal) == (
            "4000",
            "recorded",
            "warning",
            TERMINAL,
        )
        watch.clock.forward(1800)
        await watch.runs(901.5)
        await watch.looked()
        assert len(watch.faults) == 2


@pytest.mark.parametrize(
    ("wall", "offset"),
    [
        ("2025-11-24 10:55:00", 120),
        ("2025-11-24 11:03:00", 120),
        ("2025-11-24 23:57:00", -300),
        ("2025-11-25 00:02:00", 120),
        ("2025-11-24 10:51:00", 300),  # the terminal's clock is near the hour
        ("2025-11-24 11:06:30", -240),
    ],
)
async def test_near_a_full_hour_nothing_is_set(broker: Mosquitto, tmp_path: Path, wall: str, offset: int) -> None:
    async with watch_of(broker, tmp_path, wall) as watch:
        await watch.runs(offset)
        await watch.looked()
        assert (watch.asked, watch.settings) == (0, [])
        watch.clock.forward(1200)
        await watch.runs(offset)
        await watch.looked()
        assert (watch.asked, len(watch.settings)) == (1, 1)


async def test_a_setting_that_waits_does_not_go_out_near_the_hour(broker: Mosquitto, tmp_path: Path) -> None:
    """Its expiry is where the quiet time begins."""
    async with watch_of(broker, tmp_path, "2025-11-24 10:50:00") as watch:
        await watch.runs(61)
        await watch.looked()
        assert watch.gateway.journal is not None
        rows = await watch.gateway.journal.query("SELECT accepted_at, expires_at FROM command WHERE verb = 'set_clock'")
        ((accepted, expires),) = rows
        quiet = datetime.fromisoformat("2025-11-24 10:55:00+08:00").timestamp() * 1000
        assert quiet - 62_000 <= expires <= quiet - 60_000, "by the terminal's clock, which is ahead"
        assert accepted < expires


@pytest.mark.parametrize(
    "value",
    [
        Data(Tag.OCTET_STRING, bytes.fromhex("20251124103000")),  # BCD, as an older terminal says it
        Data(Tag.DATE_TIME_S, b"\xff" * 7),
        None,
    ],
)
async def test_a_clock_that_cannot_be_read_is_left_alone(broker: Mosquitto, tmp_path: Path, value: Data | None) -> None:
    async with watch_of(broker, tmp_path) as watch:
        await watch.runs(300)
        watch.terminal.values.pop(CLOCK)
        if value is not None:
            watch.terminal.values[CLOCK] = value
        await watch.looked()
        assert (watch.asked, watch.settings, watch.faults) == (1, [], [])


async def test_it_can_be_turned_off(broker: Mosquitto, tmp_path: Path) -> None:
    clock = NoonClock()
    settings = settings_of(tmp_path, broker.url, {"clock.enabled": False})
    async with (
        serving(settings, clock) as gateway,
        office_of(broker) as office,
        Scripted().on(port_of(gateway), login_time=link_time(local(clock.wall_ms + 300_000))) as terminal,
    ):
        clock.forward(65)
        await office.final(await office.order("read", READ_ARGS))
        clock.forward(65)
        await office.final(await office.order("read", READ_ARGS))
        assert terminal.count(ASK) == 0
