"""Build error responses, as problems (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from aiohttp import web

from att import errors
from att.http.bodies import BODY_LIMIT, BodyTooLarge
from att.http.status_codes import phrase_of, status_of


def problem(status: int, code: str, detail: str, **members: Any) -> web.Response:
    """Return an error as ``application/problem+json``."""
    title = phrase_of(status)
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "error": code, **members}
    response = web.json_response(body, status=status, content_type="application/problem+json")
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="att"'
    return response


def problem_of(error: errors.AttError) -> web.Response:
    """Return the response to an error of ``att.errors``."""
    status = status_of(type(error))
    fields = getattr(error, "fields", None)
    members: dict[str, Any] = {}
    if fields:
        members["errors"] = [{"field": field, "detail": message} for field, message in fields]
    if isinstance(error, errors.QuotaExceeded | errors.QuotaExhausted):
        members["quota"] = error.quota
    if error.index is not None:
        members["index"] = error.index
    response = problem(status, error.code, error.detail, **members)
    if isinstance(error, errors.Unavailable | errors.TooManyAttempts):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.UpgradeRequired):
        response.headers.update({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"})
    return response


def problem_of_http(error: web.HTTPException) -> web.Response:
    """Return the response to an error of aiohttp."""
    allow = error.headers.get("Allow", "").replace(",", ", ")
    codes = {413: "body too large"}
    limit = error.limit if isinstance(error, BodyTooLarge) else BODY_LIMIT
    details = {
        404: "There is nothing at this address.",
        405: f"This address does not allow the method. It allows {allow or 'none'}.",
        413: f"The body is larger than {limit} bytes.",
        417: "The server supports no expectation but 100-continue (RFC 9110, section 10.1.1).",
    }
    phrase = phrase_of(error.status)
    response = problem(error.status, codes.get(error.status, phrase.lower()), details.get(error.status, error.reason))
    if allow:
        response.headers["Allow"] = allow
    return response
