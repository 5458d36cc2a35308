"""Read the body, the query and the headers of a request."""

import asyncio
import re
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import from_json

from att import errors
from att.core.names import check_key
from att.core.pagination import Order, Window
from att.http.schemas import PageQuery, QueryModel
from att.http.validation import explain

IDEMPOTENCY_KEY = "Idempotency-Key"
BODY_LIMIT = 1024 * 1024  # bytes of one request body: a broadcast, or a thousand users with all fields
BODY_TIMEOUT = 30.0  # seconds for a body to arrive
ENCODINGS = ("gzip", "deflate", "identity")  # of a body; aiohttp would not decode others
_JSON_TYPE = re.compile(r"application/(json|[a-z0-9.!#$&^_-]+\+json)")
Shape = TypeVar("Shape", bound=BaseModel)
QueryShape = TypeVar("QueryShape", bound=QueryModel)


async def load_body(request: web.Request) -> bytes:
    """Read the body. Raises Malformed, WrongMediaType, BodyTimeout, and a 413 if it is over the limit."""
    if request.headers.get("Content-Encoding", "identity").lower() not in ENCODINGS:
        raise errors.WrongMediaType(f"Send the body with no Content-Encoding but {' or '.join(ENCODINGS)}.")
    if (request.content_length or 0) > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, request.content_length or 0)
    try:
        if request.content.is_eof():  # usually it arrives together with the headers
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise errors.BodyTimeout from error
    except web.RequestPayloadError as error:
        raise errors.Malformed("The body is incomplete, or not encoded as its headers say.") from error


async def read_body(request: web.Request) -> bytes:
    """Read a body of type JSON, or an empty one. Raises WrongMediaType, and the errors of ``load_body``."""
    body = await load_body(request)
    if body and not _JSON_TYPE.fullmatch(request.content_type):
        raise errors.WrongMediaType
    return body


def parse_json(body: bytes) -> Any:
    """Parse a JSON text of limited depth. Raises NotJson, with the position of the fault."""
    try:
        return from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise errors.NotJson(f"The body is not JSON (RFC 8259) in UTF-8: {error}.") from error


async def read(request: web.Request, shape: type[Shape]) -> Shape:
    """Read the body in this shape. Raises NotJson, WrongMediaType, InvalidInput."""
    return _fit(shape, parse_json(await read_body(request)))


async def read_one_or_many(
    request: web.Request, one: type[Shape], many: type[RootModel[list[Shape]]]
) -> Shape | list[Shape]:
    """Read an object or an array of objects. Raises the errors of ``read``."""
    value = parse_json(await read_body(request))
    return _fit(many, value).root if isinstance(value, list) else _fit(one, value)


def read_query(request: web.Request, shape: type[QueryShape]) -> QueryShape:
    """Read the query in this shape. Raises InvalidInput."""
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


def read_window(query: PageQuery, order: Order) -> Window:
    """Return the requested part of a list. Raises InvalidInput when the cursor belongs to another list or order."""
    try:
        return Window(query.limit, None if query.after is None else order.parse(query.after))
    except ValueError as error:
        raise errors.InvalidInput([errors.FieldError("after", str(error))]) from error


def _fit(shape: type[Shape], value: Any) -> Shape:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise explain(error) from None
