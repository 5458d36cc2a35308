"""The command ``att-server``."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from typing import Any

import click
import uvloop
from aiohttp import web
from aiohttp.http import HttpProcessingError

from att import __version__
from att.commands import create_admin, migrate, reset_password
from att.db.dsn import check_dsn
from att.errors import AttError
from att.names import check_name, check_password
from att.options import Parsed
from att.proxies import Proxy
from att.remote import broadcast, listen
from att.server import serve
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

EXAMPLES = """\b
Examples:
  att-server                                            on the embedded PostgreSQL
  att-server --db-url postgresql://me@localhost/mine    on your own
  att-server --listen :8080 --data-dir /srv/att         for the whole network
  att-server create-admin ann                           make ann an administrator
  att-server listen --login ann                         hear what is broadcast to ann's groups
"""


@click.group(
    context_settings={"auto_envvar_prefix": "ATT", "show_default": True, "max_content_width": 100},
    epilog=EXAMPLES,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
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
    "--retention-age",
    type=Parsed("duration", parse_duration),
    default="30d",
    help="How long what was sent to a group is kept, if the group itself does not keep less: 12h, 30d; 1m at least.",
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
@click.option(
    "--admin-login",
    type=Parsed("login", check_name),
    help="An administrator who is made at start, unless they are there. Without it, when there is none, one is made"
    " whose password is printed once.",
)
@click.option(
    "--admin-password",
    type=Parsed("password", check_password),
    help="The password that --admin-login is made with. In ATT_ADMIN_PASSWORD it is kept out of the list of processes.",
)
@click.version_option(__version__, prog_name="att-server", allow_from_autoenv=False)
@click.pass_context
def command(
    context: click.Context,
    /,
    listen: Address,
    allow_origin: tuple[str, ...],
    trust_proxy: tuple[Proxy, ...],
    **options: Any,
) -> None:
    """Serve accounts, groups and broadcasts from PostgreSQL.

    Every option can also be set in the environment: --db-url as ATT_DB_URL, and so on.
    """
    context.obj = settings = Settings(
        listen=listen, allow_origin=frozenset(allow_origin), trust_proxy=frozenset(trust_proxy), **options
    )
    _set_up_logging()
    _fill_standard_streams()
    if context.invoked_subcommand is not None:
        return
    if (settings.admin_login is None) != (settings.admin_password is None):
        raise click.UsageError("--admin-login and --admin-password go together; give both or neither")
    _allow_many_sockets()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


command.add_command(create_admin)
command.add_command(reset_password)
command.add_command(migrate)
command.add_command(listen)
command.add_command(broadcast)


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
