"""Whether a CPU quota stops the service in the middle of its steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import Group, quota_cores

_SLICE = "rayhost.slice"
_SERVICE = f"{_SLICE}/rayhost.service"


class Quota(NamedTuple):
    """A quota in cores, and the unit that has it; none for the whole machine."""

    unit: str
    cores: float


def read(root: Path) -> Quota | None:
    """Return the least quota that the service is under."""
    top = root / "sys/fs/cgroup"
    found = []
    for name in ("", _SLICE, _SERVICE):
        groups = (Group(2, (top / name,)), Group(1, (top / "cpu" / name,)))
        found += [
            Quota(name.rpartition("/")[2], cores) for cores in map(quota_cores, groups) if cores
        ]
    return min(found, key=lambda one: one.cores, default=None)


def check(quota: Quota | None) -> Iterator[Finding]:
    """Yield it if a worker cannot have even one CPU for itself."""
    if quota is None or quota.cores >= 1:
        return  # no more threads are started than whole CPUs are allowed
    yield Finding(
        "cpus",
        "warning",
        f"{quota.unit or 'this machine'} may use {quota.cores:g} CPUs",
        "the kernel stops a worker in the middle of its steps: tokens come in bursts",
        f"systemctl set-property {quota.unit} CPUQuota=" if quota.unit else "",
        ""
        if quota.unit
        else "whoever runs the machine or container sets this: ask for a whole CPU",
    )
