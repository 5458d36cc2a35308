"""The application, built from its settings. Only this module chooses implementations."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from att import __version__
from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.devices import Devices
from att.accounts.history import History
from att.accounts.passwords import Passwords
from att.accounts.profiles import Profiles
from att.accounts.rate_limits import RateLimits
from att.accounts.rate_quotas import RateQuotas
from att.accounts.roles import Roles
from att.accounts.service import Accounts
from att.accounts.user_search import UserSearch
from att.api.docs import DOCS_PAGES
from att.api.keys import (
    ACCOUNT_SERVICE,
    DEVICES,
    DOCUMENT,
    EPHEMERAL_PUBLISHER,
    EVENT_LOG,
    GROUP_SERVICE,
    HISTORY,
    HUB,
    LISTEN_ENDPOINT,
    MARKER_UPDATES,
    PRESENCE,
    PROFILES,
    PUBLISHER,
    RATE_LIMITS,
    RATE_QUOTAS,
    ROLE_SERVICE,
    SESSION_LISTENER,
    SESSIONS,
    USER_SEARCH,
)
from att.api.openapi.document import document
from att.api.routes import ROUTES
from att.api.routing import add_routes
from att.config.database import Database, open_database
from att.config.settings import Settings
from att.core.memory import UNCOUNTED_SHARE, MemoryBudget
from att.core.quotas import Quota, Quotas
from att.core.read_turns import ReadTurns
from att.core.readiness import Probe, Readiness
from att.core.tasks import every
from att.db.engine import Engine
from att.db.skeletons import reserve_old_names
from att.errors import CannotStart
from att.groups.read_markers import ReadMarkers
from att.groups.removal import RemovalTask
from att.groups.service import Groups
from att.http.access_log import REQUEST_LOG, RequestLog
from att.http.bodies import BODY_LIMIT
from att.http.context import MEMORY, READ_TURNS, READINESS, SETTINGS
from att.http.middleware import add_headers, problem_middleware
from att.http.public_files import public_files
from att.realtime.broker_events import BrokerEvents
from att.realtime.brokers.base import Broker, SubscribingBroker
from att.realtime.brokers.postgres import PostgresBroker
from att.realtime.ephemeral_publisher import EphemeralPublisher
from att.realtime.event_log import EventLog
from att.realtime.hub import Hub
from att.realtime.log_reader import GAP_WAIT, LogReader
from att.realtime.marker_updates import MarkerUpdates
from att.realtime.neighbours import Neighbours
from att.realtime.presence import Presence, PresenceReporter
from att.realtime.presence_feed import PresenceFeed
from att.realtime.publisher import Publisher
from att.realtime.registry import Registry
from att.realtime.retention import RetentionTask
from att.server import gunicorn
from att.server.admin import admin_application, serve_admin
from att.server.drain import DRAIN, Drain
from att.server.gunicorn import GENERATED
from att.server.monitoring import monitor
from att.server.prometheus import process_registry, register
from att.sessions.cache import SessionCache
from att.sessions.revocation import SessionRevoker
from att.sessions.store import PostgresSessions, SessionStore
from att.websocket.endpoint import ListenEndpoint
from att.websocket.frame_writer import send_to_all
from att.websocket.keepalive import TICK, KeepaliveTimer


class Backends(NamedTuple):
    """Parts that live in Redis if it is configured, else in this process and PostgreSQL."""

    make_sessions: Callable[[Engine], SessionStore]
    rate_limits: RateLimits
    broker: SubscribingBroker | None = None
    ping: Probe | None = None


DATABASE = web.AppKey("database", Database)
BACKENDS = web.AppKey("backends", Backends)
ENGINE = web.AppKey("engine", Engine)
PASSWORDS = web.AppKey("passwords", Passwords)
QUOTAS = web.AppKey("quotas", Quotas)
HUB_WOKEN = web.AppKey("hub_woken", asyncio.Event)
SESSION_CACHE = web.AppKey("session_cache", SessionCache)
BROKERS: web.AppKey[Sequence[Broker]] = web.AppKey("brokers", list)  # att receives from all, and sends by the last
NEIGHBOURS = web.AppKey("neighbours", Neighbours)
PRESENCE_FEED = web.AppKey("presence_feed", PresenceFeed)
KEEPALIVE = web.AppKey("keepalive", KeepaliveTimer)
RETENTION = web.AppKey("retention", RetentionTask)
METRICS = web.AppKey("metrics", CollectorRegistry)

EXPIRY_INTERVAL = 300.0  # seconds between removals of expired sessions
TRIM_INTERVAL = 30.0  # seconds between trimmings of the log
DELETION_INTERVAL = 300.0  # seconds between deletions of the logs of deleted groups
SKELETON_INTERVAL = 3_600.0  # seconds between searches for names that other programs have stored
REMOVAL_INTERVAL = 5.0  # seconds between removals of the members of large groups that were deleted


def create_app(settings: Settings | None = None) -> web.Application:
    """Return the application. Its start opens what it needs, its end closes that in reverse order.

    The start raises CannotStart or DatabaseUnavailable, with a line for the operator. Without ``settings`` a program
    such as gunicorn serves the application: settings come from the environment, and an error ends the process.
    """
    is_hosted = settings is None
    settings = gunicorn.read_settings() if settings is None else settings
    # aiohttp would log the subprotocols that a client offers, and a browser may send its token among them.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    make = gunicorn.Application if is_hosted else web.Application
    middlewares: list[Middleware] = [problem_middleware]
    if settings.public_dir is not None:
        middlewares.append(public_files(settings.public_dir, DOCS_PAGES))
    app = make(middlewares=middlewares, client_max_size=BODY_LIMIT)
    app[SETTINGS] = settings
    app[REQUEST_LOG] = RequestLog(logs_requests=settings.access_log)
    app[METRICS] = process_registry()
    app[READINESS] = Readiness()
    app[MEMORY] = MemoryBudget(settings.memory_budget - settings.memory_budget // UNCOUNTED_SHARE)
    app[READ_TURNS] = ReadTurns()
    app[KEEPALIVE] = KeepaliveTimer()
    app[QUOTAS] = _quotas(settings)
    app[DOCUMENT] = _document()
    app.on_response_prepare.append(add_headers)
    contexts: list[gunicorn.Context] = [
        partial(_admin_listener, is_hosted=is_hosted),
        _database,
        _backends,
        _engine,
        _passwords,
        _hub,
        _accounts,
        _presence,
        _realtime,
        _cleanup,
        _administrator,
        _monitoring,
    ]
    if is_hosted:
        gunicorn.set_up(app, contexts)
    else:
        app.cleanup_ctx.extend(contexts)
    app.on_shutdown.append(_drain)
    add_routes(app.router, ROUTES)
    return app


def _quotas(settings: Settings) -> Quotas:
    return Quotas(
        {
            Quota.GROUPS_OWNED: settings.quota_groups_owned,
            Quota.GROUPS_JOINED: settings.quota_groups_joined,
            Quota.MEMBERS: settings.quota_members,
            Quota.RETENTION: settings.quota_retention,
            Quota.GROUP_LOG: settings.quota_group_log,
            Quota.SOCKETS: settings.quota_sockets,
        }
    )


@cache
def _document() -> bytes:
    return json.dumps(document(ROUTES, __version__)).encode()


@contextlib.asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[Backends]:
    """Connect to Redis, if it is configured. Raises CannotStart."""
    rates = (settings.login_failures, settings.address_failures, settings.signups)
    ttl, quota = settings.session_ttl, settings.quota_sessions
    if settings.redis_url is None:
        yield Backends(lambda db: PostgresSessions(db, ttl, quota), RateLimits(*rates))
        return
    try:
        from att.accounts.redis_rate_limits import RedisCounts
        from att.realtime.brokers.redis import RedisBroker
        from att.redis.client import RedisClient
        from att.sessions.redis_scripts import TRIAL, TRIAL_KEYS
        from att.sessions.redis_store import RedisSessions  # the extra "redis" may not be installed
    except ImportError as error:
        raise CannotStart("--redis-url needs a library that is missing; run pip install 'att-server[redis]'") from error
    link = await RedisClient.connect(settings.redis_url, TRIAL, TRIAL_KEYS)
    try:
        rate_limits = RateLimits(*rates, clock=time.time, make_counts=partial(RedisCounts, link))
        yield Backends(lambda db: RedisSessions(link, db, ttl, quota), rate_limits, RedisBroker(link), link.ping)
    finally:
        await link.close()


# The contexts, in the order in which they start. Each says which keys of the application it needs and gives; all may
# use those that create_app sets.


async def _admin_listener(app: web.Application, *, is_hosted: bool) -> AsyncIterator[None]:
    """Serve health and metrics."""
    address = app[SETTINGS].admin_listen
    if address is None:
        yield
        return
    async with serve_admin(admin_application(app[READINESS], app[METRICS]), address, is_hosted=is_hosted):
        yield


async def _database(app: web.Application) -> AsyncIterator[None]:
    """Give DATABASE."""
    async with open_database(app[SETTINGS]) as app[DATABASE]:
        yield


async def _backends(app: web.Application) -> AsyncIterator[None]:
    """Give BACKENDS, RATE_LIMITS."""
    async with open_backends(app[SETTINGS]) as app[BACKENDS]:
        app[RATE_LIMITS] = app[BACKENDS].rate_limits
        if (ping := app[BACKENDS].ping) is not None:
            app[READINESS].probes["redis"] = ping
        yield


async def _engine(app: web.Application) -> AsyncIterator[None]:
    """Give ENGINE. Needs DATABASE."""
    app[ENGINE] = db = await Engine.connect(app[DATABASE].dsn)
    try:
        yield
    finally:
        await db.close()


async def _passwords(app: web.Application) -> AsyncIterator[None]:
    """Give PASSWORDS."""
    app[PASSWORDS] = passwords = Passwords(app[SETTINGS].hashing)
    try:
        yield
    finally:
        passwords.close()


async def _hub(app: web.Application) -> AsyncIterator[None]:
    """Give HUB, HUB_WOKEN, PRESENCE_FEED, DRAIN. Needs ENGINE, BACKENDS."""
    app[HUB_WOKEN] = woken = asyncio.Event()
    broker = app[BACKENDS].broker
    calls = {} if broker is None else {"subscribe": broker.subscribe, "unsubscribe": broker.unsubscribe}
    registry = Registry()
    app[PRESENCE_FEED] = feed = PresenceFeed(app[ENGINE], registry)
    app[HUB] = hub = Hub(registry, wake=woken.set, on_member=feed.on_member, send_to_all=send_to_all, **calls)
    app[DRAIN] = Drain(hub, app[KEEPALIVE], app[READINESS], app[SETTINGS].drain_time.total_seconds())
    yield


async def _accounts(app: web.Application) -> AsyncIterator[None]:
    """Give the services of accounts, sessions and groups. Needs ENGINE, PASSWORDS, BACKENDS, HUB."""
    db, hub = app[ENGINE], app[HUB]
    sessions = SessionCache(app[BACKENDS].make_sessions(db), hub)
    app[SESSION_CACHE] = app[SESSIONS] = app[SESSION_LISTENER] = sessions
    app[ACCOUNT_SERVICE] = Accounts(db, app[PASSWORDS], sessions, sessions)
    app[DEVICES] = await Devices.load(db)
    app[USER_SEARCH] = UserSearch(db)
    app[PROFILES] = Profiles(db)
    app[ROLE_SERVICE] = roles = Roles(db)
    settings = app[SETTINGS]
    rates = {
        Quota.REQUESTS: settings.quota_requests,
        Quota.BROADCASTS: settings.quota_broadcasts,
        Quota.EPHEMERALS: settings.quota_ephemerals,
    }
    app[RATE_QUOTAS] = RateQuotas(app[QUOTAS], rates, roles.permissions_of)
    app[GROUP_SERVICE] = Groups(db, hub, app[QUOTAS])
    app[HISTORY] = History(db)
    yield


async def _presence(app: web.Application) -> AsyncIterator[None]:
    """Give PRESENCE, NEIGHBOURS. Report this node's users, and tell who is connected. Needs ENGINE, HUB, PRESENCE_FEED.

    This comes before this node listens: see ``Neighbours``.
    """
    app[PRESENCE], app[NEIGHBOURS] = Presence(app[ENGINE]), Neighbours()
    reporter = PresenceReporter(app[ENGINE], app[HUB].registry, app[NEIGHBOURS].counted)
    async with reporter.running(), app[PRESENCE_FEED].running():
        yield


async def _realtime(app: web.Application) -> AsyncIterator[None]:
    """Give EVENT_LOG, NEIGHBOURS, BROKERS, PUBLISHER, EPHEMERAL_PUBLISHER, MARKER_UPDATES, LISTEN_ENDPOINT.

    Run them.
    Needs DATABASE, BACKENDS, ENGINE, HUB, HUB_WOKEN, SESSION_CACHE, GROUP_SERVICE, ROLE_SERVICE.
    """
    db, hub, sessions, keepalive = app[ENGINE], app[HUB], app[SESSION_CACHE], app[KEEPALIVE]
    postgres, redis = PostgresBroker(db, app[DATABASE].dsn, app[NEIGHBOURS]), app[BACKENDS].broker
    app[EVENT_LOG] = log = EventLog(db, app[QUOTAS])
    app[BROKERS] = brokers = [postgres] if redis is None else [postgres, redis]
    reader = LogReader(log, hub, sessions, app[HUB_WOKEN], 0.0 if redis is None else GAP_WAIT)
    app[PUBLISHER] = publisher = Publisher(log, hub, brokers[-1])
    app[EPHEMERAL_PUBLISHER] = ephemerals = EphemeralPublisher(
        log, hub, brokers[-1], app[GROUP_SERVICE], app[ROLE_SERVICE].permissions_of
    )
    app[MARKER_UPDATES] = markers = MarkerUpdates(ReadMarkers(db), hub, brokers[-1])
    app[LISTEN_ENDPOINT] = ListenEndpoint(
        hub=hub,
        sessions=sessions,
        log=log,
        reader=reader,
        publisher=publisher,
        presence=app[PRESENCE_FEED],
        ephemerals=ephemerals,
        markers=markers,
        groups=app[GROUP_SERVICE],
        keepalive=keepalive,
        quotas=app[RATE_QUOTAS],
        outbox_limit=app[SETTINGS].outbox_limit,
        memory=app[MEMORY],
        read_turns=app[READ_TURNS],
        compress=app[SETTINGS].compress,
    )
    revoker = SessionRevoker(sessions, sessions)
    async with (
        reader.running(),
        revoker.running(),
        ephemerals.running(),
        BrokerEvents(hub, reader, sessions, revoker, markers, brokers).running(),
        publisher.running(),
        markers.running(),
        every("heartbeat", keepalive.tick, TICK),
    ):
        yield


async def _cleanup(app: web.Application) -> AsyncIterator[None]:
    """Give RETENTION. Remove expired sessions and events, and what deletions have left, and add missing skeletons.

    Needs ENGINE, SESSIONS.
    """
    app[RETENTION] = RetentionTask(app[ENGINE], app[SETTINGS].retention_age)
    async with (
        every("removal of expired sessions", app[SESSIONS].sweep, EXPIRY_INTERVAL),
        every("trimming of the log", app[RETENTION].trim, TRIM_INTERVAL),
        every("deletion of logs", app[RETENTION].delete_logs, DELETION_INTERVAL),
        every("skeletons of names", partial(reserve_old_names, app[ENGINE]), SKELETON_INTERVAL),
        every("removal of members", RemovalTask(app[ENGINE]).remove, REMOVAL_INTERVAL),
    ):
        yield


async def _administrator(app: web.Application) -> AsyncIterator[None]:
    """Give GENERATED. Needs ENGINE, PASSWORDS, SESSION_CACHE.

    This comes after all contexts that may fail, so that no password is generated for a server that does not start.
    """
    administrators = Administrators(app[ENGINE], app[PASSWORDS], app[SESSION_CACHE])
    login, password = app[SETTINGS].admin_login, app[SETTINGS].admin_password
    wanted = None if login is None or password is None else AdministratorCredentials(login, password)
    app[GENERATED] = await administrators.ensure(wanted)
    yield


async def _monitoring(app: web.Application) -> AsyncIterator[None]:
    """Show the metrics, and mark the server as started. Needs all."""
    register(
        app[METRICS],
        request_log=app[REQUEST_LOG],
        quotas=app[QUOTAS],
        hub=app[HUB],
        publisher=app[PUBLISHER],
        ephemerals=app[EPHEMERAL_PUBLISHER],
        brokers=app[BROKERS],
        db=app[ENGINE],
        passwords=app[PASSWORDS],
        readiness=app[READINESS],
        memory=app[MEMORY],
    )
    async with monitor(app[READINESS], app[ENGINE], app[BROKERS], app[METRICS]):
        yield


async def _drain(app: web.Application) -> None:
    await app[DRAIN].run()
