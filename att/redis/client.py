"""The only module that knows the library ``redis``: a client, and the border at which its errors are translated.

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
_PATIENCE = 5.0  # seconds for all that is done at once, with the wait for a turn
PING_TIMEOUT = 1.0  # seconds, which is less than whoever asks for a ping waits
_AT_ONCE = 50  # that are under way; others wait for their turn
_QUEUE = 1_000  # that wait; the next one is told to come back
SCAN_COUNT = 1_000  # keys that are looked at by one step of a scan
# What a server answers that is not able to work at the moment, besides what the library has classes for.
NOT_NOW = ("BUSY", "MISCONF", "NOREPLICAS", "UNBLOCKED")
ACL_FILE = "deploy/redis.acl.example"

RedisConnection = Redis | RedisCluster
Complaint = exceptions.ResponseError  # what is raised for a mistake of ours: see _translate()

# The library does not repeat what met a lost connection, for it does not know what may be repeated. One that was lost
# while nobody used it is made anew before it is used.
_OPTIONS: dict[str, Any] = {"protocol": 2, "socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
_UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
    OSError,
)
_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_PLACE = re.compile(r"(?:connecting to|reading from|writing to) (\S+:[0-9]+)")  # in the library's complaints

log = logging.getLogger("att")


class Script:
    """A program in Lua that the server runs as one step. All its keys are in one slot."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisLink:
    """A client of a server, or of a cluster; of each, ``_AT_ONCE`` calls are under way at most.

    ``client`` gives bytes. Whoever uses it does so within ``guarded``.
    """

    def __init__(self, client: RedisConnection, place: str, opened: WeakSet[AbstractConnection] | None = None) -> None:
        self.client = client
        self.place = place
        self._opened = WeakSet() if opened is None else opened
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        self._complaint = ""

    @property
    def is_cluster(self) -> bool:
        return isinstance(self.client, RedisCluster)

    @classmethod
    async def connect(cls, url: str, trial: Script | None = None, keys: Sequence[str] = ()) -> "RedisLink":
        """Find out what there is at the URL, and try a script. Raises CannotStart that says in one line why not."""
        place = describe(url)
        opened: WeakSet[AbstractConnection] = WeakSet()
        client: RedisConnection | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
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
            raise CannotStart(_why_not(url, error)) from error
        if mode == "sentinel":
            await client.aclose()
            raise CannotStart(f"{place} is a sentinel, which keeps nothing; give the server in --redis-url")
        return cls(client, place, opened)

    async def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(*_FAILURES):
            await self.client.aclose()
        for connection in [*self._opened]:  # of servers that a cluster had; the library forgets to close them
            await connection.disconnect(nowait=True)

    async def ping(self) -> None:
        """Whether it answers, of a cluster each part of it. Raises RedisUnavailable."""
        async with self.guarded(), asyncio.timeout(PING_TIMEOUT):
            if isinstance(self.client, RedisCluster):
                await self.client.ping(target_nodes=RedisCluster.PRIMARIES)
            else:
                await self.client.ping()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes] = ()) -> Any:
        """What the script returns, in bytes and whole numbers. Raises RedisUnavailable and Busy."""
        async with self.guarded():
            return await _run(self.client, script, keys, args)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of the keys, in their order, wherever they are."""
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
        """The keys of this pattern, some at a time, each at least once. They may come and go meanwhile."""
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
        """Around what is asked of ``client``: RedisUnavailable for all that may go wrong there, Busy when too many ask.

        It takes ``_PATIENCE`` at most. What is a mistake of ours is raised as it is.
        """
        if self._waiting >= _QUEUE:
            raise Busy
        cancellations = _cancellations()
        try:
            async with asyncio.timeout(_PATIENCE):
                self._waiting += 1
                try:
                    await self._turns.acquire()
                finally:
                    self._waiting -= 1
                try:
                    yield
                finally:
                    self._turns.release()
        except _FAILURES as error:  # TimeoutError is an OSError
            raise self._translate(error) from error
        finally:
            # The library waits by wait_for, which on Python 3.11 drops a cancellation that meets a result.
            if _cancellations() > cancellations:
                raise asyncio.CancelledError

    async def _scan_once(self, node: Any, cursor: int, pattern: str) -> tuple[int, list[bytes]]:
        where = {} if node is None else {"target_nodes": node}
        told: Any = await self.client.scan(cursor, match=pattern, count=SCAN_COUNT, **where)
        return (told[0] if node is None else told[0][node.name]), told[1]

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Around what goes on for as long as a connection lasts: RedisUnavailable for what may go wrong there."""
        try:
            yield
        except _FAILURES as error:
            raise self._translate(error) from error

    async def servers(self) -> dict[str, AbstractConnection]:
        """Connections of the caller's own, which are not open yet: to the server, or to each primary of the cluster.

        By their names, as ``server_of`` tells them from then on.
        """
        if not isinstance(self.client, RedisCluster):
            connection: AbstractConnection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # the library's
            return {self.place: connection}
        await self.client.nodes_manager.initialize()
        return {node.name: _connection_to(node) for node in self.client.get_primaries()}

    def server_of(self, channel: str) -> str:
        """Which server has a sharded channel. Raises what ``translating`` is for."""
        if not isinstance(self.client, RedisCluster):
            return self.place
        node = self.client.get_node_from_key(channel)
        return "" if node is None else node.name

    def _translate(self, error: Exception) -> Exception:
        missing = missing_right(error)
        if missing and missing != self._complaint:
            self._complaint = missing
            log.error("Redis at %s refuses: %s", self.place, missing)
        is_ours = not (missing or isinstance(error, _UNAVAILABLE) or str(error).startswith(NOT_NOW))
        place = _PLACE.search(str(error))  # which of a cluster's servers it is
        why = f"Redis at {place[1] if place else self.place}: {missing or describe_error(error)}"
        return error if is_ours else RedisUnavailable(why=why)


