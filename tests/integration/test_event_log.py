"""The log, appended to and read: what is refused, what is repeated, and who was a member when."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from att.core.quotas import Quota, Quotas
from att.db.engine import Engine, prepare
from att.errors import (
    Busy,
    ConnectionLost,
    InvalidInput,
    KeyReused,
    NoSuchGroup,
    NotAMember,
    NotAnOwner,
    QuotaExceeded,
)
from att.realtime import event_log as module
from att.realtime.event_log import EventLog, LogEvent, Position, Publish, PublishResult, Slice

STRANGE = '{ "a":1,"a" : 2.50e+3, "b":"\\u0000\\ud800\\/ü\U0001f375%s{}\\\\\'", "c":[1e999,  -0.0]}\t\n'.encode()


@pytest.fixture
def log(db):
    return EventLog(db)


@pytest.fixture
def ann(add_user):
    return add_user("ann").user_id


@pytest.fixture
def bob(add_user):
    return add_user("bob").user_id


@pytest.fixture
def tea(add_group, ann):
    return add_group("tea", ann)


@pytest.fixture
def join(sql):
    return lambda group, user: sql(
        "INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", group, user
    )


@pytest.fixture
def leave(sql):
    return lambda group, user: sql("DELETE FROM members WHERE group_id = %s AND user_id = %s", group, user)


@pytest.fixture
def forget(sql):
    """Have retention take all events of a group up to this one."""
    return lambda group, seq: sql("DELETE FROM events WHERE group_id = %s AND seq <= %s", group, seq)


async def seqs(log, group, after=0):
    """Return the seqs in the log of a group."""
    return [event.seq for event in (await log.read({group: after}))[group].events]


# Appending


async def test_append(log, sql, tea, ann):
    """Appended messages get seqs in the given order, and are read byte for byte."""
    bodies = [STRANGE, b"{}", b'{"n":2}']
    before = datetime.now(UTC)
    appended = await log.append([Publish(tea, ann, body) for body in bodies])
    at = appended[0].event.at
    assert before <= at <= datetime.now(UTC)
    expected = [LogEvent(tea, "tea", 2 + place, "message", ann, at, body) for place, body in enumerate(bodies)]
    assert appended == [PublishResult(event, is_repeat=False, epoch=log.epoch) for event in expected]
    joined, *events = (await log.read({tea: 0}))[tea].events
    assert events == expected
    assert joined[:5] == (tea, "tea", 1, "joined", ann)
    assert joined.body == b""
    assert joined.at <= at
    assert sql("SELECT seq FROM groups") == [(4,)]


@pytest.mark.parametrize("post", ["members", "owners"])
@pytest.mark.parametrize("key", [None, "new", "old"])
@pytest.mark.parametrize("size", [2, 100, 101])
async def test_alone_as_in_a_batch(*, db, sql, ann, bob, join, add_user, add_group, post, key, size):
    """A message that is appended alone has the outcome that it has in a batch."""
    log, carl = EventLog(db, Quotas({Quota.GROUP_LOG: 204})), add_user("carl").user_id
    milk = add_group("milk", ann)
    groups = [add_group(name, ann) for name in ("tea", "mate")]
    for group in groups:
        join(group, bob)
        await log.append([Publish(group, ann, body(100), "old"), Publish(group, ann, b"{}")])
        sql("UPDATE groups SET post = %s WHERE id = %s", post, group)
    for sender in (carl, bob, ann):
        publishes = [Publish(group, sender, body(100 if key == "old" else size), key) for group in groups]
        outcomes = [
            (await log.append([publishes[0]]))[0],
            (await log.append([publishes[1], Publish(milk, ann, b"{}")]))[0],
        ]
        assert type(outcomes[0]) is type(outcomes[1])
        if isinstance(outcomes[0], PublishResult):
            alone, batch = [(one.event.seq, one.event.name, one.is_repeat) for one in outcomes]
            assert (alone[0], alone[2]) == (batch[0], batch[2])
            assert (alone[1], batch[1]) == ("tea", "mate")
    query = """
        SELECT e.seq, e.kind, e.actor_id, CAST(e.body AS text), e.key, e.log_offset, g.seq, g.log_end
        FROM groups AS g JOIN events AS e ON e.group_id = g.id AND e.kind = 'message' WHERE g.id = %s ORDER BY e.seq
    """
    assert sql(query, groups[0]) == sql(query, groups[1])


async def test_by_name(log, ann, add_group):
    """A group is found by its name in any case too; ids and names may come mixed."""
    tea, cafe = add_group("tea", ann), add_group("café å", ann)
    drafts = [Publish("CAFE\u0301 \u212b", ann, b"{}"), Publish(tea, ann, b"{}"), Publish("Tea", ann, b"{}")]
    appended = await log.append(drafts)
    assert [(one.event.group_id, one.event.name, one.event.seq) for one in appended] == [
        (cafe, "café å", 2),
        (tea, "tea", 2),
        (tea, "tea", 3),
    ]


async def test_refusals(log, sql, tea, ann, bob, join, add_user):
    """Each publish is judged alone: a refused one takes no seq and affects no other."""
    zoe = add_user("zoe").user_id
    join(tea, bob)
    outcomes = await log.append(
        [
            *(Publish(tea, user, b"{}") for user in (ann, bob, zoe)),
            *(Publish(group, ann, b"{}") for group in (uuid4(), "coffee", "a\0b", "\ud800", "x" * 5000)),
            Publish(tea, ann, b"{}"),
        ]
    )
    assert [type(outcome) for outcome in outcomes] == [
        PublishResult,
        PublishResult,
        NotAMember,
        *[NoSuchGroup] * 5,
        PublishResult,
    ]
    assert outcomes[-1].event.seq == 5
    sql("UPDATE groups SET post = 'owners'")
    outcomes = await log.append([Publish("tea", user, b"{}") for user in (ann, bob, zoe)])
    assert [type(outcome) for outcome in outcomes] == [PublishResult, NotAnOwner, NotAMember]
    assert await seqs(log, tea) == [1, 2, 3, 4, 5, 6, 7]  # the change is one, too
    assert await log.append([]) == []


@pytest.mark.parametrize(
    ("permissions", "active", "refusal"),
    [
        ("{*}", True, None),
        ("{users.read,broadcast.any}", True, None),
        ("{broadcast.any}", False, NotAMember),
        ("{users.read,groups.write}", True, NotAMember),
        ("{}", True, NotAMember),
    ],
)
async def test_whoever_may_broadcast_anywhere(*, log, sql, tea, bob, permissions, active, refusal):
    """A role that permits it replaces membership and ownership while its user is active."""
    sql("UPDATE groups SET post = 'owners'")
    sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Aid', 'aid', %s)", permissions)
    change = "UPDATE users SET active = %s, role_id = (SELECT id FROM roles WHERE name = 'Aid') WHERE id = %s"
    sql(change, active, bob)
    (outcome,) = await log.append([Publish(tea, bob, b"{}")])
    assert type(outcome) is (refusal or PublishResult)


async def test_keys(log, tea, ann, bob, join, add_group):
    """With a key that the group has seen, in this call or an earlier one, the first answer comes again."""
    join(tea, bob)
    coffee = add_group("coffee", ann)
    drafts = [
        Publish(tea, ann, b'{"n":1}', "k"),
        Publish(tea, ann, b'{"n":2}'),
        Publish(tea, bob, b'{"n":1}', "k"),
        Publish(tea, ann, b'{"n":4}', "l"),
        Publish(coffee, ann, b'{"n":5}', "k"),
    ]
    first = await log.append(drafts)
    assert [(one.event.seq, one.is_repeat) for one in first] == [
        *((3, False), (4, False), (3, True), (5, False)),
        (2, False),
    ]
    again = await log.append([drafts[3], drafts[0], Publish(tea, ann, b'{"n":6}')])
    assert [(one.event.seq, one.is_repeat) for one in again] == [(5, True), (3, True), (6, False)]
    assert again[1].event.at == first[0].event.at
    assert [event.body[5:6] for event in (await log.read({tea: 2}))[tea].events] == [b"1", b"2", b"4", b"6"]


async def test_a_key_with_another_body(log, tea, ann, bob, join):
    """It is refused, in the same call and in a later one; what else is in the call is appended."""
    join(tea, bob)
    mine = Publish(tea, ann, b'{"n":1}', "k")
    others = [Publish(tea, ann, b'{"n": 1}', "k"), Publish(tea, bob, b"{}", "k"), Publish("tea", ann, b"{}", "k")]
    first, *refused, fine = await log.append([mine, *others, Publish(tea, ann, b"{}", "l")])
    assert (first.event.seq, [type(one) for one in refused], fine.event.seq) == (3, [KeyReused] * 3, 4)
    *refused, again = await log.append([*others, mine])
    assert ([type(one) for one in refused], again.event.seq) == ([KeyReused] * 3, 3)
    assert await seqs(log, tea, 2) == [3, 4]


async def test_a_key_that_cannot_be_compared(log, tea, ann, monkeypatch):
    """A repeat is told that the database is gone; what was appended with it is not."""
    first = Publish(tea, ann, b"{}", "k")
    await log.append([first])
    end = prepare(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    monkeypatch.setattr(module, "FIRST_BODIES", end)
    appended, unknown = await log.append([Publish(tea, ann, b"{}"), first])
    assert (appended.event.seq, type(unknown)) == (3, ConnectionLost)


async def test_a_key_of_a_refused_publish_is_free(log, tea, ann, bob):
    """A refused publish does not use up its key."""
    refused, appended = await log.append([Publish(tea, bob, b"{}", "k"), Publish(tea, ann, b"{}", "k")])
    assert type(refused) is NotAMember
    assert (appended.event.seq, appended.is_repeat) == (2, False)


async def test_a_key_and_a_removal(log, tea, bob, join, leave, add_user):
    """A removed member learns the outcome of their own message by its key, not of another's."""
    zoe = add_user("zoe").user_id
    join(tea, bob)
    ((first, *_),) = await log.append([Publish(tea, bob, b"{}", "k")])
    leave(tea, bob)
    own, others, new = await log.append(
        [Publish(tea, bob, b"{}", "k"), Publish(tea, zoe, b"{}", "k"), Publish(tea, bob, b"{}", "l")]
    )
    assert (own.event.seq, own.is_repeat) == (first.seq, True)
    assert [type(others), type(new)] == [NotAMember, NotAMember]


