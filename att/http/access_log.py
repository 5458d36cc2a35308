"""Metrics and log lines of requests: a count, a duration, and an access log if the operator wants one.

What is said here of a WebSocket also holds for a stream of server-sent events.
"""

import logging
from collections.abc import Callable
from functools import cache, partial
from time import perf_counter
from typing import Any

from aiohttp import web
from prometheus_client import Counter, Histogram

from att.core.client_address import client_address
from att.core.log_limits import OncePerInterval, RateLimited
from att.core.metrics import SECONDS
from att.errors import AttError
from att.http.client_info import client_of
from att.http.context import API_PREFIX, REQUEST_ID, SESSION
from att.protocol.frames import CloseCode

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499  # the status that is logged when the client left before the response
# Close codes of clients that are counted each (RFC 6455, section 7.4.1); a client may send any number.
CLIENTS_CODES = frozenset(range(1000, 1015))
ABNORMAL = 1006  # the connection was lost without a close frame
NO_ROUTE = "none"
_REJECTIONS = 10  # lines in a second about requests that are rejected unread: they cost a client next to nothing
_USER_AGENT_LENGTH = 200  # characters in a line

OnClose = Callable[[int | None], None]  # takes the close code: a CloseCode if it was ours, the peer's, or None

log = logging.getLogger("att")
access_log = logging.getLogger("att.access")


class RequestLog:
    """Records each request when it is answered, and each WebSocket when it is closed."""

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
        self._metrics_of = cache(self._find_metrics)  # looking labels up is slow
        self._logs_requests = logs_requests
        self._errors = OncePerInterval()
        self._rejections = RateLimited(_REJECTIONS)
        self._count_close = self._closed  # one bound method for all WebSockets

    def answered(self, request: web.Request, response: web.StreamResponse | None, seconds: float) -> None:
        """Record a request; there is no response if the client has gone. A WebSocket is logged when it is closed."""
        method, status = request.method, CLIENT_GONE if response is None else response.status
        count, durations = self._metrics_of(_route_of(request), method if method in METHODS else "other", status)
        count.inc()
        durations.observe(seconds)
        if not self._logs_requests:
            return
        if _DETACHED in request:
            request[_DETACHED]["status"] = status
        else:
            access_log.info("request", extra=_facts(request) | {"status": status, "ms": _ms(seconds)})

    def rejected(self, peer: str | None, response: web.StreamResponse) -> None:
        """Record a request that was rejected before routing; only the peer's address is known."""
        self.refusals.labels(response.status).inc()
        skipped = self._rejections.passes() if self._logs_requests else None
        if skipped is not None:
            facts = dict.fromkeys(("user_id", "method", "route", "user_agent", "ms"))
            known = {"request_id": response.headers.get("X-Request-ID"), "status": response.status}
            more = {"untold": skipped} if skipped else {}
            access_log.info("request", extra=facts | known | {"address": client_address(peer, (), ())} | more)

    def on_close(self, request: web.Request) -> OnClose:
        """Return the callback for the end of the WebSocket that this request becomes."""
        if not self._logs_requests:
            return self._count_close
        facts = request[_DETACHED] = _facts(request)
        return partial(self._log_close, facts, perf_counter())

    def _find_metrics(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        route = route or NO_ROUTE
        return self.requests.labels(route, method, status), self.durations.labels(route, method)

    def _closed(self, code: int | None) -> None:
        known = ABNORMAL if code is None else code
        is_known = isinstance(code, CloseCode) or known in CLIENTS_CODES
        self.closes.labels(int(known) if is_known else "other").inc()

    def _log_close(self, facts: dict[str, Any], start: float, code: int | None) -> None:
        self._closed(code)
        end = {"ms": _ms(perf_counter() - start), "close_code": ABNORMAL if code is None else int(code)}
        access_log.info("request", extra=facts | end)

    def unavailable(self, request: web.Request, error: AttError) -> None:
        """Log a response with status 503. Errors of one kind share a line."""
        skipped = self._errors.passes(error.code)
        if skipped is not None:
            why = "" if error.why == error.detail else f" ({error.why})"
            log.warning("%s is answered 503 %s%s%s", _describe(request), error.code, why, _and_more(skipped))

    def failed(self, request: web.Request, error: Exception) -> None:
        """Log a response with status 500 and its traceback. Errors of one kind share a line."""
        skipped = self._errors.passes((_route_of(request), type(error)))
        if skipped is not None:
            log.error("%s failed%s", _describe(request), _and_more(skipped), exc_info=error)


REQUEST_LOG = web.AppKey("request_log", RequestLog)
_DETACHED: web.RequestKey[dict[str, Any]] = web.RequestKey("detached", dict)  # facts of a request that is logged later


def _route_of(request: web.Request) -> str:
    """Return the route as the table has it, "" if there is none: the path itself may contain anything."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical.removeprefix(API_PREFIX)


def _describe(request: web.Request) -> str:
    method = request.method if request.method in METHODS else "other"
    return f"request {request[REQUEST_ID]}: {method} {_route_of(request) or 'without a route'}"


def _and_more(skipped: int) -> str:
    return f", and {skipped} more since the last such line" if skipped else ""


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
