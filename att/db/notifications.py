"""Notifications of PostgreSQL (LISTEN and NOTIFY), received on a separate connection.

https://www.postgresql.org/docs/current/sql-listen.html
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiopg
from sqlalchemy import ARRAY, Text, bindparam, cast, func, select

from att.core.tasks import is_cancelled
from att.db.dsn import CONNECTION_ERRORS, ServerAddress, connect_options
from att.db.engine import close_connection, prepare
from att.db.pinned_settings import PIN_FOR_SERVING
from att.errors import DatabaseUnavailable

CHANNEL = "att"
_TIMEOUT = 5.0  # seconds for an answer
_SILENCE = 5.0  # seconds without a notification until a query checks the connection

NOTIFY = prepare(select(func.att_notify(bindparam("payload"))))  # on CHANNEL, with the schema

NOTIFY_ALL = prepare(select(func.att_notify(func.unnest(cast(bindparam("payloads"), ARRAY(Text))))))


class NotificationChannel:
    """A channel of the database. Its name has only letters.

    All schemas share it. ``schema`` is that of the tables, known while listening.
    """

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self.schema = ""

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[str]]:
        """Yield the payloads from now on. Raise DatabaseUnavailable, also when the connection is lost."""
        server = ServerAddress(self._dsn)
        await server.find()
        connection = None
        try:
            connection = await aiopg.connect(
                self._dsn,
                timeout=_TIMEOUT,
                enable_json=False,
                enable_hstore=False,
                enable_uuid=False,
                connection_factory=server.connection_factory,
                **connect_options(self._dsn),
            )
            await _execute(connection, PIN_FOR_SERVING)
            (self.schema,) = await _execute(connection, "SELECT current_schema()")
            await _execute(connection, f"LISTEN {self._name}")
            async with contextlib.aclosing(self._payloads(connection)) as payloads:
                yield payloads
        except CONNECTION_ERRORS as error:
            raise server.unavailable(error) from error
        finally:
            if connection is not None:
                close_connection(connection)

    async def _payloads(self, connection: aiopg.Connection) -> AsyncGenerator[str, None]:
        while True:
            pending = asyncio.ensure_future(connection.notifies.get())
            pending.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks the error as retrieved
            try:
                # Not wait_for, which may lose a notification when it is cancelled.
                while not (await asyncio.wait([pending], timeout=_SILENCE))[0]:
                    await _execute(connection, "SELECT 1")
                notification = await pending
            finally:
                pending.cancel()
            yield notification.payload


async def _execute(connection: aiopg.Connection, sql: str) -> Any:
    """Run a statement. Return its first row, None if it returns none."""
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return cursor.raw.fetchone() if cursor.raw.description else None
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise DatabaseUnavailable(why="the database has cancelled a statement") from error
