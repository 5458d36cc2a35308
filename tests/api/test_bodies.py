"""Bodies of requests: who is known before one is read, how fast it must come, and the memory that all may take."""

import asyncio
import contextlib
import gzip
import json
import zlib
from dataclasses import replace
from functools import partial

import pytest
from people import PASSWORD
from waiting import eventually

from att.api import schemas
from att.app import create_app
from att.core import pace
from att.http import bodies, requests
from att.http.bodies import ANONYMOUS_BODY_LIMIT, BODY, BODY_LIMIT
from att.http.connections import HttpConnection
from att.http.context import MEMORY
from att.http.schemas import QueryModel
from att.http.validation import FAULTS_SHOWN
from att.server.gunicorn import Application

DEADLINE = 10
JSON = {"Content-Type": "application/json"}
BUDGET = 600_000  # bytes, of which a quarter is not given out


@pytest.fixture
def settings(settings):
    return replace(settings, memory_budget=BUDGET)


@pytest.fixture
async def client(settings, aiohttp_client):
    """A client of connections of our own."""
    app = create_app(settings)
    object.__setattr__(app, "_make_handler", partial(Application._make_handler, app))
    return await aiohttp_client(app)


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
def memory(client):
    return client.app[MEMORY]


@pytest.fixture
async def begin(client):
    """Begin a request on a bare connection; return its reader and writer."""
    with contextlib.ExitStack() as stack:

        async def go(path, length, *headers, body=b""):
            reader, writer = await asyncio.open_connection(client.host, client.port)
            stack.callback(writer.close)
            head = [f"POST {path} HTTP/1.1", "Host: att", "Content-Type: application/json", *headers]
            writer.write("\r\n".join([*head, f"Content-Length: {length}", "", ""]).encode() + body)
            return reader, writer

        yield go


def bearer(person):
    return f"Authorization: Bearer {person.token}"


async def answer(reader):
    """Return status, headers and error of the response."""
    async with asyncio.timeout(DEADLINE):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:-2])
        body = json.loads(await reader.readexactly(int(headers["Content-Length"])))
        return int(lines[0].split()[1]), headers, body.get("error")


async def used(memory, size):
    """Wait until that many bytes are in use."""

    async def is_so():
        return memory.used == size

    await eventually(is_so, DEADLINE)


# Who asks


@pytest.mark.parametrize("path", ["/groups", "/broadcast/tea", "/groups/tea/members"])
async def test_nobody_s_body_is_not_read(begin, path):
    """A request that is not signed in is refused before its body has arrived."""
    reader, _ = await begin(path, BODY_LIMIT, body=b"{")
    status, headers, error = await answer(reader)
    assert (status, error, headers["Connection"]) == (401, "not signed in", "close")


async def test_a_small_body_tells_who_asks(client, ann):
    """A log-in may have 32 KiB, unpacked; a request that is signed in may have more."""
    blank = b" " * (ANONYMOUS_BODY_LIMIT - 100)
    good = json.dumps({"login": "ann", "password": PASSWORD}).encode()
    for body, status in [(good + blank, 200), (good + blank + blank, 413)]:
        for headers, data in [(JSON, body), (JSON | {"Content-Encoding": "gzip"}, gzip.compress(body))]:
            response = await client.post("/login", data=data, headers=headers)
            assert response.status == status, await response.text()
    assert f"larger than {ANONYMOUS_BODY_LIMIT} bytes" in (await response.json())["detail"]
    response = await ann.request("POST", "/groups", data=b'{"name": "tea"}' + blank + blank, headers=JSON)
    assert response.status == 201


async def test_a_session_that_ends_while_its_body_arrives(client, ann, begin, memory):
    """The request is refused: it is no longer true who asks."""
    blank = b" " * 10_000
    reader, writer = await begin("/groups", len(blank) + 15, bearer(ann), body=blank + b'{"name":')

    async def has_begun():
        return memory.used > len(blank)

    await eventually(has_begun, DEADLINE)
    assert (await ann.request("POST", "/logout")).status == 204
    writer.write(b' "tea"}')
    assert (await answer(reader))[::2] == (401, "not signed in")


