"""Topologies as /sys/devices/system has them, and the trees that tell of them."""

from pathlib import Path

from rayhost.supervisor.topology import Topology

MACHINES = {
    "one CPU": Topology(frozenset({0}), {0: "0"}, {0: 0}),
    "two CPUs": Topology(frozenset({0, 1}), {0: "0", 1: "1"}, {0: 0, 1: 0}),
    # A cheap VPS may be one core.
    "one core of two threads": Topology(frozenset({0, 1}), {0: "0-1", 1: "0-1"}, {0: 0, 1: 0}),
    "four cores of two threads": Topology(
        frozenset(range(8)),
        {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)},
        dict.fromkeys(range(8), 0),
    ),
    "two nodes": Topology(
        frozenset(range(8)),
        {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)},
        {cpu: cpu % 4 // 2 for cpu in range(8)},  # cores 0 and 1, cores 2 and 3
    ),
}


def write(root: Path, name: str) -> None:
    """Write what the kernel would show of a machine below `root`."""
    machine = MACHINES[name]
    for cpu, core in machine.core_of.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core}\n")
    for node in set(machine.node_of.values()):
        folder = root / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        cpus = ",".join(str(cpu) for cpu, of in machine.node_of.items() if of == node)
        (folder / "cpulist").write_text(f"{cpus}\n")
