"""Databases of the tests."""

from typing import Any

from in_process import run_here  # noqa: F401 - a fixture of many


def dsn_of(connection: Any) -> str:
    """The DSN of the database that a psycopg connection is to."""
    return f"postgresql://{connection.info.user}@/{connection.info.dbname}?host={connection.info.host}"
