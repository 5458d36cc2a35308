"""The engine: its methods, transactions, and the translation of driver errors."""

import asyncio
import contextlib
import os
import signal
import socket
from contextlib import ExitStack
from uuid import uuid4

import aiopg.connection
import psycopg2
import pytest
from sqlalchemy import bindparam, insert, literal, select, text, update
from waiting import eventually

from att import errors
from att.core.fair_semaphore import SOURCE
from att.core.permissions import Actor
from att.db import engine
from att.db.engine import Engine, planned_once, prepare
from att.db.pinned_settings import STATEMENT_TIMEOUT
from att.db.schema import groups, members, roles, users

USER_ROLE = select(roles.c.id).where(roles.c.name_key == "user").scalar_subquery()
ADD_USER = prepare(
    insert(users)
    .values(login=bindparam("login"), login_key=bindparam("login"), search_text=bindparam("login"), role_id=USER_ROLE)
    .returning(users.c.id)
)
COUNT_USERS = prepare(select(text("count(*) FROM users")))
BACKEND = prepare(select(text("pg_backend_pid()")))
SLEEP = prepare(select(text("pg_sleep(:seconds)").bindparams(bindparam("seconds"))))
ADD_MEMBER = prepare(
    insert(members).values(group_id=bindparam("group_id"), user_id=bindparam("user_id"), role=bindparam("role"))
)


async def kill(db: Engine, pid: int) -> None:
    """Close a connection as `kill` of a backend or an administrator does."""
    await db.fetch_one(prepare(select(text(f"pg_terminate_backend({pid})"))))


def test_prepare_keeps_what_the_query_brings_along():
    """Values in a query become parameters with defaults."""
    statement = prepare(select(users.c.id).where(users.c.login == "ann", users.c.id == bindparam("user_id")))
    assert statement.defaults == {"login_1": "ann"}
    assert "%(user_id)s" in statement.sql


@pytest.mark.parametrize(
    ("query", "is_read"),
    [
        (select(literal(1)), True),
        (insert(users).values(login="a").returning(users.c.id), False),
        (update(users), False),
    ],
)
def test_only_a_select_may_be_repeated(query, is_read):
    assert prepare(query).is_read is is_read


async def test_verbs(db):
    """Methods return one row, all rows and the number of rows; None and nothing without rows."""
    row = await db.fetch_one(ADD_USER, login="ann")
    assert await db.fetch_all(prepare(select(users.c.id, users.c.login))) == [(row[0], "ann")]
    assert await db.execute(prepare(update(users).values(login="eve"))) == 1
    assert await db.fetch_one(prepare(select(users.c.id).where(users.c.login == "ann"))) is None
    assert await db.fetch_all(prepare(select(users.c.id).where(users.c.login == "ann"))) == []


async def test_a_statement_that_is_planned_once(db):
    """Each connection prepares it at its first use, also one in place of a lost one. Errors are the usual ones."""
    double = planned_once(
        prepare(text("SELECT 2 * CAST(:number AS int), '100%', CAST(:number AS text) || :unit"))._replace(is_read=True),
        "att_double",
    )
    plans = prepare(text("SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE name = 'att_double'"))
    for number in (1, 2):
        assert await db.fetch_one(double, number=number, unit="%s") == (2 * number, "100%", f"{number}%s")
    assert await db.fetch_one(plans) == (2,)
    await kill(db, (await db.fetch_one(BACKEND))[0])
    assert await db.fetch_one(double, number=3, unit="") == (6, "100%", "3")
    add = planned_once(prepare(text("INSERT INTO roles (name, name_key) VALUES (:name, 'user')")), "att_add_role")
    for _ in range(2):
        with pytest.raises(errors.RoleNameTaken):
            await db.execute(add, name="b")


