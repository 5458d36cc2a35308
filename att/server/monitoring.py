"""Monitoring of a server that has started: probes of its readiness, and the lag of its event loop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from prometheus_client import CollectorRegistry, Histogram
from sqlalchemy import literal, select

from att.core.metrics import SECONDS
from att.core.readiness import NotReady, Readiness, tasks
from att.core.tasks import supervise
from att.db.engine import Engine, prepare
from att.realtime.brokers.base import Broker

LAG_INTERVAL = 0.5  # seconds between samples

PING = prepare(select(literal(1)))


@contextlib.asynccontextmanager
async def monitor(
    readiness: Readiness, db: Engine, brokers: Sequence[Broker], registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Add the probes, mark the server as started, and measure while the block runs."""
    readiness.probes |= {"database": lambda: ping(db), "bus": lambda: check_connected(brokers), "tasks": tasks}
    lag = Histogram("att_loop_lag_seconds", "How late the event loop was, sampled.", buckets=SECONDS, registry=registry)
    async with supervise("measuring the event loop", lambda: measure_lag(lag)):
        readiness.is_started = True
        yield


async def ping(db: Engine) -> None:
    """Probe the database. Raises the engine's errors."""
    await db.fetch_one(PING)


async def check_connected(brokers: Sequence[Broker]) -> None:
    """Probe the brokers. Raises NotReady."""
    if away := [broker.name for broker in brokers if not broker.is_connected]:
        raise NotReady("the bus is not connected", away=away)


async def measure_lag(lag: Histogram) -> None:
    """Sample how late the event loop resumes a task."""
    while True:
        due = time.perf_counter() + LAG_INTERVAL
        await asyncio.sleep(LAG_INTERVAL)
        lag.observe(max(time.perf_counter() - due, 0.0))
