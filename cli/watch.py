"""`loadgate watch`: print what is on MQTT, decoded."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import datetime
from typing import Any

import aiomqtt
import msgpack
from aiomqtt import ProtocolVersion

from gateway.publisher import BrokerOptions
from messages import BadMessage, Message, Topics, decode, encode

_EPILOG = """\
FILTER is an MQTT topic filter, or the address of a terminal. The default is everything below the prefix.

example:
  loadgate watch
  loadgate watch 112233445566 --mqtt mqtt://127.0.0.1:1883
  loadgate watch 'loadgate/v1/terminal/+/alarm' --json | jq .event
"""

FAILED, USAGE = 1, 2
_SHOWN_COLUMNS = 12
_KEEPALIVE_S = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `watch`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("filter", nargs="?", metavar="FILTER", help="topic filter or terminal address")
    parser.add_argument("--mqtt", default="mqtt://127.0.0.1:1883", metavar="URL", help="the broker [%(default)s]")
    parser.add_argument("--prefix", default="loadgate/v1", help="first levels of the topics [%(default)s]")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: {topic, message}")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N messages")


def run(args: argparse.Namespace) -> int:
    """Watch until interrupted."""
    try:
        options = BrokerOptions.from_url(args.mqtt)
    except ValueError as error:
        print(f"loadgate watch: --mqtt: {error}", file=sys.stderr)
        return USAGE
    topic_filter = args.filter or f"{args.prefix}/#"
    if "/" not in topic_filter and topic_filter not in ("#", "+"):
        topic_filter = f"{args.prefix}/terminal/{topic_filter}/#"
    try:
        asyncio.run(_watch(options, topic_filter, args))
    except (aiomqtt.MqttError, OSError) as error:
        print(f"loadgate watch: {options.host}:{options.port}: {error}. Does the broker run there?", file=sys.stderr)
        return FAILED
    return 0


async def _watch(options: BrokerOptions, topic_filter: str, args: argparse.Namespace) -> None:
    topics = Topics(args.prefix)
    left = args.count
    async with aiomqtt.Client(
        options.host,
        options.port,
        username=options.username,
        password=options.password,
        protocol=ProtocolVersion.V5,
        keepalive=_KEEPALIVE_S,
        tls_context=options.tls,
    ) as client:
        await client.subscribe(topic_filter, qos=1)
        async for received in client.messages:
            print(line(topics, received.topic.value, received.payload, as_json=args.json), flush=True)
            if left is not None:
                left -= 1
                if left == 0:
                    return


def line(topics: Topics, topic: str, payload: bytes, *, as_json: bool) -> str:
    """One message for a person, or as JSON."""
    try:
        kind = topics.parse(topic).message
        message: Message | None = decode(payload, kind)
    except BadMessage as error:
        message, problem = None, str(error)
    else:
        problem = ""
    if as_json:
        content: Any = json.loads(encode(message, "json")) if message is not None else _any(payload)
        return json.dumps({"topic": topic, "message": content}, ensure_ascii=False)
    if message is None:
        return f"{topic}  {_any(payload)}  ({problem})"
    return _spoken(topic, json.loads(encode(message, "json")))


def _any(payload: bytes) -> Any:
    """What a payload holds that is no message of the contract; its octets where it is not even MessagePack or JSON."""
    try:
        return json.loads(payload) if payload[:1] == b"{" else msgpack.unpackb(payload, strict_map_key=False)
    except ValueError:
        return payload.hex()


def _spoken(topic: str, message: dict[str, Any]) -> str:
    """`time  terminal  kind  what`, one line a row of values."""
    kind = topic.rsplit("/", 1)[-1]
    head = f"{_clock(message.get('received_at'))}  {message.get('terminal', message.get('node', ''))}  {kind:8}"
    if kind == "reading":
        names = [column["name"] for column in message["columns"]]
        units = [column["unit"] or "" for column in message["columns"]]
        return "\n".join(
            f"{head}  {message['series']} {row[0] or 'own'} {_clock(row[1])}  {_values(names, row[2:], units)}"
            for row in message["rows"]
        )
    if kind == "alarm":
        what = f"{message['severity']} {message['event']} {message['transition']}"
        return f"{head}  {what} at {_clock(message['occurred_at'])} {message['meter'] or ''} {message['values'] or ''}"
    if kind == "state":
        return f"{head}  {message['presence']} ({message['reason']}) {message['peer'] or ''}"
    if kind == "ack":
        return f"{head}  {message['command_id']} {message['verb']} {message['status']} {message['error'] or ''}"
    return f"{head}  {json.dumps(message, ensure_ascii=False)}"


def _values(names: list[str], values: list[Any], units: list[str]) -> str:
    shown = [
        f"{name}={value}{unit}" for name, value, unit in zip(names, values, units, strict=True) if value is not None
    ]
    more = len(shown) - _SHOWN_COLUMNS
    return " ".join(shown[:_SHOWN_COLUMNS]) + (f" … {more} more" if more > 0 else "")


def _clock(instant: int | None) -> str:
    """Local time of an instant in ms."""
    return datetime.fromtimestamp(instant / 1000).astimezone().strftime("%m-%d %H:%M:%S") if instant else "-"
