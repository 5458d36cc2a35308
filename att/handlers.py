"""Every handler, each thin: read the request, make one call to the domain, answer.

Who may call a handler is a column of the table in ``att.routes`` and is settled before it runs.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar, cast
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from att import errors, payloads, roles
from att.clients import THROTTLE, client_of
from att.dialogue import dialogue_of
from att.directory import ORDERS
from att.directory import Filters as UserFilters
from att.errors import AuthFailed, DatabaseUnavailable, NoSuchRole, NoSuchSession, NotAnObject, NotAnOwner, NotSignedIn
from att.group_directory import GROUPS_OF_USER, MEMBERS_OF_GROUP, VISIBLE_GROUPS
from att.handshake import accept, dialect_of, take_over
from att.history import HISTORY_OF_USER, HISTORY_ORDER
from att.history import Filters as HistoryFilters
from att.identity import COOKIE, actor_of, is_permitted, path_group, path_user, set_session_cookie
from att.keys import (
    ACCOUNTS,
    DIRECTORY,
    ENDINGS,
    GROUP,
    GROUPS,
    HEARTBEAT,
    HISTORY,
    HUB,
    LOG,
    REQUEST_ID,
    ROLES,
    SESSION,
    SESSIONS,
    SETTINGS,
    WRITER,
)
from att.names import parse_uuid
from att.permissions import Permission
from att.queries import HistoryQuery, IdsQuery, PageQuery, UsersQuery
from att.realtime.log import Draft
from att.realtime.registry import Listener
from att.sessions import SESSIONS_OF_USER, SessionInfo, SignIn, Verified
from att.sockets import Socket
from att.users import NewUser, User, UserChange
from att.web import (
    answer,
    answer_page,
    parse_json,
    problem_of,
    read,
    read_body,
    read_idempotency_key,
    read_query,
    read_some,
    read_window,
)

One = TypeVar("One", bound=BaseModel)
Many = TypeVar("Many", bound=BaseModel)


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
    async with request.app[THROTTLE].sign_up(client_of(request).address):
        verified = await request.app[ACCOUNTS].sign_up(account.login, account.password, request[REQUEST_ID])
    with errors.saying("The account has been made, but it cannot be signed in now. Log in in a moment."):
        response = await _sign_in(request, verified)
    response.set_status(201)
    return response


async def login(request: web.Request) -> web.Response:
    """Start a session."""
    credentials = await read(request, payloads.Credentials)
    async with request.app[THROTTLE].guess(credentials.login, client_of(request).address):
        verified = await request.app[ACCOUNTS].authenticate(credentials.login, credentials.password)
        return await _sign_in(request, verified)


async def logout(request: web.Request) -> web.Response:
    """End the session, and close its sockets."""
    session = request[SESSION]
    try:
        await request.app[SESSIONS].end(session.id)
    finally:
        # Also when it is not known whether the session is gone: whoever logs out wants them closed.
        request.app[ENDINGS].session_ended(session.id)
    response = web.Response(status=204)
    response.del_cookie(COOKIE)
    return response


async def list_sessions(request: web.Request) -> web.Response:
    """The sessions of a user."""
    window = read_window(read_query(request, PageQuery), SESSIONS_OF_USER.order)
    page = await request.app[SESSIONS].of_user(_owner_of_sessions(request), window)
    own, registry = request[SESSION].id, request.app[HUB].registry

    def show(info: SessionInfo) -> payloads.Session:
        sockets = len(registry.of_session(info.id))
        return payloads.Session(**info._asdict(), current=info.id == own, sockets=sockets)

    shown = page.map(show)
    return answer_page(request, shown, payloads.Session)


async def end_sessions(request: web.Request) -> web.Response:
    """End the sessions of a user, but for the one that asks, and close their sockets."""
    user_id = _owner_of_sessions(request)
    try:
        ended = await request.app[SESSIONS].end_all(user_id, keep=request[SESSION].id)
    except DatabaseUnavailable:
        request.app[ENDINGS].user_uncertain(user_id)
        raise
    for session_id in ended:
        request.app[ENDINGS].session_ended(session_id)
    return answer(payloads.Deleted(deleted=len(ended)))


async def end_session(request: web.Request) -> web.Response:
    """End a session of a user, and close its sockets."""
    user_id = _owner_of_sessions(request)
    session_id = parse_uuid(request.match_info["session_id"])
    if session_id is None:
        raise NoSuchSession
    try:
        await request.app[SESSIONS].end_one(user_id, session_id)
    except DatabaseUnavailable:
        request.app[ENDINGS].user_uncertain(user_id)
        raise
    request.app[ENDINGS].session_ended(session_id)
    response = web.Response(status=204)
    if session_id == request[SESSION].id:
        response.del_cookie(COOKIE)
    return response


# Users


async def list_users(request: web.Request) -> web.Response:
    """The users whom the filters leave."""
    query = read_query(request, UsersQuery)
    filters = UserFilters(**query.model_dump(include=set(UserFilters._fields)))
    page = await request.app[DIRECTORY].list(filters, query.sort, read_window(query, ORDERS[query.sort]))
    return answer_page(request, page, payloads.User)


async def create_users(request: web.Request) -> web.Response:
    """Make one user of an object, or many of an array."""
    new = await read_some(request, payloads.NewUser, payloads.NewUsers)
    if not isinstance(new, list):
        return _answer_user(await request.app[ACCOUNTS].create(_new_user(new), actor_of(request)), status=201)
    users = await request.app[ACCOUNTS].create_many([_new_user(one) for one in new], actor_of(request))
    return answer(payloads.Items[payloads.User].model_validate({"items": users}, from_attributes=True), status=201)


async def get_user(request: web.Request) -> web.Response:
    """A user."""
    return _answer_user(await request.app[DIRECTORY].find(path_user(request)))


async def change_user(request: web.Request) -> web.Response:
    """Change the members of a user that are given."""
    change = await read(request, payloads.UserChange)
    values = change.model_dump(exclude_unset=True)
    versions = _versions_wanted(request)
    async with _slowly(request, change, path_user(request)):
        user = await request.app[ACCOUNTS].change(path_user(request), values, actor_of(request), versions)
    return _answer_user(user)


async def change_users(request: web.Request) -> web.Response:
    """Change many users, each as ``change_user`` does."""
    changes = await read(request, payloads.UserChanges)
    named = [UserChange(one.id, one.model_dump(exclude_unset=True, exclude={"id"})) for one in changes.root]
    own = next((one for one in changes.root if one.id == request[SESSION].user_id), None)
    async with _slowly(request, own, own.id) if own else contextlib.nullcontext():
        users = await request.app[ACCOUNTS].change_many(named, actor_of(request))
    return answer(payloads.Items[payloads.User].model_validate({"items": users}, from_attributes=True))


async def delete_user(request: web.Request) -> web.Response:
    """Delete a user."""
    await request.app[ACCOUNTS].delete(path_user(request), actor_of(request))
    return web.Response(status=204)


async def delete_users(request: web.Request) -> web.Response:
    """Delete many users."""
    query = read_query(request, IdsQuery)
    deleted = await request.app[ACCOUNTS].delete_many(query.id, actor_of(request))
    return answer(payloads.Deleted(deleted=deleted))


@contextlib.asynccontextmanager
async def _slowly(request: web.Request, change: payloads.UserChange, user_id: UUID) -> AsyncIterator[None]:
    """Around a change: one's own password is not guessed, nor other logins tried out, faster than before one is in."""
    throttle, address, own = request.app[THROTTLE], client_of(request).address, request[SESSION].user_id
    async with contextlib.AsyncExitStack() as stack:
        if "current_password" in change.model_fields_set:
            await stack.enter_async_context(throttle.guess(str(own), address))
        if "login" in change.model_fields_set and user_id == own:
            await stack.enter_async_context(throttle.rename(address))
        yield


