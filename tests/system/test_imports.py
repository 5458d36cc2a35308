"""What the client and the command import before they do something: their start is fast because that is little."""

import subprocess
import sys

import pytest

SERVER = {"alembic", "att.api", "att.app", "att.server", "prometheus_client", "pydantic", "sqlalchemy"}
COMMAND = "import sys; from att.__main__ import main\nsys.argv[1:] = {}\ntry: main()\nexcept SystemExit: pass"


def imported(script):
    """Return the names of the modules that a new process has imported after the script."""
    script += "\nprint(); print('modules:', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(result.stdout.rpartition("modules: ")[2].split())


@pytest.mark.parametrize("arguments", [["--version"], ["listen", "--help"], ["broadcast", "--help"]], ids=" ".join)
def test_the_command(arguments):
    """Neither the version nor the help of a client's command needs the server."""
    modules = imported(COMMAND.format(arguments))
    assert "click" in modules
    assert modules & SERVER == set()


def test_the_client():
    """A program that listens needs aiohttp and what reads its frames, msgspec and pydantic_core, alone."""
    modules = imported("import sys, att.client")
    assert {"aiohttp", "msgspec"} <= modules
    others = {"aiopg", "argon2", "click", "limits", "platformdirs", "psycopg2", "redis", "structlog", "uvloop"}
    assert modules & (SERVER | others) == set()


def test_serving():
    """What a server imports is recognized: the tests above can fail."""
    assert imported("import sys, att.cli.serve") & SERVER != set()
