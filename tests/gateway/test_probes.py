"""Probes over real HTTP on loopback; and the log, whose secrets and repeats are the probes' neighbours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from gateway import probes as probes_module
from gateway.metrics import Metrics, Sample
from gateway.probes import Probes


@contextlib.asynccontextmanager
async def serving(
    health: list[str], ready: list[str], metrics: Metrics | None = None
) -> AsyncIterator[tuple[Probes, aiohttp.ClientSession, str]]:
    async with (
        Probes("127.0.0.1:0", metrics or Metrics(process=False), lambda: health, lambda: ready) as probes,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http,
    ):
        assert probes.address is not None
        yield probes, http, f"http://127.0.0.1:{probes.address[1]}"


async def test_metrics_page():
    metrics = Metrics()
    metrics.register("a", lambda: [Sample("sessions", "gauge", "Sessions", 12)])
    async with serving([], [], metrics) as (_, http, url), http.get(f"{url}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        values = {
            sample.name: sample.value
            for family in text_string_to_metric_families(await answer.text())
            for sample in family.samples
        }
    assert values["loadgate_sessions"] == 12
    assert values["loadgate_probe_connections_refused_total"] == 0


async def test_health_and_readiness_are_told_apart_and_say_why():
    health: list[str] = []
    ready = ["broker is not connected", "journal is full"]
    async with serving(health, ready) as (_, http, url):
        async with http.get(f"{url}/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ok": True, "reasons": []})
        async with http.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert await answer.json() == {"ok": False, "reasons": ["broker is not connected", "journal is full"]}
        ready.clear()
        health.append("journal writer died")
        async with http.get(f"{url}/readyz") as answer:
            assert answer.status == 200
        async with http.get(f"{url}/healthz") as answer:
            assert (answer.status, (await answer.json())["reasons"]) == (503, ["journal writer died"])


async def test_a_check_that_fails_is_not_well():
    def fails() -> list[str]:
        raise RuntimeError("mqtt://user:hunter2@host")

    async with (
        Probes("127.0.0.1:0", Metrics(process=False), fails, list) as probes,
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{probes.address[1]}/healthz") as answer,  # type: ignore[index]
    ):
        assert (answer.status, (await answer.json())["reasons"]) == (503, ["check failed: RuntimeError"])


async def test_other_paths_and_methods():
    async with serving([], []) as (_, http, url):
        async with http.get(f"{url}/") as answer:
            assert answer.status == 404
        async with http.post(f"{url}/metrics") as answer:
            assert answer.status == 405


async def test_off():
    async with Probes("", Metrics(process=False), list, list) as probes:
        assert probes.address is None


async def test_closed_at_the_end_and_metrics_forget_it():
    metrics = Metrics(process=False)
    async with serving([], [], metrics) as (probes, _, _url):
        assert probes.address is not None
        port = probes.address[1]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert b"probe_connections" not in metrics.exposition()


async def test_address_in_use():
    async with serving([], []) as (_, _, url):
        with pytest.raises(OSError, match="address already in use"):
            async with Probes(url.removeprefix("http://"), Metrics(process=False), list, list):
                pass


async def test_connections_above_the_bound_are_closed_and_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes_module, "MAX_CONNECTIONS", 3)
    async with serving([], []) as (probes, _, url):
        port = int(url.rsplit(":", 1)[1])
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        held = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            async with asyncio.timeout(10):
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            held.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert probes.refused == 1
        for each in (*held, writer):
            each.close()


@pytest.mark.parametrize(
    ("listen", "warnings"), [("127.0.0.1:0", 0), ("localhost:0", 0), ("[::1]:0", 0), ("0.0.0.0:0", 1)]
)
async def test_anything_but_loopback_is_warned_about(listen: str, warnings: int, monkeypatch: pytest.MonkeyPatch):
    """The address is judged, not listened on: tests stay on loopback."""

    async def create_server(factory: object, host: str, port: int) -> None:
        raise OSError(f"not now: {host}")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", create_server)
    with structlog.testing.capture_logs() as logs, pytest.raises(OSError, match="not now"):
        async with Probes(listen, Metrics(process=False), list, list):
            pass
    assert [entry["event"] for entry in logs] == ["probes are open to other machines, without a password"] * warnings


def test_listen_must_be_an_address():
    with pytest.raises(ValueError, match="not HOST:PORT"):
        Probes("9698", Metrics(process=False), list, list)
