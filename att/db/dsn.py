"""Data source names: check and describe a DSN, connect to it, and find the server it means.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
"""

import asyncio
import contextlib
import os
import re
import socket
from itertools import zip_longest
from typing import Any
from weakref import ref

import psycopg2
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import (
    connection as Connection,  # noqa: N812 - a class, despite its name
    make_dsn,
    parse_dsn,
)

from att.core.error_text import describe_error
from att.core.log_limits import OutageLog
from att.db.pinned_settings import PIN_FOR_MIGRATING
from att.errors import DatabaseUnavailable

CONNECT_TIMEOUT = 5  # seconds for each address; libpq takes whole ones
FIND_PAUSE = 1.0  # seconds between attempts to find an unreachable server
DEFAULT_PORT = 5432
# From the driver, and from the event loop when the transport of a connection is dead. TimeoutError is an OSError.
CONNECTION_ERRORS = (psycopg2.Error, OSError, RuntimeError)


def check_dsn(dsn: str) -> str:
    """Return the DSN, a URL or key=value words. Raise ValueError, without the password, if it is invalid."""
    try:
        parts = parse_dsn(dsn)
    except (psycopg2.Error, UnicodeError):
        parts = None
    if parts is None or not dsn.strip():
        raise ValueError("not understood; write postgresql://user:password@host:port/database or key=value words")
    suspicious = "@" in parts.get("host", "") + parts.get("dbname", "")
    if suspicious or not re.fullmatch(r"[0-9,]*", parts.get("port", "")):
        # The text in the place of the port may be part of the password, so the error does not contain it.
        raise ValueError(
            "the port must be a number, and special characters of the password must be percent-encoded:"
            " '@' as %40, '/' as %2F, ':' as %3A"
        )
    return dsn


def describe(dsn: str) -> str:
    """Describe a DSN without its password: ``att_db at localhost:5432 as att_user``."""
    parts = parse_dsn(dsn)
    hosts = (parts.get("host") or parts.get("hostaddr") or "the local socket").split(",")
    ports = parts.get("port", "").split(",")
    ports *= len(hosts) if len(ports) == 1 else 1  # one port is for all hosts
    places = ", ".join(_place(host, port) for host, port in zip_longest(hosts, ports, fillvalue=""))
    user = f" as {parts['user']}" if "user" in parts else ""
    return f"{parts.get('dbname') or 'the default database'} at {places}{user}"


def _place(host: str, port: str) -> str:
    if not port or host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect_options(dsn: str) -> dict[str, Any]:
    """Return the options of every connection.

    Some replace those of the DSN: a server needs a database that it can change, and characters of any language.
    """
    given = parse_dsn(dsn)
    options = {"fallback_application_name": "att", "connect_timeout": CONNECT_TIMEOUT}
    chosen = {name: value for name, value in options.items() if name not in given}
    return chosen | {"client_encoding": "utf8", "target_session_attrs": "read-write"}


def connect_blocking(dsn: str) -> Connection:
    """Return a plain psycopg2 connection, for use off the event loop, without limits of time.

    Raise DatabaseUnavailable with the reason.
    """
    try:
        connection: Connection = psycopg2.connect(dsn, **connect_options(dsn))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(PIN_FOR_MIGRATING)
        connection.autocommit = False
    except psycopg2.Error as error:
        raise DatabaseUnavailable(why_no_connection(dsn, error)) from error
    return connection


def why_no_connection(dsn: str, error: Exception) -> str:
    """Return one line about a failed connection, without the password."""
    reason = _reason(dsn, error)
    if _READ_ONLY in reason:
        return f"the database {describe(dsn)} accepts no changes: {_WHY_READ_ONLY}; {reason}"
    if isinstance(error, InsufficientPrivilege):
        return (
            f"the role or the database {describe(dsn)} has a setting that must be reset (ALTER ROLE … RESET): {reason}"
        )
    return f"cannot connect to the database {describe(dsn)}; is it running, and is the database URL right? {reason}"


def _reason(dsn: str, error: Exception) -> str:
    password = parse_dsn(dsn).get("password")
    reason = " ".join(str(error).split()) or describe_error(error)
    return reason.replace(password, "***") if password else reason


def locate(dsn: str) -> dict[str, Any]:
    """Return host, address and port of the first server of the DSN that answers.

    Blocks to resolve names and try each address. libpq's asynchronous connect would resolve on the event loop, and
    aiopg does not support its change of sockets. Raise DatabaseUnavailable.
    """
    connection = connect_blocking(dsn)
    try:
        host, port = connection.info.host, connection.info.port
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            family, peer = sock.family, sock.getpeername()
    except OSError as error:
        raise DatabaseUnavailable(f"the database {describe(dsn)} closed the connection: {error}") from error
    finally:
        connection.close()
    # libpq tells no port if the list of ports has none for this host. An empty hostaddr replaces a list of the DSN.
    return {"host": host, "port": port or DEFAULT_PORT, "hostaddr": "" if family == socket.AF_UNIX else peer[0]}


_READ_ONLY = "session is read-only"  # libpq's words
_WHY_READ_ONLY = "it is a standby, or default_transaction_read_only is on; name the primary"

_connections: dict[int, ref[Connection]] = {}  # the last connection with this descriptor


def _forget(descriptor: int) -> None:
    """Remove the poll handle of a closed connection: uvloop keeps it, and rejects new users of the descriptor."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(descriptor)
    loop.remove_writer(descriptor)


class ServerAddress:
    """Address of the server that the pool connects to, found off the event loop, and again when it is unreachable."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._address: dict[str, Any] = {}
        self._finding: asyncio.Task[None] | None = None
        self._outage = OutageLog("the database")

    async def find(self) -> None:
        """Find the server. Raise DatabaseUnavailable with the reason."""
        self._address = await asyncio.to_thread(locate, self._dsn)

    def unavailable(self, error: Exception) -> DatabaseUnavailable:
        """Return the error for a driver error, which names the database for the operator."""
        return DatabaseUnavailable(why=f"the database {describe(self._dsn)}: {_reason(self._dsn, error)}")

    def find_again(self) -> None:
        """Find the server in the background, retrying until it answers. Log the outage and its end."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find_with_retries())

    def connection_factory(self, dsn: str, async_: int = 0) -> Connection:
        """Open a connection to the found server; psycopg2 calls this."""
        connection = Connection(make_dsn(dsn, **self._address), async_)  # type: ignore[call-arg]
        _forget(connection.fileno())
        _connections[connection.fileno()] = ref(connection)
        return connection

    async def close(self) -> None:
        """Stop, and free the descriptors of closed connections."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait([self._finding])
        for descriptor, reference in _connections.items():
            connection = reference()
            if connection is None or connection.closed:
                with contextlib.suppress(RuntimeError):  # a transport uses it now
                    _forget(descriptor)

    async def _find_with_retries(self) -> None:
        while True:
            try:
                await self.find()
            except DatabaseUnavailable as error:
                self._outage.begin(error.detail)
                await asyncio.sleep(FIND_PAUSE)
            else:
                self._outage.end()
                return
