"""Background work: it survives every failure, and ends with its block."""

import asyncio
import logging
from contextlib import suppress

import pytest

from att.core import tasks
from att.core.fair_semaphore import SOURCE
from att.core.tasks import Work, every, failing, supervise
from att.errors import DatabaseUnavailable


@pytest.fixture
def work():
    """Work that raises each of the given errors once, and then succeeds."""

    class Work:
        errors = [DatabaseUnavailable(), KeyError("x")]  # noqa: RUF012 - one test, one use
        done = asyncio.Event()

        async def __call__(self):
            if self.errors:
                raise self.errors.pop(0)
            self.done.set()

    return Work()


async def test_failures_are_logged(work, caplog):
    """Work is repeated after any failure. A database error is one line, a bug has its traceback."""
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


async def test_failed_work_is_restarted(work, caplog, monkeypatch):
    """Each failure is logged with its traceback. Work that returns is restarted too."""
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


async def test_work_that_always_fails_does_not_spin(monkeypatch, caplog):
    """It is restarted after a pause, and its block can end during the pause."""
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


@pytest.mark.parametrize("start", [supervise, lambda name, work: every(name, work, 60)])
async def test_own_work_takes_turns_by_its_name(start):
    """Not as that of the user in whose request it may be started."""
    seen = asyncio.get_running_loop().create_future()

    async def work():
        if not seen.done():
            seen.set_result(SOURCE.get())

    SOURCE.set("somebody")
    async with start("sweeping", work):
        assert await asyncio.wait_for(seen, 5) == "sweeping"


async def test_supervised_work_ends_with_its_block():
    """No task is left after the block, even if the block failed, or the work ignored a cancellation."""
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


async def test_periodic_work_fails_until_it_succeeds(work, caplog, monkeypatch):
    """It is tried again soon; the recovery is logged once."""
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


async def test_supervised_work_fails_until_it_has_run_for_a_while(work, monkeypatch):
    """The time is that of the first failure, as long as the next ones come within the probation."""
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
    """A failure is news again after a success, or if the error is another."""
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
