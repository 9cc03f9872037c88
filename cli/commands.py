"""`loadgate commands`: what the ledger of a node says."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cli.send import spoken
from gateway.journal_store import connect_reader
from gateway.settings import SettingsError, load
from messages import STATUSES, Ack

_EPILOG = """\
Reads the journal's file, whether the gateway runs or not.

example:
  loadgate commands --data /var/lib/loadgate --terminal 112233445566
  loadgate commands --config gateway.toml --status unknown --json
  loadgate commands --data data --id cli-0123456789abcdef      every status of one command
"""

FAILED, USAGE = 1, 2
_PLAIN_WIDTH = 200
"""Columns where the output is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `commands`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, for the place of the journal")
    parser.add_argument("--data", metavar="DIR", help="directory of the journal")
    parser.add_argument("--terminal", metavar="T", help="only this terminal's")
    parser.add_argument("--status", choices=sorted(STATUSES), help="only those that stand there")
    parser.add_argument("--id", metavar="ID", help="every status of this command")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="the newest N [%(default)s]")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: the Acks")


def run(args: argparse.Namespace) -> int:
    """List them."""
    try:
        settings = load(args.config, {"node.data_dir": args.data})
    except SettingsError as error:
        print(error, file=sys.stderr)
        return USAGE
    path = settings.journal_path
    if not path.exists():
        print(f"loadgate commands: there is no journal {path}; give --data or --config", file=sys.stderr)
        return FAILED
    try:
        acks = _acks(path, args)
    except sqlite3.Error as error:
        print(f"loadgate commands: {path}: {error}", file=sys.stderr)
        return FAILED
    if args.json:
        for ack in acks:
            print(json.dumps(msgspec.to_builtins(ack), ensure_ascii=False))
    elif args.id:
        for ack in acks:
            print(spoken(ack))
    else:
        _show(acks)
    return 0


def _acks(path: Path, args: argparse.Namespace) -> list[Ack]:
    conditions, values = ["1"], []
    for column, value in (("terminal", args.terminal), ("status", args.status), ("id", args.id)):
        if value is not None and not (args.id and column == "status"):
            conditions.append(f"{column} = ?")
            values.append(value)
    table, order = ("command_status", "seq") if args.id else ("command", "at DESC")
    where = " AND ".join(conditions)
    sql = f"SELECT ack FROM {table} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608 (columns are ours)
    connection = connect_reader(path)
    try:
        rows: list[Any] = connection.execute(sql, (*values, args.limit)).fetchall()
    finally:
        connection.close()
    return [msgspec.json.decode(row[0], type=Ack) for row in rows]


def _show(acks: list[Ack]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("at", "id", "terminal", "verb", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("tries", justify="right")
    table.add_column("ms", justify="right")
    table.add_column("error", overflow="ellipsis", no_wrap=True)
    for ack in acks:
        at = time.strftime("%m-%d %H:%M:%S", time.localtime(ack.at / 1000))
        error = f"{ack.error.name}: {ack.error.text}" if ack.error is not None else ""
        status = ack.status if ack.final else f"{ack.status} …"
        latency = "" if ack.latency_ms is None else str(ack.latency_ms)
        table.add_row(at, ack.command_id, ack.terminal, ack.verb, status, str(ack.attempts), latency, error)
    console.print(table)
