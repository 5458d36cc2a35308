"""The page of metrics. Counters and histograms live where the work is done; this module registers them."""

import platform
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from att import __version__
from att.accounts.passwords import Passwords
from att.core.memory import MemoryBudget
from att.core.quotas import Quotas
from att.core.readiness import Readiness
from att.core.tasks import failing
from att.db.engine import Engine
from att.http.access_log import RequestLog
from att.realtime.brokers.base import Broker
from att.realtime.ephemeral_publisher import EphemeralPublisher
from att.realtime.hub import Hub
from att.realtime.publisher import Publisher
from att.realtime.registry import Dialect

DIALECTS = {Dialect.PLAIN: "plain", Dialect.V1: "att.v1"}

disable_created_metrics()  # type: ignore[no-untyped-call]


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of the process and the build."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    Info("att_build", "Versions of att and Python.", registry=registry).info(
        {"version": __version__, "python": platform.python_version()}
    )
    return registry


def page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the page and its content type, in the format that the header Accept asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def register(  # noqa: PLR0913 - parts of the server that have metrics
    registry: CollectorRegistry,
    *,
    request_log: RequestLog,
    quotas: Quotas,
    hub: Hub,
    publisher: Publisher,
    ephemerals: EphemeralPublisher,
    brokers: Sequence[Broker],
    db: Engine,
    passwords: Passwords,
    readiness: Readiness,
    memory: MemoryBudget,
) -> None:
    """Add the metrics of a started server. Reading them asks neither database nor network."""

    def gauge(name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=registry).set_function(read)

    for collector in (
        quotas.refusals,
        *(request_log.requests, request_log.durations, request_log.refusals, request_log.closes),
        *(hub.counts.delivered, hub.counts.dropped),
        *(ephemerals.sent, hub.counts.ephemerals_delivered, hub.counts.ephemerals_dropped),
        *(publisher.appended, publisher.repeated, publisher.batch_sizes, publisher.waits),
        memory.given_up,
        _BrokerCounters(brokers),
    ):
        registry.register(collector)
    sockets = Gauge("att_sockets", "Open WebSockets.", ["dialect"], registry=registry)
    for dialect, name in DIALECTS.items():
        sockets.labels(name).set_function(partial(hub.registry.sockets.__getitem__, dialect))
    gauge("att_listening_users", "Users with an open WebSocket.", lambda: len(hub.registry.users()))
    gauge("att_heard_groups", "Groups with a listener.", lambda: hub.group_count)
    gauge("att_append_queue", "Messages waiting to be appended.", lambda: publisher.waiting)
    connected = Gauge("att_bus_connected", "1 if the broker is connected, else 0.", ["bus"], registry=registry)
    lag = Gauge("att_bus_lag_seconds", "Round trip of this node's last announcement.", ["bus"], registry=registry)
    for broker in brokers:
        connected.labels(broker.name).set_function(partial(getattr, broker, "is_connected"))
        lag.labels(broker.name).set_function(partial(getattr, broker, "round_trip"))
    gauge("att_db_connections", "Open database connections.", lambda: db.use.open)
    gauge("att_db_connections_in_use", "Database connections in use.", lambda: db.use.in_use)
    gauge("att_db_connections_limit", "Most database connections that may be open.", lambda: db.use.limit)
    gauge("att_db_waiting", "Callers waiting for a database connection.", lambda: db.use.waiting)
    gauge("att_hashing_running", "Passwords being hashed.", lambda: passwords.use.running)
    gauge("att_hashing_waiting", "Passwords waiting to be hashed.", lambda: passwords.use.waiting)
    gauge("att_memory_bytes", "Bytes that clients make the server hold.", lambda: memory.used)
    gauge("att_memory_limit_bytes", "Most bytes that clients may make the server hold.", lambda: memory.limit)
    gauge("att_tasks_failing", "Background tasks that fail.", lambda: len(failing()))
    gauge("att_draining", "1 if the server is stopping, else 0.", lambda: readiness.draining)


class _BrokerCounters(Collector):
    """The counters of all brokers, which have the same names."""

    def __init__(self, brokers: Sequence[Broker]) -> None:
        self._brokers = brokers

    def collect(self) -> Iterator[CounterMetricFamily]:
        sent = CounterMetricFamily("att_bus_rings_sent", "Announcements sent.", labels=["bus"])
        received = CounterMetricFamily("att_bus_rings_heard", "Announcements received.", labels=["bus"])
        for broker in self._brokers:
            sent.add_metric([broker.name], broker.sent)
            received.add_metric([broker.name], broker.received)
        yield from (sent, received)
