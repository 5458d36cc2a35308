"""The server process, from its first socket to its last."""

import asyncio
import contextlib
import signal

import click
from aiohttp import web

from att import __version__
from att.app import DATABASE, create_app
from att.config.settings import Settings
from att.core.process import collect_less_garbage, return_large_blocks, room_for_connections
from att.errors import AttError
from att.http.acceptor import Acceptor
from att.http.access_log import REQUEST_LOG
from att.http.bind import check_listeners
from att.http.connections import ConnectionLimiter
from att.http.context import MEMORY, READ_TURNS, READINESS
from att.http.tls import Certificate
from att.server.drain import DRAIN, Drain
from att.server.gunicorn import GENERATED, announce_administrator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SHUTDOWN_TIMEOUT = 1.0  # seconds for requests for which the drain has not waited


class StopSignals:
    """Signals that stop the server: the first asks for it, the second hurries the drain, the next is the system's.

    Before there is a drain, the second one is the system's.
    """

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.drain: Drain | None = None
        self._loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.drain is not None and not self.is_asked.is_set():
            self.is_asked.set()
            return
        self.is_asked.set()
        if self.drain is not None:
            self.drain.hurry()
        for number in STOP_SIGNALS:
            self._loop.remove_signal_handler(number)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart, and the errors of the application's start."""
    stop = StopSignals()
    certificate = _certificate(settings)
    await check_listeners(settings.listen)  # a taken address fails before a database is made
    app = create_app(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    try:
        await runner.setup()
        collect_less_garbage()
        return_large_blocks()
        try:
            if not stop.is_asked.is_set():
                acceptor = await _open_acceptor(runner, settings, certificate)
                app[DRAIN].add_acceptor(acceptor)
                stop.drain = app[DRAIN]
                _announce(acceptor.urls, app[DATABASE].place)
        finally:
            announce_administrator(app[GENERATED])  # even if the address is taken: the password is stored nowhere else
        await stop.is_asked.wait()
        await app.shutdown()  # drains, before the runner closes idle connections
    except AttError:
        app[READINESS].draining = True  # there is nobody to drain
        if not stop.is_asked.is_set():  # Ctrl-C also reaches the programs that we start, and they fail
            raise
    finally:
        await runner.cleanup()


def _certificate(settings: Settings) -> Certificate | None:
    """Return the certificate, which SIGHUP reloads. Raises CannotStart."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    certificate = Certificate(settings.tls_cert, settings.tls_key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.reload)
    return certificate


async def _open_acceptor(runner: web.AppRunner, settings: Settings, certificate: Certificate | None) -> Acceptor:
    """Start to accept connections. Raises CannotStart."""
    if runner.server is None:
        raise RuntimeError("the application has not been set up")
    limits = room_for_connections(), settings.address_connections
    app = runner.app
    limiter = ConnectionLimiter(
        runner.server, *limits, settings.trust_proxy, app[REQUEST_LOG], app[MEMORY], app[READ_TURNS]
    )
    acceptor = Acceptor(limiter, certificate)
    await acceptor.open(settings.listen)
    return acceptor


def _announce(urls: list[str], data_place: str) -> None:
    with contextlib.suppress(OSError):  # the reader of our output may be gone
        click.echo(f"att {__version__} listens on {' and '.join(urls)}")
        click.echo(f"data is in {data_place}; stop with Ctrl-C")
        if not urls[0].startswith("unix:"):
            click.echo(f"the API's documentation is at {urls[0]}/docs")