async def test_a_transaction_commits_at_its_end(db):
    async with db.transaction() as transaction:
        await transaction.fetch_one(ADD_USER, login="ann")
        assert (await db.fetch_one(COUNT_USERS))[0] == 0
    assert (await db.fetch_one(COUNT_USERS))[0] == 1


async def test_a_transaction_rolls_back_on_an_error(db):
    with pytest.raises(RuntimeError, match="stop"):
        async with db.transaction() as transaction:
            await transaction.fetch_one(ADD_USER, login="ann")
            raise RuntimeError("stop")
    assert (await db.fetch_one(COUNT_USERS))[0] == 0


async def test_a_cancelled_transaction_leaves_nothing_and_gives_back_its_connection(db):
    inside = asyncio.Event()

    async def work() -> None:
        async with db.transaction() as transaction:
            await transaction.fetch_one(ADD_USER, login="ann")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.wait_for(inside.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await db.fetch_one(COUNT_USERS))[0] == 0
    assert db._pool.size <= engine.POOL_SIZE
    assert not db._pool._used


async def test_a_connection_that_is_lost_while_another_is_made_is_not_given_out(db):
    """A connection lost while the pool opens another one is not returned."""
    async with db._connection() as connection, asyncio.timeout(5):
        asking = asyncio.create_task(db.fetch_one(COUNT_USERS))
        while not db._pool._acquiring:  # noqa: ASYNC110 - the pool tells of it by no Event
            await asyncio.sleep(0)
    connection.close()
    assert await asking == (0,)


async def test_the_actor_is_known_until_the_transaction_ends(db):
    """``transaction(actor)`` sets the actor for this transaction only."""
    actor = Actor(uuid4(), uuid4(), "req'1")
    ask = prepare(
        select(*(text(f"current_setting('att.{name}', true)") for name in ("actor_id", "session_id", "request_id")))
    )
    async with db.transaction(actor) as transaction:
        assert await transaction.fetch_one(ask) == (str(actor.user_id), str(actor.session_id), "req'1")
    assert await db.fetch_one(ask) in [("", "", ""), (None, None, None)]


@pytest.mark.parametrize(("constraint", "error"), sorted((name, error) for name, error in engine.CONSTRAINTS.items()))
async def test_a_constraint_has_its_error(db, constraint, error):
    """Each name in CONSTRAINTS is that of a constraint of the migrated database, or that of an error of a function."""
    exists = f"SELECT FROM pg_constraint WHERE conname = '{constraint}'"
    raised = f"SELECT FROM pg_proc WHERE prosrc LIKE '%CONSTRAINT = ''{constraint}''%'"
    assert await db.fetch_one(prepare(select(text(f"EXISTS ({exists}) <> EXISTS ({raised})")))) == (True,)
    assert issubclass(error, errors.AttError)


async def test_errors_are_translated_by_constraint(db):
    user_id = (await db.fetch_one(ADD_USER, login="ann"))[0]
    with pytest.raises(errors.LoginTaken):
        await db.fetch_one(ADD_USER, login="ann")
    with pytest.raises(errors.NoSuchGroup):
        await db.execute(ADD_MEMBER, group_id=uuid4(), user_id=user_id, role="member")
    group_id = (await db.fetch_one(prepare(insert(groups).values(name="g", name_key="g").returning(groups.c.id))))[0]
    with pytest.raises(errors.NoSuchUser):
        await db.execute(ADD_MEMBER, group_id=group_id, user_id=uuid4(), role="member")


async def test_a_mistake_of_ours_is_not_dressed_up(db):
    """An unknown role violates a check by our own mistake; it stays the driver's error."""
    with pytest.raises(psycopg2.errors.SyntaxError):
        await db.execute(prepare(text("SELEC 1")))


