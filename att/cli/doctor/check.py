"""The command ``att-server check``: what it looks at for which settings, and how it tells."""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import click

from att.cli.doctor.addresses import API, HEALTH, check_address
from att.cli.doctor.checks import Check, Finding, Level, Verdict, fail, look, ok
from att.cli.doctor.database import check_database
from att.cli.doctor.host import check_data_dir, check_open_files, running_embedded
from att.cli.doctor.tls import check_tls
from att.cli.output import say
from att.cli.runner import run
from att.config.options import override, overriding_options
from att.config.settings import Settings
from att.errors import CannotStart

EPILOG = """\b
Each line begins with ok, warn or FAIL, and says what to do. The status is 0, or 1 when something fails.
"""


@click.command("check", params=overriding_options(), epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.pass_context
def check(context: click.Context, /, *, as_json: bool, **given: Any) -> None:
    """Look whether a server would run with these options, and say what to mend.

    Nothing is changed, neither a database nor a server that runs.
    """
    settings = override(context.find_object(Settings) or Settings(), **given)
    tell: Callable[[Finding], None] = (lambda _finding: None) if as_json else (lambda finding: say(str(finding)))
    with _unheard("att"):
        findings = run(_look_at_all(settings, tell))
    has_failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        say(json.dumps({"ok": not has_failed, "checks": [finding._asdict() for finding in findings]}, indent=2))
    sys.exit(1 if has_failed else 0)


@contextlib.contextmanager
def _unheard(name: str) -> Iterator[None]:
    """What is logged by this name is not written: it complains of what the findings tell."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


async def _look_at_all(settings: Settings, tell: Callable[[Finding], None]) -> list[Finding]:
    findings = []
    async for finding in checks_of(settings):
        findings.append(finding)
        tell(finding)
    return findings


async def checks_of(settings: Settings) -> AsyncIterator[Finding]:
    """What is found for these settings, as it is found."""
    async for finding in _of_database(settings):
        yield finding
    async for finding in _of_redis(settings.redis_url):
        yield finding
    for name, probe in _of_machine(settings).items():
        async for finding in look({name: probe}):
            yield finding


async def _of_database(settings: Settings) -> AsyncIterator[Finding]:
    dsn, is_embedded = settings.db_url, settings.db_url is None
    if is_embedded:
        async for finding in look({"data directory": _soon(check_data_dir, settings.data_dir)}):
            yield finding
        dsn = running_embedded(settings.data_dir)
    if dsn is None:
        yield Finding("database", *ok("the embedded PostgreSQL does not run, and is started with a server"))
        return
    async for finding in check_database(dsn, migrate=settings.migrate or is_embedded):
        yield finding


async def _of_redis(url: str | None) -> AsyncIterator[Finding]:
    if url is None:
        return
    try:
        findings = redis_checks(url)
    except CannotStart as error:
        yield Finding("Redis", *fail(error.detail))
        return
    async for finding in findings:
        yield finding


def _of_machine(settings: Settings) -> dict[str, Check]:
    is_tls = settings.tls_cert is not None
    probes: dict[str, Check] = {"open files": _soon(check_open_files)}
    if settings.tls_cert is not None and settings.tls_key is not None:
        probes["TLS"] = _soon(check_tls, settings.tls_cert, settings.tls_key)
    probes["--listen"] = partial(check_address, "--listen", settings.listen, API, is_tls=is_tls)
    if settings.admin_listen is not None:
        probes["--admin-listen"] = partial(check_address, "--admin-listen", settings.admin_listen, HEALTH)
    return probes


def _soon(probe: Callable[..., Verdict], *arguments: Any) -> Check:
    """A probe that blocks, off the loop: a file may lie on a disk that does not answer."""
    return partial(asyncio.to_thread, probe, *arguments)


def redis_checks(url: str) -> AsyncIterator[Finding]:
    """The checks of the Redis at this URL. Raises CannotStart when there is no library for it."""
    try:
        from att.cli.doctor.redis import check_redis  # the extra "redis" may not be installed
    except ImportError as error:
        raise CannotStart(
            "--redis-url needs a library that is not installed; run pip install 'att-server[redis]'"
        ) from error
    return check_redis(url)
