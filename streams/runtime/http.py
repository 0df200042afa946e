"""/metrics and /healthz of a worker, and what its stages add."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams.runtime.health import Health
from streams.runtime.metrics import Metrics


class HealthServer:
    """Serves a worker's metrics and health.

    Parameters
    ----------
    metrics : Metrics
        What /metrics shows.
    health : Health
        What /healthz answers: 200 when the worker is ready and no fault lasts, else 503 with the
        reasons.
    host, port : str, int
        Where to listen; port 0 picks a free one.
    routes : sequence of RouteDef
        Further routes.
    """

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        *,
        host: str,
        port: int,
        routes: Sequence[web.AbstractRouteDef] = (),
    ) -> None:
        self._routes = tuple(routes)
        self._metrics = metrics
        self._health = health
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; return the port."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_routes(self._routes)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        address = self._runner.addresses[0]
        return int(address[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(
            body=generate_latest(self._metrics.registry),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    async def _serve_health(self, request: web.Request) -> web.Response:
        del request
        healthy, report = self._health.report()
        return web.json_response(report, status=200 if healthy else 503)
