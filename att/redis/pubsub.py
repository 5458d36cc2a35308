"""What is published in a Redis, and heard there over connections of its own.

In a cluster some channels are sharded: each is on one server, which alone is told. The others are told on all of them.

https://redis.io/docs/latest/develop/pubsub/
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from att.errors import RedisUnavailable
from att.redis.client import RedisLink

_SILENCE = 5.0  # seconds without a word, after which a server is asked whether it is still there; for an answer, too
CHANNELS = 500  # that one command names


class Hearer(Protocol):
    """Who is told what is heard."""

    def subscribed(self, channel: str) -> None:
        """What is published there is heard from now on."""

    def published(self, channel: str, payload: bytes) -> None:
        """This was published."""


class Channels:
    """The channels of a server or a cluster."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def publish(self, channel: str, payload: str) -> None:
        """Publish on a channel that all servers have. Raises RedisUnavailable and Busy."""
        async with self._link.guarded():
            await self._link.client.publish(channel, payload)

    async def publish_sharded(self, payloads: Iterable[tuple[str, bytes]]) -> None:
        """Publish on sharded channels, all in one go. Raises RedisUnavailable or Busy: some may be there then."""
        command = "SPUBLISH" if self._link.is_cluster else "PUBLISH"
        async with self._link.guarded():
            pipeline = self._link.client.pipeline(transaction=False)
            for channel, payload in payloads:
                pipeline.execute_command(command, channel, payload)
            await pipeline.execute()

    @contextlib.asynccontextmanager
    async def hearing(self, hearer: Hearer) -> AsyncIterator["Hearing"]:
        """Connections, while the block runs. Raises RedisUnavailable when there is nobody."""
        hearing = Hearing(self._link, hearer)
        try:
            await hearing.open()
            yield hearing
        finally:
            await hearing.close()


class Hearing:
    """Connections to all servers, on each of which some channels are heard. When one is lost all of it ends."""

    def __init__(self, link: RedisLink, hearer: Hearer) -> None:
        self._link = link
        self._hearer = hearer
        self._connections: dict[str, Any] = {}
        self._heard_at: dict[str, float] = {}
        self._leaving: set[bytes] = set()
        self._clock = asyncio.get_running_loop().time

    async def open(self) -> None:
        """Connect. Raises RedisUnavailable."""
        with self._link.translating():
            self._connections = dict(await self._link.servers())
            for connection in self._connections.values():
                await connection.connect()
        self._heard_at = dict.fromkeys(self._connections, self._clock())

    async def close(self) -> None:
        """Hang up."""
        for connection in self._connections.values():
            await connection.disconnect(nowait=True)

    async def run(self, beside: Coroutine[Any, Any, None]) -> None:
        """Receive messages and run ``beside`` until a connection is lost. Raises RedisUnavailable then."""
        with self._link.translating():
            try:
                async with asyncio.TaskGroup() as tasks:
                    for work in (beside, *map(self._read, self._connections), *map(self._watch, self._connections)):
                        tasks.create_task(work)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    async def subscribe(self, *channels: str) -> None:
        """Ask for channels that all servers have. Raises RedisUnavailable, as the others do."""
        with self._link.translating():
            await next(iter(self._connections.values())).send_command("SUBSCRIBE", *channels)

    async def subscribe_sharded(self, channels: Sequence[str]) -> None:
        """Ask for sharded channels."""
        self._leaving.difference_update(channel.encode() for channel in channels)
        await self._send("SSUBSCRIBE" if self._link.is_cluster else "SUBSCRIBE", channels)

    async def unsubscribe_sharded(self, channels: Sequence[str]) -> None:
        """Ask for them no more."""
        self._leaving.update(channel.encode() for channel in channels)
        await self._send("SUNSUBSCRIBE" if self._link.is_cluster else "UNSUBSCRIBE", channels)

    async def _send(self, command: str, channels: Sequence[str]) -> None:
        with self._link.translating():
            parts: dict[str, list[str]] = {}
            for channel in channels:
                parts.setdefault(self._link.server_of(channel), []).append(channel)
            for name, part in parts.items():
                if name not in self._connections:
                    raise RedisUnavailable(why=f"Redis at {name or self._link.place}: no connection to hear by")
                connection = self._connections[name]
                # The sharded channels of one command would have to be in one slot.
                size = 1 if self._link.is_cluster else CHANNELS
                commands = [(command, *part[start : start + size]) for start in range(0, len(part), size)]
                await connection.send_packed_command(connection.pack_commands(commands))

    async def _read(self, name: str) -> None:
        connection = self._connections[name]
        while True:
            said = await connection.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            self._heard_at[name] = self._clock()
            match said:
                case [b"message" | b"smessage", channel, payload]:
                    self._hearer.published(channel.decode(errors="replace"), payload)
                case [b"subscribe" | b"ssubscribe", channel, _]:
                    self._hearer.subscribed(channel.decode(errors="replace"))
                case [b"sunsubscribe", channel, _]:
                    self._left(channel)

    def _left(self, channel: bytes) -> None:
        """A server that gives a channel to another one says so by this: it is to be found anew."""
        if channel not in self._leaving:
            raise RedisUnavailable(why=f"Redis at {self._link.place}: a channel has gone to another of its servers")
        self._leaving.discard(channel)

    async def _watch(self, name: str) -> None:
        while True:
            asked_at = self._clock()
            await self._connections[name].send_command("PING")
            await asyncio.sleep(_SILENCE)
            if self._heard_at[name] < asked_at:
                raise RedisUnavailable(why=f"Redis at {name}: no word for {_SILENCE:g} s")
