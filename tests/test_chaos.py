"""A short chaos run. `make chaos` does the long ones."""

from chaos.__main__ import cells, run, table
from chaos.plan import SHORT


def test_a_short_run(tmp_path_factory):
    """A server, the bus and the database are killed: nothing is lost, doubled, out of order or heard by outsiders."""
    result = run(1, SHORT, tmp_path_factory.mktemp("chaos"))
    assert result.violations == [], table([cells(result)])
    assert result.connections > SHORT.clients
