"""The API as one table: every route, in the order of the documentation. Nothing is served that is not in it."""

from att.api.accounts import ACCOUNT_ROUTES
from att.api.broadcasts import BROADCAST_ROUTES
from att.api.docs import DOCS_ROUTES
from att.api.events import EVENT_ROUTES
from att.api.groups import GROUP_ROUTES
from att.api.history import HISTORY_ROUTES
from att.api.listen import LISTEN_ROUTES
from att.api.presence import PRESENCE_ROUTES
from att.api.roles import ROLE_ROUTES
from att.api.sessions import SESSION_ROUTES
from att.api.users import USER_ROUTES

ROUTES = (
    *ACCOUNT_ROUTES,
    *SESSION_ROUTES,
    *USER_ROUTES,
    *ROLE_ROUTES,
    *HISTORY_ROUTES,
    *GROUP_ROUTES,
    *EVENT_ROUTES,
    *PRESENCE_ROUTES,
    *BROADCAST_ROUTES,
    *LISTEN_ROUTES,
    *DOCS_ROUTES,
)
