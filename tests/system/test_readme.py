"""The README's conversation, pasted into a shell line by line, answers as printed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import aiohttp
import pytest
from conversation import play, section, steps

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONVERSATION = section(README, "A first conversation")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README says that it needs curl, which is not installed")
async def test_the_conversation(client):
    """Every block prints what stands below it; the command for the third terminal hears just what Ann sends to Ben."""
    socket, heard = None, []
    async for printed in play(CONVERSATION, client.port):
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
    told = list(steps(CONVERSATION))
    assert len(told) >= 7
    assert all(json.loads(step.answer) for step in told if step.answer)


def test_every_option_is_explained():
    """The table of options has a row for each that the command knows."""
    from att.cli.main import command

    page = (ROOT / "docs" / "reference" / "options.md").read_text()
    rows = set(re.findall(r"^\| `(--[a-z-]+)`", page, re.MULTILINE))
    assert rows == {option.opts[0] for option in command.params} - {"--version"}
