"""Counts of requests, with few label values whatever is sent, and log lines without secrets or forged text."""

import pytest
from metric_samples import counts
from waiting import eventually

from att import errors
from att.api.keys import HUB
from att.app import create_app
from att.http.access_log import REQUEST_LOG
from att.protocol.frames import CloseCode


@pytest.fixture
def counted(client):
    """Return the number of requests by route, method and status."""
    return lambda: counts(client.app[REQUEST_LOG].requests)


async def test_requests_are_counted_by_route(client, sign_up, counted):
    """The label is the route as the table has it, never the path."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    for group in ("tea", "coffee", "water"):
        await ann.request("GET", f"/groups/{group}")
    await ann.request("PUT", "/groups")
    assert counted() == {
        ("/signup", "POST", "201"): 1,
        ("/groups", "POST", "201"): 1,
        ("/groups/{group}", "GET", "200"): 1,
        ("/groups/{group}", "GET", "404"): 2,
        ("none", "PUT", "405"): 1,
    }


async def test_label_values_are_few(client, counted):
    """Unknown paths and methods share labels."""
    for method in ("PROPFIND", "MKCOL", "LOCK", "SEARCH", "REPORT"):
        await client.request(method, "/pot")
        await client.request(method, "/groups")
        await client.get(f"/{method}")
    assert counted() == {("none", "other", "404"): 5, ("none", "other", "405"): 5, ("none", "GET", "404"): 5}


async def closed(client, by_code):
    """Wait until the counts of closed WebSockets are as expected: handlers end a little later than clients see."""

    async def is_counted():
        return counts(client.app[REQUEST_LOG].closes) == by_code

    await eventually(is_counted)


async def test_sockets_are_counted_by_close_code(client, sign_up, counted):
    """Our codes count whatever the client answers; of the client's, standard codes count each, all others together."""
    ann = await sign_up("ann")
    for code in (1000, 1001, 4999, 4000):
        socket = await ann.listen()
        await socket.close(code=code)
    await closed(client, {("1000",): 1, ("1001",): 1, ("other",): 2})
    socket = await ann.listen()
    [listener] = client.app[HUB].registry.everyone()
    listener.connection.close(CloseCode.TOO_SLOW)
    assert (await socket.receive()).data == CloseCode.TOO_SLOW
    await closed(client, {("1000",): 1, ("1001",): 1, ("other",): 2, ("4000",): 1})
    assert counted()["/listen/{user_id}", "GET", "101"] == 5


@pytest.fixture
def raising(settings, aiohttp_client):
    """Return a client of an application that has a route which raises the error."""

    async def go(error):
        async def fail(_request):
            raise error

        app = create_app(settings)
        app.router.add_get("/fail/{what}", fail)
        return await aiohttp_client(app)

    return go


async def test_a_503_is_logged_once(raising, caplog):
    """The line has the id of the first request and the route, not the path; later ones only add to a count."""
    client = await raising(errors.Busy())
    for number in range(3):
        response = await client.get("/fail/hush", headers={"X-Request-ID": f"r{number}"})
        assert response.status == 503
    assert [record.getMessage() for record in caplog.records if record.name == "att"] == [
        "request r0: GET /fail/{what} is answered 503 busy"
    ]


async def test_a_503_and_why(raising, caplog):
    """The cause is in the log, not in the response."""
    client = await raising(errors.RedisUnavailable(why="Redis at redis.example:6379: timed out"))
    response = await client.get("/fail/x", headers={"X-Request-ID": "r0"})
    assert (await response.json())["detail"] == errors.RedisUnavailable().detail
    assert [record.getMessage() for record in caplog.records if record.name == "att"] == [
        "request r0: GET /fail/{what} is answered 503 redis unavailable (Redis at redis.example:6379: timed out)"
    ]


async def test_a_500_is_logged_once(raising, caplog):
    """The line has the traceback, the id that is in the response, and the route, not the path."""
    client = await raising(KeyError("x"))
    responses = [await client.get("/fail/hush") for _ in range(3)]
    assert {response.status for response in responses} == {500}
    [record] = [record for record in caplog.records if record.name == "att"]
    assert record.getMessage() == f"request {responses[0].headers['X-Request-ID']}: GET /fail/{{what}} failed"
    assert record.exc_info[0] is KeyError


async def test_a_client_that_has_gone(raising):
    """The request counts with status 499, as in nginx."""
    client = await raising(ConnectionResetError())
    await client.get("/fail/x")
    assert counts(client.app[REQUEST_LOG].requests) == {("/fail/{what}", "GET", "499"): 1}