@pytest.mark.parametrize("sql", ["SELECT * FROM no_such_table", "SELECT no_such_function()"])
async def test_what_is_missing_while_the_database_is_restored_is_unavailable(db, sql):
    """Statements are tested against the schema, so a missing table or function is the database's state."""
    with pytest.raises(errors.DatabaseUnavailable):
        await db.fetch_one(prepare(text(sql)))


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), OSError(9, "Bad file descriptor")])
async def test_what_the_loop_raises_from_a_dead_transport_is_unavailable(db, monkeypatch, error):
    """It is raised here by the loop, when a statement is sent, and when a connection is opened."""
    loop = asyncio.get_running_loop()
    row = await db.fetch_one(BACKEND)

    def fail(*_arguments):
        raise error

    async with db.transaction() as transaction:
        pass
    with monkeypatch.context() as patch, pytest.raises(errors.ConnectionLost):
        async with db.transaction() as transaction:
            patch.setattr(transaction._connection, "_ready", fail)
            await transaction.fetch_one(COUNT_USERS)
    await db._pool.clear()
    with monkeypatch.context() as patch, pytest.raises(errors.DatabaseUnavailable):
        patch.setattr(aiopg.connection, "get_running_loop", lambda: Dead(loop, fail))
        await db.fetch_one(COUNT_USERS)
    assert await db.fetch_one(BACKEND) != row


