"""The log of a group over HTTP."""

from collections.abc import Sequence

from aiohttp import web

from att.identity import is_permitted
from att.keys import GROUP, LOG, SESSION
from att.permissions import Permission
from att.queries import EventsQuery
from att.realtime.log import Event
from att.realtime.protocol import timestamp
from att.web import read_query


async def group_events(request: web.Request) -> web.Response:
    """What was sent to a group, and who joined and left it, oldest first; of strangers' times only with groups.read."""
    query, user_id = read_query(request, EventsQuery), request[SESSION].user_id
    replay = await request.app[LOG].read_from(request[GROUP].id, user_id, query.after, query.limit)
    events, head = replay.slice
    may_read_all = await is_permitted(request, Permission.GROUPS_READ)
    follows = events[-1].seq if events and events[-1].seq < head else None
    response = _page(events if may_read_all else [*replay.heard_by(user_id)], follows)
    if follows is not None:
        response.headers["Link"] = f'<{request.rel_url.update_query(after=follows)}>; rel="next"'
    return response


def _page(events: Sequence[Event], follows: int | None) -> web.Response:
    """A page as ``att.payloads`` describes it, but written here, so that data is, byte for byte, what was sent."""
    end = "null" if follows is None else f'"{follows}"'
    body = b'{"items": [%b], "next": %b}' % (b", ".join(map(_item, events)), end.encode())
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _item(event: Event) -> bytes:
    user = "null" if event.user_id is None else f'"{event.user_id}"'
    head = f'{{"seq": {event.seq}, "kind": "{event.kind}", "user_id": {user}, "at": "{timestamp(event.at)}", "data": '
    return head.encode() + (event.body or b"null") + b"}"
