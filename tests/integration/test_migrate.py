"""The migrations: up, down and up again, by alembic from a checkout and by the server."""

import os
import subprocess
import sys
from pathlib import Path

import alembic.command
import psycopg
import pytest
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from att.db import migrate
from att.db.dsn import connect_blocking
from att.db.migrate import bring_up_to_date, config, lacking, newest_revision
from att.db.schema import metadata
from att.errors import CannotStart, DatabaseUnavailable

ROOT = Path(__file__).parents[2]
REVISIONS = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions("base", "heads")][::-1]


def run_alembic(*arguments, **environment):
    """Run alembic as in a checkout."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def on_empty(empty_db_url):
    """Run a function of alembic on the empty database."""
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect_blocking(empty_db_url), poolclass=NullPool)

    def go(command, *arguments):
        with engine.connect() as connection:
            settings = config()
            settings.attributes["connection"] = connection
            command(settings, *arguments)

    return go


def tables(connection):
    """Return the names of the tables."""
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    connection.rollback()
    return {row[0] for row in rows}


def functions(connection):
    """Return the names of the functions."""
    rows = connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchall()
    connection.rollback()
    return {row[0] for row in rows}


def test_stairway(on_empty, empty_postgresql):
    """Each step can be undone and repeated, and the lowest level has only alembic's own table."""
    for revision, before in zip(REVISIONS, ["base", *REVISIONS], strict=False):
        on_empty(alembic.command.upgrade, revision)
        on_empty(alembic.command.downgrade, before)
        on_empty(alembic.command.upgrade, revision)
    assert tables(empty_postgresql) == {*metadata.tables, "alembic_version"}
    on_empty(alembic.command.downgrade, "base")
    assert tables(empty_postgresql) == {"alembic_version"}
    assert functions(empty_postgresql) == set()


def test_users_from_before_there_were_roles(on_empty, empty_postgresql):
    """Earlier users keep their data, get the role User, can be searched, and survive the downgrade."""
    before_roles = "9eb4ef8ac748"
    on_empty(alembic.command.upgrade, before_roles)
    empty_postgresql.execute("INSERT INTO users (login, login_key, password_hash) VALUES ('Zoë', 'zoë', 'hash')")
    empty_postgresql.commit()
    on_empty(alembic.command.upgrade, "head")
    found = empty_postgresql.execute(
        "SELECT login, password_hash, first_name, name, active FROM users JOIN roles ON roles.id = role_id"
        " WHERE att_grams(search_text) @> '{oë}' AND registered_at <= now()"
    ).fetchall()
    empty_postgresql.commit()
    assert found == [("Zoë", "hash", "", "User", True)]
    on_empty(alembic.command.downgrade, before_roles)
    assert empty_postgresql.execute("SELECT login, password_hash FROM users").fetchall() == [("Zoë", "hash")]


def test_skeletons_are_for_those_who_add_users(on_empty, empty_postgresql):
    """A role that serves without owning the tables can serve on the new schema, too, without another grant."""
    on_empty(alembic.command.upgrade, "b81f4e6a2d93")
    empty_postgresql.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON users TO pg_monitor; GRANT SELECT ON users TO PUBLIC"
    )
    empty_postgresql.commit()
    on_empty(alembic.command.upgrade, "head")
    query = "SELECT grantee, privilege_type FROM information_schema.role_table_grants WHERE table_name = 'skeletons'"
    rows = empty_postgresql.execute(f"{query} AND grantee <> current_user ORDER BY 2").fetchall()
    assert rows == [("pg_monitor", "INSERT"), ("pg_monitor", "SELECT")]


def test_functions_are_for_those_who_append(on_empty, empty_postgresql):
    """A role that may append may call what a server of the new schema calls, as before and after the downgrade."""
    called = ["att_append", "att_current_epoch", "att_epoch", "att_held", "att_trim_epochs"]
    on_empty(alembic.command.upgrade, LAST_RELEASE)
    empty_postgresql.execute("GRANT EXECUTE ON FUNCTION att_append TO pg_monitor")
    empty_postgresql.commit()
    query = (
        "SELECT proname FROM pg_proc WHERE proname = ANY (%s) AND has_function_privilege('pg_monitor', oid, 'EXECUTE')"
        " AND NOT has_function_privilege('pg_signal_backend', oid, 'EXECUTE') ORDER BY 1"
    )
    on_empty(alembic.command.upgrade, "head")
    assert [row[0] for row in empty_postgresql.execute(query, [called])] == called
    empty_postgresql.rollback()
    on_empty(alembic.command.downgrade, LAST_RELEASE)
    assert [row[0] for row in empty_postgresql.execute(query, [called])] == ["att_append"]


