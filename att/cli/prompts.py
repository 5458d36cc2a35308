"""Read a password from the terminal or the standard input."""

import sys

import click

from att.core.names import RAW_LENGTH, check_password

NOTHING_TYPED = "there is no password on the standard input"


def ask_new_password() -> str:
    """Return a password that sign-up accepts. Raise UsageError that says what is wrong with the given one."""
    try:
        return check_password(read_password(is_new=True))
    except ValueError as error:
        raise click.UsageError(f"the password {error}") from error


def read_password(*, is_new: bool = False) -> str:
    """Ask for a password on a terminal, else return the first line of the standard input. Raise UsageError."""
    if sys.stdin is None:  # it was closed before we were started
        raise click.UsageError(NOTHING_TYPED)
    if sys.stdin.isatty():
        text: str = click.prompt("Password", hide_input=True, confirmation_prompt=is_new, err=True)
        return text
    line = sys.stdin.buffer.readline(4 * RAW_LENGTH + 2)
    if not line:
        raise click.UsageError(NOTHING_TYPED)
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError("the password must be text in UTF-8") from error
