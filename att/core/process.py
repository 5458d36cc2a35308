"""Limits that the operating system and the interpreter set for this process."""

import contextlib
import ctypes
import gc
import resource
from pathlib import Path

# New objects between two collections of cyclic garbage, of which att makes almost none. Python's default of 700, which
# a few requests reach, costs an eighth of the CPU time.
GARBAGE_THRESHOLD = 20_000
OWN_FILES = 128  # open files other than client connections: database, log and so on
UNLIMITED = 1_000_000  # connections, if the system sets no limit
LARGE_BLOCK = 32 * 1024  # bytes: a piece of a body
_M_MMAP_THRESHOLD = -3  # of malloc.h
_UNKNOWN_MEMORY = 1024**3  # bytes that are assumed where the system does not tell


def collect_less_garbage() -> None:
    """Exempt everything loaded so far from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)


def return_large_blocks() -> None:
    """Let the C library (glibc) return each large block to the system when it is freed.

    By default it learns from the first ones to keep them, so that a process never shrinks after it once held much.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


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


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process may use: the machine's memory, or the smallest limit of its cgroups."""
    limits: list[int] = []
    with contextlib.suppress(OSError):
        lines = (proc / "meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":  # version 2: one hierarchy
                limits += _cgroup_limits(cgroups, path, "memory.max")
            elif "memory" in controllers.split(","):  # version 1
                limits += _cgroup_limits(cgroups / "memory", path, "memory.limit_in_bytes")
    return min(limits, default=_UNKNOWN_MEMORY)


def _cgroup_limits(root: Path, path: str, name: str) -> list[int]:
    """Return the limits of a cgroup and of those around it. In a container its own is at the root."""
    limits = []
    place = root / path.lstrip("/")
    for directory in (place, *place.parents):
        if directory.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                limits.append(int((directory / name).read_text()))
    return limits
