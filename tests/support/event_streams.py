"""A client of server-sent events, as the standard has it (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import json
import re
from typing import Any, NamedTuple

from aiohttp import ClientResponse

DEADLINE = 5.0


class ServerEvent(NamedTuple):
    """An event: its type, its data, and the last id by then."""

    type: str
    data: str
    id: str


class Interpreter:
    """Makes events of lines; ``retry`` is the last time to wait, in milliseconds, and ``comments`` are counted."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self.comments = 0
        self._type, self._data, self._id = "", [], last_id

    def take(self, line: str) -> ServerEvent | None:
        """Interpret a line, without its end. Return an event if it has ended."""
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isdecimal():
                self.retry = int(value)
            case "":
                self.comments += 1
            case _:
                raise AssertionError(line)
        return None

    def _dispatch(self) -> ServerEvent | None:
        self.last_id = self._id
        kind, data, self._type, self._data = self._type, self._data, "", []
        return ServerEvent(kind or "message", "\n".join(data), self.last_id) if data else None


def interpret(text: bytes, last_id: str = "") -> list[ServerEvent]:
    """Return the events of a whole stream."""
    interpreter = Interpreter(last_id)
    lines = re.split("\r\n|\r|\n", text.decode())
    return [event for line in lines if (event := interpreter.take(line)) is not None]


class EventSource:
    """The events of a response."""

    def __init__(self, response: ClientResponse, last_id: str = "") -> None:
        self.response = response
        self.interpreter = Interpreter(last_id)

    @property
    def last_id(self) -> str:
        """The id with which to connect again."""
        return self.interpreter.last_id

    async def next(self) -> ServerEvent | None:
        """Return the next event, None at the end of the response."""
        async with asyncio.timeout(DEADLINE):
            while line := await self.response.content.readline():
                if (event := self.interpreter.take(line.decode().removesuffix("\n"))) is not None:
                    return event
        return None

    async def receive(self) -> dict[str, Any]:
        """Return the frame in the next event."""
        event = await self.next()
        assert event is not None, "the stream has ended"
        frame = json.loads(event.data)
        assert frame.get("type", "close") == event.type
        return frame

    async def rest(self) -> list[ServerEvent]:
        """Return the events up to the end."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    def close(self) -> None:
        """Close the connection at once."""
        self.response.close()
