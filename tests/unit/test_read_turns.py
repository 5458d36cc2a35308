"""Turns of those who read bytes of clients."""

import asyncio

from att.core.read_turns import READS_AT_ONCE, ReadTurns


async def test_sources_take_turns_and_the_loop_runs_between():
    """One with very many connections keeps nobody else waiting, and few are served in one turn of the loop."""
    turns, taken = ReadTurns(), []
    for number in range(5 * READS_AT_ONCE):
        turns.ask("many", lambda number=number: taken.append(number))
    waiting = asyncio.create_task(turns.wait("few"))
    most = 0
    while len(taken) < 5 * READS_AT_ONCE:
        before = len(taken)
        await asyncio.sleep(0)
        most = max(most, len(taken) - before)
        assert waiting.done() or len(taken) <= 2 * READS_AT_ONCE
    assert taken == [*range(5 * READS_AT_ONCE)]
    assert most == READS_AT_ONCE


async def test_a_fault_stops_nobody(caplog):
    """The others have their turn, and it is in the log."""
    turns, faults = ReadTurns(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
    turns.ask("one", lambda: 1 // 0)
    await asyncio.wait_for(turns.wait("two"), 5)
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


async def test_who_has_gone_keeps_nobody_waiting():
    """A wait that was cancelled."""
    turns = ReadTurns()
    gone = asyncio.create_task(turns.wait("one"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(turns.wait("one"), 5)
