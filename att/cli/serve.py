"""Serving: the process from its first socket to its last."""

import asyncio
import contextlib
import signal

import click
from aiohttp import web

from att import __version__
from att.app import DATABASE, DRAIN, GENERATED, create_app
from att.config.settings import Settings
from att.core.process import collect_less_garbage, room_for_connections
from att.errors import AttError
from att.http.acceptor import Acceptor
from att.http.access_log import REQUEST_LOG
from att.http.bind import check_listeners
from att.http.connections import ConnectionLimiter
from att.http.context import READINESS
from att.http.tls import Certificate
from att.server.drain import Drain
from att.server.gunicorn import announce_administrator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SHUTDOWN_TIMEOUT = 1.0  # seconds for requests for which the drain has not waited


class Stop:
    """The signals that stop the server: one asks, a second one hurries, and the next is the system's.

    Until there is a drain to be hurried, the second one is the system's.
    """

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.drain: Drain | None = None
        self._loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._heard)

    def _heard(self) -> None:
        if self.drain is not None and not self.is_asked.is_set():
            self.is_asked.set()
            return
        self.is_asked.set()
        if self.drain is not None:
            self.drain.hurry()
        for number in STOP_SIGNALS:
            self._loop.remove_signal_handler(number)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one stops at once. Raises what ``create_app`` says, and CannotStart."""
    stop = Stop()
    certificate = _certificate(settings)
    await check_listeners(settings.listen)  # before anything is made that a server would need
    app = create_app(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT)
    try:
        await runner.setup()
        collect_less_garbage()
        try:
            if not stop.is_asked.is_set():
                acceptor = await _open_acceptor(runner, settings, certificate)
                app[DRAIN].watch(acceptor)
                stop.drain = app[DRAIN]
                _announce(acceptor.urls, app[DATABASE].place)
        finally:
            announce_administrator(app[GENERATED])  # also if the address was taken meanwhile: it is nowhere else
        await stop.is_asked.wait()
        await app[DRAIN].run()
    except AttError:
        app[READINESS].draining = True  # nobody has come in, and nobody is to be sent away
        if not stop.is_asked.is_set():  # Ctrl-C reaches the programs that we start as well, and they fail
            raise
    finally:
        await runner.cleanup()


def _certificate(settings: Settings) -> Certificate | None:
    """The one that is read again at SIGHUP. Raises CannotStart."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    certificate = Certificate(settings.tls_cert, settings.tls_key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.reload)
    return certificate


async def _open_acceptor(runner: web.AppRunner, settings: Settings, certificate: Certificate | None) -> Acceptor:
    """Raises CannotStart."""
    if runner.server is None:
        raise RuntimeError("the application has not been set up")
    limits = room_for_connections(), settings.address_connections
    limiter = ConnectionLimiter(runner.server, *limits, settings.trust_proxy, runner.app[REQUEST_LOG])
    acceptor = Acceptor(limiter, certificate)
    await acceptor.open(settings.listen)
    return acceptor


def _announce(urls: list[str], data_place: str) -> None:
    with contextlib.suppress(OSError):  # whoever read our output may have gone
        click.echo(f"att {__version__} listens on {' and '.join(urls)}")
        click.echo(f"data is in {data_place}; stop with Ctrl-C")