async def test_a_key_is_free_again_when_retention_has_taken_it(log, tea, ann, forget):
    await log.append([Publish(tea, ann, b"{}", "k"), Publish(tea, ann, b"{}")])
    forget(tea, 2)
    (appended,) = await log.append([Publish(tea, ann, b"{}", "k")])
    assert (appended.event.seq, appended.is_repeat) == (4, False)


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("body", [b"{", b"", b'{"a":nan}', DEEP], ids=["cut", "empty", "nan", "deep"])
async def test_what_the_database_does_not_take(log, tea, ann, body):
    """It fails the whole call with an error of ours, and nothing is appended; alone as well."""
    for drafts in ([Publish(tea, ann, b"{}"), Publish(tea, ann, body)], [Publish(tea, ann, body)]):
        with pytest.raises(InvalidInput, match="body"):
            await log.append(drafts)
    assert await seqs(log, tea) == [1]


@pytest.mark.parametrize(
    ("body", "key", "field"),
    [
        (b'{"a":"\0"}', None, "body"),
        (b'{"a":"\xff"}', None, "body"),
        (b"{}", "", "key"),
        (b"{}", "k" * 201, "key"),
        (b"{}", "\0", "key"),
        (b"{}", "\udfff", "key"),
    ],
)
async def test_what_cannot_be_sent_to_the_database(log, tea, ann, body, key, field):
    """It fails alone."""
    refused, appended = await log.append([Publish(tea, ann, body, key), Publish(tea, ann, b"{}", "k" * 200)])
    assert [fault.field for fault in refused.fields] == [field]
    assert appended.event.seq == 2


