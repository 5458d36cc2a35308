"""What the server's memory grows by with each listener that is connected and idle."""

import asyncio
import sys

from harness import REPEATS, Database, Server, att, database, figure, run
from load import Speaker, att_request, close_all, json_body, open_ear, open_many
from report import Report

SOCKETS = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
WARM_UP = 200  # sockets that come and go before
SETTLED = 1.0  # seconds


async def measure(db: Database, number: int, *, is_v1: bool) -> tuple[float, float]:
    """KiB of a listener that has just connected, and of one that has heard two broadcasts, with a fresh server."""
    accounts = db.people(SOCKETS + 1)
    group = db.group(f"group {number}", accounts)
    async with att(db) as server:
        await close_all(await _open(server, accounts[:WARM_UP], is_v1=is_v1))
        await asyncio.sleep(SETTLED)
        before = server.memory()
        ears = await _open(server, accounts[:SOCKETS], is_v1=is_v1)
        await asyncio.sleep(SETTLED)
        idle = server.memory()
        speaker = await Speaker(group, json_body(100)).open(server.port, accounts[-1])
        for _ in range(2):
            await speaker.broadcast()
            await asyncio.sleep(SETTLED)
        after = server.memory()
        await close_all([*ears, speaker.ear])
    return (idle - before) / SOCKETS / 1024, (after - before) / SOCKETS / 1024


async def _open(server: Server, accounts: list, *, is_v1: bool) -> list:
    ears = await open_many(
        len(accounts), lambda number: open_ear(server.port, att_request(accounts[number], is_v1=is_v1))
    )
    if is_v1:
        for ear in ears:
            ear.send(b'{"type":"resume"}')
    return ears


async def main() -> None:
    """Both dialects."""
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
