"""Every handler, each thin: read the request, make one call to the domain, answer.

Who may call a handler is a column of the table in ``att.routes`` and is settled before it runs.
"""

from uuid import UUID

from aiohttp import web

from att import payloads, roles
from att.errors import AuthFailed, NoSuchRole, NotAnObject, NotSignedIn
from att.groups import GROUPS_OF_USER, MEMBERS_OF_GROUP
from att.names import parse_uuid
from att.queries import IdsQuery, PageQuery
from att.realtime.registry import Listener
from att.sessions import SignIn
from att.sockets import Socket
from att.web import (
    ACCOUNTS,
    COOKIE,
    GROUP,
    GROUPS,
    HUB,
    REQUEST_ID,
    ROLES,
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
    read_some,
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


async def list_roles(request: web.Request) -> web.Response:
    """The roles, by name."""
    window = read_window(read_query(request, PageQuery), roles.ROLES.order)
    return answer_page(request, await request.app[ROLES].page(window), payloads.Role)


async def create_roles(request: web.Request) -> web.Response:
    """Make a role, or many."""
    body, actor = await read_some(request, payloads.NewRole, payloads.NewRoles), actor_of(request)
    if isinstance(body, list):
        new = [roles.NewRole(role.name, role.permissions) for role in body]
        return _answer_roles(await request.app[ROLES].create_many(new, actor), status=201)
    role = await request.app[ROLES].create(roles.NewRole(body.name, body.permissions), actor)
    return answer(payloads.Role.model_validate(role), status=201)


async def change_roles(request: web.Request) -> web.Response:
    """Change many roles."""
    body = await read(request, payloads.RoleChanges)
    changes = [_role_change(change.id, change) for change in body.root]
    return _answer_roles(await request.app[ROLES].change_many(changes, actor_of(request)))


async def delete_roles(request: web.Request) -> web.Response:
    """Delete many roles."""
    query = read_query(request, IdsQuery)
    deleted = await request.app[ROLES].delete_many(query.id, actor_of(request))
    return answer(payloads.Deleted(deleted=deleted))


async def get_role(request: web.Request) -> web.Response:
    """A role."""
    return answer(payloads.Role.model_validate(await request.app[ROLES].find(_path_role(request))))


async def change_role(request: web.Request) -> web.Response:
    """Change a role."""
    change = _role_change(_path_role(request), await read(request, payloads.RoleChange))
    return answer(payloads.Role.model_validate(await request.app[ROLES].change(change, actor_of(request))))


async def delete_role(request: web.Request) -> web.Response:
    """Delete a role."""
    await request.app[ROLES].delete(_path_role(request), actor_of(request))
    return web.Response(status=204)


def _path_role(request: web.Request) -> UUID:
    """The role in the path. Raises NoSuchRole when it is no UUID."""
    role_id = parse_uuid(request.match_info["role_id"])
    if role_id is None:
        raise NoSuchRole
    return role_id


def _role_change(role_id: UUID, body: payloads.RoleChange) -> roles.RoleChange:
    given = body.model_fields_set
    return roles.RoleChange(
        role_id, body.name if "name" in given else None, body.permissions if "permissions" in given else None
    )


def _answer_roles(found: list[roles.Role], *, status: int = 200) -> web.Response:
    items = [payloads.Role.model_validate(role) for role in found]
    return answer(payloads.Items[payloads.Role](items=items), status=status)


async def _sign_in(request: web.Request, user_id: UUID) -> web.Response:
    signed_in = await request.app[SESSIONS].create(user_id)
    response = make_login_response(user_id, signed_in)
    set_session_cookie(request, response, signed_in.token)
    return response
