"""A memory cgroup of one's own, whose OOM killer really kills: v1, for root. Bench and tests.

Invariant: on leaving, whoever is still in it is killed, and it is gone.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Self

_TOP = Path("/sys/fs/cgroup/memory")
_LEAVE_S = 20.0


def may_limit() -> bool:
    """Tell whether this process can make one."""
    return os.geteuid() == 0 and os.access(_TOP / "cgroup.procs", os.W_OK)


class MemoryGroup:
    """A group of `limit` bytes, made on entering."""

    def __init__(self, limit: int) -> None:
        self.folder = _TOP / f"rayhost-{os.getpid()}-{os.urandom(3).hex()}"
        self._limit = limit

    def __enter__(self) -> Self:
        """Make it."""
        self.folder.mkdir()
        (self.folder / "memory.limit_in_bytes").write_text(str(self._limit))
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it. Raises TimeoutError when something in it does not die."""
        give_up = time.monotonic() + _LEAVE_S
        while True:
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.folder.rmdir()
            except OSError:  # what was killed is in there until it is reaped
                if time.monotonic() > give_up:
                    raise TimeoutError(f"processes are left in {self.folder}") from None
                time.sleep(0.02)
            else:
                return

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that ends in executing its arguments inside the group."""
        enter = f'echo $$ > {self.folder}/cgroup.procs && exec "$@"'
        return ("sh", "-c", enter, "sh")

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
