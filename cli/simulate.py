"""`loadgate simulate`: a fleet of DL/T 698.45 terminals on any kind of channel."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from simulators.fleet import Fleet, Options, Summary
    from simulators.scenario import Scenario
    from simulators.truth import TrueControl, TrueMessage, TrueSwitch

HELP = "run simulated terminals against a master"

DESCRIPTION = """\
Simulated DL/T 698.45 terminals: they log in, send heartbeats, upload load curves and freezes, report events, answer
requests, obey load control, and repeat what is not acknowledged. A scenario file adds events, faults and quirks.
One of --connect, --udp, --listen, --serial and --radio says how they reach their master. At a serial line and on a
radio channel they answer by their address and say nothing unasked, so their master must poll; --unasked changes that.
PATH is a device (8E1), socket://HOST:PORT, or a path where nothing is yet: a pseudo-terminal is made, and PATH leads
to it as long as the command runs.
Progress goes to stderr, the summary to stdout. Exit status 0: every report was acknowledged; 1: not; 2: bad usage."""

EXAMPLE = """\
examples:
  loadgate simulate --connect 127.0.0.1:9001 --terminals 20 --speed 60 --duration 60
  loadgate simulate --connect 127.0.0.1:9001 --scenario config/scenarios/faults.toml --truth truth.jsonl
  loadgate simulate --connect 127.0.0.1:9001 --terminals 200 --rate 100 --reports-per-terminal 10 --json
  loadgate simulate --udp 127.0.0.1:9002 --terminals 20 --speed 60
  loadgate simulate --listen 127.0.0.1:7001 --terminals 20            the gateway dials ports 7001 to 7020
  loadgate simulate --serial /tmp/line --bitrate 2400 --terminals 4   the gateway opens /tmp/line
  loadgate simulate --radio /tmp/radio --bitrate 9600 --terminals 60  the gateway opens /tmp/radio
"""


BIT_RATES = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0 is wanted")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more is wanted")
    return value


def _place(text: str) -> str:
    from simulators.wire import check_place

    try:
        check_place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _peer(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text}: HOST:PORT is wanted")
    return host.strip("[]"), int(port)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    ways = parser.add_mutually_exclusive_group(required=True)
    way = ways.add_argument
    way("--connect", type=_peer, metavar="HOST:PORT", help="dial the master over TCP")
    way("--udp", type=_peer, metavar="HOST:PORT", help="send the master datagrams, each terminal from its own socket")
    way("--listen", type=_peer, metavar="HOST:PORT", help="be dialled: terminal N listens on PORT + N - 1")
    way("--serial", type=_place, metavar="PATH", help="all terminals at one serial line")
    way("--radio", type=_place, metavar="PATH", help="all terminals on one radio channel: one talks at a time")
    add("--bitrate", type=int, choices=BIT_RATES, metavar="B", help="bit/s of --serial or --radio (9600)")
    add("--unasked", action="store_true", help="with --serial or --radio: log in and report there too")
    add("--terminals", type=_count, metavar="N", help="how many terminals (20, or as the scenario says)")
    add("--first-address", metavar="A", help="address of the first; the others follow (100000000001)")
    add("--meters", type=_count, metavar="M", help="meters behind each terminal (2)")
    add("--scenario", type=Path, metavar="FILE", help="TOML file: make-up, time, tasks, events, faults")
    add("--seed", type=int, metavar="S", help="the same seed gives the same fleet and the same day (1)")
    add("--rate", type=_positive, metavar="R", help="task reports a second of the whole fleet (by task period)")
    add("--speed", type=_positive, metavar="X", help="simulated seconds in a real one (1)")
    add("--duration", type=_positive, metavar="S", help="end after S seconds (run until interrupted)")
    add(
        "--reports-per-terminal",
        type=_count,
        metavar="K",
        help="each terminal makes K reports; end when all are acknowledged",
    )
    add("--drain", type=_positive, default=10.0, metavar="S", help="wait so long for owed answers (10)")
    add("--truth", type=Path, metavar="FILE", help="write every report and acknowledgement as JSON lines")
    add("--show", action="store_true", help="print what displays show and each relay that opens or closes")
    add("--json", action="store_true", help="print the summary as one JSON object")
    add("--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Run the fleet; the exit status."""
    from simulators.scenario import ScenarioError

    try:
        options = _options(args)
        with contextlib.ExitStack() as stack:
            file = None
            if args.truth is not None:
                file = stack.enter_context(args.truth.open("w", encoding="utf-8"))
            show = (sys.stderr if args.json else sys.stdout) if args.show else None
            summary = _run(options, file, quiet=args.quiet, show=show)
    except (ScenarioError, OSError) as error:
        print(f"loadgate simulate: {error}", file=sys.stderr)
        return 2
    _print(summary, as_json=args.json)
    return 0 if summary.complete else 1


def _options(args: argparse.Namespace) -> Options:
    from simulators.fleet import Options

    scenario = _scenario(args)
    return Options(
        **_way(args, scenario),
        scenario=scenario,
        rate=args.rate,
        duration_s=args.duration,
        reports_per_terminal=args.reports_per_terminal,
        drain_s=args.drain,
    )


