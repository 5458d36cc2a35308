"""Build JSON responses."""

from typing import Any

from aiohttp import web
from pydantic import BaseModel

from att.core.pagination import Page
from att.http.schemas import PageOut, ResponseModel


def respond(body: BaseModel, *, status: int = 200) -> web.Response:
    """Return a JSON response."""
    return web.json_response(body.model_dump(mode="json"), status=status)


def respond_page(request: web.Request, page: Page[Any], shape: type[ResponseModel]) -> web.Response:
    """Return a page of these shapes, with a Link (RFC 8288) to the following one."""
    response = respond(PageOut[shape].model_validate(page, from_attributes=True))  # type: ignore[valid-type]
    if page.next is not None:
        response.headers["Link"] = f'<{request.rel_url.update_query(after=page.next)}>; rel="next"'
    return response
