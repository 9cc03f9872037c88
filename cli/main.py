"""The `loadgate` command: one table of subcommands, each imported only when it is chosen.

A subcommand is a module with `add_arguments(parser)` and `run(args) -> int`. Exit status: 0 done, 1 what was
asked for failed, 2 wrong usage, 130 interrupted, 141 the reader of our output went away.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

__all__ = ["COMMANDS", "main"]

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "decode": ("cli.decode", "explain DL/T 698.45 frames: an annotated tree, or JSON"),
    "encode": ("cli.encode", "turn the JSON of `decode` back into octets"),
    "serve": ("cli.serve", "run the gateway: terminals on every channel to MQTT and back"),
    "simulate": ("cli.simulate", "run simulated terminals: TCP, UDP, serial lines, radio"),
    "demo": ("cli.demo", "show everything at once: broker, gateway, terminals, live view"),
    "watch": ("cli.watch", "print messages from MQTT, decoded"),
    "send": ("cli.send", "give a command to a terminal and follow it"),
    "commands": ("cli.commands", "list the commands that a node has in its ledger"),
    "cancel": ("cli.cancel", "take back a command that has not been sent"),
    "control": ("cli.control", "the kill switch: reject all control, or allow it again"),
    "config": ("cli.config", "print the commented settings file, or check one"),
}
"""Subcommand: its module, and one line of help."""

_EPILOG = """\
example:
  loadgate config > gateway.toml
  loadgate serve --config gateway.toml --listen 0.0.0.0:4000 --mqtt mqtt://127.0.0.1:1883
  loadgate COMMAND --help tells the rest.
"""


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen subcommand's module is imported, the others are a line of help."""
    parser = argparse.ArgumentParser(
        prog="loadgate",
        description="Front-end server (前置机) of a power load-management system: DL/T 698.45 terminals, MQTT.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"loadgate {version('loadgate')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name == chosen:
            loaded = importlib.import_module(module)
            loaded.add_arguments(command)
            command.set_defaults(run=loaded.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (argparse exits by itself: 0 for help, 2 for wrong usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # What stands before the subcommand takes no value, so the first word without a dash is the subcommand.
    chosen = next((word for word in words if not word.startswith("-")), None)
    try:
        parser = _parser(chosen)
        if not words:
            parser.print_help(sys.stderr)
            return USAGE
        args = parser.parse_args(words)
        status = int(args.run(args))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end: let that succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
