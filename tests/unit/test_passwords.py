"""Passwords: real argon2 at the lowest cost, in real threads."""

import asyncio
import contextlib
import threading

import pytest
from waiting import eventually

from att.accounts.passwords import Passwords
from att.config.settings import HashingCost
from att.errors import Busy

CHEAPEST = HashingCost(time_cost=1, memory_kib=8, parallelism=1)
PASSWORD = "correct horse"
DEADLINE = 10  # seconds; reached only by a failing test


@contextlib.contextmanager
def bounded(workers, queue):
    """Return passwords with this number of workers and queue places."""
    passwords = Passwords(CHEAPEST, workers=workers, queue=queue)
    try:
        yield passwords
    finally:
        passwords.close()


@pytest.fixture
def passwords():
    with bounded(workers=2, queue=8) as made:
        yield made


class Gate:
    """Work that blocks its worker until the gate opens."""

    def __init__(self):
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()

    def work(self):
        self.reached.release()
        assert self.open.wait(DEADLINE)
        return "done"

    async def reached_by(self, workers):
        """Wait until this number of workers is at the gate, without blocking the event loop."""
        for _ in range(workers):
            assert await asyncio.to_thread(self.reached.acquire, timeout=DEADLINE)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.open.set()


class CountingHasher:
    """A hasher that records verified hashes; ``called`` runs in its thread."""

    def __init__(self, hasher, called=lambda: None):
        self._hasher = hasher
        self._called = called
        self.verified = []

    def hash(self, password):
        self._called()
        return self._hasher.hash(password)

    def verify(self, encoded, password):
        self._called()
        self.verified.append(encoded)
        return self._hasher.verify(encoded, password)


async def refusal(passwords):
    """Wait for Busy, after earlier tasks have taken their places."""
    with pytest.raises(Busy):
        await asyncio.create_task(passwords.hash(PASSWORD))


@pytest.mark.parametrize("password", [PASSWORD, "caf\u00e9 au lait", "\U0001f511" * 256, "nul\0nul", "      "])
async def test_hash_and_verify(passwords, password):
    """A hash matches its own password only, and no prefix of it."""
    encoded = await passwords.hash(password)
    assert await passwords.verify(password, encoded) is True
    assert await passwords.verify(password[:-1], encoded) is False
    assert await passwords.verify(password + "x", encoded) is False
    assert await passwords.verify("", encoded) is False


async def test_hash_all():
    """Hashes are in order, and use no queue places; an empty list costs nothing."""
    with bounded(workers=2, queue=0) as passwords:
        hashes = await passwords.hash_all(f"secret {number}" for number in range(5))
        assert [await passwords.verify(f"secret {number}", hash_) for number, hash_ in enumerate(hashes)] == [True] * 5
        assert await passwords.hash_all([]) == []


async def test_hash_is_argon2id_at_its_cost(passwords):
    """The hash names its algorithm and cost; the same password has another hash each time."""
    encoded = await passwords.hash(PASSWORD)
    assert encoded.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert PASSWORD not in encoded
    assert await passwords.hash(PASSWORD) != encoded


@pytest.mark.parametrize(
    "garbage", ["x", "\u00e9", "$argon2id$", "$2b$12$" + "a" * 53, "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA"]
)
async def test_garbage_is_nobodys_hash(passwords, garbage):
    """An invalid hash matches no password, and is no error."""
    assert await passwords.verify(PASSWORD, garbage) is False


async def test_truncated_hash(passwords):
    """A truncated hash matches no password."""
    encoded = await passwords.hash(PASSWORD)
    for length in range(0, len(encoded), 7):
        assert await passwords.verify(PASSWORD, encoded[:length]) is False


@pytest.mark.parametrize("is_known", [True, False])
async def test_unknown_login_is_as_much_work(passwords, is_known):
    """Without a hash, a hash of the same cost is verified."""
    encoded = await passwords.hash(PASSWORD)
    passwords._hasher = hasher = CountingHasher(passwords._hasher)
    assert await passwords.verify("wrong horse", encoded if is_known else None) is False
    [verified] = hasher.verified
    assert (verified == encoded) is is_known
    assert verified.split("$")[:4] == encoded.split("$")[:4]
    assert len(verified) == len(encoded)


async def test_decoy_is_nobodys_hash(passwords):
    """Not even the password of the decoy matches."""
    passwords._decoy = await passwords.hash(PASSWORD)
    assert await passwords.verify(PASSWORD, None) is False


def test_decoy_is_of_its_own():
    """Each process has another decoy."""
    with bounded(1, 1) as one, bounded(1, 1) as other:
        assert one._decoy != other._decoy


@pytest.mark.parametrize(
    "cost",
    [
        HashingCost(time_cost=2, memory_kib=8, parallelism=1),
        HashingCost(time_cost=1, memory_kib=16, parallelism=1),
        HashingCost(time_cost=1, memory_kib=16, parallelism=2),
    ],
)
async def test_is_outdated(passwords, cost):
    """A hash of another cost is outdated, and still verified."""
    other = Passwords(cost, workers=1, queue=1)
    encoded = await other.hash(PASSWORD)
    other.close()
    assert passwords.is_outdated(encoded)
    assert await passwords.verify(PASSWORD, encoded) is True
    assert not passwords.is_outdated(await passwords.hash(PASSWORD))


