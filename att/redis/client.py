"""The Redis client. Only this module knows the library ``redis`` and its errors.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from att.core.error_text import describe_error
from att.errors import Busy, CannotStart, RedisUnavailable

_TIMEOUT = 2.0  # seconds for a connection, and for an answer
_CALL_TIMEOUT = 5.0  # seconds for one call, including its wait
PING_TIMEOUT = 1.0  # seconds; less than the caller of a ping waits
_CONCURRENCY = 50  # running calls; others wait
_QUEUE = 1_000  # waiting calls; the next one gets Busy
SCAN_COUNT = 1_000  # keys visited by one step of a scan
# Replies of a server that cannot work at the moment; the library has no classes for them.
TEMPORARY_ERRORS = ("BUSY", "MISCONF", "NOREPLICAS", "UNBLOCKED")
ACL_FILE = "deploy/redis.acl.example"

_LibraryClient = Redis | RedisCluster

# No retries: the library does not know which commands may be repeated. It replaces lost idle connections before use.
_OPTIONS: dict[str, Any] = {"protocol": 2, "socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
# From the event loop and asyncio's streams, when a connection dies under the library.
_DEAD_TRANSPORT = (RuntimeError, EOFError)
_UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
    exceptions.InvalidResponse,
    OSError,
    *_DEAD_TRANSPORT,
)
_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError, *_DEAD_TRANSPORT, AttributeError)
_ADDRESS = re.compile(r"(?:connecting to|reading from|writing to) (\S+:[0-9]+)")  # in the library's errors

log = logging.getLogger("att")


class Script:
    """A Lua script, which the server runs atomically. All its keys are in one slot."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """A client of a server or a cluster, with at most ``_CONCURRENCY`` running calls.

    ``client`` is the library's; it returns bytes, and is only used within ``guarded``.
    """

    def __init__(self, client: _LibraryClient, address: str, opened: WeakSet[AbstractConnection] | None = None) -> None:
        self.client = client
        self.address = address
        self._opened = WeakSet() if opened is None else opened
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._waiting = 0
        self._logged_error = ""

    @property
    def is_cluster(self) -> bool:
        return isinstance(self.client, RedisCluster)

    @classmethod
    async def connect(cls, url: str, trial: Script | None = None, keys: Sequence[str] = ()) -> "RedisClient":
        """Connect to the server or cluster at the URL, and try a script. Raise CannotStart with the reason."""
        address = describe(url)
        opened: WeakSet[AbstractConnection] = WeakSet()
        client: _LibraryClient | None = None
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                client = single = _standalone(url)
                mode = await _mode_of(single)
                if mode == "cluster":
                    await client.aclose()
                    client = await _cluster(url, opened).initialize()
                if trial is not None:
                    await _run(client, trial, keys, ())
        except (*_FAILURES, ValueError, TypeError) as error:
            if client is not None:
                await client.aclose()
            raise CannotStart(_describe_failure(url, error)) from error
        if mode == "sentinel":
            await client.aclose()
            raise CannotStart(f"{address} is a sentinel, which stores nothing; name the server itself in --redis-url")
        return cls(client, address, opened)

    async def close(self) -> None:
        """Close all connections."""
        with contextlib.suppress(*_FAILURES):
            await self.client.aclose()
        for connection in [*self._opened]:  # to former servers of a cluster; the library leaves them open
            await connection.disconnect(nowait=True)

    async def ping(self) -> None:
        """Ping the server, or every primary of a cluster. Raise RedisUnavailable."""
        async with self.guarded(), asyncio.timeout(PING_TIMEOUT):
            if isinstance(self.client, RedisCluster):
                await self.client.ping(target_nodes=RedisCluster.PRIMARIES)
            else:
                await self.client.ping()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes] = ()) -> Any:
        """Run a script and return its bytes and integers. Raise RedisUnavailable and Busy."""
        async with self.guarded():
            return await _run(self.client, script, keys, args)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of the keys, in order, from any slot."""
        if not keys:
            return []
        async with self.guarded():
            if not isinstance(self.client, RedisCluster):
                found: list[Any] = await self.client.mget(keys)
                return found
            pipeline = self.client.pipeline()
            for key in keys:
                pipeline.get(key)
            return list(await pipeline.execute())

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Yield batches of keys that match the pattern, each at least once unless it changes meanwhile."""
        for node in self.client.get_primaries() if isinstance(self.client, RedisCluster) else [None]:
            cursor = 0
            while True:
                async with self.guarded():
                    cursor, keys = await self._scan_once(node, cursor, pattern)
                yield keys
                if not cursor:
                    break

    @contextlib.asynccontextmanager
    async def guarded(self) -> AsyncIterator[None]:
        """Raise RedisUnavailable for failures of ``client`` in the block, and Busy when too many calls wait.

        The block takes at most ``_CALL_TIMEOUT``. Errors by our own mistakes are raised unchanged.
        """
        if self._waiting >= _QUEUE:
            raise Busy
        cancellations = _cancellations()
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                self._waiting += 1
                try:
                    await self._slots.acquire()
                finally:
                    self._waiting -= 1
                try:
                    yield
                finally:
                    self._slots.release()
        except _FAILURES as error:  # TimeoutError is an OSError
            raise self._translate(error) from error
        finally:
            # The library uses wait_for, which on Python 3.11 may lose a cancellation.
            if _cancellations() > cancellations:
                raise asyncio.CancelledError

    async def _scan_once(self, node: Any, cursor: int, pattern: str) -> tuple[int, list[bytes]]:
        target = {} if node is None else {"target_nodes": node}
        reply: Any = await self.client.scan(cursor, match=pattern, count=SCAN_COUNT, **target)
        return (reply[0] if node is None else reply[0][node.name]), reply[1]

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Raise RedisUnavailable for failures of a long-lived connection in the block."""
        try:
            yield
        except _FAILURES as error:
            raise self._translate(error) from error

    async def servers(self) -> dict[str, AbstractConnection]:
        """Return new, unopened connections to the server, or to each primary of the cluster, by name.

        The names are those of ``server_of``.
        """
        if not isinstance(self.client, RedisCluster):
            connection: AbstractConnection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # the library's
            return {self.address: connection}
        await self.client.nodes_manager.initialize()
        return {node.name: _connection_to(node) for node in self.client.get_primaries()}

    def server_of(self, channel: str) -> str:
        """Return the name of the server of a sharded channel. Call it within ``translating``."""
        if not isinstance(self.client, RedisCluster):
            return self.address
        node = self.client.get_node_from_key(channel)
        return "" if node is None else node.name

    def _translate(self, error: Exception) -> Exception:
        missing = missing_permission(error)
        if missing and missing != self._logged_error:
            self._logged_error = missing
            log.error("Redis at %s refuses: %s", self.address, missing)
        # The library sets its stream to None when another task has closed the connection.
        is_closed = isinstance(error, AttributeError) and error.obj is None
        is_away = is_closed or isinstance(error, _UNAVAILABLE) or str(error).startswith(TEMPORARY_ERRORS)
        address = _ADDRESS.search(str(error))  # of a cluster's server
        why = f"Redis at {address[1] if address else self.address}: {missing or describe_error(error)}"
        return RedisUnavailable(why=why) if missing or is_away else error


