"""Readiness: all probes run, each with a timeout, and the report names the faults."""

import asyncio
from contextlib import suppress

import pytest

from att.core import tasks
from att.core.readiness import NotReady, Readiness, tasks as probe_tasks
from att.core.tasks import supervise
from att.errors import DatabaseUnavailable


async def fine():
    """Probe successfully."""


@pytest.fixture
def readiness():
    """Readiness of a started server, with a short timeout."""
    readiness = Readiness(timeout=0.05)
    readiness.is_started = True
    return readiness


async def test_ready(readiness):
    readiness.probes["database"] = fine
    report = await readiness.report()
    assert (report.status, report.is_ready) == ("ready", True)
    assert report.checks["database"].keys() == {"ok", "ms"}
    assert report.checks["database"]["ok"]


async def test_before_it_has_started(readiness):
    """A server that is starting is not ready, and its probes do not run."""
    readiness.is_started = False
    readiness.probes["database"] = fine
    report = await readiness.report()
    assert (report.status, report.is_ready) == ("not ready", False)
    assert report.checks["start"]["error"] == "the server is starting"


async def test_draining(readiness):
    """A draining server is not ready, though its probes succeed; the report shows them."""
    readiness.probes["database"] = fine
    readiness.draining = True
    report = await readiness.report()
    assert (report.status, report.is_ready) == ("draining", False)
    assert report.checks["database"]["ok"]


async def test_failures(readiness, caplog):
    """Each failure has a sentence for the operator. A bug shows no details; it is logged once."""

    async def unavailable():
        raise DatabaseUnavailable(why="the database at db.example:5432: connection refused")

    async def wrong():
        raise NotReady("the moon is not up", since="noon")

    async def broken():
        raise KeyError("secret")

    async def hung():
        await asyncio.Event().wait()

    readiness.probes |= {"fine": fine, "db": unavailable, "moon": wrong, "broken": broken, "hung": hung}
    for _ in range(2):
        async with asyncio.timeout(5):
            report = await readiness.report()
    assert report.status == "not ready"
    told = {name: {key: told for key, told in check.items() if key != "ms"} for name, check in report.checks.items()}
    assert told == {
        "fine": {"ok": True},
        "db": {"ok": False, "error": "the database at db.example:5432: connection refused"},
        "moon": {"ok": False, "error": "the moon is not up", "since": "noon"},
        "broken": {"ok": False, "error": "internal error, see the log"},
        "hung": {"ok": False, "error": "no answer within 0.05 s"},
    }
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


async def test_probes_run_concurrently(readiness):
    """Each of two probes waits until the other has started."""
    readiness._patience = 5
    barrier = asyncio.Barrier(2)
    readiness.probes |= {"one": barrier.wait, "other": barrier.wait}
    assert (await readiness.report()).is_ready


async def test_concurrent_callers_share_a_run(readiness):
    """The probes run once for all of them, even if the first is cancelled; a later caller starts a new run."""
    asked, go = [], asyncio.Event()

    async def probe():
        asked.append(None)
        await go.wait()

    readiness._patience = 5
    readiness.probes["database"] = probe
    first, *others = [asyncio.create_task(readiness.report()) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    go.set()
    assert all([(await other).is_ready for other in others])
    assert len(asked) == 1
    await readiness.report()
    assert len(asked) == 2


async def test_tasks(monkeypatch):
    """Failing work is named, with the time of its first failure; without any the probe succeeds."""
    await probe_tasks()
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 3600)
    failed = asyncio.Event()

    async def fail():
        failed.set()
        raise KeyError

    async with supervise("counting sheep", fail):
        await failed.wait()
        await asyncio.sleep(0)
        with pytest.raises(NotReady) as error:
            await probe_tasks()
    [facts] = error.value.facts["failing"]
    assert facts["name"] == "counting sheep"
    assert facts["since"].endswith("+00:00")
    await probe_tasks()
