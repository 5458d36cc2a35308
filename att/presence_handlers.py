"""Who is connected, over HTTP."""

from aiohttp import web

from att import payloads
from att.identity import path_user
from att.keys import GROUP, PRESENCE
from att.presence import PRESENT_IN_GROUP
from att.queries import PageQuery
from att.web import answer, answer_page, read_query, read_window


async def group_presence(request: web.Request) -> web.Response:
    """The members of a group who are connected."""
    window = read_window(read_query(request, PageQuery), PRESENT_IN_GROUP.order)
    page = await request.app[PRESENCE].in_group(request[GROUP].id, window)
    return answer_page(request, page, payloads.Present)


async def user_presence(request: web.Request) -> web.Response:
    """Whether a user is connected."""
    return answer(payloads.Presence.model_validate(await request.app[PRESENCE].of_user(path_user(request))))
