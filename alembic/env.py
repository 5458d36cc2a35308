"""Alembic's environment. The database is a given connection, ``-x db-url=…``, ``ATT_DB_URL`` or the default."""

import os
import sys
import time
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from att.db.dsn import check_dsn, connect_blocking
from att.db.schema import metadata
from att.errors import DatabaseUnavailable

LOCK_NOT_AVAILABLE = "55P03"
DEFAULT_DB_URL = "postgresql://att_user:att_pass@localhost/att_db"
MIGRATION_LOCK = 0x617474  # "att"; lets one process migrate at a time
PATIENCE = 30  # seconds to wait for another process that migrates, and for locks on tables
LOCK_TIMEOUT = (
    1  # seconds; a lock that is waited for keeps everyone else from the table, so it is tried again and again
)


def db_url() -> str:
    given = context.get_x_argument(as_dictionary=True)
    for unknown in given.keys() - {"db-url"}:
        sys.exit(f"alembic: unknown option -x {unknown}; write -x db-url=postgresql://user:password@host:port/database")
    url = given.get("db-url") or os.environ.get("ATT_DB_URL") or DEFAULT_DB_URL
    try:
        return check_dsn(url)
    except ValueError as error:
        sys.exit(f"alembic: the database URL: {error}")


def run(connection: Connection) -> None:
    """Run each migration in a transaction of its own, so that none holds its locks while the next one works."""
    connection.execute(text(f"SET lock_timeout = '{PATIENCE}s'"))
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}s'"))
    connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                with context.begin_transaction():
                    context.run_migrations()
                return
            except OperationalError as error:
                if getattr(error.orig, "pgcode", None) != LOCK_NOT_AVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_TIMEOUT)  # those who have waited for us have their turn
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": MIGRATION_LOCK})
        connection.commit()


def run_on_own_connection() -> None:
    url = db_url()
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect_blocking(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            run(connection)
    except DatabaseUnavailable as error:
        sys.exit(f"alembic: {error}")
    except DBAPIError as error:
        sys.exit(f"alembic: the database refuses: {error.orig}".strip())


def run_offline() -> None:
    # psycopg2's paramstyle would double each percent sign in a function's body.
    context.configure(
        dialect_name="postgresql",
        target_metadata=metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

given_connection = context.config.attributes.get("connection")
if context.is_offline_mode():
    run_offline()
elif given_connection is not None:
    run(given_connection)
else:
    run_on_own_connection()
