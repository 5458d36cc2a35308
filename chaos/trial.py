"""One run: set everything up, run the plan, wait until all have recovered, and gather the evidence."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import psycopg

from chaos.cluster import ADMIN, PASSWORD, Cluster
from chaos.disasters import END_LISTENING, Disasters
from chaos.evidence import Entry, Evidence, Position, Sending, Stored
from chaos.frames import Ack
from chaos.js_listeners import JsListener, Node
from chaos.listeners import Listener, ListenerV1, Person
from chaos.plan import (
    SERVERS,
    Action,
    Broadcast,
    Change,
    Ephemeral,
    Incident,
    Kind,
    Marking,
    Plan,
    Redaction,
    Trouble,
)
from chaos.senders import BROADCAST, Senders
from chaos.sse_listeners import SseListener
from chaos.verdict import Group

UNDER_WAY = 400  # actions at the same time; then the plan waits
RECOVERY_TIMEOUT = 60.0  # seconds, each: to end all actions, to connect all, to catch up
FIRST_WITHOUT = 2 * 10**9  # the number of a frame that is sent without Redis
POLL_PAUSE = 0.1  # seconds

EPOCH = "SELECT id FROM att_current_epoch()"
# The body of a message that was taken back is null in JSON.
LOG = """
    SELECT group_id, seq, kind, actor_id, nullif(body::text, 'null'), key, extract(epoch FROM at)::float
    FROM events ORDER BY 1, 2
