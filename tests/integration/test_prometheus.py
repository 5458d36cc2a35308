"""The page of metrics: well formed, with the values that the parts have counted."""

import pytest
from aiohttp import web
from metric_samples import samples

from att import __version__
from att.accounts.passwords import Passwords
from att.accounts.roles import Roles
from att.core.memory import MemoryBudget
from att.core.quotas import Quotas
from att.core.readiness import Readiness
from att.groups.queries import GroupQueries
from att.http.access_log import RequestLog
from att.protocol.frames import CloseCode
from att.realtime.brokers.postgres import PostgresBroker
from att.realtime.ephemeral_publisher import EphemeralPublisher
from att.realtime.event_log import EventLog
from att.realtime.hub import Hub
from att.realtime.publisher import Publisher
from att.realtime.registry import Registry
from att.server.prometheus import page, process_registry, register


@pytest.fixture
def request_log():
    return RequestLog()


@pytest.fixture
def registry(db, db_url, request_log):
    hub = Hub(Registry())
    broker = PostgresBroker(db, db_url)
    registry = process_registry()
    register(
        registry,
        request_log=request_log,
        quotas=Quotas(),
        hub=hub,
        publisher=Publisher(EventLog(db), hub, broker),
        ephemerals=EphemeralPublisher(EventLog(db), hub, broker, GroupQueries(db), Roles(db).permissions_of),
        brokers=[broker],
        db=db,
        passwords=Passwords(),
        readiness=Readiness(),
        memory=MemoryBudget(1_000),
    )
    return registry


@pytest.fixture
def exposed(registry):
    """Read the page now."""
    return lambda: samples(page(registry, "")[0].decode())


async def test_conventions(exposed):
    """Our names begin with att_, counters end in _total, each metric has a description."""
    _, families = exposed()
    ours = {name: family for name, family in families.items() if name.startswith("att_")}
    assert len(ours) > 20
    assert all(name.startswith(("att_", "process_", "python_")) for name in families)
    for name, family in ours.items():
        assert family.documentation.endswith("."), name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert all(sample.name == f"{name}_total" for sample in family.samples if family.type == "counter")
        assert not any(sample.name.endswith("_created") for sample in family.samples)


async def test_before_our_parts_have_started(db):
    """Before the start, only metrics of the process and the build are there."""
    found, families = samples(page(process_registry(), "")[0].decode())
    assert not [name for name in families if name.startswith("att_") and name != "att_build_info"]
    [[*_, version]] = [key for key in found if key[0] == "att_build_info"]
    assert version == ("version", __version__)


def observe(request_log, route, method, status, seconds):
    count, durations = request_log._metrics_of(route, method, status)
    count.inc()
    durations.observe(seconds)


async def test_requests(request_log, exposed):
    """Requests are counted by route, method and status, their durations by route and method."""
    for status, seconds in ((200, 0.002), (200, 0.3), (404, 20.0)):
        observe(request_log, "/users/{user_id}", "GET", status, seconds)
    observe(request_log, "/listen/{user_id}", "GET", 101, 0.01)
    observe(request_log, "", "other", 404, 0.001)
    found, _ = exposed()
    of_users = ("method", "GET"), ("route", "/users/{user_id}")
    assert found["att_http_requests_total", *of_users, ("status", "200")] == 2
    assert found["att_http_requests_total", *of_users, ("status", "404")] == 1
    of_listen = ("method", "GET"), ("route", "/listen/{user_id}"), ("status", "101")
    assert found["att_http_requests_total", *of_listen] == 1
    assert found["att_http_requests_total", ("method", "other"), ("route", "none"), ("status", "404")] == 1
    name = "att_http_request_duration_seconds"
    buckets = [
        found[f"{name}_bucket", ("le", bound), *of_users] for bound in ("0.001", "0.0025", "0.5", "10.0", "+Inf")
    ]
    assert buckets == [0, 1, 2, 2, 3]
    assert found[f"{name}_count", *of_users] == 3
    assert found[f"{name}_sum", *of_users] == pytest.approx(20.302)


async def test_a_path_cannot_forge_a_sample(request_log, exposed):
    """Quotes and line ends in a label are escaped."""
    route = '/x"}\natt_forged 1\\'
    observe(request_log, route, "GET", 200, 0.1)
    found, families = exposed()
    assert found["att_http_requests_total", ("method", "GET"), ("route", route), ("status", "200")] == 1
    assert "att_forged" not in families


async def test_refusals(request_log, exposed):
    """Refusals are counted by status, and apart from requests, whose share of errors they would change."""
    for status in (400, 503, 503):
        request_log.rejected(None, web.Response(status=status))
    found, _ = exposed()
    assert found["att_http_refusals_total", ("status", "400")] == 1
    assert found["att_http_refusals_total", ("status", "503")] == 2
    assert not [key for key in found if key[0] == "att_http_requests_total"]


async def test_closes(request_log, exposed):
    request_log._closed(CloseCode.SESSION_ENDED)
    request_log._closed(4999)
    request_log._closed(None)
    found, _ = exposed()
    assert found["att_socket_closes_total", ("code", str(int(CloseCode.SESSION_ENDED)))] == 1
    assert found["att_socket_closes_total", ("code", "1006")] == 1
    assert found["att_socket_closes_total", ("code", "other")] == 1


async def test_openmetrics(registry):
    """A client that accepts OpenMetrics gets it."""
    text, content_type = page(registry, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
