"""Whether a reverse proxy on this machine, or the way to a URL, holds tokens back."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import read

LUMP = 0.5  # of an answer's time: a first event that comes later came with the others
SHORT_S = 0.25  # an answer that takes less says nothing of lumps
_COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)
_PLACES = ("etc/nginx/conf.d", "etc/nginx/sites-enabled", "etc/caddy")


class Configuration(NamedTuple):
    """A file that leads to our port, without its comments."""

    path: Path
    text: str

    @property
    def kind(self) -> str:
        """`nginx` or `caddy`."""
        return "caddy" if "caddy" in self.path.parts else "nginx"


def read_configurations(root: Path, port: int) -> list[Configuration]:
    """Return the files of nginx and Caddy that name the port behind an address."""
    found = []
    for place in _PLACES:
        folder = root / place
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            text = _COMMENT.sub("", read(path))
            if re.search(rf"(proxy_pass|server|reverse_proxy|to)\s[^;\n]*:{port}\b", text):
                found.append(Configuration(path, text))
    return found


def check(configurations: Sequence[Configuration]) -> Iterator[Finding]:
    """Yield what these files do to answers."""
    for one in configurations:
        fix = f"rayhost deploy render --out DIR --proxy {one.kind} --domain DOMAIN"
        if one.kind == "nginx":
            yield from _nginx(one, fix)
        if "metrics" not in one.text:
            yield Finding(
                "proxy",
                "warning",
                f"{one.path} leads to /metrics",
                "without API keys everybody reads what this host does, with them every client",
                fix,
            )


def _nginx(one: Configuration, fix: str) -> Iterator[Finding]:
    ignored = re.search(r"proxy_ignore_headers[^;]*X-Accel-Buffering", one.text, re.IGNORECASE)
    if not re.search(r"proxy_buffering\s+off", one.text):
        yield Finding(
            "proxy",
            "error" if ignored else "warning",
            f"{one.path} has no `proxy_buffering off`",
            "streams arrive in lumps"
            if ignored
            else "only our header X-Accel-Buffering keeps streams from arriving in lumps",
            fix,
        )
    if not re.search(r"proxy_read_timeout", one.text):
        yield Finding(
            "proxy",
            "warning",
            f"{one.path} has no `proxy_read_timeout`",
            "an answer that is not streamed and takes over 60 s becomes a 504",
            fix,
        )


def check_arrivals(url: str, arrivals_s: Sequence[float]) -> Iterator[Finding]:
    """Yield it if the events of a stream, asked for at 0, came together at its end."""
    if len(arrivals_s) > 2 and arrivals_s[-1] > SHORT_S and arrivals_s[0] > LUMP * arrivals_s[-1]:
        yield Finding(
            "proxy",
            "error",
            f"a stream through {url} arrived in a lump: its first event came after "
            f"{arrivals_s[0]:.1f} s, its last after {arrivals_s[-1]:.1f} s",
            "clients see nothing until an answer has ended",
            "rayhost deploy render --out DIR --proxy nginx --domain DOMAIN, and compare",
        )
