"""`loadgate demo`: broker, gateway, terminals and a live view in one process, with no other software."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.tally import Tally, Verdict
from gateway.daemon import Gateway
from gateway.logs import configure
from gateway.settings import load
from messages import Alarm, BadMessage, Reading, Topics, decode
from simulators.fleet import Fleet, Options, Summary
from simulators.scenario import EventEntry, FleetPart, Scenario, TaskPart, TimePart
from simulators.settings import EventSlug

_EPILOG = """\
example:
  loadgate demo                  until Ctrl-C
  loadgate demo --duration 20    stops by itself; exit status 1 if anything is missing

Needs the extra `demo` (pip install loadgate[demo]) for its broker; everything stays on the loopback interface.
"""

FAILED = 1
SPEED = 600.0
"""Simulated seconds in a real one: a curve point of 15 minutes is uploaded every 1.5 s."""
_SHOWN = 8
_BROKER_WAIT_S = 10.0
_SETTLE_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds")
    parser.add_argument("--terminals", type=int, default=20, metavar="N", help="simulated terminals [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated world [%(default)s]")
    parser.add_argument("--plain", action="store_true", help="a line now and then instead of the live view")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when everything that terminals said has come."""
    try:
        import amqtt.broker  # noqa: F401 - only whether it is there
    except ImportError:
        print("loadgate demo: its broker amqtt is missing. Try: pip install 'loadgate[demo]'", file=sys.stderr)
        return FAILED
    with tempfile.TemporaryDirectory(prefix="loadgate-demo-") as directory:
        log_file = Path(directory) / "log"
        with log_file.open("w", encoding="utf-8") as stream:
            configure("info", "console", stream=stream)
            logging.getLogger("amqtt").setLevel(logging.ERROR)
            logging.getLogger("transitions").setLevel(logging.ERROR)
            try:
                verdict, line = asyncio.run(_demo(args, Path(directory)))
            except BaseException:
                stream.flush()
                sys.stderr.write(log_file.read_text(encoding="utf-8")[-4000:])
                raise
        print(line)
        for text in (verdict.missing + verdict.false)[:20]:
            print(f"  {text}", file=sys.stderr)
    return FAILED if verdict.missing or verdict.false else 0


# --- the parts ----------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def _broker(port: int) -> AsyncIterator[None]:
    """Amqtt on the loopback interface."""
    from amqtt.broker import Broker

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    async with asyncio.timeout(_BROKER_WAIT_S):
        await broker.start()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            await broker.shutdown()


def scenario_of(terminals: int, seed: int) -> Scenario:
    """Offices, factories and homes with two meters each; an event of each kind at a fixed time."""
    kinds: tuple[EventSlug, ...] = ("voltage_loss", "meter_cover_open", "phase_break", "reverse_phase_sequence")
    return Scenario(
        seed=seed,
        fleet=FleetPart(terminals=terminals, meters=2, heartbeat_s=10, retry_s=3.0),
        time=TimePart(speed=SPEED, history_s=3600.0),
        tasks=TaskPart(minute_s=900.0, rows_per_report=10, spread_s=600.0),
        event=tuple(
            EventEntry(kind=kind, at_s=1500.0 + 900.0 * number, terminals=[number % terminals + 1], duration_s=1200.0)
            for number, kind in enumerate(kinds)
        ),
    )


class Watcher:
    """Subscribes to everything and keeps what the view shows and the verdict needs."""

    def __init__(self, topics: Topics) -> None:
        self.tally = Tally()
        self.readings: deque[Reading] = deque(maxlen=_SHOWN)
        self.alarms: deque[Alarm] = deque(maxlen=_SHOWN)
        self.ready = asyncio.Event()
        self._topics = topics

    async def run(self, port: int) -> None:
        """Watch until cancelled."""
        async with aiomqtt.Client("127.0.0.1", port, identifier="loadgate-demo-view") as client:
            await client.subscribe(f"{self._topics.prefix}/#", qos=1)
            self.ready.set()
            async for received in client.messages:
                with contextlib.suppress(BadMessage):
                    kind = self._topics.parse(received.topic.value).message
                    self._take(decode(received.payload, kind))

    def _take(self, message: Any) -> None:
        if not self.tally.take(message):
            return
        if isinstance(message, Reading):
            self.readings.append(message)
        elif isinstance(message, Alarm):
            self.alarms.append(message)


