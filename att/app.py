"""The application, built from its settings. The only place that chooses implementations."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry

from att import __version__
from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.history import History
from att.accounts.passwords import Passwords
from att.accounts.rate_limits import RateLimits
from att.accounts.roles import Roles
from att.accounts.service import Accounts
from att.accounts.user_search import UserSearch
from att.api.keys import (
    ACCOUNT_SERVICE,
    DOCUMENT,
    EVENT_LOG,
    GROUP_SERVICE,
    HISTORY,
    HUB,
    LISTEN_ENDPOINT,
    PRESENCE,
    PUBLISHER,
    RATE_LIMITS,
    ROLE_SERVICE,
    SESSION_EVENTS,
    SESSIONS,
    USER_SEARCH,
)
from att.api.openapi.document import document
from att.api.routes import ROUTES
from att.api.routing import add_routes
from att.config.database import Database, open_database
from att.config.settings import Settings
from att.core.readiness import Probe, Readiness
from att.core.tasks import every
from att.db.engine import Engine
from att.errors import CannotStart
from att.groups.service import Groups
from att.http.access_log import REQUEST_LOG, RequestLog
from att.http.context import READINESS, SETTINGS
from att.http.middleware import add_headers, answer_problems
from att.http.requests import BODY_LIMIT
from att.realtime.broker_events import BrokerEvents
from att.realtime.brokers.base import Broker, SubscribingBroker
from att.realtime.brokers.postgres import PostgresBroker
from att.realtime.event_log import EventLog
from att.realtime.hub import Hub
from att.realtime.log_reader import GAP_WAIT, LogReader
from att.realtime.presence import Presence, PresenceReporter
from att.realtime.publisher import Publisher
from att.realtime.registry import Registry
from att.realtime.retention import RetentionTask
from att.server import gunicorn
from att.server.admin import admin_application, serve_admin
from att.server.drain import Drain
from att.server.monitoring import monitor
from att.server.prometheus import process_registry, register
from att.sessions.cache import SessionCache
from att.sessions.revocation import SessionRevoker
from att.sessions.store import PostgresSessions, SessionStore
from att.websocket.endpoint import ListenEndpoint
from att.websocket.keepalive import TICK, KeepaliveTimer


class Shared(NamedTuple):
    """What is in Redis if there is one: sessions, made with the database, the counts of attempts, and a bus."""

    make_sessions: Callable[[Engine], SessionStore]
    throttle: RateLimits
    bus: SubscribingBroker | None = None
    ping: Probe | None = None


DATABASE = web.AppKey("database", Database)
SHARED = web.AppKey("shared", Shared)
DEPARTURES = web.AppKey("departures", SessionRevoker)
BUSES: web.AppKey[Sequence[Broker]] = web.AppKey("buses", list)  # of which the last is rung; the others are heard
ENGINE = web.AppKey("engine", Engine)
KEEPALIVE = web.AppKey("keepalive", KeepaliveTimer)
LOG_READER = web.AppKey("log_reader", LogReader)
_PASSWORDS = web.AppKey("passwords", Passwords)
METRICS = web.AppKey("metrics", CollectorRegistry)
CACHE = web.AppKey("cache", SessionCache)
BEACON = web.AppKey("beacon", PresenceReporter)
RETENTION = web.AppKey("retention", RetentionTask)
DRAIN = web.AppKey("drain", Drain)
GENERATED: web.AppKey[AdministratorCredentials | None] = web.AppKey("generated", AdministratorCredentials)

EXPIRY_INTERVAL = 300.0  # seconds between removals of expired sessions
TRIM_INTERVAL = 30.0  # seconds between trimmings of the log


def create_app(settings: Settings | None = None) -> web.Application:
    """The application. What it needs is opened when it starts, and closed in reverse order when it ends.

    Starting raises CannotStart or DatabaseUnavailable, with a line for the operator. Without settings they are those of
    the environment, for a program that serves it in our place; then what is wrong ends the process, with that line.
    """
    is_hosted = settings is None
    settings = gunicorn.read_settings() if settings is None else settings
    # aiohttp would log the subprotocols that a client offers, among which a browser may send its token.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    make = gunicorn.Application if is_hosted else web.Application
    app = make(middlewares=[answer_problems], client_max_size=BODY_LIMIT)
    app[SETTINGS] = settings
    app[REQUEST_LOG] = RequestLog(logs_requests=settings.access_log)
    app[METRICS] = process_registry()
    app[KEEPALIVE] = KeepaliveTimer()
    app[READINESS] = Readiness()
    app[DOCUMENT] = _document()
    app.on_response_prepare.append(add_headers)
    contexts: list[gunicorn.Context] = [
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
    app.cleanup_ctx.extend([gunicorn.failing_in_words(context) for context in contexts] if is_hosted else contexts)
    if is_hosted:
        app.on_startup.append(_settle)
        app.on_shutdown.append(_hurry)
    app.on_shutdown.append(_drain)
    add_routes(app.router, ROUTES)
    return app


@cache
def _document() -> bytes:
    return json.dumps(document(ROUTES, __version__)).encode()


@contextlib.asynccontextmanager
async def open_shared(settings: Settings) -> AsyncIterator[Shared]:
    """Redis, if one is configured, or what takes its place. Raises CannotStart."""
    rates, ttl = (settings.login_failures, settings.address_failures, settings.signups), settings.session_ttl
    if settings.redis_url is None:
        yield Shared(lambda db: PostgresSessions(db, ttl), RateLimits(*rates))
        return
    try:
        from att.accounts.redis_rate_limits import RedisCounts
        from att.realtime.brokers.redis import RedisBroker
        from att.redis.client import RedisLink
        from att.sessions.redis_scripts import TRIAL, TRIAL_KEYS
        from att.sessions.redis_store import RedisSessions  # the extra "redis" may not be installed
    except ImportError as error:
        raise CannotStart(
            "--redis-url needs a library that is not installed; run pip install 'att-server[redis]'"
        ) from error
    link = await RedisLink.connect(settings.redis_url, TRIAL, TRIAL_KEYS)
    try:
        throttle = RateLimits(*rates, clock=time.time, make_counts=partial(RedisCounts, link))
        yield Shared(lambda db: RedisSessions(link, db, ttl), throttle, RedisBroker(link), link.ping)
    finally:
        await link.close()


async def _ops(app: web.Application, *, is_hosted: bool) -> AsyncIterator[None]:
    address = app[SETTINGS].admin_listen
    if address is None:
        yield
        return
    async with serve_admin(admin_application(app[READINESS], app[METRICS]), address, is_hosted=is_hosted):
        yield


async def _database(app: web.Application) -> AsyncIterator[None]:
    async with open_database(app[SETTINGS]) as app[DATABASE]:
        yield


async def _redis(app: web.Application) -> AsyncIterator[None]:
    async with open_shared(app[SETTINGS]) as shared:
        app[SHARED], app[RATE_LIMITS] = shared, shared.throttle
        if shared.ping is not None:
            app[READINESS].probes["redis"] = shared.ping
        yield


async def _domain(app: web.Application) -> AsyncIterator[None]:
    settings, tuned, woken = app[SETTINGS], app[SHARED].bus, asyncio.Event()
    app[HUB] = hub = _hub(tuned, woken)
    app[DRAIN] = Drain(hub, app[KEEPALIVE], app[READINESS], settings.drain_time.total_seconds())
    app[ENGINE] = db = await Engine.connect(app[DATABASE].dsn)
    app[_PASSWORDS] = passwords = Passwords(settings.hashing)
    sessions = SessionCache(app[SHARED].make_sessions(db), hub)
    app[CACHE] = app[SESSIONS] = app[SESSION_EVENTS] = sessions
    app[DEPARTURES] = SessionRevoker(sessions, sessions)
    app[ACCOUNT_SERVICE] = Accounts(db, passwords, sessions, sessions)
    app[USER_SEARCH] = UserSearch(db)
    app[ROLE_SERVICE] = Roles(db)
    app[GROUP_SERVICE] = Groups(db, hub)
    app[HISTORY] = History(db)
    app[PRESENCE] = Presence(db)
    app[BEACON] = PresenceReporter(db, hub.registry)
    app[EVENT_LOG] = EventLog(db)
    app[RETENTION] = RetentionTask(db, settings.retention_age)
    postgres = PostgresBroker(db, app[DATABASE].dsn)
    app[BUSES] = [postgres] if tuned is None else [postgres, tuned]
    app[LOG_READER] = LogReader(app[EVENT_LOG], hub, sessions, woken, 0.0 if tuned is None else GAP_WAIT)
    app[PUBLISHER] = Publisher(app[EVENT_LOG], hub, app[BUSES][-1])
    app[LISTEN_ENDPOINT] = ListenEndpoint(
        hub=hub,
        sessions=sessions,
        log=app[EVENT_LOG],
        reader=app[LOG_READER],
        publisher=app[PUBLISHER],
        keepalive=app[KEEPALIVE],
        outbox_limit=settings.outbox_limit,
    )
    try:
        yield
    finally:
        passwords.close()
        await db.close()


def _hub(broker: SubscribingBroker | None, woken: asyncio.Event) -> Hub:
    if broker is None:
        return Hub(Registry(), wake=woken.set)
    return Hub(Registry(), wake=woken.set, subscribe=broker.subscribe, unsubscribe=broker.unsubscribe)


async def _realtime(app: web.Application) -> AsyncIterator[None]:
    node = BrokerEvents(app[HUB], app[LOG_READER], app[CACHE], app[DEPARTURES], app[BUSES])
    async with (
        app[LOG_READER].running(),
        app[DEPARTURES].running(),
        node.running(),
        app[PUBLISHER].running(),
        every("heartbeat", app[KEEPALIVE].tick, TICK),
    ):
        yield


async def _sweeper(app: web.Application) -> AsyncIterator[None]:
    async with (
        every("removal of sessions that are over", app[SESSIONS].sweep, EXPIRY_INTERVAL),
        every("trimming of the log", app[RETENTION].trim, TRIM_INTERVAL),
    ):
        yield


async def _beacon(app: web.Application) -> AsyncIterator[None]:
    async with app[BEACON].running():
        yield


async def _administrator(app: web.Application) -> AsyncIterator[None]:
    """After all that may fail, so that no password is made up for a server that does not start."""
    administrators = Administrators(app[ENGINE], app[_PASSWORDS], app[CACHE])
    app[GENERATED] = await administrators.ensure(_wanted_administrator(app[SETTINGS]))
    yield


async def _watch(app: web.Application) -> AsyncIterator[None]:
    register(
        app[METRICS],
        request_log=app[REQUEST_LOG],
        hub=app[HUB],
        publisher=app[PUBLISHER],
        brokers=app[BUSES],
        db=app[ENGINE],
        passwords=app[_PASSWORDS],
        readiness=app[READINESS],
    )
    async with monitor(app[READINESS], app[ENGINE], app[BUSES], app[METRICS]):
        yield


def _wanted_administrator(settings: Settings) -> AdministratorCredentials | None:
    if settings.admin_login is None or settings.admin_password is None:
        return None
    return AdministratorCredentials(settings.admin_login, settings.admin_password)


async def _settle(app: web.Application) -> None:
    gunicorn.announce_administrator(app[GENERATED])
    gunicorn.settle()


async def _hurry(app: web.Application) -> None:
    gunicorn.hurry_at_next_signal(app[DRAIN])


async def _drain(app: web.Application) -> None:
    await app[DRAIN].run()  # whoever has the listening sockets has done so already
