"""What the files of a deployment are made from. Pure, but for reading the profile.

Invariant: whatever a unit says of addresses, times and memory comes from the profile and the
machine through here, so that `install.sh` can be run again after either changed.
"""

import ipaddress
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayhost.deploy.machine import Machine
from rayhost.errors import RayhostError

_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_STOP_SPARE_S = 20  # workers save what is kept on disk, connections get their last bytes
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of the templates' names."""

    address: str  # as in ListenStream=
    drain_s: float
    memory_high: int
    memory_max: int
    cpus: str = ""  # as in AllowedCPUs=; empty: all
    prefix: str = "/opt/rayhost"
    etc: str = "/etc/rayhost"
    state: str = "/var/lib/rayhost"
    user: str = "rayhost"

    @property
    def stop_s(self) -> int:
        """Seconds from asking it to end to killing it."""
        return int(self.drain_s) + _STOP_SPARE_S

    def values(self) -> dict[str, str]:
        """Return what stands in the templates, by name."""
        return {
            "address": self.address,
            "port": self.address.rpartition(":")[2],
            "stop_s": str(self.stop_s),
            "memory_high": f"{self.memory_high // _MIB}M",
            "memory_max": f"{self.memory_max // _MIB}M",
            "allowed_cpus": f"AllowedCPUs={self.cpus}\n" if self.cpus else "",
            "cpu_affinity": f"CPUAffinity={self.cpus}\n" if self.cpus else "",
            "prefix": self.prefix,
            "etc": self.etc,
            "state": self.state,
            "user": self.user,
        }


def read_profile(profile: Path | None) -> dict[str, Any]:
    """Return a profile as JSON, not checked; empty for none. Raises RayhostError."""
    if profile is None:
        return {}
    try:
        given = json.loads(profile.read_text())
    except (OSError, ValueError) as error:
        raise RayhostError(f"{profile}: cannot be read: {error}") from None
    return given if isinstance(given, dict) else {}


def settings(profile: dict[str, Any], machine: Machine, cpus: str = "") -> Settings:
    """Return the settings for a profile, as JSON; `rayhost check` says what else is wrong with it.

    The profile's own CPUs, where it names all, go before `cpus`: units of others would not start.
    Raises RayhostError for an address that systemd cannot listen at, and for bad CPUs.
    """
    cpus = pinned(profile) or cpus
    if cpus and not _CPUS.fullmatch(cpus):
        raise RayhostError(f"{cpus!r} are no CPUs; expected numbers and ranges such as 0-2,4")
    listen = profile.get("listen", {})
    high, most = memory_limits(machine.memory)
    return Settings(
        address=_address(listen.get("host", "127.0.0.1"), listen.get("port", 8080)),
        drain_s=float(profile.get("limits", {}).get("drain_s", 30)),
        memory_high=high,
        memory_max=most,
        cpus=cpus,
    )


def pinned(profile: dict[str, Any]) -> str:
    """Return all CPUs of a profile that names them for front and workers; empty for another."""
    cpus = profile.get("cpus", {})
    named = [cpus.get("front", "auto"), cpus.get("workers", "auto")]
    if "auto" in named:
        return ""
    named += [model.get("cpus", "auto") for model in profile.get("models", ())]
    every = {cpu for one in named if one != "auto" for cpu in one}
    return ",".join(str(cpu) for cpu in sorted(every))


def memory_limits(total: int) -> tuple[int, int]:
    """Return MemoryHigh and MemoryMax in bytes, of a machine with so many.

    The rest is for the system, the proxy and whoever logs in to see what is wrong: a tenth, and at
    least 128 MiB, before anything is killed, and half as much again before reclaim begins.
    """
    rest = max(total // 10, 128 * _MIB)
    return max(total - rest * 3 // 2, total // 2), max(total - rest, total // 2)


def _address(host: object, port: object) -> str:
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(str(host))
    except ValueError:
        raise RayhostError(f"systemd listens at addresses, and {host!r} is none") from None
    if not isinstance(port, int) or not 0 < port < 65536:
        raise RayhostError(f"systemd listens at a fixed port, and {port!r} is none")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
