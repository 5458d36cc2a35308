"""The history of changes."""

from typing import cast

from aiohttp import web

from att.accounts.history import HISTORY_OF_USER, HISTORY_ORDER, HistoryFilters
from att.api import schemas
from att.api.auth import path_user
from att.api.keys import HISTORY
from att.api.query_schemas import HistoryQuery
from att.api.route import EXAMPLE_ID, EXAMPLE_TIME, OTHER_EXAMPLE_ID, Examples, Route
from att.core.permissions import Permission, Who
from att.http.requests import read_query, read_window
from att.http.responses import respond_page
from att.http.schemas import PageOut, PageQuery


async def list_history(request: web.Request) -> web.Response:
    """List the changes of users, roles, groups and members, the newest first."""
    query = read_query(request, HistoryQuery)
    window = read_window(query, HISTORY_ORDER)
    filters = cast(HistoryFilters, query.model_dump(exclude={"limit", "after"}, exclude_none=True))
    return respond_page(request, await request.app[HISTORY].page(window, filters), schemas.ChangeOut)


async def user_history(request: web.Request) -> web.Response:
    """List the changes of a user and of their memberships, the newest first."""
    window = read_window(read_query(request, PageQuery), HISTORY_OF_USER.order)
    page = await request.app[HISTORY].of_user(path_user(request), window)
    return respond_page(request, page, schemas.ChangeOut)


HISTORY_ROUTES = (
    Route(
        "GET /history",
        list_history,
        Who.PERMITTED,
        Permission.HISTORY_READ,
        query=HistoryQuery,
        responses={200: PageOut[schemas.ChangeOut]},
    ),
    Route(
        "GET /users/{user_id}/history",
        user_history,
        Who.ONESELF,
        Permission.HISTORY_READ,
        query=PageQuery,
        responses={200: PageOut[schemas.ChangeOut]},
    ),
)

HISTORY_EXAMPLES: Examples = {
    schemas.ChangeOut: {
        "id": 7,
        "at": EXAMPLE_TIME,
        "table": "users",
        "operation": "UPDATE",
        "row": EXAMPLE_ID,
        "actor_id": OTHER_EXAMPLE_ID,
        "session_id": "0190d5a4-9e77-4b1d-8c02-6d5e4f3a2b1c",
        "request_id": "3f1c8f0f5a9e4a0e9f6b7c8d9e0f1a2b",
        "database_role": "att",
        "old": {"active": True},
        "new": {"active": False},
    }
}
