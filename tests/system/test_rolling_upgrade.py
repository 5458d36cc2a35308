"""An upgrade from the last release, as docs/how-to/operations.md tells it, while people use the site."""

import asyncio
import contextlib
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path

import aiohttp
import pytest
from site_parts import ROOT, Node, open_directory, started
from waiting import eventually

from att import __version__

PASSWORD = "correct horse"
ADMIN = ("--admin-login", "admin", "--admin-password", PASSWORD)
PEOPLE = 3
LISTENERS = 12
DEADLINE = 60  # seconds, for whatever is waited for on a busy machine

pytestmark = pytest.mark.timeout(180)  # a server of each version starts twice, and two drain


def git(*arguments: str) -> bytes:
    """Run git in the checkout. Skip the test where there is no history, as in an image."""
    if shutil.which("git") is None:
        pytest.skip("there is no git here")
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if result.returncode:
        pytest.skip(f"there is no git history here: {result.stderr.decode().strip()}")
    return result.stdout


@pytest.fixture(scope="module")
def last_release() -> Iterator[Path]:
    """The code of the last release: of the newest commit that set another version than the present one."""
    commits = git("log", "--format=%H", "-G^__version__ = ", "--", "att/__init__.py").decode().split()
    present = f'__version__ = "{__version__}"'
    earlier = [commit for commit in commits if present not in git("show", f"{commit}:att/__init__.py").decode()]
    if not earlier:
        pytest.skip("the git history here does not reach back to the last release")
    with open_directory() as directory:
        with tarfile.open(fileobj=io.BytesIO(git("archive", earlier[0], "att", "alembic"))) as archive:
            archive.extractall(directory, filter="data")
        yield directory


class Site:
    """Two servers of the last release on one database, and the ports of those that take requests.

    A request or a listener goes to one after the other, as behind a proxy that looks at their readiness.
    """

    def __init__(self, directory: Path, last_release: Path, db_url: str) -> None:
        self.nodes = [Node(directory / name, db_url, *ADMIN, "--drain-time", "1s") for name in ("one", "two")]
        for node in self.nodes:
            node.environment = {**node.environment, "PYTHONPATH": str(last_release)}
        self.statuses: Counter[tuple[str, int]] = Counter()  # of all responses
        self._turns = itertools.count()
        self._busy: Counter[int] = Counter()
        self._ports = [node.port for node in self.nodes]

    @contextlib.contextmanager
    def turn(self) -> Iterator[str]:
        """Give the server whose turn it is, which is not stopped before the end of the block."""
        port = self._ports[next(self._turns) % len(self._ports)]
        self._busy[port] += 1
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            self._busy[port] -= 1

    async def replace(self, node: Node) -> None:
        """Replace a server by one of the present version, on the same address."""

        async def is_free() -> bool:
            return not self._busy[node.port]

        self._ports.remove(node.port)
        await eventually(is_free, DEADLINE)
        node.send(signal.SIGTERM)
        assert await asyncio.to_thread(node.wait) == 0, node.log.read_text()
        del node.environment["PYTHONPATH"]
        await asyncio.to_thread(node.start)
        self._ports.append(node.port)


class Person:
    """A signed-in user."""

    def __init__(self, site: Site, web: aiohttp.ClientSession, answer: dict[str, str]) -> None:
        self._site = site
        self._web = web
        self.id = answer["user_id"]
        self.headers = {"Authorization": f"Bearer {answer['token']}"}

    @classmethod
    async def enter(cls, site: Site, web: aiohttp.ClientSession, path: str, login: str) -> "Person":
        """Sign up or log in."""
        body = {"login": login, "password": PASSWORD}
        with site.turn() as url:
            async with web.post(f"{url}{path}", json=body) as response:
                site.statuses[path, response.status] += 1
                return cls(site, web, await response.json())

    async def ask(self, method: str, path: str, body: object = None) -> dict:
        """Send a request, and count its status."""
        with self._site.turn() as url:
            async with self._web.request(method, f"{url}{path}", json=body, headers=self.headers) as response:
                self._site.statuses[f"{method} {path.split('/')[1]}", response.status] += 1
                return await response.json() if response.status < 300 and response.status != 204 else {}


class Listener:
    """A listener of att.v1, which connects again whenever its server goes away."""

    def __init__(self, site: Site, web: aiohttp.ClientSession, person: Person) -> None:
        self.positions: dict[str, int] = {}  # of each group
        self.heard: dict[str, list[int]] = {}
        self.codes: list[int | None] = []
        self._site = site
        self._web = web
        self._person = person

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            with self._site.turn() as url:
                socket = await self._web.ws_connect(
                    f"{url}/listen/me", protocols=["att.v1"], headers=self._person.headers
                )
            async with socket:
                hello = await socket.receive_json()
                for group in hello["groups"]:
                    self.positions.setdefault(group["id"], group["seq"])
                await socket.send_json({"type": "resume", "groups": self.positions})
                async for message in socket:
                    self._hear(message.json())
                self.codes.append(socket.close_code)

    def _hear(self, frame: dict) -> None:
        assert frame["type"] == "message", frame
        assert frame["seq"] > self.positions[frame["group"]], frame
        self.positions[frame["group"]] = frame["seq"]
        self.heard.setdefault(frame["group"], []).append(frame["seq"])


