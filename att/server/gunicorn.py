"""What we see to when another program serves the application in our place: gunicorn."""

import asyncio
import contextlib
import fcntl
import logging
import signal
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from aiohttp import web

from att.accounts.administrators import AdministratorCredentials
from att.config.options import settings_from_environment
from att.config.settings import ADDRESS_CONNECTIONS, DEFAULT_LISTEN, Settings
from att.core.process import allow_many_files, collect_less_garbage
from att.errors import AttError
from att.http.access_log import REQUEST_LOG, RequestLog
from att.http.connections import LIMITS, ConnectionLimiter
from att.server.drain import Drain
from att.server.logging import set_up_logging

BOOT_ERROR = 3  # the status by which gunicorn knows that starting another worker would not help
_PATIENCE = 3.0  # seconds between the first workers that fail, for the others to get that far, and to be stopped
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # who would have connections of their own has no other way

    class Application(web.Application):
        """One whose connections are ours, whoever has accepted them: they answer what is no HTTP as they always do."""

        def _make_handler(self, **options: Any) -> web.Server:
            return GunicornServer(self[REQUEST_LOG], self._handle, request_factory=self._make_request, **options)


class GunicornServer(web.Server):
    """Makes a connection for each that another program has accepted, and limits what is limited without knowing it."""

    def __init__(self, request_log: RequestLog, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._limiter = ConnectionLimiter(self, sys.maxsize, sys.maxsize, (), request_log)
        self._limiter.start()

    def __call__(self) -> web.RequestHandler:
        quota = self._limiter.acquire(None)
        if quota is None:
            raise RuntimeError("nobody is to be turned away here")
        return self._limiter.open(quota, {**self._kwargs, **LIMITS})

    def pre_shutdown(self) -> None:
        self._limiter.stop()
        super().pre_shutdown()


Context = Callable[[web.Application], AsyncIterator[None]]

log = logging.getLogger("att")


def read_settings() -> Settings:
    """Those of the environment. What is wrong with them ends the process, with one line."""
    try:
        settings = settings_from_environment()
    except click.UsageError as error:
        _fail(" ".join(error.format_message().split()))
    set_up_logging(settings.log_format)
    if settings.listen != DEFAULT_LISTEN or settings.tls_cert is not None:
        log.warning("ATT_LISTEN and ATT_TLS_CERT do nothing here: see the --bind and --certfile of what serves att")
    if settings.address_connections != ADDRESS_CONNECTIONS:
        log.warning("ATT_ADDRESS_CONNECTIONS does nothing here: a proxy before it must see to that")
    return settings


def failing_in_words(context: Context) -> Context:
    """It; but when it cannot begin, the process ends with one line."""

    async def begin(app: web.Application) -> AsyncIterator[None]:
        inner = contextlib.asynccontextmanager(context)(app)
        try:
            await inner.__aenter__()
        except AttError as error:
            _fail(error.why)
        try:
            yield
        finally:
            await inner.__aexit__(None, None, None)

    return begin


def settle() -> None:
    """The application has started."""
    allow_many_files()
    collect_less_garbage()


def hurry_at_next_signal(drain: Drain) -> None:
    """The first signal began the end; another one ends it at once."""
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, drain.hurry)


def announce_administrator(generated: AdministratorCredentials | None) -> None:
    """Say with which password the first administrator was made, if it was made up."""
    if generated is not None:
        with contextlib.suppress(OSError):  # whoever read our output may have gone
            click.echo(f"the administrator is {generated.login} with the password {generated.password} (shown once)")


def _fail(message: str) -> NoReturn:
    """Say it and end, as the first worker that does so, or as gunicorn tells the others to.

    gunicorn stops when one has ended with ``BOOT_ERROR``; of a second one it would make a traceback.
    """
    click.echo(f"att: {message}", err=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Path(__file__).open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        time.sleep(_PATIENCE)
        sys.exit(BOOT_ERROR)
