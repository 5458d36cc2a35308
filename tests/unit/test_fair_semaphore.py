"""The semaphore whose sources take turns."""

import asyncio

import pytest

from att.core.fair_semaphore import FairSemaphore, OwnTask
from att.errors import Busy

DEADLINE = 10  # seconds; reached only by a failing test


async def asking(semaphore, sources, served):
    """Have each source ask for a place, which gives it back at once when it is served."""

    async def ask(source):
        async with semaphore.place(source[0]):
            served.append(source)

    tasks = [asyncio.create_task(ask(source)) for source in sources]
    await asyncio.sleep(0)
    return tasks


async def test_sources_take_turns():
    """Whoever comes last waits for one of each other source, however many of them wait."""
    semaphore, served = FairSemaphore(1, most=1, queue=9, share=9), []
    async with asyncio.timeout(DEADLINE):
        async with semaphore.place("z"):
            tasks = await asking(semaphore, ["a1", "a2", "a3", "b1", "c1", "b2"], served)
            assert (semaphore.taken, semaphore.waiting) == (1, 6)
        await asyncio.gather(*tasks)
    assert served == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert (semaphore.taken, semaphore.waiting) == (0, 0)


async def test_one_source_has_at_most_its_places():
    """The others have their turn meanwhile, and those of the source as soon as it gives a place back."""
    semaphore, served = FairSemaphore(3, most=2, queue=9, share=9), []
    async with asyncio.timeout(DEADLINE):
        await semaphore.acquire("a")
        async with semaphore.place("a"):
            more = await asking(semaphore, ["a1", "a2"], served)
            await asyncio.gather(*await asking(semaphore, ["b1", "c1"], served))
            assert served == ["b1", "c1"]
        await asyncio.gather(*more)
    assert served == ["b1", "c1", "a1", "a2"]
    assert semaphore.taken == 1


async def test_the_queue_is_bounded():
    """More than a share of one source are refused, and in a full queue those of the source that has most."""
    semaphore = FairSemaphore(1, most=1, queue=3, share=2)
    async with asyncio.timeout(DEADLINE):
        await semaphore.acquire("a")
        tasks = await asking(semaphore, ["a1", "a2", "a3", "b1", "b2", "c1"], [])
        assert semaphore.waiting == 3
        semaphore.release("a")
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, Busy) for outcome in outcomes] == [False, True, True, False, True, False]


async def test_an_own_task_waits_in_a_full_queue():
    """It has its turn, however many others wait, each once."""
    semaphore, served = FairSemaphore(1, most=1, queue=2, share=2), []
    own = OwnTask("reading")
    async with asyncio.timeout(DEADLINE):
        async with semaphore.place("z"):
            others = await asking(semaphore, ["a1", "b1"], served)
            task = asyncio.create_task(semaphore.acquire(own))
            await asyncio.sleep(0)
            assert semaphore.waiting == 3
        await task
        assert served == ["a1", "b1"]
        await asyncio.gather(*others)
    semaphore.release(own)


async def test_a_turn_that_nobody_takes_goes_to_the_next():
    """A caller cancelled while it waits, or in the moment in which it gets a place, keeps nobody waiting."""
    semaphore, served = FairSemaphore(1, most=1, queue=9, share=9), []
    async with asyncio.timeout(DEADLINE):
        await semaphore.acquire("z")
        first, second, third = await asking(semaphore, ["a1", "b1", "a2"], served)
        third.cancel()
        await asyncio.wait([third])
        assert semaphore.waiting == 2
        semaphore.release("z")
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
    assert served == ["b1"]
    assert first.cancelled()
    assert (semaphore.taken, semaphore.waiting) == (0, 0)


async def test_closing_cancels_those_who_wait():
    semaphore = FairSemaphore(1, most=1, queue=9, share=9)
    await semaphore.acquire("a")
    [waiting] = await asking(semaphore, ["a1"], [])
    semaphore.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