def test_the_migrations_make_the_schema(on_empty):
    """`alembic check` finds nothing that the tables in att.db.schema have and the migrations lack, or the reverse."""
    on_empty(alembic.command.upgrade, "head")
    on_empty(alembic.command.check)


def test_check_sees_drift(on_empty, empty_postgresql):
    """The check of the test above can fail."""
    on_empty(alembic.command.upgrade, "head")
    empty_postgresql.execute("ALTER TABLE groups DROP COLUMN created_at")
    empty_postgresql.commit()
    with pytest.raises(alembic.util.AutogenerateDiffsDetected):
        on_empty(alembic.command.check)


def test_constraints_bear_the_names_of_the_schema(postgresql):
    """Names of constraints agree, which alembic's check does not compare."""
    ours = "contype IN ('p', 'u', 'f', 'c') AND connamespace = 'public'::regnamespace"
    rows = postgresql.execute(f"SELECT conname FROM pg_constraint WHERE {ours}").fetchall()
    declared = {constraint.name for table in metadata.tables.values() for constraint in table.constraints}
    assert {name for (name,) in rows} - {"alembic_version_pkc"} == declared


def test_the_command_knows_its_arguments(empty_db_url):
    """A misspelt argument is an error, not another database."""
    result = run_alembic("-x", f"dburl={empty_db_url}", "upgrade", "head", ATT_DB_URL=empty_db_url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("alembic: unknown option -x dburl; write -x db-url=postgresql://")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_the_command_takes_the_url_from_the_environment(empty_db_url, empty_postgresql, scheme):
    result = run_alembic("upgrade", "head", ATT_DB_URL=empty_db_url.replace("postgresql:", f"{scheme}:"))
    assert result.returncode == 0, result.stderr
    assert "users" in tables(empty_postgresql)


def test_the_command_takes_the_url_as_an_argument(empty_db_url, empty_postgresql):
    """-x overrides the environment."""
    result = run_alembic("-x", f"db-url={empty_db_url}", "upgrade", "head", ATT_DB_URL="postgresql://127.0.0.1:1/no")
    assert result.returncode == 0, result.stderr
    assert "users" in tables(empty_postgresql)


@pytest.mark.parametrize(
    ("url", "says"),
    [("nonsense", "not understood"), ("postgresql://me:hush@127.0.0.1:1/no", "cannot connect to the database no")],
)
def test_the_command_says_in_one_line_what_is_wrong_with_the_url(url, says):
    result = run_alembic("upgrade", "head", ATT_DB_URL=url)
    assert result.returncode == 1
    assert result.stderr.startswith("alembic: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hush" not in result.stderr


def test_the_command_can_write_the_sql_instead(empty_postgresql):
    """`--sql` needs no database, and its output creates the same functions and triggers."""
    result = run_alembic("upgrade", "head", "--sql", ATT_DB_URL="postgresql://127.0.0.1:1/no")
    assert result.returncode == 0, result.stderr
    empty_postgresql.autocommit = True
    empty_postgresql.execute(result.stdout)
    empty_postgresql.execute(
        "INSERT INTO groups (name, name_key) VALUES ('tea', 'tea'); UPDATE groups SET name = 'Tea'"
    )
    assert empty_postgresql.execute("SELECT old, new FROM history WHERE operation = 'UPDATE'").fetchall() == [
        ({"name": "tea"}, {"name": "Tea"})
    ]


def test_the_default_url_is_the_documented_one():
    env = (ROOT / "alembic" / "env.py").read_text()
    assert '"postgresql://att_user:att_pass@localhost/att_db"' in env


def test_the_migrations_import_nothing_of_ours():
    """Migrations are frozen: later versions of the program must not change them."""
    for path in (ROOT / "alembic" / "versions").glob("*.py"):
        assert "att" not in {word for line in path.read_text().splitlines() for word in line.split()}, path


def test_an_owner_who_is_no_superuser_can_migrate(empty_db_url, empty_postgresql):
    """Migrations need neither a superuser nor an extension."""
    empty_postgresql.execute("CREATE ROLE plain LOGIN")
    empty_postgresql.execute(f"ALTER DATABASE {empty_postgresql.info.dbname} OWNER TO plain")
    empty_postgresql.commit()
    try:
        bring_up_to_date(empty_db_url.replace("postgres@", "plain@"), migrate=True)
        assert "users" in tables(empty_postgresql)
        assert empty_postgresql.execute("SELECT extname FROM pg_extension").fetchall() == [("plpgsql",)]
    finally:
        empty_postgresql.execute("REASSIGN OWNED BY plain TO postgres")
        empty_postgresql.execute("DROP OWNED BY plain")
        empty_postgresql.execute("DROP ROLE plain")
        empty_postgresql.commit()


def test_a_migration_that_waits_holds_up_nobody(empty_db_url, empty_postgresql, on_empty):
    """While a migration waits for a table that a long transaction uses, others use it; then the migration goes on."""
    on_empty(alembic.command.upgrade, REVISIONS[0])  # the next but one adds columns to the same table
    empty_postgresql.execute("SELECT FROM users")  # holds a lock until the end of the transaction
    with subprocess.Popen(
        [sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=os.environ | {"ATT_DB_URL": empty_db_url}
    ) as process:
        try:
            with psycopg.connect(empty_db_url, autocommit=True) as connection:
                waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass"
                while not connection.execute(waits).fetchall():
                    assert process.poll() is None
                connection.execute("SET statement_timeout = '4s'")  # that of a server
                connection.execute("SELECT FROM users")
            empty_postgresql.rollback()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert tables(empty_postgresql) == {*metadata.tables, "alembic_version"}


LARGE = ("users", "sessions", "groups", "members", "events", "history")
# Locks on large tables, in modes in which somebody waits for them who reads or writes, by a transaction that has also
# read or written the table's rows.
LONG_LOCKS = """
SELECT c.relname, array_agg(DISTINCT l.mode) FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_stat_xact_user_tables AS s ON s.relid = c.oid
WHERE l.pid = pg_backend_pid() AND l.granted AND c.relname = ANY (%s)
    AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND (s.seq_tup_read > 0 OR s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0)
GROUP BY c.relname
"""
FILL = """
INSERT INTO users (login, login_key, search_text, role_id)
    SELECT 'u' || n, 'u' || n, 'u' || n, (SELECT id FROM roles WHERE name = 'User') FROM generate_series(1, 9) AS n;
INSERT INTO sessions (token_hash, user_id, expires_at) SELECT uuid_send(id), id, 'infinity' FROM users;
INSERT INTO groups (name, name_key) VALUES ('tea', 'tea');
INSERT INTO members (group_id, user_id, role) SELECT groups.id, users.id, 'member' FROM groups, users;
"""
LAST_RELEASE = "e5a0c94d7b12"  # the newest migration of 0.2.0


def long_locks(connection, upgrade):
    """Run a migration in a transaction. Return the large tables whose rows it works on while others must wait."""
    with Operations.context(MigrationContext.configure(connection)):
        upgrade()
    return connection.exec_driver_sql(LONG_LOCKS, ([*LARGE],)).fetchall()


def test_no_migration_locks_a_large_table_for_long(on_empty, empty_db_url, empty_postgresql):
    """No migration after the last release reads or writes the rows of a large table that it has locked for others."""
    on_empty(alembic.command.upgrade, LAST_RELEASE)
    empty_postgresql.execute(FILL)
    empty_postgresql.commit()
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect_blocking(empty_db_url), poolclass=NullPool)
    scripts = ScriptDirectory.from_config(config())
    for revision in REVISIONS[REVISIONS.index(LAST_RELEASE) + 1 :]:
        with engine.connect() as connection, connection.begin() as transaction:
            assert long_locks(connection, scripts.get_revision(revision).module.upgrade) == [], revision
            transaction.rollback()
        on_empty(alembic.command.upgrade, revision)


def test_long_locks_are_found(on_empty, empty_db_url, empty_postgresql):
    """The check of the test above can fail: by an index made with a lock, a rewrite, an update with a lock."""
    on_empty(alembic.command.upgrade, LAST_RELEASE)
    empty_postgresql.execute(FILL)
    empty_postgresql.commit()
    engine = create_engine("postgresql+psycopg2://", creator=lambda: connect_blocking(empty_db_url), poolclass=NullPool)
    for statement in (
        "CREATE INDEX slow ON events (at, seq)",
        "ALTER TABLE events ALTER COLUMN seq TYPE numeric",
        "ALTER TABLE users ADD COLUMN nick text; UPDATE users SET nick = login",
    ):
        with engine.connect() as connection, connection.begin() as transaction:
            assert long_locks(connection, lambda statement=statement: op.execute(statement)), statement
            transaction.rollback()


def test_nothing_is_migrated_unasked(empty_db_url, empty_postgresql):
    """An older database is not changed, and the error names both ways to migrate."""
    with pytest.raises(CannotStart, match=r"'alembic upgrade head' .* 'att-server --migrate'"):
        bring_up_to_date(empty_db_url, migrate=False)
    assert tables(empty_postgresql) == set()


def test_migrating_twice_changes_nothing(empty_db_url):
    bring_up_to_date(empty_db_url, migrate=True)
    bring_up_to_date(empty_db_url, migrate=True)
    bring_up_to_date(empty_db_url, migrate=False)


def test_processes_that_migrate_at_once_do_it_one_after_the_other(empty_db_url):
    command = [
        sys.executable,
        "-c",
        "import sys; from att.db.migrate import *; bring_up_to_date(sys.argv[1], migrate=True)",
    ]
    processes = [
        subprocess.Popen([*command, empty_db_url], stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint


@pytest.mark.parametrize("allowed", [True, False])
def test_a_schema_from_the_future_is_refused(db_url, postgresql, allowed):
    """A newer schema is refused, also with --migrate."""
    postgresql.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
    postgresql.commit()
    with pytest.raises(CannotStart, match="newer than this program"):
        bring_up_to_date(db_url, migrate=allowed)


def test_an_old_postgres_is_refused(db_url, monkeypatch):
    monkeypatch.setattr(migrate, "OLDEST_POSTGRES", 99)
    with pytest.raises(CannotStart, match="PostgreSQL 99 or later is needed"):
        bring_up_to_date(db_url, migrate=True)


def test_a_database_that_cannot_hold_every_name_is_refused(embedded, db_url):
    """An encoding other than UTF-8 cannot store all logins."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE narrow ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(CannotStart, match="encoding SQL_ASCII"):
            bring_up_to_date(f"dbname=narrow user=postgres host={embedded.data_dir / 'postgresql'}", migrate=True)
    finally:
        with psycopg.connect(db_url, autocommit=True) as connection:
            connection.execute("DROP DATABASE narrow")


def test_every_function_pins_its_search_path(postgresql):
    """No caller can put objects of their own in the place of those that a function means."""
    found = postgresql.execute(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert "att_grams" in {name for name, _ in found}
    pin = "search_path=pg_catalog, pg_temp"
    assert [name for name, settings in found if pin not in (settings or ())] == []


def test_a_user_without_rights_gets_one_line(empty_db_url, empty_postgresql):
    """Since PostgreSQL 15 only the owner may create tables."""
    empty_postgresql.execute("CREATE ROLE stranger LOGIN")
    empty_postgresql.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    empty_postgresql.commit()
    try:
        with pytest.raises(CannotStart, match="refuses: permission denied for schema public"):
            bring_up_to_date(empty_db_url.replace("postgres@", "stranger@"), migrate=True)
        result = run_alembic("upgrade", "head", ATT_DB_URL=empty_db_url.replace("postgres@", "stranger@"))
        assert result.returncode == 1
        assert "alembic: the database refuses: permission denied" in result.stderr
        assert "Traceback" not in result.stderr
    finally:
        empty_postgresql.execute("DROP ROLE stranger")
        empty_postgresql.commit()


def test_what_is_lacking_at_a_revision():
    """Titles are oldest first; none at the newest revision, None beyond it."""
    names = lacking([])
    assert names[:2] == ["Added user table", "Added group table"]
    revisions = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]
    assert [lacking([revision]) for revision in revisions] == [names[place + 1 :] for place in range(len(names))]
    assert lacking(["fffffffffff0"]) is None


def test_the_newest_revision():
    """It is found without alembic, by the names of the files."""
    assert newest_revision() == REVISIONS[-1]


def test_a_database_that_is_up_to_date_needs_no_alembic(db_url):
    """Its import is a good part of the time that a server takes to start."""
    script = "bring_up_to_date(sys.argv[1], migrate=True); sys.exit('alembic' in sys.modules)"
    command = [sys.executable, "-c", f"import sys; from att.db.migrate import *; {script}", db_url]
    assert subprocess.run(command, check=False, timeout=60, cwd=ROOT).returncode == 0


def test_no_database_is_said():
    with pytest.raises(DatabaseUnavailable, match="cannot connect"):
        bring_up_to_date("postgresql://127.0.0.1:1/no", migrate=False)
