"""`loadgate control`: the kill switch of a node."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

from cli.broker import FAILED, add_broker, connected, run_with
from gateway.publisher import BrokerOptions
from messages import ControlSwitch, NodeStatus

_EPILOG = """\
example:
  loadgate control off --reason 'dispatch system maintenance'
  loadgate control on
  loadgate control status

`off` rejects every control at once, those that wait included, and stays off over restarts, until `on`. Queries and
configuration go on. Relays stay as they are.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `control`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("on", "off", "status"), help="turn control on or off, or say how it is")
    parser.add_argument("--node", default="gate-1", metavar="ID", help="the node [%(default)s]")
    parser.add_argument("--by", default=getpass.getuser(), help="who turns it [%(default)s]")
    parser.add_argument("--reason", default="", help="for the log")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="wait for the answer [%(default)s]")
    add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Turn it, and wait until the node says that it is so."""
    return run_with(args, "control", lambda options: _control(options, args))


async def _control(options: BrokerOptions, args: argparse.Namespace) -> int:
    async with connected(options, args.prefix) as line:
        await line.subscribe(line.topics.node_status(args.node))
        if args.what != "status":
            switch = ControlSwitch(control=args.what, issued_by=args.by, reason=args.reason)
            await line.say(line.topics.control_switch(args.node), switch)
        try:
            async with asyncio.timeout(args.timeout):
                async for message in line.hear():
                    if not isinstance(message, NodeStatus):
                        continue
                    if args.what in ("status", message.control):
                        print(f"{message.node}: {message.status}, control {message.control}")
                        return 0
        except TimeoutError:
            print(f"loadgate control: node {args.node} does not answer", file=sys.stderr)
    return FAILED
