"""How to log what happens again and again: once, and in words."""

import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Hashable

INTERVAL = 60.0  # seconds between two lines of one kind
KINDS = 1_000  # of lines that are remembered

log = logging.getLogger("att")


def in_words(error: BaseException) -> str:
    """What went wrong, as the system calls it where it was the system that refused: "connection refused"."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    words = filter(None, map(_of_system, reversed(causes)))  # the first of all knows best
    return next(words, " ".join(str(error).split()).rstrip(".") or "no answer")


def _of_system(error: BaseException) -> str | None:
    match error:
        case TimeoutError():
            return "timed out"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message} (SSL_CERT_FILE may name others to trust)"
        case ssl.SSLError() if reason := getattr(error, "reason", None):
            return f"no TLS can be agreed on: {reason.lower().replace('_', ' ')}"
        case socket.gaierror():
            return (error.strerror or "the host is unknown").lower()
    number = (isinstance(error, OSError) and error.errno) or _number_in(str(error))
    return os.strerror(number).lower() if number else None


def _number_in(text: str) -> int:
    """That of the first of many errors, which asyncio puts into one, or of one that the library redis tells of."""
    found = re.search(r"\[Errno ([0-9]{1,3})\]|^Error ([0-9]{1,3}) ", text)
    return int(found[1] or found[2]) if found else 0


class Outage:
    """Something that may go away and come back: a line for each."""

    __slots__ = ("_name", "_since")

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None

    def begin(self, why: str) -> None:
        """It is away; known already if it was away before."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning("%s is away: %s", self._name, why)

    def end(self) -> None:
        """It is there."""
        if self._since is not None:
            log.info("%s is back after %.1f s", self._name, time.monotonic() - self._since)
            self._since = None


class Ration:
    """Lets so many lines pass in a second, and counts those that it holds back."""

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._clock = clock
        self._end = float("-inf")
        self._left = self._untold = 0

    def passes(self) -> int | None:
        """How many were held back since the last one that passed; None when this one is held back, too."""
        now = self._clock()
        if now >= self._end:
            self._end, self._left = now + 1, self._lines
        if not self._left:
            self._untold += 1
            return None
        self._left -= 1
        untold, self._untold = self._untold, 0
        return untold


class Seldom:
    """Lets one line of each kind pass in a while, and counts those that it holds back."""

    def __init__(self, seconds: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        self._untold: dict[Hashable, int] = {}

    def passes(self, kind: Hashable) -> int | None:
        """How many were held back since the last one that passed; None when this one is held back, too."""
        now = self._clock()
        if kind in self._told and now < self._told[kind] + self._seconds:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return None
        if len(self._told) >= KINDS:
            self._told.clear()
            self._untold.clear()
        self._told[kind] = now
        return self._untold.pop(kind, 0)
