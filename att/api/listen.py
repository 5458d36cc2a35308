"""The WebSocket that delivers the events of a user's groups, or the stream of server-sent events."""

from aiohttp import web

from att import errors
from att.api.keys import LISTEN_ENDPOINT
from att.api.query_schemas import ListenQuery
from att.api.route import File, Route
from att.core.permissions import Who
from att.http.requests import EVENT_STREAM, LAST_EVENT_ID, read_query, wants_event_stream
from att.protocol.event_stream import EventId


async def listen(request: web.Request) -> web.StreamResponse:
    """Listen to one's groups on a WebSocket, to all or to the given ones.

    A request without an upgrade that accepts `text/event-stream` gets the frames of att.v1 as server-sent events.
    """
    query = read_query(request, ListenQuery)
    return await request.app[LISTEN_ENDPOINT].serve(request, query.group, _last_event_id(request, query))


def _last_event_id(request: web.Request, query: ListenQuery) -> EventId | None:
    """Return the position in the id that the client of a stream has received last. Raises InvalidInput."""
    header = request.headers.get(LAST_EVENT_ID)
    text = header or query.last_event_id
    if not wants_event_stream(request):
        if query.last_event_id is not None:
            raise errors.InvalidInput([errors.FieldError("last_event_id", "is for server-sent events")])
        return None
    if not text:
        return None
    try:
        return EventId.parse(text)
    except ValueError as error:
        name = LAST_EVENT_ID if header else "last_event_id"
        raise errors.InvalidInput([errors.FieldError(name, str(error))]) from error


LISTEN_ROUTES = (
    Route(
        "GET /listen/{user_id}",
        listen,
        Who.ONESELF,
        responses={101: None, 200: File((EVENT_STREAM,))},
        query=ListenQuery,
        errors=(errors.UpgradeRequired, errors.NoSuchGroup, errors.NotAMember),
        section="realtime",
        upgrades=True,
    ),
)
