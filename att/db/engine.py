"""The connection pool and transactions. Only this module and its neighbours know the driver and its errors.

SQLAlchemy Core compiles statements once, at import, to strings for psycopg2's plain cursors.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import aiopg
import psycopg2
import psycopg2.extras
from sqlalchemy import Executable, Select
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from att import errors
from att.core.fair_semaphore import SOURCE, FairSemaphore
from att.core.permissions import Actor
from att.core.tasks import is_cancelled
from att.db.dsn import CONNECTION_ERRORS, ServerAddress, connect_options, why_no_connection
from att.db.pinned_settings import PIN_FOR_SERVING

POOL_SIZE = 9
USER_CONNECTIONS = 3  # of them for one user, address or own task at a time
POOL_QUEUE = 1_000  # callers waiting for a connection; the next one gets Busy
ACQUIRE_TIMEOUT = 5.0  # seconds
QUERY_TIMEOUT = 5.0  # seconds of our clock, after which the connection is dropped
BATCHES = 2  # connections that batches of what a crowd asks for take, so that others are not starved

CONSTRAINTS: Mapping[str, type[errors.AttError]] = MappingProxyType(
    {
        "uq_users_login_key": errors.LoginTaken,
        "uq_groups_name_key": errors.GroupNameTaken,
        "uq_roles_name_key": errors.RoleNameTaken,
        "fk_users_role_id_roles": errors.RoleInUse,
        "fk_members_user_id_users": errors.NoSuchUser,
        "fk_members_group_id_groups": errors.NoSuchGroup,
        "fk_sessions_user_id_users": errors.NoSuchUser,
    }
)
BUSY_STATES = ("40001", "40P01", "53", "55P03", "57014")  # conflict, deadlock, no resources, lock, cancelled
TOO_MUCH_STATE = "54"  # nested too deeply, or too large for an index; the server is fine
READ_ONLY_STATE = "25006"
MISSING_STATES = ("42P01", "42883")  # a table or a function, while the database is being restored

_INIT_SQL = PIN_FOR_SERVING
_BEGIN_AS = (
    "BEGIN; SELECT set_config('att.actor_id', %s, true), "
    "set_config('att.session_id', %s, true), set_config('att.request_id', %s, true)"
)

_PARAMETER = re.compile(r"%\((\w+)\)s")
_prepared: WeakKeyDictionary[aiopg.Connection, set[str]] = WeakKeyDictionary()  # preparations that were sent

DriverError = psycopg2.Error  # raised for our mistakes and missing permissions: see translate()

psycopg2.extras.register_uuid()  # type: ignore[no-untyped-call]


class Statement(NamedTuple):
    """SQL in psycopg2's ``pyformat``, its default parameters, and whether it only reads.

    ``preparation`` is the SQL that prepares it, if it is one that each connection plans once.
    """

    sql: str
    defaults: Mapping[str, Any]
    is_read: bool
    preparation: str | None = None


def prepare(query: Executable) -> Statement:
    """Compile a SQLAlchemy Core query once. Its ``bindparam`` names are keyword arguments of the engine's methods."""
    compiled = query.compile(dialect=PGDialect_psycopg2())  # type: ignore[attr-defined, no-untyped-call]
    defaults = {name: value for name, value in compiled.params.items() if value is not None}
    return Statement(str(compiled), MappingProxyType(defaults), isinstance(query, Select))


def planned_once(statement: Statement, name: str) -> Statement:
    """Return a statement with the same parameters that each connection plans once, under this name.

    That saves most of the cost of a short one. All parameters need a cast, unless their type is beyond doubt.
    """
    names = [*dict.fromkeys(_PARAMETER.findall(statement.sql))]
    sql = _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", statement.sql).replace("%%", "%")
    values = ", ".join(f"%({each})s" for each in names)
    return statement._replace(sql=f"EXECUTE {name} ({values})", preparation=f"PREPARE {name} AS {sql}")


