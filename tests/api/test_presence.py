"""Presence over HTTP: who sees whom, and how soon."""

import pytest
from people import PASSWORD
from waiting import eventually

SOON = 5  # seconds for what takes two


async def presence(person, path):
    """Return the response for a path."""
    response = await person.request("GET", path)
    assert response.status == 200, await response.text()
    return await response.json()


async def sockets(person):
    """Return the number of a user's sockets, as the user sees it."""
    return (await presence(person, "/users/me/presence"))["sockets"]


async def test_coming_and_going(sign_up):
    """Presence follows soon after sockets open and close, for the group and for the user."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    await ann.make_group("tea")
    await ann.add("tea", ben)
    assert await presence(ben, "/groups/tea/presence") == {"items": [], "next": None}
    assert await presence(ben, "/users/me/presence") == {"user_id": str(ben.id), "since": None, "sockets": 0}
    first, second = await ben.listen(), await ben.listen(protocols=["att.v1"])
    await eventually(lambda: has(ben, 2), SOON)
    own = await presence(ben, f"/users/{ben.id}/presence")
    page = await presence(ann, "/groups/tea/presence")
    assert page == {"items": [{**own, "login": "ben"}], "next": None}
    assert own["since"].endswith("Z")
    await second.close()
    await eventually(lambda: has(ben, 1), SOON)
    await ann.remove("tea", ben)
    assert await presence(ann, "/groups/tea/presence") == {"items": [], "next": None}
    assert await sockets(ben) == 1
    await ben.request("DELETE", "/sessions")
    await first.close()
    await eventually(lambda: has(ben, 0), SOON)


async def has(person, count):
    return await sockets(person) == count


async def test_a_logout_counts(sign_up):
    """Sockets that the server closes are removed at once, whether or not the client has noticed."""
    ann = await sign_up("ann")
    token = (await (await ann.client.post("/login", json={"login": "ann", "password": PASSWORD})).json())["token"]
    async with ann.client.ws_connect("/listen/me", headers={"Authorization": f"Bearer {token}"}):
        await eventually(lambda: has(ann, 1), SOON)
        await ann.request("DELETE", "/sessions")
        await eventually(lambda: has(ann, 0), SOON)


async def test_pages(sign_up):
    """A page has at most ``limit`` users; ``next`` and the Link lead to the next."""
    people = [await sign_up(name) for name in ("ann", "ben", "cat")]
    await people[0].make_group("tea")
    for guest in people[1:]:
        await people[0].add("tea", guest)
    for person in people:
        await person.listen()
        await eventually(lambda who=person: has(who, 1), SOON)
    shown, path = [], "/groups/tea/presence?limit=2"
    while path:
        response = await people[1].request("GET", path)
        shown.append([item["user_id"] for item in (await response.json())["items"]])
        path = response.links["next"]["url"].path_qs if "next" in response.links else None
    everybody = sorted(str(person.id) for person in people)
    assert shown == [everybody[:2], everybody[2:]]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "after=x", "more=1"])
async def test_bad_queries(sign_up, query):
    """An invalid query is refused."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    assert (await ann.request("GET", f"/groups/tea/presence?{query}")).status == 422
