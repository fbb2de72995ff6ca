"""How quiet the machine is while something is measured: who else took CPU time.

Wrap the work in a `Watch`; the work must run in child processes that have ended by then.
"""

import resource
import time

import psutil

from rayhost.baseline.records import Quiet


class Watch:
    """Counts from its making until `read`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._stolen = _machine()
        self._ours = _ours()

    def read(self) -> Quiet:
        """Return the shares of the machine's CPU time so far."""
        busy, stolen = _machine()
        total = (time.monotonic() - self._began) * (psutil.cpu_count() or 1)
        return share(busy - self._busy, _ours() - self._ours, stolen - self._stolen, total)


def share(busy: float, ours: float, stolen: float, total: float) -> Quiet:
    """Return the shares from CPU seconds; clocks that disagree by a tick make no negative one."""
    return Quiet(others=max(0.0, busy - ours) / total, stolen=max(0.0, stolen) / total)


def _machine() -> tuple[float, float]:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system, times.steal


def _ours() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
