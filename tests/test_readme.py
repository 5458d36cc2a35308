"""The README's conversation, pasted into a shell line by line, answers as printed."""

import asyncio
import json
import re
import shlex
import shutil
from pathlib import Path

import aiohttp
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCK = re.compile(r"```(sh|json)\n(.*?)```", re.DOTALL)
VARIABLE = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # an id
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z"  # a time
    r"|[A-Za-z0-9_-]{43}"  # a token
)


def conversation():
    """The commands, each with the answer that is printed below it, if one is."""
    section = README.partition("## A first conversation")[2].partition("\n## ")[0]
    blocks = BLOCK.findall(section)
    for (language, text), following in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "sh":
            yield text, following[1].strip() if following[0] == "json" else None


def blurred(text):
    """The text without what differs each time."""
    return VARIABLE.sub("*", text)


class Shell:
    """One terminal, into which blocks are pasted."""

    def __init__(self, process):
        self.process = process

    async def paste(self, text):
        """What the commands printed."""
        self.process.stdin.write(f"{text}\nprintf '\\n--done--\\n'\n".encode())
        async with asyncio.timeout(20):
            printed = await self.process.stdout.readuntil(b"\n--done--\n")
        return printed.decode().removesuffix("\n--done--\n").strip()


@pytest.fixture
async def shell():
    """A shell, as the user has it."""
    process = await asyncio.create_subprocess_exec(
        "sh", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    yield Shell(process)
    process.stdin.close()
    await asyncio.wait_for(process.wait(), 5)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README says that it needs curl, which is not installed")
async def test_the_conversation(client, shell):
    """Every block prints what stands below it; the command for the third terminal hears just what Ann sends to Ben."""
    server = f"127.0.0.1:{client.port}"
    socket, heard = None, []
    for commands, expected in conversation():
        printed = await shell.paste(commands.replace("127.0.0.1:8000", server))
        if expected is not None:
            assert blurred(printed) == blurred(expected)
        if printed.startswith("npx -y wscat"):
            *_, header, _connect, url = shlex.split(printed)
            socket = await client.session.ws_connect(url, headers=[header.split(": ", 1)])
    async for message in socket:
        assert message.type is aiohttp.WSMsgType.TEXT
        heard.append(message.data)
    assert heard == ['{"kettle": "on", "cups": 2}']
    assert socket.close_code == 4500


def test_there_is_a_conversation():
    """The test above has something to run."""
    blocks = list(conversation())
    assert len(blocks) >= 7
    assert all(json.loads(answer) for _, answer in blocks if answer)


def test_every_option_is_explained():
    """The table of options has a row for each that the command knows."""
    from att.cli import command

    rows = set(re.findall(r"^\| `(--[a-z-]+)`", README, re.MULTILINE))
    assert rows == {option.opts[0] for option in command.params} - {"--version"}