# The quota of bytes


@pytest.fixture
def limited(db):
    """Make a log whose groups have at most so many bytes."""
    return lambda limit, db=db: EventLog(db, Quotas({Quota.GROUP_LOG: limit}))


@pytest.fixture
def stored(sql):
    """The bytes of the bodies of a group that are in the log."""
    query = "SELECT coalesce(sum(octet_length(CAST(body AS text))), 0) FROM events WHERE group_id = %s"
    return lambda group: sql(query, group)[0][0]


def body(size):
    """Return a body of so many bytes."""
    return f'{{"ü":"{"x" * (size - 9)}"}}'.encode() if size >= 9 else b"{}"


def kinds(outcomes):
    """Return the types of the outcomes."""
    return [type(outcome) for outcome in outcomes]


async def test_bytes(limited, sql, tea, ann, bob, join, add_group, forget, stored):
    """A log has so many bytes of bodies, exactly; a refused one is not in it, and what retention removes makes room."""
    log, coffee = limited(100), add_group("coffee", ann)
    join(tea, bob)
    outcomes = await log.append([Publish(tea, ann, body(size)) for size in (40, 49, 12, 2)])
    assert kinds(outcomes) == [PublishResult, PublishResult, QuotaExceeded, PublishResult]
    assert (outcomes[2].quota, outcomes[2].detail) == (
        "group-log",
        "The log of a group can have at most 100 bytes. Its owners make room by a lower retention.",
    )
    (outcome,) = await log.append([Publish("tea", bob, body(9), "k")])
    assert (outcome.event.seq, stored(tea)) == (6, 100)
    publishes = [Publish(coffee, ann, body(100)), *(Publish("TEA", bob, body(9), key) for key in ("k", None, "l"))]
    outcomes = await log.append(publishes)
    assert kinds(outcomes) == [PublishResult, PublishResult, QuotaExceeded, QuotaExceeded]
    assert outcomes[1].is_repeat
    assert await seqs(log, tea) == [1, 2, 3, 4, 5, 6]
    forget(tea, 3)  # which has 40 bytes
    outcomes = [(await log.append([Publish(tea, ann, body(size))]))[0] for size in (41, 40, 2)]
    assert kinds(outcomes) == [QuotaExceeded, PublishResult, QuotaExceeded]
    forget(tea, 7)
    assert kinds(await log.append([Publish(tea, ann, body(size)) for size in (100, 2)])) == [
        PublishResult,
        QuotaExceeded,
    ]
    sql("UPDATE roles SET permissions = '{quotas.exempt}'")
    outcomes = await log.append([Publish(tea, ann, body(60)), *(Publish(tea, one, b"{}", "k") for one in (ann, bob))])
    assert kinds(outcomes) == [PublishResult, PublishResult, PublishResult]
    assert stored(tea) == 162


