"""HTTP for everything else: reading requests, and answering them, errors as problems (RFC 9457)."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from secrets import token_hex
from time import perf_counter
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import from_json

from att import errors
from att.clients import is_https
from att.cors import share
from att.faults import explain
from att.identity import COOKIE, bearer_token, set_session_cookie
from att.keys import READINESS, REQUEST_ID, SESSION
from att.names import check_key
from att.observer import OBSERVER
from att.paging import Order, Window
from att.paging import Page as PageOf
from att.payloads import Answer, Page
from att.queries import PageQuery, Query
from att.security_headers import add_security_headers
from att.statuses import phrase_of, status_of

IDEMPOTENCY_KEY = "Idempotency-Key"
BODY_LIMIT = 1024 * 1024  # bytes of one request body: of one broadcast, or of a thousand users with all that they have
BODY_TIMEOUT = 30.0  # seconds for a body to arrive
ENCODINGS = ("gzip", "deflate", "identity")  # of a body; aiohttp leaves as it is what it does not know

_REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_JSON_TYPE = re.compile(r"application/(json|[a-z0-9.!#$&^_-]+\+json)")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Shape = TypeVar("Shape", bound=BaseModel)
QueryShape = TypeVar("QueryShape", bound=Query)


# Reading


async def load_body(request: web.Request) -> bytes:
    """Wait for the body, whatever it is. One over the limit is a 413. Raises Malformed, WrongMediaType, BodyTimeout."""
    if request.headers.get("Content-Encoding", "identity").lower() not in ENCODINGS:
        raise errors.WrongMediaType(f"Send the body with no Content-Encoding but {' or '.join(ENCODINGS)}.")
    if (request.content_length or 0) > BODY_LIMIT:
        raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, request.content_length or 0)
    try:
        if request.content.is_eof():  # it has come along with the headers, as most do
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise errors.BodyTimeout from error
    except web.RequestPayloadError as error:
        raise errors.Malformed("The body breaks off, or is not encoded as its headers say.") from error


async def read_body(request: web.Request) -> bytes:
    """The body, which must call itself JSON unless it is empty. Raises WrongMediaType, and what ``load_body`` does."""
    body = await load_body(request)
    if body and not _JSON_TYPE.fullmatch(request.content_type):
        raise errors.WrongMediaType
    return body


def parse_json(body: bytes) -> Any:
    """The value of a JSON text of bounded depth. Raises NotJson that says where it breaks off."""
    try:
        return from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise errors.NotJson(f"The body is not JSON (RFC 8259) in UTF-8: {error}.") from error


async def read(request: web.Request, shape: type[Shape]) -> Shape:
    """The body in this shape. Raises NotJson, WrongMediaType, InvalidInput."""
    return _fit(shape, parse_json(await read_body(request)))


async def read_some(request: web.Request, one: type[Shape], many: type[RootModel[list[Shape]]]) -> Shape | list[Shape]:
    """An object, or an array of them. Raises what ``read`` does."""
    value = parse_json(await read_body(request))
    return _fit(many, value).root if isinstance(value, list) else _fit(one, value)


def read_query(request: web.Request, shape: type[QueryShape]) -> QueryShape:
    """The query in this shape. Raises InvalidInput."""
    given = {name: request.query.getall(name) for name in request.query}
    singular = {field.alias or name for name, field in shape.model_fields.items()} - shape.repeatable
    if twice := [name for name in given if name in singular and len(given[name]) > 1]:
        raise errors.InvalidInput([errors.FieldError(name, "must not be given twice") for name in twice])
    return _fit(shape, {name: values[0] if name in singular else values for name, values in given.items()})


def read_idempotency_key(request: web.Request) -> str | None:
    """The key by which a repeated request is known; None when there is none. Raises InvalidInput."""
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    if len(keys) > 1:
        raise errors.InvalidInput([errors.FieldError(IDEMPOTENCY_KEY, "must not be given twice")])
    try:
        return check_key(keys[0]) if keys else None
    except ValueError as error:
        raise errors.InvalidInput([errors.FieldError(IDEMPOTENCY_KEY, str(error))]) from error


def read_window(query: PageQuery, order: Order) -> Window:
    """Which part of a list in this order is asked for. Raises InvalidInput when the cursor is of another one."""
    try:
        return Window(query.limit, None if query.after is None else order.parse(query.after))
    except ValueError as error:
        raise errors.InvalidInput([errors.FieldError("after", str(error))]) from error


def _fit(shape: type[Shape], value: Any) -> Shape:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise explain(error) from None


# Answering


def answer(body: BaseModel, *, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.json_response(body.model_dump(mode="json"), status=status)


def answer_page(request: web.Request, page: PageOf[Any], shape: type[Answer]) -> web.Response:
    """A page of these shapes, with a Link (RFC 8288) to the one that follows."""
    response = answer(Page[shape].model_validate(page, from_attributes=True))  # type: ignore[valid-type]
    if page.next is not None:
        response.headers["Link"] = f'<{request.rel_url.update_query(after=page.next)}>; rel="next"'
    return response


def problem(status: int, code: str, detail: str, **members: Any) -> web.Response:
    """An error as ``application/problem+json``."""
    title = phrase_of(status)
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "error": code, **members}
    response = web.json_response(body, status=status, content_type="application/problem+json")
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="att"'
    return response


def problem_of(error: errors.AttError) -> web.Response:
    """The answer to an error of ours."""
    status = status_of(type(error))
    fields = getattr(error, "fields", None)
    members: dict[str, Any] = {}
    if fields:
        members["errors"] = [{"field": field, "detail": message} for field, message in fields]
    if error.index is not None:
        members["index"] = error.index
    response = problem(status, error.code, error.detail, **members)
    if isinstance(error, errors.Unavailable | errors.TooManyAttempts):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.UpgradeRequired):
        response.headers.update({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"})
    return response


def problem_of_http(error: web.HTTPException) -> web.Response:
    """The answer to an error of aiohttp's."""
    allow = error.headers.get("Allow", "").replace(",", ", ")
    codes = {413: "body too large"}
    details = {
        404: "There is nothing at this address.",
        405: f"This address does not know the method; it knows {allow or 'none'}.",
        413: f"The body is larger than {BODY_LIMIT} bytes.",
        417: "The server meets no expectation but 100-continue (RFC 9110, section 10.1.1).",
    }
    phrase = phrase_of(error.status)
    response = problem(error.status, codes.get(error.status, phrase.lower()), details.get(error.status, error.reason))
    if allow:
        response.headers["Allow"] = allow
    return response


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, and turn whatever is raised into an answer that says no more than it should."""
    begun, observer = perf_counter(), request.app[OBSERVER]
    given = request.headers.get("X-Request-ID", "")
    request[REQUEST_ID] = given if _REQUEST_ID_FORM.fullmatch(given) else token_hex(16)
    response: web.StreamResponse
    try:
        response = await handler(request)
    except errors.AttError as error:
        response = problem_of(error)
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            observer.unavailable(request, error)
    except web.HTTPException as error:
        response = problem_of_http(error)
    except (ConnectionError, asyncio.CancelledError):
        observer.answered(request, None, perf_counter() - begun)
        raise  # the client has gone, and nobody is left to answer
    except Exception as error:  # noqa: BLE001 - it is told to the operator alone
        observer.failed(request, error)
        response = problem(500, "internal error", f"This is a fault of ours. Its id is {request[REQUEST_ID]}.")
    observer.answered(request, response, perf_counter() - begun)
    return response


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer bears."""
    # An answer that is given before the middleware is reached has no id yet.
    headers = response.headers
    headers["X-Request-ID"] = request.get(REQUEST_ID) or token_hex(16)
    add_security_headers(headers, is_shared=share(request, headers), is_https=is_https(request))
    # The server drains, or the rest of this body stands before the next request.
    is_last = request.app[READINESS].draining or not request.content.is_eof()
    if is_last and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        response.force_close()
        headers["Connection"] = "close"
    session = request.get(SESSION)
    if session is not None and session.slid and COOKIE not in response.cookies and bearer_token(request) is None:
        # The browser's copy lives as long as the session, which has just been prolonged. By now the answer's own
        # cookies are written.
        set_session_cookie(request, response, request.cookies[COOKIE])
        response.headers.add("Set-Cookie", response.cookies[COOKIE].OutputString())
