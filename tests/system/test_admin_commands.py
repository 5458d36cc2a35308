"""The sub-commands, as the operator runs them: what they do, what they print, and each error in one line."""

import asyncio
import os
import pty
import subprocess
import sys
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg2.extensions import make_dsn
from sqlalchemy import select

from att.db.dsn import describe
from att.db.engine import Engine, prepare
from att.db.rights import RIGHTS
from att.db.schema import users
from att.redis.client import RedisClient
from att.sessions.redis_keys import SessionKeys

PASSWORD = "correct horse"


@pytest.fixture
def rows(postgresql):
    """The rows of a query, as they are now."""

    def run(query):
        found = postgresql.execute(query).fetchall()
        postgresql.commit()
        return found

    return run


WHO = "SELECT login, roles.name FROM users JOIN roles ON role_id = roles.id ORDER BY login"
HASHES = "SELECT password_hash FROM users ORDER BY login"


def test_create_admin(run_here, rows, db_url):
    """Somebody new is made, somebody there is promoted; the options may stand before the command, after it, and in the
    environment, where those nearest to it count.
    """
    nowhere = "host=/no/such/dir dbname=db"
    typed = f"{PASSWORD}\n".encode()
    ways = [
        (["create-admin", "ann", "--db-url", db_url], {"ATT_DB_URL": nowhere}),
        (["--db-url", nowhere, "create-admin", "--db-url", db_url, "ANN"], {}),
        (["--db-url", db_url, "create-admin", "ann"], {}),
        (["create-admin", "ann"], {"ATT_DB_URL": db_url}),
    ]
    place = describe(db_url)
    now = "is an administrator now, with the new password"
    says = [
        f"ann is an administrator, in {place}\n",
        *(f"{name} {now}, in {place}\n" for name in ("ANN", "ann", "ann")),
    ]
    hashes = set()
    for (arguments, environment), expected in zip(ways, says, strict=True):
        result = run_here(*arguments, typed=typed, **environment)
        assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")
        assert rows(WHO) == [("ann", "Admin")]
        hashes.add(*rows(HASHES))
    assert len(hashes) == 4


def test_reset_password(run_here, rows, db_url):
    """The line is the password, with either end of line, or none, and with its spaces."""
    run_here("--db-url", db_url, "create-admin", "ann", typed=b"correct horse")
    hashes = {*rows(HASHES)}
    says = f"Ann has the new password, in {describe(db_url)}\n"
    for typed in (b"another horse\n", b"another horse\r\nnot this\n", b"  another horse  "):
        result = run_here("reset-password", "--db-url", db_url, "Ann", typed=typed)
        assert (result.returncode, result.stdout, result.stderr) == (0, says, "")
        hashes.add(*rows(HASHES))
    assert len(hashes) == 4


@pytest.mark.parametrize("command", ["create-admin", "reset-password"])
def test_sessions_in_redis_end(run_here, db_url, valkey, valkey_url, command):
    """Where Redis keeps sessions the command finds it by its option, before it or after it, or the variable."""
    run_here("--db-url", db_url, "create-admin", "ann", typed=b"correct horse")
    for before, after, environment in [
        (["--redis-url", valkey_url], [], {}),
        ([], ["--redis-url", valkey_url], {}),
        ([], [], {"ATT_REDIS_URL": valkey_url}),
    ]:
        ours, bobs = asyncio.run(_sign_in(db_url, valkey_url))
        assert valkey.ask("EXISTS", ours, bobs) == 2
        result = run_here(*before, command, *after, "ann", "--db-url", db_url, typed=b"another horse", **environment)
        assert (result.returncode, result.stderr) == (0, "")
        assert (valkey.ask("EXISTS", ours), valkey.ask("EXISTS", bobs)) == (0, 1)


async def _sign_in(db_url, valkey_url):
    """The keys of a new session of Ann's, and of one of somebody else's."""
    db, redis_client = await Engine.connect(db_url), await RedisClient.connect(valkey_url)
    ann, bob = (await db.fetch_one(prepare(select(users.c.id))))[0], uuid4()
    keys = SessionKeys(redis_client, timedelta(hours=1), timedelta(minutes=1))
    made = []
    for user_id in (ann, bob):
        session_id = uuid4()
        await keys.create("00", user_id, session_id, (None, None))
        made.append(f"att:{{{user_id}}}:session:{session_id}")
    await redis_client.close()
    await db.close()
    return made


