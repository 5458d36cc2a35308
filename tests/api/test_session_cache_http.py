"""The cache of sessions in an application: it saves queries, and learns of sessions that are ended in SQL."""

import pytest
from waiting import eventually

from att.app import SESSION_CACHE
from att.sessions.cache import _SECONDS
from att.sessions.store import PostgresSessions


@pytest.fixture
def finds(monkeypatch):
    """Count the queries for sessions."""
    tokens, find = [], PostgresSessions.find

    async def count(self, token):
        tokens.append(token)
        return await find(self, token)

    monkeypatch.setattr(PostgresSessions, "find", count)
    return tokens


async def test_requests(finds, client, sign_up, sql):
    """Consecutive requests cost one query; a session that is deleted in SQL ends with the commit."""
    ann, bob = await sign_up("ann"), await sign_up("bob")
    await eventually(lambda: trusted(client))
    finds.clear()
    for _ in range(3):
        assert (await ann.request("GET", f"/users/{ann.id}/groups")).status == 200
        assert (await bob.request("GET", f"/users/{bob.id}/groups")).status == 200
    assert sorted(finds) == sorted([ann.token, bob.token])
    sql("DELETE FROM sessions WHERE user_id = %s", ann.id)

    async def refused():
        return (await ann.request("GET", f"/users/{ann.id}/groups")).status == 401

    await eventually(refused, _SECONDS / 2)
    assert (await bob.request("GET", f"/users/{bob.id}/groups")).status == 200
    assert finds.count(bob.token) == 1


async def test_log_out(finds, client, sign_up):
    """After the response to a log-out the token is invalid."""
    ann = await sign_up("ann")
    await eventually(lambda: trusted(client))
    assert (await ann.request("GET", f"/users/{ann.id}/groups")).status == 200
    assert (await ann.request("POST", "/logout")).status == 204
    assert (await ann.request("GET", f"/users/{ann.id}/groups")).status == 401


async def trusted(client):
    return client.app[SESSION_CACHE]._is_notified
