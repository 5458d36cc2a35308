"""The sub-commands that talk to a server, as people run them: what they print, what they keep, how they end."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE

import pytest
from aiohttp import web
from scripted import AT, G1, G2, ME, MOMENT, PATIENCE, RULES, Script, accepted, closes, message, problem, sends
from waiting import eventually

from att.cli.client_commands import line_of
from att.client.messages import Changed, Gap, Joined, Left, Message, Profile, Redacted, Rewind, RoleChanged

TOKEN = {"ATT_TOKEN": "secret"}


@pytest.fixture
async def script(aiohttp_server):
    """The server, and where it is."""
    script = Script()
    script.url = str((await aiohttp_server(script.app)).make_url("/"))
    return script


@pytest.fixture
async def start(script):
    """Start a command that talks to the script; it is killed in the end."""
    begun = []

    async def go(*arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, **environment):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "att",
            *arguments,
            env=os.environ | {"ATT_URL": script.url} | environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        begun.append(process)
        return process

    yield go
    for process in begun:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def run(start):
    """Run one to its end: its status, and what it printed."""

    async def go(*arguments, typed=b"", **environment):
        process = await start(*arguments, **environment)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(typed)
        return process.returncode, out.decode(), err.decode()

    return go


@pytest.fixture
def fails(run_here):
    """Run one that is to fail before it talks to anybody: its status, and what it printed."""

    def go(*arguments, typed=b""):
        ended = run_here(*arguments, typed=typed, ATT_TOKEN="secret", ATT_URL="http://127.0.0.1:9")
        return ended.returncode, ended.stdout, ended.stderr

    return go


async def line(process):
    """The next line that it prints."""
    async with asyncio.timeout(PATIENCE):
        return json.loads(await process.stdout.readline())


async def interrupted(process):
    """Press Ctrl-C: how it ends, and what it says."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    return process.returncode, err.decode().strip()


# Listening


async def test_listen(script, start):
    """Each event is a line, at once; Ctrl-C ends it."""
    script.parts = [sends(message(1), message(2, data={"é": "\n"}))]
    process = await start("listen", "--group", "tea", "--group", "a & b", **TOKEN)
    for seq, data in [(1, {"n": 1}), (2, {"é": "\n"})]:
        assert await line(process) == message(seq, data=data)
    assert await interrupted(process) == (130, "att-server: interrupted")
    assert script.offered == [("Bearer secret", "att.v1")]
    assert script.chosen == [["tea", "a & b"]]


def test_lines():
    """A line says what the frame says, and what was broadcast stays as it was, but for line breaks."""
    place = (G1, "tée")
    assert (
        line_of(Gap(*place, 3, 9)) == f'{{"type": "gap", "group": "{G1}", "name": "tée", "from": 3, "to": 9}}'.encode()
    )
    assert line_of(Rewind(*place, 3)) == f'{{"type": "rewind", "group": "{G1}", "name": "tée", "to": 3}}'.encode()
    for kind in (Joined, Left):
        told = json.loads(line_of(kind(*place, 4, ME, MOMENT)))
        assert told == {"type": kind.__name__.lower(), "group": G1, "name": "tée", "seq": 4, "user": ME, "at": AT}
    ben = {"id": ME, "login": "ben", "first_name": "Bén", "last_name": ""}
    assert json.loads(line_of(Joined(*place, 4, ME, MOMENT, Profile(*ben.values()))))["user"] == ben
    for event, more in (
        (Left(*place, 4, ME, MOMENT, removed=False, by=ME), {"type": "left", "user": ME, "removed": False, "by": ME}),
        (RoleChanged(*place, 4, ME, "owner", None, MOMENT), {"type": "role", "user": ME, "role": "owner", "by": None}),
        (Redacted(*place, 4, 2, ME, MOMENT), {"type": "redacted", "of": 2, "by": ME}),
        (Changed(*place, 4, ME, MOMENT, **RULES), {"type": "changed", "by": ME} | RULES),
    ):
        assert json.loads(line_of(event)) == {"group": G1, "name": "tée", "seq": 4, "at": AT} | more
    text = line_of(Message(*place, 5, None, MOMENT, b'{"a":1e400,\r\n "b" :1.0}'))
    assert text.endswith(b'"from": null, "at": "%s", "data": {"a":1e400,   "b" :1.0}}' % AT.encode())
    assert b"\n" not in text