def test_without_redis(run_here, rows, db_url):
    """When sessions cannot be ended nothing is changed, and one line says why."""
    run_here("--db-url", db_url, "create-admin", "ann", typed=b"correct horse")
    before = rows(HASHES)
    arguments = ["reset-password", "ann", "--db-url", db_url, "--redis-url", "redis://ann:hush@127.0.0.1:1"]
    result = run_here(*arguments, typed=b"another horse")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("att-server: cannot use Redis at 127.0.0.1:1; is it running")
    assert result.stderr.count("\n") == 1
    assert "hush" not in result.stderr
    assert rows(HASHES) == before


@pytest.mark.parametrize("command", ["create-admin", "reset-password"])
@pytest.mark.parametrize(
    ("typed", "login", "says"),
    [
        (b"", "ann", "no password on the standard input"),
        (None, "ann", "no password on the standard input"),
        (b"\n", "ann", "the password must have at least 6 characters"),
        (b"hush!\n", "ann", "the password must have at least 6 characters"),
        (b"hush" * 300, "ann", "the password must have at most 1024 bytes"),
        (b"hush" * 30_000, "ann", "the password must have at most 1024 bytes"),
        (b"hush \xff\xfe", "ann", "the password must be text in UTF-8"),
        (b"hush hush\n", "", "must have 1 to 64 characters"),
        (b"hush hush\n", "a\nb", "must not contain control characters"),
    ],
)
def test_bad_input(run_here, command, typed, login, says):
    """It is told before the database is looked for, in a line that does not repeat the password."""
    result = run_here("--db-url", "host=/no/such/dir dbname=db", command, login, typed=typed)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("att-server: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hush" not in result.stderr


def test_errors_are_one_line(run_here, db_url, empty_db_url, postgresql):
    """Nobody of that login, no database, no schema, no such command, no login."""
    typed = b"correct horse\n"
    for arguments, status, says in [
        (["reset-password", "nobody", "--db-url", db_url], 1, f"no user with the login 'nobody' in {describe(db_url)}"),
        (["create-admin", "ann", "--db-url", "host=/no/such/dir dbname=db"], 1, "cannot connect to the database db"),
        (["create-admin", "ann", "--db-url", empty_db_url], 1, "att-server --migrate"),
        (["migrate", "--db-url", "host=/no/such/dir dbname=db"], 1, "cannot connect to the database db"),
        (["migrate", "--db-url", "nonsense"], 2, "not understood"),
        (["migrate", "--data-dir", ""], 2, "give the path"),
        (["migrate", "more"], 2, "unexpected extra argument"),
        (["create-admin", "--db-url", db_url], 2, "Missing argument 'LOGIN'"),
        (["create-admin", "ann", "ben"], 2, "unexpected extra argument"),
        (["destroy"], 2, "No such command 'destroy'"),
    ]:
        result = run_here(*arguments, typed=typed)
        assert (result.returncode, result.stdout) == (status, ""), arguments
        assert says in result.stderr
        assert result.stderr.startswith("att-server: ")
        assert result.stderr.count("\n") == 1, result.stderr
    postgresql.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
    postgresql.commit()
    assert "newer than this program" in run_here("migrate", "--db-url", db_url).stderr


def test_migrate(run_here, empty_db_url, empty_postgresql):
    """It says what it did, the second time that there was nothing to do."""
    result = run_here("migrate", "--db-url", empty_db_url)
    assert (result.returncode, result.stderr) == (0, "")
    *done, last = result.stdout.splitlines()
    assert done[0] == "done: Added user table"
    assert last.startswith("the schema in ")
    assert last.endswith(" is now up to date")
    [count] = empty_postgresql.execute("SELECT count(*) FROM roles").fetchone()
    assert count == 2
    again = run_here("--db-url", empty_db_url, "migrate")
    assert again.stdout.endswith("was already up to date\n")
    assert again.stdout.count("\n") == 1


def test_grant(run_here, db_url, postgresql):
    """A role gets the rights that `check` looks for, again and again; one that is not there is one line."""
    postgresql.execute('CREATE ROLE "odd ""clerk" LOGIN')
    postgresql.commit()
    try:
        for _ in range(2):
            result = run_here("--db-url", db_url, "migrate", "--grant-to", 'odd "clerk')
            assert (result.returncode, result.stderr) == (0, "")
            assert result.stdout.endswith('the role odd "clerk has the rights that servers need\n')
        lacking = "SELECT name FROM unnest(%s::text[], %s::text[]) AS w (name, wanted)"
        lacking += """ WHERE NOT has_table_privilege('odd "clerk', name, wanted)"""
        pairs = [(name, right) for name, rights in RIGHTS.items() for right in rights]
        assert postgresql.execute(lacking, [list(column) for column in zip(*pairs, strict=True)]).fetchall() == []
        result = run_here("--db-url", db_url, "migrate", "--grant-to", "nobody")
        assert result.returncode == 1
        assert 'role "nobody" does not exist' in result.stderr
        assert result.stderr.count("\n") == 1
    finally:
        postgresql.execute('DROP OWNED BY "odd ""clerk"; DROP ROLE "odd ""clerk"')
        postgresql.commit()


def test_the_embedded_postgres(run_here, tmp_path):
    """Made if need be, and stopped in the end; the data is there for the next."""
    for typed, says in [
        (b"correct horse", "ann is an administrator"),
        (b"another horse", "ann is an administrator now, with the new password"),
    ]:
        result = run_here("create-admin", "ann", "--data-dir", str(tmp_path), typed=typed)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"{says}, in {tmp_path} (embedded PostgreSQL)\n"
    assert not (tmp_path / "postgresql" / "postmaster.pid").exists()
    assert run_here("--data-dir", str(tmp_path), "migrate").stdout.endswith("was already up to date\n")


@pytest.mark.parametrize("command", [["reset-password", "ann"], ["why", "ann", "tea"]])
@pytest.mark.parametrize("holds", ["nothing", "other files", "an unfinished database"])
def test_no_database_is_made_to_ask_it(run_here, tmp_path, command, holds):
    """As of a directory that is mistyped: one line says what to give, and the directory stays as it was."""
    data_dir = tmp_path / "mistyped"
    if holds != "nothing":
        (data_dir / "postgresql").mkdir(parents=True)
    if holds == "an unfinished database":
        (data_dir / "initialising").touch()
        (data_dir / "postgresql" / "PG_VERSION").touch()
    before = sorted(tmp_path.rglob("*"))
    result = run_here(*command, "--data-dir", str(data_dir), typed=b"another horse")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"att-server: there is no database in {data_dir};"
        " name its directory with --data-dir, or your own PostgreSQL with --db-url\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [["reset-password", "ann"], ["why", "ann", "tea"]])
def test_a_directory_that_cannot_be_looked_into(run_here, tmp_path, command):
    """It is not said that there is no database."""
    result = run_here(*command, "--data-dir", str(tmp_path / ("x" * 300)), typed=b"another horse")
    assert result.returncode == 1
    assert "cannot write to the data directory" in result.stderr


def test_where_it_is_done_without_the_password(run_here, db_url):
    """The place is told, and not how to get in."""
    given = make_dsn(db_url, password="hush hush")
    for arguments in (["create-admin", "ann"], ["reset-password", "ann"], ["reset-password", "nobody"]):
        result = run_here(*arguments, "--db-url", given, typed=b"another horse")
        told = result.stdout + result.stderr
        assert describe(db_url) in told
        assert "hush" not in told


@pytest.mark.parametrize(("second", "status"), [(PASSWORD, 0), ("other horse", 130)])
def test_on_a_terminal(db_url, second, status):
    """It is asked for twice, not shown as it is typed, and asked for again when the two differ."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "att", "create-admin", "--db-url", db_url, "ann"]
    process = subprocess.Popen(
        command, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    for prompt, line in [(b"Password: ", PASSWORD), (b"Repeat for confirmation: ", second)]:
        assert process.stderr.read(len(prompt)) == prompt
        os.write(terminal, f"{line}\n".encode())
        assert process.stderr.read(1) == b"\n"
    if status:
        complaint = b"Error: The two entered values do not match.\nPassword: "
        assert process.stderr.read(len(complaint)) == complaint
        os.write(terminal, b"\x04")  # end of file: never mind
    printed, complaint = process.communicate(timeout=30)
    os.write(end, b"shown:")
    shown = os.read(terminal, 4096)
    os.close(terminal)
    os.close(end)
    told = "" if status else f"ann is an administrator, in {describe(db_url)}\n"
    assert (process.returncode, printed.decode()) == (status, told)
    assert shown == b"shown:"
    assert PASSWORD.encode() not in complaint
    with psycopg.connect(db_url) as connection:
        assert connection.execute(WHO).fetchall() == ([] if status else [("ann", "Admin")])


@pytest.mark.parametrize("command", ["create-admin", "reset-password", "migrate"])
def test_help(run_here, command):
    """Each says what it does, and what becomes of sessions and sockets."""
    result = run_here(command, "--help")
    assert result.returncode == 0
    assert "--db-url" in result.stdout
    assert "--data-dir" in result.stdout
    assert ("WebSockets" in result.stdout) is (command != "migrate")
