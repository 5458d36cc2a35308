"""What a sub-command prints."""

import os
import sys

import click

from att.errors import AttError


def say(text: str) -> None:
    """Print it. Raises AttError when that cannot be done."""
    try:
        click.echo(text)
    except OSError as error:
        drop_output()
        raise AttError(f"the output cannot be written: {error.strerror}") from error


def drop_output() -> None:
    """Print nothing any more: what is left would be complained of when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
