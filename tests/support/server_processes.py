"""Server processes that begin with everything imported.

``ServerProcess`` forks from a process that has imported the server once: imports take most of the CPU of a start. The
rest is as with ``python -m att``: arguments, environment, streams and signals. tests/system/test_cli.py and
``make chaos`` start the command itself.
"""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import att.server.logging as logs
from att.cli.main import main

_context = get_context("forkserver")
_context.set_forkserver_preload(["att.cli.serve", "server_processes"])


class ServerProcess:
    """``att-server`` with these arguments, with as much of ``subprocess.Popen`` as tests need.

    ``output`` has a file for stdout and one for stderr; without it both are pipes. ``files`` limits the open files,
    ``log_level`` what is logged.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        output: tuple[IO, IO] | None = None,
        files: int | None = None,
        log_level: int | None = None,
    ) -> None:
        self.returncode: int | None = None  # as ``poll`` and ``wait`` find it
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        if output is None:
            (self.stdout, out), (self.stderr, error) = _pipe(), _pipe()
        else:
            out, error = (Connection(os.dup(file.fileno()), readable=False) for file in output)
        variables = {**os.environ, **(environment or {})}
        self._process = _context.Process(
            target=_serve, args=([*arguments], variables, str(Path.cwd()), out, error, files, log_level), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid
        for connection in (out, error):
            connection.close()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs; that of a signal is negative."""
        self.returncode = self._process.exitcode
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("att-server", timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it printed. It must be less than a pipe takes, 64 KiB, and is read once."""
        self.wait(timeout)
        if self.stdout.closed:
            return "", ""
        with self.stdout as out, self.stderr as error:
            return out.read(), error.read()


def _pipe() -> tuple[IO[str], Connection]:
    reader, writer = _context.Pipe(duplex=False)
    with reader:
        return os.fdopen(os.dup(reader.fileno())), writer


def _serve(
    arguments: list[str],
    variables: dict[str, str],
    directory: str,
    out: Connection,
    error: Connection,
    files: int | None,
    log_level: int | None,
) -> None:
    for connection, descriptor in ((out, 1), (error, 2)):
        os.dup2(connection.fileno(), descriptor)
        connection.close()
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if log_level is not None:
        logs.LEVEL = log_level
    sys.argv = ["att-server", *arguments]
    main()
