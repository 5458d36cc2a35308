"""Broadcasts to a group."""

from aiohttp import web

from att import errors
from att.api import schemas
from att.api.auth import path_group
from att.api.keys import EPHEMERAL_PUBLISHER, PUBLISHER, RATE_QUOTAS
from att.api.query_schemas import BroadcastQuery
from att.api.route import EXAMPLE_EPOCH, EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Permission, Who
from att.core.quotas import Quota
from att.http.bodies import BodyTooLarge
from att.http.context import SESSION
from att.http.requests import IDEMPOTENCY_KEY, read_idempotency_key, read_object, read_query
from att.http.responses import respond
from att.protocol.messages import EPHEMERAL_LIMIT
from att.realtime.event_log import Publish


async def broadcast(request: web.Request) -> web.Response:
    """Send a JSON object to a group. If it is ephemeral, it goes to those who listen now, and is not in the log."""
    is_ephemeral = read_query(request, BroadcastQuery).ephemeral
    body, user_id = await read_object(request), request[SESSION].user_id
    key = read_idempotency_key(request)
    if is_ephemeral:
        return await _broadcast_ephemeral(request, body, key)
    await request.app[RATE_QUOTAS].take(Quota.BROADCASTS, user_id)
    draft = Publish(path_group(request), user_id, body, key)
    (event, _, epoch), counted = await request.app[PUBLISHER].publish(draft)
    delivery = schemas.DeliveryOut(group=event.group_id, seq=event.seq, at=event.at, epoch=epoch, **counted._asdict())
    return respond(delivery)


async def _broadcast_ephemeral(request: web.Request, body: bytes, key: str | None) -> web.Response:
    if key is not None:
        raise errors.InvalidInput([errors.FieldError(IDEMPOTENCY_KEY, "must not be given with 'ephemeral'")])
    if len(body) > EPHEMERAL_LIMIT:
        raise BodyTooLarge(EPHEMERAL_LIMIT)
    user_id = request[SESSION].user_id
    await request.app[RATE_QUOTAS].take(Quota.EPHEMERALS, user_id)
    group_id = await request.app[EPHEMERAL_PUBLISHER].publish(path_group(request), user_id, body)
    return respond(schemas.EphemeralOut(group=group_id), status=202)


BROADCAST_ROUTES = (
    Route(
        "POST /broadcast/{group}",
        broadcast,
        Who.POSTER,
        Permission.BROADCAST_ANY,
        body=schemas.MessageIn,
        query=BroadcastQuery,
        responses={200: schemas.DeliveryOut, 202: schemas.EphemeralOut},
        errors=(errors.NotAnObject, errors.KeyReused, errors.QuotaExceeded),
        takes_key=True,
        section="realtime",
        checked_by_log=True,
    ),
)

BROADCAST_EXAMPLES: Examples = {
    schemas.MessageIn: {"text": "The tea is ready."},
    schemas.DeliveryOut: {
        "group": EXAMPLE_ID,
        "seq": 42,
        "at": EXAMPLE_TIME,
        "epoch": EXAMPLE_EPOCH,
        "delivered": 3,
        "dropped": 0,
    },
    schemas.EphemeralOut: {"group": EXAMPLE_ID},
}
