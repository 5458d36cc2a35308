"""The one task that appends to the log. While a batch is being appended the next one gathers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence

from prometheus_client import Counter, Histogram

from att.core.metrics import SECONDS
from att.core.tasks import supervise
from att.errors import AttError, Busy, ConnectionLost, DatabaseUnavailable, ShuttingDown, Unavailable
from att.realtime.brokers.base import Broker
from att.realtime.event_log import EventLog, Publish, PublishResult
from att.realtime.fanout import NOBODY, Delivered
from att.realtime.hub import Hub
from att.realtime.locked_groups import LockedGroups
from att.realtime.publish_queue import Outcome, PendingPublish, PublishCallback, PublishQueue, resolve_all

QUEUE_ITEMS = 10_000  # waiting publishes; further ones are refused
_QUEUE_BYTES = 64 * 1024**2
_RETRY_TIME = 10.0  # seconds for which an append with unknown outcome is retried, if it has a key
_PAUSE = 0.1  # seconds between attempts
DELIVERY_TIMEOUT = 2.0  # seconds that a response waits for the fan-out; the event is logged, and delivered later
_STOP_TIMEOUT = 5.0  # seconds to append waiting publishes when the server stops
LOCKED_SHARE = 0.5  # of the queue; above it publishes to locked groups are refused
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # buckets of the metric
ATTEMPTS = 3  # at appending a batch, before it is refused as too much

log = logging.getLogger("att")


class Publisher:
    """Appends publishes in their order, gives the events to the hub, and announces them to the broker."""

    def __init__(self, log: EventLog, hub: Hub, broker: Broker) -> None:
        self._log = log
        self._hub = hub
        self._broker = broker
        self.appended = Counter("att_broadcasts_appended", "Messages appended to the log here.", registry=None)
        self.repeated = Counter(
            "att_broadcasts_repeated", "Messages that the log had, by their idempotency key.", registry=None
        )
        self.batch_sizes = Histogram(
            "att_append_batch_size",
            "Messages appended at once, with those that are refused.",
            buckets=BATCH_SIZES,
            registry=None,
        )
        self.waits = Histogram(
            "att_append_wait_seconds", "Time until a message is appended or refused.", buckets=SECONDS, registry=None
        )
        self._queue = PublishQueue()
        self._locked = LockedGroups(log, self._queue)
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Append while the block runs, and at its end what still waits. Publishes are refused from then on."""
        try:
            async with (
                supervise("appending to the log", self._write),
                supervise("checking of locked groups", self._locked.recheck),
            ):
                yield
                self._is_closed = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_TIMEOUT):
                        await self._idle.wait()
        finally:
            self._is_closed = True
            for queue in (self._queue, self._locked.queue):
                resolve_all(queue.take_all(), ShuttingDown())

    @property
    def waiting(self) -> int:
        """The number of waiting publishes."""
        return len(self._queue) + len(self._locked.queue)

    def submit(self, publish: Publish, callback: PublishCallback) -> None:
        """Append soon, then call back. Raise Busy if too much waits, and ShuttingDown."""
        if self._is_closed:
            raise ShuttingDown
        queue = self._locked.queue_for(publish.group)
        share = 1 if queue is self._queue else LOCKED_SHARE
        size = self._queue.bytes + self._locked.queue.bytes
        if self.waiting >= share * QUEUE_ITEMS or size >= share * _QUEUE_BYTES:
            raise Busy
        if queue is self._queue:
            self._idle.clear()
        queue.put(PendingPublish(publish, callback))

    async def append(self, publish: Publish) -> PublishResult:
        """Append and return the result, or raise why not; ConnectionLost if that is unknown and there is no key."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.submit(publish, lambda outcome: None if future.done() else future.set_result(outcome))
        outcome = await future
        if isinstance(outcome, AttError):
            raise outcome
        return outcome

    async def publish(self, publish: Publish) -> tuple[PublishResult, Delivered]:
        """Append, and count the deliveries to sockets of this node. Raise what ``append`` raises."""
        result = await self.append(publish)
        return result, await self._delivered(result)

    async def _delivered(self, result: PublishResult) -> Delivered:
        event = result.event
        counted = self._hub.counts.of(event)
        if counted is not None or result.is_repeat:
            return counted or NOBODY
        future: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self._hub.counts.expect(event, lambda delivered: None if future.done() else future.set_result(delivered))
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT):
                return await future
        except TimeoutError:
            return NOBODY
        finally:
            self._hub.counts.forget(event)

    async def _write(self) -> None:
        while True:
            while batch := self._queue.take():
                async with self._answering(batch):
                    await self._append(batch)
            self._idle.set()
            await self._queue.ready.wait()
            self._queue.ready.clear()

    @contextlib.asynccontextmanager
    async def _answering(self, batch: Sequence[PendingPublish]) -> AsyncIterator[None]:
        """Resolve the batch even if an error occurs inside."""
        try:
            yield
        except asyncio.CancelledError:
            self._broker.announce_sweep()  # the outcome is unknown
            resolve_all(batch, ConnectionLost())
            raise
        except Exception:
            log.exception("a batch could not be appended")
            resolve_all(batch, Unavailable())

    async def _append(self, batch: Sequence[PendingPublish]) -> None:
        """Append a batch. Publishes to locked groups wait aside, and do not delay the others."""
        for attempt in range(ATTEMPTS):
            try:
                if attempt or self._locked:
                    batch = await self._locked.take_locked(batch)
                if batch:
                    await self._append_whole(batch)
                return
            except DatabaseUnavailable as error:
                await self._try_again(batch, error)
                return
            except Busy:
                continue
            except Exception:  # noqa: BLE001 - the retry one by one finds the cause
                await self._append_one_by_one(batch)
                return
        resolve_all(batch, Busy())

    async def _append_whole(self, batch: Sequence[PendingPublish]) -> None:
        """Append a batch at once. Raise what the log raises: then nothing was appended, or the outcome is unknown."""
        outcomes = await self._log.append([item.publish for item in batch])
        self._count(batch)
        for item, outcome in zip(batch, outcomes, strict=True):
            self._announce(outcome)
            item.resolve(outcome)

    async def _append_one_by_one(self, batch: Sequence[PendingPublish]) -> None:
        """Append each alone, so that a bad one fails alone."""
        for index, item in enumerate(batch):
            try:
                await self._append_alone(item)
            except Busy as error:
                item.resolve(error)
                self._queue.put_back(batch[index + 1 :])
                return
            except DatabaseUnavailable as error:
                self._queue.put_back(batch[index + 1 :])
                await self._try_again([item], error)
                return

    async def _append_alone(self, item: PendingPublish) -> None:
        """Append one item. Raise Busy and DatabaseUnavailable."""
        try:
            [outcome] = await self._log.append([item.publish])
        except (Busy, DatabaseUnavailable):
            raise
        except AttError as error:
            item.resolve(error)
        except Exception:
            log.exception("a message could not be appended")
            item.resolve(Unavailable())
        else:
            self._count([item])
            self._announce(outcome)
            item.resolve(outcome)

    async def _try_again(self, batch: Sequence[PendingPublish], error: DatabaseUnavailable) -> None:
        """Retry items with unknown outcome if they have a key, by which the log finds repeats. Refuse the rest."""
        now = time.monotonic()
        if isinstance(error, ConnectionLost):
            self._broker.announce_sweep()  # publishes without a key may be logged but unannounced
            for item in batch:
                item.unknown_since = item.unknown_since or now
        again = [
            item for item in batch if item.publish.key and item.unknown_since and now - item.unknown_since < _RETRY_TIME
        ]
        resolve_all([item for item in batch if item not in again], error)
        resolve_all(self._queue.take_older(now - _RETRY_TIME), error)
        if again:
            self._queue.put_back(again)
            await asyncio.sleep(_PAUSE)

    def _count(self, batch: Sequence[PendingPublish]) -> None:
        now = time.monotonic()
        self.batch_sizes.observe(len(batch))
        for item in batch:
            self.waits.observe(now - item.since)

    def _announce(self, outcome: Outcome) -> None:
        if isinstance(outcome, AttError):
            return
        event = outcome.event
        (self.repeated if outcome.is_repeat else self.appended).inc()
        try:
            if outcome.is_repeat:  # the log has the first message, not this one
                self._broker.announce_head(event.group_id, event.seq)
                self._hub.observe_head(event.group_id, event.seq)
            else:
                self._broker.announce(event, outcome.epoch)
                self._hub.offer(event)
        except Exception:
            log.exception("a message was appended, but could not be delivered at once")
