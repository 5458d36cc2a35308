"""Who sends a request, as far as it is told by the connection and by headers that anyone may write."""

from aiohttp import web

from att.keys import SETTINGS
from att.proxies import client_address
from att.sessions import Client
from att.throttle import Throttle

THROTTLE = web.AppKey("throttle", Throttle)

USER_AGENT_LENGTH = 512  # characters of User-Agent that are kept


def client_of(request: web.Request) -> Client:
    """The client: an address that it cannot forge, and what it calls itself."""
    forwarded = request.headers.getall("X-Forwarded-For", ())
    address = client_address(request.remote, forwarded, request.app[SETTINGS].trust_proxy)
    return Client(address, _printable(request.headers.get("User-Agent", "")) or None)


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:USER_AGENT_LENGTH]
