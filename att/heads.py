"""The limits of a request's head, and what is answered where no handler is reached: too large, too slow, no HTTP."""

from secrets import token_hex

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from att.security_headers import add_security_headers
from att.web import problem

HEAD_TIMEOUT = 10.0  # seconds for a head to arrive, from the connection's start, later from the head's first byte
HEAD_LIMIT = 64 * 1024  # bytes of a head
LINE_LIMIT = 8 * 1024  # bytes of its first line
FIELD_LIMIT = 16 * 1024  # bytes of a header; another number than LINE_LIMIT, by which the parser's complaint is told
FIELDS = 100  # headers


def too_many() -> web.Response:
    """The answer to a connection that is one too many."""
    return _last(problem(503, "too many connections", "Too many connections are open. Try again in a moment."))


def timed_out() -> web.Response:
    """The answer to a head that does not arrive."""
    return _last(problem(408, "request timeout", f"The head of the request took longer than {HEAD_TIMEOUT:.0f} s."))


def too_large() -> web.Response:
    """The answer to a head that is too large, but for its first line."""
    detail = f"A request may have {FIELDS} headers of {FIELD_LIMIT} bytes each, and {HEAD_LIMIT} together."
    return _last(problem(431, "headers too large", detail))


def unreadable(error: HttpProcessingError) -> web.Response:
    """The answer to a head that the parser refuses."""
    if isinstance(error, LineTooLong) and LINE_LIMIT in error.args:
        return _last(problem(414, "address too long", f"The first line of a request may have {LINE_LIMIT} bytes."))
    if isinstance(error, LineTooLong) or error.message.startswith("Too many headers"):
        return too_large()
    return _last(problem(400, "malformed", "This is not HTTP/1.1 (RFC 9112)."))


def fault() -> web.Response:
    """The answer when there can be no other."""
    return _last(problem(500, "internal error", "This is a fault of ours."))


def raw(response: web.Response) -> bytes:
    """An answer as it goes over the wire."""
    body = (response.text or "").encode()
    head = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{k}: {v}" for k, v in response.headers.items())]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _last(response: web.Response) -> web.Response:
    """With what every answer bears; the connection is closed after it."""
    response.headers["X-Request-ID"] = token_hex(16)
    add_security_headers(response.headers, is_shared=False, is_https=False)
    response.headers["Connection"] = "close"
    if response.status == 503:
        response.headers["Retry-After"] = "1"
    response.force_close()
    return response
