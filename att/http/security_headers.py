"""Security headers of every response."""

from aiohttp import hdrs
from multidict import CIMultiDict, istr

_CONTENT_SECURITY_POLICY = istr("Content-Security-Policy")
STRICT_TRANSPORT_SECURITY = istr("Strict-Transport-Security")
RESOURCE_POLICY = istr("Cross-Origin-Resource-Policy")

YEAR = 365 * 24 * 3600  # seconds for which a browser keeps using https
# Built once for all responses.
_ALWAYS = CIMultiDict(
    {istr("X-Content-Type-Options"): "nosniff", istr("X-Frame-Options"): "DENY", istr("Referrer-Policy"): "no-referrer"}
)
_POLICY = "default-src 'none'; frame-ancestors 'none'"  # not a page: loads nothing, and no page may frame it
_LASTING = f"max-age={YEAR}"


def add_security_headers(headers: CIMultiDict[str], *, is_shared: bool, is_https: bool) -> None:
    """Add the security headers to a response's. Its own Content-Security-Policy stays.

    ``is_shared`` is True if a page of an allowed other origin may read the response.
    """
    headers.extend(_ALWAYS)
    headers.pop(hdrs.SERVER, None)  # it names versions
    headers.setdefault(_CONTENT_SECURITY_POLICY, _POLICY)
    headers[RESOURCE_POLICY] = "cross-origin" if is_shared else "same-origin"
    if is_https:
        headers[STRICT_TRANSPORT_SECURITY] = _LASTING
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
