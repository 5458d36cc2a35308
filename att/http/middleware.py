"""Middleware of the application: request ids, errors as problems (RFC 9457), headers of every response."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from secrets import token_hex
from time import perf_counter

from aiohttp import web

from att import errors
from att.core.fair_semaphore import SOURCE
from att.http.access_log import REQUEST_LOG
from att.http.client_info import is_https, network_of_client
from att.http.context import READINESS, REQUEST_ID, SESSION
from att.http.cors import share
from att.http.credentials import bearer_token, session_cookies, set_session_cookie
from att.http.problems import problem, problem_of, problem_of_http
from att.http.security_headers import add_security_headers

_REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, and turn exceptions into problems without internal details."""
    start, request_log = perf_counter(), request.app[REQUEST_LOG]
    SOURCE.set(network_of_client(request))  # until it is known who asks
    given = request.headers.get("X-Request-ID", "")
    request[REQUEST_ID] = given if _REQUEST_ID_FORM.fullmatch(given) else token_hex(16)
    response: web.StreamResponse
    try:
        response = await handler(request)
    except errors.AttError as error:
        response = problem_of(error)
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            request_log.unavailable(request, error)
    except web.HTTPException as error:
        response = problem_of_http(error)
    except (ConnectionError, asyncio.CancelledError):
        request_log.answered(request, None, perf_counter() - start)
        raise  # the client has gone: there is no response
    except Exception as error:  # noqa: BLE001 - the operator's log has it
        request_log.failed(request, error)
        response = problem(500, "internal error", f"This is a fault of the server. Its id is {request[REQUEST_ID]}.")
    request_log.answered(request, response, perf_counter() - start)
    return response


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every response."""
    # A response from before the middleware has no id yet.
    headers = response.headers
    headers["X-Request-ID"] = request.get(REQUEST_ID) or token_hex(16)
    add_security_headers(headers, is_shared=share(request, headers), is_https=is_https(request))
    # The server drains, or the rest of the body comes before the next request.
    is_last = request.app[READINESS].draining or not request.content.is_eof()
    if is_last and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        response.force_close()
        headers["Connection"] = "close"
    session = request.get(SESSION)
    if session is not None and session.slid and not response.cookies and bearer_token(request) is None:
        # The session was extended, so the cookie must be, too. The response's own cookies are already written.
        name = set_session_cookie(request, response, next(iter(session_cookies(request).values())))
        response.headers.add("Set-Cookie", response.cookies[name].OutputString())
