"""Who sends a request, as far as it is told by the connection and by headers that anyone may write."""

from functools import lru_cache

from aiohttp import web
from multidict import istr

from att.keys import SETTINGS
from att.proxies import Proxy, client_address, is_trusted, parse_address
from att.sessions import Client
from att.throttle import Throttle

THROTTLE = web.AppKey("throttle", Throttle)

FORWARDED_PROTO = istr("X-Forwarded-Proto")
USER_AGENT_LENGTH = 512  # characters of User-Agent that are kept


def client_of(request: web.Request) -> Client:
    """The client: an address that it cannot forge, and what it calls itself."""
    forwarded = request.headers.getall("X-Forwarded-For", ())
    address = client_address(request.remote, forwarded, request.app[SETTINGS].trust_proxy)
    return Client(address, _printable(request.headers.get("User-Agent", "")) or None)


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
    return "".join(character for character in text if character.isprintable())[:USER_AGENT_LENGTH]
