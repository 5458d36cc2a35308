"""Databases of the tests."""

import contextlib
import subprocess
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from att.db.migrate import bring_up_to_date


class Databases:
    """Maker of databases on a server whose socket is in ``host``."""

    def __init__(self, host: str) -> None:
        self._place = {"host": host, "user": "postgres"}
        self._admin = psycopg.connect(**self._place, dbname="postgres", autocommit=True)
        self._numbers = count(1)
        self._unused: list[str] = []

    @cached_property
    def migrated(self) -> str:
        """The name of a migrated database, made once, to be copied."""
        self._create("att_template", "template1")
        bring_up_to_date(f"host={self._place['host']} user=postgres dbname=att_template", migrate=True)
        return "att_template"

    def _create(self, name: str, template: str) -> None:
        # A copy of files costs half of what writing a database to the log does, when nothing waits for a disk.
        statement = SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self._admin.execute(statement.format(Identifier(name), Identifier(template)))

    @contextlib.contextmanager
    def copied(self, name: str, template: str) -> Iterator[psycopg.Connection]:
        """Copy a database for the block; the name of the copy begins with ``name``.

        It is dropped with the next copy, even if others are still connected. By then the connections of the block have
        ended, for which PostgreSQL would wait in steps of 100 ms.
        """
        while self._unused:
            self._admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(self._unused.pop())))
        name = f"{name}_{next(self._numbers)}"
        self._create(name, template)
        with contextlib.closing(psycopg.connect(**self._place, dbname=name)) as connection:
            yield connection
        self._unused.append(name)

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()


def copy_data(source: Path, target: Path) -> Path:
    """Copy the data directory of an embedded PostgreSQL that does not run. Its files keep their owner."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, however much that is."""
    subprocess.run(["rm", "-rf", directory], check=True)


def dsn_of(connection: psycopg.Connection) -> str:
    """Return the DSN of the database that a connection is to."""
    return f"postgresql://{connection.info.user}@/{connection.info.dbname}?host={connection.info.host}"
