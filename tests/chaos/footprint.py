"""What a running host holds of the machine: descriptors, shared memory, processes, memory."""

import os
import re
from collections import Counter
from dataclasses import dataclass

import psutil

from tests.support.host import Host


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
        shared_memory=tuple(sorted(os.listdir("/dev/shm"))),
        workers=len(host.workers()),
        threads=host.front.num_threads(),
        worker_descriptors=sum(one.num_fds() for one in host.workers()),
    )


def resident_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process, in MiB."""
    return float(process.memory_info().rss) / (1 << 20)
