"""Limits on open connections: how many each address may have, and how long a request and its response may take.

aiohttp waits for ever for the head of a request, and for a client to take its response; here a head has
``HEAD_TIMEOUT`` to arrive, and a response must be taken at a minimum pace.
"""

import asyncio
import contextlib
import itertools
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

from att.core.client_address import Proxy, is_trusted, network_of, parse_address
from att.core.fair_semaphore import SOURCE
from att.core.memory import MemoryBudget
from att.core.pace import Pace
from att.core.read_turns import ReadTurns
from att.http import parse_errors
from att.http.access_log import RequestLog
from att.http.incoming import INCOMING, IncomingRequest
from att.http.parse_errors import FIELD_LIMIT, FIELDS, HEAD_LIMIT, HEAD_TIMEOUT, LINE_LIMIT
from att.http.problems import problem_of_http

IDLE_TIMEOUT = 3_630.0  # seconds for which a connection is kept alive: longer than any proxy does
_RESPONSE_TIMEOUT = 600.0  # seconds for a client to take a response
_STALL_TIME = 30.0  # seconds for it to take the next bytes
READ_AHEAD = 4 * 1024  # bytes of a body that are read before the handler asks for it; at most twice as many
_FEW = 4 * 1024  # bytes of a request that need not be counted
_REQUEST_SIZE = 12 * 1024  # bytes that a request takes beside its own: its objects, its task, timers
_UNREAD = 128 * 1024  # bytes of the next requests, or of an ignored body, that may be here when one ends
_LINGER_TIMEOUT = 10.0  # seconds in which the rest of a refused body is ignored
_SWEEP_INTERVAL = 1.0  # seconds between checks for late heads
WARNING_INTERVAL = 60.0  # seconds between log lines about refused connections

# Options of aiohttp's handler; None turns its own access log off.
LIMITS: Mapping[str, Any] = {
    "max_line_size": LINE_LIMIT,
    "max_field_size": FIELD_LIMIT,
    "max_headers": FIELDS,
    "read_bufsize": READ_AHEAD,
    "auto_decompress": False,  # it would unpack what nobody has asked for
}
_OPTIONS: Mapping[str, Any] = {**LIMITS, "keepalive_timeout": IDLE_TIMEOUT, "access_log": None}

NEW, AWAITING, BUSY, IDLE, _GONE = range(5)  # stages of a connection; AWAITING the head of a request

log = logging.getLogger("att")


class Traffic(NamedTuple):
    """Number of open connections, and of those that are not idle."""

    open: int = 0
    busy: int = 0


class ClientQuota:
    """Number of connections that an address, or an IPv6 network, has open, and its limit."""

    __slots__ = ("_limiter", "key", "limit", "open")

    def __init__(self, limiter: "ConnectionLimiter", key: str, limit: int | None) -> None:
        self._limiter = limiter
        self.key = key
        self.limit = limit
        self.open = 0

    def release(self) -> None:
        """Count out a connection that is closed."""
        self._limiter.release(self)


