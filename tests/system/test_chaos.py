"""A short chaos run. `make chaos` does the long ones."""

import pytest

from chaos.__main__ import cells, run, table
from chaos.plan import SHORT, with_redis

pytestmark = pytest.mark.timeout(180)  # two servers, a database and a Valkey start several times on a busy machine


def test_a_short_run(tmp_path_factory):
    """Servers, the broker and the database are killed: nothing is lost, doubled, out of order or misdirected."""
    result = run(1, SHORT, tmp_path_factory.mktemp("chaos"))
    assert result.violations == [], table([cells(result)])
    assert result.connections > SHORT.clients


def test_a_short_run_with_redis(tmp_path_factory):
    """The same when servers tell each other over Redis, which is killed and cut, and one of them is killed draining."""
    size = with_redis(SHORT)
    result = run(2, size, tmp_path_factory.mktemp("chaos"))
    assert result.violations == [], table([cells(result)])
    assert result.connections > size.clients
