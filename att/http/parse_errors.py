"""Limits of a request's head, and responses to requests that reach no handler: too large, too slow, not HTTP."""

import re
from secrets import token_hex

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from att.errors import Busy
from att.http.problems import problem, problem_of
from att.http.security_headers import add_security_headers

HEAD_TIMEOUT = 10.0  # seconds for a head, from the start of the connection, later from the head's first byte
HEAD_LIMIT = 64 * 1024  # bytes of a head
LINE_LIMIT = 8 * 1024  # bytes of its first line
FIELD_LIMIT = 16 * 1024  # bytes of a header; it must differ from LINE_LIMIT to tell the parser's errors apart
FIELDS = 100  # headers

# Details by the beginning of the parser's message, whose rest may contain input.
_DETAILS = {
    "Missing 'Host' header": "A request of HTTP/1.1 needs a Host header (RFC 9112, section 3.2).",
    "Duplicate 'Host' header": "A request may have no more than one Host header (RFC 9112, section 3.2).",
    "Invalid method": "The request does not begin with a method that the server supports (RFC 9110, section 9).",
}
_UNKNOWN_METHOD = re.compile(r"(Bad status line:\s+)?Invalid method .* HTTP/1\.[01]['\"]$", re.DOTALL | re.MULTILINE)


def too_many() -> web.Response:
    """Return the response to a connection above the limits."""
    return _last(problem(503, "too many connections", "Too many connections are open. Try again in a moment."))


def timed_out() -> web.Response:
    """Return the response to a head that does not arrive in time."""
    return _last(problem(408, "request timeout", f"The head of the request took longer than {HEAD_TIMEOUT:.0f} s."))


def busy() -> web.Response:
    """Return the response to a request that was still arriving when memory was short."""
    return _last(problem_of(Busy()))


def too_large() -> web.Response:
    """Return the response to headers that are too large."""
    detail = f"A request may have {FIELDS} headers of {FIELD_LIMIT} bytes each, and {HEAD_LIMIT} together."
    return _last(problem(431, "headers too large", detail))


def unreadable(error: HttpProcessingError) -> web.Response:
    """Return the response to a head that the parser rejects."""
    if isinstance(error, LineTooLong) and LINE_LIMIT in error.args:
        return _last(problem(414, "address too long", f"The first line of a request may have {LINE_LIMIT} bytes."))
    if isinstance(error, LineTooLong) or error.message.startswith("Too many headers"):
        return too_large()
    if _UNKNOWN_METHOD.match(error.message):
        return _last(problem(501, "not implemented", "The server does not support this method (RFC 9110, section 9)."))
    details = (detail for beginning, detail in _DETAILS.items() if error.message.startswith(beginning))
    return _last(problem(400, "malformed", next(details, "This is not HTTP/1.1 (RFC 9112).")))


def fault() -> web.Response:
    """Return the response to a failure outside of the middleware."""
    return _last(problem(500, "internal error", "This is a fault of the server."))


def raw(response: web.Response) -> bytes:
    """Return the bytes of a response."""
    body = (response.text or "").encode()
    head = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{k}: {v}" for k, v in response.headers.items())]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _last(response: web.Response) -> web.Response:
    """Add the headers of every response, and close the connection after it."""
    response.headers["X-Request-ID"] = token_hex(16)
    add_security_headers(response.headers, is_shared=False, is_https=False)
    response.headers["Connection"] = "close"
    if response.status == 503:
        response.headers["Retry-After"] = "1"
    response.force_close()
    return response
