"""`loadgate simulate`: a fleet of DL/T 698.45 terminals that dial a master over TCP."""

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
Simulated DL/T 698.45 terminals: they dial HOST:PORT, log in, send heartbeats, upload load curves and freezes,
report events, answer requests, obey load control, and repeat what is not acknowledged. A scenario file adds events,
faults and quirks.
Progress goes to stderr, the summary to stdout. Exit status 0: every report was acknowledged; 1: not; 2: bad usage."""

EXAMPLE = """\
examples:
  loadgate simulate --connect 127.0.0.1:9001 --terminals 20 --speed 60 --duration 60
  loadgate simulate --connect 127.0.0.1:9001 --scenario config/scenarios/faults.toml --truth truth.jsonl
  loadgate simulate --connect 127.0.0.1:9001 --terminals 200 --rate 100 --reports-per-terminal 10 --json
"""


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
    add("--connect", required=True, type=_peer, metavar="HOST:PORT", help="the master to dial")
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

    host, port = args.connect
    return Options(
        host=host,
        port=port,
        scenario=_scenario(args),
        rate=args.rate,
        duration_s=args.duration,
        reports_per_terminal=args.reports_per_terminal,
        drain_s=args.drain,
    )


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
        async with asyncio.TaskGroup() as tasks:
            progress = None if quiet else tasks.create_task(_progress(fleet, loop.time))
            summary = await fleet.run(stop)
            if progress is not None:
                progress.cancel()
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
                f"  events {counters.events}"
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
