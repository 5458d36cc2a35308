"""All handlers of the API by name. Each is defined with its resource in ``att.api``."""

from att.api.accounts import login, logout, make_login_response, signup
from att.api.broadcasts import broadcast
from att.api.docs import docs, docs_file, openapi
from att.api.events import group_events
from att.api.groups import (
    add_members,
    change_group,
    create_group,
    delete_group,
    delete_member,
    get_group,
    group_members,
    list_groups,
    put_member,
    user_groups,
)
from att.api.history import list_history, user_history
from att.api.listen import listen
from att.api.presence import group_presence, user_presence
from att.api.roles import change_role, change_roles, create_roles, delete_role, delete_roles, get_role, list_roles
from att.api.sessions import end_session, end_sessions, list_sessions
from att.api.users import (
    change_user,
    change_users,
    create_users,
    delete_user,
    delete_users,
    get_user,
    list_users,
)

__all__ = [
    "add_members",
    "broadcast",
    "change_group",
    "change_role",
    "change_roles",
    "change_user",
    "change_users",
    "create_group",
    "create_roles",
    "create_users",
    "delete_group",
    "delete_member",
    "delete_role",
    "delete_roles",
    "delete_user",
    "delete_users",
    "docs",
    "docs_file",
    "end_session",
    "end_sessions",
    "get_group",
    "get_role",
    "get_user",
    "group_events",
    "group_members",
    "group_presence",
    "list_groups",
    "list_history",
    "list_roles",
    "list_sessions",
    "list_users",
    "listen",
    "login",
    "logout",
    "make_login_response",
    "openapi",
    "put_member",
    "signup",
    "user_groups",
    "user_history",
    "user_presence",
]
