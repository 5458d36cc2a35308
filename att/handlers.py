"""All handlers of the API by name. Each is defined with its resource in ``att.api``."""

from att.api.accounts import (
    login as login,
    logout as logout,
    make_login_response as make_login_response,
    signup as signup,
)
from att.api.broadcasts import broadcast as broadcast
from att.api.docs import docs as docs, docs_file as docs_file, home as home, openapi as openapi
from att.api.events import delete_event as delete_event, group_events as group_events
from att.api.groups import (
    add_members as add_members,
    change_group as change_group,
    create_group as create_group,
    delete_group as delete_group,
    delete_member as delete_member,
    get_group as get_group,
    get_member as get_member,
    group_members as group_members,
    list_groups as list_groups,
    mark_read as mark_read,
    put_member as put_member,
    user_groups as user_groups,
)
from att.api.history import list_history as list_history, user_history as user_history
from att.api.listen import listen as listen
from att.api.presence import group_presence as group_presence, user_presence as user_presence
from att.api.roles import (
    change_role as change_role,
    change_roles as change_roles,
    create_roles as create_roles,
    delete_role as delete_role,
    delete_roles as delete_roles,
    get_role as get_role,
    list_roles as list_roles,
)
from att.api.sessions import end_session as end_session, end_sessions as end_sessions, list_sessions as list_sessions
from att.api.users import (
    change_user as change_user,
    change_users as change_users,
    create_users as create_users,
    delete_user as delete_user,
    delete_users as delete_users,
    get_user as get_user,
    list_users as list_users,
)
