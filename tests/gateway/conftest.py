"""Makes `link_side.py` and the terminal's side of the protocol importable; the channel is tested on both loops."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

HERE = Path(__file__).parent
for directory in (HERE, HERE.parent / "protocols", HERE.parent / "e2e"):
    sys.path.insert(0, str(directory))

Factories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Factories:
    """`loadgate serve` runs on uvloop, which treats sockets differently; the rest needs no second loop."""
    factories: Factories = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_tcp_server.py":
        factories["uvloop"] = uvloop.new_event_loop
    return factories
