"""The log of a group."""

import re

from aiohttp import web

from att.api import schemas
from att.api.auth import actor_of, is_permitted
from att.api.keys import EVENT_LOG, GROUP, GROUP_SERVICE
from att.api.query_schemas import EventsQuery
from att.api.route import EXAMPLE_EPOCH, EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Permission, Who
from att.errors import NoSuchEvent
from att.http.context import SESSION
from att.http.requests import read_query
from att.http.responses import link_to_next
from att.protocol.messages import SEQ_LIMIT, timestamp
from att.realtime.event_log import LogEvent, LogPage, LogPart


async def group_events(request: web.Request) -> web.Response:
    """Read a group's log.

    Without groups.read these are only the events of the times when the user was a member, unless the group's rule of
    history is all.
    """
    query, log = read_query(request, EventsQuery), request.app[EVENT_LOG]
    may_read_all = await is_permitted(request, Permission.GROUPS_READ)  # before the page, which must not wait in memory
    user_id = None if may_read_all else request[SESSION].user_id
    part = LogPart(query.after or 0, query.before, query.limit, query.kind)
    page = await log.page(request[GROUP].id, user_id, part)
    response = _page(page, log.epoch)  # that of what was just returned
    if page.next is not None:
        direction = "after" if query.before is None else "before"
        response.headers["Link"] = link_to_next(request, **{direction: page.next})
    return response


async def delete_event(request: web.Request) -> web.Response:
    """Take a message back: delete its body from the log for good."""
    group = await request.app[GROUP_SERVICE].find(request.match_info["group"], request[SESSION].user_id)
    await request.app[GROUP_SERVICE].redact(group.id, _path_seq(request), actor_of(request))
    return web.Response(status=204)


def _path_seq(request: web.Request) -> int:
    """Return the seq in the path. Raise NoSuchEvent if it can be none."""
    text = request.match_info["seq"]
    if not re.fullmatch("[1-9][0-9]{0,18}", text) or int(text) > SEQ_LIMIT:
        raise NoSuchEvent
    return int(text)


def _page(page: LogPage, epoch: str) -> web.Response:
    """Write a page as ``EventPageOut`` describes it, with each message byte for byte as it was sent."""
    end = "null" if page.next is None else f'"{page.next}"'
    parts = [b'{"items": [']
    for event in page.events:
        parts += [_head(event) if len(parts) == 1 else b", " + _head(event), event.body or b"null", b"}"]
    parts.append(f'], "next": {end}, "epoch": "{epoch}"}}'.encode())
    return web.Response(body=b"".join(parts), content_type="application/json", charset="utf-8")


def _head(event: LogEvent) -> bytes:
    """Write an event up to its body, of which there is one copy: large ones cost time of the loop."""
    user = "null" if event.user_id is None else f'"{event.user_id}"'
    head = f'{{"seq": {event.seq}, "kind": "{event.kind}", "user_id": {user}, "at": "{timestamp(event.at)}", "data": '
    return head.encode()


EVENT_ROUTES = (
    Route(
        "GET /groups/{group}/events",
        group_events,
        Who.MEMBER,
        Permission.GROUPS_READ,
        query=EventsQuery,
        responses={200: schemas.EventPageOut},
    ),
    Route(
        "DELETE /groups/{group}/events/{seq}",
        delete_event,
        Who.OWNER_OR_SENDER,
        Permission.GROUPS_WRITE,
        responses={204: None},
        checked_by_log=True,
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
