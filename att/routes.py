"""The API as one table: method, path, handler, who may, and what it is for. Nothing is served that is not in it."""

from att import docs, errors, events, handlers, payloads, presence_handlers, queries
from att.account_routes import ACCOUNTS, HISTORY, ROLES, SESSIONS, USERS
from att.payloads import Page
from att.permissions import Permission, Who
from att.routing import File, Route, Shapes

_GROUP = Shapes(answers={200: payloads.Group})
_NOTHING = Shapes(answers={204: None})

GROUPS = (
    Route(
        "GET",
        "/users/{user_id}/groups",
        handlers.user_groups,
        Who.ONESELF,
        "List a user's groups",
        Shapes(query=queries.PageQuery, answers={200: Page[payloads.Group]}),
        Permission.GROUPS_READ,
    ),
    Route(
        "GET",
        "/groups",
        handlers.list_groups,
        Who.SIGNED_IN,
        "List one's own groups and the open ones, or all with groups.read",
        Shapes(query=queries.PageQuery, answers={200: Page[payloads.Group]}),
    ),
    Route(
        "POST",
        "/groups",
        handlers.create_group,
        Who.SIGNED_IN,
        "Make a group",
        Shapes(body=payloads.NewGroup, answers={201: payloads.Group}, errors=(errors.GroupNameTaken,)),
    ),
    Route("GET", "/groups/{group}", handlers.get_group, Who.VISITOR, "Show a group", _GROUP, Permission.GROUPS_READ),
    Route(
        "PATCH",
        "/groups/{group}",
        handlers.change_group,
        Who.OWNER,
        "Change a group's name or rules",
        Shapes(body=payloads.GroupChange, answers={200: payloads.Group}, errors=(errors.GroupNameTaken,)),
        Permission.GROUPS_WRITE,
    ),
    Route(
        "DELETE",
        "/groups/{group}",
        handlers.delete_group,
        Who.OWNER,
        "Delete a group",
        _NOTHING,
        Permission.GROUPS_WRITE,
    ),
    Route(
        "GET",
        "/groups/{group}/members",
        handlers.group_members,
        Who.MEMBER,
        "List a group's members",
        Shapes(query=queries.PageQuery, answers={200: Page[payloads.Member]}),
        Permission.GROUPS_READ,
    ),
    Route(
        "POST",
        "/groups/{group}/members",
        handlers.add_members,
        Who.OWNER,
        "Add members, all or none",
        Shapes(body=payloads.NewMembers, answers={201: payloads.Items[payloads.Member]}, errors=(errors.NoSuchUser,)),
        Permission.GROUPS_WRITE,
    ),
    Route(
        "PUT",
        "/groups/{group}/members/{user_id}",
        handlers.put_member,
        Who.OWNER_OR_JOINER,
        "Add a member, join an open group, or change a member's role",
        Shapes(
            body=payloads.MemberChange,
            is_body_required=False,
            answers={200: payloads.Member, 201: payloads.Member},
            errors=(errors.NoSuchUser, errors.LastOwner),
        ),
        Permission.GROUPS_WRITE,
    ),
    Route(
        "DELETE",
        "/groups/{group}/members/{user_id}",
        handlers.delete_member,
        Who.OWNER_OR_ONESELF,
        "Remove a member, or leave",
        Shapes(answers={204: None}, errors=(errors.NoSuchMember, errors.LastOwner)),
        Permission.GROUPS_WRITE,
    ),
    Route(
        "GET",
        "/groups/{group}/events",
        events.group_events,
        Who.MEMBER,
        "Read a group's log",
        Shapes(query=queries.EventsQuery, answers={200: Page[payloads.Event]}),
        Permission.GROUPS_READ,
    ),
    Route(
        "GET",
        "/groups/{group}/presence",
        presence_handlers.group_presence,
        Who.MEMBER,
        "List the members who are connected, to whichever server",
        Shapes(query=queries.PageQuery, answers={200: Page[payloads.Present]}),
        Permission.GROUPS_READ,
    ),
    Route(
        "GET",
        "/users/{user_id}/presence",
        presence_handlers.user_presence,
        Who.ONESELF,
        "Show whether a user is connected, to whichever server",
        Shapes(answers={200: payloads.Presence}, errors=(errors.NoSuchUser,)),
        Permission.USERS_READ,
    ),
    Route(
        "POST",
        "/broadcast/{group}",
        handlers.broadcast,
        Who.POSTER,
        "Send a JSON object to a group",
        Shapes(body=payloads.Message, answers={200: payloads.Delivery}, errors=(errors.NotAnObject,), takes_key=True),
        Permission.BROADCAST_ANY,
        settled_by_log=True,
    ),
    Route(
        "GET",
        "/listen/{user_id}",
        handlers.listen,
        Who.ONESELF,
        "Hear one's groups, on a WebSocket",
        Shapes(answers={101: None}, errors=(errors.UpgradeRequired,)),
        upgrades=True,
    ),
)

DOCS = (
    Route(
        "GET",
        "/openapi.json",
        docs.openapi,
        Who.ANYONE,
        "This document (OpenAPI 3.1)",
        Shapes(answers={200: File(("application/json",))}),
    ),
    Route(
        "GET",
        "/docs",
        docs.docs,
        Who.ANYONE,
        "This document, to be read and tried in a browser",
        Shapes(answers={200: File(("text/html",))}),
    ),
    Route(
        "GET",
        "/docs/{file}",
        docs.docs_file,
        Who.ANYONE,
        "A file of that page",
        Shapes(answers={200: File(tuple(sorted({*docs.MEDIA_TYPES.values()}))), 304: None}),
    ),
)

ROUTES = (*ACCOUNTS, *SESSIONS, *USERS, *ROLES, *HISTORY, *GROUPS, *DOCS)
