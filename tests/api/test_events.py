"""The log of a group over HTTP: permissions and pages."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from att.api.keys import EVENT_LOG

STRANGE = b'{ "a":1,"a" : 2.50e+3, "b":"\\u0000\\/\xc3\xbc", "c":[1e999,  -0.0]}'


@pytest.fixture
async def ann(sign_up):
    person = await sign_up("ann")
    await person.make_group("tea")
    return person


@pytest.fixture
async def bob(sign_up):
    return await sign_up("bob")


async def page(person, group="tea", **query):
    """Return a page of a log."""
    response = await person.request("GET", f"/groups/{group}/events", params=query)
    assert response.status == 200, await response.text()
    assert response.content_type == "application/json"
    return await response.json()


async def kinds(person, **query):
    """Return the items of a page in short form."""
    items = (await page(person, **query))["items"]
    return [item["data"]["n"] if item["kind"] == "message" else item["kind"] for item in items]


async def test_items(ann):
    """An item has all fields of the log, and the message byte for byte."""
    response = await ann.request(
        "POST", "/broadcast/tea", data=STRANGE, headers={"Content-Type": "application/json", "Idempotency-Key": "k"}
    )
    assert response.status == 200, await response.text()
    sent = await response.json()
    response = await ann.request("GET", "/groups/tea/events")
    raw = await response.read()
    assert raw.count(STRANGE) == 1
    joined, message = json.loads(raw)["items"]
    assert message == {
        "seq": 2,
        "kind": "message",
        "user_id": str(ann.id),
        "at": sent["at"],
        "data": json.loads(STRANGE),
    }
    at = datetime.fromisoformat(joined.pop("at"))
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert joined == {"seq": 1, "kind": "joined", "user_id": str(ann.id), "data": None}
    assert json.loads(raw)["next"] is None
    assert "Link" not in response.headers


async def test_sent_by_sql(ann, sql):
    """An event that was sent in SQL has no user."""
    sql("""SELECT att_broadcast(id, '{"n": 1}') FROM groups""")
    (item,) = (await page(ann, after=1))["items"]
    assert (item["user_id"], item["data"]) == (None, {"n": 1})


async def test_pages(client, ann):
    """The pages have every event once, in order; next is where to continue, null at the end."""
    for n in range(2, 8):
        await ann.broadcast("tea", {"n": n})
    found, query = [], {"limit": 3}
    while True:
        response = await ann.request("GET", "/groups/tea/events", params=query)
        part = await response.json()
        found.append([item["seq"] for item in part["items"]])
        if part["next"] is None:
            assert "Link" not in response.headers
            break
        assert response.headers["Link"] == f'</groups/tea/events?limit=3&after={part["next"]}>; rel="next"'
        assert part["next"] == str(found[-1][-1])
        query["after"] = part["next"]
    assert found == [[1, 2, 3], [4, 5, 6], [7]]
    assert await page(ann, after=7) == {"items": [], "next": None, "epoch": client.app[EVENT_LOG].epoch}
    assert await page(ann, after=2**63 - 1) == {"items": [], "next": None, "epoch": client.app[EVENT_LOG].epoch}
    assert (await page(ann, limit=1000))["items"] == (await page(ann))["items"]


async def test_the_time_of_membership(client, ann, bob, sql):
    """A member reads the events of their times as a member, with their joins and leaves, and none between."""
    await ann.broadcast("tea", {"n": 2})
    await ann.add("tea", bob)
    await ann.broadcast("tea", {"n": 4})
    await ann.remove("tea", bob)
    await ann.broadcast("tea", {"n": 6})
    await ann.add("tea", bob)
    await ann.broadcast("tea", {"n": 8})
    assert await kinds(bob) == ["joined", 4, "left", "joined", 8]
    assert await kinds(bob, after=3) == [4, "left", "joined", 8]
    assert await kinds(bob, after=5) == ["joined", 8]
    assert await kinds(ann) == ["joined", 2, "joined", 4, "left", 6, "joined", 8]
    assert await page(bob, limit=2) == {"items": [], "next": "2", "epoch": client.app[EVENT_LOG].epoch}
    assert await page(bob, after=5, limit=1) == {"items": [], "next": "6", "epoch": client.app[EVENT_LOG].epoch}
    sql("DELETE FROM events WHERE seq <= 6")
    assert await kinds(bob) == ["joined", 8]
    sql("DELETE FROM events WHERE seq <= 7")
    assert await kinds(bob) == [8]


async def walk(person, **query):
    """Return the pages before a seq, in short form, as ``next`` and the Link lead through them."""
    found = []
    while len(found) < 20:
        response = await person.request("GET", "/groups/tea/events", params=query)
        assert response.status == 200, await response.text()
        part = await response.json()
        found.append([item["data"]["n"] if item["kind"] == "message" else item["kind"] for item in part["items"]])
        if part["next"] is None:
            assert "Link" not in response.headers
            return found
        query["before"] = part["next"]
        link = "&".join(f"{name}={value}" for name, value in query.items())
        assert response.headers["Link"] == f'</groups/tea/events?{link}>; rel="next"'
    raise AssertionError(found)


LAST = 2**63 - 1


async def test_newest_first(ann, bob, sql):
    """Before a seq the pages lead from the newest event to the oldest, and with a kind have only events of it."""
    await ann.broadcast("tea", {"n": 2})
    await ann.add("tea", bob)
    for n in range(4, 7):
        await ann.broadcast("tea", {"n": n})
    assert await walk(ann, before=LAST, limit=4) == [[6, 5, 4, "joined"], [2, "joined"]]
    assert await walk(ann, before=5) == [[4, "joined", 2, "joined"]]
    assert await walk(ann, before=1) == [[]]
    assert await walk(ann, before=LAST, limit=2, kind="message") == [[6, 5], [4, 2], []]
    assert await walk(ann, before=LAST, kind="message") == [[6, 5, 4, 2]]
    assert (await page(ann, after=1, limit=2, kind="message"))["next"] == "4"
    assert await kinds(ann, after=4, kind="message") == [5, 6]
    sql("DELETE FROM events WHERE seq <= 4")
    assert await walk(ann, before=LAST, limit=2) == [[6, 5]]
    assert await walk(ann, before=4) == [[]]
    assert await kinds(ann, kind="message") == [5, 6]


async def test_newest_first_while_a_member(ann, bob):
    """Newest first a member reads the same events as oldest first, and times of absence are passed over at once."""
    await ann.broadcast("tea", {"n": 2})
    await ann.add("tea", bob)
    await ann.broadcast("tea", {"n": 4})
    await ann.remove("tea", bob)
    for n in range(6, 12):
        await ann.broadcast("tea", {"n": n})
    await ann.add("tea", bob)
    await ann.broadcast("tea", {"n": 13})
    assert await walk(bob, before=LAST) == [[13, "joined", "left", 4, "joined"]]
    assert await walk(bob, before=LAST, kind="message") == [[13, 4]]
    assert await walk(bob, before=LAST, limit=2) == [[13, "joined"], ["left", 4], ["joined"]]
    assert await walk(bob, before=LAST, limit=3) == [[13, "joined"], ["left", 4, "joined"]]
    assert await walk(bob, before=10) == [["left", 4, "joined"]]
    assert await walk(bob, before=3) == [[]]


async def test_many_events_of_another_kind(ann, sql):
    """A page of messages is read from a bounded part of the log, and tells where to continue."""
    await ann.broadcast("tea", {"n": 2})
    sql(
        "INSERT INTO events (group_id, seq, kind) SELECT id, generate_series(3, 3000), 'joined' FROM groups;"
        "UPDATE groups SET seq = 3000"
    )
    await ann.broadcast("tea", {"n": 3001})
    assert await walk(ann, before=LAST, kind="message") == [[3001], [2]]
    found = await page(ann, kind="message")
    assert ([item["seq"] for item in found["items"]], found["next"]) == ([2], "2000")
    found = await page(ann, kind="message", after=2000)
    assert ([item["seq"] for item in found["items"]], found["next"]) == ([3001], None)


async def test_large_messages_newest_first(ann):
    """A page has about a megabyte of bodies, and at least one event, in either direction."""
    for n in range(2, 5):
        await ann.broadcast("tea", {"n": n, "x": "x" * 700_000})
    assert await walk(ann, before=LAST) == [[4, 3], [2, "joined"]]
    assert await kinds(ann, before=4, limit=1) == [3]


async def test_the_whole_history(ann, bob, sql):
    """By the rule ``all`` a member reads the whole log, also of absences, in both directions; nobody else does."""
    await ann.broadcast("tea", {"n": 2})
    await ann.add("tea", bob)
    await ann.remove("tea", bob)
    await ann.broadcast("tea", {"n": 5})
    response = await ann.request("PATCH", "/groups/tea", json={"history": "all"})
    assert (await response.json())["history"] == "all"
    refused = await bob.request("GET", "/groups/tea/events")
    assert (refused.status, (await refused.json())["error"]) == (403, "not a member")
    await ann.add("tea", bob)
    every = await kinds(ann)
    assert every[:2] == ["joined", 2]
    assert await kinds(bob) == every
    assert await walk(bob, before=LAST) == [every[::-1]]
    assert await walk(bob, before=LAST, limit=3, kind="message") == [[5], [2]]  # their moves count
    sql("UPDATE groups SET history = 'since_join'")
    assert 2 not in await kinds(bob)


async def test_groups_read(client, ann, bob, sql):
    """With groups.read a user reads the whole log of each group, as a member or not."""
    await ann.broadcast("tea", {"n": 2})
    sql("UPDATE roles SET permissions = '{groups.read}' WHERE name = 'User'")
    assert await kinds(bob) == ["joined", 2]
    await ann.add("tea", bob)
    assert await kinds(bob) == ["joined", 2, "joined"]


async def test_refused(client, ann, bob):
    """Non-members and former members get the same error."""

    async def refusal(person, path="/groups/tea/events", **query):
        response = await person.request("GET", path, params=query)
        return response.status, (await response.json())["error"]

    assert await refusal(bob) == (403, "not a member")
    await ann.add("tea", bob)
    await ann.remove("tea", bob)
    assert await refusal(bob) == (403, "not a member")
    assert await refusal(ann, "/groups/milk/events") == (404, "no such group")
    for query in (
        *({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": -1}, {"after": "1.0"}, {"after": 2**63}),
        *({"before": 0}, {"before": -1}, {"before": 2**63}, {"before": 3, "after": 0}, {"kind": "joined"}),
    ):
        assert await refusal(ann, **query) == (422, "invalid input"), query
    client.session.cookie_jar.clear()
    assert (await client.get("/groups/tea/events")).status == 401


# Taking back


async def take_back(person, seq, group="tea"):
    """Return the status, and the code of an error."""
    response = await person.request("DELETE", f"/groups/{group}/events/{seq}")
    return response.status if response.status == 204 else (response.status, (await response.json())["error"])


async def test_a_message_is_taken_back_for_good(ann, bob, sql):
    """The body is gone from every page, and an event says who did it; a second time changes nothing."""
    await ann.add("tea", bob)
    await bob.broadcast("tea", {"n": 3})
    await bob.broadcast("tea", {"n": 4})
    assert await take_back(bob, 3) == 204
    assert await take_back(bob, 3) == await take_back(ann, 3) == 204
    items = (await page(bob, after=2))["items"]
    assert [(item["seq"], item["kind"], item["user_id"], item["data"]) for item in items] == [
        (3, "message", str(bob.id), None),
        (4, "message", str(bob.id), {"n": 4}),
        (5, "redacted", None, {"of": 3, "by": str(bob.id)}),
    ]
    assert sql("SELECT seq FROM events WHERE strpos(body::text, '\"n\"') > 0") == [(4,)]


async def test_who_may_take_back(ann, bob, sign_up, sql):
    """A message is its sender's, also after they have left, and the owners'; nobody else takes it back."""
    zoe = await sign_up("zoe")
    for person in (bob, zoe):
        await ann.add("tea", person)
    for person in (ann, bob, bob):
        await person.broadcast("tea", {})
    sql("""SELECT att_broadcast(id, '{}') FROM groups""")
    for seq in (4, 5, 7):
        assert await take_back(zoe, seq) == (403, "not an owner")
    await ann.remove("tea", bob)
    assert await take_back(bob, 4) == (403, "not a member")
    assert await take_back(bob, 5) == await take_back(ann, 6) == await take_back(ann, 7) == 204
    assert await take_back(bob, 99) == (403, "not a member")
    sql("UPDATE roles SET permissions = '{groups.write}' WHERE name = 'User'")
    assert await take_back(zoe, 4) == 204


async def test_what_cannot_be_taken_back(ann, bob, sql):
    """An event that is no message, is not there, or is no longer kept, is no such event."""
    await ann.broadcast("tea", {})
    sql("DELETE FROM events WHERE seq = 2")
    for seq in (1, 2, 3, 2**63 - 1, 2**63, 0, -1, "01", "1.0", "x", "%D9%A1", "%00"):
        assert await take_back(ann, seq) == (404, "no such event"), seq
    assert await take_back(ann, 1, "milk") == (404, "no such group")
    assert await kinds(ann) == ["joined"]


async def test_the_key_of_a_message_that_was_taken_back(ann):
    """It is still that of a repeat, whatever its body: the body is not known any more."""

    async def send(number):
        response = await ann.request("POST", "/broadcast/tea", json={"n": number}, headers={"Idempotency-Key": "k"})
        return response.status, (await response.json()).get("seq")

    assert await send(1) == (200, 2)
    assert await send(2) == (422, None)
    assert await take_back(ann, 2) == 204
    assert await send(1) == await send(2) == (200, 2)
