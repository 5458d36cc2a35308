"""Limits that the operating system and the interpreter set for this process."""

import contextlib
import gc
import resource

# New objects between two collections of cyclic garbage, of which att makes almost none. Python's default of 700, which
# a few requests reach, costs an eighth of the CPU time.
GARBAGE_THRESHOLD = 20_000
OWN_FILES = 128  # open files other than client connections: database, log and so on
UNLIMITED = 1_000_000  # connections, if the system sets no limit


def collect_less_garbage() -> None:
    """Exempt everything loaded so far from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)


def allow_many_files() -> None:
    """Raise the limit of open files, one per connection, to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room_for_connections() -> int:
    """Return the number of connections that leaves enough open files for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return UNLIMITED
    return max(soft - OWN_FILES, soft // 2)
