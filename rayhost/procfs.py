"""What the kernel says of memory, read at a scrape, by pid; and where it runs us. A leaf."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 when it is gone."""
    try:
        resident_pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(resident_pages) * _PAGE


def available_bytes() -> int:
    """Return what the machine could still give to processes without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    raise OSError("/proc/meminfo has no MemAvailable")


def pin(cpus: Iterable[int]) -> None:
    """Let this process, every thread it has and will have, run on these CPUs only.

    Raises OSError for a set without a CPU that it may use.
    """
    wanted = frozenset(cpus)
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.sched_setaffinity(int(thread), wanted)
