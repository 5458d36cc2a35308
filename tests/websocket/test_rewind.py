"""Listeners of att.v1 after the log has lost its end: what they are told, and what they receive then."""

import asyncio

import pytest
from epochs import lose_end

from att.protocol.frames import CloseCode

DEADLINE = 20
MESSAGES = range(3, 8)  # the seqs of five messages


class Talk:
    """A user's socket that speaks att.v1."""

    def __init__(self, ws, hello):
        self.ws = ws
        self.hello = hello
        self._early = []

    async def resumed(self):
        """Wait until the server has read the resume: it answers a ping after it."""
        await self.ws.send_json({"type": "ping"})
        while (frame := await self.ws.receive_json(timeout=DEADLINE))["type"] != "pong":
            self._early.append(frame)

    async def receive(self, count):
        """Return the next frames, without what does not matter here."""
        while len(self._early) < count:
            self._early.append(await self.ws.receive_json(timeout=DEADLINE))
        frames, self._early = self._early[:count], self._early[count:]
        members = {"rewind": ("to", "name"), "epoch": ("epoch",), "message": ("seq", "data"), "gap": ("from", "to")}
        return [(each["type"], *(each[name] for name in members.get(each["type"], ("seq",)))) for each in frames]


@pytest.fixture
async def talk():
    opened = []

    async def go(person, **resume):
        ws = await person.listen(protocols=("att.v1",))
        opened.append(ws)
        said = Talk(ws, await ws.receive_json(timeout=DEADLINE))
        if resume:
            await ws.send_json({"type": "resume"} | resume)
            await said.resumed()
        return said

    yield go
    await asyncio.gather(*(ws.close() for ws in opened))


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def tea(ann, sign_up):
    """A group of Ann's with Ben in it, and five messages: its log ends with 7."""
    group = await ann.make_group("tea")
    await ann.add("tea", await sign_up("ben"))
    for seq in MESSAGES:
        await ann.broadcast("tea", {"n": seq})
    return group["id"]


def messages(*seqs, n=None):
    return [("message", seq, {"n": n or seq}) for seq in seqs]


async def test_the_whole_history(ann, tea, talk, sign_up):
    """By the rule ``all`` a member who resumes with a seq below their joining hears what was there before; also after
    what the log has lost.
    """
    eve = await sign_up("eve")
    await ann.request("PATCH", "/groups/tea", json={"history": "all"})
    await ann.add("tea", eve)
    said = await talk(eve, groups={tea: 4})
    head = (await (await eve.request("GET", "/groups/tea")).json())["seq"]
    frames = await said.receive(head - 4)
    assert frames[:3] == messages(5, 6, 7)
    assert frames[-1] == ("joined", head)
    await ann.request("PATCH", "/groups/tea", json={"history": "since_join"})
    said = await talk(eve, groups={tea: 4})
    assert (await said.receive(1))[0] == ("joined", head)


@pytest.mark.parametrize("count", [0, 1, 3, 6])
async def test_an_earlier_epoch(ann, tea, talk, sql, count):
    """It is told what to forget, however far the new log has got, then the epoch, and then hears what follows."""
    before = (await talk(ann)).hello["epoch"]
    epoch = lose_end(sql, tea, 4)
    for _ in range(count):
        await ann.broadcast("tea", {"n": "new"})
    said = await talk(ann, epoch=before, groups={tea: 7})
    assert said.hello["epoch"] == epoch
    new = messages(*range(5, 5 + count), n="new")
    assert await said.receive(2 + count) == [("rewind", 4, "tea"), ("epoch", epoch), *new]
    await ann.broadcast("tea", {"n": "last"})
    assert await said.receive(1) == messages(5 + count, n="last")


async def test_what_still_holds(ann, tea, talk, sql):
    """A position up to which nothing is lost is not rewound."""
    before = (await talk(ann)).hello["epoch"]
    epoch = lose_end(sql, tea, 5)
    await ann.broadcast("tea", {"n": "new"})
    said = await talk(ann, epoch=before, groups={tea: 4})
    assert await said.receive(3) == [("epoch", epoch), *messages(5), *messages(6, n="new")]


async def test_an_unknown_epoch(ann, tea, talk):
    """Nothing of it holds: all that the log keeps is given."""
    said = await talk(ann, epoch="that-of-another-site", groups={tea: 6})
    head = [("rewind", 0, "tea"), ("epoch", said.hello["epoch"]), ("joined", 1), ("joined", 2)]
    assert await said.receive(9) == [*head, *messages(*MESSAGES)]


async def test_above_the_head(ann, tea, talk):
    """A seq that the log has not reached is answered, also without an epoch."""
    for resume in ({}, {"epoch": (await talk(ann)).hello["epoch"]}):
        said = await talk(ann, groups={tea: 81}, **resume)
        assert await said.receive(1) == [("rewind", 7, "tea")]
        await said.ws.close()


