"""The application, built from its settings. The only place that chooses implementations."""

import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from aiohttp import web

from att import __version__, hosted
from att.accounts import Accounts
from att.administrators import Administrators, Credentials
from att.background import repeating
from att.checks import Finding
from att.clients import THROTTLE
from att.database import Database, open_database
from att.db.engine import Engine
from att.departures import Departures
from att.directory import Directory
from att.drain import Drain
from att.errors import CannotStart
from att.exposition import Exposition, Figures
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
    PRESENCE,
    READINESS,
    ROLES,
    SESSIONS,
    SETTINGS,
    WRITER,
)
from att.metrics import Histogram
from att.node import Node
from att.observer import OBSERVER, Observer
from att.openapi import document
from att.ops import ops_application, serving_ops
from att.passwords import Passwords
from att.presence import Beacon, Presence
from att.readiness import Probe, Readiness
from att.realtime.bus import Bus, PostgresBus, TunedBus
from att.realtime.feed import PATIENCE, Feed
from att.realtime.hub import Hub
from att.realtime.log import Log
from att.realtime.registry import Registry
from att.realtime.retention import Retention
from att.realtime.writer import Writer
from att.roles import Roles
from att.routes import ROUTES
from att.routing import add_routes
from att.session_cache import SessionCache
from att.sessions import PostgresSessions, SessionStore
from att.settings import Settings
from att.throttle import Throttle
from att.watch import watching
from att.web import BODY_LIMIT, add_headers, answer_problems


class Shared(NamedTuple):
    """What is in Redis if there is one: sessions, made with the database, the counts of attempts, and a bus."""

    make_sessions: Callable[[Engine], SessionStore]
    throttle: Throttle
    bus: TunedBus | None = None
    ping: Probe | None = None


DATABASE = web.AppKey("database", Database)
SHARED = web.AppKey("shared", Shared)
DEPARTURES = web.AppKey("departures", Departures)
BUSES: web.AppKey[Sequence[Bus]] = web.AppKey("buses", list)  # of which the last is rung; the others are heard
ENGINE = web.AppKey("engine", Engine)
PASSWORDS = web.AppKey("passwords", Passwords)
EXPOSITION = web.AppKey("exposition", Exposition)
CACHE = web.AppKey("cache", SessionCache)
BEACON = web.AppKey("beacon", Beacon)
RETENTION = web.AppKey("retention", Retention)
DRAIN = web.AppKey("drain", Drain)
GENERATED: web.AppKey[Credentials | None] = web.AppKey("generated", Credentials)

EXPIRY_INTERVAL = 300.0  # seconds between removals of expired sessions
TRIM_INTERVAL = 30.0  # seconds between trimmings of the log


def create_app(settings: Settings | None = None) -> web.Application:
    """The application. What it needs is opened when it starts, and closed in reverse order when it ends.

    Starting raises CannotStart or DatabaseUnavailable, with a line for the operator. Without settings they are those of
    the environment, for a program that serves it in our place; then what is wrong ends the process, with that line.
    """
    is_hosted = settings is None
    settings = hosted.read_settings() if settings is None else settings
    # aiohttp would log the subprotocols that a client offers, among which a browser may send its token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    make = hosted.Application if is_hosted else web.Application
    app = make(middlewares=[answer_problems], client_max_size=BODY_LIMIT)
    app[SETTINGS] = settings
    app[OBSERVER] = Observer(logs_requests=settings.access_log)
    app[EXPOSITION] = Exposition()
    app[HUB] = Hub(Registry())
    app[HEARTBEAT] = Heartbeat()
    app[READINESS] = Readiness()
    app[DRAIN] = Drain(app[HUB], app[HEARTBEAT], app[READINESS], settings.drain_time.total_seconds())
    app[DOCUMENT] = _document()
    app.on_response_prepare.append(add_headers)
    contexts: list[hosted.Context] = [
        partial(_ops, is_hosted=is_hosted),
        _database,
        _redis,
        _domain,
        _realtime,
        _sweeper,
        _beacon,
        _administrator,
        _watch,
    ]
    app.cleanup_ctx.extend([hosted.failing_in_words(context) for context in contexts] if is_hosted else contexts)
    if is_hosted:
        app.on_startup.append(_settle)
        app.on_shutdown.append(_hurry)
    app.on_shutdown.append(_drain)
    add_routes(app.router, ROUTES)
    return app


@cache
def _document() -> bytes:
    return json.dumps(document(ROUTES, __version__)).encode()


def redis_checks(url: str) -> AsyncIterator[Finding]:
    """The checks of the Redis at this URL. Raises CannotStart when there is no library for it."""
    try:
        from att.check_redis import check_redis  # the extra "redis" may not be installed
    except ImportError as error:
        raise CannotStart("--redis-url needs a library that is not installed; run pip install 'att[redis]'") from error
    return check_redis(url)