def _new_user(new: payloads.NewUser) -> NewUser:
    return NewUser(**new.model_dump())


def _answer_user(user: User, *, status: int = 200) -> web.Response:
    response = answer(payloads.User.model_validate(user), status=status)
    response.etag = user.version
    return response


def _versions_wanted(request: web.Request) -> set[str] | None:
    """Those of If-Match (RFC 9110), of which the user must have one; None when any will do."""
    tags = request.if_match
    if tags is None or request.headers["If-Match"].strip() == "*":
        return None
    return {tag.value for tag in tags if not tag.is_weak}


# Groups


async def user_groups(request: web.Request) -> web.Response:
    """The groups of a user."""
    window = read_window(read_query(request, PageQuery), GROUPS_OF_USER.order)
    page = await request.app[GROUPS].of_user(path_user(request), window)
    return answer_page(request, page, payloads.Group)


async def create_group(request: web.Request) -> web.Response:
    """Make a group, and own it."""
    new = await read(request, payloads.NewGroup)
    group = await request.app[GROUPS].create(actor=actor_of(request), **new.model_dump())
    return answer(payloads.Group.model_validate(group), status=201)


async def list_groups(request: web.Request) -> web.Response:
    """One's own groups and the open ones; all of them for whoever may read all."""
    window = read_window(read_query(request, PageQuery), VISIBLE_GROUPS.order)
    groups, user_id = request.app[GROUPS], request[SESSION].user_id
    may_read_all = await is_permitted(request, Permission.GROUPS_READ)
    page = await (groups.all if may_read_all else groups.visible_to)(user_id, window)
    return answer_page(request, page, payloads.Group)