async def test_bytes_of_a_key(limited, sql, tea, ann, bob, join):
    """A key is free until a message that has room has it, here that of a sender who is exempt."""
    log = limited(10)
    join(tea, bob)
    sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Big', 'big', '{quotas.exempt}')")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Big') WHERE id = %s", bob)
    refused, first, repeat = await log.append([Publish(tea, user, body(11), "k") for user in (ann, bob, ann)])
    assert isinstance(refused, QuotaExceeded)
    assert (first.event.seq, first.is_repeat) == (3, False)
    assert (repeat.event.seq, repeat.is_repeat) == (3, True)


async def test_bytes_of_others(limited, sql, tea, ann, forget):
    """Messages by SQL and by servers of 0.2.0 are not refused, but count; those from before the migration do not."""
    log = limited(100)
    await log.append([Publish(tea, ann, body(90))])
    sql("UPDATE events SET log_offset = NULL")
    sql("UPDATE groups SET log_end = 0")
    assert kinds(await log.append([Publish(tea, ann, body(40))])) == [PublishResult]
    sql("SELECT att_broadcast(%s, %s)", tea, body(50).decode())
    sql("SELECT att_append(ARRAY[%s], NULL, ARRAY[%s], %s, NULL)", tea, ann, [body(9).decode()])
    assert kinds(await log.append([Publish(tea, ann, b"{}")])) == [QuotaExceeded]
    sql("SELECT att_broadcast(%s, %s)", tea, body(50).decode())
    forget(tea, 3)
    assert kinds(await log.append([Publish(tea, ann, b"{}")])) == [QuotaExceeded]
    forget(tea, 4)
    assert kinds([(await log.append([Publish(tea, ann, body(size))]))[0] for size in (42, 41)]) == [
        QuotaExceeded,
        PublishResult,
    ]


