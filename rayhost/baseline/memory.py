"""Memory: what may still be used here, and what a process holds. Thin readers of the kernel.

A container's limit counts, not only the machine's: inside one, MemAvailable is the host's.
"""

import re
from pathlib import Path
from typing import NamedTuple

import psutil

_V2 = Path("/sys/fs/cgroup")
_V1 = Path("/sys/fs/cgroup/memory")


class Held(NamedTuple):
    """Resident memory of a process, in bytes; `peak` since it started."""

    resident: int
    anonymous: int  # not backed by a file: the kernel cannot drop it
    peak: int


def available() -> int:
    """Return the bytes that this process may still take."""
    machine = psutil.virtual_memory().available
    rooms = [
        cgroup_room(_V2, "memory.max", "memory.current", "inactive_file"),
        cgroup_room(_V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ]
    return min([machine, *(room for room in rooms if room is not None)])


def cgroup_room(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return the bytes left under a cgroup's limit, or None where it sets none.

    Page cache that has not been used lately (`cache` in memory.stat) counts as free.
    """
    try:
        most, used = (folder / limit).read_text(), int((folder / usage).read_text())
        stat = (folder / "memory.stat").read_text()
    except FileNotFoundError:
        return None
    if not most.strip().isdigit():  # "max"
        return None
    found = re.search(rf"^{cache} (\d+)$", stat, re.MULTILINE)
    return max(0, int(most) - used + (int(found[1]) if found else 0))


def held() -> Held:
    """Return what this process holds."""
    return parse_status(Path("/proc/self/status").read_text())


def parse_status(status: str) -> Held:
    """Return the figures of a /proc/PID/status, which is in kB."""

    def bytes_of(field: str) -> int:
        found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    return Held(bytes_of("VmRSS"), bytes_of("RssAnon"), bytes_of("VmHWM"))
