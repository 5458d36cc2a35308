"""Under which keys the application and a request keep what belongs to them."""

from aiohttp import web

from att.accounts import Accounts
from att.directory import Directory
from att.group_directory import Group
from att.groups import Groups
from att.heartbeat import Heartbeat
from att.history import History
from att.permissions import Permissions
from att.presence import Presence
from att.readiness import Readiness
from att.realtime.feed import Feed
from att.realtime.hub import Hub
from att.realtime.log import Log
from att.realtime.writer import Writer
from att.roles import Roles
from att.sessions import Audience, Session, SessionStore
from att.settings import Settings

SETTINGS = web.AppKey("settings", Settings)
ACCOUNTS = web.AppKey("accounts", Accounts)
DIRECTORY = web.AppKey("directory", Directory)
ROLES = web.AppKey("roles", Roles)
GROUPS = web.AppKey("groups", Groups)
HISTORY = web.AppKey("history", History)
SESSIONS: web.AppKey[SessionStore] = web.AppKey("sessions", SessionStore)
ENDINGS: web.AppKey[Audience] = web.AppKey("endings", Audience)  # whom to tell of sessions that have ended
READINESS = web.AppKey("readiness", Readiness)
HUB = web.AppKey("hub", Hub)
HEARTBEAT = web.AppKey("heartbeat", Heartbeat)  # of the open sockets
PRESENCE = web.AppKey("presence", Presence)
LOG = web.AppKey("log", Log)
FEED = web.AppKey("feed", Feed)
WRITER = web.AppKey("writer", Writer)
DOCUMENT = web.AppKey("document", bytes)

REQUEST_ID = web.RequestKey("request_id", str)
SESSION = web.RequestKey("session", Session)
PERMISSIONS: web.RequestKey[Permissions] = web.RequestKey("permissions", frozenset)
GROUP = web.RequestKey("group", Group)
