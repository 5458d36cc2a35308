"""Limits of the process: open files, memory and garbage collection."""

import gc
import resource
import subprocess
import sys

import pytest

from att.core import process
from att.core.process import OWN_FILES, UNLIMITED, allow_many_files, collect_less_garbage, room_for_connections


@pytest.fixture
def limits():
    """Yield the limits of open files, and restore them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files(limits):
    """The soft limit becomes the hard one; some files are reserved."""
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, hard))
    assert room_for_connections() == 1_000 - OWN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    assert room_for_connections() == 75
    allow_many_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_no_limit(monkeypatch):
    monkeypatch.setattr(process.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert room_for_connections() == UNLIMITED


def test_a_limit_that_cannot_be_raised(monkeypatch):
    """An error is ignored: some systems refuse their own hard limit."""

    def refuse(*_):
        raise ValueError

    monkeypatch.setattr(process.resource, "setrlimit", refuse)
    allow_many_files()


def test_garbage():
    """Present objects are exempt from collection, and later ones are collected less often."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.set_threshold(700, 10, 10)  # Python's own: the tests collect less, too
    try:
        collect_less_garbage()
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] > 700
    finally:
        gc.set_threshold(*before)


HOLD = """
import os
from att.core.process import return_large_blocks
return_large_blocks()
for _ in range(3):
    blocks = [b"x" * size for size in range(100_000, 1_000_000, 4_000)]
    kept = [b"x" * 500 for _ in range(100)]
    del blocks
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_blocks_are_returned():
    """A process that has freed 120 MB does not keep them."""
    used = int(subprocess.run([sys.executable, "-c", HOLD], check=True, capture_output=True).stdout)
    assert used < 60_000_000