async def test_bytes_at_once(limited, db_url, tea, ann, add_group, stored):
    """The quota holds when two nodes append at the same time, and nothing that has room is refused."""
    coffee, db = add_group("coffee", ann), await Engine.connect(db_url)
    nodes = limited(1_000), limited(1_000, db)
    outcomes = await asyncio.gather(
        *(nodes[number % 2].append([Publish(group, ann, body(100)) for group in (tea, coffee)]) for number in range(15))
    )
    await db.close()
    assert kinds([one for pair in outcomes for one in pair]).count(QuotaExceeded) == 10
    assert (stored(tea), stored(coffee)) == (1_000, 1_000)


async def test_appended_at_once(log, db_url, tea, ann, add_group):
    """Concurrent appends to the same groups do not deadlock, and each seq is used once."""
    coffee = add_group("coffee", ann)
    other = await Engine.connect(db_url)
    try:
        calls = [
            (log, [Publish(tea, ann, b"{}"), Publish(coffee, ann, b"{}")]),
            (EventLog(other), [Publish(coffee, ann, b"{}"), Publish("tea", ann, b"{}")]),
        ]
        outcomes = await asyncio.gather(*(one.append(drafts) for one, drafts in calls * 40))
    finally:
        await other.close()
    for group in (tea, coffee):
        taken = [one.event.seq for outcome in outcomes for one in outcome if one.event.group_id == group]
        assert sorted(taken) == list(range(2, 82))
        assert await seqs(log, group, 1) == sorted(taken)


async def test_a_removal_that_was_waited_for(log, tea, bob, join, postgresql):
    """A member removed while the append waited for the lock is refused."""
    join(tea, bob)
    postgresql.execute("DELETE FROM members WHERE user_id = %s", (bob,))
    appending = asyncio.create_task(log.append([Publish(tea, bob, b"{}")]))
    await waits_for(postgresql)
    postgresql.commit()
    (refused,) = await appending
    assert type(refused) is NotAMember


async def test_a_deletion_that_was_waited_for(log, tea, ann, postgresql):
    """Neither is anything appended to a group that was deleted meanwhile."""
    postgresql.execute("DELETE FROM groups")
    appending = asyncio.create_task(log.append([Publish("tea", ann, b"{}"), Publish(tea, ann, b"{}")]))
    await waits_for(postgresql)
    postgresql.commit()
    assert [type(refused) for refused in await appending] == [NoSuchGroup, NoSuchGroup]


async def test_a_group_that_is_locked_for_long(log, tea, ann, postgresql):
    """An append waits for two seconds, then is refused as busy."""
    postgresql.execute("SELECT FROM groups FOR UPDATE")
    with pytest.raises(Busy):
        await log.append([Publish(tea, ann, b"{}")])
    postgresql.commit()
    assert await seqs(log, tea) == [1]


async def test_lock_holders(log, tea, ann, add_group, postgresql):
    """Locked groups are found without waiting, with one name for each transaction."""
    coffee, milk = add_group("coffee", ann), add_group("milk", ann)
    assert await log.lock_holders([tea, coffee, "milk", uuid4()]) == []
    postgresql.execute("SELECT FROM groups WHERE name <> 'milk' FOR NO KEY UPDATE")
    locks = sorted(
        await log.lock_holders([tea, "COFFEE", milk, uuid4(), "none", "\0", "\ud800"]), key=lambda lock: lock[1]
    )
    assert [lock[:2] for lock in locks] == [(coffee, "coffee"), (tea, "tea")]
    first = {holder for _, _, holder in locks}
    assert len(first) == 1
    postgresql.commit()
    postgresql.execute("DELETE FROM groups WHERE name = 'tea'")
    [(group_id, _, second)] = await log.lock_holders([tea, coffee, milk])
    assert group_id == tea
    assert second not in first
    postgresql.commit()
    assert await log.lock_holders([tea, "tea"]) == []


