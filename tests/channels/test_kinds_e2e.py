"""One end-to-end test over every kind of channel and every bad transport: terminals, gateway, broker, orders.

Every report arrives once; every command ends with a status that the terminal's own record bears out; polled terminals
are read. The transports of one kind are channels of one gateway and run at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from gateway.daemon import Gateway
from protocols.commands import verbs
from protocols.commands.quirks import Limits

if TYPE_CHECKING:
    from tests.channels.kinds_side import (
        KINDS,
        POLLED,
        REPORTS,
        SILENT,
        STEP_S,
        Case,
        Orders,
        channel_of,
        finals,
        polls,
        settings_for,
        told_twice,
    )
    from tests.e2e.e2e_parts import Consumer, consuming, running, until
    from tests.gateway.mosquitto import Mosquitto
else:
    from e2e_parts import Consumer, consuming, running, until
    from kinds_side import (
        KINDS,
        POLLED,
        REPORTS,
        SILENT,
        STEP_S,
        Case,
        Orders,
        channel_of,
        finals,
        polls,
        settings_for,
        told_twice,
    )

COMMANDS: dict[str, dict[str, Any]] = {
    "read": {"points": ["40010200"]},
    "set_clock": {},
    "trip": {"relays": [{"relay": 1, "alarm_delay_min": 0}]},
}
GOOD = {"read": "succeeded", "set_clock": "succeeded", "trip": "verified"}
POSSIBLE = {
    "read": {"succeeded", "timed_out"},
    "set_clock": {"succeeded", "unknown"},
    "trip": {"verified", "not_effective", "unknown"},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The gateway's log would bury the reason of a failure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


async def lives(case: Case, gateway: Gateway, consumer: Consumer, orders: Orders) -> None:
    """Orders for every terminal, until all has been done that is owed."""
    desk = gateway.desk
    assert desk is not None
    commands = desk.commands
    await until(lambda: all(commands.online(terminal) for terminal in case.addresses))
    for verb, args in COMMANDS.items():
        for terminal in case.addresses:
            await orders.give(case, terminal, verb, args)
    await case.unplug()

    def done() -> bool:
        reported = Counter(report.terminal for report in case.truth.reports if report.acknowledged is not None)
        return (
            len(finals(consumer, case)) == len(case.orders)
            and (case.kind in SILENT or all(reported[terminal] >= REPORTS for terminal in case.addresses))
            and (case.kind not in POLLED or min(polls(consumer, case).values()) >= 2)
        )

    try:
        await until(done, 30.0)
    except TimeoutError:
        ended = {name: ack.status for name, ack in finals(consumer, case).items()}
        raise AssertionError(
            f"{case.name}: commands {ended}, reports {case.truth.acknowledged} of {case.truth.made}, "
            f"polls {polls(consumer, case)}, fleet {case.fleet.counters}, channel {channel_of(gateway, case).counters}"
        ) from None
    case.stop.set()


def judge_commands(case: Case, consumer: Consumer) -> None:
    """Every command's status is true, by what the terminal has done."""
    ended = finals(consumer, case)
    assert ended.keys() == case.orders.keys()
    good: Counter[str] = Counter()
    stations = {station.terminal.settings.address: station.terminal for station in case.fleet.stations}
    for name, ack in ended.items():
        terminal, verb = case.orders[name]
        assert ack.status in POSSIBLE[verb], (case.name, ack)
        good[verb] += ack.status == GOOD[verb]
        station = stations[terminal]
        if verb == "read" and ack.status == "succeeded":
            assert isinstance(ack.result, dict)
            assert list(ack.result["values"].values()) == [terminal], ack
        if verb == "set_clock" and ack.status == "succeeded":
            now = time.time()
            assert abs(station.body.clock.read(now) - now) < abs(STEP_S) / 5, case.name
        if verb == "trip":
            opened = 1 in station.body.premises.open_relays
            assert ack.status == "unknown" or opened == (ack.status == "verified"), (
                f"{case.name}: {ack.status}, {ack.error}, {ack.result}; {case.truth.controls}; {case.truth.switches}"
            )
    acted = Counter(control.terminal for control in case.truth.controls if control.omd == "80008100")
    assert max(acted.values(), default=0) <= 1, "no control twice"
    # A line that is cut may take along every command that must not be sent twice: all of them end as `unknown`.
    surely = ["read"] if case.transport == "cut" else list(COMMANDS)
    assert min(good[verb] for verb in surely) >= (case.terminals if case.transport == "whole" else 1), (case.name, good)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Effects are looked for at once, and not for minutes."""
    monkeypatch.setattr(verbs, "Limits", partial(Limits, settle_s=0.3, window_s=3.0, every_s=0.5))


@pytest.mark.usefixtures("soon")
@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize("kind", KINDS)
async def test_reports_arrive_once_and_commands_end_with_the_truth(
    broker: Mosquitto, tmp_path: Path, kind: str
) -> None:
    cases = [Case(kind, transport, seed, tmp_path) for seed, transport in enumerate(KINDS[kind], start=11)]
    dial_in = kind in ("tcp_server", "udp")
    async with asyncio.TaskGroup() as tasks:
        for case in cases:
            case.make()
        runs = {}
        if not dial_in:
            runs = {case.name: tasks.create_task(case.run()) for case in cases}
            for case in cases:
                await case.fleet.ready.wait()
        settings = settings_for(cases, tmp_path, broker.url)
        async with running(settings) as gateway, consuming(broker) as consumer, Orders.through(broker) as orders:
            for case in cases if dial_in else ():
                case.make(channel_of(gateway, case).place)
                runs[case.name] = tasks.create_task(case.run())
            async with asyncio.TaskGroup() as lifes:
                for case in cases:
                    lifes.create_task(lives(case, gateway, consumer, orders))
            summaries = {case.name: await runs[case.name] for case in cases}
            for case in cases:
                await consumer.all_of(case.truth.reports)
            for case in cases:
                judge_commands(case, consumer)
            if kind not in SILENT:
                assert all(summary.complete for summary in summaries.values()), summaries
                assert all(case.truth.made >= REPORTS * case.terminals for case in cases)
            assert told_twice(consumer) == []
            assert all(not case.violations() for case in cases if case.transport != "delayed")
