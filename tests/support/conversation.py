"""Conversations in the documentation: blocks of commands, each with the answer that is printed below it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

HERE = "127.0.0.1:8000"  # where the documentation has the server
PATIENCE = 20.0  # seconds for one block

_STEP = re.compile(r"^```sh\n(.*?)^```\n(?:\n*^```(?:json|http)\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
_VARIABLE = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # an id
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|\+00:00)"  # a time
    r"|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"  # a time in a header
    r"|\b[0-9a-f]{32}\b"  # the id of a request
    r"|[A-Za-z0-9_-]{43,}"  # a token, a cursor
)


class Step(NamedTuple):
    """Commands that are pasted in one go, and the answer right below them, None when there is none."""

    commands: str
    answer: str | None


def section(markdown: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    return markdown.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def steps(markdown: str) -> Iterator[Step]:
    """Every block of commands (``sh``), with the answer (``json`` or ``http``) if nothing stands between the two."""
    for commands, answer in _STEP.findall(markdown):
        yield Step(commands, answer.strip() or None)


def blurred(text: str) -> str:
    """The text without what differs each time."""
    return _VARIABLE.sub("*", text)


class Shell:
    """One terminal, into which blocks are pasted."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def paste(self, commands: str) -> str:
        """What the commands printed."""
        self._process.stdin.write(f"{commands}\nprintf '\\n--done--\\n'\n".encode())
        async with asyncio.timeout(PATIENCE):
            printed = await self._process.stdout.readuntil(b"\n--done--\n")
        return printed.decode().removesuffix("\n--done--\n").replace("\r\n", "\n").strip()


@contextlib.asynccontextmanager
async def open_shell() -> AsyncIterator[Shell]:
    """A shell, as the reader has it."""
    process = await asyncio.create_subprocess_exec(
        "sh", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield Shell(process)
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 5)


async def play(markdown: str, port: int) -> AsyncIterator[str]:
    """Paste every step into one shell, talking to the server at this port; what each printed, once that is as told."""
    server = f"127.0.0.1:{port}"
    async with open_shell() as shell:
        for commands, answer in steps(markdown):
            printed = await shell.paste(commands.replace(HERE, server))
            if answer is not None:
                assert blurred(printed) == blurred(answer.replace(HERE, server)), f"{commands}printed {printed}"
            yield printed
