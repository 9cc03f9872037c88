"""The HTTP probes: /metrics for Prometheus, /healthz and /readyz for whoever supervises the process.

/healthz says whether the process should live (503: restart it), /readyz whether it should get terminals
(503: send them elsewhere); both answer `{"ok": false, "reasons": [...]}`. They ask for no password, so
the default is loopback; another address is obeyed and warned about. Connections are bounded: beyond, they
are closed at once and counted.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from gateway.metrics import Metrics, Sample
from gateway.settings_model import split_listen

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Check", "Probes"]

log = structlog.get_logger(__name__)

MAX_CONNECTIONS: Final = 64
_IDLE_S = 75.0  # a connection without a request is closed then
_CLOSE_S = 1.0

Check = Callable[[], Sequence[str]]
"""Why not, in words for people: nothing means all is well. Called on the loop; must not wait."""


class Probes:
    """The HTTP server, open while the `async with` block runs. `listen` "" is off.

    `refused` counts connections above the bound. Raises `ValueError` (not HOST:PORT), `OSError` (address in use).
    """

    def __init__(self, listen: str, metrics: Metrics, health: Check, ready: Check) -> None:
        self.refused = 0
        self._where = split_listen(listen) if listen else None
        self._metrics = metrics
        self._health = health
        self._ready = ready
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._unregister: Callable[[], None] = lambda: None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that are listened on; None when off."""
        if self._server is None or not self._server.sockets:
            return None
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    async def __aenter__(self) -> Self:
        if self._where is None:
            return self
        host, port = self._where
        if not _is_loopback(host):
            log.warning("probes are open to other machines, without a password", host=host, port=port)
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_ready)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, keepalive_timeout=_IDLE_S, shutdown_timeout=_CLOSE_S
        )
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(self._protocol, host, port)
        except BaseException:
            await self._runner.cleanup()
            raise
        self._unregister = self._metrics.register("probes", self._samples)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unregister()
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _protocol(self) -> asyncio.BaseProtocol:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= MAX_CONNECTIONS:
            self.refused += 1
            return _Refusal()
        return server()

    def _samples(self) -> Iterator[Sample]:
        yield Sample("probe_connections_refused", "counter", "HTTP connections above the bound", self.refused)

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _serve_health(self, _request: web.Request) -> web.Response:
        return _answer(self._health)

    async def _serve_ready(self, _request: web.Request) -> web.Response:
        return _answer(self._ready)


class _Refusal(asyncio.Protocol):
    """A connection above the bound: closed as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _answer(check: Check) -> web.Response:
    try:
        reasons = list(check())
    except Exception as exc:
        log.exception("probe check failed")
        reasons = [f"check failed: {type(exc).__name__}"]
    return web.json_response({"ok": not reasons, "reasons": reasons}, status=503 if reasons else 200)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
