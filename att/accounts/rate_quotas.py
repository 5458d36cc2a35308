"""Quotas of what a user does in a time: requests, broadcasts and ephemeral messages. Each server counts by itself."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from att.config.settings import Rate
from att.core.permissions import Permission, Permissions, permits
from att.core.quotas import Quota, Quotas, TokenBuckets
from att.errors import Unavailable

EXEMPTION_SECONDS = 60.0  # until the role of a user who is above a rate is read again
_MAX_USERS = 100_000  # whose exemption is remembered; the oldest are dropped


class _Exemption(NamedTuple):
    """Exemption of a user, or its absence, with the time until which it is believed."""

    is_exempt: bool
    until: float


class RateQuotas:
    """Raises QuotaExhausted for a user who does too much in a time, unless their role has ``quotas.exempt``."""

    def __init__(
        self,
        quotas: Quotas,
        rates: Mapping[Quota, Rate | None],
        read_permissions: Callable[[UUID], Awaitable[Permissions]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quotas = quotas
        self._read_permissions = read_permissions
        self._clock = clock
        self._buckets = {
            quota: TokenBuckets(rate.amount, rate.per.total_seconds(), clock) for quota, rate in rates.items() if rate
        }
        self._exemptions: dict[UUID, _Exemption] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def check_sockets(self, user_id: UUID, count: int, retry_after: float) -> None:
        """Raise QuotaExhausted if a user with so many open sockets cannot open another."""
        limit = self._quotas.limit(Quota.SOCKETS)
        if limit is not None and count >= limit and not await self.is_exempt(user_id):
            raise self._quotas.exhausted(Quota.SOCKETS, retry_after)

    async def prepare(self, user_id: UUID) -> None:
        """Read the user's role, if ``take_now`` needs it."""
        if not self._buckets.keys().isdisjoint((Quota.BROADCASTS, Quota.EPHEMERALS)):
            await self.is_exempt(user_id)

    async def take(self, quota: Quota, user_id: UUID) -> None:
        """Count one request or broadcast. Raise QuotaExhausted."""
        wait = self._take(quota, user_id)
        if wait and not await self.is_exempt(user_id):
            raise self._quotas.exhausted(quota, wait)

    def take_now(self, quota: Quota, user_id: UUID) -> None:
        """Count one likewise without waiting, for a user who is prepared."""
        wait = self._take(quota, user_id)
        if not wait:
            return
        known = self._exemptions.get(user_id)
        if not known or known.until < self._clock():
            self._read_again(user_id)
        if not known or not known.is_exempt:
            raise self._quotas.exhausted(quota, wait)

    async def is_exempt(self, user_id: UUID) -> bool:
        """Return True if the user's role has ``quotas.exempt``, or had it within the last minute."""
        known = self._exemptions.get(user_id)
        if known and known.until > self._clock():
            return known.is_exempt
        is_exempt = permits(await self._read_permissions(user_id), Permission.QUOTAS_EXEMPT)
        self._exemptions[user_id] = _Exemption(is_exempt, self._clock() + EXEMPTION_SECONDS)
        if len(self._exemptions) > _MAX_USERS:
            del self._exemptions[next(iter(self._exemptions))]
        return is_exempt

    def _take(self, quota: Quota, user_id: UUID) -> float:
        buckets = self._buckets.get(quota)
        return 0.0 if buckets is None else buckets.take(user_id)

    def _read_again(self, user_id: UUID) -> None:
        if not self._reading:  # one at a time: the next one above a rate comes soon
            task = asyncio.get_running_loop().create_task(self._read(user_id))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read(self, user_id: UUID) -> None:
        with contextlib.suppress(Unavailable):
            await self.is_exempt(user_id)
