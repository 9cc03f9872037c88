"""`loadgate serve`: run the gateway."""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sqlite3
import sys
from pathlib import Path

from gateway.daemon import Gateway, JournalDied
from gateway.journal_store import JournalLocked, JournalVersionError
from gateway.logs import configure, get_logger
from gateway.settings import Settings, SettingsError, load

_EPILOG = """\
example:
  loadgate serve --listen 0.0.0.0:4000 --mqtt mqtt://127.0.0.1:1883 --data /var/lib/loadgate
  loadgate serve --config /etc/loadgate/gateway.toml

SIGTERM and SIGINT drain: no more is accepted, what is stored is acknowledged and published, then the exit
status is 0. It is 1 when the gateway cannot start or its journal fails, 2 for wrong settings.
"""

FAILED, USAGE = 1, 2
_OTHER_FILES = 200
"""Open files that are no connections of terminals."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `serve`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (TOML); `loadgate config` prints them all"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where terminals connect to (first channel)")
    parser.add_argument("--mqtt", metavar="URL", help="the broker, mqtt://[USER:PASSWORD@]HOST[:PORT]")
    parser.add_argument("--data", metavar="DIR", help="directory of the journal")
    parser.add_argument("--node", metavar="ID", help="name of this node")
    parser.add_argument("--http", metavar="HOST:PORT", help="where /metrics, /healthz and /readyz answer; '' is off")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings file with what the command line says over it. Raises SettingsError."""
    return load(
        args.config,
        {
            "channels.0.listen": args.listen,
            "mqtt.url": args.mqtt,
            "node.data_dir": args.data,
            "node.id": args.node,
            "http.listen": args.http,
        },
    )


def run(args: argparse.Namespace) -> int:
    """Run the gateway until a signal."""
    try:
        settings = settings_of(args)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return USAGE
    configure(settings.log.level, settings.log.format)
    _allow_files(settings)
    try:
        import uvloop

        uvloop.run(_serve(settings))
    except (OSError, sqlite3.Error, JournalVersionError, JournalLocked) as error:
        get_logger(__name__).critical("cannot run", error=str(error))
        return FAILED
    except BaseExceptionGroup as group:
        known, others = group.split((OSError, JournalDied))
        if others is not None or known is None:
            raise
        for leaf in _leaves(known):
            get_logger(__name__).critical("cannot go on", error=str(leaf))
        return FAILED
    return 0


def _allow_files(settings: Settings) -> None:
    """Use as many open files as we are allowed: each connection is one, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sum(channel.max_connections for channel in settings.channels) + _OTHER_FILES
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        get_logger(__name__).warning("fewer open files are allowed than connections", allowed=limit, wanted=wanted)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Gateway(settings).run(stop)
