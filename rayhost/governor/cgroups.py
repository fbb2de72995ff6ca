"""Where this process's control groups are, v1 and v2, and what they allow. A thin shell over files.

Invariant: a file that is missing, unreadable or `max` sets no limit; groups are looked at from the
process's own up to the mount's root, as any of them may be the tightest. `governor.readings` calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

_NONE = 1 << 60  # v1 says a multiple of the page size just below 2^63 for "no limit"


class Memory(NamedTuple):
    """One group: its limit, and its working set: what it uses beyond idle file pages.

    `cached` of that are file pages in use, such as weights: they can be dropped and read again.
    """

    limit: int
    used: int
    cached: int


class Throttle(NamedTuple):
    """How often and how long a quota stopped the group, since it was made."""

    periods: int
    stopped_ns: int


@dataclass(frozen=True, slots=True)
class Group:
    """One controller's groups, the process's own first and the mount's root last."""

    version: Literal[1, 2]
    folders: tuple[Path, ...]


def find(root: Path, controller: str) -> Group | None:
    """Return the groups that hold the controller for this process; None where it is not mounted."""
    own = dict(_own_paths(root))
    for mount in _mounts(root):
        key = "" if mount.version == 2 else controller
        if key not in own or (mount.version == 1 and controller not in mount.controllers):
            continue
        path = own[key]
        # A container may be shown its path as the host knows it, below what is mounted for it.
        inside = path.removeprefix(mount.root.rstrip("/")).strip("/")
        top = root / mount.point.lstrip("/")
        leaf = top / inside
        if not leaf.is_dir():
            leaf = top
        if mount.version == 2 and controller not in read(top / "cgroup.controllers").split():
            continue  # on a mixed machine v1 has it
        return Group(mount.version, tuple(_upwards(leaf, top)))
    return None


def tightest(group: Group | None) -> Memory | None:
    """Return the group with the least room below a limit, or None if none is set."""
    limited = list(_memories(group)) if group else []
    return min(limited, key=lambda one: one.limit - one.used + one.cached, default=None)


def quota_cores(group: Group | None) -> float | None:
    """Return the least CPU quota on the way up, in cores, or None if none is set."""
    return min((quota for quota, _ in _quotas(group)), default=None)


def throttle(group: Group | None) -> Throttle:
    """Return how the group with the least quota was throttled; zeros where none is set.

    A group counts only what its own quota stopped, and a service's quota may be its slice's.
    """
    least = min(_quotas(group), default=None)
    if least is None:
        return Throttle(0, 0)
    stat = fields(read(least[1] / "cpu.stat"))
    stopped_ns = stat.get("throttled_usec", 0) * 1000 or stat.get("throttled_time", 0)
    return Throttle(stat.get("nr_throttled", 0), stopped_ns)


def kills(group: Group | None) -> int:
    """Return how often the kernel killed a process of the own group for want of memory."""
    if group is None:
        return 0
    file = "memory.events" if group.version == 2 else "memory.oom_control"
    return fields(read(group.folders[0] / file)).get("oom_kill", 0)


def read(path: Path) -> str:
    """Return a kernel file's text, empty where there is none for us."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def fields(text: str) -> dict[str, int]:
    """Return the `name number` lines of a text."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _memories(group: Group) -> Iterator[Memory]:
    v2 = group.version == 2
    for folder in group.folders:
        limit = _limit(folder, v2=v2)
        usage = _number(folder / ("memory.current" if v2 else "memory.usage_in_bytes"))
        if limit is None or usage is None or limit >= _NONE:
            continue
        stat = fields(read(folder / "memory.stat"))
        prefix = "" if v2 else "total_"
        used = max(0, usage - stat.get(f"{prefix}inactive_file", 0))
        yield Memory(limit, used, min(used, stat.get(f"{prefix}active_file", 0)))


def _limit(folder: Path, *, v2: bool) -> int | None:
    """Return what a group may hold in good health: above `memory.high` it is slowed to a crawl."""
    names = ("memory.max", "memory.high") if v2 else ("memory.limit_in_bytes",)
    limits = (_number(folder / name) for name in names)
    return min((one for one in limits if one is not None), default=None)


def _quotas(group: Group | None) -> Iterator[tuple[float, Path]]:
    if group is None:
        return
    for folder in group.folders:
        if quota := _quota(group, folder):
            yield quota, folder


def _quota(group: Group, folder: Path) -> float | None:
    if group.version == 2:
        words = read(folder / "cpu.max").split()
        quota, period = (*words, "", "")[:2]
    else:
        quota = read(folder / "cpu.cfs_quota_us").strip()
        period = read(folder / "cpu.cfs_period_us").strip()
    # v1 says -1, v2 max.
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _number(path: Path) -> int | None:
    text = read(path).strip()
    return int(text) if text.isdigit() else None


class _Mount(NamedTuple):
    version: Literal[1, 2]
    root: str
    point: str
    controllers: frozenset[str]


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3 or right[0] not in {"cgroup", "cgroup2"}:
            continue
        version: Literal[1, 2] = 2 if right[0] == "cgroup2" else 1
        yield _Mount(version, left[3], left[4], frozenset(right[2].split(",")))


def _own_paths(root: Path) -> Iterator[tuple[str, str]]:
    """Yield this process's path by controller; by the empty name in the v2 hierarchy."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        for name in names.split(","):
            yield name, path


def _upwards(leaf: Path, top: Path) -> Iterator[Path]:
    yield leaf
    while leaf != top:
        leaf = leaf.parent
        yield leaf
