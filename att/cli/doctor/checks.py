"""Checks of a configuration: what one finds, and how they are made in turn, each within a bounded time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from att.errors import AttError, Unavailable

_PATIENCE = 8.0  # seconds for one check; what it waits for has bounds of its own, most of them shorter


class Level(StrEnum):
    """Whether a server runs well with what was found, runs with less than it could have, or breaks its promises."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Verdict(NamedTuple):
    """What was found, and, unless it is well, what to do about it. Neither holds a password."""

    level: Level
    found: str
    remedy: str = ""


class Finding(NamedTuple):
    """A verdict, and the name of the check that came to it."""

    name: str
    level: Level
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        level = self.level.upper() if self.level is Level.FAIL else self.level.value
        line = f"{level:4}  {self.name:20}  {self.found}"
        return f"{line}; {self.remedy}" if self.remedy else line


Check = Callable[[], Awaitable[Verdict]]


def ok(found: str) -> Verdict:
    """All is well."""
    return Verdict(Level.OK, found)


def warn(found: str, remedy: str) -> Verdict:
    """It runs, with less than it could have."""
    return Verdict(Level.WARN, found, remedy)


def fail(found: str, remedy: str = "") -> Verdict:
    """It does not run, or does not keep what it promises."""
    return Verdict(Level.FAIL, found, remedy)


def compare_clocks(ahead: float, *, well: float, bearable: float) -> Verdict:
    """The verdict on a clock that is so many seconds ahead of ours: up to where it is well, and where bearable."""
    found = f"{abs(ahead):.2f} s {'ahead of' if ahead > 0 else 'behind'} the clock of this machine"
    if abs(ahead) <= well:
        return ok(found)
    return (warn if abs(ahead) <= bearable else fail)(found, "let both machines keep time by NTP")


async def look(probes: Mapping[str, Check], patience: float = _PATIENCE) -> AsyncIterator[Finding]:
    """What each probe of one service finds, by name. Once the service does not answer, the rest are not tried.

    A probe fails that raises an AttError, or takes more than that many seconds.
    """
    for name, probe in probes.items():
        verdict, is_gone = await _look(probe, patience)
        yield Finding(name, *verdict)
        if is_gone:
            return


async def _look(probe: Check, patience: float) -> tuple[Verdict, bool]:
    try:
        async with asyncio.timeout(patience):
            return await probe(), False
    except TimeoutError:
        return fail(
            f"no answer within {patience:g} s", "look what it is busy with, or whether a firewall is between"
        ), True
    except AttError as error:
        return fail(error.why), isinstance(error, Unavailable)