async def _run(client: RedisConnection, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Any:
    rest = (len(keys), *keys, *args)
    try:
        return await client.execute_command("EVALSHA", script.digest, *rest)
    except exceptions.NoScriptError:  # it has been restarted, or is new
        return await client.execute_command("EVAL", script.source, *rest)


def _cancellations() -> int:
    """How often this task was cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _connection_to(node: ClusterNode) -> AbstractConnection:
    return node.connection_class(**node.connection_kwargs, retry=Retry(NoBackoff(), 0))


def describe(url: str) -> str:
    """Where a URL points, for people and without its user and password: ``localhost:6379``."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"


def missing_right(error: Exception) -> str | None:
    """Which right is missing, if it is for that: one line for the operator."""
    text = str(error)
    in_script = "ACL failure in script: "
    if not isinstance(error, exceptions.NoPermissionError) and not text.startswith(in_script):
        return None
    said = text.removeprefix(in_script).partition(" script: ")[0].rstrip(".")
    return f"{said}; {ACL_FILE} has all that is needed"


def _standalone(url: str) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_OPTIONS)


def _cluster(url: str, opened: WeakSet[AbstractConnection]) -> RedisCluster:
    # Once more, for then it looks anew who has what.
    client = RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), **_OPTIONS)
    options: dict[str, Any] = client.get_connection_kwargs()
    kind: type[AbstractConnection] = options["connection_class"]

    def connection(**given: Any) -> AbstractConnection:
        made = kind(**given)
        opened.add(made)
        return made

    options["connection_class"] = client.nodes_manager.connection_kwargs["connection_class"] = connection
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = connection  # type: ignore[assignment]  # it is only called
    return client


async def _mode_of(client: Redis) -> str:
    """``standalone``, ``cluster`` or ``sentinel``, by the one command that needs no right."""
    told: list[Any] = await client.execute_command("HELLO")  # type: ignore[no-untyped-call] # the library's
    await client.ping()  # the first command that needs one
    mode = told[told.index(b"mode") + 1]
    return mode.decode() if isinstance(mode, bytes) else ""


def _why_not(url: str, error: Exception) -> str:
    """One line about a link that cannot be had, without the password."""
    place = describe(url)
    if isinstance(error, exceptions.AuthenticationError):
        return f"Redis at {place} wants another user or password; look at --redis-url"
    if missing := missing_right(error):
        return f"Redis at {place} refuses: {missing}"
    if isinstance(error, ValueError | TypeError):
        return "the part of --redis-url behind the question mark, or its number of a database, is not understood"
    reason = describe_error(error)
    if password := urlsplit(url).password:
        reason = reason.replace(password, "***").replace(unquote(password), "***")
    return f"cannot use Redis at {place}; is it running, and is --redis-url right? {reason}"
