"""The command ``att-server``."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import uvloop
from aiohttp import web
from aiohttp.http import HttpProcessingError

from att import __version__
from att.app import DATA_PLACE, create_app
from att.db.dsn import check_dsn
from att.errors import AttError, CannotStart
from att.proxies import Proxy
from att.settings import (
    Address,
    Settings,
    default_data_dir,
    parse_duration,
    parse_listen,
    parse_origin,
    parse_path,
    parse_proxy,
    parse_rate,
    parse_size,
)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DRAIN_TIMEOUT = 10.0  # seconds for requests in flight when the server stops


class Parsed(click.ParamType[Any]):
    """An option whose text is read by a function that raises ValueError with a message for people."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


EXAMPLES = """\b
Examples:
  att-server                                            on the embedded PostgreSQL
  att-server --db-url postgresql://me@localhost/mine    on your own
  att-server --listen :8080 --data-dir /srv/att         for the whole network
"""


@click.command(
    context_settings={"auto_envvar_prefix": "ATT", "show_default": True, "max_content_width": 100}, epilog=EXAMPLES
)
@click.option(
    "--listen",
    type=Parsed("address", parse_listen),
    default="127.0.0.1:8000",
    help="Where to serve: host:port, :port for every interface, [ipv6]:port, unix:/path. Port 0 takes a free one.",
)
@click.option(
    "--db-url",
    type=Parsed("dsn", check_dsn),
    help="Your own PostgreSQL: postgresql://user:password@host:port/database, or key=value words as libpq takes them."
    " In ATT_DB_URL it is kept out of the list of processes. Without it an embedded PostgreSQL runs.",
)
@click.option(
    "--data-dir",
    type=Parsed("path", parse_path),
    default=default_data_dir,
    show_default="the user's data directory; /var/lib/att for root",
    help="Where the embedded PostgreSQL keeps its data.",
)
@click.option("--migrate", is_flag=True, help="Bring the schema of --db-url up to date before serving.")
@click.option(
    "--session-ttl",
    type=Parsed("duration", parse_duration),
    default="30d",
    help="How long a session lives after its last use: 90s, 15m, 12h, 30d.",
)
@click.option(
    "--outbox-limit",
    type=Parsed("size", parse_size),
    default="1MiB",
    help="How much may wait for a listener that reads slowly before it is closed: 65536, 64KiB, 1MiB.",
)
@click.option(
    "--allow-origin",
    type=Parsed("origin", parse_origin),
    multiple=True,
    help="A web origin besides our own whose pages may open the WebSocket and send requests with the session cookie,"
    " as in https://app.example. May be given more than once; in ATT_ALLOW_ORIGIN separated by spaces.",
)
@click.option(
    "--login-failures",
    type=Parsed("rate", parse_rate),
    default="5/5m",
    help="How many wrong passwords for one login in which time; then nobody gets in by it until the time is over.",
)
@click.option(
    "--address-failures",
    type=Parsed("rate", parse_rate),
    default="50/5m",
    help="How many wrong passwords from one address (of IPv6: one /64) in which time.",
)
@click.option(
    "--signups",
    type=Parsed("rate", parse_rate),
    default="30/1h",
    help="How many sign-ups from one address in which time.",
)
@click.option(
    "--trust-proxy",
    type=Parsed("network", parse_proxy),
    multiple=True,
    help="A proxy before us that tells in X-Forwarded-For whom it was called by: its address or network, as in"
    " 10.0.0.0/8, or unix for one that comes by our unix socket. May be given more than once; in ATT_TRUST_PROXY"
    " separated by spaces.",
)
@click.version_option(__version__, prog_name="att-server", allow_from_autoenv=False)
def command(listen: Address, allow_origin: tuple[str, ...], trust_proxy: tuple[Proxy, ...], **options: Any) -> None:
    """Serve accounts, groups and broadcasts from PostgreSQL.

    Every option can also be set in the environment: --db-url as ATT_DB_URL, and so on.
    """
    settings = Settings(
        listen=listen, allow_origin=frozenset(allow_origin), trust_proxy=frozenset(trust_proxy), **options
    )
    _set_up_logging()
    _allow_many_sockets()
    _fill_standard_streams()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


def main() -> None:
    """Run the command; whatever goes wrong on the way is one line on stderr, and a status that is not 0."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except AttError as error:
        _fail(error.detail, 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)


def _fill_standard_streams() -> None:
    """A stream that was closed must not become one of our sockets."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # aiohttp would log the subprotocols that a client offers, among which a browser may send its token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    logging.getLogger("asyncio").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a failure is for our log.

    A request that is not HTTP, or breaks off, is the client's. A statement that the server cancelled has been
    answered with a 503; aiopg reports it to the loop besides.
    """
    error = record.exc_info[1] if record.exc_info else None
    is_clients = isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)
    return not is_clients and type(error).__name__ != "QueryCanceled"


def _allow_many_sockets() -> None:
    """Each socket is an open file; take as many as the system grants."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fail(message: str, status: int) -> None:
    click.echo(f"att-server: {message}", err=True)
    sys.exit(status)


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
        if not stop.is_set():
            await _listen(runner, settings.listen)
            _announce(runner, app[DATA_PLACE])
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
