"""Refused handshakes: a page is told why by a close code, a plain client by the status."""

from dataclasses import replace

import pytest
from aiohttp import DummyCookieJar, WSMsgType, WSServerHandshakeError
from waiting import eventually

from att.api.keys import EVENT_LOG, HUB
from att.app import KEEPALIVE, create_app
from att.errors import DatabaseUnavailable
from att.websocket import frame_writer

DEADLINE = 20
V1 = ("att.v1",)
ELSEWHERE = {"Origin": "https://elsewhere.example"}


@pytest.fixture
async def client(settings, aiohttp_client):
    """A client of an application that allows one socket each, and stores no cookie."""
    return await aiohttp_client(create_app(replace(settings, quota_sockets=1)), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


async def refused(client, path, headers):
    """Return the status for a plain client, and the close code and the reason for a page."""
    with pytest.raises(WSServerHandshakeError) as refusal:
        await client.ws_connect(path, headers=headers)
    async with client.ws_connect(path, headers=headers, protocols=V1) as ws:
        assert ws.protocol == "att.v1"
        message = await ws.receive(timeout=DEADLINE)
        assert message.type is WSMsgType.CLOSE
    return refusal.value.status, message.data, message.extra


async def test_a_page_is_told_why(client, ann, sign_up, monkeypatch, caplog):
    """Each status has its close code; a plain client gets the status. Nothing is left of either."""
    ben, cookie = await sign_up("ben"), {"Cookie": f"att_session={ann.token}"}
    for path, headers, answer in (
        ("/listen/me", {}, (401, 4500, "session ended")),
        ("/listen/me", {"Authorization": "Bearer x"}, (401, 4500, "session ended")),
        (f"/listen/{ben.id}", ann.headers, (403, 4502, "not you: This belongs to another user.")),
        ("/listen/nobody", ann.headers, (404, 4502, "no such user: There is no user with this id.")),
        ("/listen/me?gruop=tea", ann.headers, (422, 4501, "invalid input: gruop: is not known")),
    ):
        assert await refused(client, path, headers) == answer
    status, code, reason = await refused(client, "/listen/me", cookie | ELSEWHERE)
    assert (status, code, reason.partition(":")[0]) == (403, 4502, "origin not allowed")
    async with await ben.listen():
        assert await refused(client, "/listen/me", ben.headers) == (429, 1013, "quota exhausted; retry in 38 s")

    async def no_positions(_user_id, **_options):
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(client.app[EVENT_LOG], "positions", no_positions)
        assert await refused(client, "/listen/me", ann.headers) == (503, 1013, "database unavailable; retry in 1 s")
    assert "GET /listen/{user_id} is answered 503 database unavailable" in caplog.text
    await eventually(lambda: _nobody(client))
    async with await ann.listen(protocols=V1) as ws:
        assert (await ws.receive_json(timeout=DEADLINE))["type"] == "hello"


async def test_no_close_code_while_the_server_stops(client, ann):
    """A proxy tries another server if the status is 503."""
    client.app[HUB].stop_admitting()
    with pytest.raises(WSServerHandshakeError) as refusal:
        await ann.listen(protocols=V1)
    assert refusal.value.status == 503


async def test_a_page_that_does_not_close(client, monkeypatch):
    """A refused peer that does not answer the close frame is cut off."""
    monkeypatch.setattr(frame_writer, "_CLOSE_TIMEOUT", 0.1)
    async with client.ws_connect("/listen/me", protocols=V1, autoclose=False) as ws:
        assert (await ws.receive(timeout=DEADLINE)).data == 4500
        await eventually(lambda: _nobody(client))


async def _nobody(client):
    return not len(client.app[HUB].registry) and not len(client.app[KEEPALIVE])
