"""What tells a program of this machine from a web page that a browser on it shows. Pure.

Where no key is asked for, being on this machine is the key, and a browser there sends what any page
says: from its own origin, or by a name that its owner has lead to 127.0.0.1 (DNS rebinding).
Invariant: neither gets past `refuse`; what is no browser is never kept out by its Origin. Used by
`auth`.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from rayhost.errors import Forbidden

_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")
_INSTEAD = 'make an API key (`rayhost key add NAME`), or say "open": true under "listen"'


@dataclass(frozen=True, slots=True)
class Pages:
    """What may be in the headers of those who have no key."""

    names: frozenset[str] = frozenset()  # of this machine, beside localhost and any address
    origins: tuple[str, ...] = ()  # whose pages may call; "*" for any

    def refuse(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise Forbidden for a request that a page of somebody else may have sent."""
        hosts, origins = [], []
        for name, value in headers:
            if name == b"host":
                hosts.append(value.decode("latin-1").lower())
            elif name == b"origin":
                origins.append(value.decode("latin-1").lower())
        for host in hosts:
            if not self._is_here(host):
                raise Forbidden(
                    f"Host: {host[:100]!r} is not a name of this machine, and without API keys "
                    f"only localhost and addresses are answered: {_INSTEAD}",
                    code="foreign_host",
                    param="Host",
                )
        for origin in origins:
            if not self._may_call(origin, hosts):
                raise Forbidden(
                    f"Origin: {origin[:100]!r} may not call: there are no API keys, and it is "
                    f'not in "origins" under "listen". Name it there, {_INSTEAD}',
                    code="foreign_origin",
                    param="Origin",
                )

    def _is_here(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts[1].removesuffix(".")
        here = name in ("", "localhost") or name.endswith(".localhost") or name in self.names
        return here or _is_address(name)

    def _may_call(self, origin: str, hosts: list[str]) -> bool:
        scheme, _, site = origin.partition("://")
        if scheme not in ("http", "https", "null"):  # of a program, an extension: never of a page
            return True
        listed = "*" in self.origins or origin in [one.lower() for one in self.origins]
        return listed or site in hosts  # our own page


@lru_cache(maxsize=256)  # 4 µs otherwise, for each request
def _is_address(name: str) -> bool:
    """Tell whether a name is an address, which nobody can have lead elsewhere."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
