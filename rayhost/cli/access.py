"""Who may reach a host: decided before it listens, told when it starts. `serve` calls it.

Invariant: without API keys it listens to other machines, and to web pages, only if the profile
says so.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayhost.errors import RayhostError
from rayhost.front.keys import KeyRing
from rayhost.front.request import Priority
from rayhost.http.pages import Pages


@dataclass(frozen=True, slots=True)
class Access:
    """What the way in is made of. The last two are about those without a key: the highest priority
    that they get, and which of them are kept out, None: nobody.
    """

    ring: KeyRing
    origins: tuple[str, ...]
    notice: str
    ceiling: Priority = Priority.HIGH
    pages: Pages | None = None


def access(
    hosts: Sequence[str], keys: Path, origins: tuple[str, ...], *, open_to_all: bool
) -> Access:
    """Return who may reach a host that listens at `hosts`. Raises RayhostError where nobody may."""
    ring = KeyRing(keys)
    if ring.configured:
        return Access(ring, origins, f"API keys are needed: those in {keys}")
    away = next((one for one in hosts if not _is_loopback(one)), "")
    if open_to_all:
        reached = away or "this machine, through a proxy too,"
        notice = f"there are no API keys, and everybody who can reach {reached} may ask"
        return Access(ring, origins, notice, Priority.NORMAL)
    if away:
        raise RayhostError(
            f"there are no API keys, so {away} will not be listened at: make one with "
            '`rayhost key add NAME`, or say "open": true under "listen" in the profile to serve '
            "everybody who can reach this machine"
        )
    notice = "there are no API keys: every program on this machine may ask"
    names = frozenset(host.lower() for host in hosts)
    return Access(ring, origins, notice, pages=Pages(names, origins))


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        address = found[0][4][0]
        return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback
    except (OSError, UnicodeError):
        return True  # nothing can listen there: the server says why
