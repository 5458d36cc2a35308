"""Cost of attacks by one client: the memory of the server, and the time that an honest user waits meanwhile.

Each attack has a fresh server. ``ATT_MEMORY_BUDGET`` sets the budget.
"""

import asyncio
import contextlib
import gzip
import json
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from http.client import HTTPConnection

from harness import Account, Database, Server, att, database, figure, percentile, run
from load import att_request, connect, json_body, mask, open_listener, open_many, post_request
from report import Report

MIB = 2**20
CONNECTIONS = 600
SOCKETS = 300
UNREADING = 500
INTERVAL = 0.02  # seconds between the honest user's requests
USUAL = 100  # answers to the honest user before the attack
REST = 2.0  # seconds for which the attack lasts when everything is sent
SAMPLE = 0.01  # seconds between looks at the memory

Attack = Callable[[Server, Database, list[Account]], Awaitable[None]]


class Silent(asyncio.Protocol):
    """A connection that sends, and reads only if it ``reads``."""

    def __init__(self, data: bytes, *, reads: bool = True) -> None:
        self._data = data
        self._reads = reads
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        if not self._reads:
            transport.pause_reading()
        transport.write(self._data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set_result(None)


def head(path: str, length: int, *more: str) -> bytes:
    """Build the head of a request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def bearer(account: Account) -> str:
    """Return the header that signs a request in."""
    return f"Authorization: Bearer {account.token}"


def packed(body: bytes) -> bytes:
    """Return the body in gzip, without its end."""
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH)


async def flood(server: Server, data: bytes, *, reads: bool = True) -> None:
    """Send the same on many connections."""

    async def go(_: int) -> None:
        await connect(server.port, Silent(data, reads=reads))

    await open_many(CONNECTIONS, go)


async def unended_gzip(server: Server, _db: Database, _accounts: list[Account]) -> None:
    """Anonymous bodies of 1 MiB in gzip, without their end."""
    body = packed(b" " * (MIB - 1))
    await flood(server, head("/login", len(body) + 1, "Content-Encoding: gzip") + body)


async def unended_plain(server: Server, _db: Database, _accounts: list[Account]) -> None:
    """Anonymous bodies of 1 MiB, without their end."""
    await flood(server, head("/login", MIB) + b" " * (MIB - 1))


async def signed_in_gzip(server: Server, _db: Database, accounts: list[Account]) -> None:
    """The same gzip, by an account."""
    body = packed(b" " * (MIB - 1))
    await flood(server, head("/groups", len(body) + 1, "Content-Encoding: gzip", bearer(accounts[0])) + body)


async def signed_in_plain(server: Server, _db: Database, accounts: list[Account]) -> None:
    """The same plain, by an account."""
    await flood(server, head("/groups", MIB, bearer(accounts[0])) + b" " * (MIB - 1))


async def unfinished_messages(server: Server, _db: Database, accounts: list[Account]) -> None:
    """Sockets of one account, each in the middle of a message of 1 MiB."""
    part = mask(b" " * MIB)[:-1]
    sockets = await open_many(SOCKETS, lambda _: open_listener(server.port, att_request(accounts[0], is_v1=True)))
    for each in sockets:
        each.transport.write(part)


async def inflated_messages(server: Server, _db: Database, accounts: list[Account]) -> None:
    """Sockets of one account, each with twenty compressed messages of 1 KB that inflate to 1 MiB."""
    packer = zlib.compressobj(9, wbits=-15)
    message = packer.compress(b'{"type":"ping"%s}' % (b" " * (MIB - 20))) + packer.flush(zlib.Z_SYNC_FLUSH)
    bomb = b"\xc1" + mask(message[:-4])[1:]
    request = att_request(accounts[0], is_v1=True, inflates=True)
    sockets = await open_many(SOCKETS, lambda _: open_listener(server.port, request))
    for each in sockets:
        each.send(b'{"type":"resume"}')
        each.transport.write(bomb * 20)


async def unread_broadcast(server: Server, db: Database, accounts: list[Account]) -> None:
    """A broadcast of 1 MiB to sockets that do not read."""
    group = db.group("large", accounts[:2])
    sockets = await open_many(UNREADING, lambda _: open_listener(server.port, att_request(accounts[0])))
    for each in sockets:
        each.transport.pause_reading()
    await post_once(server, post_request(f"/broadcast/{group}", accounts[1], json_body(MIB)))


async def unread_pages(server: Server, db: Database, accounts: list[Account]) -> None:
    """Pages of 1 MiB on connections that do not read."""
    group = db.group("pages", accounts[:2])
    await post_once(server, post_request(f"/broadcast/{group}", accounts[1], json_body(MIB)))
    lines = [f"GET /groups/{group}/events HTTP/1.1", "Host: a", bearer(accounts[0])]
    await flood(server, ("\r\n".join(lines) + "\r\n\r\n").encode(), reads=False)


async def unknown_members(server: Server, _db: Database, accounts: list[Account]) -> None:
    """Ten bodies of 105,000 unknown members, 223 KB in gzip."""
    body = gzip.compress(json.dumps({f"{number:x}": 0 for number in range(105_000)}, separators=(",", ":")).encode())
    for _ in range(10):
        await post_once(server, head("/groups", len(body), "Content-Encoding: gzip", bearer(accounts[0])) + body, None)


async def faulty_items(server: Server, db: Database, accounts: list[Account]) -> None:
    """Ten bodies of 1,000 users with every fault that fits."""
    db.run(
        "UPDATE users SET role_id = (SELECT id FROM roles WHERE name_key = 'admin') WHERE id = %s", str(accounts[0].id)
    )
    items = [{f"{number:x}": 0 for number in range(20)}] * 1_000
    body = json.dumps(items, separators=(",", ":")).encode()
    for _ in range(10):
        await post_once(server, head("/users", len(body), bearer(accounts[0])) + body, None)


async def many_users(server: Server, db: Database, accounts: list[Account]) -> None:
    """Three bodies of 1,000 users, which are created."""
    db.run(
        "UPDATE users SET role_id = (SELECT id FROM roles WHERE name_key = 'admin') WHERE id = %s", str(accounts[0].id)
    )
    for turn in range(3):
        items = [
            {"login": f"user {turn} {number}", "first_name": "\u00c4nne" * 10, "last_name": "M\u00fcller" * 8}
            for number in range(1_000)
        ]
        body = json.dumps(items).encode()
        await post_once(server, head("/users", len(body), bearer(accounts[0])) + body, 201)


async def deep_broadcasts(server: Server, db: Database, accounts: list[Account]) -> None:
    """Ten broadcasts of 1 MiB of lists in lists."""
    group = db.group("deep", accounts[:2])
    nest = b"[" * 150 + b"]" * 150
    body = b'{"a":[' + b",".join([nest] * (MIB // 301 - 1)) + b"]}"
    for _ in range(10):
        await post_once(server, post_request(f"/broadcast/{group}", accounts[1], body), None)


async def deep_messages(server: Server, db: Database, accounts: list[Account]) -> None:
    """Ten of them over att.v1."""
    group = db.group("deep too", accounts[:2])
    nest = b"[" * 150 + b"]" * 150
    body = b'{"a":[' + b",".join([nest] * (MIB // 301 - 1)) + b"]}"
    listener = await open_listener(server.port, att_request(accounts[1], is_v1=True))
    listener.send(b'{"type":"resume"}')
    for _ in range(10):
        listener.send(b'{"type":"broadcast","id":1,"group":"%s","data":%s}' % (str(group).encode(), body))
        await asyncio.sleep(0.5)


async def post_once(server: Server, request: bytes, status: int | None = 200) -> None:
    """Send a request, and wait for the response."""

    def send() -> int:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.connect()
        connection.sock.sendall(request)
        answer = connection.response_class(connection.sock, method="POST")
        answer.begin()
        answer.read()
        connection.close()
        return answer.status

    answered = await asyncio.to_thread(send)
    if status not in (None, answered):
        raise RuntimeError(f"answered {answered}")


class Honest:
    """A user who asks for their own account all the time, from a process of their own."""

    def __init__(self, server: Server, account: Account) -> None:
        self._arguments = [sys.executable, __file__, "honest", str(server.port), account.token]
        self.times: list[float] = []

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask until the block ends."""
        process = await asyncio.create_subprocess_exec(*self._arguments, stdout=asyncio.subprocess.PIPE)
        task = asyncio.create_task(self._read(process.stdout))
        try:
            yield
        finally:
            process.terminate()
            await process.wait()
            task.cancel()

    async def has_asked(self, times: int) -> None:
        """Wait for that many answers."""
        async with asyncio.timeout(60):
            while len(self.times) < times:  # noqa: ASYNC110 - a benchmark may look
                await asyncio.sleep(INTERVAL)

    async def _read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            self.times.append(float(line))


def ask(port: str, token: str) -> None:
    """Print how many milliseconds each answer took."""
    connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
    while True:
        began = time.perf_counter()
        connection.request("GET", "/users/me", headers={"Authorization": f"Bearer {token}"})
        if (answer := connection.getresponse()).status != 200:
            raise RuntimeError(f"answered {answer.status}")
        answer.read()
        print((time.perf_counter() - began) * 1e3, flush=True)
        time.sleep(INTERVAL)


async def peak_memory(server: Server) -> int:
    """Return the most memory until cancelled."""
    peak = 0
    try:
        while True:
            peak = max(peak, server.memory())
            await asyncio.sleep(SAMPLE)
    except asyncio.CancelledError:
        return peak


async def measure(report: Report, db: Database, name: str, attack: Attack) -> None:
    """Attack a new server."""
    accounts = db.people(3)
    async with att(db) as server:
        honest = Honest(server, accounts[2])
        async with honest.asking():
            await honest.has_asked(USUAL)
            before, usual = server.memory(), honest.times[5:]
            honest.times = []  # of the attack
            memory = asyncio.create_task(peak_memory(server))
            await attack(server, db, accounts)
            asked = len(honest.times)
            await asyncio.sleep(REST)
            await honest.has_asked(asked + 1)  # also of a server that is busy for longer
            memory.cancel()
            during, peak = honest.times, await memory
            report.add(name, "most memory, over that before", "MiB", figure([(peak - before) / MIB]))
            report.add(name, "held at the end", "MiB", figure([(server.memory() - before) / MIB]))
            for share, what in ((0.5, "p50"), (0.99, "p99"), (1.0, "longest")):
                report.add(name, f"honest user before, {what}", "ms", figure([percentile(usual, share)]))
                report.add(name, f"honest user meanwhile, {what}", "ms", figure([percentile(during, share)]))


ATTACKS = (
    *(unended_gzip, unended_plain, signed_in_gzip, signed_in_plain, unfinished_messages, inflated_messages),
    *(unread_broadcast, unread_pages, unknown_members, faulty_items, many_users, deep_broadcasts, deep_messages),
)


async def main() -> None:
    """Run the attacks, or those that are named."""
    report = Report("attacks")
    with database() as db:
        for attack in ATTACKS:
            if len(sys.argv) == 1 or attack.__name__ in sys.argv[1:]:
                await measure(report, db, attack.__name__, attack)
    report.save()


if __name__ == "__main__":
    if sys.argv[1:2] == ["honest"]:
        ask(*sys.argv[2:])
    run(main)
