"""What the kernel says of memory and CPU: this box's, and a process's. A thin shell over files.

Invariant: inside a container its control group decides, whatever /proc/meminfo shows of the host.
Counters only grow: who wants a rate takes the difference of two readings. Anyone may read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from rayhost.governor import cgroups
from rayhost.governor.cgroups import Throttle, fields, read

_KIB = 1024
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Pressure:
    """Shares of the last 10 s in which some, and in which all, tasks waited (PSI)."""

    some: float
    full: float


@dataclass(frozen=True, slots=True)
class Readings:
    """The box, in bytes. `limit` and `used` are of the tightest limit that holds for us.

    `used` is the working set: file pages that the kernel can drop for nothing are not in it. Of it
    `cached` are file pages in use, as weights are; the machine's own figure has none.
    """

    limit: int
    used: int
    cached: int
    available: int  # on the whole machine
    cgroup: bool  # the limit is a control group's, not the machine's
    memory: Pressure | None  # on whom the limit holds for; None: the kernel does not tell
    cores: float  # allowed CPUs, or fewer by quota
    kills: int = 0  # counter: processes of the group that the kernel killed for memory

    @property
    def room(self) -> int:
        """Bytes that may still be taken, weights that are mapped among them.

        File pages count as free: after a restart those of the last worker are still there, and what
        is planned counts its weights itself.
        """
        return max(0, min(self.limit - self.used + self.cached, self.available))


@dataclass(frozen=True, slots=True)
class CpuReadings:
    """What was kept from us of the CPUs. Who has fewer than it was promised sees it only here."""

    cores: float  # allowed CPUs, or fewer by quota
    stolen_s: float  # counter: taken by the hypervisor, of all CPUs together
    throttle: Throttle  # counters
    pressure: Pressure | None  # None: the kernel does not tell


@dataclass(frozen=True, slots=True)
class Process:
    """One process, in bytes. `major_faults` is a counter: pages that had to come from disk."""

    resident: int
    anonymous: int
    shared: int  # shared memory, as the rings are
    peak: int
    major_faults: int


class Kernel:
    """Reads the box. `root` is replaced in tests by recorded files."""

    def __init__(self, root: Path = Path("/")) -> None:
        # How many CPUs may be used, where this process is pinned to fewer than its children are.
        self.cpus: int | None = None
        self._root = root
        self._memory = cgroups.find(root, "memory")
        self._cpu = cgroups.find(root, "cpu")

    @property
    def memory_group(self) -> cgroups.Group | None:
        """The groups that hold this process's memory."""
        return self._memory

    @property
    def pressure_file(self) -> Path:
        """Where the kernel tells the pressure on memory."""
        group = self._memory
        if group is not None and group.version == 2:
            own = group.folders[0] / "memory.pressure"
            if own.exists():
                return own
        return self._root / "proc/pressure/memory"

    def read(self) -> Readings:
        """Return the box as it is now."""
        machine = self._meminfo()
        total, available = machine.get("MemTotal", 0), machine.get("MemAvailable", 0)
        group = cgroups.tightest(self._memory)
        within = group is not None and group.limit < total
        limit, used, cached = group if group and within else (total, total - available, 0)
        return Readings(
            limit=limit,
            used=used,
            cached=cached,
            available=available,
            cgroup=within,
            memory=self._pressure("memory", grouped=within),
            cores=self.cores(),
            kills=cgroups.kills(self._memory),
        )

    def cpu(self) -> CpuReadings:
        """Return what is kept from us of the CPUs."""
        return CpuReadings(
            cores=self.cores(),
            stolen_s=self._stolen_ticks() / _TICKS_S,
            throttle=cgroups.throttle(self._cpu),
            pressure=self._pressure("cpu", grouped=False),
        )

    def cores(self) -> float:
        """Return the CPUs that this process may use, or fewer where a quota gives less."""
        allowed = self.cpus or self._allowed_cpus()
        quota = self.quota()
        return min(allowed, quota) if quota else float(allowed)

    def quota(self) -> float | None:
        """Return how many CPUs the control group may use at once; None: as many as there are."""
        return cgroups.quota_cores(self._cpu)

    def process(self, pid: int | str) -> Process | None:
        """Return what a process holds, or None when it is gone."""
        folder = self._root / "proc" / str(pid)
        status, stat = _kib_fields(read(folder / "status")), read(folder / "stat")
        if "VmRSS" not in status or ")" not in stat:  # gone, or a zombie
            return None
        return Process(
            resident=status["VmRSS"],
            anonymous=status.get("RssAnon", 0),
            shared=status.get("RssShmem", 0),
            peak=status.get("VmHWM", 0),
            # Field 12 of proc(5); the name, in parentheses, may hold anything.
            major_faults=int(stat.rpartition(")")[2].split()[9]),
        )

    def children(self, pid: int) -> list[int]:
        """Return the processes that one has started, whichever of its threads did."""
        tasks = self._root / "proc" / str(pid) / "task"
        try:
            threads = [task.name for task in tasks.iterdir()]
        except OSError:  # gone
            return []
        listed = (read(tasks / thread / "children") for thread in threads)
        return [int(child) for children in listed for child in children.split()]

    def _meminfo(self) -> dict[str, int]:
        return _kib_fields(read(self._root / "proc/meminfo"))

    def _pressure(self, what: str, *, grouped: bool) -> Pressure | None:
        """Return the pressure on the own group, where the kernel keeps it by group.

        Else the machine's, unless a group's limit is what holds (`grouped`): then the machine's
        stalls are the neighbours'. v1 keeps none by group.
        """
        group = self._memory if what == "memory" else self._cpu
        text = ""
        if group and group.version == 2:
            text = read(group.folders[0] / f"{what}.pressure")
        if not text and not grouped:
            text = read(self._root / "proc/pressure" / what)
        return parse_pressure(text)

    def _stolen_ticks(self) -> int:
        first = read(self._root / "proc/stat").partition("\n")[0].split()
        return int(first[8]) if len(first) > 8 and first[0] == "cpu" else 0

    def _allowed_cpus(self) -> int:
        for line in read(self._root / "proc/self/status").splitlines():
            if line.startswith("Cpus_allowed_list:"):
                return count_cpus(line.partition(":")[2])
        return os.cpu_count() or 1


def count_cpus(listed: str) -> int:
    """Return how many CPUs a list such as `0-2,5` names, at least one."""
    count = 0
    for part in listed.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            count += int(last or first) - int(first) + 1
    return max(1, count)


def parse_pressure(text: str) -> Pressure | None:
    """Return the ten-second averages of a PSI file, which are in percent there."""
    shares = {"some": 0.0, "full": 0.0}
    found = False
    for line in text.splitlines():
        kind, *pairs = line.split()
        averages = dict(pair.partition("=")[::2] for pair in pairs)
        if kind in shares and "avg10" in averages:
            shares[kind] = float(averages["avg10"]) / 100
            found = True
    return Pressure(**shares) if found else None


def _kib_fields(text: str) -> dict[str, int]:
    """Return the `Name:  number kB` lines of a text, in bytes."""
    lines = (line.removesuffix(" kB").replace(":", " ") for line in text.splitlines())
    return {name: value * _KIB for name, value in fields("\n".join(lines)).items()}
