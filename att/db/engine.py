"""The only module that knows the driver: a pool, a transaction, and the border at which its errors are translated.

Statements are written with SQLAlchemy Core and compiled once, at import, to a string for psycopg2's plain cursors.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import aiopg
import psycopg2
import psycopg2.extras
from psycopg2.extensions import parse_dsn
from sqlalchemy import Executable, Select
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from att import errors
from att.permissions import Actor

POOL_SIZE = 10
POOL_QUEUE = 1_000  # callers waiting for a connection; the next one is told to come back
ACQUIRE_TIMEOUT = 5.0  # seconds
CONNECT_TIMEOUT = 5  # seconds; libpq takes whole ones
QUERY_TIMEOUT = 5.0  # seconds, by our clock: the connection is dropped
STATEMENT_TIMEOUT = 6_000  # milliseconds, by the server's: it stops working for a client that has gone

CONSTRAINTS: Mapping[str, type[errors.AttError]] = MappingProxyType(
    {
        "uq_users_login_key": errors.LoginTaken,
        "uq_groups_name_key": errors.GroupNameTaken,
        "fk_members_user_id_users": errors.NoSuchUser,
        "fk_members_group_id_groups": errors.NoSuchGroup,
        "fk_sessions_user_id_users": errors.NoSuchUser,
    }
)
BUSY_STATES = ("40001", "40P01", "53", "55P03", "57014")  # conflict, deadlock, no resources, lock, cancelled

_INIT_SQL = f"SET statement_timeout = {STATEMENT_TIMEOUT}; SET timezone = 'UTC'"
_BEGIN = "BEGIN"
_BEGIN_AS = (
    "BEGIN; SELECT set_config('att.actor_id', %(user_id)s, true), "
    "set_config('att.session_id', %(session_id)s, true), set_config('att.request_id', %(request_id)s, true)"
)

psycopg2.extras.register_uuid()  # type: ignore[no-untyped-call]


class Statement(NamedTuple):
    """SQL in psycopg2's ``pyformat``, the parameters it brings along, and whether repeating it changes nothing."""

    sql: str
    defaults: Mapping[str, Any]
    is_read: bool


def prepare(query: Executable) -> Statement:
    """Compile a SQLAlchemy Core query once. Its ``bindparam`` names become keyword arguments of the engine's verbs."""
    compiled = query.compile(dialect=PGDialect_psycopg2())  # type: ignore[attr-defined, no-untyped-call]
    defaults = {name: value for name, value in compiled.params.items() if value is not None}
    return Statement(str(compiled), MappingProxyType(defaults), isinstance(query, Select))


def check_dsn(dsn: str) -> str:
    """The DSN (a URL, or key=value words) as it was. Raises ValueError, without the password, if libpq cannot read it.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
    """
    try:
        parts = parse_dsn(dsn)
    except psycopg2.Error:
        parts = {}
    if not parts:
        raise ValueError("is not understood; write postgresql://user:password@host:port/database or key=value words")
    if "@" in parts.get("host", ""):
        raise ValueError("has a second '@'; write special characters of the password percent-encoded, '@' as %40")
    return dsn


def describe(dsn: str) -> str:
    """Where a DSN points, for people and without its password: ``att_db at localhost:5432 as att_user``."""
    parts = parse_dsn(dsn)
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = f":{parts['port']}" if "port" in parts and not host.startswith("/") else ""
    user = f" as {parts['user']}" if "user" in parts else ""
    return f"{parts.get('dbname') or 'the default database'} at {host}{port}{user}"


def connect_blocking(dsn: str) -> Any:
    """A plain psycopg2 connection, for what runs before the loop does. Raises DatabaseUnavailable that says why."""
    try:
        return psycopg2.connect(dsn, **_connect_options(dsn))
    except psycopg2.Error as error:
        raise errors.DatabaseUnavailable(_why_no_connection(dsn, error)) from error


def _connect_options(dsn: str) -> dict[str, Any]:
    given = parse_dsn(dsn)
    options = {"fallback_application_name": "att", "connect_timeout": CONNECT_TIMEOUT, "client_encoding": "utf8"}
    return {name: value for name, value in options.items() if name not in given}


def _why_no_connection(dsn: str, error: psycopg2.Error) -> str:
    reason = " ".join(str(error).split()) or "no answer"
    if password := parse_dsn(dsn).get("password"):
        reason = reason.replace(password, "***")
    return f"cannot connect to the database {describe(dsn)}; is it running, and is the database URL right? {reason}"


def translate(error: psycopg2.Error) -> Exception:
    """What the driver's error means to us; the error itself when it means nothing but a mistake of ours."""
    known = CONSTRAINTS.get(error.diag.constraint_name or "")
    if known:
        return known()
    if error.pgcode and error.pgcode.startswith(BUSY_STATES):
        return errors.Busy()
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) or error.pgcode == "25006":
        return errors.DatabaseUnavailable()
    return error


