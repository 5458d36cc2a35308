"""What an operator's tools ask of a running server: is it alive, is it ready, what are its figures.

It is served at an address of its own, which is not for the world, from before all else is begun until it has ended.
"""

import contextlib
import logging
import os
from collections.abc import AsyncIterator

from aiohttp import web

from att.config.parsers import MAX_PORT
from att.config.settings import ListenAddress
from att.core.process import room_for_connections
from att.core.readiness import Readiness
from att.http.acceptor import Acceptor
from att.http.connections import ConnectionLimiter
from att.http.security_headers import add_security_headers
from att.server.prometheus import Exposition

SPARE_PORTS = 16  # that are tried after the one that is asked for
_STOP_TIMEOUT = 1.0  # seconds for an answer under way

log = logging.getLogger("att")


class Ops:
    """The handlers."""

    def __init__(self, readiness: Readiness, exposition: Exposition) -> None:
        self._readiness = readiness
        self._exposition = exposition

    async def live(self, _request: web.Request) -> web.Response:
        """That the loop turns."""
        return web.json_response({"status": "alive"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Whether requests should be sent here, and if not why: 200 or 503."""
        report = await self._readiness.report()
        return web.json_response(report._asdict(), status=200 if report.is_ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures, as Prometheus reads them."""
        body, content_type = self._exposition.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def ops_application(readiness: Readiness, exposition: Exposition) -> web.Application:
    """The application that is served at --admin-listen."""
    ops = Ops(readiness, exposition)
    app = web.Application()
    app.on_response_prepare.append(_add_headers)
    app.router.add_get("/health/live", ops.live)
    app.router.add_get("/health/ready", ops.ready)
    app.router.add_get("/metrics", ops.metrics)
    return app


@contextlib.asynccontextmanager
async def serving_ops(
    app: web.Application, address: ListenAddress, *, is_hosted: bool = False
) -> AsyncIterator[ListenAddress]:
    """Serve it while the block runs; where. Raises CannotStart.

    Where another program serves us, it may run several of us: then each takes the first port that is free.
    """
    candidates = _candidates(address) if is_hosted else [address]
    runner = web.AppRunner(app, shutdown_timeout=_STOP_TIMEOUT)
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the application has not been set up")
    room = room_for_connections()
    connections = ConnectionLimiter(runner.server, room, room, ())
    doors = Acceptor(connections)
    try:
        bound = await doors.open(*candidates, option="--admin-listen")
        log.info("health and metrics are served on %s", bound)
        yield bound
    finally:
        doors.close()
        connections.stop()
        await runner.cleanup()


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    add_security_headers(response.headers, is_shared=False, is_https=False)


def _candidates(address: ListenAddress) -> list[ListenAddress]:
    """Where to try, one after the other. A unix socket has the process's id at its end."""
    if address.path is not None:
        return [address._replace(path=f"{address.path}.{os.getpid()}")]
    last = min(address.port + SPARE_PORTS, MAX_PORT) if address.port else 0
    return [address._replace(port=port) for port in range(address.port, last + 1)]
