"""Whether this server can do its work now, and if not, for want of what."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from att.core.log_limits import OncePerInterval
from att.core.tasks import failing
from att.errors import AttError

_PATIENCE = 1.5  # seconds for each probe

Probe = Callable[[], Awaitable[object]]

log = logging.getLogger("att")


class NotReady(Exception):
    """What a probe has found wrong, in words for the operator, and more about it that can be written as JSON."""

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class Report(NamedTuple):
    """``status`` is "ready", "draining" or "not ready"; ``checks`` tell of each probe, ready to be written as JSON."""

    status: str
    checks: Mapping[str, Mapping[str, Any]]

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.status == "ready"


class Readiness:
    """Asks each of ``probes``, all at once, each for so long and no longer. A probe raises what is wrong.

    It is not ready before ``is_started`` is set, nor once ``draining`` is.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self.probes: dict[str, Probe] = {}
        self.is_started = False
        self.draining = False
        self._patience = patience
        self._asking: asyncio.Task[dict[str, Mapping[str, Any]]] | None = None
        self._seldom = OncePerInterval()

    async def report(self) -> Report:
        """How it is now. Those who ask at the same time get the same answer: asking much costs no more."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), name="readiness")
        checks = await asyncio.shield(self._asking)
        if self.draining:
            return Report("draining", checks)
        return Report("ready" if all(check["ok"] for check in checks.values()) else "not ready", checks)

    async def _ask_all(self) -> dict[str, Mapping[str, Any]]:
        probes = self.probes if self.is_started else {"start": _starting}
        names = list(probes)
        return dict(zip(names, await asyncio.gather(*(self._ask(name, probes[name]) for name in names)), strict=True))

    async def _ask(self, name: str, probe: Probe) -> Mapping[str, Any]:
        begun = time.perf_counter()
        fault: dict[str, Any] = {}
        try:
            async with asyncio.timeout(self._patience):
                await probe()
        except TimeoutError:
            fault = {"error": f"no answer within {self._patience:g} s"}
        except NotReady as error:
            fault = {"error": error.detail, **error.facts}
        except AttError as error:
            fault = {"error": error.why}
        except Exception:
            fault = {"error": "a fault of ours, which is in the log"}
            if self._seldom.passes(name) is not None:
                log.exception("the probe %r failed", name)
        return {"ok": not fault, "ms": round((time.perf_counter() - begun) * 1000, 1), **fault}


async def _starting() -> None:
    raise NotReady("the server is starting")


async def tasks() -> None:
    """A probe of the work in the background. Raises NotReady with the names of what fails, and since when."""
    if found := failing():
        facts = [{"name": name, "since": since.isoformat(timespec="seconds")} for name, since in found]
        raise NotReady("work in the background fails", failing=facts)