async def get_group(request: web.Request) -> web.Response:
    """A group."""
    return answer(payloads.Group.model_validate(request[GROUP]))


async def change_group(request: web.Request) -> web.Response:
    """Change a group's name or rules."""
    change = await read(request, payloads.GroupChange)
    given = change.model_dump(exclude_unset=True)
    group = await request.app[GROUPS].change(request[GROUP].id, actor_of(request), **given)
    return answer(payloads.Group.model_validate(group))


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
    """Make a user a member, or give a member a role: 201 for a new one, 200 for one who was there already.

    Whoever lets themselves into an open group becomes a plain member.
    """
    change = await read(request, payloads.MemberChange) if await read_body(request) else payloads.MemberChange()
    role = change.role if "role" in change.model_fields_set else None
    group, user_id = request[GROUP], path_user(request)
    if role == "owner" and group.role != "owner" and not await is_permitted(request, Permission.GROUPS_WRITE):
        raise NotAnOwner
    member, is_new = await request.app[GROUPS].add_member(group.id, user_id, actor_of(request), role)
    return answer(payloads.Member.model_validate(member), status=201 if is_new else 200)


async def add_members(request: web.Request) -> web.Response:
    """Make users members, all or none."""
    new = await read(request, payloads.NewMembers)
    members = await request.app[GROUPS].add_members(request[GROUP].id, new.user_ids, actor_of(request))
    return answer(payloads.Items[payloads.Member].model_validate({"items": members}), status=201)


async def delete_member(request: web.Request) -> web.Response:
    """Remove a member from a group."""
    await request.app[GROUPS].remove_member(request[GROUP].id, path_user(request), actor_of(request))
    return web.Response(status=204)


async def broadcast(request: web.Request) -> web.Response:
    """Append a JSON object, byte for byte, to the log of the group, for everyone who listens to it."""
    body = await read_body(request)
    if not isinstance(parse_json(body), dict):
        raise NotAnObject
    draft = Draft(path_group(request), request[SESSION].user_id, body, read_idempotency_key(request))
    (event, _), counted = await request.app[WRITER].publish(draft)
    return answer(payloads.Delivery(group=event.group_id, seq=event.seq, at=event.at, **counted._asdict()))


async def listen(request: web.Request) -> web.StreamResponse:
    """Hear, on a WebSocket, every broadcast to a group of one's own."""
    session, sessions, dialect = request[SESSION], request.app[SESSIONS], dialect_of(request)
    socket = Socket(request.app[HEARTBEAT], sessions, request.app[SETTINGS].outbox_limit)
    listener = Listener(session.user_id, session.id, socket, dialect)
    dialogue = dialogue_of(request, listener, socket)
    with contextlib.ExitStack() as undo:
        undo.callback(dialogue.end)
        request.app[HUB].attach(listener)
        # Both are read once the listener is attached, so that what changes meanwhile reaches it.
        if await sessions.check(session.id) is None:
            raise NotSignedIn
        positions = await request.app[LOG].positions(session.user_id)
        response = await accept(request, dialect)
        undo.callback(socket.abort)
        taken = take_over(request, socket)
        socket.open(taken, session, dialogue, dialect)
        dialogue.begin(positions)
        socket.listen(taken.early)
        undo.pop_all()
    return response


# The history


async def list_history(request: web.Request) -> web.Response:
    """Who changed what, the newest first."""
    query = read_query(request, HistoryQuery)
    window = read_window(query, HISTORY_ORDER)
    filters = cast(HistoryFilters, query.model_dump(exclude={"limit", "after"}, exclude_none=True))
    return answer_page(request, await request.app[HISTORY].page(window, filters), payloads.Change)


async def user_history(request: web.Request) -> web.Response:
    """What was changed of a user and of their memberships, the newest first."""
    window = read_window(read_query(request, PageQuery), HISTORY_OF_USER.order)
    page = await request.app[HISTORY].of_user(path_user(request), window)
    return answer_page(request, page, payloads.Change)


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


async def _sign_in(request: web.Request, verified: Verified) -> web.Response:
    signed_in = await request.app[SESSIONS].create(verified, client_of(request))
    response = make_login_response(verified.user_id, signed_in)
    set_session_cookie(request, response, signed_in.token)
    return response


def _owner_of_sessions(request: web.Request) -> UUID:
    return path_user(request) if "user_id" in request.match_info else request[SESSION].user_id
