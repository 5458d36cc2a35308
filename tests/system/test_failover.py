"""A standby without the last broadcasts becomes the primary: nobody misses anything of its log, nor hears it twice."""

import asyncio
import contextlib
import json
from contextlib import AsyncExitStack
from datetime import timedelta

import psycopg
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hashing_costs import CHEAPEST
from people import PASSWORD, Person
from processes import kill_all
from waiting import eventually

from att.app import create_app
from att.client import Client, Gap, Rewind
from att.config.settings import Settings
from att.db.embedded import EmbeddedPostgres
from att.db.migrate import bring_up_to_date
from chaos.standby import Standby

LOST = 30
NEW = (1, 30, 60)  # broadcasts on the new primary, each number in a group of its own
UNSEEN = (0, 15, 45)  # of them, by SQL before a node finds the new primary: the last log is longer than the lost one
DEADLINE = 30  # seconds

pytestmark = pytest.mark.timeout(150)  # two PostgreSQL start, and one recovers, on a busy machine


class View:
    """What an att.v1 listener has received and not been told to forget: events by group and seq."""

    def __init__(self, node, person, groups):
        self._client = Client(str(node.make_url("/")), token=person.token)
        self._groups = groups
        self.logs = {group: {} for group in groups}
        self.rewound = set()
        self._task = None

    def begin(self):
        self._task = asyncio.create_task(self._listen())

    async def end(self):
        """Go away. The client's positions and epoch are kept."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _listen(self):
        positions = self._client.positions or dict.fromkeys(self._groups, 0)
        async with self._client as client:
            async for event in client.listen(positions, client.epoch):
                log = self.logs[event.group]
                if isinstance(event, Rewind):
                    self.rewound.add(event.group)
                    for seq in [seq for seq in log if seq > event.seq]:
                        del log[seq]
                    continue
                assert not isinstance(event, Gap)
                assert event.seq == len(log) + 1, (event, len(log))  # none missing, none twice
                log[event.seq] = getattr(event, "body", b"").decode()

    async def has(self, logs):
        """Wait until it is that, and fails if the listener has."""

        async def is_so():
            if self._task is not None and self._task.done():
                self._task.result()
            return self.logs == {group: logs[group] for group in self.logs}

        await eventually(is_so, DEADLINE)


@pytest.fixture
def primary(data_dir):
    server = EmbeddedPostgres(data_dir)
    bring_up_to_date(server.start(), migrate=True)
    yield server
    server.stop()


@pytest.fixture
def standby(primary, data_dir):
    standby = Standby(primary, data_dir.parent / "standby")
    standby.start()
    yield standby
    standby.server.stop()


@pytest.fixture
def second_address(data_dir):
    """Where nodes look for the new primary, once it is a link to that."""
    return data_dir.parent / "second"


@pytest.fixture
async def nodes(primary, second_address):
    """Two servers that know two databases."""
    hosts = f"{primary.data_dir / 'postgresql'},{second_address}"
    settings = Settings(
        db_url=f"host={hosts} user=postgres dbname=postgres target_session_attrs=read-write",
        hashing=CHEAPEST,
        drain_time=timedelta(0),
    )
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(TestClient(TestServer(create_app(settings)))) for _ in range(2)]


@pytest.fixture
def read_logs():
    def read(server, groups):
        with psycopg.connect(server.start()) as connection:
            rows = connection.execute("SELECT group_id::text, seq, body::text FROM events ORDER BY seq").fetchall()
        return {group: {seq: body or "" for each, seq, body in rows if each == group} for group in groups}

    return read


async def broadcast(node, person, group, numbers, key=None, primary="first"):
    """Broadcast one after the other, each until it is answered. Return what was confirmed."""
    confirmed = []
    for number in numbers:
        body = json.dumps({"n": number, "primary": primary})

        async def try_once(body=body, number=number):
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"{key}-{number}"}
            async with node.post(f"/broadcast/{group}", data=body, headers=person.headers | headers) as response:
                assert response.status in (200, 503), await response.text()
                if response.status == 503:
                    return False
                answer = await response.json()
                confirmed.append((answer["seq"], answer["epoch"], body))
                return True

        await eventually(try_once, DEADLINE)
    return confirmed


@pytest.fixture
async def people(nodes):
    """Somebody for each number of ``NEW``: who is cut off in one group would resume in the others as well."""
    answers = [await nodes[0].post("/signup", json={"login": f"user-{each}", "password": PASSWORD}) for each in NEW]
    return [Person(nodes[0], "somebody", await answer.json()) for answer in answers]


@pytest.fixture
async def groups(nodes, people):
    """A group of each, with some broadcasts."""
    groups = [(await person.make_group(f"group-{count}"))["id"] for person, count in zip(people, NEW, strict=True)]
    for group, person in zip(groups, people, strict=True):
        await broadcast(nodes[0], person, group, range(20), "first")
    return groups


@pytest.fixture
async def views(nodes, people, groups):
    """A listener of each on each node."""
    views = [View(node, person, [group]) for node in nodes for person, group in zip(people, groups, strict=True)]
    for view in views:
        view.begin()
    yield views
    for view in views:
        await view.end()


async def all_have(views, logs):
    """Wait until each listener has these logs."""
    for view in views:
        await view.has(logs)


async def closed_with(ws):
    """Read to the close, and return its code."""
    while (message := await ws.receive(timeout=DEADLINE)).type.name == "TEXT":
        pass
    return message.data


async def test_failover(nodes, primary, standby, second_address, people, groups, views, read_logs):
    """After a failover that has lost 30 acknowledged broadcasts of each group, 1, 30 or 60 others get the same seqs,
    before any listener is back. Each att.v1 listener, on either node, there or away meanwhile, has the new log in the
    end, with all that the new primary has acknowledged, also if that has overtaken the old one before a node finds it.
    A plain listener is closed, and hears what comes when it is back.
    """
    away = views[1:5]  # some on each node
    plain = [await node.ws_connect("/listen/me", headers=people[0].headers) for node in nodes]
    await all_have(views, kept := read_logs(primary, groups))
    await standby.follows()
    standby.cut_off()
    for group, person, node in zip(groups, people, [*nodes, nodes[0]], strict=True):
        await broadcast(node, person, group, range(LOST), "lost")
    await all_have(views, read_logs(primary, groups))
    for view in away:
        await view.end()

    kill_all(primary)
    standby.promote()
    assert read_logs(standby.server, groups) == kept
    with psycopg.connect(standby.server.start()) as connection:
        for group, count in zip(groups, UNSEEN, strict=True):
            for number in range(count):
                connection.execute("SELECT att_broadcast(%s, %s, %s)", (group, f'{{"n": {number}}}', f"lost-{number}"))
    second_address.symlink_to(standby.server.data_dir / "postgresql")
    epochs = set()
    numbers = [range(unseen, count) for unseen, count in zip(UNSEEN, NEW, strict=True)]
    for group, person, node, seen in zip(groups, people, [*nodes[::-1], nodes[0]], numbers, strict=True):
        # With the keys of the lost ones, which the log does not know.
        answers = await broadcast(node, person, group, seen, "lost", "new")
        assert [seq for seq, _, _ in answers] == [len(kept[group]) + 1 + number for number in seen]
        epochs |= {epoch for _, epoch, _ in answers}
    for view in away:
        view.begin()
    await all_have(views, logs := read_logs(standby.server, groups))
    assert [len(logs[group]) - len(kept[group]) for group in groups] == [*NEW]
    assert len(epochs) == 1
    assert [view.rewound for view in views] == [{*view.logs} for view in views]

    assert [await closed_with(ws) for ws in plain] == [4001, 4001]
    plain = [await node.ws_connect("/listen/me", headers=people[0].headers) for node in nodes]
    await broadcast(nodes[1], people[0], groups[0], [99], "last")
    assert [await ws.receive_json(timeout=DEADLINE) for ws in plain] == [{"n": 99, "primary": "first"}] * 2
    await all_have(views, read_logs(standby.server, groups))
