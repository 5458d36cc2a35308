"""Reading of request bodies, within limits of size, pace and memory."""

import asyncio
import contextlib
import zlib
from collections.abc import Iterator

from aiohttp import web

from att import errors
from att.core.fair_semaphore import SOURCE
from att.core.pace import ARRIVAL_TIMEOUT, PACE_TIME, Pace
from att.http.context import MEMORY, READ_TURNS, SESSION
from att.http.incoming import INCOMING, IncomingRequest

BODY_LIMIT = 1024 * 1024  # bytes of one request body: a broadcast, or a thousand users with all fields
ANONYMOUS_BODY_LIMIT = 32 * 1024  # bytes of the body of a request that nobody has signed, as a log-in
ENCODINGS = ("gzip", "deflate", "identity")  # of a body
UNPACK_STEP = 64 * 1024  # bytes that are unpacked before others have their turn
_UNPACKER_SIZE = 44 * 1024  # bytes of memory that unpacking takes (zlib.h)


class BodyTooLarge(web.HTTPRequestEntityTooLarge):
    """The body is larger than ``limit`` bytes, unpacked."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class RequestBody:
    """The body of one request, as far as it has arrived."""

    __slots__ = ("_data", "_deadline", "_incoming", "_is_refused", "_parts", "_request")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._data: bytes | None = None
        self._parts: list[bytes] = []
        self._deadline: asyncio.Timeout | None = None
        self._is_refused = False
        # Our own connections count from the first byte on; aiohttp's own do not count.
        self._incoming = request.get(INCOMING) or IncomingRequest(request.app[MEMORY], self._refuse)
        self._incoming.refuse = self._refuse
        self._count()

    async def load(self) -> bytes:
        """Read the body once. Raises Malformed, WrongMediaType, BodyTimeout, BodyTooLarge, Busy."""
        if self._data is None:
            limit = BODY_LIMIT if SESSION in self._request else ANONYMOUS_BODY_LIMIT
            encoding = self._request.headers.get("Content-Encoding", "identity").lower()
            if encoding not in ENCODINGS:
                raise errors.WrongMediaType(f"Send the body with no Content-Encoding but {' or '.join(ENCODINGS)}.")
            if (self._request.content_length or 0) > limit:
                raise BodyTooLarge(limit)
            if self._is_refused:
                raise errors.Busy
            try:
                self._data = await self._receive(limit)
                if self._data and encoding != "identity" and self._request.content.total_compressed_bytes is None:
                    self._data = await self._unpack(self._data, encoding, limit)  # else aiohttp has done it
            except TimeoutError as error:
                raise (errors.Busy if self._is_refused else errors.BodyTimeout) from error
            except (web.RequestPayloadError, zlib.error, EOFError) as error:
                raise errors.Malformed("The body is incomplete, or not encoded as its headers say.") from error
            self._incoming.settle()
        return self._data

    def close(self) -> None:
        """Release the bytes, since aiohttp keeps the request until the connection's next one, and what is counted."""
        self._data = None
        self._parts.clear()
        if INCOMING not in self._request:
            self._incoming.release()

    async def _receive(self, limit: int) -> bytes:
        content, loop = self._request.content, asyncio.get_running_loop()
        if content.is_eof():  # usually it arrives together with the head
            data = await content.read()
            if len(data) > limit:
                raise BodyTooLarge(limit)
            return data
        turns, source = self._request.app[READ_TURNS], SOURCE.get()
        pace, size = Pace(loop.time(), ARRIVAL_TIMEOUT, PACE_TIME), 0
        async with asyncio.timeout_at(pace.due) as self._deadline:
            while not content.at_eof():
                if size:  # what is here already costs nothing; the next part is read, or unpacked, in a turn
                    waited_since = loop.time()
                    self._deadline.reschedule(None)
                    await turns.wait(source)
                    if self._is_refused:
                        raise TimeoutError
                    pace.extend(loop.time() - waited_since)
                    self._deadline.reschedule(pace.after(content.total_raw_bytes, loop.time()))
                part = await content.readany()
                self._parts.append(part)
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(limit)
                self._count()
                if self._is_refused:
                    raise TimeoutError
        self._deadline = None
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    async def _unpack(self, data: bytes, encoding: str, limit: int) -> bytes:
        """Return a body unpacked, step by step. Raises zlib.error, and EOFError if its end is missing."""
        is_raw = encoding == "deflate" and data[:1] and data[0] & 0xF != zlib.DEFLATED  # as some send it
        bits = zlib.MAX_WBITS + 16 if encoding == "gzip" else -zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS
        packed, size, parts, rest = len(data), 0, list[bytes](), data
        unpacker = zlib.decompressobj(bits)
        while rest or parts:
            part = unpacker.decompress(rest, UNPACK_STEP)
            parts.append(part)
            size += len(part)
            if size > limit:
                raise BodyTooLarge(limit)
            self._incoming.grow_to(packed + size + _UNPACKER_SIZE)
            if self._is_refused:
                raise TimeoutError
            rest = unpacker.unconsumed_tail
            if unpacker.eof:
                if not unpacker.unused_data:
                    break
                rest, unpacker = unpacker.unused_data, zlib.decompressobj(bits)  # the next member (RFC 1952)
            elif not rest and not part:
                raise EOFError
            await self._request.app[READ_TURNS].wait(SOURCE.get())
        return b"".join(parts)

    def _count(self) -> None:
        """Count what has arrived, unpacked."""
        if not self._is_refused:
            self._incoming.grow_to(self._request.content.total_bytes)

    def _refuse(self) -> None:
        """Refuse the request: the budget is full."""
        self._is_refused = True
        self._parts.clear()  # now: the reader wakes only after others have read more
        if self._deadline is not None:
            self._deadline.reschedule(0.0)  # wakes the reader


BODY = web.RequestKey("body", RequestBody)


@contextlib.contextmanager
def counted_body(request: web.Request) -> Iterator[None]:
    """Count the request's body against the budget of memory until the block ends."""
    body = request[BODY] = RequestBody(request)
    try:
        yield
    finally:
        body.close()


async def load_body(request: web.Request) -> bytes:
    """Read the body. Raises the errors of ``RequestBody.load``."""
    return await request[BODY].load()