async def _run(client: _LibraryClient, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Any:
    rest = (len(keys), *keys, *args)
    try:
        return await client.execute_command("EVALSHA", script.digest, *rest)
    except exceptions.NoScriptError:  # the server is new, or was restarted
        return await client.execute_command("EVAL", script.source, *rest)


def _cancellations() -> int:
    """Return the number of cancellations of this task."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _connection_to(node: ClusterNode) -> AbstractConnection:
    return node.connection_class(**node.connection_kwargs, retry=Retry(NoBackoff(), 0))


def describe(url: str) -> str:
    """Describe a URL without its user and password: ``localhost:6379``."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"


def missing_permission(error: Exception) -> str | None:
    """Return one line about the missing permission, if that is the error."""
    text = str(error)
    in_script = "ACL failure in script: "
    if not isinstance(error, exceptions.NoPermissionError) and not text.startswith(in_script):
        return None
    denial = text.removeprefix(in_script).partition(" script: ")[0].rstrip(".")
    return f"{denial}; {ACL_FILE} has all needed permissions"


def _standalone(url: str) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_OPTIONS)


def _cluster(url: str, opened: WeakSet[AbstractConnection]) -> RedisCluster:
    # One retry, after which the library reads the map of slots again.
    client = RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), **_OPTIONS)
    options: dict[str, Any] = client.get_connection_kwargs()
    kind: type[AbstractConnection] = options["connection_class"]

    def connect(**given: Any) -> AbstractConnection:
        connection = kind(**given)
        opened.add(connection)
        return connection

    options["connection_class"] = client.nodes_manager.connection_kwargs["connection_class"] = connect
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = connect  # type: ignore[assignment]  # it is only called
    return client


async def _mode_of(client: Redis) -> str:
    """Return ``standalone``, ``cluster`` or ``sentinel``, by the one command that needs no permission."""
    reply: list[Any] = await client.execute_command("HELLO")  # type: ignore[no-untyped-call] # the library's
    await client.ping()  # the first command that needs a permission
    mode = reply[reply.index(b"mode") + 1]
    return mode.decode() if isinstance(mode, bytes) else ""


def _describe_failure(url: str, error: Exception) -> str:
    """Return one line about a failed connection, without the password."""
    address = describe(url)
    if isinstance(error, exceptions.AuthenticationError):
        return f"Redis at {address} rejects the user or password in --redis-url"
    if missing := missing_permission(error):
        return f"Redis at {address} refuses: {missing}"
    if isinstance(error, ValueError | TypeError):
        return "--redis-url has an invalid query (after the question mark) or database number"
    reason = describe_error(error)
    if password := urlsplit(url).password:
        reason = reason.replace(password, "***").replace(unquote(password), "***")
    return f"cannot use Redis at {address}; is it running, and is --redis-url right? {reason}"
