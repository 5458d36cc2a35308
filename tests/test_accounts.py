"""Accounts: who signs up, and who is let in."""

import asyncio
import re
from uuid import uuid4

import pytest
from conftest import CHEAPEST, PASSWORD

from att.accounts import Accounts
from att.app import create_app
from att.errors import AuthFailed, LoginTaken
from att.passwords import Passwords
from att.settings import HashingCost, Settings

DEARER = HashingCost(time_cost=2, memory_kib=16, parallelism=1)
HASHES = "SELECT password_hash FROM users ORDER BY login"


class CountingPasswords(Passwords):
    """Remembers against which hashes passwords were verified."""

    def __init__(self, cost: HashingCost = CHEAPEST) -> None:
        super().__init__(cost)
        self.verified: list[str] = []

    def _matches(self, password, encoded):
        self.verified.append(encoded)
        return super()._matches(password, encoded)


@pytest.fixture
def passwords():
    counting = CountingPasswords()
    yield counting
    counting.close()


@pytest.fixture
def dearer():
    """Passwords as they are hashed after the operator, or a new version, has raised the cost."""
    counting = CountingPasswords(DEARER)
    yield counting
    counting.close()


@pytest.fixture
def accounts(db, passwords):
    return Accounts(db, passwords)


@pytest.fixture
def sql(postgresql):
    """The rows of a query, as they are now."""

    def run(query):
        rows = postgresql.execute(query).fetchall()
        postgresql.commit()
        return rows

    return run


async def test_sign_up_and_authenticate(accounts, sql):
    """Who signs up is let in with their password, as the same user."""
    ann, bob = await accounts.sign_up("ann", PASSWORD), await accounts.sign_up("bob", PASSWORD)
    assert ann != bob
    assert await accounts.authenticate("ann", PASSWORD) == ann
    assert await accounts.authenticate("bob", PASSWORD) == bob
    assert sql("SELECT id, login FROM users ORDER BY login") == [(ann, "ann"), (bob, "bob")]


@pytest.mark.parametrize(
    ("login", "same"),
    [
        ("Zoë", ("zoë", "ZOË", "Zoe\u0308", "ZOE\u0308")),
        ("Straße", ("STRASSE", "strasse", "straße", "STRAẞE")),
        ("ΣΊΣΥΦΟΣ", ("σίσυφος", "Σίσυφοσ")),
    ],
)
async def test_same_login(accounts, sql, login, same):
    """A login is the same in any case and normal form, in any script; it is shown as it was first written."""
    user_id = await accounts.sign_up(login, PASSWORD)
    for other in same:
        assert await accounts.authenticate(other, PASSWORD) == user_id
        with pytest.raises(LoginTaken):
            await accounts.sign_up(other, PASSWORD)
    assert sql("SELECT login FROM users") == [(login,)]


async def test_other_logins(accounts):
    """What differs in more than case is another login."""
    logins = ("zoe", "zoë", "zoe ", "zo%", "zo_", "z'oe", "z\\oe", "\u0131", "i")
    assert len({await accounts.sign_up(login, PASSWORD) for login in logins}) == len(logins)


