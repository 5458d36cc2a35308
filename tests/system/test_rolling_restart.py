"""A new version goes out while everybody is there: one server after the other is restarted behind nginx."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import chain
from uuid import UUID, uuid4

import aiohttp
import psycopg
import pytest
from light_listener import Ending, Listener
from site_parts import Nginx, Node, needs_nginx, open_directory, started
from valkey_servers import Valkey
from waiting import eventually

from att.redis.client import RedisClient
from att.sessions.redis_keys import SessionKeys
from att.sessions.store import hash_token

LISTENERS = 200
GROUPS = 20
DRAIN_TIME = 5  # seconds; above the time that nginx keeps connections which nobody uses
AT_ONCE = 50  # listeners who connect at first; later it is the servers' hints that spread them
PAUSE = 0.03  # seconds between broadcasts
RESTART = 1012
REFUSED = 0.05  # of all requests so many may be answered 503 when the machine is busy

pytestmark = [
    pytest.mark.timeout(180),  # two drains of 5 s, and four starts, on a busy machine
    needs_nginx,
]


class Audience:
    """Groups, each with as many members, and their listeners."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.tokens = [f"{number:043d}" for number in range(LISTENERS)]
        connection.execute("SET session_replication_role = replica")  # no joining is told
        self.users: list[UUID] = column(
            connection,
            "INSERT INTO users (login, login_key, search_text, role_id) SELECT 'u' || i, 'u' || i, 'u' || i,"
            " (SELECT id FROM roles WHERE name_key = 'user') FROM generate_series(1, %s) AS i RETURNING id",
            LISTENERS,
        )
        self.groups: list[UUID] = column(
            connection,
            "INSERT INTO groups (name, name_key) SELECT 'g' || i, 'g' || i FROM generate_series(1, %s) AS i"
            " RETURNING id",
            GROUPS,
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')",
                [(self.group_of(number), user_id) for number, user_id in enumerate(self.users)],
            )
        connection.execute("SET session_replication_role = DEFAULT")
        connection.commit()

    async def sign_in(self, connection: psycopg.Connection, redis_url: str | None) -> None:
        """All of them; passwords would take too long."""
        if redis_url is None:
            connection.cursor().executemany(
                "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES (%s, %s, now() + interval '1 day')",
                [(hash_token(token), user_id) for token, user_id in zip(self.tokens, self.users, strict=True)],
            )
            connection.commit()
            return
        redis_client = await RedisClient.connect(redis_url)
        keys = SessionKeys(redis_client, timedelta(days=1), timedelta(minutes=1))
        for token, user_id in zip(self.tokens, self.users, strict=True):
            digest, session_id = hash_token(token).hex(), uuid4()
            await keys.add_pointers(digest, user_id, session_id)
            await keys.create(digest, user_id, session_id, (None, None))
        await redis_client.close()

    def group_of(self, number: int) -> UUID:
        """The group that a listener listens to."""
        return self.groups[number % GROUPS]

    def listeners(self, port: int) -> list[Listener]:
        """Those of all of them."""
        return [Listener(port, "127.0.0.1", token, self.group_of(number)) for number, token in enumerate(self.tokens)]


def column(connection: psycopg.Connection, sql: str, *args: object) -> list[UUID]:
    """The ids that a statement gives back."""
    return [row[0] for row in connection.execute(sql, args).fetchall()]


class Speaker:
    """Broadcasts to one group after the other, again and again, and keeps what was answered."""

    def __init__(self, port: int, audience: Audience) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.heads: dict[UUID, int] = {}
        self._url = f"http://127.0.0.1:{port}"
        self._audience = audience

    async def run(self, is_over: asyncio.Event) -> None:
        """Until it is over."""
        async with aiohttp.ClientSession(self._url) as web:
            number = 0
            while not is_over.is_set():
                await self._broadcast(web, number)
                number += 1
                await asyncio.sleep(PAUSE)

    async def _broadcast(self, web: aiohttp.ClientSession, number: int) -> None:
        group_id = self._audience.group_of(number)
        headers = {"Authorization": f"Bearer {self._audience.tokens[number % LISTENERS]}"}
        try:
            async with web.post(f"/broadcast/{group_id}", json={"number": number}, headers=headers) as response:
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.heads[group_id] = (await response.json())["seq"]
        except aiohttp.ClientError as error:
            self.statuses[repr(error)] += 1


