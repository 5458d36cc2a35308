"""Clients that listen by server-sent events: all that one remembers is the last id."""

import asyncio
import time

import aiohttp
import msgspec

from chaos import frames
from chaos.frames import Hello, Rewind
from chaos.listeners import CONNECT_TIMEOUT, RECONNECT, TOO_SLOW, ListenerV1

ACCEPT = {"Accept": "text/event-stream"}


class _Close(msgspec.Struct, forbid_unknown_fields=True):
    code: int
    reason: str


class SseListener(ListenerV1):
    """A client that begins with new events, and cannot send. An id names all groups, as there are few of them."""

    _last_id = ""
    _response: aiohttp.ClientResponse | None = None

    async def _listen(self) -> None:
        self._open(time.time())
        session, url = self._connect()
        headers = {**self.person.headers, **ACCEPT, **({"Last-Event-ID": self._last_id} if self._last_id else {})}
        async with asyncio.timeout(CONNECT_TIMEOUT):
            response = await session.get(
                f"{url}/listen/{self.person.id}",
                headers=headers,
                timeout=aiohttp.ClientTimeout(None),
                read_bufsize=2**20,
            )
        try:
            if response.status == 200:
                self._response = response
                self.connections += 1
                await self._interpret(response)
            elif response.status != 503:
                self.faults.append(f"{self.name}: refused with {response.status}")
        finally:
            self._response = None
            self.is_connected.clear()
            response.close()

    async def go_away(self, seconds: float) -> None:
        """Disconnect, and come back later."""
        self.is_wanted.clear()
        if self._response is not None:
            self._response.close()
        await asyncio.sleep(seconds)
        self.is_wanted.set()

    async def _interpret(self, response: aiohttp.ClientResponse) -> None:
        """Handle the events: an id counts once the event is complete."""
        fields: dict[str, str] = {}
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                self._take(fields["event"], fields["data"])
                self._last_id = fields.get("id", self._last_id)
                fields = {}
            await self.is_reading.wait()

    def _take(self, kind: str, data: str) -> None:
        if kind == "close":
            code = msgspec.json.decode(data, type=_Close).code
            self.times_too_slow += code == TOO_SLOW
            if code not in RECONNECT:
                self.faults.append(f"{self.name}: received {data}")
        elif kind == "hello":
            hello = frames.parse(data)
            assert isinstance(hello, Hello)
            self._greet(hello)
            self.is_connected.set()
        elif kind != "rewind" or self._takes_back(data):
            self._hear(data)

    def _takes_back(self, data: str) -> bool:
        """Return False for a rewind of a group that the id did not name, which has lost nothing."""
        frame = frames.parse(data)
        return not isinstance(frame, Rewind) or frame.to < self.positions.get(frame.group, 0)

    @property
    def _transport(self) -> asyncio.Transport | None:
        connection = None if self._response is None else self._response.connection
        return None if connection is None else connection.transport