async def _demo(args: argparse.Namespace, directory: Path) -> tuple[Verdict, str]:
    port = _free_port()
    stop, gateway_stop = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = load(
        None,
        {
            "channels.0.listen": "127.0.0.1:0",
            "mqtt.url": f"mqtt://127.0.0.1:{port}",
            "mqtt.version": 4,
            "mqtt.window": 200,
            "node.data_dir": str(directory),
            "node.id": "demo",
            "http.listen": "",
        },
    )
    gateway = Gateway(settings)
    watcher = Watcher(Topics(settings.mqtt.prefix))
    async with _broker(port), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watcher.run(port))
        await watcher.ready.wait()
        serving = tasks.create_task(gateway.run(gateway_stop))
        await gateway.started.wait()
        fleet = Fleet(
            Options(
                host="127.0.0.1",
                port=int(gateway.channels[0].place.rpartition(":")[2]),
                scenario=scenario_of(args.terminals, args.seed),
                duration_s=args.duration,
            )
        )
        showing = tasks.create_task(_show(gateway, fleet, watcher, plain=args.plain))
        summary = await fleet.run(stop)
        verdict = await _settled(fleet, watcher)
        showing.cancel()
        gateway_stop.set()
        await serving
        watching.cancel()
    return verdict, summary_line(summary, watcher.tally, verdict)


async def _settled(fleet: Fleet, watcher: Watcher) -> Verdict:
    """The verdict once all has come, or when it has had time enough to."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        verdict = watcher.tally.judge(fleet.truth.reports)
        if not verdict.missing or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    absent = [one.address for one in fleet.settings if one.address not in watcher.tally.present]
    verdict.missing += [f"terminal {address}: never online" for address in absent]
    verdict.missing += [
        f"{report.terminal} {report.series}: not acknowledged"
        for report in fleet.truth.reports
        if report.acknowledged is None
    ]
    return verdict


def summary_line(summary: Summary, tally: Tally, verdict: Verdict) -> str:
    """`demo: terminals=… readings=… alarms=… lost=0 ok`."""
    lost = len(verdict.missing) + len(verdict.false)
    return (
        f"demo: terminals={len(tally.present)} readings={tally.readings} alarms={tally.alarms} "
        f"reports={summary.reports} acknowledged={summary.acknowledged} lost={lost} {'FAILED' if lost else 'ok'}"
    )


# --- the view -----------------------------------------------------------------------------------------------------


async def _show(gateway: Gateway, fleet: Fleet, watcher: Watcher, *, plain: bool) -> None:
    console = Console()
    if plain or not console.is_terminal:
        while True:
            await asyncio.sleep(5.0)
            print(_line(fleet, watcher), flush=True)
    frames, before = 0, time.monotonic()
    with Live(console=console, refresh_per_second=4, screen=False) as live:
        while True:
            await asyncio.sleep(0.5)
            now, total = time.monotonic(), gateway.channels[0].context.counters.frames_in
            rate, frames, before = (total - frames) / (now - before), total, now
            live.update(_view(gateway, fleet, watcher, rate))


def _line(fleet: Fleet, watcher: Watcher) -> str:
    tally = watcher.tally
    return (
        f"terminals {len(tally.present)}  reports {fleet.truth.made}  acknowledged {fleet.truth.acknowledged}  "
        f"readings {tally.readings}  alarms {tally.alarms}"
    )


def _view(gateway: Gateway, fleet: Fleet, watcher: Watcher, rate: float) -> Group:
    tally = watcher.tally
    head = Text.assemble(
        ("Loadgate demo 前置机  ", "bold"),
        f"sessions {len(gateway.sessions)}  frames/s {rate:.0f}  reports {fleet.truth.made}  "
        f"acknowledged {fleet.truth.acknowledged}  readings {tally.readings}  alarms {tally.alarms}  "
        f"time ×{SPEED:.0f}",
    )
    columns = ("terminal", "meter", "time", "series", "energy kWh", "P W", "Ua V", "Ia A", "cosφ")
    readings = Table(*columns, title="latest readings 抄表")
    for reading in reversed(watcher.readings):
        names = [column.name for column in reading.columns]
        row = reading.rows[-1]
        values = dict(zip(names, row[2:], strict=True))
        shown = ("active_energy_import.total", "active_power.total", "voltage.a", "current.a", "power_factor.total")
        cells = ["" if values.get(name) is None else str(values[name]) for name in shown]
        readings.add_row(reading.terminal, str(row[0] or "own"), _clock(row[1]), reading.series, *cells)
    alarms = Table("terminal", "event", "phase", "meter", "transition", "at", "severity", title="alarms 告警")
    for alarm in reversed(watcher.alarms):
        alarms.add_row(
            alarm.terminal,
            alarm.event,
            alarm.phase or "",
            alarm.meter or "",
            alarm.transition,
            _clock(alarm.occurred_at),
            alarm.severity,
        )
    return Group(head, readings, alarms)


def _clock(instant: Any) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(instant / 1000)) if instant else "-"
