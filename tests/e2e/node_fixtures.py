"""What tests of whole gateways share: the production event loop, a quiet log, gateways as processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
import uvloop

if TYPE_CHECKING:
    from tests.e2e.e2e_parts import Node
else:
    from e2e_parts import Node


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that `loadgate serve` uses."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The gateway's log would bury the reason of a failure; tests look at counters and messages."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
async def make_node(tmp_path: Path) -> AsyncIterator[Callable[..., Node]]:
    """Makes gateways as processes of their own, not started yet; what still runs at the end is killed."""
    async with AsyncExitStack() as stack:

        def make(**given: object) -> Node:
            node = Node(tmp_path, given)
            stack.push_async_callback(node.kill)
            return node

        yield make