async def test_resume(script, start, tmp_path):
    """With a file one goes on where one was, even if nothing was heard, and whatever ended it."""
    file = tmp_path / "positions"
    script.groups = {G1: 4}
    script.parts = [sends(), sends(message(5), message(6)), sends(message(7))]
    process = await start("listen", "--resume", str(file), **TOKEN)

    async def is_kept():
        return file.exists() and json.loads(file.read_bytes()) == {"epoch": "first", G1: 4}

    await eventually(is_kept)
    process.kill()
    script.groups = {G1: 6, G2: 3}
    process = await start("listen", "--resume", str(file), **TOKEN)
    await line(process)
    await line(process)
    await interrupted(process)
    assert json.loads(file.read_bytes()) == {"epoch": "first", G1: 6, G2: 0}
    file.write_text(json.dumps({G1: 6, G2: 0}))  # as before there were epochs
    process = await start("listen", "--resume", str(file), **TOKEN)
    await line(process)
    await interrupted(process)
    assert json.loads(file.read_bytes()) == {"epoch": "first", G1: 7, G2: 0}
    assert script.resumes == [{G1: 4}, {G1: 4, G2: 0}, {G1: 6, G2: 0}]
    assert script.epochs == [None, "first", None]
    assert [path.name for path in tmp_path.iterdir()] == ["positions"]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"a": "1"}', '{"a": true}', '{"a": -1}', '{"epoch": 1}', "\udcff"]
)
def test_bad_positions(fails, tmp_path, text):
    """A file that holds something else is left alone, and named."""
    file = tmp_path / "positions"
    file.write_text(text, errors="surrogateescape")
    status, out, err = fails("listen", "--login", "ann", "--resume", str(file), typed=b"hush\n")
    assert (status, out) == (1, "")
    assert f"{file} does not contain positions" in err
    assert err.count("\n") == 1
    assert file.read_text(errors="surrogateescape") == text


def test_nowhere_to_write(fails, tmp_path):
    """That the file cannot be written is told before anything is heard."""
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for name, why in [
        ("none/positions", f"there is no directory {tmp_path}/none"),
        ("file/positions", f"there is no directory {tmp_path}/file"),
        (f"directory/{'x' * 300}", "file name too long"),
    ]:
        file = tmp_path / name
        result = fails("listen", "--login", "ann", "--resume", str(file), typed=b"hush\n")
        one_line(result, 1, f"{file} cannot be ")
        assert result[2].endswith(f": {why}\n")
    assert [*(tmp_path / "directory").iterdir()] == []


async def test_listen_goes_on(script, start):
    """A lost connection is told on stderr, and made again."""
    script.parts = [sends(message(1), then=closes(1001, "server is stopping")), sends(message(2))]
    process = await start("listen", **TOKEN)
    assert [(await line(process))["seq"] for _ in range(2)] == [1, 2]
    _, err = await interrupted(process)
    assert "server is stopping; trying again in" in err


async def test_enough(script, start):
    """Whoever reads the lines may stop doing so."""
    script.parts = [sends(*map(message, range(1, 10_000)))]
    process = await start("listen", **TOKEN)
    await line(process)
    process.stdout._transport.close()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0
    assert await process.stderr.read() == b""


# Broadcasting


async def test_broadcast(script, run):
    """The object is an argument, or is read, byte for byte after a byte order mark; its place in the log is printed."""
    script.answers = [accepted(), accepted(), accepted(4)]
    for arguments, typed in [
        (["tea", '{ "n" :1.0}'], b""),
        (["tea", "-", "--key", "k1"], b'{ "n" :1.0}'),
        (["tea", "--token", "other"], b'\xef\xbb\xbf{ "n" :1.0}\n'),
    ]:
        status, out, err = await run("broadcast", *arguments, typed=typed, **TOKEN)
        assert (status, err) == (0, "")
    assert json.loads(out) == {"group": G1, "seq": 4, "at": AT}
    assert {body.strip() for _, _, body in script.requests} == {b'{ "n" :1.0}'}
    assert script.requests[1][1] == "k1"


