"""Tests of the way down: real broker, real sockets, the production event loop. `tests` is no package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
for directory in (HERE, HERE.parent / "protocols", HERE.parent / "e2e"):
    sys.path.insert(0, str(directory))

if TYPE_CHECKING:
    from tests.e2e.node_fixtures import make_node, pytest_asyncio_loop_factories, quiet
else:
    from node_fixtures import make_node, pytest_asyncio_loop_factories, quiet

__all__ = ["make_node", "pytest_asyncio_loop_factories", "quiet"]
