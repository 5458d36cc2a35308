"""The rows of the API's table that are about accounts: signing in, sessions, users, roles and their history."""

from att import errors, handlers, payloads, queries
from att.payloads import Items, Page
from att.permissions import Permission, Who
from att.routing import Route, Shapes

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
_CHANGED = (
    *_GIVEN,
    errors.NoSuchUser,
    errors.NotPermitted,
    errors.WrongPassword,
    errors.TooManyAttempts,
    errors.LastAdministrator,
)

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
        Shapes(answers={204: None}, errors=(errors.NoSuchUser, errors.NotPermitted, errors.LastAdministrator)),
        Permission.USERS_WRITE,
    ),
)

HISTORY = (
    Route(
        "GET",
        "/history",
        handlers.list_history,
        Who.PERMITTED,
        "List the changes of users, roles, groups and members, the newest first",
        Shapes(query=queries.HistoryQuery, answers={200: Page[payloads.Change]}),
        Permission.HISTORY_READ,
    ),
    Route(
        "GET",
        "/users/{user_id}/history",
        handlers.user_history,
        Who.ONESELF,
        "List the changes of a user and of their memberships, the newest first",
        Shapes(query=queries.PageQuery, answers={200: Page[payloads.Change]}),
        Permission.HISTORY_READ,
    ),
)

_ROLE_ERRORS = (errors.NoSuchRole, errors.RoleNameTaken, errors.BuiltInRole, errors.LastAdministrator)

ROLES = (
    Route(
        "GET",
        "/roles",
        handlers.list_roles,
        Who.PERMITTED,
        "List the roles, by name",
        Shapes(query=queries.PageQuery, answers={200: Page[payloads.Role]}),
        Permission.ROLES_READ,
    ),
    Route(
        "POST",
        "/roles",
        handlers.create_roles,
        Who.PERMITTED,
        "Make a role, or up to 1,000",
        Shapes(
            body=(payloads.NewRole, payloads.NewRoles),
            answers={201: (payloads.Role, Items[payloads.Role])},
            errors=(errors.RoleNameTaken,),
        ),
        Permission.ROLES_WRITE,
    ),
    Route(
        "PATCH",
        "/roles",
        handlers.change_roles,
        Who.PERMITTED,
        "Change roles",
        Shapes(body=payloads.RoleChanges, answers={200: Items[payloads.Role]}, errors=_ROLE_ERRORS),
        Permission.ROLES_WRITE,
    ),
    Route(
        "DELETE",
        "/roles",
        handlers.delete_roles,
        Who.PERMITTED,
        "Delete roles",
        Shapes(
            query=queries.IdsQuery,
            answers={200: payloads.Deleted},
            errors=(errors.NoSuchRole, errors.BuiltInRole, errors.RoleInUse),
        ),
        Permission.ROLES_WRITE,
    ),
    Route(
        "GET",
        "/roles/{role_id}",
        handlers.get_role,
        Who.PERMITTED,
        "Show a role",
        Shapes(answers={200: payloads.Role}, errors=(errors.NoSuchRole,)),
        Permission.ROLES_READ,
    ),
    Route(
        "PATCH",
        "/roles/{role_id}",
        handlers.change_role,
        Who.PERMITTED,
        "Change a role",
        Shapes(body=payloads.RoleChange, answers={200: payloads.Role}, errors=_ROLE_ERRORS),
        Permission.ROLES_WRITE,
    ),
    Route(
        "DELETE",
        "/roles/{role_id}",
        handlers.delete_role,
        Who.PERMITTED,
        "Delete a role that nobody has",
        Shapes(answers={204: None}, errors=(errors.NoSuchRole, errors.BuiltInRole, errors.RoleInUse)),
        Permission.ROLES_WRITE,
    ),
)