async def test_log_in(script, run):
    """The password is the first line, what is broadcast the rest; a login counts more than a token that lies about."""
    script.answers = [web.json_response({"user_id": ME, "token": "secret", "expires_at": AT}), accepted()]
    status, _, err = await run("broadcast", "--login", "ann", "tea", typed=b'hush\n{"n": 1}\n', **TOKEN)
    assert (status, err) == (0, "")
    [(path, _, body), (_, _, data)] = script.requests
    assert (path, json.loads(body), json.loads(data)) == ("/login", {"login": "ann", "password": "hush"}, {"n": 1})


def one_line(result, status, says):
    """It failed with one line, that does not repeat the password or the token."""
    assert result[:2] == (status, "")
    err = result[2]
    assert err.startswith("att-server: ")
    assert err.count("\n") == 1
    assert says in err
    assert "hush" not in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("arguments", "typed", "status", "says"),
    [
        (["broadcast", "tea", "nonsense"], b"", 1, "is not JSON"),
        (["broadcast", "tea", "[]"], b"", 1, "must be a JSON object"),
        (["broadcast", "tea"], b"", 2, "nothing on the standard input"),
        (["broadcast", "tea"], b" " * (2 * 1024**2 + 1), 2, "more than"),
        *((["broadcast", name, "{}"], b"", 1, "There is no group with this id or name") for name in ("", ".", "..")),
        (["broadcast"], b"", 2, "Missing argument 'GROUP'"),
        (["broadcast", "tea", "{}", "--key", " "], b"", 2, "1 to 200 printable"),
        (["broadcast", "tea", "{}", "--url", "nonsense"], b"", 2, "is not the URL"),
        (["listen", "--url", "nonsense"], b"", 2, "is not the URL"),
        (["listen", "--login", "ann"], b"", 2, "no password on the standard input"),
        (
            ["listen", "--login", "ann"],
            b"hush\n",
            1,
            "at http://127.0.0.1:9 cannot be reached: connection refused (is it",
        ),
    ],
)
def test_errors_are_one_line(fails, arguments, typed, status, says):
    """Whatever is wrong is told before anything is sent."""
    one_line(fails(*arguments, typed=typed), status, says)


async def test_refusals_are_one_line(script, run):
    """So is whatever the server says."""
    script.answers = [problem(403, "not a member"), problem(401, "auth failed")]
    script.parts = [problem(401, "not signed in"), sends(then=closes(4500))]
    one_line(await run("broadcast", "tea", "{}", **TOKEN), 1, "It rains.")
    one_line(await run("listen", "--login", "ann", typed=b"hush\n"), 1, "It rains.")
    for _ in range(2):
        one_line(await run("listen", **TOKEN), 1, "the token is not valid, or no longer: give another in ATT_TOKEN")


async def test_a_broadcast_that_cannot_be_reported(script, start):
    """Whoever would try again is told that it is in the log."""
    script.answers = [accepted()]
    reads, writes = os.pipe()
    os.close(reads)
    process = await start("broadcast", "tea", "{}", stdout=writes, **TOKEN)
    os.close(writes)
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    says = "the broadcast is in the log as seq 3, but the output cannot be written: Broken pipe"
    assert (process.returncode, err.decode()) == (1, f"att-server: {says}\n")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["listen"], "listening (groups: 1); Ctrl-C ends it"),
        (["broadcast", "tea"], "type a JSON"),
    ],
    ids=["listen", "broadcast"],
)
async def test_at_a_terminal(script, start, command, says):
    """Whoever waits there is told for what."""
    script.parts = [sends(message(1))]
    ours, theirs = os.openpty()
    await start(*command, stdin=theirs, stderr=theirs, **TOKEN)
    os.close(theirs)
    async with asyncio.timeout(PATIENCE):
        assert (await asyncio.to_thread(os.read, ours, 1_000)).decode().startswith(says)
    os.close(ours)


async def test_who(run):
    """Nobody can listen who does not say who they are."""
    status, _, err = await run("listen", ATT_TOKEN="")
    assert status == 2
    assert "--token" in err
