"""Groups and their members."""

from aiohttp import web

from att import errors
from att.api import schemas
from att.api.auth import actor_of, is_permitted, path_user
from att.api.keys import GROUP, GROUP_SERVICE, MARKER_UPDATES
from att.api.route import EXAMPLE_ID, EXAMPLE_TIME, OTHER_EXAMPLE_ID, Examples, Route
from att.core.permissions import Permission, Who
from att.groups.queries import GROUPS_OF_USER, MEMBERS_OF_GROUP, VISIBLE_GROUPS, GroupView
from att.http.context import SESSION
from att.http.requests import read, read_body, read_preconditions, read_query, read_window
from att.http.responses import respond, respond_page
from att.http.schemas import PageOut, PageQuery


async def user_groups(request: web.Request) -> web.Response:
    """List a user's groups."""
    window = read_window(read_query(request, PageQuery), GROUPS_OF_USER.order)
    page = await request.app[GROUP_SERVICE].of_user(path_user(request), window)
    return respond_page(request, page, schemas.GroupOut)


async def create_group(request: web.Request) -> web.Response:
    """Create a group."""
    new = await read(request, schemas.NewGroupIn)
    group = await request.app[GROUP_SERVICE].create(actor=actor_of(request), **new.model_dump(exclude_unset=True))
    return _respond_group(await _with_marker(request, group), status=201)


async def list_groups(request: web.Request) -> web.Response:
    """List one's own groups and the open ones, or all with groups.read."""
    window = read_window(read_query(request, PageQuery), VISIBLE_GROUPS.order)
    groups, user_id = request.app[GROUP_SERVICE], request[SESSION].user_id
    may_read_all = await is_permitted(request, Permission.GROUPS_READ)
    page = await (groups.all if may_read_all else groups.visible_to)(user_id, window)
    return respond_page(request, page, schemas.GroupOut)


async def get_group(request: web.Request) -> web.Response:
    """Return a group."""
    return _respond_group(await _with_marker(request, request[GROUP]))


async def change_group(request: web.Request) -> web.Response:
    """Change a group's name or rules."""
    change = await read(request, schemas.GroupChangeIn)
    given, preconditions = change.model_dump(exclude_unset=True), read_preconditions(request)
    group = await request.app[GROUP_SERVICE].change(request[GROUP].id, actor_of(request), preconditions, **given)
    return _respond_group(await _with_marker(request, group))


async def delete_group(request: web.Request) -> web.Response:
    """Delete a group."""
    await request.app[GROUP_SERVICE].delete(request[GROUP].id, actor_of(request), read_preconditions(request))
    return web.Response(status=204)


async def group_members(request: web.Request) -> web.Response:
    """List a group's members."""
    window = read_window(read_query(request, PageQuery), MEMBERS_OF_GROUP.order)
    page = await request.app[GROUP_SERVICE].members(request[GROUP].id, window)
    return respond_page(request, page, schemas.MemberOut)


async def get_member(request: web.Request) -> web.Response:
    """Return a member of a group."""
    member = await request.app[GROUP_SERVICE].find_member(request[GROUP].id, path_user(request))
    return respond(schemas.MemberOut.model_validate(member))


async def put_member(request: web.Request) -> web.Response:
    """Add a member, join an open group, or change a member's role.

    A user who joins an open group becomes a plain member.
    """
    change = await read(request, schemas.MemberChangeIn) if await read_body(request) else schemas.MemberChangeIn()
    role = change.role if "role" in change.model_fields_set else None
    group, user_id = request[GROUP], path_user(request)
    if role == "owner" and group.role != "owner" and not await is_permitted(request, Permission.GROUPS_WRITE):
        raise errors.NotAnOwner
    actor, preconditions = actor_of(request), read_preconditions(request)
    member, is_new = await request.app[GROUP_SERVICE].add_member(group.id, user_id, actor, role, preconditions)
    return respond(schemas.MemberOut.model_validate(member), status=201 if is_new else 200)


async def add_members(request: web.Request) -> web.Response:
    """Add members, all or none."""
    new = await read(request, schemas.NewMembersIn)
    members = await request.app[GROUP_SERVICE].add_members(request[GROUP].id, new.user_ids, actor_of(request))
    return respond(schemas.ItemsOut[schemas.MemberOut].model_validate({"items": members}), status=201)


async def delete_member(request: web.Request) -> web.Response:
    """Remove a member, or leave the group."""
    await request.app[GROUP_SERVICE].remove_member(request[GROUP].id, path_user(request), actor_of(request))
    return web.Response(status=204)