"""


class Trial:
    """A run of one plan, in a directory of its own."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan = plan
        self.faults: list[str] = []
        self._cluster = Cluster(root, SERVERS, has_standby=plan.has_standby, has_redis=plan.size.has_redis)
        self._node = Node(root / "node.log")
        self._session: aiohttp.ClientSession
        self._people: list[Person] = []
        self._groups: list[UUID] = []
        self._listeners: list[Listener] = []
        self._senders: Senders
        self._barriers: list[Sending] = []

    @property
    def connections(self) -> int:
        """The number of sockets opened."""
        return sum(listener.connections for listener in self._listeners)

    @property
    def times_too_slow(self) -> int:
        """The number of sockets that were closed as too slow."""
        return sum(listener.times_too_slow for listener in self._listeners)

    async def run(self) -> Evidence:
        """Run it."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as self._session:
            try:
                await self._cluster.start()
                await self._let_all_recover()
                await self._cluster.database.follow()
                async with self._listening():
                    await self._happen()
                    await self._catch_up()
                    return await self._gather()
            finally:
                await self._cluster.stop()

    # The world

    async def _let_all_recover(self) -> None:
        """Create users, groups, the first members, listeners and senders."""
        size, url = self.plan.size, self._cluster.servers[0].url
        admin = await self._enter(f"{url}/login", ADMIN)
        turns = asyncio.Semaphore(4)

        async def sign_up(number: int) -> Person:
            async with turns:
                return await self._enter(f"{url}/signup", f"user-{number}")

        self._people = [*await asyncio.gather(*(sign_up(number) for number in range(size.users)))]
        for number in range(size.groups):
            body = {"name": f"group-{number}"}
            async with self._session.post(f"{url}/groups", json=body, headers=admin.headers) as response:
                self._groups.append(UUID((await response.json())["id"]))
        async with self._cluster.database.transaction() as connection:
            await connection.execute("UPDATE groups SET retention = 1000000")
            await connection.cursor().executemany(
                "INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')",
                [(self._groups[group], self._people[user].id) for group, user in sorted(self.plan.members)],
            )
        self._listeners = [self._listener(number) for number in range(size.clients)]
        self._senders = Senders(self._cluster, self._session, admin, self._people, self._groups, self._listeners)

    async def _enter(self, url: str, login: str) -> Person:
        async with self._session.post(url, json={"login": login, "password": PASSWORD}) as response:
            answer = await response.json()
            return Person(UUID(answer["user_id"]), answer["token"])

    def _listener(self, number: int) -> Listener:
        client = self.plan.clients[number]
        person, name, seed = self._people[client.user], f"client {number}", f"{self.plan.seed}/{number}"
        choices = iter(range(number, 10**9))

        def connect() -> tuple[aiohttp.ClientSession, str]:
            return self._session, self._cluster.servers[next(choices) % SERVERS].url

        match client.kind:
            case Kind.PLAIN:
                return Listener(name, person, connect, seed)
            case Kind.V1:
                return ListenerV1(name, person, connect, seed, self._groups, from_start=client.from_start)
            case Kind.SSE:
                return SseListener(name, person, connect, seed, self._groups, from_start=False)
            case Kind.JAVASCRIPT:
                return JsListener(
                    name, person, connect, seed, self._groups, from_start=client.from_start, node=self._node
                )

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(listener.run()) for listener in self._listeners]
        tasks.append(asyncio.create_task(self._node.run()))
        try:
            # No user has left a group yet: a listener that starts now receives a group joined later from the join.
            await self._until(lambda: all(each.is_connected.is_set() for each in self._listeners), "connect at first")
            yield
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome

    # What happens

    async def _happen(self) -> None:
        disasters = Disasters(self._cluster, self._groups)
        turns = asyncio.Semaphore(UNDER_WAY)
        start = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        for number, step in enumerate(self.plan.steps):
            await asyncio.sleep(max(0.0, start + step.at - time.monotonic()))
            await turns.acquire()
            task = asyncio.create_task(self._do(disasters, number, step.action))
            task.add_done_callback(lambda _: turns.release())
            tasks.add(task)
        done, late = await asyncio.wait(tasks, timeout=RECOVERY_TIMEOUT)
        self.faults += [f"never ends: {task}" for task in late]
        for task in late:
            task.cancel()
        for task in done:
            task.result()
        await disasters.heal()

    def _do(self, disasters: Disasters, number: int, action: Action) -> Coroutine[Any, Any, None]:
        senders = self._senders
        match action:
            case Broadcast():
                doing = senders.broadcast(action, number, self._listeners[action.client].person)
            case Ephemeral():
                doing = senders.broadcast_ephemeral(action, number, self._listeners[action.client].person)
            case Redaction():
                doing = senders.redact(action)
            case Marking():
                doing = senders.mark(action, self._listeners[action.client].person)
            case Change():
                doing = senders.change(action)
            case Trouble():
                doing = self._listeners[action.client].suffer(action.mishap, action.seconds)
            case Incident():
                doing = disasters.cause(action)
        return doing

    async def _catch_up(self) -> None:
        """Let all connect, send each group a last message without an announcement, and wait until all have it."""
        await self._until(lambda: all(each.is_connected.is_set() for each in self._listeners), "connect")
        async with self._cluster.database.transaction() as connection:
            for number, group_id in enumerate(self._groups):
                sending = Sending(group_id, None, f'{{"last": {number}}}', None)
                cursor = await connection.execute(BROADCAST, (group_id, sending.body, None))
                sending.acks.append(Position(*await cursor.fetchone() or (0, "")))
                self._barriers.append(sending)
            # A listener without the announcement must find the event in the log. A later announcement would hide that.
            await connection.execute(END_LISTENING)
        await self._until_all_have("catch up")
        if self._cluster.redis is not None:
            await self._spread()
            await self._cluster.redis.kill()
            await self._send_without_redis()
            await self._until_all_have("catch up without Redis")
            await self._cluster.redis.start()
        if not self.plan.has_standby:  # one that is promoted may have lost markers
            await self._until_markers_agree()

    async def _spread(self) -> None:
        """Let att.v1 clients reconnect in turns: after a server was killed most are on the other one."""
        clients = [each for each in self._listeners if isinstance(each, ListenerV1)]
        before = [each.connections for each in clients]
        for each in clients:
            each.cut()
        pairs = [*zip(clients, before, strict=True)]
        await self._until(
            lambda: all(each.connections > count and each.is_connected.is_set() for each, count in pairs), "come back"
        )
        await self._until_all_have("catch up once more")

    async def _send_without_redis(self) -> None:
        """Send a last message to each group by one server, which cannot announce it to the others."""
        for number, group_id in enumerate(self._groups):
            log = Group((await self._stored()).logs[group_id])
            sender = next((each for each in self._listeners if self._is_in(each, log)), None)
            if not isinstance(sender, ListenerV1):
                continue
            sending = Sending(group_id, sender.person.id, f'{{"without": {number}}}', None)
            answer = await sender.broadcast(FIRST_WITHOUT + number, str(group_id), sending.body, None)
            if isinstance(answer, Ack):
                sending.acks.append(Position(answer.seq, answer.epoch))
                self._barriers.append(sending)
            else:
                self.faults.append(f"without Redis a broadcast is answered with {answer}")

    @staticmethod
    def _is_in(listener: Listener, log: Group) -> bool:
        is_member = log.is_member(listener.person.id, max(log.entries, default=0))
        return type(listener) is ListenerV1 and is_member and listener.is_connected.is_set()

    async def _until_all_have(self, what: str) -> None:
        async with self._cluster.database.transaction() as connection:
            epoch = str((await (await connection.execute(EPOCH)).fetchone() or ("",))[0])
        groups = {group_id: Group(log) for group_id, log in (await self._stored()).logs.items()}
        await self._until(lambda: all(self._has_all(groups, epoch, each) for each in self._listeners), what)

    async def _until_markers_agree(self) -> None:
        """Wait until all open sockets of each user know the highest of their read markers."""
        stored = (await self._stored()).markers
        listeners = [each for each in self._listeners if isinstance(each, ListenerV1)]

        def agree() -> bool:
            known = [(each.person.id, *marker) for each in listeners for marker in each.markers.items()]
            highest = dict(stored)
            for user_id, group_id, seq in known:
                highest[user_id, group_id] = max(seq, highest.get((user_id, group_id), 0))
            return all(seq == highest[user_id, group_id] for user_id, group_id, seq in known)

        await self._until(agree, "know the read markers")

    def _has_all(self, groups: dict[UUID, Group], epoch: str, listener: Listener) -> bool:
        ends = {
            group_id: max((seq for seq in group.entries if group.receives(listener.person.id, seq)), default=0)
            for group_id, group in groups.items()
        }
        if isinstance(listener, ListenerV1):
            is_told = listener.epoch == epoch  # earlier positions may be of what is lost
            return is_told and all(listener.positions[group_id] >= seq for group_id, seq in ends.items())
        received = {*listener.plain_records[-1].bodies[-100:]}
        return all(
            sending.body in received
            for sending in self._barriers
            if groups[sending.group_id].is_member(listener.person.id, sending.acks[0].seq)
        )

    async def _until(self, is_so: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT):
                while not is_so():  # noqa: ASYNC110 - other processes give us no Event
                    await asyncio.sleep(POLL_PAUSE)
        except TimeoutError:
            self.faults.append(f"not everyone could {what} in {RECOVERY_TIMEOUT:.0f} s")

    # The evidence

    async def _gather(self) -> Evidence:
        stored = await self._stored()
        async with self._cluster.database.lost_primary() as primary:
            lost = None if primary is None else await self._read(primary)
        complaints = [line for server in self._cluster.servers for line in server.complaints()]
        return Evidence(
            stored=stored,
            lost=lost,
            records=[each.record for each in self._listeners if isinstance(each, ListenerV1)],
            plain_records=[record for each in self._listeners for record in each.plain_records],
            sendings=[*self._senders.sendings, *self._barriers],
            ephemerals=self._senders.ephemerals,
            redactions=self._senders.redactions,
            markings=self._senders.markings,
            changes=self._senders.changes,
            faults=[
                *self.faults,
                *self._senders.faults,
                *complaints,
                *(fault for each in self._listeners for fault in each.faults),
            ],
        )

    async def _stored(self) -> Stored:
        async with self._cluster.database.transaction() as connection:
            return await self._read(connection)

    async def _read(self, connection: psycopg.AsyncConnection) -> Stored:
        async def rows(query: str) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query)).fetchall()

        logs: dict[UUID, list[Entry]] = {group_id: [] for group_id in self._groups}
        for group_id, *entry in await rows(LOG):
            logs[group_id].append(Entry(*entry))
        members: dict[UUID, set[UUID]] = {group_id: set() for group_id in self._groups}
        for group_id, user_id in await rows("SELECT group_id, user_id FROM members"):
            members[group_id].add(user_id)
        heads = await rows("SELECT id, seq FROM groups")
        epochs = {epoch for (epoch,) in await rows("SELECT id FROM epochs")}
        markers = await rows("SELECT user_id, group_id, seq FROM read_markers")
        return Stored(logs, dict(heads), members, epochs, {(user, group): seq for user, group, seq in markers})
