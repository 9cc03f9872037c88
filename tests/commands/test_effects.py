"""Commands at simulated terminals, which obey: what the customer's load, relays and display show of them.

The simulator is an independent peer and keeps its own record of what it carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_parts import NoonClock, Office, office_of, port_of, serving
from e2e_parts import LOOPBACK, settings_of, until

from messages import Ack
from simulators.fleet import Fleet, Options
from simulators.scenario import parse
from simulators.truth import Truth

if TYPE_CHECKING:
    from tests.gateway.mosquitto import Mosquitto

SCENARIO = """
[fleet]
terminals = 1
meters = 2
kinds = { factory = 1.0 }
protected = 0.0
array_events = 0.0
structure_events = 0.0
[time]
start = 2026-03-02T09:30:00
speed = 300
[tasks]
minute_s = 600
spread_s = 0
"""
"""Five simulated minutes in a real second; the gateway's clock is moved by hand."""
START_MS = 1_772_415_000_000
"""2026-03-02 09:30:00 in Shanghai."""


class Stage:
    """A gateway, a terminal behind it, and who gives the orders."""

    def __init__(self, office: Office, fleet: Fleet, truth: Truth, clock: NoonClock) -> None:
        self.office, self.fleet, self.truth, self.clock = office, fleet, truth, clock
        self.terminal = fleet.settings[0].address
        self.meters = [meter.address for meter in fleet.terminals[0].body.premises.meters]

    async def order(self, verb: str, args: dict[str, Any] | None = None, **given: Any) -> str:
        given.setdefault("expires_at", self.clock.wall_ms + 300_000)
        return await self.office.order(verb, args, self.terminal, **given)

    async def done(self, verb: str, args: dict[str, Any] | None = None, *, wait_s: float = 3.0) -> Ack:
        """Carried out; a control also verified, `wait_s` after its success."""
        name = await self.order(verb, args)
        await self.office.until(lambda: {"succeeded", "failed", "rejected"} & set(self.office.statuses(name)))
        told = self.office.of(name)[-1]
        assert told.status == "succeeded", told.error
        if not told.final:
            self.clock.forward(wait_s)
            told = await self.office.final(name)
            assert self.office.statuses(name) == ["accepted", "sent", "succeeded", "verified"], told
        return told

    async def read(self, *points: str) -> dict[str, Any]:
        """Values by name."""
        ack = await self.done("read", {"points": list(points)})
        assert isinstance(ack.result, dict)
        values: dict[str, Any] = ack.result["values"]
        return values

    def executed(self, omd: str) -> int:
        """How often the terminal carried out a method, by its own record."""
        return sum(control.omd == omd and control.accepted for control in self.truth.controls)


@asynccontextmanager
async def staged(broker: Mosquitto, path: Path, scenario: str = SCENARIO) -> AsyncIterator[Stage]:
    clock, truth, stop = NoonClock(START_MS), Truth(), asyncio.Event()
    settings = settings_of(path, broker.url, {"clock.enabled": False})
    async with serving(settings, clock) as gateway, office_of(broker) as office, asyncio.TaskGroup() as tasks:
        options = Options(host=LOOPBACK, port=port_of(gateway), scenario=parse(scenario), drain_s=5.0, duration_s=120.0)
        fleet = Fleet(options, truth=truth)
        run = tasks.create_task(fleet.run(stop))
        try:
            desk = gateway.desk
            assert desk is not None
            await until(lambda: desk.commands.online(fleet.settings[0].address) and len(fleet.terminals) == 1)
            yield Stage(office, fleet, truth, clock)
        finally:
            stop.set()
        await run


async def test_a_trip_makes_the_load_fall_and_a_close_lets_it_come_back(broker: Mosquitto, tmp_path: Path) -> None:
    async with staged(broker, tmp_path) as stage:
        relays = "remote_control.relay_output"
        assert (await stage.read(relays))[relays] == []
        name = await stage.order("trip", {"relays": [{"relay": 1, "alarm_delay_min": 1}]})
        await stage.office.status(name, "succeeded")
        await until(lambda: stage.truth.switches)
        (opened,) = stage.truth.switches
        assert (opened.relay, opened.is_open) == (1, True)
        assert opened.after_kw < opened.before_kw
        stage.clock.forward(63)
        ack = await stage.office.final(name)
        assert stage.office.statuses(name) == ["accepted", "sent", "succeeded", "verified"]
        assert isinstance(ack.result, dict)
        assert ack.result[relays] == [1]
        await stage.office.until(lambda: any(alarm.event == "remote_trip" for alarm in stage.office.alarms))
        await stage.done("close", {"relays": [{"relay": 1, "mode": "direct"}]})
        await until(lambda: len(stage.truth.switches) == 2)
        closed = stage.truth.switches[1]
        assert (closed.relay, closed.is_open) == (1, False)
        assert closed.after_kw > closed.before_kw
        assert (stage.executed("80008100"), stage.executed("80008200")) == (1, 1)


async def test_guarantee_stands_between_a_trip_and_the_load(broker: Mosquitto, tmp_path: Path) -> None:
    """In the gateway; where it is not asked for, the terminal does nothing and that is told."""
    async with staged(broker, tmp_path) as stage:
        await stage.done("power_guarantee", {"on": True})
        name = await stage.order("trip", {"relays": [{"relay": 1, "alarm_delay_min": 0}]})
        ack = await stage.office.final(name)
        assert ack.error is not None
        assert (ack.status, ack.error.name) == ("rejected", "power_guarantee")
        assert stage.executed("80008100") == 0
        await stage.done("power_guarantee", {"on": False})
        await stage.done("trip", {"relays": [{"relay": 1, "alarm_delay_min": 0}]})
        assert [switch.is_open for switch in stage.truth.switches] == [True]


