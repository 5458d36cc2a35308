"""Reading of request bodies, within limits of size, pace and memory."""

import asyncio
import contextlib
from collections.abc import Iterator

from aiohttp import web

from att import errors
from att.core.memory import MemoryBudget
from att.core.pace import ARRIVAL_TIMEOUT, PACE_TIME, Pace
from att.http.context import MEMORY, SESSION

BODY_LIMIT = 1024 * 1024  # bytes of one request body: a broadcast, or a thousand users with all fields
ANONYMOUS_BODY_LIMIT = 32 * 1024  # bytes of the body of a request that nobody has signed, as a log-in
ENCODINGS = ("gzip", "deflate", "identity")  # of a body; aiohttp would not decode others


class BodyTooLarge(web.HTTPRequestEntityTooLarge):
    """The body is larger than ``limit`` bytes, unpacked."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class RequestBody:
    """The body of one request, as far as it has arrived: a ``MemoryHolder``.

    It is counted from the start, since aiohttp reads a little ahead before the handler asks for it.
    """

    __slots__ = ("_data", "_deadline", "_is_refused", "_memory", "_parts", "_request", "held", "held_since")

    def __init__(self, request: web.Request, memory: MemoryBudget) -> None:
        self.held = 0
        self.held_since = 0.0
        self._request = request
        self._memory = memory
        self._data: bytes | None = None
        self._parts: list[bytes] = []
        self._deadline: asyncio.Timeout | None = None
        self._is_refused = False
        self._count()

    async def load(self) -> bytes:
        """Read the body once. Raises Malformed, WrongMediaType, BodyTimeout, BodyTooLarge, Busy."""
        if self._data is None:
            limit = BODY_LIMIT if SESSION in self._request else ANONYMOUS_BODY_LIMIT
            if self._request.headers.get("Content-Encoding", "identity").lower() not in ENCODINGS:
                raise errors.WrongMediaType(f"Send the body with no Content-Encoding but {' or '.join(ENCODINGS)}.")
            if (self._request.content_length or 0) > limit:
                raise BodyTooLarge(limit)
            self._count()
            if self._is_refused:
                raise errors.Busy
            try:
                self._data = await self._receive(limit)
            except TimeoutError as error:
                raise (errors.Busy if self._is_refused else errors.BodyTimeout) from error
            except web.RequestPayloadError as error:
                raise errors.Malformed("The body is incomplete, or not encoded as its headers say.") from error
            self._memory.settle(self)
        return self._data

    def give_up(self) -> str:
        """Refuse the request: the budget is full."""
        self._is_refused = True
        self._parts.clear()  # now: the reader wakes only after others have read more
        self.close()
        if self._deadline is not None:
            self._deadline.reschedule(0.0)  # wakes the reader
        return "body"

    def close(self) -> None:
        """Release what is counted."""
        self._memory.release(self, self.held)

    async def _receive(self, limit: int) -> bytes:
        content, loop = self._request.content, asyncio.get_running_loop()
        if content.is_eof():  # usually it arrives together with the head
            data = await content.read()
            if len(data) > limit:
                raise BodyTooLarge(limit)
            return data
        pace, size = Pace(loop.time(), ARRIVAL_TIMEOUT, PACE_TIME), 0
        async with asyncio.timeout_at(pace.due) as self._deadline:
            while part := await content.readany():
                self._parts.append(part)
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(limit)
                self._count()
                if self._is_refused:
                    raise TimeoutError
                if not content.is_eof():
                    self._deadline.reschedule(pace.after(content.total_raw_bytes, loop.time()))
        self._deadline = None
        return b"".join(self._parts)

    def _count(self) -> None:
        """Charge what has arrived, unpacked, since the last time."""
        arrived = self._request.content.total_bytes - self.held
        if arrived > 0 and not self._is_refused:
            self._memory.charge(self, arrived)


BODY = web.RequestKey("body", RequestBody)


@contextlib.contextmanager
def counted_body(request: web.Request) -> Iterator[None]:
    """Count the request's body against the budget of memory until the block ends."""
    body = request[BODY] = RequestBody(request, request.app[MEMORY])
    try:
        yield
    finally:
        body.close()


async def load_body(request: web.Request) -> bytes:
    """Read the body. Raises the errors of ``RequestBody.load``."""
    return await request[BODY].load()
