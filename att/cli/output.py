"""Print to the standard output."""

import os
import sys

import click

from att.errors import AttError


def say(text: str) -> None:
    """Print the text. Raise AttError if that fails."""
    try:
        click.echo(text)
    except OSError as error:
        drop_output()
        raise AttError(f"the output cannot be written: {error.strerror}") from error


def drop_output() -> None:
    """Discard buffered output: Python would report at exit that it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
