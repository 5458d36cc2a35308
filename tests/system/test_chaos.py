"""A short chaos run. `make chaos` does the long ones."""

import asyncio
import os

import pytest
from server_processes import ServerProcess

from chaos import cluster
from chaos.__main__ import cells, run, table
from chaos.plan import SHORT, with_redis

pytestmark = [
    pytest.mark.timeout(180),  # two servers, a database and a Valkey start several times on a busy machine
    pytest.mark.usefixtures("forks"),
]


class Forked:
    """A server, with as much of ``asyncio.subprocess.Process`` as the chaos run needs."""

    def __init__(self, arguments, log):
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as output:
            self._process = ServerProcess(arguments, output=(output, log))
        self.stdout = self
        self._output = os.fdopen(reader, "rb")

    @property
    def returncode(self):
        return self._process.poll()

    async def readline(self):
        line = await asyncio.to_thread(self._output.readline)
        if not line:  # it has ended
            self._output.close()
        return line

    def send_signal(self, number):
        self._process.send_signal(number)

    async def wait(self):
        status = await asyncio.to_thread(self._process.wait)
        self._output.close()
        return status


@pytest.fixture
def forks(monkeypatch):
    """Servers that begin with everything imported: imports take most of the CPU of a start."""

    async def spawn(*arguments, log):
        return Forked(arguments, log)

    monkeypatch.setattr(cluster, "spawn", spawn)


def test_a_short_run(tmp_path_factory):
    """Servers, the broker and the database are killed: nothing is lost, doubled, out of order or misdirected."""
    result = run(1, SHORT, tmp_path_factory.mktemp("chaos"))
    assert result.violations == [], table([cells(result)])
    assert result.connections > SHORT.clients
    assert result.evidence.redactions
    assert {record.is_parsed for record in result.evidence.records if record.heard} == {False, True}


def test_a_short_run_with_redis(tmp_path_factory):
    """The same when servers tell each other over Redis, which is killed and cut, and one of them is killed draining."""
    size = with_redis(SHORT)
    result = run(2, size, tmp_path_factory.mktemp("chaos"))
    assert result.violations == [], table([cells(result)])
    assert result.connections > size.clients
