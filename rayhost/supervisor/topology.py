"""Which CPUs this process may use, which of them share a core, and which a NUMA node. Reads only.

What the kernel hides, as in some containers, counts as simple: each CPU a core, all one node.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CPUS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_NODES = "sys/devices/system/node"


@dataclass(frozen=True, slots=True)
class Topology:
    """The allowed CPUs. `core_of` and `node_of` name the core and the node, where known."""

    allowed: frozenset[int]
    core_of: Mapping[int, str] = field(default_factory=dict)
    node_of: Mapping[int, int] = field(default_factory=dict)

    def core(self, cpu: int) -> str:
        """Return the name of a CPU's physical core."""
        return self.core_of.get(cpu, str(cpu))

    def cores(self, cpus: Iterable[int]) -> int:
        """Return how many physical cores there are among CPUs."""
        return len({self.core(cpu) for cpu in cpus})

    def nodes(self, cpus: Iterable[int]) -> list[tuple[int, ...]]:
        """Return CPUs by NUMA node, the node with the most of them first."""
        by_node: dict[int, list[int]] = {}
        for cpu in sorted(cpus):
            by_node.setdefault(self.node_of.get(cpu, 0), []).append(cpu)
        return sorted((tuple(one) for one in by_node.values()), key=lambda one: (-len(one), one))


def read(allowed: Iterable[int] | None = None, root: Path = Path("/")) -> Topology:
    """Read the topology of the CPUs that this process may use, or of others."""
    cpus = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    core_of = {}
    for cpu in cpus:
        siblings = root / _CPUS.format(cpu)
        if siblings.exists():
            core_of[cpu] = siblings.read_text().strip()
    node_of = {}
    for listed in (root / _NODES).glob("node*/cpulist"):
        number = int(listed.parent.name.removeprefix("node"))
        node_of.update(dict.fromkeys(named(listed.read_text()) & cpus, number))
    return Topology(cpus, core_of, node_of)


def named(cpulist: str) -> frozenset[int]:
    """Return the CPUs that a list such as `0-2,5` names."""
    parts = re.findall(r"(\d+)(?:-(\d+))?", cpulist)
    return frozenset(
        cpu for first, last in parts for cpu in range(int(first), int(last or first) + 1)
    )
