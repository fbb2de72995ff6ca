"""Which CPUs the front and each worker run on, and with how many threads a worker computes. Pure.

`auto` is every CPU this process may use, for front and workers alike: on 2 cores a core of its own
for the front costs 40 % of the tokens (docs/performance.md). Where one of the two is given a list,
the other gets what is left. A worker of `auto` has one compute thread for each physical core, as
two hyperthreads share the arithmetic units that llama.cpp saturates, and stays on one NUMA node, as
every step reads all the weights.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rayhost.errors import RayhostError
from rayhost.supervisor.topology import Topology

Choice = Sequence[int] | Literal["auto"]


class Placement(NamedTuple):
    """Where a worker runs."""

    cpus: tuple[int, ...]
    threads: int
    cores: int = 1  # physical ones among the CPUs


@dataclass(frozen=True, slots=True)
class Split:
    """Who may run where; both in order."""

    front: tuple[int, ...]
    workers: tuple[int, ...]


def split(topology: Topology, front: Choice, workers: Choice) -> Split:
    """Return the CPUs of the front, and those that workers of `auto` are placed on.

    What is left beside the front are whole cores where there is more than one: a worker's thread
    beside it on the same core would be the one that all others wait for.
    Raises RayhostError for CPUs that are not allowed.
    """
    everywhere = tuple(sorted(topology.allowed))
    for name, choice in (("cpus.front", front), ("cpus.workers", workers)):
        if choice != "auto":
            _permit(f"{name} names", choice, topology.allowed)
    if front != "auto" and workers != "auto":
        return Split(tuple(sorted(front)), tuple(sorted(workers)))
    if front != "auto":
        cores = {topology.core(cpu) for cpu in front}
        beside = [cpu for cpu in everywhere if topology.core(cpu) not in cores]
        rest = beside or [cpu for cpu in everywhere if cpu not in front]
        return Split(tuple(sorted(front)), tuple(rest) or everywhere)
    if workers != "auto":
        rest = [cpu for cpu in everywhere if cpu not in workers]
        return Split(tuple(rest) or everywhere, tuple(sorted(workers)))
    return Split(everywhere, everywhere)


def place(
    model: str,
    cpus: Choice,
    threads: int | Literal["auto"],
    *,
    topology: Topology,
    pool: Iterable[int] | None = None,
    turn: int = 0,
    quota: float = math.inf,
) -> Placement:
    """Return the placement of a model's worker.

    `pool` are the CPUs of workers of `auto`, all that are allowed if not said; models of one host
    have its NUMA nodes in `turn`. `quota` is how many CPUs a control group lets run at once: more
    threads than that, whoever chose them, would wait for each other at every barrier while the
    group is stopped.
    Raises RayhostError for CPUs that are not allowed.
    """
    if cpus == "auto":
        nodes = topology.nodes(topology.allowed if pool is None else pool)
        chosen = nodes[turn % len(nodes)]
    else:
        _permit(f"model {model!r}: cpus names", cpus, topology.allowed)
        chosen = tuple(cpus)
    cores = topology.cores(chosen)
    wanted = cores if threads == "auto" else threads
    return Placement(chosen, max(1, math.floor(min(quota, wanted))), cores)


def _permit(who: str, cpus: Sequence[int], allowed: frozenset[int]) -> None:
    missing = [cpu for cpu in cpus if cpu not in allowed]
    if missing:
        raise RayhostError(f"{who} {missing}, but this process may use {sorted(allowed)}")