@contextlib.asynccontextmanager
async def running(*coroutines) -> AsyncIterator[None]:
    """Until the block ends. A failure of one of them is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture(params=[None, Valkey], ids=["postgresql", "redis"])
def redis_url(request) -> Iterator[str | None]:
    """Of the Redis that the servers share, if there is one."""
    if request.param is None:
        yield None
        return
    server = request.param()
    server.start()
    yield server.url
    server.stop()


@contextlib.contextmanager
def site(db_url: str, redis_url: str | None) -> Iterator[tuple[list[Node], Nginx]]:
    """Two servers, and nginx before them."""
    options = ("--drain-time", f"{DRAIN_TIME}s")
    with open_directory() as directory, open_directory() as nginx_directory:
        nodes = [Node(directory / name, db_url, *options, redis_url=redis_url) for name in ("one", "two")]
        nginx = Nginx(nginx_directory, [node.port for node in nodes])
        with started(*nodes, nginx):
            yield nodes, nginx


async def restart(node: Node) -> None:
    """As whoever brings out a new version does it."""
    node.send(signal.SIGTERM)
    assert await asyncio.to_thread(node.wait) == 0
    await asyncio.to_thread(node.start)
    assert "Traceback" not in node.log.read_text()


async def all_connected(listeners: list[Listener]) -> None:
    """Everybody is there."""

    async def probe() -> bool:
        return all(listener.is_connected for listener in listeners)

    await eventually(probe, 40)


async def all_heard(listeners: list[Listener], heads: dict[UUID, int]) -> None:
    """Everybody has heard the last of their group."""

    async def probe() -> bool:
        return all(listener.seqs and listener.seqs[-1] >= heads[listener.group_id] for listener in listeners)

    await eventually(probe, 20)


async def test_rolling_restart(db_url, redis_url, postgresql):
    """Two servers are restarted while 200 listen and others broadcast: nothing is lost or doubled, and next to nothing
    refused.
    """
    audience = Audience(postgresql)
    await audience.sign_in(postgresql, redis_url)
    with site(db_url, redis_url) as (nodes, nginx):
        listeners = audience.listeners(nginx.port)
        speaker, is_over, room = Speaker(nginx.port, audience), asyncio.Event(), asyncio.Semaphore(AT_ONCE)
        async with running(*(listener.run(room) for listener in listeners)):
            await all_connected(listeners)
            speaking = asyncio.create_task(speaker.run(is_over))
            for node in nodes:
                await restart(node)
                await all_connected(listeners)
            is_over.set()
            await speaking
            await all_heard(listeners, speaker.heads)

    assert set(speaker.statuses) <= {200, 503}, speaker.statuses
    assert speaker.statuses[503] <= REFUSED * speaker.statuses.total(), speaker.statuses
    refusals = Counter(chain.from_iterable(listener.refusals for listener in listeners))
    assert all(refusal.startswith("HTTP/1.1 503 ") for refusal in refusals), refusals
    assert refusals.total() <= REFUSED * LISTENERS, refusals
    for listener in listeners:
        assert listener.seqs == list(range(listener.base + 1, speaker.heads[listener.group_id] + 1))
    endings: Counter[Ending] = sum((listener.endings for listener in listeners), Counter())
    assert {ending.code for ending in endings} == {RESTART}, endings
    assert all(ending.hint is not None for ending in endings), endings
    assert endings.total() >= LISTENERS  # whoever was on the first server went to the second, and everybody back
    assert len(set(chain(endings))) > 1  # not all of them at once