async def test_alarms_and_words_reach_the_customer(broker: Mosquitto, tmp_path: Path) -> None:
    async with staged(broker, tmp_path) as stage:
        await stage.done("message", {"level": "important", "number": 3, "text": "请错峰用电"})
        await stage.done("message", {"level": "normal", "number": 1, "text": "明日检修"})
        wanted = {("important", 3, "请错峰用电"), ("normal", 1, "明日检修")}
        await until(lambda: {(shown.kind, shown.number, shown.text) for shown in stage.truth.messages} == wanted)
        await stage.done("delete_message", {"level": "important", "number": 3})
        await stage.done("arrears_alarm", {"on": True, "text": "请缴费"})
        await stage.done("arrears_alarm", {"on": False})
        await stage.done("alarm", {"on": True})
        await stage.done("alarm", {"on": False})
        assert [stage.executed(omd) for omd in ("80037F00", "80047F00", "80048000", "80027F00", "80028000")] == [1] * 5


async def test_the_control_objects_are_put_in_and_released(broker: Mosquitto, tmp_path: Path) -> None:
    group = {"group": 1}
    controls: list[tuple[str, str, dict[str, Any]]] = [
        ("period_control", "period", {"schemes": [[9000]], "periods": [{"from": "08:00", "to": "20:00"}]}),
        ("rest_control", "rest", {"limit_kw": 9000, "start": "07:00", "duration_min": 720, "weekdays": ["mon"]}),
        (
            "suspension_control",
            "suspension",
            {"start": "2026-03-01T00:00:00", "end": "2026-03-31T23:59:59", "limit_kw": 9000},
        ),
        (
            "float_down",
            "float_down",
            {"sliding_min": 5, "coefficient_percent": 90, "freeze_delay_min": 5, "control_min": 60, "alarm_min": [9]},
        ),
        (
            "purchase",
            "purchase",
            {
                "order": 1001,
                "operation": "append",
                "kind": "energy",
                "amount": 5_000_000,
                "alarm_threshold": 100,
                "trip_threshold": 0,
            },
        ),
        ("monthly_control", "monthly", {"limit_kwh": 90_000_000, "alarm_percent": 80}),
    ]
    async with staged(broker, tmp_path) as stage:
        for number, (verb, control, args) in enumerate(controls):
            point = f"{0x8103 + number:04X}0300"
            await stage.done(verb, {**group, **args})
            (state,) = (await stage.read(point)).values()
            assert {"group": 1, "input": True} in state, verb
            await stage.done("release", {**group, "control": control})
            (state,) = (await stage.read(point)).values()
            assert {"group": 1, "input": True} not in state, verb
        assert stage.truth.switches == []


async def test_a_limit_below_the_load_trips_and_its_release_restores(broker: Mosquitto, tmp_path: Path) -> None:
    """Suspension 营业报停: alarm, round 1, then less load; an event comes up by itself."""
    args = {
        "group": 1,
        "start": "2026-03-01T00:00:00",
        "end": "2026-03-31T23:59:59",
        "limit_kw": 1,
        "rounds": [1],
        "alarm_min": [1, 1],
    }
    async with staged(broker, tmp_path) as stage:
        await stage.done("suspension_control", args)
        await until(lambda: stage.truth.switches)
        opened = stage.truth.switches[0]
        assert opened.is_open
        assert opened.after_kw < opened.before_kw
        await stage.office.until(lambda: any(alarm.oi == "3200" for alarm in stage.office.alarms))
        await stage.done("release", {"group": 1, "control": "suspension"})
        await until(lambda: not stage.truth.switches[-1].is_open)
        assert stage.truth.switches[-1].after_kw > stage.truth.switches[-1].before_kw


async def test_configuration_and_reading(broker: Mosquitto, tmp_path: Path) -> None:
    async with staged(broker, tmp_path) as stage:
        await stage.done("write", {"oad": "security_limit", "value": 120.5})
        assert list((await stage.read("security_limit")).values()) == [120.5]
        await stage.office.until(lambda: any(reading.cause == "report" for reading in stage.office.readings))
        records = await stage.done("read_record", {"object": "tasks.records", "last": 1, "columns": ["60420200"]})
        await stage.done("set_clock")
        body, at = stage.fleet.terminals[0].body, asyncio.get_running_loop().time()
        simulated = stage.fleet.terminals[0]._timebase.simulated(at)
        ahead = simulated - body.clock.read(simulated)
        assert ahead > 0, "simulated time runs ahead of the gateway's, to which the clock was set back"
        await stage.done("configure_reporting", {"active": True})
        voltage = await stage.read("voltage")
        assert 200 < voltage["voltage.a"] < 260
        meter = await stage.done("read_meter", {"meter": stage.meters[0], "points": ["active_energy_import"]})
        assert isinstance(meter.result, dict)
        assert meter.result["values"]["active_energy_import.total"] > 0
        named = {reading.command_id for reading in stage.office.readings if reading.cause == "read"}
        assert {meter.command_id, records.command_id} <= named
