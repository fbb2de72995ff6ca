"""What a running host holds of the machine: descriptors, shared memory, processes, memory.

A worker that has rendered a chat template holds two pipes more than one that has not: compare
footprints of workers that did the same.
"""

import contextlib
import os
import re
from collections import Counter
from dataclasses import dataclass

import psutil

from tests.support.host import Host
from tests.support.waiting import eventually

# The machine's other programs use /dev/shm as well: of those names, what ours would have.
_OURS = ("rayhost", "psm_", "sem.mp-")


@dataclass(frozen=True)
class Footprint:
    """At one moment; equal before and after when nothing leaked. Memory is compared apart."""

    descriptors: tuple[tuple[str, int], ...]  # of the front, by kind
    mappings: int  # of channels, in the front
    shared_memory: tuple[str, ...]
    workers: int
    threads: int
    worker_descriptors: int


def footprint(host: Host) -> Footprint:
    """Look at a host that has a worker which is ready."""
    fds = f"/proc/{host.process.pid}/fd"
    kinds: Counter[str] = Counter()
    for fd in os.listdir(fds):
        try:
            target = os.readlink(f"{fds}/{fd}")
        except FileNotFoundError:  # closed meanwhile
            continue
        kinds[re.sub(r"\d+", "N", target)] += 1
    return Footprint(
        descriptors=tuple(sorted(kinds.items())),
        mappings=sum("rayhost-channel" in one.path for one in host.front.memory_maps()),
        shared_memory=tuple(
            sorted(name for name in os.listdir("/dev/shm") if name.startswith(_OURS))
        ),
        workers=len(host.workers()),
        threads=host.front.num_threads(),
        worker_descriptors=sum(one.num_fds() for one in host.workers()),
    )


def back_to(before: Footprint, host: Host) -> None:
    """Return once the host holds what it held before; fail with the difference."""
    with contextlib.suppress(AssertionError):
        eventually(lambda: footprint(host) == before, "the footprint from before")
    assert footprint(host) == before


def resident_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process, in MiB."""
    return float(process.memory_info().rss) / (1 << 20)
