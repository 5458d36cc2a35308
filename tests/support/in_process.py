"""A fixture: the command, in the process of the test."""

import io
import subprocess
import sys

import pytest

from att.cli import main


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run it to its end, with these lines on its standard input; none at all, if they are None."""

    def go(*arguments, typed=b"", **environment):
        monkeypatch.setattr(sys, "argv", ["att-server", *arguments])
        monkeypatch.setattr(sys, "stdin", None if typed is None else io.TextIOWrapper(io.BytesIO(typed)))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        try:
            main.main()
            status = 0
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, printed.out, printed.err)

    return go
