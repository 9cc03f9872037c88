"""Makes the helpers of other directories importable; channels are tested on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

HERE = Path(__file__).parent
for directory in (HERE, HERE.parent / "gateway", HERE.parent / "protocols", HERE.parent / "e2e"):
    sys.path.insert(0, str(directory))

Factories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Factories:
    """`loadgate serve` runs on uvloop, which treats sockets and devices differently."""
    del item
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
