"""The WebSocket on which a user hears their groups."""

from aiohttp import web

from att import errors
from att.api.keys import LISTEN_ENDPOINT
from att.api.route import Route, Shapes
from att.core.permissions import Who


async def listen(request: web.Request) -> web.StreamResponse:
    """Listen, on a WebSocket, to every broadcast to one's groups."""
    return await request.app[LISTEN_ENDPOINT].serve(request)


LISTEN_ROUTES = (
    Route(
        "GET",
        "/listen/{user_id}",
        listen,
        Who.ONESELF,
        "Hear one's groups, on a WebSocket",
        Shapes(answers={101: None}, errors=(errors.UpgradeRequired,)),
        upgrades=True,
    ),
)
