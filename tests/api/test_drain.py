"""Drain: the order and times in which connections are closed, the close codes, and the waits."""

import asyncio
import itertools
import re
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from aiohttp import WSMsgType
from doubles import RecordingConnection
from hashing_costs import CHEAPEST
from hypothesis import given, strategies as st
from people import PASSWORD, Person
from waiting import eventually

from att.api.keys import HUB
from att.app import create_app
from att.client.messages import close_error
from att.config.settings import Settings
from att.core.readiness import Readiness
from att.errors import ShuttingDown
from att.http.connections import Traffic
from att.http.context import READINESS
from att.protocol.frames import CloseCode
from att.realtime.hub import Hub
from att.realtime.registry import Listener, Registry
from att.server.drain import _TICK, DRAIN, REQUEST_TIME, Drain, portions

DEADLINE = 20  # seconds
FOR_EVER = 3_600.0  # seconds


@given(st.integers(0, 5_000), st.floats(0, 100))
def test_portions(count, seconds):
    """Each item is in one portion; the sizes are nearly equal, the times even, from 0 to before the end."""
    found = list(portions(range(count), seconds))
    assert [item for _, portion in found for item in portion] == list(range(count))
    sizes = [len(portion) for _, portion in found]
    assert max(sizes) - min(sizes) <= 1
    times = [due for due, _ in found]
    assert times[0] == 0
    assert all(due < seconds for due in times[1:])
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(pause == pytest.approx(seconds / len(found)) for pause in pauses)
    assert all(pause > _TICK * 0.6 for pause in pauses)


def test_no_time_at_all():
    """Without time, all items are one portion."""
    assert list(portions("abc", 0)) == [(0, "abc")]


class FakeAcceptor:
    """Acceptor with the given traffic, which notes that it was closed and how often its traffic was read."""

    def __init__(self, *traffic):
        self.is_closed = False
        self.reads = 0
        self.is_read = asyncio.Event()
        self.current = Traffic(*traffic)

    def close(self):
        self.is_closed = True

    def traffic(self):
        self.reads += 1
        self.is_read.set()
        return self.current

    async def was_read(self, times=2):
        """Wait until the drain has read the traffic that often from now on."""
        until = self.reads + times
        async with asyncio.timeout(DEADLINE):
            while self.reads < until:
                self.is_read.clear()
                await self.is_read.wait()


@pytest.fixture
def hub():
    return Hub(Registry())


@pytest.fixture
def listen(hub):
    """Attach listeners; return their connections."""

    def go(count):
        listeners = [Listener(UUID(int=number), uuid4(), RecordingConnection()) for number in range(count)]
        for listener in listeners:
            hub.attach(listener)
        return [listener.connection for listener in listeners]

    return go


@pytest.fixture
async def drain(hub):
    """Start a drain of that many seconds with that acceptor."""
    tasks = []

    def go(seconds, acceptor=None):
        made = Drain(hub, (), Readiness(), seconds)
        if acceptor is not None:
            made.add_acceptor(acceptor)
        tasks.append(asyncio.create_task(made.run()))
        return made, tasks[-1]

    yield go
    for task in tasks:
        task.cancel()


async def over(task):
    """Wait for the end of the drain, which must come in time."""
    async with asyncio.timeout(DEADLINE):
        await task


def codes(connections):
    return [code for connection in connections for code in connection.codes]


async def test_nothing_to_wait_for(hub, drain):
    """Without connections the drain ends at once; new listeners are refused."""
    acceptor = FakeAcceptor()
    made, task = drain(FOR_EVER, acceptor)
    await over(task)
    assert acceptor.is_closed
    assert made._readiness.draining
    with pytest.raises(ShuttingDown):
        hub.attach(Listener(UUID(int=1), uuid4(), RecordingConnection()))


async def test_readiness_fails_first(hub, listen, drain):
    """Readiness fails before the acceptor is closed, and that comes before the first socket."""
    [connection] = listen(1)
    seen = []

    class Watching(FakeAcceptor):
        def close(self):
            seen.append((made._readiness.draining, connection.codes[:]))

    made, task = drain(0, Watching())
    await over(task)
    assert seen == [(True, [])]
    assert connection.codes == [CloseCode.RESTART]