@pytest.mark.parametrize(("workers", "queue"), [(1, 0), (1, 1), (2, 3)])
async def test_queue_is_bounded(workers, queue):
    """A full queue raises Busy at once; later there is room again."""
    with bounded(workers, queue) as passwords, Gate() as gate:
        encoded = await passwords.hash(PASSWORD)
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            taken = [
                tasks.create_task(passwords._run(gate.work, f"192.0.2.{number}")) for number in range(workers + queue)
            ]
            await gate.reached_by(workers)
            for refused in (passwords.hash(PASSWORD), passwords.verify(PASSWORD, encoded), passwords.verify("x", None)):
                with pytest.raises(Busy):
                    await refused
            gate.open.set()
            assert set(await asyncio.gather(*taken)) == {"done"}
            for _ in range(workers + queue + 1):
                assert await passwords.verify(PASSWORD, encoded) is True


async def has_room(passwords):
    return passwords.use.running == 0


async def test_addresses_take_turns():
    """Whoever comes last waits for one hash of each other address, however many of them wait."""
    with bounded(workers=1, queue=20) as passwords, Gate() as gate:
        order = []

        async def ask(address):
            await passwords.hash(PASSWORD, address)
            order.append(address)

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            tasks.create_task(passwords._run(gate.work))
            await gate.reached_by(1)
            for number in range(8):
                tasks.create_task(ask(f"2001:db8:0:{number}::1"))
            for _ in range(2):
                tasks.create_task(ask("192.0.2.1"))
            tasks.create_task(ask(None))
            await asyncio.sleep(0)
            assert passwords.use == (1, 11)
            gate.open.set()
    assert order[1:3] == ["192.0.2.1", None]
    assert order[4] == "192.0.2.1"


async def test_one_address_has_half_of_the_queue():
    """More of one address are refused; in a full queue those of the most frequent address give way."""
    with bounded(workers=1, queue=4) as passwords, Gate() as gate:
        async with asyncio.timeout(DEADLINE):
            holding = asyncio.create_task(passwords._run(gate.work))
            await gate.reached_by(1)
            one, other, third = (
                [asyncio.create_task(passwords.hash(PASSWORD, f"192.0.2.{number}")) for _ in range(2)]
                for number in (1, 2, 3)
            )
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await passwords.hash(PASSWORD, "192.0.2.2")
            gate.open.set()
            await holding
            outcomes = await asyncio.gather(*one, *other, *third, return_exceptions=True)
    assert [isinstance(outcome, Busy) for outcome in outcomes] == [False, True, False, False, False, True]


async def test_work_for_somebody_who_has_gone_keeps_its_place():
    """A cancelled caller keeps its place until its worker is free."""
    with bounded(workers=1, queue=0) as passwords, Gate() as gate:
        async with asyncio.timeout(DEADLINE):
            abandoned = asyncio.create_task(passwords._run(gate.work))
            await gate.reached_by(1)
            abandoned.cancel()
            with pytest.raises(asyncio.CancelledError):
                await abandoned
            with pytest.raises(Busy):
                await passwords.hash(PASSWORD)
            gate.open.set()
            await eventually(lambda: has_room(passwords))
        assert await passwords.verify(PASSWORD, None) is False


async def test_a_loop_that_ended_first():
    """Work that outlives the event loop has no effect."""
    with bounded(workers=1, queue=0) as passwords:
        loop = asyncio.new_event_loop()
        loop.close()
        passwords._release_from_thread(loop, "")
        assert passwords.use == (0, 0)


async def test_failed_work_makes_room():
    """Failed work releases its place."""
    with bounded(workers=1, queue=0) as passwords:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await passwords._run(lambda: 1 // 0)
        assert await passwords.verify(PASSWORD, None) is False


async def test_abandoned_wait_makes_room():
    """A caller cancelled in the queue releases its place."""
    with bounded(workers=1, queue=1) as passwords, Gate() as gate:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            tasks.create_task(passwords._run(gate.work))
            await gate.reached_by(1)
            abandoned = tasks.create_task(passwords.hash(PASSWORD))
            await refusal(passwords)
            abandoned.cancel()
            await asyncio.wait([abandoned])
            waiting = tasks.create_task(passwords.hash(PASSWORD))
            await refusal(passwords)
            gate.open.set()
            assert await passwords.verify(PASSWORD, await waiting) is True


async def test_loop_runs_while_workers_are_busy():
    """Busy workers do not block the event loop."""
    with bounded(workers=1, queue=1) as passwords, Gate() as gate:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            holding = tasks.create_task(passwords._run(gate.work))
            await gate.reached_by(1)
            waiting = tasks.create_task(passwords.hash(PASSWORD))
            queue = asyncio.Queue(1)
            for number in range(100):
                tasks.create_task(queue.put(number))
            assert [await queue.get() for _ in range(100)] == list(range(100))
            assert not holding.done()
            assert not waiting.done()
            gate.open.set()
            assert await holding == "done"
            assert (await waiting).startswith("$argon2id$")


async def test_work_is_off_the_loop(passwords):
    """Hashing and verifying run in threads of the executor."""
    threads = []
    passwords._hasher = CountingHasher(passwords._hasher, lambda: threads.append(threading.current_thread()))
    await passwords.verify(PASSWORD, None)
    await passwords.hash(PASSWORD)
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_close_drops_what_waits():
    """Closing cancels waiting work; running work ends by itself."""
    with bounded(workers=1, queue=1) as passwords, Gate() as gate:
        async with asyncio.timeout(DEADLINE):
            holding = asyncio.create_task(passwords._run(gate.work))
            await gate.reached_by(1)
            waiting = asyncio.create_task(passwords.hash(PASSWORD))
            await refusal(passwords)
            passwords.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.open.set()
            assert await holding == "done"