class Transaction:
    """The verbs, on one connection."""

    def __init__(self, connection: aiopg.Connection) -> None:
        self._connection = connection

    async def fetch_one(self, statement: Statement, **params: Any) -> Any:
        """The first row as a tuple, or None."""
        return await self._run(statement, params, lambda cursor: cursor.fetchone())

    async def fetch_all(self, statement: Statement, **params: Any) -> list[Any]:
        """Every row, as tuples."""
        rows: list[Any] = await self._run(statement, params, lambda cursor: cursor.fetchall())
        return rows

    async def execute(self, statement: Statement, **params: Any) -> int:
        """Run it. How many rows it touched."""
        count: int = await self._run(statement, params, lambda cursor: cursor.rowcount)
        return count

    async def _run(self, statement: Statement, params: Mapping[str, Any], collect: Callable[[Any], Any]) -> Any:
        return await self._send(statement.sql, {**statement.defaults, **params}, collect)

    async def _send(self, sql: str, params: Any, collect: Callable[[Any], Any]) -> Any:
        try:
            async with self._connection.cursor() as cursor:
                await cursor.execute(sql, params)
                return collect(cursor.raw)
        except psycopg2.Error as error:
            if self._connection.closed:
                raise errors.ConnectionLost from error
            raise translate(error) from error
        except TimeoutError as error:
            raise errors.Busy from error
        except asyncio.CancelledError as error:
            # aiopg turns a statement that the server cancelled into this; it is not this task that was cancelled.
            if _is_cancelled():
                raise
            raise errors.Busy from error

    async def begin(self, actor: Actor | None) -> None:
        """Start, and tell the database until the end of the transaction who acts."""
        if actor is None:
            await self._send(_BEGIN, None, _nothing)
        else:
            names = {"user_id": str(actor.user_id), "session_id": str(actor.session_id), "request_id": actor.request_id}
            await self._send(_BEGIN_AS, names, _nothing)

    async def commit(self) -> None:
        """End it for good. ConnectionLost here means that it is not known whether it did."""
        try:
            await self._send("COMMIT", None, _nothing)
        except errors.Busy as error:
            raise errors.ConnectionLost from error

    async def rollback(self) -> None:
        """Undo it. A connection that cannot even do that is dropped, which undoes it as well."""
        try:
            await self._send("ROLLBACK", None, _nothing)
        except errors.Unavailable:
            self._connection.close()


class Engine:
    """A bounded pool of connections, and the same verbs on any one of them.

    Each raises the errors of ``CONSTRAINTS``; ``DatabaseUnavailable`` when there is no database; ``Busy`` when it does
    not get a connection or an answer in time.
    """

    def __init__(self, pool: aiopg.Pool) -> None:
        self._pool = pool
        self._waiting = 0

    @classmethod
    async def connect(cls, dsn: str) -> "Engine":
        """Open the pool, with one connection. Raises DatabaseUnavailable that says why."""
        try:
            pool = await aiopg.create_pool(
                dsn,
                minsize=1,
                maxsize=POOL_SIZE,
                timeout=QUERY_TIMEOUT,
                enable_json=False,
                enable_hstore=False,
                enable_uuid=False,
                on_connect=_prepare_connection,
                **_connect_options(dsn),
            )
        except psycopg2.Error as error:
            raise errors.DatabaseUnavailable(_why_no_connection(dsn, error)) from error
        return cls(pool)

    async def close(self) -> None:
        """Close every connection, those in use as well."""
        self._pool.terminate()
        await self._pool.wait_closed()

    async def fetch_one(self, statement: Statement, **params: Any) -> Any:
        """The first row as a tuple, or None."""
        return await self._once_more(statement, lambda transaction: transaction.fetch_one(statement, **params))

    async def fetch_all(self, statement: Statement, **params: Any) -> list[Any]:
        """Every row, as tuples."""
        rows: list[Any] = await self._once_more(statement, lambda on: on.fetch_all(statement, **params))
        return rows

    async def execute(self, statement: Statement, **params: Any) -> int:
        """Run it in a transaction of its own. How many rows it touched."""
        count: int = await self._once_more(statement, lambda on: on.execute(statement, **params))
        return count

    @contextlib.asynccontextmanager
    async def transaction(self, actor: Actor | None = None) -> AsyncIterator[Transaction]:
        """All or nothing: committed at the end of the block, rolled back by any exception, never retried."""
        async with self._connection() as connection:
            transaction = Transaction(connection)
            await transaction.begin(actor)
            try:
                yield transaction
            except Exception:
                await transaction.rollback()
                raise
            except BaseException:
                connection.close()
                raise
            await transaction.commit()

    async def _once_more(self, statement: Statement, run: Callable[[Transaction], Any]) -> Any:
        """Run it; if it only reads and the connection was lost, once more on a new one."""
        try:
            async with self._connection() as connection:
                return await run(Transaction(connection))
        except errors.ConnectionLost:
            if not statement.is_read:
                raise
        await self._pool.clear()
        async with self._connection() as connection:
            return await run(Transaction(connection))

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiopg.Connection]:
        connection = await self._acquire()
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    async def _acquire(self) -> aiopg.Connection:
        if self._waiting >= POOL_QUEUE:
            raise errors.Busy
        self._waiting += 1
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                return await self._pool.acquire()
        except TimeoutError as error:
            raise errors.Busy from error
        except psycopg2.Error as error:
            raise errors.DatabaseUnavailable from error
        finally:
            self._waiting -= 1


async def _prepare_connection(connection: aiopg.Connection) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute(_INIT_SQL)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _nothing(_cursor: Any) -> None:
    return None
