"""Run what a command does on an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import uvloop

from att.config.settings import Settings

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Set up logging as ``--log-format`` says, and run the coroutine to its end."""
    from att.server.logging import set_up_logging  # takes longer to import than ``--help`` may take

    settings = click.get_current_context().find_object(Settings) or Settings()
    set_up_logging(settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
