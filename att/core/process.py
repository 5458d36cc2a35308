"""What the operating system and the interpreter grant this process."""

import contextlib
import gc
import resource

# New objects after which Python looks for garbage that refers to itself, of which we make next to none; by itself it
# does so after 700, which a few requests make, and takes an eighth of our time for it.
GARBAGE_THRESHOLD = 20_000
OWN_FILES = 128  # open files that are no client's: the database's, the log's, and so on
UNLIMITED = 1_000_000  # connections, where the system sets no limit


def collect_less_garbage() -> None:
    """What has been loaded by now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)


def allow_many_files() -> None:
    """Each connection is an open file; take as many as the system grants."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room_for_connections() -> int:
    """How many may be open at once, so that files are left for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return UNLIMITED
    return max(soft - OWN_FILES, soft // 2)
