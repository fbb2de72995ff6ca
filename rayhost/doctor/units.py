"""Whether the installed units are those that profile and machine ask for, and hold as written."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rayhost.deploy.files import render
from rayhost.deploy.machine import Machine
from rayhost.deploy.settings import settings
from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import read

FOLDER = "etc/systemd/system"
INSTALL = "sh install.sh"
WHERE = "in the wheelhouse, or in deploy/ of the checkout, that the release is from"
_NAMES = ("rayhost.service", "rayhost.socket", "rayhost.slice")
_CPUS = re.compile(r"^AllowedCPUs=(\S+)$", re.MULTILINE)
_PORT = re.compile(r"^ListenStream=.*:(\d+)$", re.MULTILINE)
# Where files of one's own may change a unit, and settings that add to what it says.
_PLACES = (
    FOLDER, "etc/systemd/system.control", "run/systemd/system", "run/systemd/system.control",
    "usr/local/lib/systemd/system", "usr/lib/systemd/system",
)  # fmt: skip
_ADDING = frozenset({
    "After", "Wants", "Requires", "Environment", "EnvironmentFile", "LoadCredential", "Description",
})  # fmt: skip


class DropIn(NamedTuple):
    """A file that changes settings of a unit of ours."""

    unit: str
    path: Path
    settings: tuple[str, ...]


def installed(root: Path) -> dict[str, str]:
    """Return the text of each of our units that is there."""
    texts = {name: read(root / FOLDER / name) for name in _NAMES}
    return {name: text for name, text in texts.items() if text}


def assignments(text: str) -> dict[str, str]:
    """Return the settings of a unit by their names; of several with one name the last."""
    pairs = (line.partition("=") for line in text.splitlines() if line[:1].isalpha())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def port(there: Mapping[str, str]) -> int | None:
    """Return the port that the installed socket listens at, or None without one."""
    found = _PORT.search(there.get("rayhost.socket", ""))
    return int(found[1]) if found else None


def drop_ins(root: Path, there: Mapping[str, str]) -> Iterator[DropIn]:
    """Yield the files that set something else than the installed units say."""
    for unit, text in there.items():
        ours = assignments(text)
        kind = unit.rpartition(".")[2]
        for place in _PLACES:
            for folder in (f"{unit}.d", f"{kind}.d"):
                for path in sorted((root / place / folder).glob("*.conf")):
                    theirs = assignments(read(path))
                    other = (
                        name
                        for name, value in theirs.items()
                        if name in ours and name not in _ADDING and value != ours[name]
                    )
                    if names := tuple(other):
                        yield DropIn(unit, path, names)


def unread() -> str:
    """Return the names of our units that changed since systemd read them, a line each."""
    asked = ["systemctl", "show", "--property=Id,NeedDaemonReload", *_NAMES]
    try:
        done = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no systemd
        return ""
    units = (dict(line.split("=", 1) for line in one.splitlines()) for one in _blocks(done.stdout))
    return "\n".join(one["Id"] for one in units if one.get("NeedDaemonReload") == "yes")


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
            INSTALL,
            f"{WHERE}; with --dry-run it shows what it would change",
        )


def check_effect(changed: Iterator[DropIn], unread_units: str) -> Iterator[Finding]:
    """Yield why what the units say is not what holds."""
    for unit, path, names in changed:
        yield Finding(
            "units",
            "warning",
            f"{path} changes {', '.join(names)} of {unit}",
            "limits, times and hardening are not those of this release",
            f"rm {shlex.quote(str(path))} && systemctl daemon-reload && systemctl restart rayhost",
            "if it is not meant to be so; keep a copy of what else it sets",
        )
    if names_unread := unread_units.split():
        yield Finding(
            "units",
            "warning",
            f"changed, and systemd has not read them again: {', '.join(names_unread)}",
            "the service runs with what they said before",
            "systemctl daemon-reload && systemctl restart rayhost",
        )


def _blocks(shown: str) -> list[str]:
    return [one for one in shown.split("\n\n") if one.strip()]
