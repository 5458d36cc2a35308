"""The event loop of the tests."""

import asyncio
from typing import Any

import pytest
import uvloop


class Loop(uvloop.Loop):
    """The loop that the server runs on; but its end does not wait for ever for what a library has left open."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: list[asyncio.BaseTransport] = []

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        found = await super().create_connection(*args, **options)
        self._opened.append(found[0])
        return found

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """End the test when its time is over: the signal of pytest-timeout is raised in a callback, not in the test."""
        if isinstance(context.get("exception"), pytest.fail.Exception):
            for task in asyncio.all_tasks(self):
                task.cancel(str(context["exception"]))
        super().call_exception_handler(context)

    def close(self) -> None:
        if not self.is_closed():
            for transport in self._opened:
                transport.abort()  # type: ignore[attr-defined]
            self.run_until_complete(asyncio.sleep(0))
        super().close()
