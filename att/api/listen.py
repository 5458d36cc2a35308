"""The WebSocket that delivers the events of a user's groups."""

from aiohttp import web

from att import errors
from att.api.keys import LISTEN_ENDPOINT
from att.api.route import Route
from att.core.permissions import Who


async def listen(request: web.Request) -> web.StreamResponse:
    """Listen to one's groups on a WebSocket."""
    return await request.app[LISTEN_ENDPOINT].serve(request)


LISTEN_ROUTES = (
    Route(
        "GET /listen/{user_id}",
        listen,
        Who.ONESELF,
        responses={101: None},
        errors=(errors.UpgradeRequired,),
        section="realtime",
        upgrades=True,
    ),
)
