"""permessage-deflate (RFC 7692) on sockets, with aiohttp's client and with bare frames."""

import asyncio
import dataclasses
import json

import pytest
from browser import CHROMIUM, open_page
from client_frames import CLOSE, COMPRESSED, DEADLINE, FINAL, OFFER, PLAIN, RSV1, TEXT, BareSocket, deflate, frame
from node import NODE, run_node
from waiting import eventually

from att.app import create_app
from att.http.context import MEMORY
from att.protocol import messages
from att.protocol.frames import CloseCode

ACCEPTED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
APPLE = "Mozilla/5.0 (%s) AppleWebKit/605.1.15 (KHTML, like Gecko) %s Safari/605.1.15"
SAFARI = APPLE % ("Macintosh; Intel Mac OS X 10_15_7", "Version/18.4")
FIREFOX_ON_IOS = APPLE % ("iPhone; CPU iPhone OS 18_4 like Mac OS X", "FxiOS/138.0 Mobile/15E148")
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


@pytest.fixture
async def ann(sign_up):
    ann = await sign_up("ann")
    await ann.make_group("tea")
    return ann


@pytest.fixture
async def bare():
    """Open bare sockets that offer compression."""
    opened = []

    async def go(person, *headers, offer=OFFER):
        opened.append(await BareSocket().open(person, *headers, offer=offer))
        return opened[-1]

    yield go
    for one in opened:
        one.writer.transport.abort()


def long(number):
    """A message that is worth compressing."""
    return {"number": number, "text": "a cup of tea, " * 50}


async def test_negotiation(ann, bare):
    """Clients that ask get it. Apple's library does not, since it loses messages."""
    assert (await bare(ann)).extension == ACCEPTED
    assert (await bare(ann, offer="permessage-deflate; level=9, x")).extension is None
    agents = (CHROME, FIREFOX, "node", SAFARI, FIREFOX_ON_IOS, "Chat/12 CFNetwork/1568.300.101 Darwin/24.2.0")
    found = [(await bare(ann, f"User-Agent: {agent}")).extension for agent in agents]
    assert found == [ACCEPTED] * 3 + [None] * 3


async def test_off(settings, aiohttp_client, ann, bare):
    """With ``--compress off`` nobody gets it."""
    ann.client = await aiohttp_client(create_app(dataclasses.replace(settings, compress=False)))
    assert (await bare(ann)).extension is None


async def test_all_hear_the_same(ann, talk):
    """Small and large broadcasts, of HTTP and of sockets, in both protocols, by clients that inflate and others."""
    sockets = [await ann.listen(compress=15), await ann.listen()]
    talks = [await talk(ann, {}, compress=15), await talk(ann, {})]
    assert [ws.compress for ws in (*sockets, talks[0].ws, talks[1].ws)] == [15, 0, 15, 0]
    expected = [long(1), {"number": 2}, long(3), {"number": 4}]
    for message in expected[:2]:
        await ann.broadcast("tea", message)
    for message in expected[2:]:
        await talks[0].send(type="broadcast", id=1, group="tea", data=message)
    for ws in sockets:
        assert [await ws.receive_json(timeout=DEADLINE) for _ in expected] == expected
        await ws.close()
    for each in talks:
        heard = []
        while len(heard) < len(expected):
            heard += [one["data"] for one in await each.receive_until("message") if one["type"] == "message"]
        assert heard == expected


async def test_what_is_compressed(ann, bare):
    """Large messages to a group are. What is for one socket alone is not: hello, missed events, acks."""
    socket = await bare(ann, "Sec-WebSocket-Protocol: att.v1")
    await ann.broadcast("tea", long(1))
    first, hello = await socket.receive()
    [group] = json.loads(hello)["groups"]
    assert first == PLAIN
    socket.writer.write(
        frame(FINAL | RSV1 | TEXT, deflate(b'{"type":"resume","groups":{"%s":0}}' % group["id"].encode()))
    )
    seen = [await socket.receive() for _ in range(2)]
    await ann.broadcast("tea", long(2))
    seen.append(await socket.receive())
    data = json.dumps(long(3)).encode()
    for ephemeral in (b"", b',"ephemeral":true'):
        said = b'{"type":"broadcast","id":1,"group":"tea","data":%s%s}' % (data, ephemeral)
        socket.writer.write(frame(FINAL | RSV1 | TEXT, deflate(said)))
        seen += sorted([await socket.receive(), await socket.receive()], reverse=True)
    assert [(first, json.loads(payload)["type"]) for first, payload in seen] == [
        (PLAIN, "joined"),
        (PLAIN, "message"),
        (COMPRESSED, "message"),
        (COMPRESSED, "message"),
        (PLAIN, "ack"),
        (COMPRESSED, "ephemeral"),
        (PLAIN, "ack"),
    ]


