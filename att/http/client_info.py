"""Who sends a request, as far as it is told by the connection and by headers that anyone may write."""

from functools import lru_cache

from aiohttp import web
from multidict import istr

from att.core.client_address import Proxy, client_address, is_trusted, parse_address
from att.http.context import SETTINGS
from att.sessions.store import ClientInfo

FORWARDED_PROTO = istr("X-Forwarded-Proto")
_USER_AGENT_LENGTH = 512  # characters of User-Agent that are kept


def client_of(request: web.Request) -> ClientInfo:
    """The client: an address that it cannot forge, and what it calls itself."""
    forwarded = request.headers.getall("X-Forwarded-For", ())
    address = client_address(request.remote, forwarded, request.app[SETTINGS].trust_proxy)
    return ClientInfo(address, _printable(request.headers.get("User-Agent", "")) or None)


def is_https(request: web.Request) -> bool:
    """Whether the client speaks https, to us or to a proxy that we trust."""
    if request.secure:
        return True
    scheme = request.headers.get(FORWARDED_PROTO)
    if scheme is None or not _is_proxy(request.remote, request.app[SETTINGS].trust_proxy):
        return False
    return scheme.partition(",")[0].strip().lower() == "https"


@lru_cache(maxsize=1024)
def _is_proxy(peer: str | None, trusted: frozenset[Proxy]) -> bool:
    """Whether the other end of a connection is a proxy that we trust: it is asked for each request."""
    return is_trusted(parse_address(peer or ""), trusted)


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_USER_AGENT_LENGTH]
