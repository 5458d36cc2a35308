"""What the command and its sub-commands have in common: how options are read, and which they share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from att.config.options import Parsed
from att.config.parsers import parse_path, parse_redis_url
from att.config.settings import Settings
from att.db.dsn import check_dsn


def database_options(function: Callable[..., None]) -> Callable[..., None]:
    """Let a sub-command take the options that say where the data is, which may also be given before its name."""
    db_url = _shared("--db-url", Parsed("dsn", check_dsn), "Your own PostgreSQL.")
    data_dir = _shared("--data-dir", Parsed("path", parse_path), "Where the embedded PostgreSQL keeps its data.")
    return db_url(data_dir(function))


def redis_option(function: Callable[..., None]) -> Callable[..., None]:
    """Let a sub-command take the option that says where sessions are, which may also be given before its name."""
    return _shared("--redis-url", Parsed("url", parse_redis_url), "The Redis or Valkey that sessions are in.")(function)


def _shared(name: str, kind: Parsed, says: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    default = "as given before the command, or in the environment"
    return click.option(name, type=kind, help=says, show_default=default, allow_from_autoenv=False)


def settings_of(context: click.Context, **given: Any) -> Settings:
    """The settings of a sub-command: those given before its name, and over them those given after it."""
    settings: Settings = context.find_object(Settings) or Settings()
    return replace(settings, **{name: value for name, value in given.items() if value is not None})