async def test_one_after_the_other(listen, drain):
    """The first socket is closed at once, the others not before their time; each with 1012, once."""
    connections = listen(3)
    made, task = drain(FOR_EVER)
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait(
            [asyncio.create_task(connection.has_changed.wait()) for connection in connections],
            return_when=asyncio.FIRST_COMPLETED,
        )
    assert codes(connections) == [CloseCode.RESTART]
    made.hurry()
    await over(task)


class Timeless(Drain):
    """Drain with a clock of its own, which notes how many sockets were closed at which time."""

    def __init__(self, hub, seconds, sent_away):
        self.now = 0.0
        self.seen = []
        self._sent_away = sent_away
        super().__init__(hub, (), Readiness(), seconds, lambda: self.now)

    async def _pause(self, seconds):
        assert seconds > 0
        self.seen.append((self.now, self._sent_away()))
        self.now += seconds


@pytest.mark.parametrize(("count", "seconds"), [(2, 20), (60, 20), (1_000, 20), (7, 0.5)])
async def test_spread(hub, listen, count, seconds):
    """At any time the expected number of sockets has been closed, and all of them before the end."""
    connections = listen(count)
    drain = Timeless(hub, seconds, lambda: len(codes(connections)))
    await drain.run()
    assert len(drain.seen) > 1
    size = len(next(portions(range(count), seconds))[1]) + 1
    for now, sent_away in drain.seen:
        assert abs(sent_away - count * now / seconds) <= size
    assert codes(connections) == [CloseCode.RESTART] * count
    assert drain.now < seconds


async def test_hints(listen, drain):
    """Each close reason asks to wait for a few seconds, not all the same, in the form that clients read."""
    connections = listen(100)
    _, task = drain(0)
    await over(task)
    reasons = [reason.decode() for connection in connections for reason in connection.reasons]
    assert all(re.fullmatch(r"server is restarting; retry in [1-5] s", reason) for reason in reasons)
    assert {close_error(CloseCode.RESTART, reason).hint for reason in reasons} == {1.0, 2.0, 3.0, 4.0, 5.0}


async def test_listeners_that_leave(hub, listen, drain):
    """The drain ends early when no listener is left."""
    listen(5)
    _, task = drain(FOR_EVER)
    for listener in hub.registry.everyone():
        hub.detach(listener)
    await over(task)


async def test_a_second_signal(listen, drain):
    """The remaining sockets are closed with 1001, without waiting."""
    connections = listen(3)
    acceptor = FakeAcceptor(3, 3)
    made, task = drain(FOR_EVER, acceptor)
    await asyncio.sleep(0)
    made.hurry()
    await over(task)
    assert sorted(codes(connections)) == [CloseCode.GOING_AWAY] * 2 + [CloseCode.RESTART]
    assert acceptor.reads == 0


async def test_requests_in_flight(drain):
    """A request in flight prolongs the drain past its time; an idle connection does not."""
    acceptor = FakeAcceptor(2, 1)
    _, task = drain(0, acceptor)
    await acceptor.was_read()
    assert not task.done()
    acceptor.current = Traffic(2, 0)
    await over(task)


async def test_requests_have_a_limit(monkeypatch, drain):
    monkeypatch.setattr("att.server.drain.REQUEST_TIME", 0.0)
    assert REQUEST_TIME > 0
    _, task = drain(0, FakeAcceptor(1, 1))
    await over(task)


async def test_idle_connections_have_a_share(drain):
    """The drain waits for idle keep-alive connections until they are closed, or a second signal comes."""
    acceptor = FakeAcceptor(1, 0)
    made, task = drain(FOR_EVER, acceptor)
    await acceptor.was_read()
    assert not task.done()
    acceptor.current = Traffic()
    await over(task)
    acceptor = FakeAcceptor(1, 0)
    made, task = drain(FOR_EVER, acceptor)
    await acceptor.was_read()
    made.hurry()
    await over(task)
    _, task = drain(_TICK, FakeAcceptor(1, 0))
    await over(task)


