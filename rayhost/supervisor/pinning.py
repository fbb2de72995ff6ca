"""Which CPUs a worker runs on and with how many threads. Pure, but for two readers of the kernel.

`auto` is every CPU this process may use, with one compute thread for each physical core: two
hyperthreads of one core share the arithmetic units that llama.cpp saturates.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from rayhost.errors import RayhostError

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Placement(NamedTuple):
    """Where a worker runs."""

    cpus: tuple[int, ...]
    threads: int
    cores: int = 1  # physical ones among the CPUs


def place(
    model: str,
    cpus: tuple[int, ...] | Literal["auto"],
    threads: int | Literal["auto"],
    *,
    allowed: frozenset[int],
    core_of: Mapping[int, str],
    quota: float = math.inf,
) -> Placement:
    """Return the placement of a model's worker.

    `allowed` are the CPUs this process may use, `core_of` names the physical core of each, `quota`
    is how many of them a control group lets run at once: more threads than that would wait for
    each other at every barrier while the group is stopped.
    Raises RayhostError for CPUs that are not allowed.
    """
    chosen = tuple(sorted(allowed)) if cpus == "auto" else cpus
    missing = [cpu for cpu in chosen if cpu not in allowed]
    if missing:
        raise RayhostError(
            f"model {model!r}: cpus names {missing}, but this process may use {sorted(allowed)}"
        )
    cores = len({core_of.get(cpu, str(cpu)) for cpu in chosen})
    usual = max(1, math.floor(min(quota, cores)))
    return Placement(chosen, usual if threads == "auto" else threads, cores)


def allowed_cpus() -> frozenset[int]:
    """Return the CPUs this process may use."""
    return frozenset(os.sched_getaffinity(0))


def cores(cpus: frozenset[int]) -> dict[int, str]:
    """Return a name for the physical core of each CPU, as far as the kernel tells."""
    found = {}
    for cpu in cpus:
        siblings = Path(_TOPOLOGY.format(cpu))
        if siblings.exists():  # hidden in some containers: then each CPU counts as a core
            found[cpu] = siblings.read_text().strip()
    return found