def translate(error: psycopg2.Error) -> Exception:
    """Return our error for a driver error, or the error itself if it is our mistake."""
    known = CONSTRAINTS.get(error.diag.constraint_name or "")
    if known:
        return known()
    if error.pgcode and error.pgcode.startswith(BUSY_STATES):
        return errors.Busy()
    if error.pgcode == READ_ONLY_STATE:
        why = error.diag.message_primary
        return errors.DatabaseUnavailable("The database accepts no changes. Try again in a moment.", why=why)
    is_down = error.pgcode in MISSING_STATES or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    # A dead connection may also raise the base class, without a state.
    is_down = is_down or (type(error) is psycopg2.DatabaseError and error.pgcode is None)
    return errors.DatabaseUnavailable() if is_down and (error.pgcode or "")[:2] != TOO_MUCH_STATE else error


def close_connection(connection: aiopg.Connection) -> None:
    """Close a connection, also when its descriptor is another's by now, which the event loop refuses to forget."""
    with contextlib.suppress(*CONNECTION_ERRORS):
        connection.close()
    connection.raw.close()


def _ignore(_cursor: Any) -> None:
    pass


class PoolUse(NamedTuple):
    """Connections that are open, in use and allowed, and callers waiting for one."""

    open: int
    in_use: int
    limit: int
    waiting: int


class Transaction:
    """A transaction on one connection."""

    def __init__(self, connection: aiopg.Connection) -> None:
        self._connection = connection

    async def fetch_one(self, statement: Statement, **params: Any) -> Any:
        """Return the first row as a tuple, or None."""
        return await self._run(statement, params, lambda cursor: cursor.fetchone())

    async def fetch_all(self, statement: Statement, **params: Any) -> list[Any]:
        """Return all rows as tuples."""
        rows: list[Any] = await self._run(statement, params, lambda cursor: cursor.fetchall())
        return rows

    async def execute(self, statement: Statement, **params: Any) -> int:
        """Run a statement. Return the number of its rows."""
        count: int = await self._run(statement, params, lambda cursor: cursor.rowcount)
        return count

    async def _run(self, statement: Statement, params: Mapping[str, Any], collect: Callable[[Any], Any]) -> Any:
        if statement.preparation is not None:
            prepared = _prepared.setdefault(self._connection, set())
            if statement.preparation not in prepared:
                await self._send(statement.preparation, None, _ignore)
                prepared.add(statement.preparation)
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
        except CONNECTION_ERRORS as error:
            close_connection(self._connection)
            raise errors.ConnectionLost from error
        except asyncio.CancelledError as error:
            # aiopg raises this, too, when the server has cancelled a statement.
            if is_cancelled():
                raise
            raise errors.Busy from error

    async def begin(self, actor: Actor | None) -> None:
        """Begin, and set the actor for the history until the transaction ends."""
        if actor is None:
            await self._send("BEGIN", None, _ignore)
        else:
            params = str(actor.user_id), str(actor.session_id or ""), actor.request_id
            await self._send(_BEGIN_AS, params, _ignore)

    async def commit(self) -> None:
        """Commit. Raise ConnectionLost when the outcome is unknown."""
        try:
            await self._send("COMMIT", None, _ignore)
        except errors.Busy as error:
            raise errors.ConnectionLost from error

    async def rollback(self) -> None:
        """Roll back, or close the connection, which has the same effect."""
        try:
            await self._send("ROLLBACK", None, _ignore)
        except errors.Unavailable:
            close_connection(self._connection)


