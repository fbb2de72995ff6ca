"""Who may reach a host: decided before it listens, told when it starts. `serve` calls it.

Invariant: without API keys it listens to other machines only if the profile says so.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhost.errors import RayhostError
from rayhost.front.keys import KeyRing
from rayhost.front.request import Priority


@dataclass(frozen=True, slots=True)
class Access:
    """What the way in is made of. `ceiling` is the highest priority of those without a key."""

    ring: KeyRing
    origins: tuple[str, ...]
    ceiling: Priority
    notice: str


def access(
    hosts: Sequence[str], keys: Path, origins: tuple[str, ...], *, open_to_all: bool
) -> Access:
    """Return who may reach a host that listens at `hosts`. Raises RayhostError where nobody may."""
    ring = KeyRing(keys)
    if ring.configured:
        return Access(ring, origins, Priority.HIGH, f"API keys are needed: those in {keys}")
    host = next((one for one in hosts if not _is_loopback(one)), "")
    if not host:
        notice = "there are no API keys: every program on this machine may ask"
        return Access(ring, origins, Priority.HIGH, notice)
    if not open_to_all:
        raise RayhostError(
            f"there are no API keys, so {host} will not be listened at: make one with "
            '`rayhost key add NAME`, or say "open": true under "listen" in the profile to serve '
            "everybody who can reach this machine"
        )
    notice = f"there are no API keys, and everybody who can reach {host} may ask"
    return Access(ring, origins, Priority.NORMAL, notice)


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        address = found[0][4][0]
        return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback
    except (OSError, UnicodeError):
        return True  # nothing can listen there: the server says why
