"""The listener for operators: liveness, readiness and metrics, at an address that is not public.

It is the first part to start and the last to stop.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CollectorRegistry

from att.config.parsers import MAX_PORT
from att.config.settings import ListenAddress
from att.core.process import room_for_connections
from att.core.readiness import Readiness
from att.http.acceptor import Acceptor
from att.http.connections import ConnectionLimiter
from att.http.security_headers import add_security_headers
from att.server.prometheus import page

SPARE_PORTS = 16  # tried after the given one
_STOP_TIMEOUT = 1.0  # seconds for requests in flight

log = logging.getLogger("att")


class AdminHandlers:
    """Handlers for the operator's tools."""

    def __init__(self, readiness: Readiness, registry: CollectorRegistry) -> None:
        self._readiness = readiness
        self._registry = registry

    async def live(self, _request: web.Request) -> web.Response:
        """Answer, which shows that the event loop runs."""
        return web.json_response({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 200 if requests should be sent here, else 503 and the reason."""
        report = await self._readiness.report()
        return web.json_response(report._asdict(), status=200 if report.is_ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the metrics in a format of Prometheus."""
        body, content_type = page(self._registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def admin_application(readiness: Readiness, registry: CollectorRegistry) -> web.Application:
    """Return the application for --admin-listen."""
    handlers = AdminHandlers(readiness, registry)
    app = web.Application()
    app.on_response_prepare.append(_add_headers)
    app.router.add_get("/health/live", handlers.live)
    app.router.add_get("/health/ready", handlers.ready)
    app.router.add_get("/metrics", handlers.metrics)
    return app


@contextlib.asynccontextmanager
async def serve_admin(
    app: web.Application, address: ListenAddress, *, is_hosted: bool = False
) -> AsyncIterator[ListenAddress]:
    """Serve it while the block runs; yield its address. Raises CannotStart.

    A hosting program may run several workers, so each of them takes the first free port.
    """
    candidates = _candidates(address) if is_hosted else [address]
    runner = web.AppRunner(app, shutdown_timeout=_STOP_TIMEOUT)
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the application has not been set up")
    limit = room_for_connections()
    limiter = ConnectionLimiter(runner.server, limit, limit, ())
    acceptor = Acceptor(limiter)
    try:
        bound = await acceptor.open(*candidates, option="--admin-listen")
        log.info("health and metrics are served on %s", bound)
        yield bound
    finally:
        acceptor.close()
        limiter.stop()
        await runner.cleanup()


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    add_security_headers(response.headers, is_shared=False, is_https=False)


def _candidates(address: ListenAddress) -> list[ListenAddress]:
    """Return the addresses to try in order. The path of a Unix socket ends with the process id."""
    if address.path is not None:
        return [address._replace(path=f"{address.path}.{os.getpid()}")]
    last = min(address.port + SPARE_PORTS, MAX_PORT) if address.port else 0
    return [address._replace(port=port) for port in range(address.port, last + 1)]
