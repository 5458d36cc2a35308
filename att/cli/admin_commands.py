"""The sub-commands: what the operator of the machine does beside serving."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import click
import uvloop

from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.passwords import Passwords
from att.app import open_shared
from att.cli.options import database_options, redis_option, settings_of
from att.cli.output import say
from att.config.database import Database, naming, open_database
from att.config.options import Parsed
from att.config.settings import Settings
from att.core.names import RAW_LENGTH, check_name, check_password
from att.db.engine import Engine

_T = TypeVar("_T")

ENDED = """\b
All sessions of theirs are ended, also in a Redis (--redis-url): their requests are refused from now on, and WebSockets
that are open on a running server are closed.
"""
NOTHING_TYPED = "there is no password on the standard input"

_login = click.argument("login", type=Parsed("login", check_name))


@click.command("create-admin", epilog=ENDED)
@_login
@database_options
@redis_option
@click.pass_context
def create_admin(context: click.Context, /, login: str, **where: object) -> None:
    """Make LOGIN an administrator: somebody new, or somebody there, who gets a new password and is active.

    The password is asked for on a terminal, else it is the first line of the standard input.
    """
    wanted = AdministratorCredentials(login, _ask_password())
    is_new, place = _run(settings_of(context, **where), lambda administrators: administrators.create(wanted))
    done = "is an administrator" if is_new else "is an administrator now, with the new password"
    say(f"{login} {done}, in {place}")


@click.command("reset-password", epilog=ENDED)
@_login
@database_options
@redis_option
@click.pass_context
def reset_password(context: click.Context, /, login: str, **where: object) -> None:
    """Give LOGIN a new password.

    The password is asked for on a terminal, else it is the first line of the standard input.
    """
    wanted = AdministratorCredentials(login, _ask_password())
    settings = settings_of(context, **where)
    _, place = _run(settings, lambda administrators: administrators.reset_password(wanted), may_make=False)
    say(f"{login} has the new password, in {place}")


@click.command("migrate")
@database_options
@click.pass_context
def migrate(context: click.Context, /, **where: object) -> None:
    """Bring the schema of the database up to date, and say what was done."""
    database = asyncio.run(_open_and_close(replace(settings_of(context, **where), migrate=True)))
    for name in database.migrated:
        say(f"done: {name}")
    say(f"the schema in {database.place} {'is now' if database.migrated else 'was already'} up to date")


async def _open_and_close(settings: Settings) -> Database:
    async with open_database(settings) as database:
        return database


def _run(
    settings: Settings, work: Callable[[Administrators], Awaitable[_T]], *, may_make: bool = True
) -> tuple[_T, str]:
    """What the work answers, and where the database is that it was done in."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(settings, work, may_make=may_make))


async def _work(
    settings: Settings, work: Callable[[Administrators], Awaitable[_T]], *, may_make: bool
) -> tuple[_T, str]:
    async with open_database(settings, may_make=may_make) as database, open_shared(settings) as shared:
        db, passwords = await Engine.connect(database.dsn), Passwords(settings.hashing)
        try:
            with naming(database):
                return await work(Administrators(db, passwords, shared.make_sessions(db))), database.place
        finally:
            passwords.close()
            await db.close()


def _ask_password() -> str:
    """A password that sign-up would take. Raises UsageError that says what is wrong with it."""
    try:
        return check_password(read_password(is_new=True))
    except ValueError as error:
        raise click.UsageError(f"the password {error}") from error


def read_password(*, is_new: bool = False) -> str:
    """A password, asked for on a terminal, or the first line of the standard input. Raises UsageError."""
    if sys.stdin is None:  # it was closed before we were started
        raise click.UsageError(NOTHING_TYPED)
    if sys.stdin.isatty():
        text: str = click.prompt("Password", hide_input=True, confirmation_prompt=is_new, err=True)
        return text
    return _decode(sys.stdin.buffer.readline(4 * RAW_LENGTH + 2))


def _decode(line: bytes) -> str:
    """The line without its end. Raises UsageError when there is none, or when it is no text."""
    if not line:
        raise click.UsageError(NOTHING_TYPED)
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError("the password must be text in UTF-8") from error
