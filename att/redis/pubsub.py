"""Publish and subscribe in Redis, over separate connections.

In a cluster a sharded channel is on one server. The other channels are on all servers.

https://redis.io/docs/latest/develop/pubsub/
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from att.errors import RedisUnavailable
from att.redis.client import RedisClient

_SILENCE = 5.0  # seconds between pings of each server, and for their replies
CHANNELS = 500  # in one command


class ChannelListener(Protocol):
    """Is called about subscribed channels."""

    def subscribed(self, channel: str) -> None:
        """Note that the subscription is active."""

    def published(self, channel: str, payload: bytes) -> None:
        """Handle a published payload."""


class PubSub:
    """Publishes and subscribes in a server or a cluster."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def publish(self, channel: str, payload: str) -> None:
        """Publish on a channel of all servers. Raise RedisUnavailable and Busy."""
        async with self._redis.guarded():
            await self._redis.client.publish(channel, payload)

    async def publish_sharded(self, payloads: Iterable[tuple[str, bytes]]) -> None:
        """Publish on sharded channels by one pipeline. Raise RedisUnavailable or Busy; some may be published then."""
        command = "SPUBLISH" if self._redis.is_cluster else "PUBLISH"
        async with self._redis.guarded():
            pipeline = self._redis.client.pipeline(transaction=False)
            for channel, payload in payloads:
                pipeline.execute_command(command, channel, payload)
            await pipeline.execute()

    @contextlib.asynccontextmanager
    async def connect(self, listener: ChannelListener) -> AsyncIterator["PubSubConnection"]:
        """Open connections while the block runs. Raise RedisUnavailable."""
        connection = PubSubConnection(self._redis, listener)
        try:
            await connection.open()
            yield connection
        finally:
            await connection.close()


class PubSubConnection:
    """Connections to all servers, with subscriptions on each. The loss of one ends all."""

    def __init__(self, redis: RedisClient, listener: ChannelListener) -> None:
        self._redis = redis
        self._hearer = listener
        self._connections: dict[str, Any] = {}
        self._received_at: dict[str, float] = {}
        self._unsubscribing: set[bytes] = set()
        self._clock = asyncio.get_running_loop().time

    async def open(self) -> None:
        """Open the connections. Raise RedisUnavailable."""
        with self._redis.translating():
            self._connections = dict(await self._redis.servers())
            for connection in self._connections.values():
                await connection.connect()
        self._received_at = dict.fromkeys(self._connections, self._clock())

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            await connection.disconnect(nowait=True)

    async def run(self, beside: Coroutine[Any, Any, None]) -> None:
        """Receive, and run ``beside``, until a connection is lost. Raise RedisUnavailable then."""
        with self._redis.translating():
            try:
                async with asyncio.TaskGroup() as tasks:
                    for work in (beside, *map(self._read, self._connections), *map(self._ping, self._connections)):
                        tasks.create_task(work)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

    async def subscribe(self, *channels: str) -> None:
        """Subscribe to channels of all servers. Raise RedisUnavailable, as the methods below."""
        with self._redis.translating():
            await next(iter(self._connections.values())).send_command("SUBSCRIBE", *channels)

    async def subscribe_sharded(self, channels: Sequence[str]) -> None:
        """Subscribe to sharded channels."""
        self._unsubscribing.difference_update(channel.encode() for channel in channels)
        await self._send("SSUBSCRIBE" if self._redis.is_cluster else "SUBSCRIBE", channels)

    async def unsubscribe_sharded(self, channels: Sequence[str]) -> None:
        """Unsubscribe from sharded channels."""
        self._unsubscribing.update(channel.encode() for channel in channels)
        await self._send("SUNSUBSCRIBE" if self._redis.is_cluster else "UNSUBSCRIBE", channels)

    async def _send(self, command: str, channels: Sequence[str]) -> None:
        with self._redis.translating():
            parts: dict[str, list[str]] = {}
            for channel in channels:
                parts.setdefault(self._redis.server_of(channel), []).append(channel)
            for name, part in parts.items():
                if name not in self._connections:
                    raise RedisUnavailable(why=f"Redis at {name or self._redis.address}: no connection")
                connection = self._connections[name]
                # In a cluster, all channels of one command must be in one slot.
                size = 1 if self._redis.is_cluster else CHANNELS
                commands = [(command, *part[start : start + size]) for start in range(0, len(part), size)]
                await connection.send_packed_command(connection.pack_commands(commands))

    async def _read(self, name: str) -> None:
        connection = self._connections[name]
        while True:
            reply = await connection.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            self._received_at[name] = self._clock()
            match reply:
                case [b"message" | b"smessage", channel, payload]:
                    self._hearer.published(channel.decode(errors="replace"), payload)
                case [b"subscribe" | b"ssubscribe", channel, _]:
                    self._hearer.subscribed(channel.decode(errors="replace"))
                case [b"sunsubscribe", channel, _]:
                    self._on_unsubscribed(channel)

    def _on_unsubscribed(self, channel: bytes) -> None:
        """Raise RedisUnavailable if the server has unsubscribed us because the channel moved to another server."""
        if channel not in self._unsubscribing:
            raise RedisUnavailable(
                why=f"Redis at {self._redis.address}: a channel has moved to another server of the cluster"
            )
        self._unsubscribing.discard(channel)

    async def _ping(self, name: str) -> None:
        while True:
            asked_at = self._clock()
            await self._connections[name].send_command("PING")
            await asyncio.sleep(_SILENCE)
            if self._received_at[name] < asked_at:
                raise RedisUnavailable(why=f"Redis at {name}: no reply for {_SILENCE:g} s")
