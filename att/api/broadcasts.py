"""Broadcasts to a group."""

from aiohttp import web

from att import errors
from att.api import schemas
from att.api.auth import path_group
from att.api.keys import PUBLISHER, RATE_QUOTAS
from att.api.route import EXAMPLE_EPOCH, EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Permission, Who
from att.core.quotas import Quota
from att.http.context import SESSION
from att.http.requests import read_idempotency_key, read_object
from att.http.responses import respond
from att.realtime.event_log import Publish


async def broadcast(request: web.Request) -> web.Response:
    """Send a JSON object to a group."""
    body = await read_object(request)
    await request.app[RATE_QUOTAS].take(Quota.BROADCASTS, request[SESSION].user_id)
    draft = Publish(path_group(request), request[SESSION].user_id, body, read_idempotency_key(request))
    (event, _, epoch), counted = await request.app[PUBLISHER].publish(draft)
    delivery = schemas.DeliveryOut(group=event.group_id, seq=event.seq, at=event.at, epoch=epoch, **counted._asdict())
    return respond(delivery)


BROADCAST_ROUTES = (
    Route(
        "POST /broadcast/{group}",
        broadcast,
        Who.POSTER,
        Permission.BROADCAST_ANY,
        body=schemas.MessageIn,
        responses={200: schemas.DeliveryOut},
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
}
