"""Which pages of other origins get to see our answers (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

None, unless the operator names their origin: then just that one, with its credentials.
"""

from collections.abc import Mapping

from aiohttp import hdrs, web
from multidict import CIMultiDict

from att.http.context import SETTINGS

REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Request-ID"
ANSWER_HEADERS = "ETag, Link, Location, Retry-After, X-Request-ID"
MAX_AGE = 7200  # seconds for which a browser need not ask again; more no browser takes


def share(request: web.Request, headers: CIMultiDict[str]) -> bool:
    """Let the page that asks see the answer, if its origin is allowed. Whether it is.

    Errors too, for a page that is not let see them can tell its user nothing.
    """
    allowed = request.app[SETTINGS].allow_origin
    if not allowed:
        return False
    headers.add(hdrs.VARY, hdrs.ORIGIN)
    origin = request.headers.get(hdrs.ORIGIN)
    if origin not in allowed:
        return False
    headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
    headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ANSWER_HEADERS
    return True


def preflight(request: web.Request, methods: str) -> Mapping[str, str]:
    """What a browser that asks beforehand whether its page may send a request is told besides; others nothing."""
    is_allowed = request.headers.get(hdrs.ORIGIN) in request.app[SETTINGS].allow_origin
    if not is_allowed or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(MAX_AGE),
    }
