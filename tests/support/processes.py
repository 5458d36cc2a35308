"""Processes of the embedded PostgreSQL."""

from contextlib import suppress

import psutil

from att.db.embedded import wait_for_end


def is_running(server):
    """Whether a postmaster answers for the data directory."""
    return (server.data_dir / "postgresql" / "postmaster.pid").exists()


def postmaster_of(server):
    """The process that answers for the data directory of a server."""
    return psutil.Process(int((server.data_dir / "postgresql" / "postmaster.pid").read_text().split()[0]))


def kill_all(server):
    """Kill -9 of its PostgreSQL."""
    postmaster = postmaster_of(server)
    family = [postmaster, *postmaster.children()]
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a child may end by itself
            process.kill()
    assert wait_for_end(family, 10)
