"""What a Redis or Valkey keeps and tells, where one is configured."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from att.background import running, together
from att.db.accounts import ACTIVE_USERS, LOCK_USER
from att.db.engine import Engine, Transaction
from att.errors import AuthFailed, NoSuchSession, Unavailable
from att.incidents import Outage
from att.paging import Page, Window
from att.realtime.bus import FIRST_PAUSE, LONGEST_PAUSE, STOP_TIMEOUT, SWEEP, Ears, Echo, Ring, ring_endings
from att.realtime.log import Event
from att.realtime.outgoing import Outgoing, Rung
from att.realtime.tuning import Tuning
from att.realtime.wire import decode, encode
from att.redis_channels import Channels, Hearing
from att.redis_keys import SessionKeys
from att.redis_link import RedisLink
from att.redis_scripts import ENDED_CHANNEL
from att.sessions import (
    SESSIONS_OF_USER,
    TOKEN_BYTES,
    Client,
    Session,
    SessionInfo,
    SignIn,
    Verified,
    hash_token,
    is_token,
    slack_of,
)

ALL, GROUP, NODE = "att:all", "att:group:", "att:node:"  # channels
AT_ONCE = 100  # groups that are rung by one pipeline
TUNED_AT_ONCE = 5_000  # groups that are subscribed to before it is looked what else there is
TICK = 2.0  # seconds between echoes, and between looks for channels that nobody needs any more

log = logging.getLogger("att")


class RedisSessions:
    """A ``SessionStore`` in Redis. Who may sign in is for the database ``db`` to say.

    What ends is told by the database too, for a node that has lost Redis, or if Redis is lost just then. Each verb but
    ``living`` raises RedisUnavailable while there is no Redis.
    """

    def __init__(self, link: RedisLink, db: Engine, ttl: timedelta) -> None:
        self._keys = SessionKeys(link, ttl, slack_of(ttl))
        self._db = db

    async def create(self, verified: Verified, client: Client) -> SignIn:
        token, session_id, user_id = secrets.token_urlsafe(TOKEN_BYTES), uuid4(), verified.user_id
        digest = hash_token(token).hex()
        # First, and not while the user is locked: without Redis no connection to the database is held.
        await self._keys.point(digest, user_id, session_id)
        async with self._db.transaction() as transaction:
            if await transaction.fetch_one(LOCK_USER, **verified._asdict()) is None:
                raise AuthFailed
            expires_at = await self._keys.begin(digest, user_id, session_id, client)
        return SignIn(token, Session(session_id, user_id, expires_at))

    async def find(self, token: str) -> Session | None:
        found = await self._keys.find(hash_token(token).hex()) if is_token(token) else None
        return Session(*found) if found else None

    async def check(self, session_id: UUID) -> Session | None:
        found = await self._keys.look_up([session_id])
        return Session(session_id, found[session_id][0], found[session_id][1].expires_at) if found else None

    async def living(self, owners: Mapping[UUID, UUID]) -> set[UUID]:
        """Of users who are gone or disabled none is: they end here, whether or not that was announced.

        While Redis is away that is all that is known, and everybody else's are taken for living.
        """
        departed = {*await self.departed({*owners.values()})}
        found: Collection[UUID] = owners
        with contextlib.suppress(Unavailable):
            found = await self._keys.look_up([*owners])
            for user_id in departed:
                await self._keys.end_all(user_id, None)
        return {session_id for session_id in found if owners[session_id] not in departed}

    async def end(self, session_id: UUID) -> None:
        for user_id, _ in (await self._keys.look_up([session_id])).values():
            if await self._keys.end(user_id, session_id):
                await ring_endings(self._db, [session_id])

    async def end_one(self, user_id: UUID, session_id: UUID) -> None:
        if not await self._keys.end(user_id, session_id):
            raise NoSuchSession
        await ring_endings(self._db, [session_id])

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        """Also in a transaction they end at once, and stay ended if it is rolled back: never the other way round."""
        ended = await self._keys.end_all(user_id, keep)
        await ring_endings(transaction or self._db, ended)
        return ended

    async def of_user(self, user_id: UUID, window: Window) -> Page[SessionInfo]:
        after = (window.after[0], window.after[1]) if window.after else None
        found = await self._keys.newest(user_id, window.limit + 1, after)
        shown = [SessionInfo(session_id, *record) for session_id, record in found[: window.limit]]
        is_last = len(found) == len(shown)
        return Page(shown, None if is_last else SESSIONS_OF_USER.order.cursor((shown[-1].created_at, shown[-1].id)))

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:
        active = await self._db.fetch_all(ACTIVE_USERS, user_ids=[*user_ids]) if user_ids else []
        return [*{*user_ids} - {user_id for (user_id,) in active}]

    async def sweep(self) -> None:
        """End the sessions of users who are gone or disabled, of which no announcement has told.

        Redis itself removes what has expired. Of all nodes one does this at a time.
        """
        if await self._keys.take_turn():
            async for user_ids in self._keys.users():
                for user_id in await self.departed(user_ids):
                    await self._keys.end_all(user_id, None)


class RedisBus:
    """A ``Bus`` by channels, one a group, to which the messages themselves go: who is in step reads nothing.

    It is told by ``tune_in`` and ``tune_out`` which groups are heard here, and subscribes to those. Sessions that end
    are heard on ``att:sessions``, as a JSON array of their ids; what concerns everybody on ``att:all``.
    """

    name = "redis"

    def __init__(self, link: RedisLink) -> None:
        self.sent = self.heard = 0
        self._id = uuid4()
        self._own = f"{NODE}{self._id}"
        self._channels = Channels(link)
        self._ears: Ears
        self._echo = Echo()
        self._outage = Outage(f"the bus ({self.name})")
        self._is_up = asyncio.Event()
        self._outgoing = Outgoing()
        self._rung = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tuning = Tuning(time.monotonic)
        self._to_tune = asyncio.Event()
        self._tuning.wake = self._to_tune.set

    @property
    def is_connected(self) -> bool:
        return self._is_up.is_set()

    @property
    def lag(self) -> float:
        return self._echo.seconds

    @contextlib.asynccontextmanager
    async def running(self, ears: Ears) -> AsyncIterator[None]:
        self._ears = ears
        async with (
            running("hearing of the bus in Redis", self._hear),
            running("ringing of the bus in Redis", self._ring),
            running("timing of the bus in Redis", self._time),
        ):
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._idle.wait()

    # Which groups are heard here

    def tune_in(self, group_id: UUID) -> None:
        self._tuning.tune_in(group_id)

    def tune_out(self, group_id: UUID) -> None:
        self._tuning.tune_out(group_id)

    # Ringing

    def ring(self, event: Event) -> None:
        self._outgoing.add(event)
        self._wake()

    def ring_head(self, group_id: UUID, seq: int) -> None:
        self._outgoing.add_head(group_id, seq)
        self._wake()

    def ring_for_sweep(self) -> None:
        self._outgoing.is_sweep = True
        self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._rung.set()

    async def _ring(self) -> None:
        while True:
            while self._outgoing:
                await self._publish()
            self._idle.set()
            await self._rung.wait()
            self._rung.clear()

    async def _publish(self) -> None:
        taken = self._outgoing.take(AT_ONCE)
        is_sweep, self._outgoing.is_sweep = self._outgoing.is_sweep, False
        try:
            if taken:
                await self._channels.publish_sharded(self._payloads(taken))
            if is_sweep:
                await self._channels.publish(ALL, json.dumps({"sweep": True}))
            self.sent += len(taken) + is_sweep
        except Unavailable:
            self._outgoing.put_back(taken)
            self._outgoing.is_sweep |= is_sweep
            await asyncio.sleep(FIRST_PAUSE)

    def _payloads(self, taken: Mapping[UUID, Rung]) -> list[tuple[str, bytes]]:
        return [(f"{GROUP}{group_id}", encode(self._id, rung.head, rung.events)) for group_id, rung in taken.items()]

    async def _time(self) -> None:
        while True:
            await self._is_up.wait()
            with contextlib.suppress(Unavailable):
                await self._channels.publish(self._own, str(self._echo.sent()))
            await asyncio.sleep(TICK)

    # Hearing

    async def _hear(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._channels.hearing(self) as hearing:
                    self._tuning.begin()
                    await hearing.subscribe(ENDED_CHANNEL, self._own, ALL)
                    await together(hearing.run(), self._tune(hearing))
            except Unavailable as error:
                self._outage.begin(error.why)
            finally:
                pause = FIRST_PAUSE if self.is_connected else pause
                self._is_up.clear()
                self._echo.sent()  # so that its lag grows until something is heard again
                self._ears.disconnected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _tune(self, hearing: Hearing) -> None:
        """Subscribe to what is heard here, and what is not, unsubscribe from."""
        while True:
            while any(change := self._tuning.take(TUNED_AT_ONCE)):
                await hearing.subscribe_sharded([f"{GROUP}{group_id}" for group_id in change.more])
                await hearing.unsubscribe_sharded([f"{GROUP}{group_id}" for group_id in change.less])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._to_tune.wait()
            self._to_tune.clear()

    def subscribed(self, channel: str) -> None:
        if channel == ALL:  # the last of those that are asked for first
            self._outage.end()
            self._is_up.set()
            self._ears.connected()
        elif channel.startswith(GROUP):
            self._ears.tuned([UUID(channel.removeprefix(GROUP))])

    def published(self, channel: str, payload: bytes) -> None:
        self.heard += 1
        try:
            if channel == self._own:
                self._echo.heard(float(payload))
                return
            ring = self._read(channel, payload)
        except (ValueError, TypeError, AttributeError, RecursionError):
            log.warning("an announcement on the channel %s is not ours, and is ignored", channel)
            return
        self._ears.heard(ring)

    def _read(self, channel: str, payload: bytes) -> Ring:
        """Raises what comes of anything else: whoever may publish in Redis can announce anything."""
        if channel.startswith(GROUP):
            group_id = UUID(channel.removeprefix(GROUP))
            told = decode(group_id, payload, own=self._id)
            return Ring({group_id: told.head}, events=told.events)
        told_of: Any = json.loads(payload)
        if channel == ENDED_CHANNEL:
            return Ring({}, sessions=[UUID(session_id) for session_id in told_of])
        return SWEEP if told_of.get("sweep") is True else Ring({})
