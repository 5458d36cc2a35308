"""The embedded PostgreSQL: shared while it is used, stopped with its last user, its data kept."""

import fcntl
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys

import psutil
import psycopg
import pytest
from processes import is_running, kill_all

from att.db import embedded
from att.db.embedded import EmbeddedPostgres
from att.errors import CannotStart

HOLD = """
import sys
from pathlib import Path
from att.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def server(data_dir):
    """A server of the test's own."""
    server = EmbeddedPostgres(data_dir)
    yield server
    server.stop()


@pytest.fixture
def new_server(tmp_path_factory):
    """A server that has no data yet."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("embedded"))
    yield server
    server.stop()


def another_process(server):
    """A process that uses the same data directory until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(server.data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("host=")
    return process


def test_data_outlives_the_server(server):
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE TABLE kept (a int)")
    server.stop()
    assert not is_running(server)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_path_with_a_link_in_it(server, tmp_path):
    """The same directory by another name is the same server, and its pid file is not taken for a dead one's."""
    link = tmp_path / "link"
    link.symlink_to(server.data_dir)
    server.start()
    other = EmbeddedPostgres(link)
    with psycopg.connect(other.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.stop()
    assert is_running(server)
    other.stop()
    assert not is_running(server)


def test_a_garbled_version(new_server):
    """Not as after an interrupted initialisation: there may be data."""
    (new_server.data_dir / "postgresql").mkdir()
    (new_server.data_dir / "postgresql" / "PG_VERSION").touch()
    for _ in range(2):
        with pytest.raises(CannotStart, match="cannot read"):
            new_server.start()


def test_what_is_no_data_is_left_alone(new_server):
    """A directory of the same name that holds somebody's files is neither used nor, the next time, cleared."""
    keepsake = new_server.data_dir / "postgresql" / "keepsake"
    keepsake.parent.mkdir()
    keepsake.write_text("mine")
    for _ in range(2):
        with pytest.raises(CannotStart, match="does not hold PostgreSQL data"):
            new_server.start()
    assert keepsake.read_text() == "mine"


def test_stopping_what_was_not_started_does_nothing(server):
    server.stop()


def test_the_last_user_stops_it(server):
    """Two processes share it; it stays while one of them is there."""
    server.start()
    other = another_process(server)
    server.stop()
    assert is_running(server)
    other.communicate()
    assert not is_running(server)


def test_a_killed_user_leaves_nothing_that_keeps_it_running(server):
    """After kill -9 the next start finds the server and its data, and its stop stops it."""
    other = another_process(server)
    other.kill()
    other.communicate()
    assert is_running(server)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.stop()
    assert not is_running(server)


def test_a_killed_postgres_is_recovered(server):
    """The pid file of a dead server, whose pid is now somebody else's, does not pass for a running one."""
    server.start()
    pid_file = server.data_dir / "postgresql" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill_all(server)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_nobody_else_reaches_the_server(new_server):
    """It listens on no port, and its socket is its owner's: within it, everybody is trusted."""
    with psycopg.connect(new_server.start()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    socket = new_server.data_dir / "postgresql" / ".s.PGSQL.5432"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700


def test_settings_are_written_once(new_server):
    new_server.start()
    new_server.stop()
    new_server.start()
    assert (new_server.data_dir / "postgresql" / "postgresql.conf").read_text().count("Written by att") == 1


def test_a_directory_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CannotStart, match=r"cannot write to the data directory .* choose one with --data-dir"):
        EmbeddedPostgres(file / "data").start()


def test_a_file_where_the_data_should_be(new_server):
    (new_server.data_dir / "postgresql").touch()
    with pytest.raises(CannotStart, match="cannot use the data directory"):
        new_server.start()


@pytest.mark.parametrize("name", ["with space", "a&b", "50%", "q'uote", "$HOME", "a,b"])
def test_a_path_that_a_shell_would_take_apart(tmp_path, name):
    """The library starts PostgreSQL by way of one."""
    with pytest.raises(CannotStart, match="choose a path of letters, digits"):
        EmbeddedPostgres(tmp_path / name).start()
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["umläut", "x" * 120, "a.b_c-d+e=f@g"])
def test_other_unusual_paths(tmp_path_factory, name):
    """Also one that is longer than the name of a socket may be."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("paths") / name)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.stop()


def test_data_of_somebody_else_is_left_alone(new_server, monkeypatch):
    """As root the library would make it its own user's, and the owner could never start it again."""
    monkeypatch.setattr("att.db.embedded.LIBRARY_USER", "nobody-of-this-name")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    pgdata = new_server.data_dir / "postgresql"
    pgdata.mkdir()
    if os.getuid() == 0:
        os.chown(pgdata, 4_242, -1)
    owner = pgdata.stat().st_uid
    with pytest.raises(CannotStart, match="belongs to another user"):
        new_server.start()
    assert pgdata.stat().st_uid == owner


def test_an_interrupted_initialisation_is_begun_anew(server):
    """What a killed first start left behind looks like data, and is none."""
    server.start()
    server.stop()
    for path in (server.data_dir / "postgresql" / "base").iterdir():
        shutil.rmtree(path)
    (server.data_dir / "postgresql" / "PG_VERSION").write_text("")
    (server.data_dir / "initialising").touch()
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SHOW unix_socket_permissions").fetchone() == ("0700",)


def test_data_of_another_version(server):
    """Data that this PostgreSQL cannot read is an error that names the log, and the lock is given back."""
    server.start()
    server.stop()
    (server.data_dir / "postgresql" / "PG_VERSION").write_text("9\n")
    for _ in range(2):
        with pytest.raises(CannotStart, match="found version 9"):
            server.start()


def test_a_server_that_starts_slowly(server, tmp_path):
    """A start that recovers for longer than the library waits, which is 10 seconds, succeeds."""
    server.start()
    server.stop()
    pgdata = server.data_dir / "postgresql"
    (pgdata / "recovery.signal").touch()
    with (pgdata / "postgresql.conf").open("a") as file:
        print("hot_standby = off", file=file)
        print("restore_command = 'test -e slept || { touch slept; sleep 11; }; false'", file=file)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    assert (pgdata / "slept").exists()


def test_an_initialisation_that_fails(new_server):
    """The error has what initdb said, as the server has no log yet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CannotStart, match="does not start; initdb: "):
            new_server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_server_that_is_being_stopped_is_waited_for_with_a_bound(server, monkeypatch):
    """Whoever stops the server holds the lock alone; a start meanwhile does not wait forever."""
    monkeypatch.setattr("att.db.embedded.LOCK_TIMEOUT", 0.05)
    with (server.data_dir / "users.lock").open("a") as stopping:
        fcntl.flock(stopping, fcntl.LOCK_EX)
        with pytest.raises(CannotStart, match="is locked"):
            server.start()


@pytest.mark.parametrize("deaf_to", [[], ["SIGINT"], ["SIGINT", "SIGQUIT"]])
def test_a_postgresql_that_does_not_end_is_ended(monkeypatch, deaf_to):
    """One signal after the other, with a bound for each."""
    monkeypatch.setattr(
        embedded, "_STOP_SIGNALS", tuple((number, min(seconds, 1)) for number, seconds in embedded._STOP_SIGNALS)
    )
    ignore = "".join(f"signal.signal(signal.{name}, signal.SIG_IGN);" for name in deaf_to)
    command = (
        f"import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); {ignore} print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        embedded.stop_postmaster(psutil.Process(process.pid))
        assert process.poll() is not None
    embedded.stop_postmaster(None)


@pytest.mark.timeout(20)  # less than the wait for a process that does not end
def test_a_zombie_has_ended(monkeypatch):
    """PostgreSQL has stopped, although its parent does not collect its status."""
    monkeypatch.setattr(embedded, "_STOP_SIGNALS", ((signal.SIGINT, 60),))
    child = "import time; print(flush=True); time.sleep(60)"
    command = (
        "import sys; from subprocess import DEVNULL, PIPE, Popen;"
        f"child = Popen([sys.executable, '-c', {child!r}], stdout=PIPE, stderr=DEVNULL);"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        embedded.stop_postmaster(child)
        assert child.status() == psutil.STATUS_ZOMBIE