class Engine:
    """A bounded pool of connections to ``server``, which users share by turns, with the methods of a transaction.

    ``on_reconnect`` is called when connections to the server must not be used any more, and at the end.

    ``batches`` is the room of batch loaders.

    Each method raises the errors of ``CONSTRAINTS``, ``DatabaseUnavailable`` without a database, and ``Busy`` when too
    many callers wait or the statement takes too long. Each takes at most some 20 seconds.
    """

    def __init__(self, pool: aiopg.Pool, server: ServerAddress, dsn: str) -> None:
        self._pool = pool
        self.server = server
        self.dsn = dsn
        self.is_closed = False
        self.on_reconnect: list[Callable[[], None]] = []
        self._places = FairSemaphore(POOL_SIZE, most=USER_CONNECTIONS, queue=POOL_QUEUE, share=POOL_QUEUE)
        self.batches = asyncio.Semaphore(BATCHES)
        self._releasing: set[asyncio.Future[None]] = set()

    @classmethod
    async def connect(cls, dsn: str) -> "Engine":
        """Find the server and open the pool, with one connection. Raise DatabaseUnavailable with the reason."""
        server = ServerAddress(dsn)
        try:
            await server.find()
            pool = await aiopg.create_pool(
                dsn,
                minsize=1,
                maxsize=POOL_SIZE,
                timeout=QUERY_TIMEOUT,
                enable_json=False,
                enable_hstore=False,
                enable_uuid=False,
                on_connect=_prepare_connection,
                connection_factory=server.connection_factory,
                **connect_options(dsn),
            )
        except CONNECTION_ERRORS as error:
            raise errors.DatabaseUnavailable(why_no_connection(dsn, error)) from error
        return cls(pool, server, dsn)

    @property
    def use(self) -> PoolUse:
        """Return the use of the pool."""
        return PoolUse(self._pool.size, self._pool.size - self._pool.freesize, POOL_SIZE, self._places.waiting)

    async def reconnect(self) -> None:
        """Find the server again, and drop the connections that are not in use. Raise DatabaseUnavailable."""
        await self.server.find()
        self._drop_others()
        await self._pool.clear()

    async def close(self) -> None:
        """Close all connections, also those in use."""
        self.is_closed = True
        self._drop_others()
        self._pool.terminate()
        await self.server.close()
        # The pool waits for ever for a connection that was lost before its release.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                await self._pool.wait_closed()

    async def fetch_one(self, statement: Statement, **params: Any) -> Any:
        """Return the first row as a tuple, or None."""
        return await self._run_with_retry(statement, lambda transaction: transaction.fetch_one(statement, **params))

    async def fetch_all(self, statement: Statement, **params: Any) -> list[Any]:
        """Return all rows as tuples."""
        rows: list[Any] = await self._run_with_retry(
            statement, lambda transaction: transaction.fetch_all(statement, **params)
        )
        return rows

    async def execute(self, statement: Statement, **params: Any) -> int:
        """Run a statement in its own transaction. Return the number of its rows."""
        count: int = await self._run_with_retry(statement, lambda transaction: transaction.execute(statement, **params))
        return count

    @contextlib.asynccontextmanager
    async def transaction(self, actor: Actor | None = None) -> AsyncIterator[Transaction]:
        """Open a transaction: committed at the end of the block, rolled back by any exception, never retried."""
        async with self._connection() as connection:
            transaction = Transaction(connection)
            try:
                await transaction.begin(actor)
                yield transaction
            except Exception:
                await transaction.rollback()
                raise
            except BaseException:
                close_connection(connection)
                raise
            await transaction.commit()

    def _drop_others(self) -> None:
        for drop in self.on_reconnect:
            drop()

    async def _run_with_retry(self, statement: Statement, run: Callable[[Transaction], Any]) -> Any:
        """Run a statement; repeat a read once on a new connection if the first one is lost."""
        try:
            async with self._connection() as connection:
                return await run(Transaction(connection))
        except errors.ConnectionLost:
            if not statement.is_read:
                raise
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._pool.clear()
        async with self._connection() as connection:
            return await run(Transaction(connection))

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiopg.Connection]:
        source = SOURCE.get()
        await self._wait_for_connection(source)
        try:
            connection = await self._acquire()
            try:
                yield connection
            finally:
                # Not awaited: the pool holds its lock while it opens another connection.
                released = self._pool.release(connection)
                self._releasing.add(released)
                released.add_done_callback(self._releasing.discard)
        finally:
            self._places.release(source)

    async def _wait_for_connection(self, source: Hashable) -> None:
        """Wait for the turn of a source. The pool itself wakes no waiter when a connection is lost."""
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                await self._places.acquire(source)
        except TimeoutError as error:
            raise errors.Busy from error

    async def _acquire(self) -> aiopg.Connection:
        if self.is_closed:
            raise errors.ShuttingDown
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                while True:
                    with contextlib.suppress(AssertionError):  # an idle connection was lost; the pool has dropped it
                        return await self._pool.acquire()
        except CONNECTION_ERRORS as error:
            if self.is_closed:
                raise errors.ShuttingDown from error
            self.server.find_again()
            raise self.server.unavailable(error) from error
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise errors.Busy from error  # as in _send, for a new connection's first statement


async def _prepare_connection(connection: aiopg.Connection) -> None:
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(_INIT_SQL)
    except BaseException:
        close_connection(connection)  # the pool does not own it yet
        raise