async def waits_for(postgresql, seconds=5):
    """Until some backend waits for this connection."""
    query = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(seconds):
        while not postgresql.execute(query).fetchall():  # noqa: ASYNC110 - another process gives us no Event
            await asyncio.sleep(0.005)


# Reading


async def test_read(log, tea, ann, add_group):
    """A read returns each group's events above its position, and its head; an unknown group has none."""
    coffee, none = add_group("coffee", ann), uuid4()
    await log.append([Publish(tea, ann, b"{}") for _ in range(3)])
    found = await log.read({tea: 2, coffee: 1, none: 0})
    assert [(event.name, event.seq) for event in found[tea].events] == [("tea", 3), ("tea", 4)]
    assert found[tea].head == 4
    assert found[coffee] == Slice([], 1)
    assert found[none] == Slice([], 0)
    assert (await log.read({tea: 9}))[tea] == Slice([], 4)
    assert await log.read({}) == {}


async def test_a_slice_is_short(log, tea, ann, monkeypatch):
    """A slice has a limited number of events, the oldest ones."""
    await log.append([Publish(tea, ann, b"{}") for _ in range(module._SLICE + 5)])
    found = (await log.read({tea: 1}))[tea]
    assert [event.seq for event in found.events] == list(range(2, module._SLICE + 2))
    assert found.head == module._SLICE + 6
    replay = await log.read_from(tea, ann, 1, limit=3)
    assert [event.seq for event in replay.slice.events] == [2, 3, 4]


async def test_a_slice_is_small(log, tea, ann):
    """A slice has about a megabyte of bodies, and at least one event, so that readers get on."""
    large = b'{"a":"' + b"x" * 700_000 + b'"}'
    for _ in range(3):
        await log.append([Publish(tea, ann, large)])
    assert await seqs(log, tea) == [1, 2, 3]
    assert await seqs(log, tea, 3) == [4]


async def test_what_retention_has_taken(log, tea, ann, forget):
    """Trimmed events are missing at the beginning; head and next seq stay."""
    await log.append([Publish(tea, ann, b"{}") for _ in range(3)])
    forget(tea, 3)
    assert [event.seq for event in (await log.read({tea: 0}))[tea].events] == [4]
    forget(tea, 4)
    assert (await log.read({tea: 0}))[tea] == Slice([], 4)
    (appended,) = await log.append([Publish(tea, ann, b"{}")])
    assert appended.event.seq == 5


async def test_a_group_that_is_gone(log, sql, tea, ann, forget):
    """Its log can be read until it is trimmed, without a name."""
    await log.append([Publish(tea, ann, b"{}")])
    sql("DELETE FROM groups")
    events, head = (await log.read({tea: 1}))[tea]
    assert [(event.name, event.seq, event.kind, event.user_id) for event in events] == [
        ("", 2, "message", ann),
        ("", 3, "left", ann),
    ]
    assert head == 3
    assert await log.heads([tea]) == {tea: 3}
    forget(tea, 3)
    assert await log.heads([tea]) == {tea: 0}


async def test_heads(log, tea, ann, add_group):
    coffee, none = add_group("coffee"), uuid4()
    await log.append([Publish(tea, ann, b"{}")])
    assert await log.heads([tea, coffee, none]) == {tea: 2, coffee: 0, none: 0}
    assert await log.heads([]) == {}


# Who was a member


@pytest.mark.parametrize(
    ("forgotten", "expected"),
    [
        # after:  0      1      2     3     4      5      6
        (0, [False, False, True, True, False, False, True]),
        (2, [True, True, True, True, False, False, True]),  # told by the left that is still held
        (4, [False, False, False, False, False, False, True]),  # by the joined
        (7, [True, True, True, True, True, True, True]),  # by the membership there is
    ],
)
async def test_was_member(*, log, tea, ann, bob, join, leave, forget, forgotten, expected):
    """Bob joins (2), leaves (4) and joins again (6); the log may no longer have these events."""
    join(tea, bob)
    await log.append([Publish(tea, ann, b"{}")])
    leave(tea, bob)
    await log.append([Publish(tea, ann, b"{}")])
    join(tea, bob)
    await log.append([Publish(tea, ann, b"{}")])
    forget(tea, forgotten)
    replays = [await log.read_from(tea, bob, after) for after in range(7)]
    assert [replay.was_member for replay in replays] == expected
    assert [[event.seq for event in replay.slice.events] for replay in replays] == [
        list(range(max(after, forgotten) + 1, 8)) for after in range(7)
    ]
    assert {(replay.name, replay.slice.head) for replay in replays} == {("tea", 7)}


