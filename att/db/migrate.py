"""Run alembic on a database, from a checkout and from an installed wheel.

Alembic is imported when there is something to migrate: that takes longer than everything else at start.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - a class, despite its name

from att.db.dsn import connect_blocking, describe
from att.db.rights import grants
from att.errors import CannotStart

if TYPE_CHECKING:
    from alembic.config import Config

OLDEST_POSTGRES = 13
FOREIGN = "the table alembic_version is another program's"
OWN_SCHEMA = "give att a schema of its own: CREATE SCHEMA att, and ?options=-csearch_path%3Datt in the database URL"
# A row if there is a table of revisions, with whether functions of ours are beside it.
FIND_REVISIONS = """
    SELECT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = c.relnamespace AND starts_with(p.proname, 'att_'))
    FROM pg_class AS c WHERE c.oid = to_regclass('alembic_version')
"""
_LOCK = "SELECT pg_advisory_xact_lock(6386804)"  # that of alembic/env.py

# A wheel carries the migrations inside the package; a checkout has them beside it, where alembic.ini expects them.
_PACKAGED = Path(__file__).with_name("migrations")
_DIRECTORY = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "alembic"


def config() -> "Config":
    """Return alembic's configuration, without a file."""
    from alembic.config import Config

    result = Config()
    result.set_main_option("script_location", str(_DIRECTORY).replace("%", "%%"))
    return result


def bring_up_to_date(dsn: str, *, migrate: bool) -> list[str]:
    """Make sure that the database has the schema of this program; only with ``migrate`` by changing it.

    Return the titles of the migrations that it ran, in order. Blocks. Raise CannotStart with a line that says what to
    do, or DatabaseUnavailable.
    """
    connection = connect_blocking(dsn)
    try:
        with connection.cursor() as cursor:
            _check_server(cursor, dsn)
            is_ours, revisions = _revisions(cursor)
        missing = [] if revisions == [newest_revision()] else lacking(revisions)
        if missing is None and is_ours:
            raise CannotStart(
                f"the schema of {describe(dsn)} is newer than this program; install the version of att that made it"
            )
        if missing is None:
            raise CannotStart(f"{FOREIGN}, in {describe(dsn)}; {OWN_SCHEMA}")
        if missing and not migrate:
            raise CannotStart(
                f"the database {describe(dsn)} lacks the tables of this version;"
                " run 'alembic upgrade head' or start with 'att-server --migrate'"
            )
    except psycopg2.Error as error:
        raise _refused(dsn, error) from error
    finally:
        connection.close()
    if missing:
        _upgrade(dsn)
    return missing


def grant_rights(dsn: str, role: str) -> None:
    """Let a database role run servers. Blocks. Raise CannotStart, DatabaseUnavailable."""
    connection = connect_blocking(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_LOCK)  # two that grant the same right at once would disturb each other
            cursor.execute("SELECT quote_ident(current_schema()), quote_ident(%s)", (role,))
            ((schema, quoted_role),) = cursor.fetchall()
            for statement in grants(schema, quoted_role):
                cursor.execute(statement)
    except psycopg2.Error as error:
        raise _refused(dsn, error) from error
    finally:
        connection.close()


def _upgrade(dsn: str) -> None:
    import alembic.command
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect_blocking(dsn), poolclass=NullPool)
    settings = config()
    try:
        with engine.connect() as connection:
            settings.attributes["connection"] = connection
            alembic.command.upgrade(settings, "head")
    except DBAPIError as error:
        raise _refused(dsn, error.orig) from error


def _refused(dsn: str, error: BaseException | None) -> CannotStart:
    return CannotStart(f"the database {describe(dsn)} refuses: {' '.join(str(error).split())}")


def _check_server(cursor: Cursor, dsn: str) -> None:
    cursor.execute(
        "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),"
        " current_schema(), current_setting('search_path')"
    )
    ((version, encoding, schema, path),) = cursor.fetchall()
    if version < OLDEST_POSTGRES:
        raise CannotStart(f"PostgreSQL {OLDEST_POSTGRES} or later is needed; {describe(dsn)} is PostgreSQL {version}")
    if encoding != "UTF8":
        raise CannotStart(f"the database {describe(dsn)} has the encoding {encoding}; create one with ENCODING 'UTF8'")
    if schema is None:
        raise CannotStart(f"{describe(dsn)} has no schema {path!r} that this user may use; create it: CREATE SCHEMA")


def _revisions(cursor: Cursor) -> tuple[bool, list[str]]:
    cursor.execute(FIND_REVISIONS)
    found = cursor.fetchall()
    if not found:
        return True, []
    cursor.execute("SELECT version_num FROM alembic_version")
    return found[0][0], [revision for (revision,) in cursor.fetchall()]


def newest_revision() -> str:
    """Return the revision of the last migration. The names of their files begin with the time."""
    newest = max((_DIRECTORY / "versions").glob("*.py"))
    [revision] = re.findall(r'^revision = "(\w+)"$', newest.read_text(encoding="utf-8"), re.MULTILINE)
    return str(revision)


def lacking(revisions: Collection[str]) -> list[str] | None:
    """Return the titles of the migrations that a database at these revisions lacks, in the order to run them.

    Return None when the database is ahead of this program, or its revisions are another program's.
    """
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(config())
    if set(revisions) - {script.revision for script in scripts.walk_revisions()}:
        return None
    return [script.doc for script in scripts.iterate_revisions("heads", tuple(revisions))][::-1]
