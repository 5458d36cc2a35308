"""The log of a group."""

from collections.abc import Sequence

from aiohttp import web

from att.api import schemas
from att.api.auth import is_permitted
from att.api.keys import EVENT_LOG, GROUP
from att.api.query_schemas import EventsQuery
from att.api.route import EXAMPLE_EPOCH, EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Permission, Who
from att.http.context import SESSION
from att.http.requests import read_query
from att.http.responses import link_to_next
from att.protocol.messages import timestamp
from att.realtime.event_log import LogEvent


async def group_events(request: web.Request) -> web.Response:
    """Read a group's log.

    Without groups.read these are only the events of the times when the user was a member.
    """
    query, user_id = read_query(request, EventsQuery), request[SESSION].user_id
    log = request.app[EVENT_LOG]
    may_read_all = await is_permitted(request, Permission.GROUPS_READ)  # before the page, which must not wait in memory
    replay = await log.read_from(request[GROUP].id, user_id, query.after, query.limit)
    epoch = log.epoch  # of what was just returned
    events, head = replay.slice
    follows = events[-1].seq if events and events[-1].seq < head else None
    response = _page(events if may_read_all else [*replay.visible_to(user_id)], follows, epoch)
    if follows is not None:
        response.headers["Link"] = link_to_next(request, follows)
    return response


def _page(events: Sequence[LogEvent], follows: int | None, epoch: str) -> web.Response:
    """Write a page as ``EventPageOut`` describes it, with each message byte for byte as it was sent."""
    end = "null" if follows is None else f'"{follows}"'
    body = b'{"items": [%b], "next": %b, "epoch": "%b"}' % (
        b", ".join(map(_item, events)),
        end.encode(),
        epoch.encode(),
    )
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _item(event: LogEvent) -> bytes:
    user = "null" if event.user_id is None else f'"{event.user_id}"'
    head = f'{{"seq": {event.seq}, "kind": "{event.kind}", "user_id": {user}, "at": "{timestamp(event.at)}", "data": '
    return head.encode() + (event.body or b"null") + b"}"


EVENT_ROUTES = (
    Route(
        "GET /groups/{group}/events",
        group_events,
        Who.MEMBER,
        Permission.GROUPS_READ,
        query=EventsQuery,
        responses={200: schemas.EventPageOut},
    ),
)

_EVENT = {
    "seq": 12,
    "kind": "message",
    "user_id": EXAMPLE_ID,
    "at": EXAMPLE_TIME,
    "data": {"text": "The tea is ready."},
}

EVENT_EXAMPLES: Examples = {
    schemas.EventOut: _EVENT,
    schemas.EventPageOut: {"items": [_EVENT], "next": None, "epoch": EXAMPLE_EPOCH},
}
