"""The configuration of a reverse proxy in front of rayhost, nginx or Caddy, for one domain. Pure.

Invariant: what the proxy lets through is what the profile allows, and a name or path that would
break out of its line is refused. Standard library only, as everything in this package.
"""

import re
from dataclasses import dataclass
from typing import Any

from rayhost.deploy.settings import Settings
from rayhost.errors import RayhostError

KINDS = ("nginx", "caddy")
FILES = {"nginx": "nginx.conf", "caddy": "Caddyfile"}  # of each kind, in the folder `proxy`

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_PATH = re.compile(r"/[A-Za-z0-9._@+/-]+")
_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """What the templates of a proxy name. Times are seconds; the defaults are the profile's."""

    domain: str
    upstream: str  # ADDRESS:PORT on this machine
    body_bytes: int = 1 << 20
    head_s: float = 10.0
    body_s: float = 60.0
    reader_s: float = 60.0
    certificate: str = ""  # empty: Let's Encrypt's, through certbot or by Caddy itself
    certificate_key: str = ""
    http_port: int = 80
    https_port: int = 443

    def values(self) -> dict[str, str]:
        """Return what stands in the templates, by name."""
        live = f"/etc/letsencrypt/live/{self.domain}"
        pair = f"tls {self.certificate} {self.certificate_key}"
        return {
            "domain": self.domain,
            "upstream": self.upstream,
            "body_bytes": str(self.body_bytes),
            "head_ms": str(round(self.head_s * 1000)),
            "body_ms": str(round(self.body_s * 1000)),
            "reader_ms": str(round(self.reader_s * 1000)),
            "certificate": self.certificate or f"{live}/fullchain.pem",
            "certificate_key": self.certificate_key or f"{live}/privkey.pem",
            "caddy_tls": f"\t{pair}\n\n" if self.certificate else "",
            "http_port": str(self.http_port),
            "https_port": str(self.https_port),
        }


def proxy(
    settings: Settings,
    limits: dict[str, Any],
    domain: str,
    certificate: str = "",
    certificate_key: str = "",
) -> Proxy:
    """Return the proxy of a deployment; `limits` is that section of the profile, as JSON.

    Raises RayhostError for a domain that is none, and for paths that a configuration cannot hold.
    """
    if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
        raise RayhostError(f"{domain!r} is no domain; expected a name such as llm.example.org")
    if bool(certificate) != bool(certificate_key):
        raise RayhostError("a certificate and its key go together: name both files, or neither")
    for path in filter(None, (certificate, certificate_key)):
        if not _PATH.fullmatch(path):
            raise RayhostError(f"{path!r} cannot be used; expected an absolute path without spaces")
    host, _, port = settings.address.rpartition(":")
    given = {
        name: limits[name]
        for name in ("body_bytes", "head_s", "body_s", "reader_s")
        if name in limits
    }
    return Proxy(
        domain=domain.lower(),
        upstream=f"{_ANY.get(host, host)}:{port}",
        certificate=certificate,
        certificate_key=certificate_key,
        **given,
    )
