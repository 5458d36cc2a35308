"""What is kept of each request: a count, how long it took, and a line in the log if the operator wants one."""

import logging
from collections.abc import Callable
from functools import cache, partial
from http import HTTPStatus
from time import perf_counter
from typing import Any

from aiohttp import web
from prometheus_client import Counter, Histogram

from att.core.client_address import client_address
from att.core.log_limits import OncePerInterval, RateLimited
from att.core.metrics import SECONDS
from att.errors import AttError
from att.http.client_info import client_of
from att.http.context import REQUEST_ID, SESSION
from att.protocol.frames import CloseCode

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499  # what is told in the place of a status when nobody was left to answer
# What a client may close with and be counted by (RFC 6455, section 7.4.1); it may send any number.
CLIENTS_CODES = frozenset(range(1000, 1015))
ABNORMAL = 1006  # it was lost without a word
NO_ROUTE = "none"
_REFUSALS = 10  # lines in a second about requests that are refused unread: a client pays next to nothing for one
_USER_AGENT_LENGTH = 200  # characters in a line

OnClose = Callable[[int | None], None]  # with the close code: a CloseCode if it was ours, the peer's, or None

log = logging.getLogger("att")
access_log = logging.getLogger("att.access")


class RequestLog:
    """Sees each request when it is answered, and each WebSocket when it is closed."""

    def __init__(self, *, logs_requests: bool = False) -> None:
        self.requests = Counter(
            "att_http_requests", "Requests that were answered.", ("route", "method", "status"), registry=None
        )
        self.durations = Histogram(
            "att_http_request_duration_seconds",
            "Time to answer a request.",
            ("route", "method"),
            buckets=SECONDS,
            registry=None,
        )
        self.refusals = Counter(
            "att_http_refusals", "Requests refused before their route was known.", ("status",), registry=None
        )
        self.closes = Counter(
            "att_socket_closes", "WebSockets that were closed, by close code.", ("code",), registry=None
        )
        self._metrics_of = cache(self._find_metrics)  # labels() is slow
        self._logs_requests = logs_requests
        self._seldom = OncePerInterval()
        self._ration = RateLimited(_REFUSALS)
        self._farewell = self._closed  # made once, for all of many sockets

    def answered(self, request: web.Request, response: web.StreamResponse | None, seconds: float) -> None:
        """It took so long; there is no response when the client has gone. Of a WebSocket the line comes at its end."""
        method, status = request.method, CLIENT_GONE if response is None else response.status
        count, durations = self._metrics_of(_route_of(request), method if method in METHODS else "other", status)
        count.inc()
        durations.observe(seconds)
        if self._logs_requests and status != HTTPStatus.SWITCHING_PROTOCOLS:
            access_log.info("request", extra=_facts(request) | {"status": status, "ms": _ms(seconds)})

    def refused(self, peer: str | None, response: web.StreamResponse) -> None:
        """It was answered before its route was known: of it there is no more than the other end of its connection."""
        self.refusals.labels(response.status).inc()
        untold = self._ration.passes() if self._logs_requests else None
        if untold is not None:
            facts = dict.fromkeys(("user_id", "method", "route", "user_agent", "ms"))
            told = {"request_id": response.headers.get("X-Request-ID"), "status": response.status}
            more = {"untold": untold} if untold else {}
            access_log.info("request", extra=facts | told | {"address": client_address(peer, (), ())} | more)

    def farewell(self, request: web.Request) -> OnClose:
        """What to call when the WebSocket that this request becomes is closed."""
        if not self._logs_requests:
            return self._farewell
        return partial(self._closed_with_a_line, _facts(request), perf_counter())

    def _find_metrics(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        route = route or NO_ROUTE
        return self.requests.labels(route, method, status), self.durations.labels(route, method)

    def _closed(self, code: int | None) -> None:
        known = ABNORMAL if code is None else code
        is_known = isinstance(code, CloseCode) or known in CLIENTS_CODES
        self.closes.labels(int(known) if is_known else "other").inc()

    def _closed_with_a_line(self, facts: dict[str, Any], begun: float, code: int | None) -> None:
        self._closed(code)
        told = {"status": 101, "ms": _ms(perf_counter() - begun), "close_code": ABNORMAL if code is None else int(code)}
        access_log.info("request", extra=facts | told)

    def unavailable(self, request: web.Request, error: AttError) -> None:
        """It is answered with 503 because of this error. Of many of one kind there is one line in the log."""
        untold = self._seldom.passes(error.code)
        if untold is not None:
            why = "" if error.why == error.detail else f" ({error.why})"
            log.warning("%s is answered 503 %s%s%s", _describe(request), error.code, why, _and_more(untold))

    def failed(self, request: web.Request, error: Exception) -> None:
        """It is answered with 500 because of this error. Of many there is one line in the log, with its traceback."""
        untold = self._seldom.passes((_route_of(request), type(error)))
        if untold is not None:
            log.error("%s failed%s", _describe(request), _and_more(untold), exc_info=error)


REQUEST_LOG = web.AppKey("observer", RequestLog)


def _route_of(request: web.Request) -> str:
    """The route as the table has it, "" if there is none: in the path itself there may be anything."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def _describe(request: web.Request) -> str:
    method = request.method if request.method in METHODS else "other"
    return f"request {request[REQUEST_ID]}: {method} {_route_of(request) or 'of no route'}"


def _and_more(untold: int) -> str:
    return f", as were {untold} more since this was last told" if untold else ""


def _facts(request: web.Request) -> dict[str, Any]:
    client, session = client_of(request), request.get(SESSION)
    return {
        "request_id": request[REQUEST_ID],
        "user_id": None if session is None else str(session.user_id),
        "method": request.method if request.method in METHODS else "other",
        "route": _route_of(request) or None,
        "address": client.address,
        "user_agent": client.user_agent and client.user_agent[:_USER_AGENT_LENGTH],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
