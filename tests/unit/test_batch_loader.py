"""The loader of batches: what is asked together, and what each who asks gets."""

import asyncio

import pytest

from att.core import batch_loader
from att.core.batch_loader import BatchLoader
from att.core.fair_semaphore import SOURCE
from att.errors import Busy, DatabaseUnavailable


class Store:
    """Loads keys as their doubles, each batch when it is released."""

    def __init__(self):
        self.batches = []
        self.gate = asyncio.Semaphore(0)
        self.room = asyncio.Semaphore(2)
        self.faults = {}

    async def load_many(self, keys):
        assert SOURCE.get() == "batches"  # which waits for its turn at the database by itself
        self.batches.append([*keys])
        await self.gate.acquire()
        if error := self.faults.get(max(keys)):
            raise error
        return [2 * key for key in keys]

    def loader(self, **options):
        return BatchLoader(self.load_many, self.room, **options)

    def release(self, count=100):
        for _ in range(count):
            self.gate.release()


@pytest.fixture
async def store():
    return Store()


async def turns(count=5):
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def ask(loader, *keys):
    """Ask for these keys at the same moment."""
    return [asyncio.create_task(loader.load(key)) for key in keys]


async def test_what_comes_meanwhile_is_the_next_batch(store):
    """A batch begins after its keys were asked for: one under way answers nobody who came later."""
    loader = store.loader()
    first = ask(loader, 1, 2)
    await turns()
    later = ask(loader, 2, 3)
    await turns()
    assert store.batches == [[1, 2]]
    store.release(1)
    assert await asyncio.gather(*first) == [2, 4]
    await turns()
    assert store.batches == [[1, 2], [2, 3]]
    assert not any(each.done() for each in later)
    store.release(1)
    assert await asyncio.gather(*later) == [4, 6]


async def test_one_key_is_asked_once(store):
    """Of those who ask for the same one, each is answered, also when another has gone."""
    loader = store.loader()
    asked = ask(loader, 1, 1, 1)
    await turns()
    asked[0].cancel()
    store.release()
    assert await asyncio.gather(*asked[1:]) == [2, 2]
    assert store.batches == [[1]]


async def test_who_has_gone_is_not_asked_for(store):
    """A key for which nobody waits any more is left out."""
    loader = store.loader()
    first = ask(loader, 1)
    await turns()
    gone, left = ask(loader, 2, 3)
    await turns()
    gone.cancel()
    store.release()
    assert await asyncio.gather(*first, left) == [2, 6]
    assert store.batches == [[1], [3]]


async def test_a_bad_one_fails_alone(store):
    """The others of its batch are answered."""
    loader = store.loader()
    store.faults[3] = ValueError("three")
    store.release()
    found = await asyncio.gather(*ask(loader, 1, 2, 3), return_exceptions=True)
    assert found[:2] == [2, 4]
    assert isinstance(found[2], ValueError)
    assert store.batches == [[1, 2, 3], [1], [2], [3]]


async def test_without_a_database(store):
    """All of a batch fail at once, and the next batch is tried."""
    loader = store.loader()
    store.faults[2] = DatabaseUnavailable()
    store.release()
    found = await asyncio.gather(*ask(loader, 1, 2), return_exceptions=True)
    assert [type(each) for each in found] == [DatabaseUnavailable] * 2
    assert store.batches == [[1, 2]]
    assert await loader.load(4) == 8


async def test_a_store_that_answers_too_little(store):
    """Nobody waits for ever."""

    async def forget(_keys):
        return []

    with pytest.raises(ValueError, match="zip"):
        await BatchLoader(forget, store.room).load(1)


async def test_bounds(store, monkeypatch):
    """A batch has a limit, all that wait have one, and all batches of several loaders have the room that there is."""
    monkeypatch.setattr(batch_loader, "BATCH_KEYS", 2)
    monkeypatch.setattr(batch_loader, "WAITING", 3)
    loaders = [store.loader() for _ in range(3)]
    first = ask(loaders[0], 1, 2, 3)
    others = [each for loader in loaders[1:] for each in ask(loader, 10)]
    await turns()
    assert store.batches == [[1, 2], [10]]
    more = ask(loaders[0], 4, 5)
    refused = ask(loaders[0], 6)
    await turns()
    with pytest.raises(Busy):
        await refused[0]
    store.release()
    assert await asyncio.gather(*first, *others, *more) == [2, 4, 6, 20, 20, 8, 10]
    assert sorted(store.batches) == [[1, 2], [3, 4], [5], [10], [10]]


async def test_patience(store):
    """Who has waited for too long before the batch begins gets Busy."""
    now = 0.0
    loader = store.loader(clock=lambda: now)
    first = ask(loader, 1)
    await turns()
    late = ask(loader, 2)
    await turns()
    now = batch_loader.PATIENCE + 1
    last = ask(loader, 3)
    await turns()
    store.release()
    assert await asyncio.gather(*first, *last) == [2, 6]
    with pytest.raises(Busy):
        await late[0]
    assert store.batches == [[1], [3]]