async def test_a_descriptor_that_a_transport_has_by_now(db, postgresql):
    """A connection is closed, though the loop refuses to forget its descriptor, which was given out again."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_unix_connection(sock=ours)
    with ExitStack() as stack:
        stack.callback(theirs.close)
        stack.callback(writer.close)
        with pytest.raises(errors.ConnectionLost):
            async with db.transaction() as transaction:
                [pid] = await transaction.fetch_one(BACKEND)
                postgresql.execute("SELECT pg_terminate_backend(%s, 2000)", (pid,))
                lost = transaction._connection
                own, lost._fileno = lost._fileno, ours.fileno()
                try:
                    await transaction.fetch_one(COUNT_USERS)
                finally:
                    loop.remove_reader(own)
        with pytest.raises(asyncio.CancelledError):
            async with db.transaction() as transaction:
                left = transaction._connection
                stack.callback(left.raw.close)
                loop.remove_reader(left._fileno)
                left._fileno = ours.fileno()
                raise asyncio.CancelledError
        assert left.closed
        assert await db.fetch_one(COUNT_USERS) == (0,)


class Dead:
    """A loop that watches no descriptor."""

    def __init__(self, loop, fail):
        self._loop = loop
        self.add_reader = fail

    def __getattr__(self, name):
        return getattr(self._loop, name)


async def test_a_read_survives_the_loss_of_an_idle_connection(db, postgresql):
    """A read succeeds, whether or not the pool has noticed the lost connection."""
    pid = (await db.fetch_one(BACKEND))[0]
    postgresql.execute("SELECT pg_terminate_backend(%s)", (pid,))
    assert await db.fetch_one(COUNT_USERS) == (0,)


async def test_a_read_is_retried_once_when_its_connection_dies_under_it(db):
    """A read whose connection is killed is repeated on another one."""
    lookup = prepare(
        select(text("pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"))
    )
    reading = asyncio.create_task(db.fetch_one(SLEEP, seconds=0.5))
    row = await eventually(lambda: db.fetch_one(lookup))
    await kill(db, row[0])
    assert await reading == ("",)


async def test_a_write_is_never_retried(db):
    """A write whose connection is lost raises ConnectionLost."""
    slow_insert = prepare(
        insert(users)
        .from_select(
            ["login", "login_key", "search_text", "role_id"], select(text("'a', 'a', pg_sleep(3)::text"), USER_ROLE)
        )
        .returning(users.c.id)
    )
    lookup = prepare(
        select(text("pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%' AND pid <> pg_backend_pid()"))
    )
    writing = asyncio.create_task(db.fetch_one(slow_insert))
    row = await eventually(lambda: db.fetch_one(lookup))
    await kill(db, row[0])
    with pytest.raises(errors.ConnectionLost):
        await writing
    assert await db.fetch_one(COUNT_USERS) == (0,)


async def test_a_transaction_whose_connection_dies_says_so(db):
    with pytest.raises(errors.ConnectionLost):
        async with db.transaction() as transaction:
            pid = (await transaction.fetch_one(BACKEND))[0]
            await kill(db, pid)
            await transaction.fetch_one(ADD_USER, login="ann")
    assert await db.fetch_one(COUNT_USERS) == (0,)


async def test_a_statement_that_the_server_cancels_is_busy_not_a_cancelled_task(db):
    """pg_cancel_backend raises Busy, not a cancellation."""
    cancel = prepare(
        select(
            text(
                "pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' "
                "AND pid <> pg_backend_pid()"
            )
        )
    )
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # aiopg reports it there as well
    sleeping = asyncio.create_task(db.fetch_one(SLEEP, seconds=3))
    await eventually(lambda: db.fetch_one(cancel))
    with pytest.raises(errors.Busy):
        await sleeping


async def test_a_statement_that_is_not_answered_is_given_up(db_url, monkeypatch):
    """A statement without an answer has a time limit, and its connection is not used again."""
    monkeypatch.setattr(engine, "QUERY_TIMEOUT", 1)
    db = await Engine.connect(db_url)
    with pytest.raises(errors.ConnectionLost):
        await db.fetch_one(SLEEP, seconds=30)
    assert await db.fetch_one(COUNT_USERS) == (0,)
    await db.close()


async def test_a_statement_that_takes_too_long_is_busy(db_url, monkeypatch):
    """The server cancels it before our limit, so that the outcome is known."""
    assert float(STATEMENT_TIMEOUT.removesuffix("s")) < engine.QUERY_TIMEOUT
    monkeypatch.setattr(engine, "_INIT_SQL", "SET statement_timeout = 100")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # aiopg reports it there as well
    db = await Engine.connect(db_url)
    with pytest.raises(errors.Busy):
        await db.fetch_one(SLEEP, seconds=30)
    await db.close()


async def test_the_server_stops_working_for_a_client_that_has_gone(db):
    shown = await db.fetch_one(prepare(select(text("current_setting('statement_timeout')"))))
    assert shown == (STATEMENT_TIMEOUT,)


async def test_connections_say_who_they_are(db):
    shown = await db.fetch_one(
        prepare(select(text("current_setting('application_name'), current_setting('timezone')")))
    )
    assert shown == ("att", "UTC")


async def test_an_exhausted_pool_is_busy(db, monkeypatch):
    """A caller that waits too long gets Busy, and the pool stays usable."""
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(source: int) -> None:
        SOURCE.set(source)
        async with db.transaction():
            if len(db._pool._used) == engine.POOL_SIZE:
                held.set()
            await release.wait()

    holders = [asyncio.create_task(hold(source)) for source in range(engine.POOL_SIZE)]
    await asyncio.wait_for(held.wait(), 5)
    monkeypatch.setattr(engine, "ACQUIRE_TIMEOUT", 0.1)
    with pytest.raises(errors.Busy):
        await db.fetch_one(COUNT_USERS)
    monkeypatch.undo()
    release.set()
    await asyncio.gather(*holders)
    assert await db.fetch_one(COUNT_USERS) == (0,)


async def all_waiting(db, count):
    return db.use.waiting == count


async def sleep_for(db, source):
    """Hold a connection in the name of a source."""
    SOURCE.set(source)
    await db.fetch_one(SLEEP, seconds=30)


async def test_one_user_leaves_connections_to_others(db_url, monkeypatch):
    """However much one user asks for and however long it takes, others are served."""
    monkeypatch.setattr(engine, "USER_CONNECTIONS", 2)
    db = await Engine.connect(db_url)
    many = [asyncio.create_task(sleep_for(db, "many")) for _ in range(2 * engine.POOL_SIZE)]
    await eventually(lambda: all_waiting(db, 2 * engine.POOL_SIZE - engine.USER_CONNECTIONS))
    assert await db.fetch_one(COUNT_USERS) == (0,)
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    assert await db.fetch_one(COUNT_USERS) == (0,)
    await db.close()


async def test_those_who_wait_are_served_when_every_connection_is_lost(db, postgresql):
    """Waiting callers get new connections when ten connections are lost."""
    busy = [asyncio.create_task(sleep_for(db, source)) for source in range(engine.POOL_SIZE)]
    sleeping = "FROM pg_stat_activity WHERE application_name = 'att' AND state = 'active'"

    async def all_asleep():
        postgresql.rollback()
        return postgresql.execute(f"SELECT count(*) {sleeping}").fetchone() == (engine.POOL_SIZE,)

    await eventually(all_asleep)
    waiting = [asyncio.create_task(db.fetch_one(COUNT_USERS)) for _ in range(5)]
    await eventually(lambda: all_waiting(db, 5))
    postgresql.execute(f"SELECT pg_terminate_backend(pid) {sleeping}")
    for task in busy:
        task.cancel()
    assert await asyncio.gather(*waiting) == [(0,)] * 5
    await asyncio.gather(*busy, return_exceptions=True)


async def test_a_closed_engine_says_that_it_is_closed(db_url):
    db = await Engine.connect(db_url)
    await db.close()
    with pytest.raises(errors.ShuttingDown):
        await db.fetch_one(COUNT_USERS)


async def test_closing_waits_for_nobody_for_ever(db_url, monkeypatch):
    """Closing has a time limit, even if a lost connection is never released."""
    monkeypatch.setattr(engine, "ACQUIRE_TIMEOUT", 0.1)
    db = await Engine.connect(db_url)
    async with asyncio.timeout(10):
        held = await db._pool.acquire()
        monkeypatch.setattr(db._pool, "terminate", db._pool.close)  # as if it was acquired after that
        await db.close()
    held.close()
    db._pool.release(held)


async def test_a_new_connection_whose_first_statement_is_cancelled_is_busy(db, monkeypatch):
    """This raises Busy, too, not a cancellation."""
    monkeypatch.setattr(engine, "_INIT_SQL", "SET statement_timeout = 50; SELECT pg_sleep(3)")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # aiopg reports it there as well
    await db._pool.clear()
    with pytest.raises(errors.Busy):
        await db.fetch_one(COUNT_USERS)


async def test_the_queue_for_a_connection_is_bounded(db_url, monkeypatch):
    monkeypatch.setattr(engine, "POOL_QUEUE", 0)
    db = await Engine.connect(db_url)
    async with contextlib.AsyncExitStack() as held:
        for _ in range(engine.USER_CONNECTIONS):
            await held.enter_async_context(db.transaction())
        with pytest.raises(errors.Busy):
            await db.fetch_one(COUNT_USERS)
    assert await db.fetch_one(COUNT_USERS) == (0,)
    await db.close()


async def test_a_restarted_database_is_found_again(data_dir):
    """After a restart the next read succeeds, despite lost connections; during it the database is unavailable."""
    from att.db.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(data_dir)
    db = await Engine.connect(await asyncio.to_thread(server.start))
    one = prepare(select(literal(1)))
    await asyncio.gather(*(db.fetch_one(one) for _ in range(5)))
    os.kill(server._server.get_pid(), signal.SIGINT)  # PostgreSQL's fast shutdown
    async with asyncio.timeout(10):
        while True:
            try:
                await db.fetch_one(one)
            except errors.DatabaseUnavailable as error:
                if not (server.data_dir / "postgresql" / "postmaster.pid").exists():
                    why = error.why
                    break
    assert why.startswith(f"the database postgres at {server.data_dir}")
    await asyncio.to_thread(server.start)
    assert await db.fetch_one(one) == (1,)
    await db.close()
    await asyncio.to_thread(server.stop)
