"""The embedded PostgreSQL after ``kill -9``: it is started again, and nothing of the old one runs beside the new."""

import shutil
import subprocess
import threading
from contextlib import ExitStack, suppress

import psutil
import psycopg
import pytest
from processes import is_running, kill_all, postmaster_of

from att.db import embedded
from att.db.embedded import EmbeddedPostgres, wait_for_end
from att.errors import CannotStart


@pytest.fixture
def server(data_dir):
    """A server of the test's own."""
    server = EmbeddedPostgres(data_dir)
    yield server
    server.stop()


@pytest.fixture
def orphan(server):
    """A backend in a statement that never ends, whose postmaster was killed: its process, and those it was one of."""
    connection = psycopg.connect(server.start(), autocommit=True)
    thread = threading.Thread(target=work_for_ever, args=(connection,))
    thread.start()
    postmaster = postmaster_of(server)
    family = [postmaster, *postmaster.children()]
    backend = psutil.Process(connection.info.backend_pid)
    while backend.cpu_times().user < 0.05:
        assert backend.is_running()
    postmaster.kill()
    assert wait_for_end([process for process in family if process != backend], 10)
    assert lives(backend)
    yield backend, family
    with suppress(psutil.NoSuchProcess):
        backend.kill()
    thread.join()
    connection.close()


def work_for_ever(connection):
    with suppress(psycopg.OperationalError):
        connection.execute("DO 'BEGIN LOOP END LOOP; END'")


def lives(process):
    """Whether it still runs; one that nobody has asked for its status does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("way", ["start", "keep_running"])
def test_nothing_of_a_killed_postgres_runs_beside_the_next(server, orphan, way):
    """Not even a statement that never ends, which would write into the same files."""
    _, family = orphan
    getattr(server, way)()
    assert not any(map(lives, family))
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_orphan_that_does_not_end(server, orphan, monkeypatch):
    """It is told, nothing is started beside it, and when it has ended it works."""
    backend, _ = orphan
    monkeypatch.setattr(embedded, "ORPHAN_TIMEOUT", 0.1)
    with monkeypatch.context() as deaf:
        deaf.setattr(psutil.Process, "kill", lambda *_: None)
        for way in (server.start, server.keep_running):
            with pytest.raises(CannotStart, match=f"cannot be killed: {backend.pid}"):
                way()
    server.keep_running()
    assert not lives(backend)


def test_an_orphan_that_cannot_be_seen(server, orphan, monkeypatch):
    """Root of a container may not look where a process works; PostgreSQL then finds that its memory is in use."""
    backend, _ = orphan
    monkeypatch.setattr(EmbeddedPostgres, "_is_ours", lambda *_: False)
    for _ in range(2):
        with pytest.raises(CannotStart, match="log says why"):
            server.keep_running()
    assert lives(backend)
    assert "is still in use" in (server.data_dir / "postgresql" / "log").read_text()
    backend.kill()
    assert wait_for_end([backend], 10)
    server.keep_running()
    assert is_running(server)


def test_a_postgres_of_the_same_path_elsewhere(server, monkeypatch):
    """One that works in a directory of that name in a container is left alone."""
    server.start()
    postmaster = postmaster_of(server)
    other = EmbeddedPostgres(server.data_dir.parent / "another")
    (other.data_dir / "postgresql").mkdir(parents=True)
    directory_of = psutil.Process.cwd

    def same_path(process):
        directory_of(process)  # raises for a zombie, which has none
        return str(other.data_dir / "postgresql")

    monkeypatch.setattr(psutil.Process, "cwd", same_path)
    other.start()
    other.stop()
    assert lives(postmaster)


def test_locks_of_a_dead_postgres(server):
    """Those of the data and of the socket may name what is by now another process of the same user."""
    server.start()
    kill_all(server)
    pgdata = server.data_dir / "postgresql"
    owner = pgdata.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner) as other, ExitStack() as stack:
        stack.callback(other.kill)
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lines = (pgdata / name).read_text().splitlines()
            (pgdata / name).write_text("\n".join([str(other.pid), *lines[1:], ""]))
        server.keep_running()
        with psycopg.connect(server.start()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("text", ["", "4711\n", "garbled\n"])
def test_a_pid_file_that_was_not_finished(server, text):
    """As a crash or a full disk may leave it."""
    server.start()
    kill_all(server)
    (server.data_dir / "postgresql" / "postmaster.pid").write_text(text)
    server.keep_running()
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_it_is_not_kept_running_once_it_is_stopped(server):
    """Nor before it is started. A stop waits for a start that is under way, and stops what that has started."""
    server.keep_running()
    assert not is_running(server)
    server.start()
    kill_all(server)
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (server.data_dir / "postgresql" / name).unlink()
    restarting = threading.Thread(target=server.keep_running)
    restarting.start()
    while not is_running(server):
        assert restarting.is_alive()
    server.stop()
    restarting.join()
    assert not is_running(server)
    server.keep_running()
    assert not is_running(server)


def test_one_that_another_process_has_just_started(server, monkeypatch, caplog):
    """It is found, and only who started it tells of it."""
    server.start()
    kill_all(server)
    other = EmbeddedPostgres(server.data_dir)
    acquire = server._starting.acquire

    def acquire_late(**options):
        other.start()
        return acquire(**options)

    monkeypatch.setattr(server._starting, "acquire", acquire_late)
    server.keep_running()
    other.stop()
    assert is_running(server)
    assert caplog.records == []


def test_no_other_data_is_made_while_it_runs(server):
    """When somebody has removed the directory the server does not go on with an empty database."""
    server.start()
    kill_all(server)
    shutil.rmtree(server.data_dir / "postgresql")
    with pytest.raises(CannotStart, match=r"there is no database in .* any more"):
        server.keep_running()
    assert not (server.data_dir / "postgresql").exists()
