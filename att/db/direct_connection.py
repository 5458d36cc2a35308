"""One connection that the event loop polls itself: no checkout from a pool, and no task or lock of a driver between."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_WRITE, connection as Connection  # noqa: N812 - a class, despite its name

from att import errors
from att.db.dsn import CONNECTION_ERRORS, connect_options
from att.db.engine import QUERY_TIMEOUT, Engine, Statement, translate
from att.db.pinned_settings import PIN_FOR_SERVING


class DirectConnection:
    """A connection to an engine's server, whose statements run one after the other, each in its own transaction.

    It is opened when it is first needed, and again after it was lost. It ends with the engine.
    """

    def __init__(self, db: Engine) -> None:
        self._db = db
        db.on_reconnect.append(self.leave)
        self._loop: asyncio.AbstractEventLoop
        self._free = asyncio.Lock()
        self._is_stale = False  # to be dropped after the statement that runs on it
        self._connection: Connection | None = None
        self._descriptor = -1
        self._is_writing = False  # more of a statement than the kernel takes
        self._waiter: asyncio.Future[None] | None = None
        self._prepared: set[str] = set()

    async def fetch_all(self, statement: Statement, **params: Any) -> list[Any]:
        """Return all rows as tuples. Never repeat a statement. Raise what the engine raises."""
        async with self._free:
            try:
                connection = self._connection or await self._open()
                if statement.preparation is not None and statement.preparation not in self._prepared:
                    await self._run(connection, statement.preparation, None)
                    self._prepared.add(statement.preparation)
                return await self._run(connection, statement.sql, {**statement.defaults, **params})
            finally:
                if self._is_stale:
                    self.drop()

    def leave(self) -> None:
        """Close the connection as soon as no statement runs on it; at once if the engine is closed."""
        if self._free.locked() and not self._db.is_closed:
            self._is_stale = True
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection. The outcome of a statement that runs on it is unknown."""
        connection, self._connection, self._is_stale = self._connection, None, False
        if connection is None:
            return
        # Before the descriptor is closed, or at once after it: it must not be another's.
        with contextlib.suppress(*CONNECTION_ERRORS):
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
        connection.close()
        self._is_writing = False
        self._prepared.clear()
        self._resolve(psycopg2.OperationalError("the connection was closed"))

    async def _open(self) -> Connection:
        if self._db.is_closed:
            raise errors.ShuttingDown
        self._loop = asyncio.get_running_loop()
        try:
            connection: Connection = psycopg2.connect(
                self._db.dsn,
                async_=1,
                connection_factory=self._db.server.connection_factory,
                **connect_options(self._db.dsn),
            )
            self._connection, self._descriptor = connection, connection.fileno()
            self._loop.add_reader(self._descriptor, self._poll)
            await self._answered(lambda: None)
            cursor = connection.cursor()
            await self._answered(lambda: cursor.execute(PIN_FOR_SERVING))
        except CONNECTION_ERRORS as error:
            self.drop()
            self._db.server.find_again()
            raise self._db.server.unavailable(error) from error
        except BaseException:
            self.drop()
            raise
        return connection

    async def _run(self, connection: Connection, sql: str, params: Mapping[str, Any] | None) -> list[Any]:
        cursor = connection.cursor()
        try:
            await self._answered(lambda: cursor.execute(sql, params))
            return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            if connection.closed:
                self.drop()
                raise errors.ConnectionLost from error
            raise translate(error) from error
        except CONNECTION_ERRORS as error:
            self.drop()
            raise errors.ConnectionLost from error
        except BaseException:
            self.drop()
            raise

    async def _answered(self, send: Callable[[], None]) -> None:
        """Send something, and wait until it is answered. Raise what the driver raises, and TimeoutError."""
        send()
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(QUERY_TIMEOUT, self._resolve, TimeoutError())
        try:
            self._poll()
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _poll(self) -> None:
        """Let the driver read and write what it can. A connection that is lost while it is idle is dropped."""
        if self._connection is None:
            return
        try:
            state = self._connection.poll()
        except psycopg2.Error as error:
            self._resolve(error)
            if self._connection.closed:
                self.drop()
            return
        if (state == POLL_WRITE) is not self._is_writing:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._loop.add_writer(self._descriptor, self._poll)
            else:
                self._loop.remove_writer(self._descriptor)
        if state == POLL_OK:
            self._resolve(None)

    def _resolve(self, error: Exception | None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
