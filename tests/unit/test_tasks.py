"""Work in the background: it goes on whatever happens to it, until it is to end."""

import asyncio
import logging
from contextlib import suppress

import pytest

from att.core import tasks
from att.core.tasks import Work, every, failing, supervise
from att.errors import DatabaseUnavailable


@pytest.fixture
def work():
    """Work that fails as it is told to, once each, and then says that it has been done."""

    class Work:
        errors = [DatabaseUnavailable(), KeyError("x")]  # noqa: RUF012 - one test, one use
        done = asyncio.Event()

        async def __call__(self):
            if self.errors:
                raise self.errors.pop(0)
            self.done.set()

    return Work()


async def test_failures_are_logged(work, caplog):
    """It is done again after any failure: one of the database is a line, a fault of ours comes with its traceback."""
    with caplog.at_level(logging.WARNING, "att"):
        async with every("sweeping", work, 0):
            await asyncio.wait_for(work.done.wait(), 5)
    (warning, fault) = caplog.records
    assert (warning.levelname, warning.exc_info) == ("WARNING", None)
    assert warning.getMessage() == f"sweeping: {DatabaseUnavailable().detail}"
    assert (fault.levelname, fault.getMessage(), fault.exc_info[0]) == ("ERROR", "sweeping failed", KeyError)


async def test_it_ends_with_its_block(work, caplog):
    """After the block nothing is left, also when it was in the middle of something, or the block failed.

    Nor when it answers the cancellation with an error, as a driver may.
    """
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def endless():
        begun.set()
        await asyncio.Event().wait()

    async def deaf():
        with suppress(asyncio.CancelledError):
            await endless()
        raise DatabaseUnavailable

    for work_of_length in (endless, deaf):
        begun.clear()
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(5), every("endless", work_of_length, 3600):
                await begun.wait()
                raise ZeroDivisionError
    async with every("asleep", work, 3600):
        pass
    assert asyncio.all_tasks() == before
    assert not caplog.records


# All the time


async def test_what_fails_is_begun_anew(work, caplog, monkeypatch):
    """Whatever it failed with; that is logged, with its traceback. So is what has come to an end by itself."""
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 0)
    begun, twice = [], asyncio.Event()

    async def done_twice():
        await work()
        begun.append(None)
        if len(begun) == 2:
            twice.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(5), supervise("hearing", done_twice):
        await twice.wait()
    assert [record.getMessage() for record in caplog.records] == ["hearing failed and is restarted"] * 2
    assert [record.exc_info[0] for record in caplog.records] == [DatabaseUnavailable, KeyError]


async def test_what_fails_for_good_does_not_spin(monkeypatch, caplog):
    """It is begun anew after a pause, and ends with its block during that, too."""
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 3600)
    failures, failed = [], asyncio.Event()

    async def fail():
        failures.append(None)
        failed.set()
        raise KeyError

    async with asyncio.timeout(5), supervise("hearing", fail):
        await failed.wait()
        for _ in range(10):
            await asyncio.sleep(0)
    assert len(failures) == 1


async def test_what_runs_ends_with_its_block():
    """After the block nothing is left, also when the block failed, or the work has let a cancellation pass it by."""
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def endless():
        begun.set()
        await asyncio.Event().wait()

    async def deaf():
        with suppress(asyncio.CancelledError):
            await endless()
        await endless()

    for work_of_length in (endless, deaf):
        begun.clear()
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(5), supervise("endless", work_of_length):
                await begun.wait()
                raise ZeroDivisionError
    async with supervise("not begun", endless):
        pass
    assert asyncio.all_tasks() == before


# What fails


async def test_what_is_done_now_and_then_fails_until_it_succeeds(work, caplog, monkeypatch):
    """It is tried again soon; that it works again is told once."""
    caplog.set_level(logging.INFO, "att")
    monkeypatch.setattr(tasks, "RETRY_PAUSE", 0)
    work.errors = [DatabaseUnavailable(), DatabaseUnavailable()]
    seen = []

    async def spy_log():
        seen.append([name for name, _ in failing()])
        await work()

    async with asyncio.timeout(5), every("sweeping", spy_log, 3600):
        await work.done.wait()
        await asyncio.sleep(0)
        assert failing() == []
    assert seen == [[], ["sweeping"], ["sweeping"]]
    assert [record.getMessage() for record in caplog.records] == [
        f"sweeping: {DatabaseUnavailable().detail}",
        "sweeping works again",
    ]


async def test_what_is_done_all_the_time_fails_until_it_has_run_for_a_while(work, monkeypatch):
    """Since its first failure, as long as the next ones come within that while."""
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 0)
    begun = asyncio.Event()

    async def go_on():
        await work()
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(5), supervise("hearing", go_on):
        await begun.wait()
        [(name, _)] = failing()
        assert name == "hearing"
        later = tasks.time.monotonic() + tasks.PROBATION
        monkeypatch.setattr(tasks.time, "monotonic", lambda: later)
        assert failing() == []
        monkeypatch.undo()
    assert failing() == []


def test_a_failure_is_news_once():
    """Until it has succeeded, or fails otherwise."""
    work = Work("sweeping")
    assert [work.fail(KeyError()), work.fail(KeyError()), work.fail(OSError())] == [True, False, True]
    since = work.failing_since
    work.fail(OSError())
    assert work.failing_since == since
    assert [work.succeed(), work.succeed()] == [True, False]
    assert work.failing_since is None
    assert work.fail(OSError())


async def test_a_flood_of_failures_is_one_line(caplog, monkeypatch):
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 0)
    failures, enough = [], asyncio.Event()

    async def fail():
        failures.append(None)
        if len(failures) == 50:
            enough.set()
        raise KeyError

    async with asyncio.timeout(5), supervise("hearing", fail):
        await enough.wait()
    assert len(caplog.records) == 1
