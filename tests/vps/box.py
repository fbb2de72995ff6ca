"""A VPS in a box: Debian with systemd as PID 1, one CPU and 1 GiB that the kernel enforces.

Needs root, systemd-nspawn and mmdebstrap. The root file system is made once and kept outside of the
checkout; a box works on an overlay of it. Whatever a box made (processes, mounts, control groups)
is gone when its `with` block is.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.waiting import eventually

CACHE = Path("/var/cache/rayhost-vps")
SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "libgomp1", "iproute2", "procps",
    "curl", "openssl", "ca-certificates", "nginx-light", "caddy",
)  # fmt: skip
TOOLS = ("systemd-nspawn", "mmdebstrap", "nsenter", "mount")
MEMORY = 1 << 30
CPU = "0"
_CGROUPS = Path("/sys/fs/cgroup")
_NEWNET = 0x40000000
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """Return why there can be no box here, or nothing."""
    if os.geteuid() != 0:
        return "a VPS in a box needs root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {', '.join(missing)}: apt-get install -y mmdebstrap systemd-container"
    if not (_CGROUPS / "memory" / "memory.limit_in_bytes").exists():
        return "a VPS in a box needs the memory controller of cgroup v1"
    return ""


def root_filesystem() -> Path:
    """Return a Debian that boots, made the first time. Raises CalledProcessError without one."""
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    root = CACHE / key
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = CACHE / f"{key}.{os.getpid()}"
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        run(
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE,
            str(new), *([str(sources)] if sources.exists() else []),
        )  # fmt: skip
        # Their ports and their CPU are for the test that wants them.
        for unit in ("nginx.service", "caddy.service"):
            (new / "etc/systemd/system/multi-user.target.wants" / unit).unlink(missing_ok=True)
        new.rename(root)
    return root


def run(*command: str) -> None:
    """Run a command of the machine. Raises CalledProcessError, with what it said."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise


class Box:
    """A booted machine."""

    def __init__(self, root: Path, nspawn: int, leader: int, groups: Sequence[Path]) -> None:
        self.root = root
        self.leader = leader
        self._nspawn = nspawn
        self._groups = groups

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, on the box's CPU and memory. Fails with what it said."""
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self._groups)
        enter = [
            "nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid",
            "--cgroup", "--root", "--wd", "--", "env", "-i", f"PATH={_PATH}", "LC_ALL=C.UTF-8",
        ]  # fmt: skip
        result = subprocess.run(
            ["sh", "-c", f'{join} exec "$@"', "sh", *enter, *command],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if check and result.returncode:
            raise AssertionError(f"{command} failed: {result.stdout}\n{result.stderr}")
        return result

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, *options: str) -> str:
        """Return what the journal has of the service."""
        return self.run("journalctl", "--unit=rayhost.service", "--no-pager", *options).stdout

    def enter_network(self) -> None:
        """Let the calling thread make its sockets inside the box from now on."""
        with open(f"/proc/{self.leader}/ns/net", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def box(binds: Mapping[Path, str]) -> Iterator[Box]:
    """Boot a box that has the folders of `binds` at their places, read-only."""
    name = f"rayhost-vps-{os.getpid()}"
    with contextlib.ExitStack() as undo:
        work = Path(undo.enter_context(TemporaryDirectory(dir=_folder(), prefix=f"{name}.")))
        root = undo.enter_context(_overlay(root_filesystem(), work))
        # Every Debian has it but a minimal one; Caddy looks up its own `localhost`.
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        groups = [undo.enter_context(_group(one, name)) for one in ("memory", "cpuset")]
        (groups[0] / "memory.limit_in_bytes").write_text(str(MEMORY))
        (groups[1] / "cpuset.cpus").write_text(CPU)
        (groups[1] / "cpuset.mems").write_text("0")
        console = undo.enter_context((work / "console").open("w"))
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        nspawn = subprocess.Popen(
            [
                "sh", "-c", f'{join} exec "$@"', "sh",
                "systemd-nspawn", f"--directory={root}", f"--machine={name}", "--boot", "--quiet",
                "--register=no", "--keep-unit", "--private-network", "--link-journal=no",
                *(f"--bind-ro={source}:{place}" for source, place in binds.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        undo.callback(_end, nspawn)
        leader = _leader(nspawn, work / "console")
        undo.callback(os.kill, leader, signal.SIGKILL)  # nothing is kept: no power-off in order
        booted = Box(root, nspawn.pid, leader, groups)
        eventually(
            lambda: (
                booted.run("systemctl", "is-system-running", check=False).stdout.strip()
                in ("running", "degraded")
            ),
            "the box to boot",
        )
        # nspawn shows them read-only; the systemd of a VPS limits memory by itself.
        booted.run("mount", "-o", "remount,bind,rw", "/sys/fs/cgroup/memory")
        booted.run("systemctl", "daemon-reexec")
        yield booted


def _folder() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE


@contextlib.contextmanager
def _overlay(lower: Path, work: Path) -> Iterator[Path]:
    for part in ("upper", "work", "root"):
        (work / part).mkdir()
    layers = f"lowerdir={lower},upperdir={work}/upper,workdir={work}/work"
    run("mount", "-t", "overlay", "overlay", "-o", layers, str(work / "root"))
    try:
        yield work / "root"
    finally:
        run("umount", str(work / "root"))


@contextlib.contextmanager
def _group(controller: str, name: str) -> Iterator[Path]:
    group = _CGROUPS / controller / name
    group.mkdir()
    try:
        yield group
    finally:
        for pid in _members(group):  # of a box that did not come as far as to power off
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not _members(group), f"the end of every process in {group}")
        below = sorted((one.parent for one in group.rglob("cgroup.procs")), reverse=True)
        for folder in below:  # the deepest first, itself last
            folder.rmdir()


def _members(group: Path) -> list[int]:
    """Return the processes of a group and of those below it."""
    listed = [one.read_text() for one in group.rglob("cgroup.procs")]
    return [int(pid) for pid in " ".join(listed).split()]


def _leader(nspawn: subprocess.Popen[bytes], console: Path) -> int:
    """Return the process that is PID 1 inside."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")

    def found() -> list[str]:
        assert nspawn.poll() is None, console.read_text()
        return [child for child in children.read_text().split() if _name_of(child) == "systemd"]

    eventually(found, "PID 1 of the box")
    return int(found()[0])


def _name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # one of nspawn's own, gone by now
        return ""


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    nspawn.terminate()  # it lets the box power off
    try:
        nspawn.wait(30)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()
