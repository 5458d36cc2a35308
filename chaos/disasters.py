"""Incidents of servers, database and Redis."""

import asyncio
import contextlib
import os
import signal
from uuid import UUID

import psycopg
from redis.exceptions import RedisError

from chaos.cluster import Cluster, Server
from chaos.plan import Disaster, Incident

END_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
    " WHERE application_name = 'att' AND pid <> pg_backend_pid()"
)
# The connection that listens to announcements is known by its last query.
END_LISTENING = f"{END_CONNECTIONS} AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')"
DRAINING = 0.4  # of an incident's seconds, from SIGTERM to the kill
THEIRS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'att' ORDER BY pid"


class Disasters:
    """Causes incidents. Each lasts some seconds, and is repaired at the end of that."""

    def __init__(self, cluster: Cluster, groups: list[UUID]) -> None:
        self._cluster = cluster
        self._groups = groups
        self._starting = {server.url: asyncio.Lock() for server in cluster.servers}
        self._database, self._redis = asyncio.Lock(), asyncio.Lock()

    async def cause(self, incident: Incident) -> None:
        """Cause it, and repair it."""
        servers = self._cluster.servers
        server = servers[incident.target % len(servers)]
        match incident.disaster:
            case Disaster.KILL_SERVER:
                await self._kill(server, incident.seconds)
            case Disaster.KILL_SERVERS:
                await asyncio.gather(*(self._kill(each, incident.seconds) for each in servers))
            case Disaster.FREEZE_SERVER:
                server.send(signal.SIGSTOP)
                await asyncio.sleep(incident.seconds)
                server.send(signal.SIGCONT)
            case Disaster.KILL_DRAINING:
                await self._kill(server, incident.seconds, draining=DRAINING * incident.seconds)
            case Disaster.KILL_REDIS:
                await self._kill_redis(incident.seconds)
            case Disaster.CUT_REDIS:
                await self._cut_redis()
            case Disaster.KILL_DATABASE:
                await self._kill_database(incident.seconds)
            case Disaster.PROMOTE_STANDBY:
                async with self._database:
                    await self._cluster.database.fail_over(incident.seconds)
            case _:
                with contextlib.suppress(psycopg.Error):
                    await self._cause_by_sql(incident)

    async def heal(self) -> None:
        """Wait until everything that is starting has started."""
        for lock in (self._redis, self._database, *self._starting.values()):
            async with lock:
                pass

    async def _kill(self, server: Server, seconds: float, draining: float | None = None) -> None:
        async with self._starting[server.url]:
            if draining is not None:
                server.send(signal.SIGTERM)
                await asyncio.sleep(draining)
            await server.kill()
            await asyncio.sleep(seconds)
            await server.start()

    async def _kill_database(self, seconds: float) -> None:
        async with self._database:
            await self._cluster.database.kill()
            await asyncio.sleep(seconds)
            await self._cluster.database.start()

    async def _kill_redis(self, seconds: float) -> None:
        redis = self._cluster.redis
        assert redis is not None
        async with self._redis:
            await redis.kill()
            await asyncio.sleep(seconds)
            await redis.start()

    async def _cut_redis(self) -> None:
        assert self._cluster.redis is not None
        with contextlib.suppress(RedisError, OSError):  # it may be away
            await self._cluster.redis.cut()

    async def _cause_by_sql(self, incident: Incident) -> None:
        async with self._cluster.database.transaction() as connection:
            if incident.disaster is Disaster.LOCK_GROUP:
                group_id = self._groups[incident.target % len(self._groups)]
                await connection.execute("SELECT FROM groups WHERE id = %s FOR UPDATE", (group_id,))
                await asyncio.sleep(incident.seconds)
            elif incident.disaster is Disaster.KILL_CONNECTION:
                pids = await (await connection.execute(THEIRS)).fetchall()
                with contextlib.suppress(ProcessLookupError):
                    for (pid,) in pids[incident.target % max(len(pids), 1) :][:1]:  # none if both servers are down
                        os.kill(pid, signal.SIGKILL)
            else:
                is_listening = incident.disaster is Disaster.END_LISTENING
                await connection.execute(END_LISTENING if is_listening else END_CONNECTIONS)