# Pace


async def test_a_body_must_come_at_a_minimum_pace(ann, begin, monkeypatch):
    """One that begins fast and then stalls is refused."""
    monkeypatch.setattr(bodies, "PACE_TIME", 0.05)
    reader, _ = await begin("/groups", BODY_LIMIT, bearer(ann), body=b" " * 300_000)
    assert (await answer(reader))[::2] == (408, "request timeout")


def test_pace():
    """So many bytes in so many seconds, again and again, and all of them until the end."""
    one = pace.Pace(100.0, 30.0, 10.0)
    assert one.due == one.after(pace.PACE_BYTES - 1, 105.0) == 110.0
    assert one.after(pace.PACE_BYTES, 109.0) == 119.0
    assert one.after(2 * pace.PACE_BYTES - 1, 118.0) == 119.0
    assert one.after(2 * pace.PACE_BYTES, 118.0) == 128.0
    assert one.after(9 * pace.PACE_BYTES, 125.0) == 130.0


# Memory


async def test_a_full_budget_refuses_the_largest_and_slowest(sign_up, ann, begin, memory):
    """They get 503 with the time to come back; a small one beside them, and a fast one, are served."""
    bob = await sign_up("bob")
    await bob.make_group("tea")
    small, _ = await begin("/groups", 1_000, bearer(ann), body=b" " * 10)
    slow = [await begin("/groups", BODY_LIMIT, bearer(ann), body=b" " * 100_000) for _ in range(3)]

    async def has_arrived():
        return memory.used > 300_000

    await eventually(has_arrived, DEADLINE)
    assert await bob.broadcast("tea", {"pad": "x" * 150_000}) == 0
    answers = [asyncio.create_task(answer(reader)) for reader, _ in slow]
    async with asyncio.timeout(DEADLINE):
        refused, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    status, headers, error = refused.pop().result()
    assert (status, headers["Retry-After"], error) == (503, "1", "busy")
    assert 1 <= memory.given_up.labels("body")._value.get() < 3
    assert not small.at_eof()


async def test_a_packed_body_counts_as_unpacked(ann, begin, memory, monkeypatch):
    """Without its end it is not unpacked; with it step by step, of which each counts, and others have their turn."""
    charged = []
    charge = memory.charge
    monkeypatch.setattr(memory, "charge", lambda holder, size: charged.append(size) or charge(holder, size))
    packed = gzip.compress(b" " * 300_000)
    assert len(packed) < 1_000
    reader, writer = await begin("/groups", len(packed), bearer(ann), "Content-Encoding: gzip", body=packed[:-20])
    assert (await ann.request("GET", "/groups")).status == 200
    assert sum(charged) <= len(packed)
    charged.clear()
    writer.write(packed[-20:])
    assert (await answer(reader))[0] == 400
    assert sum(charged) > 300_000
    assert max(charged[-3:]) <= bodies.UNPACK_STEP


async def test_all_that_deflate_means(ann):
    """Several members of gzip, deflate with and without its header; not what ends too early, or is something else."""
    one, other = b'{"name": ', b'"tea"}'
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for encoding, body, status in [
        ("gzip", gzip.compress(one) + gzip.compress(other), 201),
        ("deflate", zlib.compress(one + other), 409),
        ("deflate", bare.compress(one + other) + bare.flush(), 409),
        ("gzip", gzip.compress(one + other)[:-4], 400),
        ("gzip", gzip.compress(one + other) + b"x", 400),
        ("deflate", zlib.compress(one + other)[:-1], 400),
        ("gzip", b"", 400),
    ]:
        response = await ann.request("POST", "/groups", data=body, headers=JSON | {"Content-Encoding": encoding})
        assert response.status == status, body


