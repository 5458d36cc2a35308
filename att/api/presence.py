"""Presence: the users who are connected."""

from aiohttp import web

from att import errors
from att.api import schemas
from att.api.auth import path_user
from att.api.keys import GROUP, PRESENCE
from att.api.route import EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Permission, Who
from att.http.requests import read_query, read_window
from att.http.responses import respond, respond_page
from att.http.schemas import PageOut, PageQuery
from att.realtime.presence import PRESENT_IN_GROUP


async def group_presence(request: web.Request) -> web.Response:
    """List the members who are connected, to whichever server."""
    window = read_window(read_query(request, PageQuery), PRESENT_IN_GROUP.order)
    page = await request.app[PRESENCE].in_group(request[GROUP].id, window)
    return respond_page(request, page, schemas.PresentOut)


async def user_presence(request: web.Request) -> web.Response:
    """Return since when and by how many sockets a user is connected, to whichever server."""
    return respond(schemas.PresenceOut.model_validate(await request.app[PRESENCE].of_user(path_user(request))))


PRESENCE_ROUTES = (
    Route(
        "GET /groups/{group}/presence",
        group_presence,
        Who.MEMBER,
        Permission.GROUPS_READ,
        query=PageQuery,
        responses={200: PageOut[schemas.PresentOut]},
    ),
    Route(
        "GET /users/{user_id}/presence",
        user_presence,
        Who.ONESELF,
        Permission.USERS_READ,
        responses={200: schemas.PresenceOut},
        errors=(errors.NoSuchUser,),
    ),
)

PRESENCE_EXAMPLES: Examples = {
    schemas.PresentOut: {"user_id": EXAMPLE_ID, "login": "ann", "since": EXAMPLE_TIME, "sockets": 2},
    schemas.PresenceOut: {"user_id": EXAMPLE_ID, "since": EXAMPLE_TIME, "sockets": 2},
}
