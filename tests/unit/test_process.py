"""What is asked of the system for this process."""

import gc
import resource

import pytest

from att.core import process
from att.core.process import OWN_FILES, UNLIMITED, allow_many_files, collect_less_garbage, room_for_connections


@pytest.fixture
def limits():
    """The process's limits, which are put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files(limits):
    """As many as the system grants; a share of them is not for connections."""
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
    """It stays as it is: some systems promise more than they keep."""

    def refuse(*_):
        raise ValueError

    monkeypatch.setattr(process.resource, "setrlimit", refuse)
    allow_many_files()


def test_garbage():
    """What is there is not looked at again, and what comes is less often."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        collect_less_garbage()
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