async def test_a_second_drain_does_nothing(listen, drain):
    listen(1)
    made, task = drain(0)
    await over(task)
    acceptor = FakeAcceptor(1, 1)
    made.add_acceptor(acceptor)
    await over(asyncio.create_task(made.run()))
    assert not acceptor.is_closed
    assert acceptor.reads == 0


# With an application


@pytest.fixture
async def open_client(db_url, aiohttp_client):
    """Return a client of an application that drains for so long."""

    async def go(seconds):
        settings = Settings(db_url=db_url, hashing=CHEAPEST, drain_time=timedelta(seconds=seconds))
        return await aiohttp_client(create_app(settings))

    return go


async def enter(client, login):
    response = await client.post("/signup", json={"login": login, "password": PASSWORD})
    return Person(client, login, await response.json())


async def test_while_it_drains(open_client):
    """Sockets that are still open hear what is sent; requests are answered as ever, each as the last of its connection;
    a new socket is refused with 503.
    """
    client = await open_client(FOR_EVER)
    ann = await enter(client, "ann")
    await ann.make_group("tea")
    sockets = [await ann.listen(), await ann.listen()]
    response = await ann.request("GET", "/groups")
    assert "Connection" not in response.headers
    task = asyncio.create_task(client.app[DRAIN].run())

    async def one_is_gone():
        return len(client.app[HUB].registry) == 1

    await eventually(one_is_gone)
    response = await ann.request("POST", "/broadcast/tea", json={"n": 1})
    assert (response.status, response.headers["Connection"]) == (200, "close")
    assert (await response.json())["delivered"] == 1
    heard = [await socket.receive(timeout=DEADLINE) for socket in sockets]
    assert {message.type for message in heard} == {WSMsgType.TEXT, WSMsgType.CLOSE}
    closing = next(message for message in heard if message.type is WSMsgType.CLOSE)
    assert (closing.data, closing.extra.partition(";")[0]) == (1012, "server is restarting")
    response = await client.get(
        "/listen/me",
        headers=ann.headers
        | {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "A" * 22 + "==",
        },
    )
    assert (response.status, (await response.json())["error"]) == (503, "shutting down")
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Connection"] == "close"
    client.app[DRAIN].hurry()
    await over(task)


async def test_connections_are_closed_after_an_answer(open_client):
    """The server closes a connection after its answer."""
    client = await open_client(FOR_EVER)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    task = asyncio.create_task(client.app[DRAIN].run())
    await over(task)
    writer.write(b"GET /docs HTTP/1.1\r\nHost: att\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    assert b"Connection: close" in answer
    writer.close()


async def test_an_application_drains_by_itself(open_client):
    """Shutting down the application drains it."""
    client = await open_client(0)
    ann = await enter(client, "ann")
    socket = await ann.listen()
    closing = asyncio.create_task(client.app.shutdown())
    message = await socket.receive(timeout=DEADLINE)
    assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
    await closing
    assert client.app[READINESS].draining


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_log(listen, drain, caplog, count):
    """One line for the begin and one for the end, with the number of sockets that were cut off."""
    caplog.set_level("INFO", "att")
    listen(count)
    made, task = drain(0)
    await over(task)
    await over(asyncio.create_task(made.run()))
    begins = f"the drain begins; sockets to close: {count}, within 0 s; another signal stops at once"
    assert [re.sub(r"\d\.\d s", "T", line) for line in caplog.messages] == [begins, "the drain has ended after T"]


async def test_the_log_of_a_second_signal(listen, drain, caplog):
    caplog.set_level("INFO", "att")
    listen(3)
    made, task = drain(FOR_EVER)
    await asyncio.sleep(0)
    made.hurry()
    await over(task)
    assert caplog.messages[-1].endswith(" s; sockets cut off: 2")