async def test_nothing_stays_counted(client, ann, memory):
    """After responses of every kind."""
    for path, data in [
        ("/groups", b'{"name": "tea"}'),
        ("/groups", b"{"),
        ("/broadcast/tea", b" " * 300_000),
        ("/x", b"{}"),
    ]:
        await ann.request("POST", path, data=data, headers=JSON)
    await client.post("/login", data=b" " * 100_000, headers=JSON)
    await client.get("/groups")
    assert memory.used == 0


async def test_an_idle_connection_keeps_no_body(begin, ann, monkeypatch):
    """Neither that of its last request nor that of its response, which it would keep until the next request."""
    await ann.make_group("tea")
    found = []
    handle = HttpConnection.finish_response

    async def finish(self, request, response, start):
        finished = await handle(self, request, response, start)
        found.append((request[BODY], finished[0]))
        return finished

    monkeypatch.setattr(HttpConnection, "finish_response", finish)
    body = json.dumps({"text": "x" * 100_000}).encode()
    reader, _ = await begin("/broadcast/tea", len(body), bearer(ann), body=body)
    assert (await answer(reader))[0] == 200
    [(taken, response)] = found
    assert (taken._data, taken._parts, response.body) == (None, [], None)


# The loop


async def test_very_many_faults_end_the_check(ann, sql, monkeypatch):
    """Faults of many items are listed up to a hundred; then the check ends."""
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = %s)", "Admin")
    checked = []
    fit = requests._fit
    monkeypatch.setattr(requests, "_fit", lambda shape, value: checked.append(shape) or fit(shape, value))
    items = [{str(number): 0 for number in range(20)}] * 1_000
    response = await ann.request("POST", "/users", json=items)
    problem = await response.json()
    assert (response.status, len(problem["errors"])) == (422, FAULTS_SHOWN + 1)
    assert problem["errors"][-1] == {"field": "body", "detail": "has more faults"}
    assert problem["errors"][0] == {"field": "0.login", "detail": "is missing"}
    assert [shape for shape in checked if shape is not QueryModel] == [schemas.NewUserIn] * 5


async def test_very_many_unknown_members(ann, monkeypatch):
    """Most are dropped before they are looked at: a fault is made of each, which takes long."""
    looked_at = []
    fit = requests._fit
    monkeypatch.setattr(requests, "_fit", lambda shape, value: looked_at.append(len(value)) or fit(shape, value))
    response = await ann.request("POST", "/groups", json={"name": "tea"} | {str(number): 0 for number in range(20_000)})
    assert (response.status, len((await response.json())["errors"])) == (422, FAULTS_SHOWN + 1)
    assert looked_at == [FAULTS_SHOWN + 2]


async def test_more_values_than_any_request_has(ann):
    """They are refused before the body is built."""
    response = await ann.request("POST", "/groups", json={str(number): 0 for number in range(requests.VALUES)})
    assert response.status == 422
    assert (await response.json())["errors"] == [{"field": "body", "detail": "must not have more than 25000 values"}]


async def test_more_items_than_are_allowed(ann, sql):
    """They are refused before one is looked at."""
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = %s)", "Admin")
    response = await ann.request("POST", "/users", json=[{}] * 1_001)
    assert (await response.json())["errors"] == [{"field": "body", "detail": "must have at most 1000 items, not 1001"}]


async def test_others_have_their_turn_while_many_items_are_checked():
    """A thousand users take longer to check than anyone should wait."""
    value = [{"login": f"user {number}"} for number in range(1_000)]
    check = asyncio.create_task(requests._fit_body(schemas.NewUsersIn, value))
    turns = 0
    while not check.done():
        await asyncio.sleep(0)
        turns += 1
    assert [user.login for user in check.result().root] == [user["login"] for user in value]
    assert turns >= 1_000 // requests._TURN
