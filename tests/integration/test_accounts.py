"""Accounts: sign-up, authentication, and changes of users."""

import asyncio
import re
from datetime import timedelta
from uuid import uuid4

import pytest
from hashing_costs import CHEAPEST
from people import PASSWORD

from att import errors
from att.accounts import service as module
from att.accounts.passwords import Passwords
from att.accounts.service import Accounts
from att.accounts.users import NewUser, UserChange
from att.app import create_app
from att.config.settings import HashingCost, Settings
from att.core.permissions import Actor
from att.core.preconditions import Preconditions
from att.db.engine import Transaction
from att.errors import AuthFailed, LastAdministrator, LoginTaken, NotPermitted
from att.sessions.store import PostgresSessions

DEARER = HashingCost(time_cost=2, memory_kib=16, parallelism=1)
HASHES = "SELECT password_hash FROM users ORDER BY login"


class CountingPasswords(Passwords):
    """Passwords that record the verified hashes."""

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
    """Passwords with a raised cost."""
    counting = CountingPasswords(DEARER)
    yield counting
    counting.close()


class RecordingListener:
    """A ``SessionListener`` that remembers what it is told."""

    def __init__(self):
        self.told = []

    def session_ended(self, session_id):
        self.told.append(("session", session_id))

    def user_ended(self, user_id):
        self.told.append(("user", user_id))

    def user_state_unknown(self, user_id):
        self.told.append(("uncertain", user_id))


@pytest.fixture
def listener():
    return RecordingListener()


@pytest.fixture
def open_accounts(db, listener):
    """Return accounts with these passwords."""
    return lambda passwords: Accounts(db, passwords, PostgresSessions(db, timedelta(days=1)), listener)


@pytest.fixture
def accounts(open_accounts, passwords):
    return open_accounts(passwords)


@pytest.fixture
def sql(postgresql):
    """Run a query; return its current rows."""

    def run(query, *params):
        cursor = postgresql.execute(query, params)
        rows = cursor.fetchall() if cursor.description else []
        postgresql.commit()
        return rows

    return run


async def sign_up(accounts, login):
    """Sign up a user; return their id."""
    return (await accounts.sign_up(login, PASSWORD, "r")).user_id


async def test_sign_up_and_authenticate(accounts, sql):
    """A new user can sign in with their password, as the same user."""
    ann, bob = await sign_up(accounts, "ann"), await sign_up(accounts, "bob")
    assert ann != bob
    assert (await accounts.authenticate("ann", PASSWORD)).user_id == ann
    assert (await accounts.authenticate("bob", PASSWORD)).user_id == bob
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
    """A login is the same in any case and normal form, in any script; it is shown as first written."""
    user_id = await sign_up(accounts, login)
    for other in same:
        assert (await accounts.authenticate(other, PASSWORD)).user_id == user_id
        with pytest.raises(LoginTaken):
            await accounts.sign_up(other, PASSWORD, "r")
    assert sql("SELECT login FROM users") == [(login,)]


async def test_other_logins(accounts):
    """Logins that differ in more than case, and do not look alike, are different."""
    logins = ("zoe", "zoë", "zoë 2", "zo%", "zo_", "z'oe", "z\\oe", "i")
    assert len({await sign_up(accounts, login) for login in logins}) == len(logins)


