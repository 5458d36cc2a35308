"""Skeletons in the database: no new name looks like another, and names from before stay."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from hashing_costs import CHEAPEST
from people import PASSWORD

from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.passwords import Passwords
from att.accounts.service import Accounts
from att.db import skeletons
from att.db.skeletons import PAGE, OwnedName, reserve_old_names
from att.errors import CannotStart, GroupNameTaken, LoginTaken
from att.groups.service import Groups
from att.realtime.hub import Hub
from att.realtime.registry import Registry
from att.sessions.store import PostgresSessions

ROOT, ALIKE = "root", "r\u043eot"  # the second with a Cyrillic o


@pytest.fixture
def passwords():
    passwords = Passwords(CHEAPEST)
    yield passwords
    passwords.close()


@pytest.fixture
def accounts(db, passwords):
    return Accounts(db, passwords, PostgresSessions(db, timedelta(days=1)), Hub(Registry()))


@pytest.fixture
def administrators(db, passwords):
    return Administrators(db, passwords, PostgresSessions(db, timedelta(days=1)))


async def test_at_once(accounts, sql):
    """Of ten concurrent sign-ups with logins that look alike, one succeeds."""
    logins = [ALIKE, ROOT, "ro\u043et", "r0ot", "RO\u041eT"] * 2
    results = await asyncio.gather(
        *(accounts.sign_up(login, PASSWORD, "test") for login in logins), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["LoginTaken"] * 9 + ["Verified"]
    assert sql("SELECT count(*) FROM users") == [(1,)]


async def test_names_from_before(accounts, db, sql, add_user):
    """Old names that look alike stay. While one of them is there, no new name looks like them."""
    old = [add_user(login) for login in (ROOT, ALIKE)]
    await reserve_old_names(db)
    assert sql("SELECT login FROM users ORDER BY login") == [(ROOT,), (ALIKE,)]
    for actor in old:
        with pytest.raises(LoginTaken):
            await accounts.sign_up("ro\u043et", PASSWORD, "test")
        sql("DELETE FROM users WHERE id = %s", actor.user_id)
        await reserve_old_names(db)
    assert sql("SELECT * FROM skeletons WHERE kind = 'users'") == []
    await accounts.sign_up("ro\u043et", PASSWORD, "test")


async def test_very_many_from_before(accounts, db, sql):
    """All pages of old names get their skeletons, once."""
    sql(
        "INSERT INTO users (login, login_key, search_text, role_id) SELECT 'x' || n, 'x' || n, '', roles.id"
        " FROM roles, generate_series(1, %s) AS n WHERE roles.name = 'User'",
        PAGE + 1,
    )
    for _ in range(2):
        await reserve_old_names(db)
        assert sql("SELECT count(*), count(DISTINCT owner_id) FROM skeletons WHERE kind = 'users'")[0][1] == PAGE + 1
    with pytest.raises(LoginTaken):
        await accounts.sign_up(f"\u0445{PAGE + 1}", PASSWORD, "test")  # with a Cyrillic x


@pytest.mark.parametrize("change", ["UPDATE users SET login = 'x', login_key = 'x'", "DELETE FROM users"])
async def test_other_programs(accounts, db, sql, add_user, change):
    """A name that a server of an earlier release gives up, or any other program, is free at once."""
    add_user(ROOT)
    await reserve_old_names(db)
    sql(change)
    await accounts.sign_up(ALIKE, PASSWORD, "test")


async def test_the_name_that_one_has(accounts, db, sql, add_user):
    """One may write one's own name in another case or look; a group, too."""
    actor = add_user(ROOT)
    await reserve_old_names(db)
    for login in ("Root", "R00T", ALIKE, ROOT):
        assert (await accounts.change(actor.user_id, {"login": login}, actor)).login == login
    groups = Groups(db, Hub(Registry()))
    tea, other = await groups.create("Tea", actor), await groups.create("Other", actor)
    for name in ("T\u0435a", "Tea"):
        assert (await groups.change(tea.id, actor, name=name)).name == name
        with pytest.raises(GroupNameTaken):
            await groups.change(other.id, actor, name="te\u0430")


async def test_the_operator(administrators, accounts):
    """A user whose login looks like the administrator's does not keep the operator out; nor may it be invalid."""
    await accounts.sign_up(ALIKE, PASSWORD, "test")
    assert await administrators.create(AdministratorCredentials(ROOT, PASSWORD)) is True
    assert await administrators.create(AdministratorCredentials("\uff52oot", "another horse")) is False
    await accounts.authenticate("roo\uff54", "another horse")
    with pytest.raises(CannotStart, match=r"U\+200B"):
        await administrators.create(AdministratorCredentials("a\u200bb", PASSWORD))


async def test_others_have_their_turn_while_skeletons_are_found():
    """A thousand take longer than anyone should wait."""
    names = [OwnedName(None, uuid4(), f"user {number}") for number in range(1_000)]
    work = asyncio.create_task(skeletons._params("users", names))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert len({*work.result()["owner_ids"]}) == 1_000
    assert turns >= 1_000 // skeletons._TURN
