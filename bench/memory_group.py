"""A memory cgroup of one's own, whose OOM killer really kills: v1, for root. Bench and tests."""

import os
from pathlib import Path

from bench.control_group import ControlGroup, may_make


def may_limit() -> bool:
    """Tell whether this process can make one."""
    return may_make("memory")


def uncached(path: Path) -> Path:
    """Have the kernel forget a file's pages and return its path.

    Pages are charged to whoever read them first: else a group would not pay for weights that
    somebody outside has read before.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


class MemoryGroup(ControlGroup):
    """A group of `limit` bytes, made on entering."""

    def __init__(self, limit: int) -> None:
        super().__init__("memory", {"memory.limit_in_bytes": limit})

    @property
    def kills(self) -> int:
        """How often the kernel killed in it."""
        lines = (self.folder / "memory.oom_control").read_text().split()
        return int(lines[lines.index("oom_kill") + 1])

    @property
    def working_set(self) -> int:
        """Bytes that are used in it beyond idle file pages."""
        lines = (self.folder / "memory.stat").read_text().splitlines()
        stat = dict(line.split() for line in lines)
        used = int((self.folder / "memory.usage_in_bytes").read_text())
        return used - int(stat["total_inactive_file"])
