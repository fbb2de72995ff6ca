"""Watches the memory of a server while it is under load; a thread of the harness.

PSS is sampled, because the kernel keeps no peak of it: a sample walks the page tables, which
takes time. RSS needs no samples: every process has its own high-water mark.
"""

import threading
import time
from pathlib import Path

import psutil

from bench.stats import Memory

PERIOD_S = 0.5


class Watch:
    """A context: `memory` and `cpu_s` are there after it ended."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")
        self._pss = 0
        self.memory = Memory(0, 0)
        self.cpu_s = 0.0  # what watching cost

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.memory = Memory(rss=sum(_peak_rss(one) for one in self._processes()), pss=self._pss)

    def _run(self) -> None:
        began = time.thread_time()
        while True:
            over = self._over.wait(PERIOD_S)
            self._pss = max(self._pss, sum(_pss(one) for one in self._processes()))
            if over:
                break
        self.cpu_s = time.thread_time() - began

    def _processes(self) -> list[psutil.Process]:
        """Return the processes of the server; none if it died, which `running` then tells."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def _peak_rss(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return 0
    # A zombie has no memory and no such line.
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return sum(int(kib) for kib in peaks) * 1024
