"""Serve routes: each handler behind a guard that checks who may call it."""

import re
from collections import defaultdict
from collections.abc import Iterable

from aiohttp import web

from att.api.auth import identify, is_permitted, path_user, visible_profiles
from att.api.keys import GROUP, GROUP_SERVICE, LISTEN_ENDPOINT, PROFILE, RATE_QUOTAS, SESSIONS
from att.api.route import Route
from att.core import permissions
from att.core.fair_semaphore import SOURCE
from att.core.permissions import NO_GROUP, Standing, Who
from att.core.quotas import Quota
from att.errors import AttError, Forbidden, NotSignedIn, Unavailable
from att.http.access_log import REQUEST_LOG
from att.http.bodies import counted_body, load_body
from att.http.context import API_PREFIX, SESSION
from att.http.cors import preflight
from att.http.credentials import SAFE_METHODS
from att.http.middleware import Handler
from att.http.requests import read_preconditions, read_query
from att.http.responses import respond_if_wanted
from att.http.schemas import QueryModel


def add_routes(router: web.UrlDispatcher, routes: Iterable[Route]) -> None:
    """Add each route with its guard, and OPTIONS for each path, at the root and below ``API_PREFIX``."""
    methods: defaultdict[str, set[str]] = defaultdict(lambda: {"OPTIONS"})
    for route in routes:
        # A name in a path may contain anything but a slash; aiohttp's own pattern leaves out braces.
        path = re.sub(r"{(\w+)}", r"{\1:[^/]+}", route.path)
        served = {"GET", "HEAD"} if route.method == "GET" and not route.upgrades else {route.method}
        methods[path] |= served
        for method in sorted(served):
            _add_route(router, method, path, guarded(route))
    for path, known in methods.items():
        _add_route(router, "OPTIONS", path, _options(known))


def _add_route(router: web.UrlDispatcher, method: str, path: str, handler: Handler) -> None:
    """Add a route twice, so that a page of the same origin may have the shorter path."""
    router.add_route(method, path, handler)
    router.add_route(method, API_PREFIX + path, handler)


def guarded(route: Route) -> Handler:
    """Return the handler behind a check of who may call it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        with counted_body(request):
            if route.who is not Who.ANYONE:
                await _admit(request, route)
            return await _call(route, request)

    return _refused_on_socket(handle) if route.upgrades else handle


def _refused_on_socket(handler: Handler) -> Handler:
    """Return the handler of a WebSocket, whose errors a page is told by a close code."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except AttError as error:
            response = await request.app[LISTEN_ENDPOINT].refuse(request, error)
            if response is None:
                raise
            if isinstance(error, Unavailable):
                request.app[REQUEST_LOG].unavailable(request, error)
            return response

    return handle


async def _admit(request: web.Request, route: Route) -> None:
    """Find out who asks, read the body, and check who may call the route."""
    session = request[SESSION] = await identify(request, upgrades=route.upgrades)
    SOURCE.set(session.user_id)
    await request.app[RATE_QUOTAS].take(Quota.REQUESTS, session.user_id)
    is_complete = request.content.is_eof()
    # Before the checks, since their results must still be true when the handler runs.
    await load_body(request)
    if not is_complete and await request.app[SESSIONS].check(session.id) is None:
        raise NotSignedIn
    if route.checked_by_log:
        return
    standing = NO_GROUP
    if "group" in request.match_info:
        group = request[GROUP] = await request.app[GROUP_SERVICE].find(request.match_info["group"], session.user_id)
        standing = Standing(group.role, group.join, group.post)
    target = path_user(request) if "user_id" in request.match_info else None
    try:
        permissions.check(route.who, actor=session.user_id, target=target, standing=standing)
    except Forbidden:
        if route.permission is not None and await is_permitted(request, route.permission):
            return
        seen = await visible_profiles(request, [target]) if target and route.who is Who.FELLOW else []
        if not seen:
            raise
        request[PROFILE] = seen[0]


async def _call(route: Route, request: web.Request) -> web.StreamResponse:
    """Call the handler, if the query and the preconditions (RFC 9110, section 13) allow it.

    Raise InvalidInput for unknown parameters, and PreconditionFailed.
    """
    if route.query is None:
        read_query(request, QueryModel)
    preconditions = read_preconditions(request)
    if preconditions is None:
        return await route.handler(request)
    if request.method in SAFE_METHODS:
        return respond_if_wanted(await route.handler(request), preconditions)
    if not route.conditional:
        preconditions.check(None)
    return await route.handler(request)


def _options(methods: set[str]) -> Handler:
    allow = ", ".join(sorted(methods))

    async def options(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": allow, **preflight(request, allow)})

    return options