async def test_concurrent_sign_up(accounts, sql):
    """Of ten who sign up with the same login at the same time, one gets it."""
    logins = ("ann", "Ann", "aNn", "anN", "ANn", "AnN", "aNN", "ANN", "ann", "ann")
    outcomes = await asyncio.gather(*(accounts.sign_up(login, PASSWORD) for login in logins), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(LoginTaken) == 9
    assert sql("SELECT id FROM users") == [(next(o for o in outcomes if not isinstance(o, LoginTaken)),)]


async def test_wrong_password(accounts):
    """Only the very password is let in: not a part of it, nor with more behind, however far back it differs."""
    passwords = {"long": "x" * 1023 + "y", "zero": "secret\0one", "case": "Secret one"}
    for login, password in passwords.items():
        await accounts.sign_up(login, password)
    attempts = [
        ("long", "x" * 1024),
        ("long", "x" * 1023),
        ("zero", "secret\0two"),
        ("zero", "secret"),
        ("case", "secret one"),
        ("case", "Secret one "),
        ("case", ""),
        ("nobody", "Secret one"),
    ]
    for login, password in attempts:
        with pytest.raises(AuthFailed):
            await accounts.authenticate(login, password)


async def test_same_work_for_unknown_login(accounts, passwords, sql):
    """An unknown login costs one verification, as a wrong password does, at the cost of a real hash."""
    await accounts.sign_up("ann", PASSWORD)
    for login in ("ann", "nobody"):
        with pytest.raises(AuthFailed):
            await accounts.authenticate(login, "wrong horse")
    real, decoy = passwords.verified
    assert [(real,)] == sql(HASHES)
    assert decoy != real
    assert [parameters(hash_) for hash_ in (decoy, real)] == ["$argon2id$v=19$m=8,t=1,p=1"] * 2


def parameters(encoded: str) -> str:
    """What precedes salt and hash."""
    return encoded.rsplit("$", 2)[0]


async def test_rehash(db, accounts, dearer, sql):
    """After the cost has changed, the next log-in stores a new hash; the password and the id stay the same."""
    user_id = await accounts.sign_up("ann", PASSWORD)
    await accounts.sign_up("bob", PASSWORD)
    ((before,), (bobs,)) = sql(HASHES)
    later = Accounts(db, dearer)
    assert await later.authenticate("ann", PASSWORD) == user_id
    ((after,), (bobs_after,)) = sql(HASHES)
    assert (parameters(before), parameters(after)) == ("$argon2id$v=19$m=8,t=1,p=1", "$argon2id$v=19$m=16,t=2,p=1")
    assert bobs_after == bobs
    assert await later.authenticate("ann", PASSWORD) == user_id
    assert sql(HASHES)[0] == (after,)


async def test_no_rehash_of_wrong_password(db, accounts, dearer, sql):
    """Who is not let in changes nothing."""
    await accounts.sign_up("ann", PASSWORD)
    before = sql(HASHES)
    with pytest.raises(AuthFailed):
        await Accounts(db, dearer).authenticate("ann", "wrong horse")
    assert sql(HASHES) == before


async def test_concurrent_rehash(db, accounts, dearer):
    """All who log in at the same time after the cost has changed are let in, and so are those who come after."""
    user_id = await accounts.sign_up("ann", PASSWORD)
    later = Accounts(db, dearer)
    assert set(await asyncio.gather(*(later.authenticate("ann", PASSWORD) for _ in range(5)))) == {user_id}
    assert await later.authenticate("ann", PASSWORD) == user_id


async def test_owasp(aiohttp_client, db_url, sql):
    """Left to its defaults the server stores argon2id at the cost that OWASP names, with a salt of each user's own."""
    client = await aiohttp_client(create_app(Settings(db_url=db_url)))
    for login in ("ann", "bob"):
        assert (await client.post("/signup", json={"login": login, "password": PASSWORD})).status == 201
    hashes = [encoded for (encoded,) in sql(HASHES)]
    for encoded in hashes:
        assert re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", encoded)
    assert len({encoded.split("$")[-2] for encoded in hashes}) == 2


async def test_garbage_hash(accounts, postgresql):
    """A stored hash that is none lets nobody in, and is no fault."""
    user_id = uuid4()
    for stored in ("", "!", "$argon2id$v=19$m=8,t=1,p=1$AAAA", "$2b$12$" + "x" * 53):
        postgresql.execute("DELETE FROM users")
        postgresql.execute("INSERT INTO users VALUES (%s, 'ann', 'ann', %s)", (user_id, stored))
        postgresql.commit()
        with pytest.raises(AuthFailed):
            await accounts.authenticate("ann", PASSWORD)
