"""The open connections: how many each address has, and which of them have yet to send a request.

aiohttp waits for ever for the head of a request; here it has ``HEAD_TIMEOUT`` to arrive.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from att.accounts.rate_limits import network_of
from att.core.client_address import Proxy, is_trusted, parse_address
from att.http import parse_errors
from att.http.access_log import RequestLog
from att.http.parse_errors import FIELD_LIMIT, FIELDS, HEAD_LIMIT, HEAD_TIMEOUT, LINE_LIMIT
from att.http.problems import problem_of_http

IDLE_TIMEOUT = 3_630.0  # seconds for which a connection is kept alive: longer than any proxy does
_SWEEP_INTERVAL = 1.0  # seconds between looks for heads that are late
COMPLAINT_INTERVAL = 60.0  # seconds between lines in the log about connections that are refused

# Of aiohttp's handler; None is how to have no log of its own.
LIMITS: Mapping[str, Any] = {"max_line_size": LINE_LIMIT, "max_field_size": FIELD_LIMIT, "max_headers": FIELDS}
_OPTIONS: Mapping[str, Any] = {**LIMITS, "keepalive_timeout": IDLE_TIMEOUT, "access_log": None}

NEW, AWAITING, BUSY, IDLE, _GONE = range(5)  # what a connection is at; AWAITING the head of a request

log = logging.getLogger("att")


class Traffic(NamedTuple):
    """How many connections are open, and on how many of them there is more than silence."""

    open: int = 0
    busy: int = 0


class ClientQuota:
    """An address, or a network of IPv6, how many connections it has open, and how many it may have."""

    __slots__ = ("_book", "key", "limit", "open")

    def __init__(self, book: "ConnectionLimiter", key: str, limit: int | None) -> None:
        self._book = book
        self.key = key
        self.limit = limit
        self.open = 0

    def leave(self) -> None:
        """One of its connections is closed."""
        self._book.leave(self)


class HttpConnection(web.RequestHandler):
    """One connection of HTTP, which belongs to a caller."""

    __slots__ = ("_book", "_head", "caller", "stage")

    def __init__(
        self,
        book: "ConnectionLimiter",
        caller: ClientQuota,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(server, loop=loop, **options)
        self._book = book
        self._head = 0
        self.caller = caller
        self.stage = NEW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._book.await_head(self)

    def data_received(self, data: bytes) -> None:
        if self.stage == BUSY:
            super().data_received(data)
            return
        if self.stage == IDLE and data:
            self._head = 0
            self._book.await_head(self)
        super().data_received(data)
        self._head += len(data)
        if self._head > HEAD_LIMIT:
            # A body counts as well until its request is begun; by then it has been, if the head was whole.
            self._loop.call_soon(self._check_head)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._book.forget(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Answer. An error that was raised where no middleware is comes as a problem, too."""
        if not isinstance(resp, web.HTTPException):
            return await super().finish_response(request, resp, start_time)
        finished = await super().finish_response(request, problem_of_http(resp), start_time)
        self._book.refused(request.remote, finished[0])
        return finished

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """A request has been answered."""
        super().log_access(request, response, time)
        if self.stage == _GONE:
            return
        if request.content.is_eof():
            self._book.rest(self)
        else:
            response.force_close()  # what is still to come is its body, and no new head

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, and to what no middleware has answered."""
        if isinstance(exc, HttpProcessingError):
            refusal = parse_errors.unreadable(exc)
            self._refuse(refusal)  # aiohttp would answer as HTTP/1.0, and tell its version
            return refusal
        super().handle_error(request, status, exc, message)
        return parse_errors.fault()

    def begin(self) -> None:
        """The head of a request has arrived."""
        self._book.begin(self)

    def hand_over(self) -> ClientQuota:
        """Another protocol takes over: it tells the caller when it is closed."""
        self.stage = _GONE
        return self.caller

    def give_up(self) -> None:
        """Its head has not arrived in time. Whoever has sent nothing at all is not told."""
        if self.transport is not None:  # else it has been given up, and what it was told is still on its way
            self._refuse(parse_errors.timed_out() if self._head else None)

    def abort(self) -> None:
        """Close it at once."""
        if self.transport is not None:
            self.transport.abort()

    def _check_head(self) -> None:
        if self.stage == AWAITING and self.transport is not None:
            self._refuse(parse_errors.too_large())

    def _refuse(self, refusal: web.Response | None) -> None:
        if refusal is not None:
            peer = self.peername
            self._book.refused(str(peer[0]) if isinstance(peer, tuple) else None, refusal)
            if self.transport is not None:
                self.transport.write(parse_errors.raw(refusal))
        self.force_close()


class ConnectionLimiter:
    """All of them: there may be ``total``, and ``of_address`` of one address, unless it is a proxy that is trusted."""

    def __init__(
        self,
        server: web.Server,
        total: int,
        of_address: int,
        trusted: Collection[Proxy],
        observer: RequestLog | None = None,
    ) -> None:
        self._server = server
        self._total = total
        self._of_address = of_address
        self._trusted = trusted
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._callers: dict[str, ClientQuota] = {}
        self._open = 0
        self._awaiting: dict[HttpConnection, float] = {}  # since when, the longest first
        self._idle: dict[HttpConnection, None] = {}  # the longest first
        self._complained = float("-inf")
        self._sweeping: asyncio.TimerHandle | None = None
        server.request_factory = _telling(server.request_factory)

    def open(self, caller: ClientQuota, options: Mapping[str, Any] = _OPTIONS) -> HttpConnection:
        """A connection of somebody who was admitted: the protocol of a transport."""
        return HttpConnection(self, caller, self._server, self._loop, options)

    def traffic(self) -> Traffic:
        """How many are open, and on how many there is a request, whole or in part."""
        return Traffic(self._open, self._open - len(self._idle))

    # Who may come in

    def admit(self, address: str | None) -> ClientQuota | None:
        """Count in a connection from there, None for a unix socket. None when it is one too many."""
        caller = self._caller(address)
        if caller.limit is not None and caller.open >= caller.limit:
            self._complain(
                f"connections of {caller.key} are refused, for it has {caller.open}: if it is a proxy, name it with"
                " --trust-proxy; else see --address-connections"
            )
            return None
        if self._open >= self._total and not self._make_room():
            self._complain(f"connections are refused, for there are {self._open}: let there be more files (ulimit -n)")
            return None
        self._callers[caller.key] = caller
        caller.open += 1
        self._open += 1
        return caller

    def leave(self, caller: ClientQuota) -> None:
        """Count a connection out."""
        self._open -= 1
        caller.open -= 1
        if not caller.open:
            self._callers.pop(caller.key, None)

    def _caller(self, address: str | None) -> ClientQuota:
        key = network_of(address)
        found = self._callers.get(key)
        if found is None:
            parsed = parse_address(address or "")
            is_free = parsed is None or is_trusted(parsed, self._trusted)
            found = ClientQuota(self, key, None if is_free else self._of_address)
        return found

    def _make_room(self) -> bool:
        """Close the one that has been silent for longest. Whether there was one."""
        for connection in itertools.chain(self._idle, self._awaiting):
            if connection.caller.limit is not None:
                self._out_of_stage(connection)
                connection.abort()
                return True
        return False

    def _complain(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            log.warning(reason)

    def refused(self, peer: str | None, response: web.StreamResponse) -> None:
        """It was answered without being read, or let in."""
        if self._observer is not None:
            self._observer.refused(peer, response)

    # What they are at

    def await_head(self, connection: HttpConnection) -> None:
        """The head of a request is to arrive from now on."""
        self._idle.pop(connection, None)
        self._awaiting[connection] = self._loop.time()
        connection.stage = AWAITING

    def rest(self, connection: HttpConnection) -> None:
        """A request has been answered, and no other has come."""
        self._idle[connection] = None
        connection.stage = IDLE

    def begin(self, connection: HttpConnection) -> None:
        """A request is there."""
        self._out_of_stage(connection)

    def forget(self, connection: HttpConnection) -> None:
        """It is closed."""
        if connection.stage != _GONE:  # else it was handed over
            self._out_of_stage(connection)
            connection.stage = _GONE
            self.leave(connection.caller)

    def _out_of_stage(self, connection: HttpConnection) -> None:
        if connection.stage == AWAITING:
            self._awaiting.pop(connection, None)
        elif connection.stage == IDLE:
            self._idle.pop(connection, None)
        connection.stage = BUSY

    def start(self) -> None:
        """Look from now on for heads that are late."""
        self._sweeping = self._loop.call_later(_SWEEP_INTERVAL, self.start)
        before = self._loop.time() - HEAD_TIMEOUT
        for connection in [*itertools.takewhile(lambda one: self._awaiting[one] <= before, self._awaiting)]:
            connection.give_up()

    def stop(self) -> None:
        """Look no more."""
        if self._sweeping is not None:
            self._sweeping.cancel()


def _telling(make_request: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """What makes a request of each head, and tells the connection that it has come."""

    def make(message: Any, payload: Any, connection: Any, writer: Any, task: Any) -> web.BaseRequest:
        connection.begin()
        return make_request(message, payload, connection, writer, task)

    return make