async def test_was_never_a_member(log, tea, bob):
    """Neither of a group that is there, nor of one that never was; what others did does not count."""
    assert [(await log.read_from(group, bob, 1)).was_member for group in (tea, uuid4())] == [False, False]


async def test_positions(log, sql, tea, ann, bob, join, leave, add_group):
    """Bob's groups, and those he has left, or that are gone; no others."""
    coffee, mate, _water = add_group("coffee", ann), add_group("mate", ann), add_group("water", ann)
    for group in (tea, coffee, mate):
        join(group, bob)
    leave(coffee, bob)
    await log.append([Publish(coffee, ann, b"{}")])
    sql("DELETE FROM groups WHERE name = 'mate'")
    expected = [Position(tea, "tea", 2, True), Position(coffee, "coffee", 4, False), Position(mate, "", 4, False)]
    assert sorted(await log.positions(bob)) == sorted(expected)


@pytest.mark.parametrize(("joined", "left"), [(0, 5), (5, 0), (3, 2), (2, 4), (4, 4)])
async def test_positions_in_pages(log, sql, bob, monkeypatch, joined, left):
    """Those of very many groups are read page by page: each once, whatever the pages end with."""
    monkeypatch.setattr(module, "POSITIONS_READ", 2)
    monkeypatch.setattr(module, "COUNTED", 0)
    add = "INSERT INTO groups (name, name_key) SELECT n, n FROM generate_series(1, %s) AS n RETURNING id"
    ids = [row[0] for row in sql(add, joined + left)]
    sql("INSERT INTO members SELECT unnest(%s::uuid[]), %s, 'member'", ids, bob)
    sql("DELETE FROM members WHERE group_id = ANY (%s)", gone := sorted(ids)[joined:])
    found = await log.positions(bob)
    assert {position.group_id: (position.seq, position.is_member) for position in found} == {
        group_id: (2, False) if group_id in gone else (1, True) for group_id in ids
    }
    assert len(found) == joined + left


async def test_positions_of_a_crowd(log, sql, db, tea, ann, bob, join, leave, add_user, add_group, monkeypatch):
    """Who asks at the same moment gets their own, by one statement for all but those in many groups."""
    monkeypatch.setattr(module, "COUNTED", 2)
    coffee, mate = add_group('co"ff\\ee ☕', ann), add_group("mate", ann)
    for group in (tea, coffee):
        join(group, bob)
    leave(coffee, bob)
    await log.append([Publish(tea, ann, b"{}"), Publish(tea, bob, b"{}"), Publish(tea, bob, b"{}")])
    sql("INSERT INTO read_markers VALUES (%s, %s, 3)", bob, tea)
    stranger = add_user("eve").user_id
    read, statements = db.fetch_all, []

    async def counted(statement, **params):
        statements.append(statement)
        return await read(statement, **params)

    monkeypatch.setattr(db, "fetch_all", counted)
    keys = [(bob, True), (ann, True), (stranger, True), (uuid4(), False), (bob, False)]
    found = await asyncio.gather(*(log.positions(user, counts=counts) for user, counts in keys))
    left, beyond = Position(coffee, 'co"ff\\ee ☕', 3, False), [(tea, None), (coffee, None), (mate, None)]
    assert sorted(found[0]) == sorted([Position(tea, "tea", 5, True, 3, 0), left])
    assert sorted((each.group_id, each.unread) for each in found[1]) == sorted(beyond)
    assert found[2:4] == [[], []]
    assert sorted(found[4]) == sorted([Position(tea, "tea", 5, True, 3, None), left])
    assert statements.count(module.POSITIONS_OF_MANY) == 1
    assert statements.count(module.POSITIONS) == 1


