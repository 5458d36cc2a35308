"""Readiness: can this server do its work now, and if not, why."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from att.core.log_limits import OncePerInterval
from att.core.tasks import failing
from att.errors import AttError

_PROBE_TIMEOUT = 1.5  # seconds

Probe = Callable[[], Awaitable[object]]

log = logging.getLogger("att")


class NotReady(Exception):
    """Fault found by a probe: a sentence for the operator, and ``facts`` that can be written as JSON."""

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class Report(NamedTuple):
    """``status`` is "ready", "draining" or "not ready"; ``checks`` has the result of each probe, fit for JSON."""

    status: str
    checks: Mapping[str, Mapping[str, Any]]

    @property
    def is_ready(self) -> bool:
        """Return True if requests should be sent here."""
        return self.status == "ready"


class Readiness:
    """Runs all ``probes`` at once, each with a timeout. A probe raises an error if something is wrong.

    The server is not ready before ``is_started`` is set, nor once ``draining`` is set.
    """

    def __init__(self, timeout: float = _PROBE_TIMEOUT) -> None:
        self.probes: dict[str, Probe] = {}
        self.is_started = False
        self.draining = False
        self._timeout = timeout
        self._running: asyncio.Task[dict[str, Mapping[str, Any]]] | None = None
        self._log_once = OncePerInterval()

    async def report(self) -> Report:
        """Return the present state. Concurrent callers share one run of the probes."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all(), name="readiness")
        checks = await asyncio.shield(self._running)
        if self.draining:
            return Report("draining", checks)
        return Report("ready" if all(check["ok"] for check in checks.values()) else "not ready", checks)

    async def _run_all(self) -> dict[str, Mapping[str, Any]]:
        probes = self.probes if self.is_started else {"start": _starting}
        names = list(probes)
        return dict(zip(names, await asyncio.gather(*(self._run(name, probes[name]) for name in names)), strict=True))

    async def _run(self, name: str, probe: Probe) -> Mapping[str, Any]:
        start = time.perf_counter()
        fault: dict[str, Any] = {}
        try:
            async with asyncio.timeout(self._timeout):
                await probe()
        except TimeoutError:
            fault = {"error": f"no answer within {self._timeout:g} s"}
        except NotReady as error:
            fault = {"error": error.detail, **error.facts}
        except AttError as error:
            fault = {"error": error.why}
        except Exception:
            fault = {"error": "internal error, see the log"}
            if self._log_once.passes(name) is not None:
                log.exception("the probe %r failed", name)
        return {"ok": not fault, "ms": round((time.perf_counter() - start) * 1000, 1), **fault}


async def _starting() -> None:
    raise NotReady("the server is starting")


async def tasks() -> None:
    """Probe the background work. Raises NotReady with the names of the work that fails, and since when."""
    if found := failing():
        facts = [{"name": name, "since": since.isoformat(timespec="seconds")} for name, since in found]
        raise NotReady("background work fails", failing=facts)
