"""Read the body, the query and the headers of a request."""

import asyncio
import re
from codecs import BOM_UTF8
from functools import cache
from itertools import islice
from typing import Any, TypeVar, get_args

from aiohttp import hdrs, web
from pydantic import BaseModel, RootModel, ValidationError

from att import errors
from att.core import json_text
from att.core.names import check_key
from att.core.pagination import Order, Window
from att.core.preconditions import ANY, Preconditions
from att.core.tasks import in_steps
from att.http.bodies import load_body
from att.http.schemas import PageQuery, QueryModel
from att.http.validation import FAULTS_SHOWN, MORE_FAULTS, explain

IDEMPOTENCY_KEY = "Idempotency-Key"
EVENT_STREAM = "text/event-stream"
LAST_EVENT_ID = "Last-Event-ID"
VALUES = 25_000  # in one body that is built: a thousand users or roles with all fields have fewer
_TURN = 50  # items that are checked before other requests have their turn
# An entity tag; the mark of a weak one stands before it (RFC 9110, section 8.8.3).
_ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')
_JSON_TYPE = re.compile(r"application/(json|[a-z0-9.!#$&^_-]+\+json)")
Shape = TypeVar("Shape", bound=BaseModel)
QueryShape = TypeVar("QueryShape", bound=QueryModel)


async def read_body(request: web.Request) -> bytes:
    """Read a body of type JSON, or an empty one, without a byte order mark (RFC 8259, section 8.1).

    Raises WrongMediaType, and the errors of ``load_body``.
    """
    body = (await load_body(request)).removeprefix(BOM_UTF8)
    if body and not _JSON_TYPE.fullmatch(request.content_type):
        raise errors.WrongMediaType
    return body


async def read_object(request: web.Request) -> bytes:
    """Read a JSON object, byte for byte. Raises NotJson, NotAnObject, WrongMediaType."""
    body = await read_body(request)
    try:
        is_object = await in_steps(json_text.checking(body))
    except ValueError as error:
        raise _not_json(error) from error
    if not is_object:
        raise errors.NotAnObject
    return body


async def read(request: web.Request, shape: type[Shape]) -> Shape:
    """Read the body in this shape. Raises NotJson, WrongMediaType, InvalidInput."""
    return await _fit_body(shape, _parse(await read_body(request)))


async def read_one_or_many(
    request: web.Request, one: type[Shape], many: type[RootModel[list[Shape]]]
) -> Shape | list[Shape]:
    """Read an object or an array of objects. Raises the errors of ``read``."""
    value = _parse(await read_body(request))
    return (await _fit_body(many, value)).root if isinstance(value, list) else await _fit_body(one, value)


def _parse(body: bytes) -> Any:
    """Parse a JSON text of limited depth and of few values. Raises NotJson, with the position of the fault."""
    if json_text.has_more_values(body, VALUES):
        raise errors.InvalidInput([errors.FieldError("body", f"must not have more than {VALUES} values")])
    try:
        return json_text.parse(body)
    except ValueError as error:
        raise _not_json(error) from error


def _not_json(error: ValueError) -> errors.NotJson:
    return errors.NotJson(f"The body is not JSON (RFC 8259) in UTF-8: {error}.")


async def _fit_body(shape: type[Shape], value: Any) -> Shape:
    """Return the value in this shape. Other requests have their turn meanwhile if it is a list of many items."""
    if not issubclass(shape, RootModel) or not isinstance(value, list):
        return _fit(shape, _without_most_unknown(shape, value))
    [item] = get_args(shape.model_fields["root"].annotation)
    [most] = [rule.max_length for rule in shape.model_fields["root"].metadata if hasattr(rule, "max_length")]
    if len(value) > most:
        raise errors.InvalidInput([errors.FieldError("body", f"must have at most {most} items, not {len(value)}")])
    items, faults = [], []
    for index, each in enumerate(value):
        if index % _TURN == _TURN - 1:
            await asyncio.sleep(0)
        try:
            items.append(_fit(item, _without_most_unknown(item, each)))
        except errors.InvalidInput as error:
            faults += [
                errors.FieldError(str(index) if name == "body" else f"{index}.{name}", message)
                for name, message in error.fields
            ]
            if len(faults) > FAULTS_SHOWN:
                raise errors.InvalidInput([*faults[:FAULTS_SHOWN], MORE_FAULTS]) from None
    if faults:
        raise errors.InvalidInput(faults)
    return _fit(shape, items)  # items that fit are not looked at again


def _without_most_unknown(shape: type[BaseModel], value: Any) -> Any:
    """Return the value without most of its unknown members if there are very many: a fault is made of each."""
    if not isinstance(value, dict) or len(value) <= len(shape.model_fields) + FAULTS_SHOWN:
        return value
    known = {name: value[name] for name in shape.model_fields if name in value}
    unknown = (name for name in value if name not in shape.model_fields)
    return known | dict.fromkeys(islice(unknown, FAULTS_SHOWN + 1))


def wants_event_stream(request: web.Request) -> bool:
    """Return True if the request accepts server-sent events, and is no handshake of a WebSocket."""
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower().split(",")
    is_accepted = any(part.partition(";")[0].strip() == EVENT_STREAM for part in accepted)
    return is_accepted and "websocket" not in request.headers.get(hdrs.UPGRADE, "").lower()


def read_query(request: web.Request, shape: type[QueryShape]) -> QueryShape:
    """Read the query in this shape. Raises InvalidInput."""
    if not request.query_string:
        empty: QueryShape = _without_query(shape)
        return empty
    given = {name: request.query.getall(name) for name in request.query}
    singular = {field.alias or name for name, field in shape.model_fields.items()} - shape.repeatable
    if repeated := [name for name in given if name in singular and len(given[name]) > 1]:
        raise errors.InvalidInput([errors.FieldError(name, "must not be given twice") for name in repeated])
    return _fit(shape, {name: values[0] if name in singular else values for name, values in given.items()})


def read_idempotency_key(request: web.Request) -> str | None:
    """Return the idempotency key, None when there is none. Raises InvalidInput."""
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    if len(keys) > 1:
        raise errors.InvalidInput([errors.FieldError(IDEMPOTENCY_KEY, "must not be given twice")])
    try:
        return check_key(keys[0]) if keys else None
    except ValueError as error:
        raise errors.InvalidInput([errors.FieldError(IDEMPOTENCY_KEY, str(error))]) from error


def read_preconditions(request: web.Request) -> Preconditions | None:
    """Return the preconditions of the request, None without any."""
    if hdrs.IF_MATCH not in request.headers and hdrs.IF_NONE_MATCH not in request.headers:
        return None
    return Preconditions(_entity_tags(request, hdrs.IF_MATCH, weak=False), _entity_tags(request, hdrs.IF_NONE_MATCH))


def _entity_tags(request: web.Request, header: str, *, weak: bool = True) -> frozenset[str] | None:
    lines = request.headers.getall(header, None)
    if lines is None:
        return None
    text = ",".join(lines).strip()
    return frozenset({ANY} if text == ANY else (tag for mark, tag in _ENTITY_TAG.findall(text) if weak or not mark))


def read_window(query: PageQuery, order: Order) -> Window:
    """Return the requested part of a list. Raises InvalidInput when the cursor belongs to another list or order."""
    try:
        return Window(query.limit, None if query.after is None else order.parse(query.after))
    except ValueError as error:
        raise errors.InvalidInput([errors.FieldError("after", str(error))]) from error


@cache
def _without_query(shape: type[QueryShape]) -> QueryShape:
    return _fit(shape, {})


def _fit(shape: type[Shape], value: Any) -> Shape:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise explain(error) from None