async def test_positions_of_what_is_forgotten(log, tea, bob, join, leave, forget):
    """A group whose log no longer mentions Bob is not one of his."""
    join(tea, bob)
    leave(tea, bob)
    forget(tea, 3)
    assert await log.positions(bob) == []


async def test_joinings(log, tea, ann, bob, join, leave, forget, add_group):
    """Present and former groups come with the seqs of joinings that the log still has."""

    async def joinings(user_ids):
        return [found async for found in log.joinings(user_ids)]

    coffee = add_group("coffee", ann)
    join(tea, bob)
    leave(tea, bob)
    join(tea, bob)
    everything = [(ann, coffee, [1]), (ann, tea, [1]), (bob, tea, [2, 4])]
    assert sorted(await joinings([ann, bob])) == sorted(everything)
    leave(tea, bob)
    assert await joinings([bob]) == [(bob, tea, [2, 4])]
    join(tea, bob)
    forget(tea, 6)
    assert await joinings([bob]) == [(bob, tea, [])]
    leave(tea, bob)
    assert await joinings([bob]) == await joinings([uuid4()]) == await joinings([]) == []


# Times


@pytest.fixture
def dated(sql, tea, ann):
    """A log with an event in each second: the first at second 1, in microseconds."""

    def go(count):
        sql(
            "INSERT INTO events (group_id, seq, kind, actor_id, body) SELECT %s, n, 'message', %s, '{}'"
            " FROM generate_series(2, %s) AS n",
            tea,
            ann,
            count,
        )
        sql("UPDATE groups SET seq = %s", count)
        sql("UPDATE events SET at = to_timestamp(seq)")

    return go


async def test_seqs_at(log, sql, tea, ann, add_group, dated, forget):
    """They are those of the last events up to then, and 0 if it is not known which those were."""
    dated(5)
    pie = add_group("pie", ann)

    async def at(seconds):
        return (await log.seqs_at([tea, pie], int(seconds * 1_000_000)))[tea]

    assert [await at(seconds) for seconds in (0, 1, 1.5, 3.999999, 4, 5, 100)] == [0, 1, 1, 3, 4, 5, 5]
    assert (await log.seqs_at([pie], 4_000_000)) == {pie: 0}
    assert await log.seqs_at([], 1) == {}
    forget(tea, 3)
    assert [await at(seconds) for seconds in (2, 4)] == [0, 4]


async def test_seqs_at_of_what_retention_has_removed(log, sql, tea, ann, add_group, dated, forget):
    """What was removed by age is older than all that is kept, so a group without newer events is where it was."""
    dated(5)
    sql("UPDATE events SET at = to_timestamp(2) WHERE group_id = %s", add_group("old", ann))
    forget(tea, 3)
    assert (await log.seqs_at([tea], 2_500_000)) == {tea: 3}
    assert (await log.seqs_at([tea], 1_500_000)) == {tea: 0}
    forget(tea, 5)
    assert (await log.seqs_at([tea], 2_500_000)) == {tea: 5}
    for retention, seq in ((1, 5), (0, 0)):
        sql("ALTER TABLE groups DISABLE TRIGGER USER")
        sql("UPDATE groups SET retention = %s WHERE id = %s", retention, tea)
        assert (await log.seqs_at([tea], 2_500_000)) == {tea: seq}


async def test_moments(log, sql, tea, ann, db_url):
    """A moment is settled as soon as all transactions have ended that had begun to write before it; then no event of a
    time before it can come.
    """
    first = await log.moment()
    assert first.is_settled(await log.moment())
    with psycopg.connect(db_url) as other:
        other.execute("SELECT att_broadcast(%s, '{}')", (tea,))
        begun = await log.moment()
        assert not begun.is_settled(await log.moment())
        assert first.is_settled(begun)
        [[at]] = other.execute(
            "SELECT CAST(1e6 * extract(epoch FROM at) AS bigint) FROM events WHERE seq = 2"
        ).fetchall()
        assert first.at < at < begun.at
        other.commit()
    assert begun.is_settled(await log.moment())
    assert (await log.seqs_at([tea], begun.at)) == {tea: 2}
    sql("SELECT att_begin_epoch()")
    assert not begun.is_settled(await log.moment())
