"""Whether a reverse proxy on this machine, or the way to a URL, spoils answers or tells secrets."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor import caddy, nginx
from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import read

LUMP = 0.5  # of an answer's time: a first event that comes later came with the others
SHORT_S = 0.25  # an answer that takes less says nothing of lumps
_INCLUDE = re.compile(r"(?<![^\s{};])include\s+([^;\s]+)\s*;")
_NGINX = "etc/nginx"
_MAIN = "nginx.conf"
_PLACES = (f"{_NGINX}/conf.d", f"{_NGINX}/sites-enabled", "etc/caddy")
_OUT = "/root/proxy"


class Configuration(NamedTuple):
    """A file of nginx or Caddy."""

    path: Path
    text: str

    @property
    def kind(self) -> str:
        """`nginx` or `caddy`."""
        return "caddy" if "caddy" in self.path.parts else "nginx"


def read_configurations(root: Path) -> list[Configuration]:
    """Return the files of nginx and Caddy, with what they include in its place."""
    main = root / _NGINX / _MAIN
    found = [Configuration(main, read(main))]  # as it is: what it includes are the others
    for place in _PLACES:
        folder = root / place
        paths = sorted(folder.iterdir()) if folder.is_dir() else ()
        found += [Configuration(path, _whole(root, read(path))) for path in paths]
    return found


def check(found: Sequence[Configuration], port: int, profile: Path | None) -> Iterator[Finding]:
    """Yield what these files do to answers of the host at a port."""
    trees = [(one, nginx.parse(one.text)) for one in found if one.kind == "nginx"]
    names = frozenset(name for _, tree in trees for name in nginx.upstreams(tree, port))
    main = [block for one, tree in trees if one.path.name == _MAIN for block in tree.named("http")]
    for one, tree in trees:
        outer = [] if one.path.name == _MAIN else main
        servers = list(nginx.servers(tree, port, names, outer))
        alone = len(servers) == sum(1 for _ in tree.named("server"))
        for server in servers:
            yield from _nginx(one, server, _mended(one, server, profile, alone=alone))
    for one in found:
        if one.kind == "caddy":
            tree = caddy.parse(one.text)
            for site in caddy.sites(tree, port):
                if caddy.metrics_are_open(site, port):
                    yield _open_metrics(one, _mended(one, None, profile, alone=False))


class _Mending(NamedTuple):
    fix: str
    advice: str


def _mended(
    one: Configuration, server: nginx.Server | None, profile: Path | None, *, alone: bool
) -> _Mending:
    """Return how to get to our configuration; put in place where the file has no other site."""
    given = {"--proxy": one.kind}
    if profile:
        given["--profile"] = str(profile)
    if server:
        domains = [word for words in server.block.values("server_name") for word in words]
        given["--domain"] = next((word for word in domains if word[0] not in "_*~"), "DOMAIN")
        for option, name in (
            ("--certificate", "ssl_certificate"),
            ("--certificate-key", "ssl_certificate_key"),
        ):
            if value := nginx.setting((server.block,), name):
                given[option] = value
    else:
        given["--domain"] = "DOMAIN"
    options = " ".join(f"{name} {shlex.quote(value)}" for name, value in given.items())
    render = f"rayhost deploy render --out {_OUT} {options}"
    made, place = (
        f"{_OUT}/proxy/{'Caddyfile' if server is None else 'nginx.conf'}",
        shlex.quote(str(one.path)),
    )
    advice = "put the site's name for DOMAIN" if given["--domain"] == "DOMAIN" else ""
    if alone:
        return _Mending(
            f"{render} && cp {made} {place} && nginx -t && systemctl reload nginx", advice
        )
    take = f"take over what differs by hand, then: systemctl reload {one.kind}"
    return _Mending(f"{render} && diff {place} {made}", "; ".join(filter(None, (advice, take))))


def _nginx(one: Configuration, server: nginx.Server, mending: _Mending) -> Iterator[Finding]:
    chains = server.locations
    if any(nginx.setting(chain, "proxy_buffering") != "off" for chain in chains):
        ignored = any(
            "x-accel-buffering" in (nginx.setting(chain, "proxy_ignore_headers") or "").lower()
            for chain in chains
        )
        yield Finding(
            "proxy",
            "error" if ignored else "warning",
            f"{one.path} has no `proxy_buffering off`",
            "streams arrive in lumps"
            if ignored
            else "only our header X-Accel-Buffering keeps streams from arriving in lumps",
            *mending,
        )
    if any(nginx.setting(chain, "proxy_read_timeout") is None for chain in chains):
        yield Finding(
            "proxy",
            "warning",
            f"{one.path} has no `proxy_read_timeout`",
            "an answer that is not streamed and takes over 60 s becomes a 504",
            *mending,
        )
    if server.metrics_are_open:
        yield _open_metrics(one, mending)


def _open_metrics(one: Configuration, mending: _Mending) -> Finding:
    return Finding(
        "proxy",
        "warning",
        f"{one.path} leads to /metrics",
        "without API keys everybody reads what this host does, with them every client",
        *mending,
    )


def _whole(root: Path, text: str, depth: int = 3) -> str:
    """Return a configuration with the files in it that it includes."""

    def included(found: re.Match[str]) -> str:
        pattern = found[1].lstrip("/") if found[1][0] == "/" else f"{_NGINX}/{found[1]}"
        return "\n".join(_whole(root, read(one), depth - 1) for one in sorted(root.glob(pattern)))

    return _INCLUDE.sub(included, text) if depth else text


def check_arrivals(url: str, arrivals_s: Sequence[float]) -> Iterator[Finding]:
    """Yield it if the events of a stream, asked for at 0, came together at its end."""
    if len(arrivals_s) > 2 and arrivals_s[-1] > SHORT_S and arrivals_s[0] > LUMP * arrivals_s[-1]:
        yield Finding(
            "proxy",
            "error",
            f"a stream through {url} arrived in a lump: its first event came after "
            f"{arrivals_s[0]:.1f} s, its last after {arrivals_s[-1]:.1f} s",
            "clients see nothing until an answer has ended",
            f"rayhost deploy render --out {_OUT} --proxy nginx --domain DOMAIN",
            "put the site's name for DOMAIN, and compare with the proxy's configuration",
        )
