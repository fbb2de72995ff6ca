"""A machine below a folder, sound until a test breaks something, and a host that says how it is."""

import contextlib
import hashlib
import json
import os
import shutil
import socketserver
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec

from rayhost import __version__
from rayhost import profile as profiles
from rayhost.cli.examination import Examination, Subject
from rayhost.deploy.machine import this_machine
from rayhost.doctor import units
from rayhost.doctor.build import Build
from rayhost.doctor.finding import Finding
from rayhost.front.state import HostState, ProfileState
from rayhost.profile import digests
from tests.cli import states

PORT = 8080
INODE = 4242
USER = 64000
FLAGS = "fpu avx2 fma f16c avx512f avx512_vnni"
NATIVE = "CPU : AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | AVX512 = 1 | AVX512_VNNI = 1 | "
GENERIC = "CPU : LLAMAFILE = 1 | OPENMP = 1 | "
PROFILE: dict[str, Any] = {
    "models": [{"name": "tiny", "source": "pypi:tiny==1", "context": 256, "concurrency": 1}],
    "keys": "keys.json",
}
NGINX = """
upstream rayhost { server 127.0.0.1:8080; }
server {
    proxy_buffering off;
    proxy_read_timeout 1h;
    location ~ ^/metrics { return 404; }
    location / { proxy_pass http://rayhost; }
}
"""


class Machine:
    """A fake root with an installed rayhost. `build` is what its llama.cpp says of itself."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self.home = root / "var/lib/rayhost"
        self.socket = root / "run/rayhost/8080.sock"
        self.profile = root / "etc/rayhost/profile.json"
        self.build = Build(NATIVE)
        self.unread = ""  # what systemd says of the units
        self.state = states.host(
            states.model("tiny"),
            version=__version__,
            url=f"http://127.0.0.1:{PORT}",
        )
        self._kernel()
        self.write("etc/passwd", f"rayhost:x:{USER}:{os.getgid()}::/var/lib/rayhost:\n")
        self.write("etc/rayhost/keys.json", '{"keys": []}', 0o640)
        self.write("etc/nginx/conf.d/rayhost.conf", NGINX)
        self.write_profile(PROFILE)
        self._process(7, "rayhost", "/opt/rayhost/current/bin/python -m rayhost serve")
        self.write_units()
        self.store(model)

    def _kernel(self) -> None:
        self.write("proc/cpuinfo", f"model name : Fake\nflags : {FLAGS}\n")
        self.write("proc/meminfo", "MemTotal: 4194304 kB\nSwapTotal: 0 kB\n")
        self.write("proc/sys/vm/swappiness", "60\n")
        self.write("sys/fs/cgroup/memory.max", "max\n")
        folder = "sys/kernel/mm/transparent_hugepage"
        self.write(f"{folder}/enabled", "always [madvise] never\n")
        self.write(f"{folder}/defrag", "always defer defer+madvise [madvise] never\n")
        row = f"0: 0100007F:{PORT:04X} 00000000:0000 0A 0:0 00:0 0 0 0 {INODE} 1"
        self.write("proc/net/tcp", f"  sl  local_address ...\n  {row}\n")

    def _process(self, pid: int, name: str, command: str) -> None:
        shutil.rmtree(self.root / f"proc/{pid}", ignore_errors=True)
        self.write(f"proc/{pid}/comm", f"{name}\n")
        self.write(f"proc/{pid}/cmdline", command.replace(" ", "\0"))
        self.limit_files(131072, pid)
        (self.root / f"proc/{pid}/fd").mkdir()
        (self.root / f"proc/{pid}/fd/5").symlink_to(f"socket:[{INODE}]")

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def write_profile(self, value: Mapping[str, Any]) -> None:
        """Write it, and let the host have taken it in."""
        self.write("etc/rayhost/profile.json", json.dumps(value))
        in_force = ProfileState(digests(profiles.load(self.profile)))
        self.state = msgspec.structs.replace(self.state, profile=in_force)

    def write_units(self) -> None:
        machine = this_machine(self.root / "proc", self.root / "sys/fs/cgroup")
        for name, text in units.wanted(json.loads(self.profile.read_text()), machine, {}).items():
            self.write(f"{units.FOLDER}/{name}", text)

    def limit_files(self, hard: int, pid: int = 7) -> None:
        self.write(f"proc/{pid}/limits", f"Max open files            1024   {hard}   files\n")

    def held_by(self, name: str) -> None:
        self._process(7, name, f"{name}: master process")

    def store(self, model: Path) -> None:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        self.model = self.home / "models/tiny" / f"{digest[:16]}.gguf"
        self.model.parent.mkdir(parents=True)
        shutil.copy(model, self.model)
        about = self.model.stat()
        manifest = {
            "file": self.model.name,
            "source": "pypi:tiny==1",
            "sha256": digest,
            "size_bytes": about.st_size,
            "mtime_ns": about.st_mtime_ns,
        }
        (self.model.parent / "manifest.json").write_text(json.dumps(manifest))

    def rot(self) -> None:
        """Change a byte of the model, as a bad disk does: size and time stay."""
        about = self.model.stat()
        content = bytearray(self.model.read_bytes())
        content[-1] ^= 1
        self.model.write_bytes(content)
        os.utime(self.model, ns=(about.st_atime_ns, about.st_mtime_ns))

    def examined(self, *, deep: bool = False) -> list[Finding]:
        """All findings, but for whether this real machine's clock is synchronized."""
        subject = Subject(
            self.profile, self.socket, deep, self.root, lambda: self.build, lambda: self.unread
        )
        with answering(self):
            found = list(Examination(subject).findings())
        return [one for one in found if "not synchronized" not in one.what]


@contextlib.contextmanager
def answering(machine: Machine) -> Iterator[None]:
    """Let the machine's host answer at its admin socket."""
    machine.socket.parent.mkdir(parents=True, exist_ok=True)
    mode = machine.socket.stat().st_mode if machine.socket.exists() else 0o600
    machine.socket.unlink(missing_ok=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = _encoded(machine.state)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.UnixStreamServer(str(machine.socket), Handler) as server:
        machine.socket.chmod(mode & 0o777)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _encoded(state: HostState) -> bytes:
    return msgspec.json.encode(state)