@pytest.mark.parametrize(
    ("protocol", "size", "code"), [("att.v1", 2**20 + 5_000, 1009), ("other", 5_000, 1009), ("att.v1", 2**20, 4501)]
)
async def test_the_limit_is_that_of_the_inflated_message(ann, bare, protocol, size, code):
    """A few bytes that inflate to too many close the socket; as many as may be are looked at."""
    socket = await bare(ann, f"Sec-WebSocket-Protocol: {protocol}")
    socket.writer.write(frame(FINAL | RSV1 | TEXT, deflate(b"a" * size)))
    seen = [await socket.receive()]
    while seen[-1][0] != CLOSE:
        seen.append(await socket.receive())
    assert int.from_bytes(seen[-1][1][:2]) == code


class Body:
    """A holder of memory for which there is no room."""

    held, held_since = 0, 0.0

    def give_up(self):
        return "body"


async def test_a_message_that_is_parsed_is_dropped_when_memory_is_short(client, ann, bare, monkeypatch):
    """It counts with its inflated bytes until it is parsed, which is not gone on with."""
    memory, parsing, started, is_free = client.app[MEMORY], messages.parsing, asyncio.Event(), asyncio.Event()

    def wait_and_parse(text):
        while len(text) > 10_000 and not is_free.is_set():
            started.set()
            yield
        return (yield from parsing(text))

    monkeypatch.setattr(messages, "parsing", wait_and_parse)
    socket = await bare(ann, "Sec-WebSocket-Protocol: att.v1")
    await socket.receive()
    socket.writer.write(frame(FINAL | TEXT, b'{"type":"resume"}'))
    said = b'{"type":"broadcast","id":1,"group":"tea","data":{"a":[%s0]}}' % (b"0," * 300_000)
    socket.writer.write(frame(FINAL | RSV1 | TEXT, deflate(said)))
    await asyncio.wait_for(started.wait(), DEADLINE)
    assert memory.used == len(said)
    monkeypatch.setattr(memory, "limit", len(said))
    memory.charge(Body(), 1)
    assert memory.used == 1
    first, reason = await socket.receive()
    assert (first, int.from_bytes(reason[:2])) == (CLOSE, CloseCode.OVERLOADED)
    is_free.set()
    await eventually(_nothing_is_parsed)
    response = await ann.request("POST", "/broadcast/tea", json={"number": 1})
    assert (await response.json())["seq"] == 2  # right after Ann's joining


async def _nothing_is_parsed():
    return not any(task.get_coro().__name__ == "_parse_in_steps" for task in asyncio.all_tasks())


# Sends two broadcasts over a socket, and receives them: the extension, and what came.
TALK = """new Promise((resolve, reject) => {
    const data = {text: "a cup of tea, ".repeat(50)};
    const socket = new WebSocket("URL/listen/me", ["att.v1", "att.bearer.TOKEN"]);
    const heard = [];
    socket.onerror = socket.onclose = event => reject(new Error(event.code || event.message || "lost"));
    socket.onmessage = event => {
        const frame = JSON.parse(event.data);
        if (frame.type === "hello") {
            socket.send(JSON.stringify({type: "resume"}));
            for (const id of [1, 2]) socket.send(JSON.stringify({type: "broadcast", id, group: "tea", data}));
        } else if (frame.type === "message") {
            heard.push(JSON.stringify(frame.data) === JSON.stringify(data));
            if (heard.length === 2) resolve(socket.extensions + " " + heard);
        }
    };
})"""


def talk_of(person):
    """The script for this person."""
    url = str(person.client.make_url("")).replace("http:", "ws:").rstrip("/")
    return TALK.replace("URL", url).replace("TOKEN", person.token)


@pytest.mark.skipif(NODE is None, reason="there is no Node.js here; make test installs it")
async def test_node(ann):
    """The WebSocket of Node.js asks for it, and understands it."""
    printed = await run_node("-e", f"{talk_of(ann)}.then(text => {{ console.log(text); process.exit() }})")
    assert printed.strip() == f"{ACCEPTED} true,true"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")
async def test_chromium(ann, tmp_path):
    """A browser asks for it, compresses what it sends, and understands what it gets."""
    async with open_page(tmp_path) as page:
        found = await page.send("Runtime.evaluate", expression=talk_of(ann), awaitPromise=True, returnByValue=True)
    assert found["result"].get("value") == f"{ACCEPTED} true,true", found
