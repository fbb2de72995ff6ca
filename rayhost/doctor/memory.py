"""Whether what the profile promises fits into memory, and whether the kernel gets in its way."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rayhost.deploy.machine import this_machine
from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import fields, read
from rayhost.machine_share import machine_of

SWAPPINESS = 10
# What the slice may hold in good health, as `governor.cgroups` takes it: v2, v1.
_SLICE = (
    "rayhost.slice/memory.max",
    "rayhost.slice/memory.high",
    "memory/rayhost.slice/memory.limit_in_bytes",
)
_MIB = 1 << 20
_THP = "sys/kernel/mm/transparent_hugepage"
_UNTIL_BOOT = "until the next boot; a file in /etc/tmpfiles.d does it at every one"


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine; sizes in bytes."""

    limit: int  # of the machine, or of the container that it is
    slice_limit: int | None  # of the running service
    swap: int
    swappiness: int
    huge_pages: str  # as the kernel writes: the choice in brackets
    defrag: str


def read_memory(root: Path) -> Memory:
    """Read it."""
    limits = (read(root / "sys/fs/cgroup" / name).strip() for name in _SLICE)
    swap = fields(
        read(root / "proc/meminfo").replace(":", " ").replace(" kB", "")
    )  # in KiB, as all of that file
    swappiness = read(root / "proc/sys/vm/swappiness").strip()
    return Memory(
        limit=this_machine(root / "proc", root / "sys/fs/cgroup").memory,
        slice_limit=min((int(one) for one in limits if one.isdigit()), default=None),
        swap=swap.get("SwapTotal", 0) << 10,
        swappiness=int(swappiness) if swappiness.isdigit() else 0,
        huge_pages=read(root / _THP / "enabled").strip(),
        defrag=read(root / _THP / "defrag").strip(),
    )


def planned_for(memory: Memory) -> tuple[int, str]:
    """Return the memory that a profile has to fit into, and whose it is.

    As of a whole machine, of which the system takes its part: the slice is the service's alone.
    """
    if memory.slice_limit is not None:
        limit = machine_of(memory.slice_limit)
        if limit < memory.limit:
            return limit, f"the {memory.slice_limit // _MIB} MiB of rayhost.slice"
    return memory.limit, f"{memory.limit // _MIB} MiB"


def check_plan(profile: str, memory: Memory, refusal: str | None) -> Iterator[Finding]:
    """Yield it if a profile was refused for the memory of `planned_for`."""
    if refusal:
        limit, whose = planned_for(memory)
        yield Finding(
            "memory",
            "error",
            f"the profile does not fit into {whose}: {refusal}",
            "the host refuses to start",
            f"rayhost plan {shlex.quote(profile)} --memory {limit // _MIB}MiB",
            "lower what the refusal names in the profile until that fits",
        )


def check_kernel(memory: Memory) -> Iterator[Finding]:
    """Yield what the kernel is told that does not suit inference."""
    if memory.swap and memory.swappiness > SWAPPINESS:
        yield Finding(
            "swap",
            "warning",
            f"there is swap, and vm.swappiness is {memory.swappiness}",
            "KV cells may be written to disk while idle file pages stay; a step then waits for it",
            f"sysctl -w vm.swappiness={SWAPPINESS} && "
            f"echo vm.swappiness={SWAPPINESS} >/etc/sysctl.d/90-rayhost.conf",
        )
    if "[always]" in memory.defrag:
        yield Finding(
            "huge pages",
            "warning",
            "transparent huge pages are made by compacting memory while a page fault waits",
            "steps stall where memory is fragmented, for milliseconds",
            f"echo madvise >/{_THP}/defrag",
            _UNTIL_BOOT,
        )
    if "[always]" in memory.huge_pages:
        yield Finding(
            "huge pages",
            "note",
            "transparent huge pages are given to every process",
            "resident memory may be some MiB a process above the plan",
            f"echo madvise >/{_THP}/enabled",
            _UNTIL_BOOT,
        )