async def test_concurrent_sign_up(accounts, sql):
    """Of ten concurrent sign-ups with the same login, one succeeds."""
    logins = ("ann", "Ann", "aNn", "anN", "ANn", "AnN", "aNN", "ANN", "ann", "ann")
    outcomes = await asyncio.gather(
        *(accounts.sign_up(login, PASSWORD, "r") for login in logins), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(LoginTaken) == 9
    assert sql("SELECT id FROM users") == [(next(o for o in outcomes if not isinstance(o, LoginTaken)).user_id,)]


async def test_wrong_password(accounts):
    """Only the exact password works: no prefix, no suffix, no difference at any position."""
    passwords = {"long": "x" * 1023 + "y", "zero": "secret\0one", "case": "Secret one"}
    for login, password in passwords.items():
        await accounts.sign_up(login, password, "r")
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
    """An unknown login costs one verification at the cost of a real hash, like a wrong password."""
    await accounts.sign_up("ann", PASSWORD, "r")
    for login in ("ann", "nobody"):
        with pytest.raises(AuthFailed):
            await accounts.authenticate(login, "wrong horse")
    real, decoy = passwords.verified
    assert [(real,)] == sql(HASHES)
    assert decoy != real
    assert [parameters(hash_) for hash_ in (decoy, real)] == ["$argon2id$v=19$m=8,t=1,p=1"] * 2


def parameters(encoded: str) -> str:
    """Return the part before salt and hash."""
    return encoded.rsplit("$", 2)[0]


async def test_rehash(open_accounts, accounts, dearer, sql):
    """After a change of cost, the next log-in stores a new hash; password and id stay."""
    user_id = await sign_up(accounts, "ann")
    await accounts.sign_up("bob", PASSWORD, "r")
    ((before,), (bobs,)) = sql(HASHES)
    later = open_accounts(dearer)
    assert (await later.authenticate("ann", PASSWORD)).user_id == user_id
    ((after,), (bobs_after,)) = sql(HASHES)
    assert (parameters(before), parameters(after)) == ("$argon2id$v=19$m=8,t=1,p=1", "$argon2id$v=19$m=16,t=2,p=1")
    assert bobs_after == bobs
    assert (await later.authenticate("ann", PASSWORD)).user_id == user_id
    assert sql(HASHES)[0] == (after,)
    recorded = sql("SELECT user_id, new FROM history WHERE operation = 'UPDATE'")
    assert recorded == [(user_id, {"password": "rehashed"})]  # nobody has changed their password


async def test_no_rehash_of_wrong_password(open_accounts, accounts, dearer, sql):
    """A failed log-in changes nothing."""
    await accounts.sign_up("ann", PASSWORD, "r")
    before = sql(HASHES)
    with pytest.raises(AuthFailed):
        await open_accounts(dearer).authenticate("ann", "wrong horse")
    assert sql(HASHES) == before


async def test_concurrent_rehash(open_accounts, accounts, dearer):
    """All concurrent log-ins after a change of cost succeed, and so do later ones."""
    user_id = await sign_up(accounts, "ann")
    later = open_accounts(dearer)
    found = await asyncio.gather(*(later.authenticate("ann", PASSWORD) for _ in range(5)))
    assert {verified.user_id for verified in found} == {user_id}
    assert (await later.authenticate("ann", PASSWORD)).user_id == user_id


async def test_owasp(db_url, aiohttp_client, sql):
    """By default the server stores argon2id at OWASP's cost, with a salt for each user."""
    client = await aiohttp_client(create_app(Settings(db_url=db_url)))
    for login in ("ann", "bob"):
        assert (await client.post("/signup", json={"login": login, "password": PASSWORD})).status == 201
    hashes = [encoded for (encoded,) in sql(HASHES)]
    for encoded in hashes:
        assert re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", encoded)
    assert len({encoded.split("$")[-2] for encoded in hashes}) == len(hashes) == 3  # with the administrator's


async def test_garbage_hash(accounts, postgresql):
    """An invalid stored hash matches no password, and is no error."""
    user_id = uuid4()
    for stored in ("", "!", "$argon2id$v=19$m=8,t=1,p=1$AAAA", "$2b$12$" + "x" * 53):
        postgresql.execute("DELETE FROM users")
        postgresql.execute(
            "INSERT INTO users (id, login, login_key, password_hash, search_text, role_id)"
            " SELECT %s, 'ann', 'ann', %s, '', id FROM roles WHERE name_key = 'user'",
            (user_id, stored),
        )
        postgresql.commit()
        with pytest.raises(AuthFailed):
            await accounts.authenticate("ann", PASSWORD)


# Users, one by one and in bulk

PERMISSIONS = {"Clerk": ["users.write"], "Chief": ["users.write", "roles.write", "users.read"]}
USERS = "SELECT login, first_name, active FROM users ORDER BY login"


@pytest.fixture
def people(sql):
    """Add users by login, with a role; return actors. ``sessions_of`` creates their sessions."""
    for name, permissions in PERMISSIONS.items():
        sql("INSERT INTO roles (name, name_key, permissions) VALUES (%s, lower(%s), %s)", name, name, permissions)

    def make(login, role="User"):
        ((user_id,),) = sql(
            "INSERT INTO users (login, login_key, search_text, password_hash, role_id)"
            " SELECT %s, %s, %s, 'none', id FROM roles WHERE name = %s RETURNING id",
            *[login] * 3,
            role,
        )
        return Actor(user_id, None, "request")

    return make


@pytest.fixture
def sessions_of(sql):
    """Create this many sessions of a user; return their ids."""
    return lambda user_id, count=2: [
        row[0]
        for row in sql(
            "INSERT INTO sessions (token_hash, user_id, expires_at)"
            " SELECT sha256(gen_random_uuid()::text::bytea), %s, now() + interval '1 day' FROM generate_series(1, %s)"
            " RETURNING id",
            user_id,
            count,
        )
    ]


@pytest.fixture
def boss(people):
    return people("boss", "Admin")


def blamed(caught):
    """Return the class and the index of the error."""
    return caught.type, caught.value.index


async def test_create(accounts, boss, sql):
    """A new user has the given values, and can sign in if they have a password and are active."""
    user = await accounts.create(NewUser("Zoë", PASSWORD, "Zoë", "Straße", role="admin"), boss)
    assert user[1:4] + user[6:] == ("Zoë", "Zoë", "Straße", "Admin", True)
    assert sql("SELECT login_key, search_text FROM users WHERE id = %s", user.id) == [("zoë", "zoë\nzoë\nstrasse")]
    assert (await accounts.authenticate("ZOË", PASSWORD)).user_id == user.id
    await accounts.create_many([NewUser("none"), NewUser("off", PASSWORD, active=False)], boss)
    for login, password in (("none", ""), ("none", PASSWORD), ("off", PASSWORD)):
        with pytest.raises(AuthFailed):
            await accounts.authenticate(login, password)


async def test_same_work_for_whoever_is_not_let_in(accounts, boss, passwords):
    """A user who is not active, or has no password, takes as much time as a wrong password."""
    await accounts.create_many([NewUser("none"), NewUser("off", PASSWORD, active=False)], boss)
    for login in ("none", "off", "nobody"):
        with pytest.raises(AuthFailed):
            await accounts.authenticate(login, PASSWORD)
    assert len(passwords.verified) == 3


async def test_create_many(accounts, boss, sql):
    """All or none are created, in order; the error has the index."""
    logins = ["c", "a", "b"]
    assert [user.login for user in await accounts.create_many([NewUser(login) for login in logins], boss)] == logins
    before = sql(USERS)
    for second, error in (
        (NewUser("A"), LoginTaken),
        (NewUser("X"), LoginTaken),
        (NewUser("y", role="Nobody's"), errors.NoSuchRole),
    ):
        with pytest.raises(error) as caught:
            await accounts.create_many([NewUser("x"), second], boss)
        assert blamed(caught) == (error, 1)
    with pytest.raises(LoginTaken) as caught:
        await accounts.create(NewUser("a"), boss)
    assert blamed(caught) == (LoginTaken, None)
    assert sql(USERS) == before


async def test_many_passwords_do_not_fill_the_queue(open_accounts, boss):
    """At most one hash per worker is queued at a time, so that other log-ins do not get Busy."""
    few = Passwords(CHEAPEST, workers=2, queue=0)
    accounts = open_accounts(few)
    await accounts.create_many([NewUser(f"u{number}", f"secret {number}") for number in range(9)], boss)
    assert await accounts.authenticate("u8", "secret 8")
    few.close()


async def test_who_may_create(accounts, people):
    """It needs users.write; a role other than User needs roles.write and all its permissions."""
    plain, clerk, chief = people("plain"), people("clerk", "Clerk"), people("chief", "Chief")
    with pytest.raises(NotPermitted):
        await accounts.create(NewUser("x"), plain)
    assert (await accounts.create(NewUser("a"), clerk)).role == "User"
    assert (await accounts.create(NewUser("b", role="clerk"), chief)).role == "Clerk"
    for actor, role in ((clerk, "Clerk"), (chief, "Admin")):
        with pytest.raises(NotPermitted) as caught:
            await accounts.create_many([NewUser("x"), NewUser("y", role=role)], actor)
        assert caught.value.index == 1


async def test_change(accounts, boss, people, sql):
    """Given values change, with their keys; others stay. A change to the same values writes nothing."""
    ann = people("ann").user_id
    row = "SELECT login, first_name, last_name, last_name_key, search_text, active, xmin::text FROM users WHERE id = %s"
    user = await accounts.change(ann, {"last_name": "Straße", "login": "Änn"}, boss)
    assert user[:4] + user[6:] == (ann, "Änn", "", "Straße", "User", True)
    (before,) = sql(row, ann)
    assert before[:-1] == ("Änn", "", "Straße", "strasse", "änn\n\nstrasse", True)
    assert (
        await accounts.change(ann, {}, boss)
        == await accounts.change(ann, {"login": "Änn", "role": "user"}, boss)
        == user
    )
    assert sql(row, ann) == [before]
    assert (await accounts.change(ann, {"login": "ÄNN", "role": "Admin"}, boss)).role == "Admin"
    with pytest.raises(LoginTaken):
        await accounts.change(ann, {"login": "Boss"}, boss)
    with pytest.raises(errors.NoSuchRole):
        await accounts.change(ann, {"role": "Nobody's"}, boss)
    with pytest.raises(errors.NoSuchUser):
        await accounts.change(uuid4(), {}, boss)


async def test_change_on_condition(accounts, boss, people):
    """With versions, only a user with one of them changes. Of two readers of one version the second is too late."""
    ann = people("ann").user_id
    old = await accounts.change(ann, {}, boss)
    wanted = Preconditions(if_match=frozenset({'"x"', f'"{old.version}"'}))
    changes = [accounts.change(ann, {"first_name": name}, boss, wanted) for name in ("A", "B")]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PreconditionFailed", "User"]
    with pytest.raises(errors.PreconditionFailed):
        await accounts.change(ann, {"first_name": "C"}, boss, Preconditions(if_match=frozenset()))


async def test_change_many(accounts, boss, people, sql):
    """All or none are changed, in order; the error has the index."""
    ids = [people(login).user_id for login in ("b", "a", "c")]
    users = await accounts.change_many(
        [UserChange(user_id, {"first_name": "F", "active": False}) for user_id in ids], boss
    )
    assert [(user.id, user.first_name, user.active) for user in users] == [(user_id, "F", False) for user_id in ids]
    before = sql(USERS)
    for bad, error in (
        (UserChange(uuid4(), {"first_name": "G"}), errors.NoSuchUser),
        (UserChange(ids[2], {"login": "B"}), LoginTaken),
        (UserChange(ids[2], {"role": "Nobody's"}), errors.NoSuchRole),
        (UserChange(boss.user_id, {"password": "secret1", "current_password": "wrong"}), errors.WrongPassword),
    ):
        with pytest.raises(error) as caught:
            await accounts.change_many([UserChange(ids[1], {"first_name": "G"}), bad], boss)
        assert caught.value.index == 1
    assert sql(USERS) == before


async def test_every_change_knows_the_actor(accounts, boss, sql):
    """A thousand users changed at once are a thousand changes in the history, each with actor, session and request."""
    ids = [user.id for user in await accounts.create_many([NewUser(f"u{number}") for number in range(1000)], boss)]
    actor = Actor(boss.user_id, uuid4(), "bulk")
    await accounts.change_many([UserChange(user_id, {"last_name": "L"}) for user_id in ids], actor)
    rows = sql("SELECT row_id, actor_id, session_id, request_id FROM history WHERE operation = 'UPDATE'")
    assert sorted(rows) == sorted((str(user_id), actor.user_id, actor.session_id, "bulk") for user_id in ids)


async def test_nobody_takes_over_a_stronger_account(accounts, people, sql):
    """With users.write an actor changes and deletes only users with no more permissions than their own."""
    clerk, chief, ann, boss = people("clerk", "Clerk"), people("chief", "Chief"), people("ann"), people("boss", "Admin")
    await accounts.change(ann.user_id, {"password": "secret1"}, clerk)
    await accounts.change(clerk.user_id, {"first_name": "C"}, chief)
    before = sql(USERS)
    for actor, user in ((ann, clerk), (clerk, chief), (clerk, boss), (chief, boss)):
        for values in ({"password": "secret1"}, {"login": "x"}, {"active": False}, {"role": "User"}):
            with pytest.raises(NotPermitted):
                await accounts.change(user.user_id, values, actor)
        with pytest.raises(NotPermitted) as caught:
            await accounts.delete_many([actor.user_id, user.user_id], actor)
        assert caught.value.index == 1
    assert sql(USERS) == before


async def test_nobody_raises_themselves(accounts, people, boss):
    """Assigning a role, also to oneself, needs roles.write and all its permissions."""
    plain, clerk, chief = people("plain"), people("clerk", "Clerk"), people("chief", "Chief")
    for actor, role in ((plain, "User"), (plain, "Admin"), (clerk, "Admin"), (clerk, "User"), (chief, "Admin")):
        with pytest.raises(NotPermitted):
            await accounts.change(actor.user_id, {"role": role}, actor)
    assert (await accounts.change(chief.user_id, {"role": "Clerk"}, chief)).role == "Clerk"


async def test_a_role_that_is_renamed_meanwhile(accounts, people, boss, sql, monkeypatch):
    """A change without a role keeps the role, even if roles are renamed meanwhile."""
    ann = people("ann", "Clerk")
    write = module._write

    async def rename_first(*arguments):
        sql("UPDATE roles SET name_key = 'old' WHERE name = 'Clerk'")
        sql("UPDATE roles SET name_key = 'clerk' WHERE name = 'Chief'")
        await write(*arguments)

    monkeypatch.setattr(module, "_write", rename_first)
    await accounts.change(ann.user_id, {"first_name": "Ann"}, boss)
    assert sql("SELECT first_name, name FROM users JOIN roles ON roles.id = role_id WHERE login = 'ann'") == [
        ("Ann", "Clerk")
    ]


async def test_an_administrator_without_a_password_is_none(accounts, boss):
    """A user who cannot sign in does not count as the last administrator."""
    await accounts.create(NewUser("ghost", role="Admin"), boss)
    with pytest.raises(LastAdministrator):
        await accounts.delete(boss.user_id, boss)


async def test_the_same_logins_in_another_order(accounts, people, boss):
    """Two batches with the same logins in different orders do not deadlock."""
    for number in range(5):
        mine, yours = ([people(f"{side} {number} {place}").user_id for place in range(2)] for side in "ab")
        wanted = f"x{number}", f"y{number}"
        outcomes = await asyncio.gather(
            accounts.change_many(
                [UserChange(user, {"login": to}) for user, to in zip(mine, wanted, strict=True)], boss
            ),
            accounts.change_many(
                [UserChange(user, {"login": to}) for user, to in zip(yours, wanted[::-1], strict=True)], boss
            ),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {list, LoginTaken}, outcomes


async def test_own_password(accounts, listener, sessions_of, sql):
    """A new password of one's own needs the current one, and ends one's other sessions."""
    ann = await sign_up(accounts, "ann")
    here, there, elsewhere = sessions_of(ann, 3)
    actor = Actor(ann, here, "r")
    for values, error in (
        ({"password": "secret1"}, errors.InvalidInput),
        ({"password": "secret1", "current_password": "wrong"}, errors.WrongPassword),
    ):
        with pytest.raises(error):
            await accounts.change(ann, values, actor)
    assert listener.told == []
    await accounts.change(ann, {"password": "secret1", "current_password": PASSWORD}, actor)
    assert (await accounts.authenticate("ann", "secret1")).user_id == ann
    assert sql("SELECT id FROM sessions") == [(here,)]
    assert sorted(listener.told) == sorted([("session", there), ("session", elsewhere)])


async def test_password_of_another(accounts, listener, boss, people, sessions_of, sql):
    """A password set by another user ends all sessions of the user, and no others."""
    ann = people("ann").user_id
    sessions_of(ann)
    kept = sessions_of(boss.user_id)
    await accounts.change(ann, {"password": "secret1"}, Actor(boss.user_id, kept[0], "r"))
    assert (await accounts.authenticate("ann", "secret1")).user_id == ann
    assert sorted(sql("SELECT id FROM sessions")) == sorted((session_id,) for session_id in kept)
    assert listener.told == [("user", ann)]


async def test_password_changed_meanwhile(open_accounts, people, sql):
    """A verified password that has changed meanwhile does not allow a new one."""

    class Slow(Passwords):
        async def hash_all(self, passwords, address):
            sql("UPDATE users SET password_hash = 'another'")
            return await super().hash_all(passwords, address)

    passwords = Slow(CHEAPEST)
    accounts = open_accounts(passwords)
    ann = await sign_up(accounts, "ann")
    with pytest.raises(errors.Busy):
        await accounts.change(ann, {"password": "secret1", "current_password": PASSWORD}, Actor(ann, None, "r"))
    assert sql("SELECT password_hash FROM users") == [("another",)]
    passwords.close()


async def test_disabling_and_deleting(accounts, listener, boss, people, sessions_of, sql):
    """Both end all sessions, also one's own; a deleted user leaves their groups. Others are unaffected."""
    ann, bob, cid = (people(login).user_id for login in ("ann", "bob", "cid"))
    (own, _), _, kept = sessions_of(ann), sessions_of(bob), sessions_of(cid)
    sql("INSERT INTO groups (name, name_key) VALUES ('tea', 'tea')")
    sql("INSERT INTO members (group_id, user_id, role) SELECT id, %s, 'member' FROM groups", ann)
    await accounts.change_many([UserChange(bob, {"active": False}), UserChange(cid, {"active": True})], boss)
    await accounts.delete(ann, Actor(ann, own, "r"))
    assert listener.told == [("user", bob), ("user", ann)]
    assert sorted(sql("SELECT id FROM sessions")) == sorted((session_id,) for session_id in kept)
    assert sql("SELECT * FROM members") == []
    with pytest.raises(errors.NoSuchUser):
        await accounts.delete(ann, boss)


async def test_delete_many(accounts, boss, people, sql):
    """All or none are deleted; repetitions count once; the error has the index."""
    ann, bob, cid = (people(login).user_id for login in ("ann", "bob", "cid"))
    with pytest.raises(errors.NoSuchUser) as caught:
        await accounts.delete_many([ann, ann, uuid4(), bob], boss)
    assert caught.value.index == 2
    assert len(sql(USERS)) == 4
    assert await accounts.delete_many([ann, bob, ann], boss) == 2
    assert sql("SELECT id FROM users WHERE login <> 'boss'") == [(cid,)]


async def test_deleted_with_their_group(accounts, boss, people, sql, postgresql):
    """Concurrent deletions of a user and of their group do not deadlock."""
    ann = people("ann").user_id
    sql("INSERT INTO groups (name, name_key) VALUES ('tea', 'tea')")
    sql("INSERT INTO members (group_id, user_id, role) SELECT id, %s, 'member' FROM groups", ann)
    postgresql.execute("SELECT FROM groups FOR UPDATE")
    deletion = asyncio.create_task(accounts.delete(ann, boss))
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    async with asyncio.timeout(5):
        while not postgresql.execute(waiting).fetchall():  # noqa: ASYNC110 - another process gives us no Event
            await asyncio.sleep(0.005)
    sql("DELETE FROM groups")
    await deletion
    assert sql("SELECT kind FROM events ORDER BY seq") == [("joined",), ("left",)]


async def test_lost_at_the_commit(accounts, listener, boss, people, sessions_of, monkeypatch):
    """With an unknown outcome of the commit, the listener gets ``user_state_unknown``."""
    commit = Transaction.commit

    async def lose(self):
        await commit(self)
        raise errors.ConnectionLost

    ann = people("ann").user_id
    sessions_of(ann)
    monkeypatch.setattr(Transaction, "commit", lose)
    with pytest.raises(errors.ConnectionLost):
        await accounts.change(ann, {"active": False}, boss)
    with pytest.raises(errors.ConnectionLost):
        await accounts.change(ann, {"first_name": "A"}, boss)
    with pytest.raises(errors.ConnectionLost):
        await accounts.delete(ann, boss)
    assert listener.told == [("uncertain", ann)] * 2


CHANGES = {
    "demote": lambda accounts, user_id, actor: accounts.change(user_id, {"role": "User"}, actor),
    "disable": lambda accounts, user_id, actor: accounts.change_many([UserChange(user_id, {"active": False})], actor),
    "delete": lambda accounts, user_id, actor: accounts.delete(user_id, actor),
}


@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("first", CHANGES)
@pytest.mark.parametrize("is_own", [True, False], ids=["themselves", "each other"])
async def test_last_administrator(accounts, people, sql, first, second, is_own):
    """Of two administrators who remove themselves or each other at once, one stays and gets the error."""
    ann, bob = people("ann", "Admin"), people("bob", "Admin")
    targets = (ann, bob) if is_own else (bob, ann)
    outcomes = await asyncio.gather(
        CHANGES[first](accounts, targets[0].user_id, ann),
        CHANGES[second](accounts, targets[1].user_id, bob),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes].count(LastAdministrator) == 1
    left = sql("SELECT users.id FROM users JOIN roles ON roles.id = role_id WHERE '*' = ANY (permissions) AND active")
    assert len(left) == 1
    administrator = ann if left == [(ann.user_id,)] else bob
    for change in CHANGES.values():
        with pytest.raises(LastAdministrator):
            await change(accounts, administrator.user_id, administrator)
