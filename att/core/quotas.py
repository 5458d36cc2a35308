"""Quotas: what one user, or one group of users, may have. Rules and counts without I/O."""

import math
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from uuid import UUID

from prometheus_client import Counter

from att.errors import QuotaExceeded, QuotaExhausted

EXEMPTING = "{*,quotas.exempt}"  # as an array of PostgreSQL: the permissions that exempt from quotas


class Quota(StrEnum):
    """Names of the quotas, in errors, metrics, and after ``--quota-`` in options."""

    GROUPS_OWNED = "groups-owned"
    GROUPS_JOINED = "groups-joined"
    MEMBERS = "members"
    RETENTION = "retention"
    GROUP_LOG = "group-log"
    SOCKETS = "sockets"
    SESSIONS = "sessions"
    BROADCASTS = "broadcasts"
    EPHEMERALS = "ephemerals"
    REQUESTS = "requests"


_DETAILS = {
    Quota.GROUPS_OWNED: "A user can own at most {} groups.",
    Quota.GROUPS_JOINED: "A user can be in at most {} groups.",
    Quota.MEMBERS: "A group can have at most {} members.",
    Quota.RETENTION: "A group can keep at most {} events.",
    Quota.GROUP_LOG: "The log of a group can have at most {} bytes. Its owners make room by a lower retention.",
    Quota.SOCKETS: "A user can have at most {} sockets open on one server. Close one first.",
    Quota.BROADCASTS: "This user sends too many broadcasts in a short time.",
    Quota.EPHEMERALS: "This user sends too many ephemeral messages in a short time.",
    Quota.REQUESTS: "This user sends too many requests in a short time.",
}


class Quotas:
    """Limits by quota, and errors that name them. A missing one is unlimited. ``refusals`` counts the errors."""

    def __init__(self, limits: Mapping[Quota, int | None] | None = None) -> None:
        self._limits = limits or {}
        self.refusals = Counter("att_quota_refusals", "Refusals for a quota.", ["quota"], registry=None)
        for quota in _DETAILS:
            self.refusals.labels(quota)

    def limit(self, quota: Quota) -> int | None:
        """Return the limit, None if there is none."""
        return self._limits.get(quota)

    def exceeded(self, quota: Quota) -> QuotaExceeded:
        """Return the error of a request that this quota does not allow, and count it."""
        return QuotaExceeded(quota, self._refuse(quota))

    def exhausted(self, quota: Quota, wait: float) -> QuotaExhausted:
        """Return the error of a request that this quota allows after so many seconds, and count it."""
        return QuotaExhausted(quota, self._refuse(quota), max(math.ceil(wait), 1))

    def _refuse(self, quota: Quota) -> str:
        self.refusals.labels(quota).inc()
        return _DETAILS[quota].format(self._limits.get(quota))


class TokenBuckets:
    """A bucket for each user, with ``size`` tokens that come back evenly within ``seconds``.

    A bucket is one number, the time at which it is full again. Full buckets are dropped.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = seconds / size
        self._seconds = seconds
        self._clock = clock
        self._full_at: dict[UUID, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, user_id: UUID) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now = self._clock()
        full_at = self._full_at.get(user_id)
        if full_at is None:
            self._drop_full(now)
            full_at = now
        after = max(full_at, now) + self._interval
        if (wait := after - now - self._seconds) > self._interval / 1_000:  # more than what rounding adds up to
            return wait
        self._full_at[user_id] = after
        return 0.0

    def _drop_full(self, now: float) -> None:
        """Look at the two oldest buckets: drop each if it is full, else move it to the end."""
        for _ in range(min(2, len(self._full_at))):
            user_id = next(iter(self._full_at))
            full_at = self._full_at.pop(user_id)
            if full_at > now:
                self._full_at[user_id] = full_at