async def test_a_group_of_which_nothing_is_left(ann, tea, talk, sql):
    """All of it is to be forgotten, if the epoch is an earlier one. Of others' groups nothing is told."""
    before = (await talk(ann)).hello["epoch"]
    sql("SELECT att_begin_epoch()")
    gone, epoch = "86fd539a-d29f-4d47-8ced-1e78a9e50d33", (await talk(ann)).hello["epoch"]
    assert await (await talk(ann, epoch=before, groups={gone: 9})).receive(2) == [("rewind", 0, ""), ("epoch", epoch)]
    said = await talk(ann, epoch=epoch, groups={gone: 9, tea: 81})
    await ann.broadcast("tea", {"n": 8})
    assert await said.receive(2) == [("rewind", 7, "tea"), *messages(8)]


async def test_a_membership_that_is_lost(client, ann, tea, talk, sign_up, sql):
    """Who has joined in what is lost is told to forget the group."""
    cleo = await sign_up("cleo")
    before = (await talk(ann)).hello["epoch"]
    await ann.add("tea", cleo)
    lose_end(sql, tea, 7)
    sql("ALTER TABLE members DISABLE TRIGGER USER")
    sql("DELETE FROM members WHERE user_id = %s", cleo.id)
    sql("ALTER TABLE members ENABLE TRIGGER USER")
    said = await talk(cleo, epoch=before, groups={tea: 8})
    assert (await said.receive(1))[0][:2] == ("rewind", 0)


async def test_an_open_socket_that_has_lost_nothing(client, ann, tea, talk, sql):
    """It stays, is told the epoch before anything of it, and hears what follows."""
    said, plain = await talk(ann, groups={}), await ann.listen()
    await ann.broadcast("tea", {"n": 8})
    await plain.receive_json(timeout=DEADLINE)
    epoch = sql("SELECT att_begin_epoch()")[0][0]
    assert await ann.broadcast("tea", {"n": 9}) == 2
    assert await said.receive(3) == [*messages(8), ("epoch", epoch), *messages(9)]
    assert await plain.receive_json(timeout=DEADLINE) == {"n": 9}
    await plain.close()


async def test_an_open_socket_that_has_lost_something(client, ann, tea, talk, sql):
    """It is closed with 4001 before a broadcast is answered, so that it resumes; a plain one, too."""
    said, plain = await talk(ann, groups={}), await ann.listen()
    before, epoch = said.hello["epoch"], lose_end(sql, tea, 4)
    assert await ann.broadcast("tea", {"n": "new"}) == 0
    for ws in (said.ws, plain):
        assert (await ws.receive(timeout=DEADLINE)).data == 4001
    said = await talk(ann, epoch=before, groups={tea: 7})
    assert await said.receive(3) == [("rewind", 4, "tea"), ("epoch", epoch), *messages(5, n="new")]


async def test_between_hello_and_resume(client, ann, tea, talk, sql):
    """What is lost then is told, whether or not the client names the epoch or the group."""
    waiting = [await talk(ann) for _ in range(3)]
    before, epoch = waiting[0].hello["epoch"], lose_end(sql, tea, 4)
    await ann.broadcast("tea", {"n": "new"})
    for said, resume in zip(waiting, [{"groups": {tea: 7}}, {"epoch": before, "groups": {tea: 7}}, {}], strict=True):
        await said.ws.send_json({"type": "resume"} | resume)
        told = [("rewind", 4, "tea")] if resume else []
        assert await said.receive(len(told) + 2) == [*told, ("epoch", epoch), *messages(5, n="new")]


async def test_a_joining_between_hello_and_resume(ann, tea, talk, sql, sign_up):
    """The client connects again, since it would miss what came after its joining."""
    eve = await sign_up("eve")
    said = await talk(eve)
    lose_end(sql, tea, 5)
    await ann.add("tea", eve)
    await ann.broadcast("tea", {"n": "new"})
    await said.ws.send_json({"type": "resume"})
    assert (await said.ws.receive(timeout=DEADLINE)).data == CloseCode.RESYNC


async def test_over_http(client, ann, tea, talk, sql):
    """A broadcast, its acknowledgement and a page of the log tell the epoch."""
    said = await talk(ann, groups={})
    epoch = sql("SELECT att_begin_epoch()")[0][0]
    await said.ws.send_json({"type": "broadcast", "id": 1, "group": "tea", "data": {}})
    frames = [await said.ws.receive_json(timeout=DEADLINE) for _ in range(3)]
    assert [each["epoch"] for each in frames if each["type"] == "ack"] == [epoch]
    for method, path in (("POST", "/broadcast/tea"), ("GET", "/groups/tea/events")):
        before, epoch = epoch, sql("SELECT att_begin_epoch()")[0][0]
        answer = await (await ann.request(method, path, json={})).json()
        assert answer["epoch"] == epoch != before


async def test_a_key_whose_event_is_lost(client, ann, tea, sql):
    """It is a new broadcast."""
    headers = {"Idempotency-Key": "k"}
    first = await (await ann.request("POST", "/broadcast/tea", json={"n": 8}, headers=headers)).json()
    epoch = lose_end(sql, tea, 7)
    await ann.broadcast("tea", {"n": "another"})
    again = await (await ann.request("POST", "/broadcast/tea", json={"n": 8}, headers=headers)).json()
    assert (first["seq"], again["seq"], again["epoch"]) == (8, 9, epoch)
