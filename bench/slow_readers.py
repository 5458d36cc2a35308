"""Memory of the server, and latency of other listeners, when 1,000 of 2,000 listeners stop reading.

What these do not read fills the kernel's memory. A virtual machine gets memory from its host when it first touches it,
which takes longer than sending does: so the kernel touches it before.
"""

import asyncio
import contextlib
import socket
import sys
import time

import psutil
from harness import Server, att, database, figure, percentile, run
from latency import LastOf
from load import Listener, Sender, att_request, close_all, json_body, open_listener, open_many
from report import Report

READERS = STOPPED = 1_000
BODY = json_body(8_192)
RATE = 10.0  # broadcasts a second
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 25.0
TOO_SLOW = 4_000
# Bytes: the stopped fill some 300 MB, and of what was touched the kernel does not take all first.
KERNEL_MEMORY = min(2 * 2**30, psutil.virtual_memory().available // 4)
CHUNK = bytes(64 * 1024)


def touch_kernel_memory() -> float:
    """Let the kernel store this many bytes for sockets, then free them. Return nanoseconds a byte."""
    stored, began = 0, time.perf_counter()
    with contextlib.ExitStack() as stack:
        while stored < KERNEL_MEMORY:
            ours, _ = map(stack.enter_context, socket.socketpair())
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    stored += ours.send(CHUNK)
        return (time.perf_counter() - began) * 1e9 / stored


async def broadcast(server: Server, sender: Sender, readers: list[Listener]) -> tuple[list[float], int]:
    """Return milliseconds from the moment each broadcast was due to the last reader, and the peak of memory."""
    loop = asyncio.get_running_loop()
    last, peak, count = LastOf(readers), 0, int(RATE * SECONDS)
    began = loop.time()
    due = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
        due.append(began + number / RATE)
        sender.say()
        peak = max(peak, server.memory())
    await last.wait(count)
    return [(last.times[number + 1] - due[number]) * 1e3 for number in range(count)], peak


def show(report: Report, case: str, times: list[float], memory: int) -> None:
    """The result of one series of broadcasts."""
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        report.add(case, f"to the last of 1,000 readers, {name}", "ms", figure([percentile(times, part)]))
    report.add(case, "most memory, over that before", "MiB", figure([memory / 2**20]))


async def main() -> None:
    """Broadcast the same twice: all listeners read; half have stopped."""
    report = Report("slow_readers")
    with database() as db:
        accounts = db.people(READERS + STOPPED + 1)
        group = db.group("all", accounts)
        async with att(db) as server:
            listeners = await open_many(
                READERS + STOPPED, lambda number: open_listener(server.port, att_request(accounts[number]))
            )
            sender = await Sender(group, BODY).open(server.port, accounts[-1])
            readers, stopped = listeners[:READERS], listeners[READERS:]
            await broadcast(server, sender, readers)
            before = server.memory()
            for which in ("the first time", "again"):
                report.add("the kernel's memory", which, "ns a byte", figure([touch_kernel_memory()]))
            times, peak = await broadcast(server, sender, readers)
            show(report, "all read", times, peak - before)
            for listener in stopped:
                listener.transport.pause_reading()
            touch_kernel_memory()
            slow_times, peak = await broadcast(server, sender, readers)
            show(report, "1,000 have stopped", slow_times, peak - before)
            ratio = percentile(slow_times, 0.99) / percentile(times, 0.99)
            report.add("1,000 have stopped", "p99, times that when all read", "", figure([ratio]))
            await asyncio.sleep(6)
            report.add("afterwards", "memory, over that before", "MiB", figure([(server.memory() - before) / 2**20]))
            for listener in stopped:
                listener.transport.resume_reading()
            await asyncio.sleep(2)
            closed = sum(listener.close_code == TOO_SLOW or listener.lost.done() for listener in stopped)
            report.add("afterwards", "stopped listeners closed", "of 1,000", figure([closed]))
            await close_all(readers)
    report.save()


if __name__ == "__main__":
    run(main)
