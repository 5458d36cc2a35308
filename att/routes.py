"""The API as one table: method, path, handler, who may, and what it is for. Nothing is served that is not in it."""

import re
from collections import defaultdict
from dataclasses import dataclass

from aiohttp import web

from att import handlers, permissions
from att.permissions import Who
from att.web import GROUP, GROUPS, SESSION, Handler, identify, load_body, path_user


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table. A GET route answers HEAD as well, unless it ``upgrades`` to a WebSocket."""

    method: str
    path: str
    handler: Handler
    who: Who
    summary: str
    upgrades: bool = False


ROUTES = (
    Route("POST", "/signup", handlers.signup, Who.ANYONE, "Make an account"),
    Route("POST", "/login", handlers.login, Who.ANYONE, "Start a session"),
    Route("POST", "/logout", handlers.logout, Who.SIGNED_IN, "End the session"),
    Route("GET", "/users/{user_id}/groups", handlers.user_groups, Who.ONESELF, "List a user's groups"),
    Route("POST", "/groups", handlers.create_group, Who.SIGNED_IN, "Make a group"),
    Route("GET", "/groups/{group}", handlers.get_group, Who.MEMBER, "Show a group"),
    Route("DELETE", "/groups/{group}", handlers.delete_group, Who.OWNER, "Delete a group"),
    Route("GET", "/groups/{group}/members", handlers.group_members, Who.MEMBER, "List a group's members"),
    Route("PUT", "/groups/{group}/members/{user_id}", handlers.put_member, Who.OWNER, "Add a member"),
    Route(
        "DELETE",
        "/groups/{group}/members/{user_id}",
        handlers.delete_member,
        Who.OWNER_OR_ONESELF,
        "Remove a member, or leave",
    ),
    Route("POST", "/broadcast/{group}", handlers.broadcast, Who.MEMBER, "Send a JSON object to a group"),
    Route("GET", "/listen/{user_id}", handlers.listen, Who.ONESELF, "Hear one's groups", upgrades=True),
)


def add_routes(router: web.UrlDispatcher) -> None:
    """Serve the table, each handler behind its guard, and OPTIONS for each path."""
    methods: defaultdict[str, set[str]] = defaultdict(lambda: {"OPTIONS"})
    for route in ROUTES:
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
        role = None
        if "group" in request.match_info:
            group = request[GROUP] = await request.app[GROUPS].find(request.match_info["group"], session.user_id)
            role = group.role
        target = path_user(request) if "user_id" in request.match_info else None
        permissions.check(route.who, actor=session.user_id, target=target, role=role)
        return await route.handler(request)

    return handle


def _options(methods: set[str]) -> Handler:
    allow = ", ".join(sorted(methods))

    async def options(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": allow})

    return options
