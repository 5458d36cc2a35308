"""What every answer tells a browser, so that no page makes of it what it is not."""

from aiohttp import hdrs
from multidict import CIMultiDict, istr

_CONTENT_SECURITY_POLICY = istr("Content-Security-Policy")
STRICT_TRANSPORT_SECURITY = istr("Strict-Transport-Security")
RESOURCE_POLICY = istr("Cross-Origin-Resource-Policy")

YEAR = 365 * 24 * 3600  # seconds for which a browser remembers to come by https
# Taken as they are for every answer: nothing is made anew.
_ALWAYS = CIMultiDict(
    {
        istr("X-Content-Type-Options"): "nosniff",
        istr("X-Frame-Options"): "DENY",
        istr("Referrer-Policy"): "no-referrer",
    }
)
_POLICY = "default-src 'none'; frame-ancestors 'none'"  # of what is no page: it loads nothing, and stands in no frame
_LASTING = f"max-age={YEAR}"


def add_security_headers(headers: CIMultiDict[str], *, is_shared: bool, is_https: bool) -> None:
    """Add them to those of an answer. A page's own Content-Security-Policy stays.

    ``is_shared`` is whether a page of another origin, which is allowed to, has asked; ``is_https`` whether it came by
    https.
    """
    headers.extend(_ALWAYS)
    headers.pop(hdrs.SERVER, None)  # it would tell which versions run here
    headers.setdefault(_CONTENT_SECURITY_POLICY, _POLICY)
    headers[RESOURCE_POLICY] = "cross-origin" if is_shared else "same-origin"
    if is_https:
        headers[STRICT_TRANSPORT_SECURITY] = _LASTING
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
