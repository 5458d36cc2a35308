"""Runs alembic on a database, from a checkout and from an installed wheel."""

from collections.abc import Collection
from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from att.db.dsn import connect_blocking, describe
from att.errors import CannotStart

OLDEST_POSTGRES = 13

# A wheel carries the migrations inside the package; a checkout has them beside it, where alembic.ini expects them.
_PACKAGED = Path(__file__).with_name("migrations")
_CHECKED_OUT = Path(__file__).parents[2] / "alembic"


def config() -> Config:
    """Alembic's configuration, without a file."""
    result = Config()
    result.set_main_option("script_location", str(_PACKAGED if _PACKAGED.is_dir() else _CHECKED_OUT).replace("%", "%%"))
    return result


def bring_up_to_date(dsn: str, *, migrate: bool) -> list[str]:
    """Make sure that the database has the schema of this program; only with ``migrate`` by changing it.

    What the migrations that it ran are called, in order. Blocks.

    Raises CannotStart with a line that says what to do, or DatabaseUnavailable.
    """
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect_blocking(dsn), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return _bring_up_to_date(connection, dsn, migrate=migrate)
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise CannotStart(f"the database {describe(dsn)} refuses: {reason}") from error


def _bring_up_to_date(connection: Connection, dsn: str, *, migrate: bool) -> list[str]:
    _check_server(connection, dsn)
    missing = _missing(connection, dsn)
    if missing and not migrate:
        raise CannotStart(
            f"the database {describe(dsn)} lacks the tables of this version;"
            " run 'alembic upgrade head' or start with 'att-server --migrate'"
        )
    connection.rollback()
    if missing:
        upgrade(connection)
    return missing


def upgrade(connection: Connection) -> None:
    """Run every migration that is missing."""
    settings = config()
    settings.attributes["connection"] = connection
    alembic.command.upgrade(settings, "head")


def _check_server(connection: Connection, dsn: str) -> None:
    version, encoding = connection.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')"
    ).one()
    if version < OLDEST_POSTGRES:
        raise CannotStart(f"PostgreSQL {OLDEST_POSTGRES} or later is needed; {describe(dsn)} is PostgreSQL {version}")
    if encoding != "UTF8":
        raise CannotStart(f"the database {describe(dsn)} has the encoding {encoding}; create one with ENCODING 'UTF8'")


def lacking(revisions: Collection[str]) -> list[str] | None:
    """What the migrations that a database at these revisions lacks are called, in the order in which they are to run.

    None when the database is ahead of this program.
    """
    scripts = ScriptDirectory.from_config(config())
    if set(revisions) - {script.revision for script in scripts.walk_revisions()}:
        return None
    return [script.doc for script in scripts.iterate_revisions("heads", tuple(revisions))][::-1]


def _missing(connection: Connection, dsn: str) -> list[str]:
    missing = lacking(MigrationContext.configure(connection).get_current_heads())
    if missing is None:
        raise CannotStart(
            f"the schema of {describe(dsn)} is newer than this program; install the version of att that made it"
        )
    return missing
