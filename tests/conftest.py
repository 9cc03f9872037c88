"""Fixtures for all tests: a real MQTT broker.

`tests` is not a package (a dependency installs one of that name), so the module is loaded by its path.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.gateway.mosquitto import Mosquitto

_spec = importlib.util.spec_from_file_location(
    "mosquitto_for_tests", Path(__file__).parent / "gateway" / "mosquitto.py"
)
assert _spec is not None
assert _spec.loader is not None
mosquitto = importlib.util.module_from_spec(_spec)
sys.modules["mosquitto_for_tests"] = mosquitto
_spec.loader.exec_module(mosquitto)


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[[str], Mosquitto]]:
    """Makes brokers with more lines of mosquitto.conf, started; all are stopped at the end."""
    brokers: list[Mosquitto] = []

    def make(extra: str = "") -> Mosquitto:
        broker: Mosquitto = mosquitto.Mosquitto(tmp_path, extra)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[[str], Mosquitto]) -> Mosquitto:
    """A started broker without persistence and limits: host, port, url, stop(), start(), collect(*topics)."""
    return make_broker("")
