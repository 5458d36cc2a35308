"""Server processes, and requests to them."""

import asyncio
import contextlib
import re
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from server_processes import ServerProcess
from waiting import eventually

BANNER = re.compile(r"att \S+ listens on (\S+)")
PASSWORD = "correct horse"


class Server:
    """One `att-server` process on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.lines: list[str] = []
        self.process: ServerProcess
        self.address = ""
        self.trusted: ssl.SSLContext | bool = True  # whose certificates a client believes
        self.rest = ""  # what it printed after its banner

    async def start(self, *options: str, listen: str = "127.0.0.1:0", files: int | None = None) -> None:
        """Start it, with no more open files than that, and wait for its banner."""
        arguments = ["--listen", listen, "--data-dir", str(self.data_dir), *options]
        self.process = ServerProcess(arguments, files=files)
        lines = 2 if listen.startswith("unix:") else 3
        self.lines = [await asyncio.to_thread(self.process.stdout.readline) for _ in range(lines)]
        match = BANNER.search(self.lines[0])
        assert match, (self.lines, self.process.stderr.read())
        self.address = match[1]

    async def end(self, number: int) -> tuple[int, str]:
        """Send a signal; the exit status, and what it wrote to stderr."""
        self.process.send_signal(number)
        try:
            self.rest, complaint = await asyncio.to_thread(self.process.communicate, timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, complaint

    @property
    def dsn(self) -> str:
        """Its database."""
        return f"host={self.data_dir / 'postgresql'} user=postgres"

    @contextlib.asynccontextmanager
    async def client(self, **options) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=self.trusted)
        timeout = aiohttp.ClientTimeout(10)
        async with aiohttp.ClientSession(self.address, connector=connector, timeout=timeout, **options) as session:
            yield session


@contextlib.asynccontextmanager
async def serving(data_dir):
    """A server that is stopped in the end, with its PostgreSQL."""
    server = Server(data_dir)
    await server.start()
    yield server
    if server.process.returncode is None:
        await server.end(signal.SIGTERM)


async def enter(client, path, login, password=PASSWORD):
    """Sign up or log in: the user's id, and the header that signs a request in."""
    async with client.post(path, json={"login": login, "password": password}) as response:
        answer = await response.json()
        assert response.status < 300, answer
        return answer["user_id"], {"Authorization": f"Bearer {answer['token']}"}


async def fetch(connection, query):
    """The first row, by a psycopg connection."""
    return await (await connection.execute(query)).fetchone()


async def listen(client, user, signed_in, count, stack):
    """Open sockets, which are closed with the stack."""
    contexts = [client.ws_connect(f"/listen/{user}", headers=signed_in) for _ in range(count)]
    return [await stack.enter_async_context(context) for context in contexts]


async def until_ok(client, user, signed_in):
    """Ask until the answer is 200; every other one is a 503 that says when to try again, and none hangs."""

    async def ask():
        async with client.get(f"/users/{user}/groups", headers=signed_in) as response:
            if response.status == 200:
                return True
            answer = await response.json()
            assert (response.status, answer["error"]) == (503, "database unavailable")
            assert int(response.headers["Retry-After"]) > 0
            return False

    await eventually(ask, 30)
