"""`loadgate send`: give a command to a terminal or a group, and follow it."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from cli.broker import FAILED, USAGE, Line, add_broker, connected, run_with
from gateway.publisher import BrokerOptions
from messages import Ack, Command, class_of_verb, encode

_EPILOG = """\
Arguments of the verb stand as key=value (a value is read as JSON where it is JSON, else as text) or in one --json
object; docs/commands.md lists them all. TERMINAL may also be group:NAME or channel:NAME.

example:
  loadgate send 112233445566 read points='["voltage","active_energy_import"]' --wait
  loadgate send 112233445566 trip relays='[{"relay":1,"alarm_delay_min":1}]' --approvals chief.li --wait
  loadgate send 112233445566 message level=normal number=1 text='请错峰用电' --wait
  loadgate send group:east power_guarantee on=true
  loadgate send channel:tcp set_clock

With --wait every status is printed as it comes; the exit status is 0 only when the last one is good: succeeded, or
verified for a control whose effect is read back; for a group, when that is so for all its terminals.
"""

_GOOD = frozenset({"succeeded", "verified"})
_GRACE_S = 30.0
_QUIET_S = 2.0
"""A group has told everything when all members heard of are done and nothing came for so long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `send`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("terminal", metavar="TERMINAL", help="address of the terminal, group:NAME or channel:NAME")
    parser.add_argument("verb", metavar="VERB", help="what to do, such as read, set_clock, trip")
    parser.add_argument("pairs", nargs="*", metavar="key=value", help="arguments of the verb")
    parser.add_argument("--json", metavar="ARGS", dest="json_args", help="arguments of the verb as one JSON object")
    parser.add_argument("--expires", type=float, default=300.0, metavar="S", help="not to be sent later [%(default)s]")
    parser.add_argument("--approvals", default="", metavar="NAME,NAME", help="who approved it")
    parser.add_argument("--priority", type=int, default=5, choices=range(10), help="9 goes first [%(default)s]")
    parser.add_argument("--no-verify", action="store_true", help="do not read the effect of a control back")
    parser.add_argument("--id", help="identifier; the same id with the same content is the same command")
    parser.add_argument("--by", default=getpass.getuser(), help="who gives the order [%(default)s]")
    parser.add_argument("--wait", action="store_true", help="print every status; until the last")
    parser.add_argument("--timeout", type=float, metavar="S", help="with --wait: give up after so long")
    parser.add_argument("--output", choices=("text", "json"), default="text", help="form of the statuses")
    add_broker(parser)


def run(args: argparse.Namespace) -> int:
    """Send it."""
    command_class = class_of_verb(args.verb)
    if command_class is None:
        print(f"loadgate send: no verb {args.verb!r}; docs/commands.md lists them", file=sys.stderr)
        return USAGE
    try:
        arguments = arguments_of(args.pairs, args.json_args)
    except ValueError as error:
        print(f"loadgate send: {error}", file=sys.stderr)
        return USAGE
    command = Command(
        id=args.id or f"cli-{uuid.uuid4().hex[:16]}",
        verb=args.verb,
        args=arguments,
        issued_by=args.by,
        expires_at=int((time.time() + args.expires) * 1000),
        priority=args.priority,
        verify=not args.no_verify,
        approvals=[name.strip() for name in args.approvals.split(",") if name.strip()],
    )
    return run_with(args, "send", lambda options: _send(options, args, command, command_class))


def arguments_of(pairs: list[str], as_json: str | None) -> dict[str, Any]:
    """Arguments from `key=value` words over a JSON object. Raises ValueError."""
    arguments: dict[str, Any] = {}
    if as_json is not None:
        try:
            loaded = json.loads(as_json)
        except json.JSONDecodeError as error:
            raise ValueError(f"--json: {error}") from None
        if not isinstance(loaded, dict):
            raise ValueError('--json: an object is expected, such as \'{"points": ["voltage"]}\'')
        arguments |= loaded
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r}: key=value is expected")
        try:
            arguments[key] = json.loads(value)
        except json.JSONDecodeError:
            arguments[key] = value
    return arguments


async def _send(options: BrokerOptions, args: argparse.Namespace, command: Command, command_class: Any) -> int:
    async with connected(options, args.prefix) as line:
        topics = line.topics
        kind, _, name = args.terminal.partition(":")
        if kind == "group" and name:
            topic = topics.group_command(name) if command_class == "control" else topics.group_config(name)
            heard = topics.filter("ack")
        elif kind == "channel" and name:
            topic, heard = topics.group_config(f"channel.{name}"), ""
        else:
            topic = topics.command(args.terminal, command_class)
            heard = topics.ack(args.terminal)
        if args.wait and heard:
            await line.subscribe(heard)
        await line.say(topic, command)
        last: dict[str, Ack] = {}
        if not args.wait or not heard:
            print(command.id)
            return 0
        limit = args.timeout if args.timeout is not None else args.expires + _GRACE_S
        try:
            async with asyncio.timeout(limit) as patience:
                async for ack in _statuses(line, command, several=kind == "group" and bool(name)):
                    print(encode(ack, "json").decode() if args.output == "json" else spoken(ack), flush=True)
                    last[ack.terminal] = ack
                    if args.timeout is None:
                        patience.reschedule(None)  # it is taken on: its last status comes, however late
        except TimeoutError:
            print(f"loadgate send: no final status of {command.id} within {limit:g} s", file=sys.stderr)
            return FAILED
    return 0 if last and all(ack.status in _GOOD for ack in last.values()) else FAILED


async def _statuses(line: Line, command: Command, *, several: bool) -> AsyncIterator[Ack]:
    """Statuses as they come, until the last: of a group, until all terminals that have told something are done."""
    under_way: dict[str, bool] = {}
    messages = line.hear()
    while True:
        done = bool(under_way) and not any(under_way.values())
        if done and not several:
            return
        try:
            async with asyncio.timeout(_QUIET_S if done else None):
                message = await anext(messages)
        except TimeoutError:
            if done:
                return
            raise
        if isinstance(message, Ack) and message.command_id == command.id:
            under_way[message.terminal] = not message.final
            yield message


def spoken(ack: Ack) -> str:
    """One status for a person."""
    at = time.strftime("%H:%M:%S", time.localtime(ack.at / 1000))
    words = [at, ack.terminal, ack.status]
    if ack.latency_ms is not None:
        words.append(f"{ack.latency_ms} ms")
    if ack.error is not None:
        code = f" (DAR {ack.error.code})" if ack.error.code is not None else ""
        words.append(f"{ack.error.name}{code}: {ack.error.text}")
    if ack.result is not None:
        words.append(json.dumps(msgspec.to_builtins(ack.result), ensure_ascii=False))
    return "  ".join(words)