class Load:
    """What people do all the time: broadcasts to the groups, and rounds of most of what they can ask for."""

    def __init__(self, people: list[Person], admin: Person, groups: list[str]) -> None:
        self.acknowledged: dict[str, list[int]] = {group: [] for group in groups}
        self.rounds = 0
        *self._speakers, self._owner, self._guest = people
        self._admin = admin

    async def broadcast(self, is_over: asyncio.Event) -> None:
        """Broadcast to one group after the other."""
        for number, group in enumerate(itertools.cycle(self.acknowledged)):
            if is_over.is_set():
                return
            answer = await self._speakers[number % PEOPLE].ask("POST", f"/broadcast/{group}", {"number": number})
            if answer:
                self.acknowledged[group].append(answer["seq"])

    async def use(self, is_over: asyncio.Event) -> None:
        """Make, change and delete groups and users."""
        owner, guest = self._owner, self._guest
        while not is_over.is_set():
            group = (await owner.ask("POST", "/groups", {"name": f"round {self.rounds}"})).get("id")
            await owner.ask("PUT", f"/groups/{group}/members/{guest.id}")
            await guest.ask("POST", f"/broadcast/{group}", {"round": self.rounds})
            await owner.ask("PATCH", f"/groups/{group}", {"name": f"round {self.rounds} again"})
            for path in (f"/groups/{group}/events", "/groups", f"/users/{owner.id}/groups", "/sessions"):
                await owner.ask("GET", path)
            await owner.ask("DELETE", f"/groups/{group}/members/{guest.id}")
            await owner.ask("DELETE", f"/groups/{group}")
            new = {"login": f"user{self.rounds}", "password": PASSWORD}
            user = (await self._admin.ask("POST", "/users", new)).get("id")
            await self._admin.ask("PATCH", f"/users/{user}", {"first_name": "Ann"})
            await self._admin.ask("GET", "/users?q=ann")
            await self._admin.ask("DELETE", f"/users/{user}")
            self.rounds += 1

    async def has_gone_on(self, rounds: int = 3) -> None:
        """Wait for so many more rounds."""
        goal = self.rounds + rounds

        async def probe() -> bool:
            return self.rounds >= goal

        await eventually(probe, DEADLINE)


async def migrate(db_url: str, **environment: str) -> None:
    """Run `att-server migrate`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "att", "migrate", "--db-url", db_url),
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    assert await process.wait() == 0


@contextlib.asynccontextmanager
async def running(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Until the block ends, which is ended if one of them fails."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()


async def all_there(listeners: list[Listener], heads: dict[str, int]) -> None:
    """Everyone has heard each group up to that seq."""

    async def probe() -> bool:
        return all(heads.items() <= listener.positions.items() for listener in listeners)

    await eventually(probe, DEADLINE)


async def test_rolling_upgrade(empty_db_url, last_release):
    """The schema is migrated and two servers are replaced while people are there: nothing is lost, nothing refused."""
    await migrate(empty_db_url, PYTHONPATH=str(last_release))
    connector = aiohttp.TCPConnector(force_close=True)  # a request never meets the end of its server
    async with contextlib.AsyncExitStack() as stack:
        site = Site(stack.enter_context(open_directory()), last_release, empty_db_url)
        stack.enter_context(started(*site.nodes))
        web = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        admin = await Person.enter(site, web, "/login", "admin")
        people = [await Person.enter(site, web, "/signup", f"person{number}") for number in range(PEOPLE + 2)]
        speakers = people[:PEOPLE]
        groups = [(await person.ask("POST", "/groups", {"name": f"of {person.id[:8]}"}))["id"] for person in speakers]
        for person, group in itertools.product(speakers, groups):
            await admin.ask("PUT", f"/groups/{group}/members/{person.id}")
            await person.ask("POST", f"/broadcast/{group}", {"from": "the last release"})
        before = [await admin.ask("GET", f"/groups/{group}/events") for group in groups]

        load, is_over = Load(people, admin, groups), asyncio.Event()
        listeners = [Listener(site, web, speakers[number % PEOPLE]) for number in range(LISTENERS)]
        await stack.enter_async_context(running(*(listener.run() for listener in listeners)))
        bases = {group: page["items"][-1]["seq"] for group, page in zip(groups, before, strict=True)}
        await all_there(listeners, bases)
        async with asyncio.TaskGroup() as work:
            work.create_task(load.broadcast(is_over))
            work.create_task(load.use(is_over))
            await load.has_gone_on()
            await migrate(empty_db_url)
            await load.has_gone_on()
            for node in site.nodes:
                await site.replace(node)
                await load.has_gone_on()
            is_over.set()
        await all_there(listeners, {group: seqs[-1] for group, seqs in load.acknowledged.items()})
        after = [await admin.ask("GET", f"/groups/{group}/events?limit=100") for group in groups]

    assert {status // 100 for _, status in site.statuses} == {2}, site.statuses
    for group, page, old_page in zip(groups, after, before, strict=True):
        assert page["items"][: len(old_page["items"])] == old_page["items"]
        everything = list(range(bases[group] + 1, bases[group] + 1 + len(load.acknowledged[group])))
        assert load.acknowledged[group] == everything
        assert [listener.heard[group] for listener in listeners] == [everything] * LISTENERS
    assert {code for listener in listeners for code in listener.codes} == {1012}
    for node in site.nodes:
        lines = node.log.read_text() if node.log.exists() else ""
        assert "Traceback" not in lines
