"""Limits of the process: open files and garbage collection."""

import gc
import resource

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
    try:
        collect_less_garbage()
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
