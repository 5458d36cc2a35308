"""The API as one table: every route, in the order of the documentation. The server serves no other."""

from att.api.accounts import ACCOUNT_EXAMPLES, ACCOUNT_ROUTES
from att.api.broadcasts import BROADCAST_EXAMPLES, BROADCAST_ROUTES
from att.api.docs import DOCS_ROUTES
from att.api.events import EVENT_EXAMPLES, EVENT_ROUTES
from att.api.groups import GROUP_EXAMPLES, GROUP_ROUTES
from att.api.history import HISTORY_EXAMPLES, HISTORY_ROUTES
from att.api.listen import LISTEN_ROUTES
from att.api.presence import PRESENCE_EXAMPLES, PRESENCE_ROUTES
from att.api.roles import ROLE_EXAMPLES, ROLE_ROUTES
from att.api.route import Examples
from att.api.sessions import SESSION_EXAMPLES, SESSION_ROUTES
from att.api.users import USER_EXAMPLES, USER_ROUTES

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
EXAMPLES: Examples = {
    **ACCOUNT_EXAMPLES,
    **SESSION_EXAMPLES,
    **USER_EXAMPLES,
    **ROLE_EXAMPLES,
    **HISTORY_EXAMPLES,
    **GROUP_EXAMPLES,
    **EVENT_EXAMPLES,
    **PRESENCE_EXAMPLES,
    **BROADCAST_EXAMPLES,
}
