"""What an operator can choose: one frozen value, and the parsers that read it from text."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from platformdirs.unix import Unix

from att.core.client_address import Proxy


class ListenAddress(NamedTuple):
    """Where to listen: a unix socket when ``path`` is given, else TCP; ``host`` None means every interface."""

    host: str | None = "127.0.0.1"
    port: int = 8000
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def meets(self, other: "ListenAddress") -> bool:
        """Whether it is known that two cannot listen at both: a host by its name may be any."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        is_one_host = self.host == other.host or None in (self.host, other.host)
        return is_one_host and self.port == other.port != 0


DEFAULT_LISTEN = ListenAddress()


class HashingCost(NamedTuple):
    """The cost of one argon2id hash: passes, memory in KiB, lanes."""

    time_cost: int
    memory_kib: int
    parallelism: int


# OWASP Password Storage Cheat Sheet, argon2id, second choice.
OWASP = HashingCost(time_cost=2, memory_kib=19_456, parallelism=1)


class Rate(NamedTuple):
    """How many times something may happen in a window of whole seconds."""

    amount: int
    per: timedelta


LOGIN_FAILURES = Rate(5, timedelta(minutes=5))
ADDRESS_FAILURES = Rate(50, timedelta(minutes=5))
SIGNUPS = Rate(30, timedelta(hours=1))
DRAIN_TIME = timedelta(seconds=20)
ADDRESS_CONNECTIONS = 1_000


class LogFormat(StrEnum):
    """How the log is written."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


def default_data_dir() -> Path:
    """Where the embedded PostgreSQL keeps its data: never under root's home, which it would have to open.

    On macOS too it is the XDG directory, for the one that Apple names has a space in it, which PostgreSQL's start-up
    script does not take.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/att")
    return Unix("att").user_data_path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that ``create_app`` is built from. Sizes are in bytes."""

    listen: ListenAddress = DEFAULT_LISTEN
    db_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    data_dir: Path = field(default_factory=default_data_dir)
    migrate: bool = False
    session_ttl: timedelta = timedelta(days=30)
    outbox_limit: int = 1024**2
    retention_age: timedelta = timedelta(days=30)
    allow_origin: frozenset[str] = frozenset()
    hashing: HashingCost = OWASP
    login_failures: Rate = LOGIN_FAILURES
    address_failures: Rate = ADDRESS_FAILURES
    signups: Rate = SIGNUPS
    trust_proxy: frozenset[Proxy] = frozenset()
    admin_login: str | None = None
    admin_password: str | None = field(default=None, repr=False)
    drain_time: timedelta = DRAIN_TIME
    admin_listen: ListenAddress | None = None
    log_format: LogFormat = LogFormat.AUTO
    access_log: bool = False
    address_connections: int = ADDRESS_CONNECTIONS
    tls_cert: Path | None = None
    tls_key: Path | None = None
