"""Whether the installed units are those that profile and machine ask for."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayhost.deploy.files import render
from rayhost.deploy.machine import Machine
from rayhost.deploy.settings import settings
from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import read

FOLDER = "etc/systemd/system"
_CPUS = re.compile(r"^AllowedCPUs=(\S+)$", re.MULTILINE)


def installed(root: Path) -> dict[str, str]:
    """Return the text of each of our units that is there."""
    names = ("rayhost.service", "rayhost.socket", "rayhost.slice")
    texts = {name: read(root / FOLDER / name) for name in names}
    return {name: text for name, text in texts.items() if text}


def wanted(profile: dict[str, Any], machine: Machine, cpus_of: Mapping[str, str]) -> dict[str, str]:
    """Return the units as install.sh would write them, on the CPUs that those installed name.

    Raises RayhostError for a profile that systemd cannot listen for.
    """
    found = _CPUS.search(cpus_of.get("rayhost.slice", ""))
    made = settings(profile, machine, found[1] if found else "")
    return {name.partition("/")[2]: text for name, text in render(made, "systemd").items()}


def check(there: Mapping[str, str], right: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the units that differ; none where the service is not installed."""
    if not there:
        return
    differing = [name for name, text in right.items() if there.get(name) != text]
    if differing:
        yield Finding(
            "units",
            "warning",
            f"not as this release, profile and machine ask for: {', '.join(differing)}",
            "address, limits and times of the profile hold only once the units say so",
            "run install.sh again (--dry-run shows what it changes)",
        )
