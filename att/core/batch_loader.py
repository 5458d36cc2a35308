"""Loads single keys in batches: those that are asked for while a batch is under way are the next one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from att.core.fair_semaphore import SOURCE, OwnTask
from att.errors import Busy, Unavailable

BATCH_KEYS = 100  # keys
WAITING = 50_000  # keys of a loader; the next one gets Busy
PATIENCE = 10.0  # seconds for which a key may wait before its batch begins

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class BatchLoader(Generic[_Key, _Value]):
    """Answers ``load`` by ``load_many``, which returns a value for each key, in their order.

    A batch begins after each of its keys was asked for, so that no answer is older than its question. When a batch
    fails, each of its keys is tried alone; but an Unavailable concerns all. ``room`` bounds the batches under way,
    those of other loaders included.
    """

    def __init__(
        self,
        load_many: Callable[[Sequence[_Key]], Awaitable[Sequence[_Value]]],
        room: asyncio.Semaphore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_many = load_many
        self._room = room
        self._clock = clock
        self._waiting: dict[_Key, _Question[_Value]] = {}  # oldest first
        self._loading: asyncio.Task[None] | None = None

    async def load(self, key: _Key) -> _Value:
        """Return the value of a key. Raise what ``load_many`` raises, and Busy."""
        question = self._waiting.get(key)
        if question is None:
            if len(self._waiting) >= WAITING:
                raise Busy
            question = self._waiting[key] = _Question(self._clock())
            if self._loading is None:
                self._loading = asyncio.create_task(self._load_waiting(), name="batches")
        answer: asyncio.Future[_Value] = asyncio.get_running_loop().create_future()
        question.answers.append(answer)
        return await answer

    async def _load_waiting(self) -> None:
        SOURCE.set(OwnTask("batches"))  # not the one who has asked first
        try:
            while self._waiting:
                async with self._room:
                    await self._load(self._take())
        finally:
            self._loading = None

    def _take(self) -> "dict[_Key, _Question[_Value]]":
        """Remove and return the next batch. Keys that have waited for too long get Busy."""
        batch: dict[_Key, _Question[_Value]] = {}
        before = self._clock() - PATIENCE
        while self._waiting and len(batch) < BATCH_KEYS:
            key = next(iter(self._waiting))
            question = self._waiting.pop(key)
            if question.since < before:
                question.fail(Busy())
            elif question.is_open:
                batch[key] = question
        return batch

    async def _load(self, batch: "dict[_Key, _Question[_Value]]") -> None:
        if not batch:
            return
        try:
            answered = [*zip(batch.values(), await self._load_many([*batch]), strict=True)]
        except Exception as error:  # noqa: BLE001 - those who wait get it
            if len(batch) == 1 or isinstance(error, Unavailable):
                for question in batch.values():
                    question.fail(error)
            else:
                for key, question in batch.items():
                    await self._load({key: question})
        else:
            for question, value in answered:
                question.answer(value)


class _Question(Generic[_Value]):
    """A key's time of arrival, and those who wait for its value."""

    __slots__ = ("answers", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.answers: list[asyncio.Future[_Value]] = []

    @property
    def is_open(self) -> bool:
        """Return False if nobody waits any more."""
        return any(not answer.done() for answer in self.answers)

    def answer(self, value: _Value) -> None:
        """Give the value to all who wait."""
        for answer in self.answers:
            if not answer.done():
                answer.set_result(value)

    def fail(self, error: Exception) -> None:
        """Raise the error in all who wait."""
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(error)
