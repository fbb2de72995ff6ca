"""The real nginx and Caddy of this machine in front of something, with what rayhost renders.

A test that asks for one is skipped where it is not installed. Both are gone when the block is.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rayhost.deploy.files import render_proxy
from rayhost.deploy.proxy import Proxy
from tests.support.waiting import eventually

DOMAIN = "localhost"
PACKAGES = {"nginx": "nginx-light", "caddy": "caddy", "openssl": "openssl"}

_NGINX = """
pid {folder}/nginx.pid;
worker_processes 1;
daemon off;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {file};
}}
"""


@dataclass(frozen=True)
class Running:
    """A proxy that answers."""

    url: str  # over TLS
    plain_port: int
    certificate: Path


def needs(*programs: str) -> None:
    """Skip the test unless all of them are installed."""
    if missing := [PACKAGES[one] for one in programs if shutil.which(one, path=_path()) is None]:
        pytest.skip(f"not installed here; to have it: apt-get install -y {' '.join(missing)}")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate; return it and its key."""
    needs("openssl")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", f"/CN={DOMAIN}", "-addext",
            f"subjectAltName=DNS:{DOMAIN}", "-keyout", key, "-out", made,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


def check(kind: str, given: Proxy, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let the proxy's own program judge its configuration."""
    return subprocess.run(
        _check(kind, _written(kind, given, folder), folder),
        check=False,
        capture_output=True,
        text=True,
        env=_environment(folder),
    )


@contextlib.contextmanager
def running(kind: str, upstream: str, folder: Path, body_bytes: int = 1 << 20) -> Iterator[Running]:
    """Start a proxy of `nginx` or `caddy` before the address `upstream`, on free ports."""
    needs(kind)
    made, key = certificate(folder)
    plain, secure = _free_port(), _free_port()
    given = replace(
        Proxy(DOMAIN, upstream, certificate=str(made), certificate_key=str(key)),
        http_port=plain,
        https_port=secure,
        body_bytes=body_bytes,
    )
    log = folder / f"{kind}.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            _serve(kind, _written(kind, given, folder), folder),
            stdout=out,
            stderr=out,
            env=_environment(folder),
        ) as process,
    ):
        try:

            def listens() -> bool:
                assert process.poll() is None, log.read_text()
                with socket.socket() as probe:
                    return probe.connect_ex(("127.0.0.1", secure)) == 0

            eventually(listens, f"{kind} to listen")
            yield Running(f"https://{DOMAIN}:{secure}", plain, made)
        finally:
            process.terminate()


def _written(kind: str, given: Proxy, folder: Path) -> Path:
    ((name, text),) = render_proxy(kind, given).items()
    path = folder / Path(name).name
    path.write_text(text)
    if kind == "nginx":
        main = folder / "main.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        main.write_text(_NGINX.format(folder=folder, file=path, user=user))
        return main
    return path


def _check(kind: str, file: Path, folder: Path) -> list[str]:
    if kind == "nginx":
        return ["nginx", "-t", "-q", "-e", "stderr", "-p", str(folder), "-c", str(file)]
    return ["caddy", "validate", "--adapter", "caddyfile", "--config", str(file)]


def _serve(kind: str, file: Path, folder: Path) -> list[str]:
    if kind == "nginx":
        return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)]
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


def _environment(folder: Path) -> dict[str, str]:
    # Caddy keeps what it has in its home, and would listen for its own commands at a fixed port.
    return {"PATH": _path(), "HOME": str(folder), "CADDY_ADMIN": f"unix/{folder}/admin.sock"}


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
