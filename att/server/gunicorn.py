"""Support for gunicorn, which serves the application in place of ``att-server``."""

import asyncio
import contextlib
import fcntl
import logging
import signal
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import click
from aiohttp import web

from att.accounts.administrators import AdministratorCredentials
from att.config.options import settings_from_environment
from att.config.settings import ADDRESS_CONNECTIONS, DEFAULT_LISTEN, Settings
from att.core.memory import MemoryBudget
from att.core.process import allow_many_files, collect_less_garbage, return_large_blocks
from att.core.read_turns import ReadTurns
from att.errors import AttError
from att.http.access_log import REQUEST_LOG, RequestLog
from att.http.connections import LIMITS, ConnectionLimiter
from att.http.context import MEMORY, READ_TURNS
from att.server.drain import DRAIN
from att.server.logging import set_up_logging

BOOT_ERROR = 3  # exit status that tells gunicorn not to start another worker
_EXIT_PAUSE = 3.0  # seconds between exits of failing workers, for gunicorn to stop the others
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the only way to connections of our own class

    class Application(web.Application):
        """Application whose connections are ours, so that requests that are not HTTP get the usual answers."""

        def _make_handler(self, **options: Any) -> web.Server:
            shared = self[REQUEST_LOG], self[MEMORY], self[READ_TURNS]
            return GunicornServer(shared, self._handle, request_factory=self._make_request, **options)


class GunicornServer(web.Server):
    """Opens a connection of ours for each one that gunicorn accepts. The time limits apply; the counts do not."""

    def __init__(self, shared: tuple[RequestLog, MemoryBudget, ReadTurns], *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._limiter = ConnectionLimiter(self, sys.maxsize, sys.maxsize, (), *shared)
        self._limiter.start()

    def __call__(self) -> web.RequestHandler:
        quota = self._limiter.acquire(None)
        if quota is None:
            raise RuntimeError("a limiter without limits has refused a connection")
        return self._limiter.open(quota, {**self._kwargs, **LIMITS})

    def pre_shutdown(self) -> None:
        self._limiter.stop()
        super().pre_shutdown()


Context = Callable[[web.Application], AsyncIterator[None]]

GENERATED: web.AppKey[AdministratorCredentials | None] = web.AppKey("generated", AdministratorCredentials)

log = logging.getLogger("att")


def read_settings() -> Settings:
    """Return the settings of the environment. If they are wrong, end the process with one line."""
    try:
        settings = settings_from_environment()
    except click.UsageError as error:
        _fail(" ".join(error.format_message().split()))
    set_up_logging(settings.log_format)
    if settings.listen != DEFAULT_LISTEN or settings.tls_cert is not None:
        log.warning("ATT_LISTEN and ATT_TLS_CERT do nothing here: use gunicorn's --bind and --certfile")
    if settings.address_connections != ADDRESS_CONNECTIONS:
        log.warning("ATT_ADDRESS_CONNECTIONS does nothing here: set such a limit in the proxy")
    return settings


def set_up(app: web.Application, contexts: Iterable[Context]) -> None:
    """Add the contexts of an application that gunicorn serves, and what ``att-server`` does besides."""
    app.cleanup_ctx.extend(_exiting(context) for context in contexts)
    app.on_startup.append(_after_start)
    app.on_shutdown.append(_hurry_at_next_signal)


def _exiting(context: Context) -> Context:
    """Return a context that ends the process with one line if it cannot start."""

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


async def _after_start(app: web.Application) -> None:
    announce_administrator(app[GENERATED])
    allow_many_files()
    collect_less_garbage()
    return_large_blocks()


async def _hurry_at_next_signal(app: web.Application) -> None:
    """End the drain at the next signal; the first one has begun it."""
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, app[DRAIN].hurry)


def announce_administrator(generated: AdministratorCredentials | None) -> None:
    """Print the password of the first administrator, if it was generated."""
    if generated is not None:
        with contextlib.suppress(OSError):  # the reader of our output may be gone
            click.echo(f"the administrator is {generated.login} with the password {generated.password} (shown once)")


def _fail(message: str) -> NoReturn:
    """Print the message and exit with ``BOOT_ERROR``, one worker at a time.

    gunicorn stops at the first such exit, and would print a traceback for a second one.
    """
    click.echo(f"att: {message}", err=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Path(__file__).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(_EXIT_PAUSE)
        sys.exit(BOOT_ERROR)
