"""Memory of the server for each connected, idle listener."""

import asyncio
import sys

from harness import REPEATS, Database, Server, att, database, figure, run
from load import Sender, att_request, close_all, json_body, open_listener, open_many
from report import Report

SOCKETS = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
WARM_UP = 200  # sockets opened and closed before
REST = 1.0  # seconds


async def measure(db: Database, number: int, *, is_v1: bool) -> tuple[float, float]:
    """Return the KiB of a new listener, and of one that has received two broadcasts, with a fresh server."""
    accounts = db.people(SOCKETS + 1)
    group = db.group(f"group {number}", accounts)
    async with att(db) as server:
        await close_all(await _open(server, accounts[:WARM_UP], is_v1=is_v1))
        await asyncio.sleep(REST)
        before = server.memory()
        listeners = await _open(server, accounts[:SOCKETS], is_v1=is_v1)
        await asyncio.sleep(REST)
        idle = server.memory()
        sender = await Sender(group, json_body(100)).open(server.port, accounts[-1])
        for _ in range(2):
            await sender.broadcast()
            await asyncio.sleep(REST)
        after = server.memory()
        await close_all([*listeners, sender.listener])
    return (idle - before) / SOCKETS / 1024, (after - before) / SOCKETS / 1024


async def _open(server: Server, accounts: list, *, is_v1: bool) -> list:
    listeners = await open_many(
        len(accounts), lambda number: open_listener(server.port, att_request(accounts[number], is_v1=is_v1))
    )
    if is_v1:
        for listener in listeners:
            listener.send(b'{"type":"resume"}')
    return listeners


async def main() -> None:
    """Measure both subprotocols."""
    report = Report("memory")
    with database() as db:
        for place, dialect in enumerate(("plain", "att.v1")):
            found = [await measure(db, 10 * place + time, is_v1=dialect == "att.v1") for time in range(REPEATS)]
            case = f"{SOCKETS:,} listeners, {dialect}"
            report.add(case, "connected and idle", "KiB a listener", figure([one[0] for one in found]))
            report.add(case, "after two broadcasts", "KiB a listener", figure([one[1] for one in found]))
    report.save()


if __name__ == "__main__":
    run(main)