@contextlib.asynccontextmanager
async def open_shared(settings: Settings) -> AsyncIterator[Shared]:
    """Redis, if one is configured, or what takes its place. Raises CannotStart."""
    rates, ttl = (settings.login_failures, settings.address_failures, settings.signups), settings.session_ttl
    if settings.redis_url is None:
        yield Shared(lambda db: PostgresSessions(db, ttl), Throttle(*rates))
        return
    try:
        from att.redis_backends import RedisBus, RedisSessions  # the extra "redis" may not be installed
        from att.redis_counts import RedisCounts
        from att.redis_link import RedisLink
        from att.redis_scripts import TRIAL, TRIAL_KEYS
    except ImportError as error:
        raise CannotStart("--redis-url needs a library that is not installed; run pip install 'att[redis]'") from error
    link = await RedisLink.connect(settings.redis_url, TRIAL, TRIAL_KEYS)
    try:
        throttle = Throttle(*rates, clock=time.time, make_counts=partial(RedisCounts, link))
        yield Shared(lambda db: RedisSessions(link, db, ttl), throttle, RedisBus(link), link.ping)
    finally:
        await link.close()


async def _ops(app: web.Application, *, is_hosted: bool) -> AsyncIterator[None]:
    address = app[SETTINGS].admin_listen
    if address is None:
        yield
        return
    async with serving_ops(ops_application(app[READINESS], app[EXPOSITION]), address, is_hosted=is_hosted):
        yield


async def _database(app: web.Application) -> AsyncIterator[None]:
    async with open_database(app[SETTINGS]) as app[DATABASE]:
        yield


async def _redis(app: web.Application) -> AsyncIterator[None]:
    async with open_shared(app[SETTINGS]) as shared:
        app[SHARED], app[THROTTLE] = shared, shared.throttle
        if shared.ping is not None:
            app[READINESS].probes["redis"] = shared.ping
        yield


async def _domain(app: web.Application) -> AsyncIterator[None]:
    settings, hub = app[SETTINGS], app[HUB]
    app[ENGINE] = db = await Engine.connect(app[DATABASE].dsn)
    app[PASSWORDS] = passwords = Passwords(settings.hashing)
    sessions = SessionCache(app[SHARED].make_sessions(db), hub)
    app[CACHE] = app[SESSIONS] = app[ENDINGS] = sessions
    app[DEPARTURES] = Departures(sessions, sessions)
    app[ACCOUNTS] = Accounts(db, passwords, sessions, sessions)
    app[DIRECTORY] = Directory(db)
    app[ROLES] = Roles(db)
    app[GROUPS] = Groups(db, hub)
    app[HISTORY] = History(db)
    app[PRESENCE] = Presence(db)
    app[BEACON] = Beacon(db, hub.registry)
    app[LOG] = Log(db)
    app[RETENTION] = Retention(db, settings.retention_age)
    app[BUSES] = _buses(PostgresBus(db, app[DATABASE].dsn), app[SHARED].bus, hub)
    app[FEED] = Feed(app[LOG], hub, sessions, 0.0 if app[SHARED].bus is None else PATIENCE)
    app[WRITER] = Writer(app[LOG], hub, app[BUSES][-1])
    try:
        yield
    finally:
        passwords.close()
        await db.close()


def _buses(postgres: Bus, tuned: TunedBus | None, hub: Hub) -> list[Bus]:
    if tuned is None:
        return [postgres]
    hub.tune_in, hub.tune_out = tuned.tune_in, tuned.tune_out
    return [postgres, tuned]


async def _realtime(app: web.Application) -> AsyncIterator[None]:
    node = Node(app[HUB], app[FEED], app[CACHE], app[DEPARTURES], app[BUSES])
    async with (
        app[FEED].running(),
        app[DEPARTURES].running(),
        node.running(),
        app[WRITER].running(),
        repeating("heartbeat", app[HEARTBEAT].beat, BEAT),
    ):
        yield


async def _sweeper(app: web.Application) -> AsyncIterator[None]:
    async with (
        repeating("removal of sessions that are over", app[SESSIONS].sweep, EXPIRY_INTERVAL),
        repeating("trimming of the log", app[RETENTION].trim, TRIM_INTERVAL),
    ):
        yield


async def _beacon(app: web.Application) -> AsyncIterator[None]:
    async with app[BEACON].running():
        yield


async def _administrator(app: web.Application) -> AsyncIterator[None]:
    """After all that may fail, so that no password is made up for a server that does not start."""
    administrators = Administrators(app[ENGINE], app[PASSWORDS], app[CACHE])
    app[GENERATED] = await administrators.ensure(_wanted_administrator(app[SETTINGS]))
    yield


async def _watch(app: web.Application) -> AsyncIterator[None]:
    figures = Figures(
        requests=app[OBSERVER].requests,
        hub=app[HUB],
        writer=app[WRITER],
        buses=app[BUSES],
        db=app[ENGINE],
        passwords=app[PASSWORDS],
        loop_lag=Histogram(),
        readiness=app[READINESS],
    )
    async with watching(figures, app[EXPOSITION]):
        yield


def _wanted_administrator(settings: Settings) -> Credentials | None:
    if settings.admin_login is None or settings.admin_password is None:
        return None
    return Credentials(settings.admin_login, settings.admin_password)


async def _settle(app: web.Application) -> None:
    hosted.announce_administrator(app[GENERATED])
    hosted.settle()


async def _hurry(app: web.Application) -> None:
    hosted.hurry_at_next_signal(app[DRAIN])


async def _drain(app: web.Application) -> None:
    await app[DRAIN].run()  # whoever has the listening sockets has done so already
