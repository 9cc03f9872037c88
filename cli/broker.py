"""What the commands that talk over MQTT share: their arguments, and a client of their own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiomqtt
from aiomqtt import ProtocolVersion

from gateway.publisher import BrokerOptions
from messages import BadMessage, Message, Topics, decode, encode

FAILED, USAGE = 1, 2
_KEEPALIVE_S: Final = 30


def add_broker(parser: argparse.ArgumentParser) -> None:
    """`--mqtt` and `--prefix`."""
    parser.add_argument("--mqtt", default="mqtt://127.0.0.1:1883", metavar="URL", help="the broker [%(default)s]")
    parser.add_argument("--prefix", default="loadgate/v1", help="first levels of the topics [%(default)s]")


class Line:
    """A connection to the broker: `say` publishes with QoS 1, `hear` gives messages as they come."""

    def __init__(self, client: aiomqtt.Client, prefix: str) -> None:
        self.topics = Topics(prefix)
        self._client = client

    async def subscribe(self, topic_filter: str) -> None:
        """Hear what is said there."""
        await self._client.subscribe(topic_filter, qos=1)

    async def say(self, topic: str, message: Message) -> None:
        """Publish; returns when the broker has it."""
        await self._client.publish(topic, encode(message, "json"), qos=1)

    async def hear(self) -> AsyncIterator[Message]:
        """Messages of the contract; anything else is passed over."""
        async for received in self._client.messages:
            try:
                kind = self.topics.parse(received.topic.value).message
                message: Message = decode(received.payload, kind)
            except BadMessage:
                continue
            yield message


@asynccontextmanager
async def connected(options: BrokerOptions, prefix: str) -> AsyncIterator[Line]:
    """A line to the broker."""
    async with aiomqtt.Client(
        options.host,
        options.port,
        username=options.username,
        password=options.password,
        protocol=ProtocolVersion.V5 if options.protocol == 5 else ProtocolVersion.V311,
        keepalive=_KEEPALIVE_S,
        tls_context=options.tls,
    ) as client:
        yield Line(client, prefix)


def run_with(args: argparse.Namespace, name: str, work: Callable[[BrokerOptions], Awaitable[int]]) -> int:
    """Run `work` with the broker of the arguments; says what is wrong where it cannot be reached."""
    try:
        options = BrokerOptions.from_url(args.mqtt)
    except ValueError as error:
        print(f"loadgate {name}: --mqtt: {error}", file=sys.stderr)
        return USAGE
    try:
        return asyncio.run(_awaited(work(options)))
    except (aiomqtt.MqttError, OSError) as error:
        print(f"loadgate {name}: {options.host}:{options.port}: {error}. Does the broker run there?", file=sys.stderr)
        return FAILED


async def _awaited(work: Awaitable[int]) -> int:
    return await work