def _way(args: argparse.Namespace, scenario: Scenario) -> dict[str, Any]:
    """How terminals reach their master, as options of the fleet. Raises ScenarioError for what does not go together."""
    from simulators.scenario import ScenarioError

    for name in ("serial", "radio"):
        place = getattr(args, name)
        if place is None:
            continue
        if args.reports_per_terminal is not None and not args.unasked:
            raise ScenarioError(f"--reports-per-terminal: with --{name} there are reports only with --unasked")
        return {"transport": name, "place": place, "bit_rate": args.bitrate or 9600, "unasked": args.unasked}
    if args.bitrate is not None or args.unasked:
        option = "--unasked" if args.bitrate is None else "--bitrate"
        raise ScenarioError(f"{option}: only with --serial or --radio")
    host, port = args.connect or args.udp or args.listen
    transport = "tcp" if args.connect else "udp" if args.udp else "listen"
    last = port + scenario.fleet.terminals - 1
    if args.listen and last > 65_535:
        raise ScenarioError(f"--listen: {scenario.fleet.terminals} terminals from port {port} on would end at {last}")
    return {"transport": transport, "host": host, "port": port}


def _scenario(args: argparse.Namespace) -> Scenario:
    """The scenario of the file, with what the options say instead. Raises ScenarioError."""
    from datetime import datetime

    import msgspec

    from simulators import scenario as scenarios

    scenario = scenarios.Scenario() if args.scenario is None else scenarios.load(args.scenario)
    changed: dict[str, Any] = msgspec.to_builtins(scenario, builtin_types=(datetime,))
    fleet = {"terminals": args.terminals, "first_address": args.first_address, "meters": args.meters}
    changed["fleet"].update({key: value for key, value in fleet.items() if value is not None})
    if args.seed is not None:
        changed["seed"] = args.seed
    if args.speed is not None:
        changed["time"]["speed"] = args.speed
    try:
        scenario = msgspec.convert(changed, scenarios.Scenario, builtin_types=(datetime,))
    except msgspec.ValidationError as error:
        raise scenarios.ScenarioError(f"options: {error}") from None
    scenarios.check(scenario, "options")
    return scenario


def _run(options: Options, file: Any, *, quiet: bool, show: TextIO | None) -> Summary:
    import uvloop

    from simulators.fleet import Fleet
    from simulators.truth import Truth

    async def main() -> Summary:
        watch = None if show is None else functools.partial(_show, show)
        fleet = Fleet(options, truth=Truth(keep=False, file=file, watch=watch))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        summary: Summary | None = None
        failed: list[Exception] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                progress = None if quiet else tasks.create_task(_progress(fleet, loop.time))
                summary = await fleet.run(stop)
                if progress is not None:
                    progress.cancel()
        except* OSError as group:
            failed += group.exceptions
        if summary is None:
            raise failed[0]
        return summary

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


async def _progress(fleet: Fleet, clock: Callable[[], float]) -> None:
    """A line on stderr every few seconds; on a terminal it is written over."""
    live = sys.stderr.isatty()
    began = clock()
    try:
        while True:
            await asyncio.sleep(1.0 if live else 5.0)
            counters, truth = fleet.counters, fleet.truth
            line = (
                f"{clock() - began:6.0f} s  online {counters.online}/{len(fleet.settings)}"
                f"  reports {truth.made}  acknowledged {truth.acknowledged}  retries {counters.retries}"
                f"  events {counters.events}  requests {counters.requests}"
            )
            print(f"\r\x1b[K{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    finally:
        if live:
            print(file=sys.stderr)


def _show(out: TextIO, seen: TrueControl | TrueSwitch | TrueMessage) -> None:
    """A line for a relay that moved or words on a display, under the terminals' local time."""
    from simulators.stamps import local
    from simulators.truth import TrueMessage, TrueSwitch

    if isinstance(seen, TrueSwitch):
        moved = "opened" if seen.is_open else "closed"
        what = f"relay {seen.relay} {moved} ({seen.cause}): {seen.before_kw:.2f} kW -> {seen.after_kw:.2f} kW"
    elif isinstance(seen, TrueMessage):
        number = "" if seen.number is None else f" {seen.number}"
        what = f"display {seen.kind}{number}: {seen.text}"
    else:
        return
    print(f"{local(seen.time / 1000):%Y-%m-%d %H:%M:%S}  {seen.terminal}  {what}", file=out, flush=True)


def _print(summary: Summary, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print(msgspec.json.encode(summary).decode())
        return
    faults = ", ".join(f"{name} {count}" for name, count in summary.faults.items()) or "none"
    print(
        f"terminals {summary.terminals}  connections {summary.connections}  logins {summary.logins}"
        f"  heartbeats {summary.heartbeats}  in {summary.seconds:.1f} s\n"
        f"reports {summary.reports}  acknowledged {summary.acknowledged}"
        f"  unacknowledged {summary.unacknowledged}  withheld {summary.withheld}"
        f"  retries {summary.retries}  rows {summary.rows}\n"
        f"events {summary.events}  requests answered {summary.requests}  controls {summary.controls}"
        f" (refused {summary.refused_controls})  relays moved {summary.switches}  faults: {faults}"
    )
