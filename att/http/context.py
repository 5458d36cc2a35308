"""Keys of the application and the request for this package."""

from aiohttp import web

from att.config.settings import Settings
from att.core.memory import MemoryBudget
from att.core.read_turns import ReadTurns
from att.core.readiness import Readiness
from att.sessions.store import Session

API_PREFIX = "/api"  # below it each path of the API is served again, and no file

SETTINGS = web.AppKey("settings", Settings)
MEMORY = web.AppKey("memory", MemoryBudget)
READ_TURNS = web.AppKey("read_turns", ReadTurns)
READINESS = web.AppKey("readiness", Readiness)
REQUEST_ID = web.RequestKey("request_id", str)
SESSION = web.RequestKey("session", Session)
