"""Build JSON responses."""

from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel

from att.core.pagination import Page
from att.core.preconditions import Preconditions
from att.errors import PreconditionFailed
from att.http.client_info import path_prefix
from att.http.schemas import PageOut, ResponseModel


def respond(body: BaseModel, *, status: int = 200, version: str | None = None) -> web.Response:
    """Return a JSON response, with the version of the resource as its ETag if it has one."""
    response = web.json_response(body.model_dump(mode="json"), status=status)
    response.etag = version
    return response


def respond_if_wanted(response: web.StreamResponse, preconditions: Preconditions) -> web.StreamResponse:
    """Return the response to a GET, or a 304 if the client has it. Raise PreconditionFailed if it wants another."""
    if response.status != HTTPStatus.OK:
        return response
    version = None if response.etag is None else response.etag.value
    if preconditions.is_outdated(version):
        raise PreconditionFailed
    if not preconditions.is_known(version):
        return response
    described = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH)
    headers = [(name, value) for name, value in response.headers.items() if name not in described]
    return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)


def respond_page(request: web.Request, page: Page[Any], shape: type[ResponseModel]) -> web.Response:
    """Return a page of these shapes, with a Link (RFC 8288) to the following one."""
    response = respond(PageOut[shape].model_validate(page, from_attributes=True))  # type: ignore[valid-type]
    if page.next is not None:
        response.headers["Link"] = link_to_next(request, after=page.next)
    return response


def link_to_next(request: web.Request, **position: str | int) -> str:
    """Return the Link to the page of the same list at that position, as the client addresses it."""
    return f'<{path_prefix(request)}{request.rel_url.update_query(position)}>; rel="next"'
