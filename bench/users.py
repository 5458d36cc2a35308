"""Cost of a page of `GET /users` among a million users: each filter and order, against page 1 of the same run.

Every request goes over HTTP to an application in this process. Requests of page 1 alternate with the others, so that
noise of the machine affects both; the figures are the medians of their times.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

import psycopg
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from att.accounts.user_search import ORDERS
from att.app import create_app
from att.config.settings import HashingCost, Settings
from att.db.embedded import EmbeddedPostgres
from att.db.migrate import bring_up_to_date

USERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
REQUESTS = 40
PASSWORD = "correct horse"

# Six syllables make a name of each user; 10 have the role Admin, one in 1,000 has Support, one in 5,000 is not active.
FILL = (
    """
WITH syllables AS (SELECT string_to_array(
    'an be chi da el fo gri ha in jo ka lu mo ne ol pe qui ro sa ti ul va wo xa yo zu', ' ') AS s),
people AS (
    SELECT i, s[1 + (hashint8(i) & 1023) % 26] || s[1 + (hashint8(i + 7000000) & 1023) % 26]
        || s[1 + (hashint8(i + 17000000) & 1023) % 26] AS first,
        CASE WHEN i % 100 = 0 THEN 'smith' WHEN i % 2000 = 1 THEN 'miller' ELSE
        s[1 + (hashint8(i + 27000000) & 1023) % 26] || s[1 + (hashint8(i + 37000000) & 1023) % 26]
        || s[1 + (hashint8(i + 47000000) & 1023) % 26] END AS last
    FROM syllables, generate_series(1, %(users)s) AS i
)
INSERT INTO users (login, login_key, first_name, last_name, last_name_key, search_text, role_id, active, registered_at)
SELECT 'user' || i, 'user' || i, initcap(first), initcap(last), last, concat_ws(E'\\n', 'user' || i, first, last),
    (SELECT id FROM roles WHERE name_key = CASE WHEN i %% (%(users)s / 10) = 0 THEN 'admin'
        WHEN i %% 1000 = 0 THEN 'support' ELSE 'user' END),
    i %% 5000 <> 0, '2020-01-01'::timestamptz + i * interval '1 minute'
FROM people
""".replace("i % 100 ", "i %% 100 ")
    .replace("i % 2000", "i %% 2000")
    .replace(") % 26", ") %% 26")
)

CASES = [
    *(f"sort={order}" for order in ORDERS),
    f"login=user{USERS // 3}",
    "role=admin",
    "role=support",
    "role=user",
    "role=support&sort=login",
    "active=false",
    "active=true",
    "active=false&sort=-last_name",
    "registered_from=END",
    "registered_to=2020-01-01T12:00:00Z",
    "registered_from=END&sort=login",
    "q=a",
    "q=z",
    "q=user",
    "q=an&sort=last_name",
    "q=smith",
    "q=smith&sort=-login",
    "q=miller",
    f"q=user{USERS // 8 - 1}",
    "q=grihaqui",
    "q=zzz",
    "q=anbe&active=false",
]


async def main() -> None:
    """Create the users, then measure."""
    with tempfile.TemporaryDirectory(prefix="att-bench-") as directory:
        embedded = EmbeddedPostgres(Path(directory))
        dsn = embedded.start()
        try:
            bring_up_to_date(dsn, migrate=True)
            fill(dsn)
            await measure(dsn)
        finally:
            embedded.stop()


def fill(dsn: str) -> None:
    """Create all users in one statement, and the index of parts of names after it."""
    began = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute("INSERT INTO roles (name, name_key) VALUES ('Support', 'support')")
        (index,) = connection.execute("SELECT pg_get_indexdef('ix_users_search'::regclass)").fetchone()
        connection.execute("DROP INDEX ix_users_search")
        connection.execute("ALTER TABLE users DISABLE TRIGGER USER")  # history is not measured
        connection.execute(FILL, {"users": USERS})
        connection.execute("ALTER TABLE users ENABLE TRIGGER USER")
        connection.execute(index)
        connection.execute("VACUUM ANALYZE users")
    print(f"{USERS:,} users in {time.monotonic() - began:.0f} s\n")


async def measure(dsn: str) -> None:
    """Print a line for each case."""
    settings = Settings(
        db_url=f"postgresql://postgres@/postgres?host={dsn.split(maxsplit=1)[0].partition('=')[2]}",
        hashing=HashingCost(1, 8, 1),
    )
    async with TestServer(create_app(settings)) as server, ClientSession() as client:
        account = {"login": "bench", "password": PASSWORD}
        async with client.post(server.make_url("/signup"), json=account) as response:
            client.headers["Authorization"] = f"Bearer {(await response.json())['token']}"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "UPDATE users SET registered_at = '2019-01-01',"
                " role_id = (SELECT id FROM roles WHERE name_key = 'admin') WHERE login = 'bench'"
            )
            key = connection.execute(
                "SELECT registered_at, id FROM users ORDER BY registered_at, id OFFSET %s LIMIT 1",
                (9_999 * 50 * USERS // 1_000_000,),
            ).fetchone()
            (end,) = connection.execute(
                "SELECT max(registered_at) - interval '30 minutes' FROM users WHERE login <> 'bench'"
            ).fetchone()
        moment = end.isoformat().replace("+00:00", "Z")
        cursor = ORDERS["registered_at"].cursor((key[0], UUID(str(key[1]))))
        print(f"{'':34} {'ms':>7} {'page 1':>7} {'ratio':>6} items")
        for case in (f"after={cursor}", *CASES):
            ms, first, count = await compare(client, server, case.replace("END", moment))
            name = "page 10,000" if case.startswith("after=") else case
            print(f"{name:34} {ms:7.2f} {first:7.2f} {ms / first:6.2f} {count:5}")


async def compare(client: ClientSession, server: TestServer, query: str) -> tuple[float, float, int]:
    """Return the medians, in ms, of this query and of page 1, and the number of users returned."""
    times: dict[str, list[float]] = {query: [], "": []}
    counts = {}
    for _ in range(REQUESTS):
        for asked, taken in times.items():
            began = time.perf_counter()
            async with client.get(server.make_url(f"/users?{asked}")) as response:
                counts[asked] = len((await response.json())["items"])
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[query]), statistics.median(times[""]), counts[query]


if __name__ == "__main__":
    asyncio.run(main())
