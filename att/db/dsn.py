"""Where a database is: reading a DSN, telling it to people, and finding the server that it means.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
"""

import asyncio
import contextlib
import os
import re
import socket
from typing import Any
from weakref import ref

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whatever the driver calls it
from psycopg2.extensions import make_dsn, parse_dsn

from att.core.error_text import describe_error
from att.core.log_limits import OutageLog
from att.errors import DatabaseUnavailable

CONNECT_TIMEOUT = 5  # seconds for each address; libpq takes whole ones
FIND_PAUSE = 1.0  # seconds between looks for a server that is away


def check_dsn(dsn: str) -> str:
    """The DSN (a URL, or key=value words) as it was. Raises ValueError, without the password, if it cannot be read."""
    try:
        parts = parse_dsn(dsn)
    except (psycopg2.Error, UnicodeError):
        parts = None
    if parts is None or not dsn.strip():
        raise ValueError("not understood; write postgresql://user:password@host:port/database or key=value words")
    suspicious = "@" in parts.get("host", "") + parts.get("dbname", "")
    if suspicious or not re.fullmatch(r"[0-9,]*", parts.get("port", "")):
        # What stands in the place of the port may be a part of the password, and is not repeated.
        raise ValueError(
            "the port must be a number, and special characters of the password must be percent-encoded:"
            " '@' as %40, '/' as %2F, ':' as %3A"
        )
    return dsn


def describe(dsn: str) -> str:
    """Where a DSN points, for people and without its password: ``att_db at localhost:5432 as att_user``."""
    parts = parse_dsn(dsn)
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = f":{parts['port']}" if "port" in parts and not host.startswith("/") else ""
    user = f" as {parts['user']}" if "user" in parts else ""
    return f"{parts.get('dbname') or 'the default database'} at {host}{port}{user}"


def connect_options(dsn: str) -> dict[str, Any]:
    """What we ask of every connection, unless the DSN says otherwise."""
    given = parse_dsn(dsn)
    options = {"fallback_application_name": "att", "connect_timeout": CONNECT_TIMEOUT, "client_encoding": "utf8"}
    return {name: value for name, value in options.items() if name not in given}


def connect_blocking(dsn: str) -> Connection:
    """A plain psycopg2 connection, for use off the loop. Raises DatabaseUnavailable that says why."""
    try:
        connection: Connection = psycopg2.connect(dsn, **connect_options(dsn))
    except psycopg2.Error as error:
        raise DatabaseUnavailable(why_no_connection(dsn, error)) from error
    return connection


def why_no_connection(dsn: str, error: psycopg2.Error) -> str:
    """One line about a failed connection, without the password."""
    reason = _reason(dsn, error)
    return f"cannot connect to the database {describe(dsn)}; is it running, and is the database URL right? {reason}"


def _reason(dsn: str, error: Exception) -> str:
    password = parse_dsn(dsn).get("password")
    reason = " ".join(str(error).split()) or describe_error(error)
    return reason.replace(password, "***") if password else reason


def locate(dsn: str) -> dict[str, Any]:
    """The host, address and port of the one server that answers now, among all that ``dsn`` may mean.

    Blocks: it resolves names and tries one address after the other, which libpq's asynchronous connect would do on the
    loop, and aiopg does not follow from one socket to the next. Raises DatabaseUnavailable.
    """
    connection = connect_blocking(dsn)
    try:
        host, port = connection.info.host, connection.info.port
        with socket.socket(fileno=os.dup(connection.fileno())) as plug:
            family, peer = plug.family, plug.getpeername()
    except OSError as error:
        raise DatabaseUnavailable(f"the database {describe(dsn)} hung up: {error}") from error
    finally:
        connection.close()
    place = {"host": host, "port": port}
    return place if family == socket.AF_UNIX else place | {"hostaddr": peer[0]}


_connections: dict[int, ref[Connection]] = {}  # the last one that had this descriptor


def _forget(descriptor: int) -> None:
    """The closed poll handle of a refused connection, which uvloop keeps, and so refuses who gets the descriptor."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(descriptor)
    loop.remove_writer(descriptor)


class ServerAddress:
    """Which server the pool connects to: found off the loop, and looked for anew when it cannot be reached."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._place: dict[str, Any] = {}
        self._finding: asyncio.Task[None] | None = None
        self._outage = OutageLog("the database")

    async def find(self) -> None:
        """Raises DatabaseUnavailable that says why there is none."""
        self._place = await asyncio.to_thread(locate, self._dsn)

    def unavailable(self, error: Exception) -> DatabaseUnavailable:
        """What an error of the driver's means, with where the database is for the operator."""
        return DatabaseUnavailable(why=f"the database {describe(self._dsn)}: {_reason(self._dsn, error)}")

    def find_again(self) -> None:
        """Look for it in the background until it is found, once at a time; log that it is away, and that it is back."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find_patiently())

    def connection_factory(self, dsn: str, async_: int = 0) -> Connection:
        """What psycopg2 calls for each new connection: one to the server that was found."""
        connection = Connection(make_dsn(dsn, **self._place), async_)  # type: ignore[call-arg]
        _forget(connection.fileno())
        _connections[connection.fileno()] = ref(connection)
        return connection

    async def close(self) -> None:
        """Stop looking. Whoever uses the loop from now on may have any descriptor."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait([self._finding])
        for descriptor, made in _connections.items():
            connection = made()
            if connection is None or connection.closed:
                with contextlib.suppress(RuntimeError):  # it is a transport's by now
                    _forget(descriptor)

    async def _find_patiently(self) -> None:
        while True:
            try:
                await self.find()
            except DatabaseUnavailable as error:
                self._outage.begin(error.detail)
                await asyncio.sleep(FIND_PAUSE)
            else:
                self._outage.end()
                return
