"""Brokers of all kinds for the tests that each of them must pass, and a handler that records events."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from uuid import UUID

from doubles import away

from att.db.engine import Engine
from att.realtime.brokers.postgres import PostgresBroker
from att.realtime.brokers.redis import ALL, GROUP_CHANNEL, RedisBroker
from att.realtime.event_log import LogEvent
from att.redis.client import RedisClient
from att.sessions.redis_scripts import ENDED_CHANNEL

TEA, PIE = UUID(int=1), UUID(int=2)
ANN = UUID(int=7)
EPOCH = "an epoch"
AT = datetime(2026, 11, 22, 2, 35, 9, 154152, tzinfo=UTC)


def message(seq, group_id=TEA, body=b'{"n": 1.0}'):
    """Return a logged message of Ann's."""
    return LogEvent(group_id, "tea", seq, "message", ANN, AT, body)


class RecordingHandler:
    """Records the broker's events."""

    def __init__(self):
        self.announcements = []
        self.changes = []
        self.subscribed = []
        self.malformed = 0
        self.has_changed = asyncio.Event()

    def on_announcement(self, announcement):
        self.announcements.append(announcement)
        self.has_changed.set()

    def on_connected(self):
        self.changes.append("connected")
        self.has_changed.set()

    def on_subscribed(self, group_ids):
        self.subscribed += group_ids
        self.has_changed.set()

    def on_disconnected(self):
        self.changes.append("disconnected")
        self.has_changed.set()

    def on_malformed(self):
        self.malformed += 1

    async def until(self, probe, seconds=5):
        async with asyncio.timeout(seconds):
            while not probe():
                self.has_changed.clear()
                await self.has_changed.wait()

    @property
    def groups(self):
        """The highest announced seq of each group."""
        heads = {}
        for announcement in self.announcements:
            for group_id, seq in announcement.groups.items():
                heads[group_id] = max(seq, heads.get(group_id, 0))
        return heads

    @property
    def events(self):
        """The messages that came along."""
        return [event for announcement in self.announcements for event in announcement.events]

    @property
    def markers(self):
        """The moved markers."""
        return [position for announcement in self.announcements for position in announcement.markers]

    def ephemerals(self, group_id):
        """The ephemerals of a group."""
        found = [each for announcement in self.announcements for each in announcement.ephemerals]
        return [each for each in found if each.group_id == group_id]

    @property
    def sweeps(self):
        """The number of announced sweeps."""
        return sum(announcement.sweep for announcement in self.announcements)

    @property
    def sessions(self):
        """The sessions that have ended."""
        return [session_id for announcement in self.announcements for session_id in announcement.sessions]


class Postgres:
    """Common place of brokers: a database."""

    garbage = (
        *("", "tea", "1", "null", "[]", '"x"', "{", "[" * 7_999, '{"groups": null}', '{"groups": []}'),
        *('{"groups": {"tea": 1}}', f'{{"groups": {{"{TEA}": "x"}}}}'),
        *(f'{{"groups": {{"{TEA}": {seq}}}}}' for seq in (None, "1e999", -1, 0, 2**63, 1.5, '"1"')),
        *('{"joined": 1}', '{"joined": [[]]}', f'{{"joined": [["{TEA}", {2**63}, "{PIE}"]]}}'),
        *('{"sessions": 1}', '{"sessions": [1]}', '{"sessions": ["x"]}'),
    )

    def __init__(self, postgresql, url):
        self._postgresql = postgresql
        self._url = url

    @contextlib.asynccontextmanager
    async def broker(self):
        """Yield a broker that is not running yet."""
        db = await Engine.connect(self._url)
        yield PostgresBroker(db, self._url)
        await db.close()

    async def subscribe(self, broker, handler, *group_ids):
        """Do nothing: the broker receives all groups."""

    def garble(self):
        """Send malformed payloads. Return their number."""
        for payload in self.garbage:
            self._announce(payload)
        return len(self.garbage)

    def end_session(self, session_id):
        """Announce an ended session."""
        self._announce(json.dumps({"sessions": [str(session_id)]}))

    def cut(self):
        """Cut the connections that listen."""
        self._postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query = 'LISTEN att' AND datname = current_database()"
        )
        self._postgresql.commit()

    def away(self):
        """Refuse all connections until the block ends."""
        return away(self._postgresql)

    def _announce(self, payload):
        self._postgresql.execute("SELECT pg_notify('att', %s)", (payload,))
        self._postgresql.commit()


class Redis:
    """Common place of brokers: a Valkey, or a cluster of them."""

    texts = (b"", b"x", b"1", b"[1]", b'["x"]', b"{", b"[" * 10_000, b"\xff")
    payloads = (b"", b"\x01" * 24, b"\x02" + b"\x01" * 24, b"\x01" * 17 + b"\0" * 8 + b"\x90", b"\x01" * 25 + b"\xc1")

    def __init__(self, valkey):
        self._valkey = valkey

    @contextlib.asynccontextmanager
    async def broker(self):
        redis_client = await RedisClient.connect(self._valkey.url)
        yield RedisBroker(redis_client)
        await redis_client.close()

    async def subscribe(self, broker, handler, *group_ids):
        for group_id in group_ids:
            broker.subscribe(group_id)
        await handler.until(lambda: {*handler.subscribed} >= {*group_ids})

    def garble(self):
        for text in self.texts:
            self._valkey.publish(ENDED_CHANNEL, text)
            self._valkey.publish(ALL, text)
        for payload in self.payloads:
            self._valkey.publish_sharded(f"{GROUP_CHANNEL}{TEA}", payload)
        return 2 * len(self.texts) + len(self.payloads)

    def end_session(self, session_id):
        self._valkey.publish(ENDED_CHANNEL, json.dumps([str(session_id)]))

    def cut(self):
        self._valkey.cut()

    @contextlib.contextmanager
    def away(self):
        self._valkey.kill()
        try:
            yield
        finally:
            self._valkey.start()
