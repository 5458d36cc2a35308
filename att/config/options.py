"""The options of the server, from the command line and from the environment."""

from collections.abc import Callable
from typing import Any

import click

from att.config.parsers import (
    parse_count,
    parse_directory,
    parse_drain_time,
    parse_duration,
    parse_listen,
    parse_memory_budget,
    parse_origin,
    parse_path,
    parse_path_prefix,
    parse_proxy,
    parse_rate,
    parse_redis_url,
    parse_retention_age,
    parse_size,
    parse_unlimited,
    read_secret,
)
from att.config.settings import LogFormat, Settings, default_data_dir, default_memory_budget
from att.core.names import check_name, check_password
from att.db.dsn import check_dsn

PREFIX = "ATT"  # of environment variables: --db-url is ATT_DB_URL


class Parsed(click.ParamType[Any]):
    """Type of an option that a function parses; it raises ValueError with a message for people."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value.rstrip("\r\n"))  # what comes from a file often ends with a newline
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _from_file(secret: str, parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return the option ``--…-file``, which reads the value of a secret option from a file, as containers have them."""

    def fill(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        name = secret.removeprefix("--").replace("-", "_")
        if value is not None and ctx.params.get(name) is not None:
            raise click.UsageError(f"{secret} and {secret}-file exclude each other; give one of them", ctx)
        if value is not None:
            ctx.params[name] = value

    return click.option(
        f"{secret}-file",
        type=Parsed("path", lambda path: parse(read_secret(path))),
        callback=fill,
        expose_value=False,
        help=f"A file with the value of {secret}. A line break at its end does not count.",
    )


def _quota(name: str, parse: Callable[[str], Any], default: str, text: str) -> Callable[..., Any]:
    """Return the option of a quota."""
    return click.option(
        f"--quota-{name}", type=Parsed("quota", parse_unlimited(parse)), default=default, help=f"{text}; or unlimited."
    )


_OPTIONS = (
    click.option(
        "--listen",
        type=Parsed("address", parse_listen),
        default="127.0.0.1:8000",
        help="Address to serve: host:port, :port for every interface, [ipv6]:port, unix:/path. Port 0: a free one.",
    ),
    click.option(
        "--db-url",
        type=Parsed("dsn", check_dsn),
        help="Your own PostgreSQL: postgresql://user:password@host:port/database, or key=value words of libpq."
        " In ATT_DB_URL it does not show in the list of processes. Without it an embedded PostgreSQL runs.",
        is_eager=True,  # before --db-url-file
    ),
    _from_file("--db-url", check_dsn),
    click.option(
        "--redis-url",
        type=Parsed("url", parse_redis_url),
        help="A Redis or Valkey for sessions and for messages between servers: redis://user:password@host:port/0,"
        " rediss:// with TLS, unix:///path. In ATT_REDIS_URL it does not show in the list of processes.",
        is_eager=True,  # before --redis-url-file
    ),
    _from_file("--redis-url", parse_redis_url),
    click.option(
        "--data-dir",
        type=Parsed("path", parse_path),
        default=default_data_dir,
        show_default="the user's data directory; /var/lib/att for root",
        help="Data directory of the embedded PostgreSQL.",
    ),
    click.option("--migrate", is_flag=True, help="Bring the schema of --db-url up to date before serving."),
    click.option(
        "--session-ttl",
        type=Parsed("duration", parse_duration),
        default="30d",
        help="Lifetime of a session after its last use: 90s, 15m, 12h, 30d.",
    ),
    click.option(
        "--outbox-limit",
        type=Parsed("size", parse_size),
        default="1MiB",
        help="Unsent bytes after which the connection of a slow listener is closed: 65536, 64KiB, 1MiB.",
    ),
    click.option(
        "--compress",
        type=click.BOOL,
        metavar="on|off",
        default="on",
        help="Compress broadcasts on the WebSockets of clients that ask for it (permessage-deflate).",
    ),
    click.option(
        "--memory-budget",
        type=Parsed("size", parse_memory_budget),
        default=default_memory_budget,
        show_default="an eighth of the memory of the machine or the container",
        help="Bytes that all clients together may make the server hold: bodies, unfinished messages, what they do not"
        " read. Beyond it the largest and slowest are refused: 128MiB, 1GiB.",
    ),
    click.option(
        "--retention-age",
        type=Parsed("duration", parse_retention_age),
        default="30d",
        help="Age up to which events are kept, unless the group keeps fewer: 12h, 30d; at least 1m."
        " The shortest of all servers on a database counts.",
    ),
    click.option(
        "--allow-origin",
        type=Parsed("origin", parse_origin),
        multiple=True,
        help="Another web origin whose pages may send requests and read the answers (CORS), with the session cookie,"
        " and open the WebSocket, as in https://app.example. May be given more than once; in ATT_ALLOW_ORIGIN"
        " separated by spaces.",
    ),
    click.option(
        "--login-failures",
        type=Parsed("rate", parse_rate),
        default="5/5m",
        help="Limit of wrong passwords for one login from one address (of IPv6: one /48) or device, and in which time."
        " Then the login is refused there for that time. From all addresses: 20 times as many in 12 times the time.",
    ),
    click.option(
        "--address-failures",
        type=Parsed("rate", parse_rate),
        default="50/5m",
        help="Limit of wrong passwords from one address (of IPv6: one /64; 10 times as many from one /48), and in which"
        " time.",
    ),
    click.option(
        "--signups",
        type=Parsed("rate", parse_rate),
        default="30/1h",
        help="Limit of sign-ups from one address (of IPv6: one /64; 10 times as many from one /48), and in which time.",
    ),
    click.option(
        "--trust-proxy",
        type=Parsed("network", parse_proxy),
        multiple=True,
        help="A reverse proxy that sets X-Forwarded-For: its address or network, as in 10.0.0.0/8, or unix for one on"
        " our unix socket. May be given more than once; in ATT_TRUST_PROXY separated by spaces.",
    ),
    click.option(
        "--path-prefix",
        type=Parsed("prefix", parse_path_prefix),
        default="/",
        help="Path below which a reverse proxy serves the API, as in /api. The proxy removes it from what it passes on."
        " X-Forwarded-Prefix of a --trust-proxy comes first.",
    ),
    click.option(
        "--public-dir",
        type=Parsed("path", parse_directory),
        help="Directory of an application's files, to serve beside the API. Then pages address the API below /api.",
    ),
    click.option(
        "--admin-login",
        type=Parsed("login", check_name),
        help="Login of the administrator to create at start if there is no active one. Without it the login is admin,"
        " and its password is printed once.",
    ),
    click.option(
        "--admin-password",
        type=Parsed("password", check_password),
        help="Password for --admin-login. In ATT_ADMIN_PASSWORD it does not show in the list of processes.",
        is_eager=True,  # before --admin-password-file
    ),
    _from_file("--admin-password", check_password),
    click.option(
        "--drain-time",
        type=Parsed("duration", parse_drain_time),
        default="20s",
        help="Time over which sockets are closed when the server stops; 0s closes all at once.",
    ),
    click.option(
        "--admin-listen",
        type=Parsed("address", parse_listen),
        help="Address to serve /health/live, /health/ready and /metrics, written as --listen. Keep it private.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(LogFormat, case_sensitive=False),
        default=LogFormat.AUTO,
        help="Format of the log on the standard error: text, json, or auto: text on a terminal, else json.",
    ),
    click.option("--access-log", is_flag=True, help="Log one line for each request."),
    click.option(
        "--address-connections",
        type=Parsed("number", parse_count),
        default=1_000,
        help="Limit of open connections from one address (of IPv6: one /64), unless it is a --trust-proxy.",
    ),
    _quota("groups-owned", parse_count, "100", "Quota: groups that a user owns"),
    _quota("groups-joined", parse_count, "1000", "Quota: groups that a user is in"),
    _quota("members", parse_count, "10000", "Quota: members of a group"),
    _quota("retention", parse_count, "10000", "Quota: events that a group is set to keep"),
    _quota("group-log", parse_size, "100MiB", "Quota: bytes of messages in the log of a group"),
    _quota("sockets", parse_count, "50", "Quota: open WebSockets of a user on this server"),
    _quota("sessions", parse_count, "100", "Quota: sessions of a user; another one ends the oldest"),
    _quota(
        "broadcasts",
        parse_rate,
        "200/10s",
        "Quota: broadcasts of a user at once, and the time in which as many are allowed again, on this server",
    ),
    _quota("ephemerals", parse_rate, "1000/10s", "Quota: ephemeral messages of a user, likewise"),
    _quota("requests", parse_rate, "500/10s", "Quota: requests of a user, likewise"),
    click.option(
        "--tls-cert",
        type=Parsed("path", parse_path),
        help="A file with the certificate chain in PEM: serve HTTPS. Read again at SIGHUP.",
    ),
    click.option(
        "--tls-key", type=Parsed("path", parse_path), help="The file with the certificate's private key, in PEM."
    ),
)


def serving_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the server to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def make_settings(*, allow_origin: tuple[str, ...], trust_proxy: tuple[Any, ...], **options: Any) -> Settings:
    """Return the settings that the options choose. Raise UsageError if one of a pair is missing."""
    _check_pair(options, "admin_login", "admin_password")
    _check_pair(options, "tls_cert", "tls_key")
    return Settings(allow_origin=frozenset(allow_origin), trust_proxy=frozenset(trust_proxy), **options)


def check_apart(settings: Settings) -> Settings:
    """Return the settings. Raise UsageError if the two addresses to listen on are one."""
    if settings.admin_listen is not None and settings.listen.conflicts_with(settings.admin_listen):
        raise click.UsageError(
            f"--listen {settings.listen} and --admin-listen {settings.admin_listen} are one address;"
            " choose another port for one of them"
        )
    return settings


def settings_from_environment() -> Settings:
    """Return the settings of a server without a command line. Raise UsageError."""
    reader = click.Command("att-server", params=[], context_settings={"auto_envvar_prefix": PREFIX})
    serving_options(reader)
    return make_settings(**reader.make_context("att-server", []).params)


def overriding_options() -> list[click.Parameter]:
    """Return the options of the server for a sub-command that takes them too."""
    reader = click.Command("att-server", params=[])
    serving_options(reader)
    return [_overriding(param) for param in reversed(reader.params) if isinstance(param, click.Option)]


def _overriding(option: click.Option) -> click.Option:
    option.default = None
    option.show_default = "as given before"
    option.allow_from_autoenv = False
    return option


def override(settings: Settings, **given: Any) -> Settings:
    """Return the settings with the given ``overriding_options`` over them. Raise UsageError as ``make_settings``."""
    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    return check_apart(make_settings(**(vars(settings) | chosen)))


def _check_pair(options: dict[str, Any], one: str, other: str) -> None:
    if (options[one] is None) != (options[other] is None):
        names = [f"--{name.replace('_', '-')}" for name in (one, other)]
        raise click.UsageError(f"{' and '.join(names)} go together; give both or neither")
