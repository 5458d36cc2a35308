"""Delay from a log-out on one server to the close of the session's socket on the other, over PostgreSQL and Redis.

The time is taken from before the request is sent to when the close frame has arrived, with 100 broadcasts a second.
"""

import asyncio
import time
from contextlib import suppress

from harness import Account, Database, Server, Valkey, att, database, figure, percentile, run, valkey
from load import Listener, Sender, att_request, json_body, open_listener, open_many
from nodes import sign_in
from report import Report

ENDINGS = 300
BROADCAST_PAUSE = 0.01  # seconds between broadcasts
BETWEEN = 0.01  # seconds between log-outs
TIMEOUT = 30.0  # seconds
SESSION_ENDED = 4500


async def endings(db: Database, redis: Valkey | None) -> list[float]:
    """Milliseconds of each close, on two fresh servers."""
    url = None if redis is None else redis.url
    accounts = db.people(ENDINGS + 1)
    if redis is not None:
        await sign_in(redis, accounts)
    *leaving, sending = accounts
    group = db.group("PostgreSQL" if redis is None else "Redis", accounts)
    async with att(db, url) as here, att(db, url) as there:
        listeners = await open_many(ENDINGS, lambda number: open_listener(there.port, att_request(leaving[number])))
        sender = await Sender(group, json_body(100)).open(here.port, sending)
        broadcasting = asyncio.create_task(_keep_broadcasting(sender))
        found = [await _end(here, account, listener) for account, listener in zip(leaving, listeners, strict=True)]
        broadcasting.cancel()
        with suppress(asyncio.CancelledError):
            await broadcasting
    return found


async def _keep_broadcasting(sender: Sender) -> None:
    while True:
        sender.say()
        await asyncio.sleep(BROADCAST_PAUSE)


async def _end(server: Server, account: Account, listener: Listener) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    closed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    listener.on_close = lambda: closed.set_result(time.perf_counter())
    began = time.perf_counter()
    head = f"POST /logout HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {account.token}\r\n"
    writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.readline()
        ended = await closed
    assert answer.split()[1] == b"204", answer
    assert listener.close_code == SESSION_ENDED, listener.close_code
    writer.close()
    await asyncio.sleep(BETWEEN)
    return (ended - began) * 1e3


async def main() -> None:
    """Measure over PostgreSQL and over Redis."""
    report = Report("endings")
    with database() as db, valkey() as redis:
        for name, store in (("PostgreSQL", None), ("Redis", redis)):
            found = await endings(db, store)
            for part, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
                report.add(
                    f"sessions in {name}",
                    f"log-out to the other's close, {part}",
                    "ms",
                    figure([percentile(found, share)]),
                )
    report.save()


if __name__ == "__main__":
    run(main)
