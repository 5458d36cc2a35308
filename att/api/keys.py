"""Keys of the application and the request for handlers."""

from aiohttp import web

from att.accounts.devices import Devices
from att.accounts.history import History
from att.accounts.profiles import Profiles, UserProfile
from att.accounts.rate_limits import RateLimits
from att.accounts.rate_quotas import RateQuotas
from att.accounts.roles import Roles
from att.accounts.service import Accounts
from att.accounts.user_search import UserSearch
from att.core.permissions import Permissions
from att.groups.queries import GroupView
from att.groups.service import Groups
from att.realtime.ephemeral_publisher import EphemeralPublisher
from att.realtime.event_log import EventLog
from att.realtime.hub import Hub
from att.realtime.marker_updates import MarkerUpdates
from att.realtime.presence import Presence
from att.realtime.publisher import Publisher
from att.sessions.store import SessionListener, SessionStore
from att.websocket.endpoint import ListenEndpoint

ACCOUNT_SERVICE = web.AppKey("accounts", Accounts)
USER_SEARCH = web.AppKey("user_search", UserSearch)
PROFILES = web.AppKey("profiles", Profiles)
ROLE_SERVICE = web.AppKey("roles", Roles)
GROUP_SERVICE = web.AppKey("groups", Groups)
HISTORY = web.AppKey("history", History)
SESSIONS: web.AppKey[SessionStore] = web.AppKey("sessions", SessionStore)
SESSION_LISTENER: web.AppKey[SessionListener] = web.AppKey("session_listener", SessionListener)
HUB = web.AppKey("hub", Hub)
PRESENCE = web.AppKey("presence", Presence)
EVENT_LOG = web.AppKey("event_log", EventLog)
EPHEMERAL_PUBLISHER = web.AppKey("ephemerals", EphemeralPublisher)
MARKER_UPDATES = web.AppKey("marker_updates", MarkerUpdates)
PUBLISHER = web.AppKey("publisher", Publisher)
LISTEN_ENDPOINT = web.AppKey("listen_endpoint", ListenEndpoint)
DEVICES = web.AppKey("devices", Devices)
RATE_QUOTAS = web.AppKey("rate_quotas", RateQuotas)
RATE_LIMITS = web.AppKey("rate_limits", RateLimits)
DOCUMENT = web.AppKey("document", bytes)

PERMISSIONS: web.RequestKey[Permissions] = web.RequestKey("permissions", frozenset)
GROUP = web.RequestKey("group", GroupView)
PROFILE = web.RequestKey("profile", UserProfile)  # of the user in the path, for those who may not see more
