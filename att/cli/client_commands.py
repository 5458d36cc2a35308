"""The sub-commands ``listen`` and ``broadcast``: clients of a running server."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
from msgspec.structs import asdict

from att.cli.output import drop_output, say
from att.cli.prompts import read_password
from att.cli.runner import run
from att.client.client import Client, Gap, Joined, Left, Message, Rewind, RoleChanged
from att.client.messages import Event
from att.config.options import Parsed
from att.core.error_text import describe_error
from att.core.names import check_key
from att.errors import AttError, NotSignedIn, SessionEnded
from att.protocol.messages import timestamp

_T = TypeVar("_T")

NO_INPUT = "there is nothing on the standard input; give it a JSON object, or write it after the group"
STDIN_LIMIT = 2 * 1024**2  # bytes of an object to broadcast; the server takes less


def _server_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the server and the user to a sub-command."""
    for option in (
        click.option("--login", help="Login of the user. The password is asked for, or the first line of the input."),
        click.option(
            "--token", envvar="ATT_TOKEN", help="Token from POST /login; in ATT_TOKEN it does not show in ps."
        ),
        click.option("--url", envvar="ATT_URL", default="http://127.0.0.1:8000", help="URL of the server."),
    ):
        function = option(function)
    return function


@click.command("listen", context_settings={"auto_envvar_prefix": None})
@_server_options
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that stores the positions: the next run continues where this one ended.",
)
@click.option("--group", "groups", multiple=True, help="Id or name of a group: print only its events. May be repeated.")
def listen(resume: Path | None, groups: tuple[str, ...], **who: str) -> None:
    """Print every event of the user's groups, one JSON object per line. Ctrl-C ends it."""
    try:
        _run(_listen(_connector(**who), resume, groups))
    except BrokenPipeError:
        pass
    except OSError as error:
        drop_output()
        raise AttError(f"the output cannot be written: {error.strerror}") from error
    else:
        return
    drop_output()  # the reader of our lines has closed the pipe


@click.command("broadcast", context_settings={"auto_envvar_prefix": None})
@_server_options
@click.option(
    "--key",
    type=Parsed("key", check_key),
    help="Idempotency key: the same key in the same group is the same broadcast.",
)
@click.argument("group")
@click.argument("data", metavar="[JSON]", default="-")
def broadcast(group: str, data: str, key: str | None, **who: str) -> None:
    """Broadcast a JSON object to the GROUP with this id or name; without JSON, or with -, read the standard input.

    If the server cannot be reached, this retries for a minute. With --key the command is safe to repeat.
    """
    connector = _connector(**who)
    body = _read_all() if data == "-" else data.encode(errors="surrogateescape")
    ack = _run(_broadcast(connector, group, body, key))
    try:
        say(json.dumps({"group": ack.group, "seq": ack.seq, "at": timestamp(ack.at)}))
    except AttError as error:
        raise AttError(f"the broadcast is in the log as seq {ack.seq}, but {error}") from error


Connector = Callable[[], Coroutine[Any, Any, Client]]


def _connector(url: str, token: str | None, login: str | None) -> Connector:
    """Return a function that makes the client. Ask for the password if needed. Raise UsageError."""
    if token is None and login is None:
        raise click.UsageError("give --token (or ATT_TOKEN), or --login")
    try:
        client = Client(url, token=token or "")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if login is None:
        return _ready(client)
    password = read_password()
    return lambda: Client.log_in(url, login, password)


def _ready(client: Client) -> Connector:
    async def connect() -> Client:
        return client

    return connect


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return run(work)
    except (NotSignedIn, SessionEnded) as error:
        raise AttError("the token is not valid, or no longer: give another in ATT_TOKEN, or use --login") from error


async def _broadcast(connector: Connector, group: str, body: bytes, key: str | None) -> Any:
    async with await connector() as client:
        return await client.broadcast(group, body, key)


async def _listen(connector: Connector, file: Path | None, groups: tuple[str, ...]) -> None:
    positions, epoch = ({}, "") if file is None else _load(file)
    if file is not None:
        _save(file, positions, epoch)  # fail at once if the file cannot be written
    async with await connector() as client:
        started = asyncio.create_task(_on_connected(client, file))
        try:
            async with contextlib.aclosing(client.listen(positions, epoch, groups=groups)) as events:
                async for event in events:
                    click.echo(line_of(event))
                    if file is not None:
                        _save(file, client.positions, client.epoch)
        finally:
            started.cancel()


async def _on_connected(client: Client, file: Path | None) -> None:
    """Print that the client listens, and store its positions: there may be no event before the end."""
    await client.connected.wait()
    if file is not None:
        _save(file, client.positions, client.epoch)
    _hint(f"listening (groups: {len(client.positions)}); Ctrl-C ends it")


def _hint(words: str) -> None:
    """Print to stderr if it is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(words, err=True)


def line_of(event: Event) -> bytes:
    """Return the event as in its frame, on one line. JSON has raw line breaks only where spaces may be."""
    kind = "role" if isinstance(event, RoleChanged) else type(event).__name__.lower()
    members: dict[str, Any] = {"type": kind, "group": event.group, "name": event.name}
    if isinstance(event, Gap):
        return _dump(members | {"from": event.first, "to": event.seq})
    if isinstance(event, Rewind):
        return _dump(members | {"to": event.seq})
    members["seq"] = event.seq
    if not isinstance(event, Message):
        members |= event._asdict() | {"at": timestamp(event.at)}
        if isinstance(event, Joined) and (profile := members.pop("profile")) is not None:
            members["user"] = asdict(profile)
        if isinstance(event, Left) and event.removed is None:  # the server does not say
            members = {name: value for name, value in members.items() if name not in ("removed", "by")}
        return _dump(members)
    head = _dump(members | {"from": event.sender, "at": timestamp(event.at)})[:-1]
    return head + b', "data": ' + event.body.replace(b"\n", b" ").replace(b"\r", b" ") + b"}"


def _dump(members: dict[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False).encode()


def _load(file: Path) -> tuple[dict[str, int], str]:
    """Return the stored positions and their epoch. Raise AttError if the file contains something else."""
    try:
        positions = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        raise AttError(f"{file} cannot be read: {_why(file, error)}") from error
    except ValueError:
        positions = None
    epoch = positions.pop("epoch", "") if isinstance(positions, dict) else None  # before there were epochs, none
    if not isinstance(epoch, str) or not all(type(seq) is int and seq >= 0 for seq in positions.values()):
        raise AttError(f"{file} does not contain positions; name another file, or remove it to start now")
    return positions, epoch


def _save(file: Path, positions: dict[str, int], epoch: str) -> None:
    """Replace the file atomically: it contains the old positions or the new ones."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "w") as new:
            json.dump(({"epoch": epoch} if epoch else {}) | positions, new)
        Path(name).replace(file)
    except OSError as error:
        raise AttError(f"{file} cannot be written: {_why(file, error)}") from error


def _why(file: Path, error: OSError) -> str:
    return describe_error(error) if file.parent.is_dir() else f"there is no directory {file.parent}"


def _read_all() -> bytes:
    if sys.stdin is None:  # it was closed before we were started
        raise click.UsageError(NO_INPUT)
    if sys.stdin.isatty():
        _hint("type a JSON object, then Ctrl-D")
    body = sys.stdin.buffer.read(STDIN_LIMIT + 1)
    if len(body) > STDIN_LIMIT:
        raise click.UsageError(f"there are more than {STDIN_LIMIT} bytes on the standard input")
    if not body.strip():
        raise click.UsageError(NO_INPUT)
    return body.removeprefix(BOM_UTF8)
