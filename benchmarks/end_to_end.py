"""End to end: reports over TCP to a real mosquitto, in a closed loop; generator and broker on the same machine.

    python benchmarks/end_to_end.py [--seconds S] [--json FILE]

For each load: reports a second, CPU of the gateway a report, and the time from a report to its acknowledgement (which
comes after the commit to disk). A figure without its load says nothing: CPU a report falls as the load grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulators.load import LoadOptions, run_load

LOADS = ((100, 8, 1), (100, 8, 10), (2000, 1, 1))
"""(terminals, window of each, rows of a report)."""
HOST = "127.0.0.1"
START_S = 15.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Wait until something listens there."""
    end = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((HOST, port), 1.0).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, stopped at the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure(terminals: int, window: int, rows: int, seconds: float) -> dict[str, float]:
    """One load against a fresh gateway and broker."""
    mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert mosquitto is not None, "mosquitto is not installed"
    with tempfile.TemporaryDirectory() as directory:
        broker, listen = free_port(), free_port()
        conf = Path(directory) / "mosquitto.conf"
        conf.write_text(
            f"listener {broker} {HOST}\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_inflight_messages 0\nmax_queued_messages 0\n"
        )
        serve = [sys.executable, "-m", "cli.main", "serve", "--listen", f"{HOST}:{listen}", "--http", ""]
        with (
            process(mosquitto, "-c", str(conf)),
            process(*serve, "--mqtt", f"mqtt://{HOST}:{broker}", "--data", directory) as gateway,
        ):
            wait_for(broker)
            wait_for(listen)
            options = LoadOptions(HOST, listen, terminals, window, rows, seconds)
            before = cpu_seconds(gateway.pid)
            result = asyncio.run(run_load(options))
            spent = cpu_seconds(gateway.pid) - before
            share = seconds / (seconds + options.warmup_s)
            return {
                "reports_per_s": result.rate,
                "cpu_us_per_report": spent * share / max(result.acknowledged, 1) * 1e6,
                "p50_ms": result.quantile(0.5) * 1e3,
                "p99_ms": result.quantile(0.99) * 1e3,
                "rss_mib": rss_mib(gateway.pid),
            }


def main() -> int:
    """Print the table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    args = parser.parse_args()
    results = {}
    names = ("reports_per_s", "cpu_us_per_report", "p50_ms", "p99_ms", "rss_mib")
    print(f"{'terminals × window, rows':26}" + "".join(f"{name:>20}" for name in names))
    for terminals, window, rows in LOADS:
        figures = results[f"{terminals}x{window}x{rows}"] = measure(terminals, window, rows, args.seconds)
        print(
            f"{f'{terminals} × {window}, {rows}':26}" + "".join(f"{figures[name]:20.1f}" for name in names), flush=True
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
