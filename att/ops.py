"""What an operator's tools ask of a running server: is it alive, is it ready, what are its figures.

It is served at an address of its own, which is not for the world, from before all else is begun until it has ended.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from att.exposition import Exposition
from att.listeners import open_first
from att.readiness import Readiness
from att.settings import MAX_PORT, Address

NOT_KEPT = {"Cache-Control": "no-store"}
SPARE_PORTS = 16  # that are tried after the one that is asked for
STOP_TIMEOUT = 1.0  # seconds for an answer under way

log = logging.getLogger("att")


class Ops:
    """The handlers."""

    def __init__(self, readiness: Readiness, exposition: Exposition) -> None:
        self._readiness = readiness
        self._exposition = exposition

    async def live(self, _request: web.Request) -> web.Response:
        """That the loop turns."""
        return _json({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Whether requests should be sent here, and if not why: 200 or 503."""
        report = await self._readiness.report()
        return _json(report._asdict(), status=200 if report.is_ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures, as Prometheus reads them."""
        body, content_type = self._exposition.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, **NOT_KEPT})


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers=NOT_KEPT)


def ops_application(readiness: Readiness, exposition: Exposition) -> web.Application:
    """The application that is served at --admin-listen."""
    ops = Ops(readiness, exposition)
    app = web.Application()
    app.router.add_get("/health/live", ops.live)
    app.router.add_get("/health/ready", ops.ready)
    app.router.add_get("/metrics", ops.metrics)
    return app


@contextlib.asynccontextmanager
async def serving_ops(app: web.Application, address: Address, *, is_hosted: bool = False) -> AsyncIterator[Address]:
    """Serve it while the block runs; where. Raises CannotStart.

    Where another program serves us, it may run several of us: then each takes the first port that is free.
    """
    candidates = _candidates(address) if is_hosted else [address]
    found, listeners = await open_first(candidates, "--admin-listen")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT)
    try:
        await runner.setup()
        for listener in listeners:
            await web.SockSite(runner, listener).start()
        bound = found if found.path else found._replace(port=listeners[0].getsockname()[1])
        log.info("health and metrics are served on %s", bound)
        yield bound
    finally:
        _remove_file(found)
        await runner.cleanup()


def _candidates(address: Address) -> list[Address]:
    """Where to try, one after the other. A unix socket has the process's id at its end."""
    if address.path is not None:
        return [address._replace(path=f"{address.path}.{os.getpid()}")]
    last = min(address.port + SPARE_PORTS, MAX_PORT) if address.port else 0
    return [address._replace(port=port) for port in range(address.port, last + 1)]


def _remove_file(address: Address) -> None:
    if address.path is not None:
        Path(address.path).unlink(missing_ok=True)
