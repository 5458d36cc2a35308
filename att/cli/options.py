"""Options that sub-commands share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from att.config.options import Parsed
from att.config.parsers import parse_path, parse_redis_url
from att.config.settings import Settings
from att.db.dsn import check_dsn


def database_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the database to a sub-command. They may also be given before its name."""
    db_url = _shared("--db-url", Parsed("dsn", check_dsn), "Your own PostgreSQL.")
    data_dir = _shared("--data-dir", Parsed("path", parse_path), "Data directory of the embedded PostgreSQL.")
    return db_url(data_dir(function))


def redis_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add the option of the Redis to a sub-command. It may also be given before its name."""
    return _shared("--redis-url", Parsed("url", parse_redis_url), "The Redis or Valkey with the sessions.")(function)


def _shared(name: str, kind: Parsed, description: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    default = "as given before the command, or in the environment"
    return click.option(name, type=kind, help=description, show_default=default, allow_from_autoenv=False)


def settings_of(context: click.Context, **given: Any) -> Settings:
    """Return the settings given before the sub-command's name, overridden by those given after it."""
    settings: Settings = context.find_object(Settings) or Settings()
    return replace(settings, **{name: value for name, value in given.items() if value is not None})
