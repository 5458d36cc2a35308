"""Watching a server that has started: its figures, how late its loop is, and what makes it fit for requests."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import literal, select

from att.core.metrics import Histogram
from att.core.readiness import NotReady, tasks
from att.core.tasks import supervise
from att.db.engine import Engine, prepare
from att.realtime.brokers.base import Broker
from att.server.prometheus import Exposition, Figures

LAG_INTERVAL = 0.5  # seconds between samples

PING = prepare(select(literal(1)))


@contextlib.asynccontextmanager
async def watching(figures: Figures, exposition: Exposition) -> AsyncIterator[None]:
    """The server has started: show its figures, and measure while the block runs."""
    readiness = figures.readiness
    readiness.probes |= {
        "database": lambda: ping(figures.db),
        "bus": lambda: check_connected(figures.buses),
        "tasks": tasks,
    }
    exposition.add(figures)
    async with supervise("measuring the loop", lambda: measure_lag(figures.loop_lag)):
        readiness.is_started = True
        yield


async def ping(db: Engine) -> None:
    """A probe of the database. Raises what the engine does."""
    await db.fetch_one(PING)


async def check_connected(buses: Sequence[Broker]) -> None:
    """A probe of the buses. Raises NotReady."""
    if away := [bus.name for bus in buses if not bus.is_connected]:
        raise NotReady("the bus is not connected", away=away)


async def measure_lag(lag: Histogram) -> None:
    """Look now and then how late the event loop calls."""
    while True:
        due = time.perf_counter() + LAG_INTERVAL
        await asyncio.sleep(LAG_INTERVAL)
        lag.observe(max(time.perf_counter() - due, 0.0))
