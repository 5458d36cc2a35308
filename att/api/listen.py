"""The WebSocket that delivers the events of a user's groups."""

from aiohttp import web

from att import errors
from att.api.keys import LISTEN_ENDPOINT
from att.api.query_schemas import ListenQuery
from att.api.route import Route
from att.core.permissions import Who
from att.http.requests import read_query


async def listen(request: web.Request) -> web.StreamResponse:
    """Listen to one's groups on a WebSocket, to all or to the given ones."""
    return await request.app[LISTEN_ENDPOINT].serve(request, read_query(request, ListenQuery).group)


LISTEN_ROUTES = (
    Route(
        "GET /listen/{user_id}",
        listen,
        Who.ONESELF,
        responses={101: None},
        query=ListenQuery,
        errors=(errors.UpgradeRequired, errors.NoSuchGroup, errors.NotAMember),
        section="realtime",
        upgrades=True,
    ),
)
