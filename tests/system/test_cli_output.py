"""Commands whose output cannot be written."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def unread(db_url):
    """Run a command whose output nobody reads: its status, and what it complains of."""

    def go(*arguments):
        reads, writes = os.pipe()
        os.close(reads)
        ended = subprocess.run(
            [sys.executable, "-m", "att", "--db-url", db_url, *arguments],
            input=b"correct horse\n",
            stdout=writes,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        os.close(writes)
        return ended.returncode, ended.stderr.decode()

    return go


@pytest.mark.parametrize("command", [["create-admin", "ann"], ["migrate"], ["check"], ["check", "--json"]])
def test_one_line(unread, command):
    """It says so, and nothing else."""
    assert unread(*command) == (1, "att-server: the output cannot be written: Broken pipe\n")
