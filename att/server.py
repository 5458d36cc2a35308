"""Serving: the process from its first socket to its last."""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from att import __version__
from att.administrators import Credentials
from att.app import DATABASE, GENERATED, create_app
from att.errors import AttError, CannotStart
from att.settings import Address, Settings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DRAIN_TIMEOUT = 10.0  # seconds for requests in flight when the server stops
# New objects after which Python looks for garbage that refers to itself, of which we make next to none; by itself it
# does so after 700, which a few requests make, and takes an eighth of our time for it.
GARBAGE_THRESHOLD = 20_000


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one stops at once. Raises what ``create_app`` says, and CannotStart."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _stop, stop, loop)
    app = create_app(settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_TIMEOUT)
    try:
        await runner.setup()
        _collect_less_garbage()
        try:
            if not stop.is_set():
                await _listen(runner, settings.listen)
                _announce(runner, app[DATABASE].place)
        finally:
            _announce_administrator(app[GENERATED])  # also when we cannot listen: the password is nowhere else
        if not stop.is_set():
            await stop.wait()
            _remove_socket_file(settings.listen)
    except AttError:
        if not stop.is_set():  # Ctrl-C reaches the programs that we start as well, and they fail
            raise
    finally:
        await runner.cleanup()


def _stop(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    stop.set()
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)


def _collect_less_garbage() -> None:
    """What has been loaded by now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)


async def _listen(runner: web.AppRunner, address: Address) -> None:
    try:
        if address.path is None:
            await web.TCPSite(runner, address.host, address.port).start()
        else:
            _check_unclaimed(address.path)
            await web.UnixSite(runner, address.path).start()
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(address, error) from error


def _announce(runner: web.AppRunner, data_place: str) -> None:
    with contextlib.suppress(OSError):  # whoever read our output may have gone
        click.echo(f"att {__version__} listens on {' and '.join(_url(address) for address in runner.addresses)}")
        click.echo(f"data is in {data_place}; stop with Ctrl-C")


def _announce_administrator(generated: Credentials | None) -> None:
    if generated is not None:
        with contextlib.suppress(OSError):
            click.echo(f"the administrator is {generated.login} with the password {generated.password} (shown once)")


def _check_unclaimed(path: str) -> None:
    """Raises OSError when a server listens on the unix socket, rather than having left its file behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        # EAGAIN: it is there, and has more callers than it can take.
        if probe.connect_ex(path) in (0, errno.EAGAIN):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove_socket_file(address: Address) -> None:
    if address.path is not None:
        Path(address.path).unlink(missing_ok=True)


def _url(address: Any) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    return f"http://{Address(*address[:2])}"


def _cannot_listen(address: Address, error: OSError | UnicodeError) -> CannotStart:
    if isinstance(error, socket.gaierror | UnicodeError):
        reason = "the host is unknown"
    elif error.errno == errno.EADDRINUSE:
        reason = "the address is in use; stop what uses it or choose another with --listen"
    else:
        reason = os.strerror(error.errno) if error.errno else str(error)
    return CannotStart(f"cannot listen on {address}: {reason}")
