"""How much memory the machine has for us: the least of what the kernel and the cgroup say.

In a container, and on the VPS that are containers, /proc/meminfo tells of somebody else's machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rayhost.sizes import parse_size

_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is."""

    memory: int  # bytes


def this_machine(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Machine:
    """Read it."""
    return Machine(min(_memory(proc, cgroup)))


def described(memory: str) -> Machine:
    """Return a machine with so much memory, as people write it; this one for none."""
    return Machine(parse_size(memory)) if memory else this_machine()


def _memory(proc: Path, cgroup: Path) -> Iterator[int]:
    total = next(
        line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    yield int(total.split()[1]) << 10
    for name in _LIMITS:
        try:
            limit = (cgroup / name).read_text().strip()
        except OSError:  # another version of cgroups, or the root of all, which has no limit
            continue
        if limit != "max":
            yield int(limit)
