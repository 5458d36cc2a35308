"""The sub-commands ``create-admin``, ``reset-password`` and ``migrate``."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import click

from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.passwords import Passwords
from att.app import open_backends
from att.cli.options import database_options, redis_option, settings_of
from att.cli.output import say
from att.cli.prompts import ask_new_password
from att.cli.runner import run
from att.config.database import Database, naming, open_database
from att.config.options import Parsed
from att.config.settings import Settings
from att.core.names import check_name
from att.db.engine import Engine
from att.db.migrate import grant_rights

_T = TypeVar("_T")

ENDED = """\b
All sessions of the user end, also in a Redis (--redis-url): requests are refused from now on, and running servers
close the user's WebSockets.
"""

_login = click.argument("login", type=Parsed("login", check_name))


@click.command("create-admin", epilog=ENDED)
@_login
@database_options
@redis_option
@click.pass_context
def create_admin(context: click.Context, /, login: str, **where: object) -> None:
    """Make LOGIN an administrator: a new user, or an existing one, who gets a new password and is enabled.

    The password is asked for on a terminal, else it is the first line of the standard input.
    """
    wanted = AdministratorCredentials(login, ask_new_password())
    is_new, place = run(_work(settings_of(context, **where), lambda administrators: administrators.create(wanted)))
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
    wanted = AdministratorCredentials(login, ask_new_password())
    settings = settings_of(context, **where)
    _, place = run(_work(settings, lambda administrators: administrators.reset_password(wanted), may_create=False))
    say(f"{login} has the new password, in {place}")


@click.command("migrate")
@click.option("--grant-to", metavar="ROLE", help="Then give this database role the rights that servers need.")
@database_options
@click.pass_context
def migrate(context: click.Context, /, grant_to: str | None, **where: object) -> None:
    """Bring the schema of the database up to date, and list the migrations."""
    database = run(_migrate(replace(settings_of(context, **where), migrate=True), grant_to))
    for name in database.migrated:
        say(f"done: {name}")
    say(f"the schema in {database.place} {'is now' if database.migrated else 'was already'} up to date")
    if grant_to is not None:
        say(f"the role {grant_to} has the rights that servers need")


async def _migrate(settings: Settings, grant_to: str | None) -> Database:
    async with open_database(settings) as database:
        if grant_to is not None:
            await asyncio.to_thread(grant_rights, database.dsn, grant_to)
        return database


async def _work(
    settings: Settings, work: Callable[[Administrators], Awaitable[_T]], *, may_create: bool = True
) -> tuple[_T, str]:
    async with open_database(settings, may_create=may_create) as database, open_backends(settings) as backends:
        db, passwords = await Engine.connect(database.dsn), Passwords(settings.hashing)
        try:
            with naming(database):
                return await work(Administrators(db, passwords, backends.make_sessions(db))), database.place
        finally:
            passwords.close()
            await db.close()
