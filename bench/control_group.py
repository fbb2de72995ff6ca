"""A control group (cgroup v1) of one's own, for root. Bench and tests.

Invariant: on leaving, whoever is still in it is killed, and it is gone.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

_TOP = Path("/sys/fs/cgroup")
_LEAVE_S = 20.0


def may_make(controller: str) -> bool:
    """Tell whether this process can make one."""
    return os.geteuid() == 0 and os.access(_TOP / controller / "cgroup.procs", os.W_OK)


class ControlGroup:
    """A group of one controller (`memory`, `cpu`), made with `settings` on entering."""

    def __init__(self, controller: str, settings: Mapping[str, int]) -> None:
        self.folder = _TOP / controller / f"rayhost-{os.getpid()}-{os.urandom(3).hex()}"
        self._settings = settings

    def __enter__(self) -> Self:
        """Make it."""
        self.folder.mkdir()
        for name, value in self._settings.items():
            (self.folder / name).write_text(str(value))
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


class CpuGroup(ControlGroup):
    """A group that may use so many `cores`, which may be a part of one."""

    def __init__(self, cores: float) -> None:
        period_us = 100_000
        quota_us = round(cores * period_us)
        super().__init__("cpu", {"cpu.cfs_period_us": period_us, "cpu.cfs_quota_us": quota_us})
