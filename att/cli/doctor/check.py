"""The command ``att-server check``: which checks it runs for which settings, and how it prints them."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import click

from att.cli.doctor.addresses import API, HEALTH, check_address
from att.cli.doctor.checks import Check, Finding, Level, Verdict, fail, ok, run_checks
from att.cli.doctor.database import check_database
from att.cli.doctor.host import check_data_dir, check_open_files, running_embedded
from att.cli.doctor.tls import check_tls
from att.cli.output import say
from att.cli.runner import run
from att.config.options import override, overriding_options
from att.config.settings import Settings

EPILOG = """\b
Each line begins with ok, warn or FAIL, and says what to do. The status is 0, or 1 when something fails.
"""


@click.command("check", params=overriding_options(), epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.pass_context
def check(context: click.Context, /, *, as_json: bool, **given: Any) -> None:
    """Check whether a server would run with these options, and say what to fix.

    Nothing is changed, neither a database nor a running server.
    """
    settings = override(context.find_object(Settings) or Settings(), **given)
    report: Callable[[Finding], None] = (lambda _finding: None) if as_json else (lambda finding: say(str(finding)))
    log = logging.getLogger("att")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the findings say it already
    try:
        findings = run(_run_all(settings, report))
    finally:
        log.setLevel(level)
    has_failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        say(json.dumps({"ok": not has_failed, "checks": [finding._asdict() for finding in findings]}, indent=2))
    sys.exit(1 if has_failed else 0)


async def _run_all(settings: Settings, report: Callable[[Finding], None]) -> list[Finding]:
    findings = []
    async for finding in checks_of(settings):
        findings.append(finding)
        report(finding)
    return findings


async def checks_of(settings: Settings) -> AsyncIterator[Finding]:
    """Run the checks for these settings, and yield each finding as it is known."""
    async for finding in _of_database(settings):
        yield finding
    if settings.redis_url is not None:
        async for finding in _of_redis(settings.redis_url):
            yield finding
    for name, check in _of_machine(settings).items():
        async for finding in run_checks({name: check}):
            yield finding


async def _of_database(settings: Settings) -> AsyncIterator[Finding]:
    dsn, is_embedded = settings.db_url, settings.db_url is None
    if is_embedded:
        async for finding in run_checks({"data directory": _in_thread(check_data_dir, settings.data_dir)}):
            yield finding
            if finding.level is Level.FAIL:
                return  # no server starts on it
        dsn = running_embedded(settings.data_dir)
    if dsn is None:
        yield Finding("database", *ok("the embedded PostgreSQL does not run, and is started with a server"))
        return
    async for finding in check_database(dsn, migrate=settings.migrate or is_embedded):
        yield finding


async def _of_redis(url: str) -> AsyncIterator[Finding]:
    try:
        from att.cli.doctor.redis import check_redis  # the extra "redis" may not be installed
    except ImportError:
        yield Finding("Redis", *fail("--redis-url needs a library", "pip install 'att-server[redis]'"))
        return
    async for finding in check_redis(url):
        yield finding


def _of_machine(settings: Settings) -> dict[str, Check]:
    is_tls = settings.tls_cert is not None
    checks: dict[str, Check] = {"open files": _in_thread(check_open_files)}
    if settings.tls_cert is not None and settings.tls_key is not None:
        checks["TLS"] = _in_thread(check_tls, settings.tls_cert, settings.tls_key)
    checks["--listen"] = partial(check_address, "--listen", settings.listen, API, is_tls=is_tls)
    if settings.admin_listen is not None:
        checks["--admin-listen"] = partial(check_address, "--admin-listen", settings.admin_listen, HEALTH)
    return checks


def _in_thread(check: Callable[..., Verdict], *arguments: Any) -> Check:
    """Return the check so that it does not block the loop: a file may be on a disk that does not answer."""
    return partial(asyncio.to_thread, check, *arguments)