class HttpConnection(web.RequestHandler):
    """An HTTP connection that counts against a quota.

    It holds memory while a response waits for its client; ``incoming`` holds that of its request.
    """

    __slots__ = (
        "_arrived",
        "_limiter",
        "_pace",
        "_stall",
        "_waiting",
        "_whole",
        "held",
        "held_since",
        "incoming",
        "quota",
        "stage",
    )

    def __init__(
        self,
        limiter: "ConnectionLimiter",
        quota: ClientQuota,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(server, loop=loop, **options)
        self._limiter = limiter
        self._arrived = 0  # bytes since the request's first
        self.incoming = IncomingRequest(limiter.memory, self._refuse)
        self._stall: asyncio.TimerHandle | None = None  # while the transport is full
        self._whole = 0  # bytes of the response, which stay until all of it is sent; the transport may have a copy
        self.held = 0
        self.held_since = 0.0
        self.quota = quota
        self.stage = NEW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._limiter.await_head(self)

    def data_received(self, data: bytes) -> None:
        if self.stage == IDLE and data:
            self._limiter.await_head(self)
        super().data_received(data)
        self._arrived += len(data)
        if self._arrived > _FEW:
            self.incoming.grow_to(self._arrived + _REQUEST_SIZE)
        if self._arrived > HEAD_LIMIT and self.stage != BUSY:
            # The count may include a body. If the head was complete, the request has begun when this check runs.
            self._loop.call_soon(self._check_head)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()
        self.incoming.release()
        self._limiter.remove(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._waiting = self.transport.get_write_buffer_size()
            self._pace = Pace(self._loop.time(), _RESPONSE_TIMEOUT, _STALL_TIME)
            self._stall = self._loop.call_at(self._pace.due, self._check_pace)
            self._limiter.memory.charge(self, max(self._waiting, 2 * self._whole))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def give_up(self) -> str:
        """Close the connection, whose response waits: the budget of memory is full."""
        self._stop_waiting()
        self.abort()
        return "response"

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response. An HTTP error that was raised outside of the middleware is sent as a problem, too."""
        self._whole = len(resp.body) if isinstance(resp, web.Response) and isinstance(resp.body, bytes) else 0
        is_rejected = isinstance(resp, web.HTTPException)
        finished = await super().finish_response(
            request, problem_of_http(resp) if isinstance(resp, web.HTTPException) else resp, start_time
        )
        if isinstance(finished[0], web.Response):
            finished[0].body = None  # aiohttp keeps the response until the connection's next request
        if is_rejected:
            self._limiter.record_rejected(request.remote, finished[0])
        if not request.content.is_eof():
            await self._linger(request)
        return finished

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """Mark the connection as idle: a request has been answered."""
        super().log_access(request, response, time)
        if self.stage == _GONE:
            return
        if request.content.is_eof():
            self._limiter.set_idle(self)
        else:
            response.force_close()  # the rest of the body is still to come, and is no new head
            self._lingering_time = 0.0  # it lingers by ``_linger``
        raw = 0 if request.content is EMPTY_PAYLOAD else request.content.total_raw_bytes
        rest = self._arrived - raw if request.content.is_eof() else self._arrived
        self.incoming.release(min(rest, _UNREAD) if rest > _FEW or self._messages else 0)
        self._arrived = 0

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response to invalid HTTP, or to an error outside of the middleware."""
        if isinstance(exc, HttpProcessingError):
            response = parse_errors.unreadable(exc)
            self._reject(response)  # aiohttp would answer as HTTP/1.0, and name its version
            return response
        super().handle_error(request, status, exc, message)
        return parse_errors.fault()

    def set_busy(self) -> None:
        """Mark the connection as busy: the head of a request has arrived."""
        self._limiter.set_busy(self)

    def detach(self) -> ClientQuota:
        """Leave the connection to another protocol, which releases the returned quota at its end."""
        self.stage = _GONE
        return self.quota

    def time_out(self) -> None:
        """Reject a head that is late. A client that has sent nothing at all gets no response."""
        # Else it is being closed already, or its head has been read, and the request is about to begin.
        if self.transport is not None and not self._messages:
            self._reject(parse_errors.timed_out() if self._arrived else None)

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    async def _linger(self, request: web.BaseRequest) -> None:
        """Ignore the rest of the body for some time. A close with unread bytes would reset the connection."""
        source, turns = SOURCE.get() or self.quota.key, self._limiter.read_turns
        with contextlib.suppress(TimeoutError, ConnectionError, web.RequestPayloadError):
            async with asyncio.timeout(_LINGER_TIMEOUT):
                while self.transport is not None and not request.content.is_eof():
                    await turns.wait(source)
                    await request.content.readany()
                    self._arrived = 0
                    self.incoming.release()

    def _refuse(self) -> None:
        """Refuse a request that is arriving: the budget of memory is full. Later its handler does."""
        if self.stage == BUSY:
            self.abort()
        elif self.transport is not None:
            self._reject(parse_errors.busy())

    def _stop_waiting(self) -> None:
        self._limiter.memory.release(self, self.held)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _check_pace(self) -> None:
        """Close the connection of a client that takes its response too slowly."""
        if self.transport is not None and self._stall is not None:
            taken, now = self._waiting - self.transport.get_write_buffer_size(), self._loop.time()
            if self._pace.after(taken, now) <= now:
                self.abort()
            else:
                self._stall = self._loop.call_at(self._pace.due, self._check_pace)

    def _check_head(self) -> None:
        if self.stage == AWAITING and self.transport is not None:
            self._reject(parse_errors.too_large())

    def _reject(self, response: web.Response | None) -> None:
        if response is not None:
            peer = self.peername
            self._limiter.record_rejected(str(peer[0]) if isinstance(peer, tuple) else None, response)
            if self.transport is not None:
                self.transport.write(parse_errors.raw(response))
        self.force_close()


class ConnectionLimiter:
    """Allows ``total`` connections, and ``per_address`` of one address unless it is a trusted proxy."""

    def __init__(  # noqa: PLR0913, PLR0917 - the limits, and who else counts
        self,
        server: web.Server,
        total: int,
        per_address: int,
        trusted: Collection[Proxy],
        request_log: RequestLog | None = None,
        memory: MemoryBudget | None = None,
        read_turns: ReadTurns | None = None,
    ) -> None:
        self._server = server
        self._total = total
        self._per_address = per_address
        self._trusted = trusted
        self._request_log = request_log
        self.memory = MemoryBudget(sys.maxsize) if memory is None else memory
        self.read_turns = read_turns or ReadTurns()
        self._loop = asyncio.get_running_loop()
        self._quotas: dict[str, ClientQuota] = {}
        self._open = 0
        self._awaiting: dict[HttpConnection, float] = {}  # with the time of the start, oldest first
        self._idle: dict[HttpConnection, None] = {}  # oldest first
        self._late: set[HttpConnection] = set()  # at the last check
        self._warned_at = float("-inf")
        self._sweep: asyncio.TimerHandle | None = None
        server.request_factory = _setting_busy(server.request_factory)

    def open(self, quota: ClientQuota, options: Mapping[str, Any] = _OPTIONS) -> HttpConnection:
        """Return the protocol for an accepted connection."""
        return HttpConnection(self, quota, self._server, self._loop, options)

    def traffic(self) -> Traffic:
        """Count the open connections, and those that have a request, complete or in part."""
        return Traffic(self._open, self._open - len(self._idle))

    # Quotas

    def acquire(self, address: str | None) -> ClientQuota | None:
        """Count in a connection, whose address is None on a unix socket. Return None when the limit is reached."""
        quota = self._quota_of(address)
        if quota.limit is not None and quota.open >= quota.limit:
            self._warn(
                f"refusing connections of {quota.key}, which has {quota.open} open: if it is a proxy, name it with"
                " --trust-proxy; else see --address-connections"
            )
            return None
        if self._open >= self._total and not self._make_room():
            self._warn(f"refusing connections, since {self._open} are open: raise the limit of open files (ulimit -n)")
            return None
        self._quotas[quota.key] = quota
        quota.open += 1
        self._open += 1
        return quota

    def release(self, quota: ClientQuota) -> None:
        """Count out a connection."""
        self._open -= 1
        quota.open -= 1
        if not quota.open:
            self._quotas.pop(quota.key, None)

    def _quota_of(self, address: str | None) -> ClientQuota:
        key = network_of(address)
        found = self._quotas.get(key)
        if found is None:
            parsed = parse_address(address or "")
            is_free = parsed is None or is_trusted(parsed, self._trusted)
            found = ClientQuota(self, key, None if is_free else self._per_address)
        return found

    def _make_room(self) -> bool:
        """Close the connection that has been silent for longest. Return False if there is none."""
        for connection in itertools.chain(self._idle, self._awaiting):
            if connection.quota.limit is not None:
                self.set_busy(connection)
                connection.abort()
                return True
        return False

    def _warn(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._warned_at >= WARNING_INTERVAL:
            self._warned_at = now
            log.warning(reason)

    def record_rejected(self, peer: str | None, response: web.StreamResponse) -> None:
        """Record a connection or a request that was rejected before routing."""
        if self._request_log is not None:
            self._request_log.rejected(peer, response)

    # Stages

    def await_head(self, connection: HttpConnection) -> None:
        """Start the time that the head of a request has."""
        self._idle.pop(connection, None)
        self._awaiting[connection] = self._loop.time()
        connection.stage = AWAITING

    def set_idle(self, connection: HttpConnection) -> None:
        """Mark a connection whose request has been answered."""
        self._idle[connection] = None
        connection.stage = IDLE

    def remove(self, connection: HttpConnection) -> None:
        """Count out a closed connection, unless another protocol has it."""
        if connection.stage != _GONE:
            self.set_busy(connection)
            connection.stage = _GONE
            self.release(connection.quota)

    def set_busy(self, connection: HttpConnection) -> None:
        """Mark a connection as busy."""
        if connection.stage == AWAITING:
            self._awaiting.pop(connection, None)
        elif connection.stage == IDLE:
            self._idle.pop(connection, None)
        connection.stage = BUSY

    def start(self) -> None:
        """Reject late heads from now on."""
        self._sweep = self._loop.call_later(_SWEEP_INTERVAL, self.start)
        before = self._loop.time() - HEAD_TIMEOUT
        late = [*itertools.takewhile(lambda one: self._awaiting[one] <= before, self._awaiting)]
        for connection in self._late.intersection(late):
            connection.time_out()
        # The loop runs timers before it reads: the head may be here, and is read before the next check.
        self._late = {*late}

    def stop(self) -> None:
        """Stop the checks for late heads."""
        if self._sweep is not None:
            self._sweep.cancel()


def _setting_busy(make_request: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Wrap aiohttp's factory of requests so that the connection of each becomes busy."""

    def make(message: Any, payload: Any, connection: Any, writer: Any, task: Any) -> web.BaseRequest:
        connection.set_busy()
        request = make_request(message, payload, connection, writer, task)
        request[INCOMING] = connection.incoming
        return request

    return make
