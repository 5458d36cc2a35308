"""The API as one table: method, path, handler, who may, and what it is for. Nothing is served that is not in it."""

from att import docs, errors, handlers, payloads, queries
from att.payloads import Page
from att.permissions import Permission, Who
from att.routing import File, Route, Shapes

_GROUP = Shapes(answers={200: payloads.Group})
_NOTHING = Shapes(answers={204: None})

ACCOUNTS = (
    Route(
        "POST",
        "/signup",
        handlers.signup,
        Who.ANYONE,
        "Make an account",
        Shapes(
            body=payloads.NewAccount,
            answers={201: payloads.SignedIn},
            errors=(errors.LoginTaken, errors.TooManyAttempts),
        ),
    ),
    Route(
        "POST",
        "/login",
        handlers.login,
        Who.ANYONE,
        "Start a session",
        Shapes(
            body=payloads.Credentials,
            answers={200: payloads.SignedIn},
            errors=(errors.AuthFailed, errors.TooManyAttempts),
        ),
    ),
    Route("POST", "/logout", handlers.logout, Who.SIGNED_IN, "End the session", _NOTHING),
)

_SESSIONS = Shapes(query=queries.PageQuery, answers={200: Page[payloads.Session]})
_SESSIONS_ENDED = Shapes(answers={200: payloads.Deleted})
_SESSION_ENDED = Shapes(answers={204: None}, errors=(errors.NoSuchSession,))

SESSIONS = (
    Route("GET", "/sessions", handlers.list_sessions, Who.SIGNED_IN, "List one's own sessions", _SESSIONS),
    Route("DELETE", "/sessions", handlers.end_sessions, Who.SIGNED_IN, "End one's other sessions", _SESSIONS_ENDED),
    Route(
        "DELETE",
        "/sessions/{session_id}",
        handlers.end_session,
        Who.SIGNED_IN,
        "End a session of one's own",
        _SESSION_ENDED,
    ),
    Route(
        "GET",
        "/users/{user_id}/sessions",
        handlers.list_sessions,
        Who.ONESELF,
        "List a user's sessions",
        _SESSIONS,
        Permission.SESSIONS_WRITE,
    ),
    Route(
        "DELETE",
        "/users/{user_id}/sessions",
        handlers.end_sessions,
        Who.ONESELF,
        "End a user's sessions, but for the one that asks",
        _SESSIONS_ENDED,
        Permission.SESSIONS_WRITE,
    ),
    Route(
        "DELETE",
        "/users/{user_id}/sessions/{session_id}",
        handlers.end_session,
        Who.ONESELF,
        "End a session of a user's",
        _SESSION_ENDED,
        Permission.SESSIONS_WRITE,
    ),
)

_USER = {200: payloads.User}
_GIVEN = (errors.NoSuchRole, errors.LoginTaken)
_CHANGED = (*_GIVEN, errors.NoSuchUser, errors.WrongPassword, errors.LastAdministrator)

USERS = (
    Route(
        "GET",
        "/users",
        handlers.list_users,
        Who.PERMITTED,
        "List users",
        Shapes(query=queries.UsersQuery, answers={200: Page[payloads.User]}),
        Permission.USERS_READ,
    ),
    Route(
        "POST",
        "/users",
        handlers.create_users,
        Who.PERMITTED,
        "Make a user, or many",
        Shapes(
            body=(payloads.NewUser, payloads.NewUsers),
            answers={201: (payloads.User, payloads.Items[payloads.User])},
            errors=_GIVEN,
        ),
        Permission.USERS_WRITE,
    ),
    Route(
        "PATCH",
        "/users",
        handlers.change_users,
        Who.PERMITTED,
        "Change many users",
        Shapes(body=payloads.UserChanges, answers={200: payloads.Items[payloads.User]}, errors=_CHANGED),
        Permission.USERS_WRITE,
    ),
    Route(
        "DELETE",
        "/users",
        handlers.delete_users,
        Who.PERMITTED,
        "Delete many users",
        Shapes(
            query=queries.IdsQuery,
            answers={200: payloads.Deleted},
            errors=(errors.NoSuchUser, errors.LastAdministrator),
        ),
        Permission.USERS_WRITE,
    ),
    Route(
        "GET",
        "/users/{user_id}",
        handlers.get_user,
        Who.ONESELF,
        "Show a user",
        Shapes(answers=_USER, errors=(errors.NoSuchUser,)),
        Permission.USERS_READ,
    ),
    Route(
        "PATCH",
        "/users/{user_id}",
        handlers.change_user,
        Who.ONESELF,
        "Change a user",
        Shapes(body=payloads.UserChange, answers=_USER, errors=(*_CHANGED, errors.PreconditionFailed)),
        Permission.USERS_WRITE,
    ),
    Route(
        "DELETE",
        "/users/{user_id}",
        handlers.delete_user,
        Who.ONESELF,
        "Delete a user",
        Shapes(answers={204: None}, errors=(errors.NoSuchUser, errors.LastAdministrator)),
        Permission.USERS_WRITE,
    ),
)

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
        "POST",
        "/groups",
        handlers.create_group,
        Who.SIGNED_IN,
        "Make a group",
        Shapes(body=payloads.NewGroup, answers={201: payloads.Group}, errors=(errors.GroupNameTaken,)),
    ),
    Route("GET", "/groups/{group}", handlers.get_group, Who.VISITOR, "Show a group", _GROUP, Permission.GROUPS_READ),
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
        "POST",
        "/broadcast/{group}",
        handlers.broadcast,
        Who.POSTER,
        "Send a JSON object to a group",
        Shapes(body=payloads.Message, answers={200: payloads.Delivery}, errors=(errors.NotAnObject,)),
        Permission.BROADCAST_ANY,
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
        Shapes(answers={200: File(tuple(sorted({*docs.MEDIA_TYPES.values()})))}),
    ),
)

ROUTES = (*ACCOUNTS, *SESSIONS, *USERS, *GROUPS, *DOCS)