async def mark_read(request: web.Request) -> web.Response:
    """Move one's read marker of a group.

    It never goes back: a lower seq changes nothing. One above the last event's is cut to that.
    """
    seq = (await read(request, schemas.ReadMarkerChangeIn)).seq
    marker = await request.app[MARKER_UPDATES].move(request[GROUP].id, request[SESSION].user_id, seq)
    return respond(schemas.ReadMarkerOut(read=marker.position.seq, unread=marker.unread))


async def _with_marker(request: web.Request, group: GroupView) -> GroupView:
    [view] = await request.app[GROUP_SERVICE].with_markers([group], request[SESSION].user_id)
    return view


def _respond_group(group: GroupView, *, status: int = 200) -> web.Response:
    return respond(schemas.GroupOut.model_validate(group), status=status, version=group.version)


GROUP_ROUTES = (
    Route(
        "GET /users/{user_id}/groups",
        user_groups,
        Who.ONESELF,
        Permission.GROUPS_READ,
        query=PageQuery,
        responses={200: PageOut[schemas.GroupOut]},
    ),
    Route("GET /groups", list_groups, Who.SIGNED_IN, query=PageQuery, responses={200: PageOut[schemas.GroupOut]}),
    Route(
        "POST /groups",
        create_group,
        Who.SIGNED_IN,
        body=schemas.NewGroupIn,
        responses={201: schemas.GroupOut},
        errors=(errors.GroupNameTaken, errors.QuotaExceeded),
    ),
    Route("GET /groups/{group}", get_group, Who.VISITOR, Permission.GROUPS_READ, responses={200: schemas.GroupOut}),
    Route(
        "PATCH /groups/{group}",
        change_group,
        Who.OWNER,
        Permission.GROUPS_WRITE,
        body=schemas.GroupChangeIn,
        responses={200: schemas.GroupOut},
        errors=(errors.GroupNameTaken, errors.QuotaExceeded),
        conditional=True,
    ),
    Route(
        "DELETE /groups/{group}",
        delete_group,
        Who.OWNER,
        Permission.GROUPS_WRITE,
        responses={204: None},
        conditional=True,
    ),
    Route(
        "GET /groups/{group}/members",
        group_members,
        Who.MEMBER,
        Permission.GROUPS_READ,
        query=PageQuery,
        responses={200: PageOut[schemas.MemberOut]},
    ),
    Route(
        "POST /groups/{group}/members",
        add_members,
        Who.OWNER,
        Permission.GROUPS_WRITE,
        body=schemas.NewMembersIn,
        responses={201: schemas.ItemsOut[schemas.MemberOut]},
        errors=(errors.NoSuchUser, errors.QuotaExceeded),
    ),
    Route(
        "GET /groups/{group}/members/{user_id}",
        get_member,
        Who.MEMBER,
        Permission.GROUPS_READ,
        responses={200: schemas.MemberOut},
        errors=(errors.NoSuchMember,),
    ),
    Route(
        "PUT /groups/{group}/members/{user_id}",
        put_member,
        Who.OWNER_OR_JOINER,
        Permission.GROUPS_WRITE,
        body=schemas.MemberChangeIn,
        is_body_required=False,
        responses={200: schemas.MemberOut, 201: schemas.MemberOut},
        errors=(errors.NoSuchUser, errors.LastOwner, errors.QuotaExceeded),
        conditional=True,
    ),
    Route(
        "DELETE /groups/{group}/members/{user_id}",
        delete_member,
        Who.OWNER_OR_ONESELF,
        Permission.GROUPS_WRITE,
        responses={204: None},
        errors=(errors.NoSuchMember, errors.LastOwner),
    ),
    Route(
        "PUT /groups/{group}/read",
        mark_read,
        Who.MEMBER,
        body=schemas.ReadMarkerChangeIn,
        responses={200: schemas.ReadMarkerOut},
    ),
)

_RULES = {"join": "invite", "post": "members", "retention": 1000, "history": "since_join"}
GROUP_EXAMPLES: Examples = {
    schemas.NewGroupIn: {"name": "tea", **_RULES},
    schemas.GroupChangeIn: {"join": "open"},
    schemas.MemberChangeIn: {"role": "owner"},
    schemas.NewMembersIn: {"user_ids": [EXAMPLE_ID, OTHER_EXAMPLE_ID]},
    schemas.GroupOut: {
        "id": EXAMPLE_ID,
        "name": "tea",
        **_RULES,
        "created_at": EXAMPLE_TIME,
        "seq": 12,
        "role": "owner",
        "read": 10,
        "unread": 2,
    },
    schemas.ReadMarkerChangeIn: {"seq": 12},
    schemas.ReadMarkerOut: {"read": 12, "unread": 0},
    schemas.MemberOut: {
        "user_id": EXAMPLE_ID,
        "login": "ann",
        "first_name": "Ann",
        "last_name": "Lee",
        "role": "member",
        "joined_at": EXAMPLE_TIME,
    },
}
