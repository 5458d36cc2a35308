"""Information about the client of a request, from its connection and headers."""

from contextlib import suppress
from functools import lru_cache

from aiohttp import web
from multidict import istr

from att.config.parsers import parse_path_prefix
from att.core.client_address import Proxy, client_address, is_trusted, network_of, parse_address
from att.http.context import SETTINGS
from att.sessions.store import ClientInfo

FORWARDED_PROTO = istr("X-Forwarded-Proto")
FORWARDED_PREFIX = istr("X-Forwarded-Prefix")
_USER_AGENT_LENGTH = 512  # characters of User-Agent that are stored


def client_of(request: web.Request) -> ClientInfo:
    """Return the client's address, which it cannot forge, and its User-Agent."""
    forwarded = request.headers.getall("X-Forwarded-For", ())
    address = client_address(request.remote, forwarded, request.app[SETTINGS].trust_proxy)
    return ClientInfo(address, _printable(request.headers.get("User-Agent", "")) or None)


def network_of_client(request: web.Request) -> str:
    """Return the key of the client's address, which stands for it until it is known who asks."""
    if "X-Forwarded-For" in request.headers:
        return network_of(client_of(request).address)
    return _network_of_peer(request.remote)


_network_of_peer = lru_cache(maxsize=1024)(network_of)  # since each request needs it


def is_https(request: web.Request) -> bool:
    """Return True if the client uses https, to the server or to a trusted proxy."""
    if request.secure:
        return True
    scheme = request.headers.get(FORWARDED_PROTO)
    if scheme is None or not _is_proxy(request.remote, request.app[SETTINGS].trust_proxy):
        return False
    return scheme.partition(",")[0].strip().lower() == "https"


def path_prefix(request: web.Request) -> str:
    """Return the path below which a proxy serves the API: as a trusted one says, else the setting. "" is the root."""
    settings = request.app[SETTINGS]
    given = request.headers.get(FORWARDED_PREFIX)
    if given is not None and _is_proxy(request.remote, settings.trust_proxy):
        with suppress(ValueError):
            return parse_path_prefix(given.partition(",")[0].strip())
    return settings.path_prefix


@lru_cache(maxsize=1024)
def _is_proxy(peer: str | None, trusted: frozenset[Proxy]) -> bool:
    """Return True if the peer is a trusted proxy. Cached, since each request needs it."""
    return is_trusted(parse_address(peer or ""), trusted)


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_USER_AGENT_LENGTH]
