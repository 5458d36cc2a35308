"""CORS (https://fetch.spec.whatwg.org/#http-cors-protocol): show responses to pages of the origins that are allowed.

Only origins that the operator names are allowed, with credentials.
"""

from collections.abc import Mapping

from aiohttp import hdrs, web
from multidict import CIMultiDict

from att.http.context import SETTINGS
from att.http.credentials import origin_of

REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Request-ID"
ANSWER_HEADERS = "ETag, Link, Location, Retry-After, X-Request-ID"
MAX_AGE = 7200  # seconds for which a browser caches a preflight; no browser accepts more


def share(request: web.Request, headers: CIMultiDict[str]) -> bool:
    """Show the response to the page if its origin is allowed; return True if so. Errors are shown, too."""
    allowed = request.app[SETTINGS].allow_origin
    if not allowed:
        return False
    headers.add(hdrs.VARY, hdrs.ORIGIN)
    if origin_of(request) not in allowed:
        return False
    headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
    headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
    headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ANSWER_HEADERS
    return True


def preflight(request: web.Request, methods: str) -> Mapping[str, str]:
    """Return the headers of the response to a preflight from an allowed origin, else none."""
    is_allowed = origin_of(request) in request.app[SETTINGS].allow_origin
    if not is_allowed or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(MAX_AGE),
    }
