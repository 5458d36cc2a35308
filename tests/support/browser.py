"""Chromium, driven by the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse
from waiting import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # root may not use it, and the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
PATIENCE = 30  # seconds that anything may take
UNTIL = """new Promise(resolve => {
    const look = () => { const found = (%s); found ? resolve(found) : setTimeout(look, 20); };
    look();
})"""


class Page:
    """A tab, and what it has asked for and complained of since it was opened."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        """Take in what the browser says, until it ends."""
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            else:
                self._note(event["method"], event["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown" or (
            method == "Runtime.consoleAPICalled" and params["type"] in ("warning", "error")
        ):
            self.complaints.append(json.dumps(params))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, and its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        event = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in event, event
        return event["result"]

    async def open(self, url: str) -> None:
        """Go there."""
        for domain in ("Page", "Log", "Network", "Runtime"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)

    async def until(self, expression: str) -> Any:
        """The first true value of a JavaScript expression."""
        result = await self.send(
            "Runtime.evaluate", expression=UNTIL % expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def click(self, selector: str) -> None:
        """Click on the first element that fits, once it is there."""
        await self.until(f"(e => e && (e.click(), true))(document.querySelector({json.dumps(selector)}))")

    async def type(self, selector: str, text: str) -> None:
        """Put text into a field in place of what is in it, and leave the field."""
        await self.until(f"(e => e && (e.focus(), e.select(), true))(document.querySelector({json.dumps(selector)}))")
        await self.send("Input.insertText", text=text)
        await self.until("(document.activeElement.blur(), true)")

    async def text(self, selector: str) -> str:
        """The text of the first element that fits, once it has one."""
        return await self.until(f"document.querySelector({json.dumps(selector)})?.textContent.trim()")


@contextlib.asynccontextmanager
async def open_page(profile: Path) -> AsyncIterator[Page]:
    """A tab of a browser of its own, whose profile is kept in this directory."""
    process = await asyncio.create_subprocess_exec(
        *(str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with ClientSession() as session:
            port = await eventually(lambda: _port(profile), PATIENCE)
            tabs = await (await session.get(f"http://127.0.0.1:{port}/json")).json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                yield page
                await socket.close()
                await listening
    finally:
        process.kill()
        await process.wait()


async def _port(profile: Path) -> str | None:
    """Chromium writes it when it listens."""
    file = profile / "DevToolsActivePort"
    return file.read_text().split("\n")[0] if file.exists() and file.stat().st_size else None
