"""Every handler, each thin: read the request, make one call to the domain, answer.

Who may call a handler is a column of the table in ``att.routes`` and is settled before it runs.
"""

from typing import cast
from uuid import UUID

from aiohttp import web

from att import payloads
from att.errors import AuthFailed, NotAnObject, NotSignedIn
from att.groups import GROUPS_OF_USER, MEMBERS_OF_GROUP
from att.history import HISTORY_OF_USER, HISTORY_ORDER, Filters
from att.queries import HistoryQuery, PageQuery
from att.realtime.registry import Listener
from att.sessions import SignIn
from att.sockets import Socket
from att.web import (
    ACCOUNTS,
    COOKIE,
    GROUP,
    GROUPS,
    HISTORY,
    HUB,
    REQUEST_ID,
    SESSION,
    SESSIONS,
    SETTINGS,
    actor_of,
    answer,
    answer_page,
    parse_json,
    path_user,
    problem_of,
    read,
    read_body,
    read_query,
    read_window,
    set_session_cookie,
)


def make_login_response(user_id: UUID | str | None, session: SignIn | None = None) -> web.Response:
    """The answer to a log-in: 200 with the user's id, and with the token of the session if there is one.

    Without a user it is the 401 that says neither which of login and password was wrong, nor why.
    """
    if user_id is None:
        return problem_of(AuthFailed())
    body = {"user_id": str(user_id)}
    if session is not None:
        body |= {"token": session.token, "expires_at": session.expires_at.isoformat().replace("+00:00", "Z")}
    return web.json_response(body)


async def signup(request: web.Request) -> web.Response:
    """Make an account, and sign it in."""
    account = await read(request, payloads.NewAccount)
    user_id = await request.app[ACCOUNTS].sign_up(account.login, account.password, request[REQUEST_ID])
    response = await _sign_in(request, user_id)
    response.set_status(201)
    return response


async def login(request: web.Request) -> web.Response:
    """Start a session."""
    credentials = await read(request, payloads.Credentials)
    user_id = await request.app[ACCOUNTS].authenticate(credentials.login, credentials.password)
    return await _sign_in(request, user_id)


async def logout(request: web.Request) -> web.Response:
    """End the session, and close its sockets."""
    session = request[SESSION]
    try:
        await request.app[SESSIONS].end(session.id)
    finally:
        # Also when it is not known whether the session is gone: whoever logs out wants them closed.
        request.app[HUB].session_ended(session.id)
    response = web.Response(status=204)
    response.del_cookie(COOKIE)
    return response


async def user_groups(request: web.Request) -> web.Response:
    """The groups of a user."""
    window = read_window(read_query(request, PageQuery), GROUPS_OF_USER.order)
    page = await request.app[GROUPS].of_user(path_user(request), window)
    return answer_page(request, page, payloads.Group)


async def create_group(request: web.Request) -> web.Response:
    """Make a group, and own it."""
    new = await read(request, payloads.NewGroup)
    group = await request.app[GROUPS].create(new.name, actor_of(request))
    return answer(payloads.Group.model_validate(group), status=201)


async def get_group(request: web.Request) -> web.Response:
    """A group."""
    return answer(payloads.Group.model_validate(request[GROUP]))


async def delete_group(request: web.Request) -> web.Response:
    """Delete a group."""
    await request.app[GROUPS].delete(request[GROUP].id, actor_of(request))
    return web.Response(status=204)


async def group_members(request: web.Request) -> web.Response:
    """The members of a group."""
    window = read_window(read_query(request, PageQuery), MEMBERS_OF_GROUP.order)
    page = await request.app[GROUPS].members(request[GROUP].id, window)
    return answer_page(request, page, payloads.Member)


async def put_member(request: web.Request) -> web.Response:
    """Make a user a member: 201, or 200 when they were one already."""
    if await read_body(request):
        await read(request, payloads.MemberChange)
    member, is_new = await request.app[GROUPS].add_member(request[GROUP].id, path_user(request), actor_of(request))
    return answer(payloads.Member.model_validate(member), status=201 if is_new else 200)


async def delete_member(request: web.Request) -> web.Response:
    """Remove a member from a group."""
    await request.app[GROUPS].remove_member(request[GROUP].id, path_user(request), actor_of(request))
    return web.Response(status=204)


async def broadcast(request: web.Request) -> web.Response:
    """Send a JSON object, byte for byte, to everyone who listens to the group."""
    body = await read_body(request)
    if not isinstance(parse_json(body), dict):
        raise NotAnObject
    delivered = request.app[HUB].broadcast(request[GROUP].id, body)
    return answer(payloads.Delivery(group=request[GROUP].id, delivered=delivered))


async def listen(request: web.Request) -> web.StreamResponse:
    """Hear, on a WebSocket, every broadcast to a group of one's own."""
    session, sessions, hub = request[SESSION], request.app[SESSIONS], request.app[HUB]
    socket = Socket(request.app[SETTINGS].outbox_limit)
    socket.check(request)
    listener = Listener(session.user_id, session.id, socket)
    hub.attach(listener)
    try:
        # Both are read once the listener is attached, so that what changes meanwhile reaches it.
        if await sessions.check(session.id) is None:
            raise NotSignedIn
        groups = await request.app[GROUPS].ids_of_user(session.user_id)
        hub.settle(listener, groups)
        return await socket.run(request, session, sessions)
    finally:
        hub.detach(listener)


# The history


async def list_history(request: web.Request) -> web.Response:
    """Who changed what, the newest first."""
    query = read_query(request, HistoryQuery)
    window = read_window(query, HISTORY_ORDER)
    filters = cast(Filters, query.model_dump(exclude={"limit", "after"}, exclude_none=True))
    return answer_page(request, await request.app[HISTORY].page(window, filters), payloads.Change)


async def user_history(request: web.Request) -> web.Response:
    """What was changed of a user and of their memberships, the newest first."""
    window = read_window(read_query(request, PageQuery), HISTORY_OF_USER.order)
    page = await request.app[HISTORY].of_user(path_user(request), window)
    return answer_page(request, page, payloads.Change)


async def _sign_in(request: web.Request, user_id: UUID) -> web.Response:
    signed_in = await request.app[SESSIONS].create(user_id)
    response = make_login_response(user_id, signed_in)
    set_session_cookie(request, response, signed_in.token)
    return response
