"""The settings of a server: one frozen value."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from platformdirs.unix import Unix

from att.core.client_address import Proxy
from att.core.process import available_memory


class ListenAddress(NamedTuple):
    """An address to listen on: a unix socket if it has a ``path``, else TCP; ``host`` None or :: is every interface."""

    host: str | None = "127.0.0.1"
    port: int = 8000
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def is_everywhere(self) -> bool:
        """Return True for every interface. ``::`` is, since most systems let it accept IPv4, too."""
        return self.path is None and self.host in (None, "::")

    def conflicts_with(self, other: "ListenAddress") -> bool:
        """Return True if the two addresses certainly conflict. Host names are not resolved."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        is_one_host = self.host == other.host or self.is_everywhere or other.is_everywhere
        return is_one_host and self.port == other.port != 0


DEFAULT_LISTEN = ListenAddress()


class HashingCost(NamedTuple):
    """Cost of one argon2id hash: passes, memory in KiB, threads."""

    time_cost: int
    memory_kib: int
    parallelism: int


# OWASP Password Storage Cheat Sheet, argon2id, second choice.
OWASP = HashingCost(time_cost=2, memory_kib=19_456, parallelism=1)


class Rate(NamedTuple):
    """Limit of times in a window of whole seconds."""

    amount: int
    per: timedelta


LOGIN_FAILURES = Rate(5, timedelta(minutes=5))
ADDRESS_FAILURES = Rate(50, timedelta(minutes=5))
SIGNUPS = Rate(30, timedelta(hours=1))
DRAIN_TIME = timedelta(seconds=20)
ADDRESS_CONNECTIONS = 1_000
MEMORY_SHARE = 8  # an eighth is the default budget: objects take more than their bytes, and others need memory, too
BROADCASTS = Rate(200, timedelta(seconds=10))
EPHEMERAL_RATE = Rate(1_000, timedelta(seconds=10))
REQUESTS = Rate(500, timedelta(seconds=10))


class LogFormat(StrEnum):
    """Format of the log."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


def default_data_dir() -> Path:
    """Return the default directory of the embedded PostgreSQL. PostgreSQL's user cannot read root's home.

    On macOS it is the XDG directory too: Apple's has a space in its path, which PostgreSQL's start-up script refuses.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/att")
    return Unix("att").user_data_path


def default_memory_budget() -> int:
    """Return the default of ``--memory-budget``, in bytes."""
    return available_memory() // MEMORY_SHARE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of an application. Sizes are in bytes. A quota of None is unlimited."""

    listen: ListenAddress = DEFAULT_LISTEN
    db_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    data_dir: Path = field(default_factory=default_data_dir)
    migrate: bool = False
    session_ttl: timedelta = timedelta(days=30)
    outbox_limit: int = 1024**2
    compress: bool = True
    memory_budget: int = field(default_factory=default_memory_budget)
    retention_age: timedelta = timedelta(days=30)
    allow_origin: frozenset[str] = frozenset()
    hashing: HashingCost = OWASP
    login_failures: Rate = LOGIN_FAILURES
    address_failures: Rate = ADDRESS_FAILURES
    signups: Rate = SIGNUPS
    trust_proxy: frozenset[Proxy] = frozenset()
    path_prefix: str = ""
    public_dir: Path | None = None
    admin_login: str | None = None
    admin_password: str | None = field(default=None, repr=False)
    drain_time: timedelta = DRAIN_TIME
    admin_listen: ListenAddress | None = None
    log_format: LogFormat = LogFormat.AUTO
    access_log: bool = False
    address_connections: int = ADDRESS_CONNECTIONS
    quota_groups_owned: int | None = 100
    quota_groups_joined: int | None = 1_000
    quota_members: int | None = 10_000
    quota_retention: int | None = 10_000
    quota_group_log: int | None = 100 * 1024**2
    quota_sockets: int | None = 50
    quota_sessions: int | None = 100
    quota_broadcasts: Rate | None = BROADCASTS
    quota_ephemerals: Rate | None = EPHEMERAL_RATE
    quota_requests: Rate | None = REQUESTS
    tls_cert: Path | None = None
    tls_key: Path | None = None
