"""A route: what it serves, to whom, and how the guard before its handler holds that."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from pydantic import BaseModel

from att import permissions
from att.cors import preflight
from att.errors import AttError, Forbidden
from att.identity import identify, is_permitted, path_user
from att.keys import GROUP, GROUPS, SESSION
from att.permissions import NO_GROUP, Permission, Standing, Who
from att.queries import Query
from att.web import Handler, load_body


@dataclass(frozen=True, slots=True)
class File:
    """An answer that is no shape of ours, of one of these media types."""

    media_types: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What goes in and out. ``body`` is one shape or either of two; ``errors`` are those that are a route's own.

    A request that ``takes_key`` can be sent again safely, by a key in its header. Errors that follow from the rest (who
    may, a body, a path) are not repeated here.
    """

    body: type[BaseModel] | tuple[type[BaseModel], type[BaseModel]] | None = None
    query: type[Query] | None = None
    answers: Mapping[int, type[BaseModel] | tuple[type[BaseModel], type[BaseModel]] | File | None]
    is_body_required: bool = True
    takes_key: bool = False
    errors: tuple[type[AttError], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: whom it is open to, and the permission that opens it to others.

    A GET route answers HEAD as well, unless it ``upgrades`` to a WebSocket. Who may post is ``settled_by_log``, in the
    very transaction that appends.
    """

    method: str
    path: str
    handler: Handler
    who: Who
    summary: str
    shapes: Shapes
    permission: Permission | None = None
    upgrades: bool = field(default=False, kw_only=True)
    settled_by_log: bool = field(default=False, kw_only=True)


def add_routes(router: web.UrlDispatcher, routes: Iterable[Route]) -> None:
    """Serve them, each handler behind its guard, and OPTIONS for each path."""
    methods: defaultdict[str, set[str]] = defaultdict(lambda: {"OPTIONS"})
    for route in routes:
        # A name in a path may contain anything but a slash; aiohttp's own pattern leaves out braces.
        path = re.sub(r"{(\w+)}", r"{\1:[^/]+}", route.path)
        served = {"GET", "HEAD"} if route.method == "GET" and not route.upgrades else {route.method}
        methods[path] |= served
        for method in sorted(served):
            router.add_route(method, path, guarded(route))
    for path, known in methods.items():
        router.add_route("OPTIONS", path, _options(known))


def guarded(route: Route) -> Handler:
    """The handler, run only for those who may."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if route.who is Who.ANYONE:
            return await route.handler(request)
        # Before it is asked who and whether: what is found then must still hold when the handler runs.
        await load_body(request)
        session = request[SESSION] = await identify(request)
        if route.settled_by_log:
            return await route.handler(request)
        standing = NO_GROUP
        if "group" in request.match_info:
            group = request[GROUP] = await request.app[GROUPS].find(request.match_info["group"], session.user_id)
            standing = Standing(group.role, group.join, group.post)
        target = path_user(request) if "user_id" in request.match_info else None
        try:
            permissions.check(route.who, actor=session.user_id, target=target, standing=standing)
        except Forbidden:
            if route.permission is None or not await is_permitted(request, route.permission):
                raise
        return await route.handler(request)

    return handle


def _options(methods: set[str]) -> Handler:
    allow = ", ".join(sorted(methods))

    async def options(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": allow, **preflight(request, allow)})

    return options
