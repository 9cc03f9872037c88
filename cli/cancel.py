"""`loadgate cancel`: take back a command that has not been sent."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

from msgspec import UNSET

from cli.broker import FAILED, add_broker, connected, run_with
from cli.send import spoken
from gateway.publisher import BrokerOptions
from messages import Ack, CancelRequest

_EPILOG = """\
example:
  loadgate cancel cli-0123456789abcdef
  loadgate cancel dispatch-17 --terminal 112233445566 --node gate-1

The exit status is 0 when the command is cancelled; 1 when it was sent already, has ended, or is not known.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cancel`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("id", metavar="ID", help="identifier of the command")
    parser.add_argument("--terminal", metavar="T", help="of a group command: only this terminal's part")
    parser.add_argument("--node", default="gate-1", metavar="ID", help="the node that has it [%(default)s]")
    parser.add_argument("--by", default=getpass.getuser(), help="who takes it back [%(default)s]")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="wait for the answer [%(default)s]")
    add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Ask for it, and print the status that comes."""
    return run_with(args, "cancel", lambda options: _cancel(options, args))


async def _cancel(options: BrokerOptions, args: argparse.Namespace) -> int:
    request = CancelRequest(command_id=args.id, terminal=args.terminal or UNSET, issued_by=args.by)
    async with connected(options, args.prefix) as line:
        await line.subscribe(line.topics.ack(args.terminal) if args.terminal else line.topics.filter("ack"))
        await line.say(line.topics.cancel(args.node), request)
        try:
            async with asyncio.timeout(args.timeout):
                async for message in line.hear():
                    if isinstance(message, Ack) and message.command_id == args.id:
                        print(spoken(message))
                        return 0 if message.status == "cancelled" else FAILED
        except TimeoutError:
            print(f"loadgate cancel: {args.node} knows no command {args.id}, or does not answer", file=sys.stderr)
    return FAILED
