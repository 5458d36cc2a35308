"""Listening to some of one's groups."""

import pytest
from aiohttp import WSServerHandshakeError
from talks import V1, Talk, parts

from att.api.keys import LISTEN_ENDPOINT


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def ben(sign_up):
    return await sign_up("ben")


@pytest.fixture
async def groups(ann, ben):
    """Three groups of Ann's with Ben in them: their ids by their names."""
    made = {name: (await ann.make_group(name))["id"] for name in ("tea", "cake", "pie")}
    for name in made:
        await ann.add(name, ben)
    return made


async def listen(person, *references, **options):
    """Open a socket for these groups."""
    params = [("group", reference) for reference in references]
    return await person.client.ws_connect("/listen/me", headers=person.headers, params=params, **options)


async def test_plain(client, ann, ben, groups):
    """A plain listener hears the groups that it names, by id or by name, and no others."""
    async with await listen(ben, groups["tea"].upper(), "CAKE", "cake") as ws:
        for number, name in enumerate(("pie", "tea", "pie", "cake")):
            await ann.broadcast(name, {"n": number})
        assert [await ws.receive_json(timeout=5) for _ in range(2)] == [{"n": 1}, {"n": 3}]


async def test_att_v1(client, ann, ben, groups):
    """So do hello, resume and read markers; leaving and joining are heard, of other groups neither."""
    for name in groups:
        await ann.broadcast(name, {"n": name})
    everything = await ann.listen()  # so the server follows the other groups, too
    talk = Talk(await listen(ben, "tea", protocols=V1))
    hello = await talk.receive()
    assert parts(hello["groups"], "name", "seq") == [("tea", 3)]
    await talk.send(type="resume", groups=dict.fromkeys(groups.values(), 2), epoch="another")
    heard = await talk.receive_until("message")
    assert {frame["group"] for frame in heard if "group" in frame} == {groups["tea"]}
    await talk.send(type="read", group="cake", seq=1)
    await ann.remove("pie", ben)
    await ann.add("pie", ben)
    await ann.remove("tea", ben)
    await ann.add("tea", ben)
    heard = [await talk.receive() for _ in range(2)]
    assert parts(heard, "type", "group") == [("left", groups["tea"]), ("joined", groups["tea"])]
    await ann.broadcast("pie", {})
    await ann.broadcast("tea", {})
    assert parts([await talk.receive()], "type", "group") == [("message", groups["tea"])]
    await talk.ws.close()
    await everything.close()


async def test_sweeps(client, ann, ben, groups, sql):
    """A sweep does not take the other groups for missed ones, even if their joinings are no longer in the log."""
    async with await listen(ben, "tea") as ws:
        sql("DELETE FROM events")
        await client.app[LISTEN_ENDPOINT].reader.sweep()
        await ann.broadcast("tea", {"n": 1})
        assert await ws.receive_json(timeout=5) == {"n": 1}


async def test_refusals(client, ann, ben, groups):
    """What is not there is a 404, what is not one's own a 403, also if it is open; too many are a 422."""
    await ann.make_group("secret")
    await ann.request("POST", "/groups", json={"name": "open", "join": "open"})
    for references, status in (
        (["nothing"], 404),
        (["a\0"], 404),
        (["tea", "secret"], 403),
        (["open"], 403),
        (["tea"] * 101, 422),
        ([""], 422),
    ):
        with pytest.raises(WSServerHandshakeError) as refused:
            await listen(ben, *references)
        assert refused.value.status == status
    async with await listen(ben, "secret", protocols=V1) as ws:
        message = await ws.receive(timeout=5)
        assert (message.data, message.extra.partition(":")[0]) == (4502, "not a member")
