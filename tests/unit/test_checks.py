"""Checks in turn: each comes to a finding in bounded time, whatever it does."""

import asyncio

import pytest

from att.cli.doctor.checks import Finding, Level, compare_clocks, fail, ok, run_checks, warn
from att.errors import CannotStart, DatabaseUnavailable


def check(verdict=None, error=None):
    async def go():
        if error is not None:
            raise error
        return verdict

    return go


async def found(checks, **options):
    return [finding async for finding in run_checks(checks, **options)]


async def test_each_is_run():
    """In their order, also after one that fails."""
    verdicts = {"a": ok("well"), "b": fail("ill", "heal it"), "c": warn("so so", "wait")}
    findings = await found({name: check(verdict) for name, verdict in verdicts.items()})
    assert findings == [Finding(name, *verdict) for name, verdict in verdicts.items()]


async def test_an_error_is_a_failure():
    """In its own words; the others may still be well."""
    findings = await found({"a": check(error=CannotStart("no way")), "b": check(ok("well"))}, remedy="another way")
    assert findings == [Finding("a", Level.FAIL, "no way", "another way"), Finding("b", Level.OK, "well")]


async def test_a_service_that_is_gone_is_not_asked_again():
    [finding] = await found({"a": check(error=DatabaseUnavailable("gone")), "b": check(ok("well"))})
    assert finding[:3] == ("a", Level.FAIL, "gone")
    assert finding.remedy


async def test_one_that_does_not_come_back():
    """It is given up after its time, and nothing more is asked of that service."""
    never = asyncio.Event()
    [finding] = await found({"a": never.wait, "b": check(ok("well"))}, seconds=0.01)
    assert finding[:3] == ("a", Level.FAIL, "no answer within 0.01 s")
    assert finding.remedy


async def test_a_mistake_of_ours_is_not_hidden():
    with pytest.raises(KeyError):
        await found({"a": check(error=KeyError())})


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (Finding("a", Level.OK, "well"), "ok    a                     well"),
        (Finding("a", Level.WARN, "so so", "wait"), "warn  a                     so so; wait"),
        (Finding("a", Level.FAIL, "ill", "heal it"), "FAIL  a                     ill; heal it"),
    ],
)
def test_a_line(finding, line):
    assert str(finding) == line


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [
        (0.4, Level.OK, "0.40 s ahead of"),
        (-0.4, Level.OK, "0.40 s behind"),
        (-2.5, Level.WARN, "2.50 s behind"),
        (61, Level.FAIL, "61.00 s ahead of"),
        (-61, Level.FAIL, "61.00 s behind"),
    ],
)
def test_clocks(ahead, level, words):
    """Either way: a little is well, more a warning, too much a failure."""
    verdict = compare_clocks(ahead)
    assert verdict.level is level
    assert verdict.found.startswith(words)
    assert bool(verdict.remedy) is (level is not Level.OK)
