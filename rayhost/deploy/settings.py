"""What the files of a deployment are made from. Pure.

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
from rayhost.machine_share import system_part

_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9._@+/-]+")  # what a unit holds without quoting
_STOP_SPARE_S = 20  # workers save what is kept on disk, connections get their last bytes
_MIB = 1 << 20

ETC = "/etc/rayhost"
# What is served where nobody said anything else.
DEFAULT_PROFILE = '{\n  "models": [{ "name": "smollm2-135m" }],\n  "keys": "keys.json"\n}'


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of the templates' names."""

    address: str  # as in ListenStream=
    drain_s: float
    memory_high: int
    memory_max: int
    cpus: str = ""  # as in AllowedCPUs=; empty: all
    admin_socket: str = ""  # of a profile that names one; empty: where `rayhost reload` looks
    profile: str = DEFAULT_PROFILE  # the profile itself, as JSON
    prefix: str = "/opt/rayhost"
    etc: str = ETC
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
            "cpuset": f'    cpuset: "{self.cpus}"\n' if self.cpus else "",
            "reload_options": f" --socket {self.admin_socket}" if self.admin_socket else "",
            "profile_in_yaml": self.profile.replace("\n", "\n      "),
            "profile_in_container": _in_container(self.profile),
            "prefix": self.prefix,
            "etc": self.etc,
            "state": self.state,
            "user": self.user,
        }


def settings(profile: dict[str, Any], machine: Machine, cpus: str = "") -> Settings:
    """Return the settings for a profile that `read_profile` returned, or one like it.

    The profile's own CPUs, where it names all, go before `cpus`: units of others would not start.
    Raises RayhostError for an address that systemd cannot listen at, bad CPUs, and an admin socket
    that a unit cannot name.
    """
    cpus = pinned(profile) or cpus
    if cpus and not _are_cpus(cpus):
        raise RayhostError(f"{cpus!r} are no CPUs; expected numbers and ranges such as 0-2,4")
    listen = profile.get("listen", {})
    high, most = memory_limits(machine.memory)
    return Settings(
        address=_address(listen.get("host", "127.0.0.1"), listen.get("port", 8080)),
        drain_s=float(profile.get("limits", {}).get("drain_s", 30)),
        memory_high=high,
        memory_max=most,
        cpus=cpus,
        admin_socket=_socket(listen.get("admin_socket")),
        profile=json.dumps(profile, indent=2) if profile else DEFAULT_PROFILE,
    )


def _are_cpus(text: str) -> bool:
    ranges = [one.split("-") for one in text.split(",")] if _CPUS.fullmatch(text) else []
    return bool(ranges) and all(int(one[0]) <= int(one[-1]) for one in ranges)


def _socket(named: str | None) -> str:
    """Return where the service has its admin socket, if the profile says where."""
    if not named:
        return ""
    if not _PATH.fullmatch(named):
        raise RayhostError(
            f"listen.admin_socket: {named!r} cannot stand in a unit; expected a path of letters, "
            "digits and ._@+/-"
        )
    return str(Path(ETC, named))


def _in_container(profile: str) -> str:
    """Return the profile with its API keys in the volume, where `rayhost key add` puts them."""
    given = json.loads(profile)
    given.pop("keys", None)
    return json.dumps(given, indent=2)


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

    The first leaves the system what `rayhost plan` leaves it, so that what was planned fits; the
    second, beyond which something is killed, half of that.
    """
    rest = system_part(total)
    return max(total - rest, total // 2), max(total - rest // 2, total // 2)


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
