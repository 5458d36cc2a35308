"""Run checks of a configuration in turn, each within a bounded time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from att.errors import AttError, Unavailable

_TIMEOUT = 8.0  # seconds for one check; most of what it waits for has a shorter limit
_CLOCK_OK, _CLOCK_WARN = 1.0, 60.0  # seconds of difference up to which a clock is that


class Level(StrEnum):
    """How well a server runs with this: well, with less than it could have, or not as it promises."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Verdict(NamedTuple):
    """The result of a check and, unless it is ok, how to fix it. Neither contains a password."""

    level: Level
    found: str
    remedy: str = ""


class Finding(NamedTuple):
    """A verdict with the name of its check."""

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
    """Return the verdict that all is well."""
    return Verdict(Level.OK, found)


def warn(found: str, remedy: str) -> Verdict:
    """Return the verdict that a server runs, with less than it could have."""
    return Verdict(Level.WARN, found, remedy)


def fail(found: str, remedy: str) -> Verdict:
    """Return the verdict that a server does not run, or breaks its promises."""
    return Verdict(Level.FAIL, found, remedy)


def compare_clocks(ahead: float) -> Verdict:
    """Return the verdict on a clock that is this many seconds ahead of ours."""
    found = f"{abs(ahead):.2f} s {'ahead of' if ahead > 0 else 'behind'} the clock of this machine"
    if abs(ahead) <= _CLOCK_OK:
        return ok(found)
    return (warn if abs(ahead) <= _CLOCK_WARN else fail)(found, "synchronize both machines by NTP")


async def run_checks(
    checks: Mapping[str, Check], seconds: float = _TIMEOUT, remedy: str = "look into its log, and check again"
) -> AsyncIterator[Finding]:
    """Yield the findings of checks of one service, by name. Skip the rest once the service is unavailable.

    A check fails if it raises an AttError, which ``remedy`` is for, or takes longer than that many seconds.
    """
    for name, check in checks.items():
        verdict, is_gone = await _run(check, seconds, remedy)
        yield Finding(name, *verdict)
        if is_gone:
            return


async def _run(check: Check, seconds: float, remedy: str) -> tuple[Verdict, bool]:
    try:
        async with asyncio.timeout(seconds):
            return await check(), False
    except TimeoutError:
        return fail(f"no answer within {seconds:g} s", "find out whether it is busy, or behind a firewall"), True
    except AttError as error:
        return fail(error.why, remedy), isinstance(error, Unavailable)
