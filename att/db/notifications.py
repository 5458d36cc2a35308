"""What a PostgreSQL announces by NOTIFY, over one connection of its own.

https://www.postgresql.org/docs/current/sql-listen.html
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import aiopg
import psycopg2
from sqlalchemy import bindparam, func, select

from att.core.tasks import is_cancelled
from att.db.dsn import ServerAddress, connect_options
from att.db.engine import prepare
from att.errors import DatabaseUnavailable

_TIMEOUT = 5.0  # seconds for an answer
_SILENCE = 5.0  # seconds without an announcement, after which it is asked whether the server is still there


class NotificationChannel:
    """A channel of the database: a name that is no more than letters."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[str]]:
        """The payloads that are announced from now on. Raises DatabaseUnavailable, also when the connection is lost."""
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
            await _execute(connection, f"LISTEN {self._name}")
            async with contextlib.aclosing(self._payloads(connection)) as payloads:
                yield payloads
        except (psycopg2.Error, TimeoutError) as error:
            raise server.unavailable(error) from error
        finally:
            if connection is not None:
                connection.close()

    async def _payloads(self, connection: aiopg.Connection) -> AsyncGenerator[str, None]:
        while True:
            getting = asyncio.ensure_future(connection.notifies.get())
            getting.add_done_callback(lambda done: done.cancelled() or done.exception())  # known of, whoever asks
            try:
                # Not wait_for: an announcement is lost when it meets the cancellation of who waits for it.
                while not (await asyncio.wait([getting], timeout=_SILENCE))[0]:
                    await _execute(connection, "SELECT 1")
                announced = await getting
            finally:
                getting.cancel()
            yield announced.payload


async def _execute(connection: aiopg.Connection, sql: str) -> None:
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise DatabaseUnavailable(why="the database has cancelled what it was asked") from error


CHANNEL = "att"
NOTIFY = prepare(select(func.pg_notify(CHANNEL, bindparam("payload"))))
