"""The figures as Prometheus reads them: what the parts have counted, gathered when somebody asks."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from att import __version__
from att.accounts.passwords import Passwords
from att.core.metrics import SECONDS, Histogram, Requests
from att.core.readiness import Readiness
from att.core.tasks import failing
from att.db.engine import Engine
from att.realtime.brokers.base import Broker
from att.realtime.hub import Hub
from att.realtime.publisher import Publisher
from att.realtime.registry import Dialect

NO_ROUTE = "none"
DIALECTS = {Dialect.PLAIN: "plain", Dialect.V1: "att.v1"}

Labelled = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures(Collector):
    """The parts that count. Reading them changes nothing, and asks neither database nor network."""

    requests: Requests
    hub: Hub
    writer: Publisher
    buses: Sequence[Broker]
    db: Engine
    passwords: Passwords
    loop_lag: Histogram
    readiness: Readiness

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from self._of_http()
        yield from self._of_sockets()
        yield from self._of_the_log()
        yield from self._of_buses()
        yield from self._of_resources()

    def _of_http(self) -> Iterator[Metric]:
        times = sorted(self.requests.times.items())
        counted = [((route or NO_ROUTE, method, str(status)), one.count) for (route, method, status), one in times]
        name = "att_http_requests"
        yield _counter(name, "Requests that were answered.", counted, ("route", "method", "status"))
        merged: dict[tuple[str, ...], Histogram] = {}
        for (route, method, _), one in times:
            key = route or NO_ROUTE, method
            merged[key] = merged.get(key, Histogram(SECONDS)) + one
        name = "att_http_request_duration_seconds"
        yield _histogram(name, "Time to answer a request.", merged.items(), ("route", "method"))
        refusals = [((str(status),), count) for status, count in sorted(self.requests.refusals.items())]
        yield _counter("att_http_refusals", "Requests refused before their route was known.", refusals, ("status",))

    def _of_sockets(self) -> Iterator[Metric]:
        registry = self.hub.registry
        sockets = [((DIALECTS[dialect],), count) for dialect, count in registry.sockets.items()]
        yield _gauge("att_sockets", "WebSockets that listen here.", sockets, ("dialect",))
        closes = [((str(code) if code else "other",), count) for code, count in sorted(self.requests.closes.items())]
        yield _counter("att_socket_closes", "WebSockets that were closed, by close code.", closes, ("code",))
        yield _gauge("att_listening_users", "Users who listen here.", _one(len(registry.users())))
        yield _gauge("att_heard_groups", "Groups that somebody hears here.", _one(len(self.hub.heads())))
        counts = self.hub.counts
        yield _counter("att_deliveries", "Messages written to sockets here.", _one(counts.delivered))
        yield _counter(
            "att_deliveries_dropped", "Messages not written to a socket, since it is closing.", _one(counts.dropped)
        )

    def _of_the_log(self) -> Iterator[Metric]:
        appends = self.writer.appends
        yield _counter("att_broadcasts_appended", "Messages appended to the log here.", _one(appends.messages))
        yield _counter(
            "att_broadcasts_repeated", "Messages that the log had, by their idempotency key.", _one(appends.repeats)
        )
        yield _histogram(
            "att_append_batch_size", "Messages appended at once, with those that are refused.", [((), appends.batches)]
        )
        yield _histogram(
            "att_append_wait_seconds", "Time until a message is in the log, or refused by it.", [((), appends.waits)]
        )
        yield _gauge("att_append_queue", "Messages that wait to be appended.", _one(self.writer.waiting))

    def _of_buses(self) -> Iterator[Metric]:
        label = ("bus",)
        named = [((bus.name,), bus) for bus in self.buses]
        connected = [(name, float(bus.is_connected)) for name, bus in named]
        yield _gauge("att_bus_connected", "Whether the bus is heard: 1 or 0.", connected, label)
        sent = [(name, bus.sent) for name, bus in named]
        yield _counter("att_bus_rings_sent", "Rings sent from here.", sent, label)
        heard = [(name, bus.heard) for name, bus in named]
        yield _counter("att_bus_rings_heard", "Rings heard here.", heard, label)
        lag = [(name, bus.lag) for name, bus in named]
        yield _gauge("att_bus_lag_seconds", "Time until one's own last ring was heard.", lag, label)

    def _of_resources(self) -> Iterator[Metric]:
        pool, hashing = self.db.use, self.passwords.use
        yield _gauge("att_db_connections", "Database connections that are open.", _one(pool.open))
        yield _gauge("att_db_connections_in_use", "Of these, those in use.", _one(pool.in_use))
        yield _gauge("att_db_connections_limit", "How many there may be.", _one(pool.limit))
        yield _gauge("att_db_waiting", "Callers that wait for a database connection.", _one(pool.waiting))
        yield _gauge("att_hashing_running", "Passwords being hashed.", _one(hashing.running))
        yield _gauge("att_hashing_waiting", "Passwords that wait to be hashed.", _one(hashing.waiting))
        yield _histogram("att_loop_lag_seconds", "How late the event loop was, sampled.", [((), self.loop_lag)])
        yield _gauge("att_tasks_failing", "Background tasks that fail.", _one(len(failing())))
        yield _gauge("att_draining", "Whether the server is stopping: 1 or 0.", _one(self.readiness.draining))


class Build(Collector):
    """What runs."""

    def collect(self) -> Iterator[Metric]:
        """One family."""
        facts = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("att_build", "What runs.", value=facts)


class Exposition:
    """All that is shown: the figures of the process from the start, those of our parts when they are added."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector(registry=None), PlatformCollector(registry=None), Build()):
            self._registry.register(collector)

    def add(self, figures: Figures) -> None:
        """Show these too."""
        self._registry.register(figures)

    def text(self, accept: str) -> tuple[bytes, str]:
        """As text, and its content type, as the header Accept wants them."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _one(value: float) -> Labelled:
    return [((), value)]


def _gauge(name: str, says: str, values: Labelled, labels: Sequence[str] = ()) -> Metric:
    return _filled(GaugeMetricFamily(name, says, labels=labels), values)


def _counter(name: str, says: str, values: Labelled, labels: Sequence[str] = ()) -> Metric:
    return _filled(CounterMetricFamily(name, says, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Labelled) -> Metric:
    for given, value in values:
        family.add_metric(given, value)
    return family


def _histogram(
    name: str, says: str, values: Iterable[tuple[Sequence[str], Histogram]], labels: Sequence[str] = ()
) -> Metric:
    family = HistogramMetricFamily(name, says, labels=labels)
    for given, histogram in values:
        bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
        family.add_metric(given, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
