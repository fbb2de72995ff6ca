"""Who listens at the profile's port, and how many files that process may open."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rayhost.doctor.finding import Finding
from rayhost.governor.cgroups import read

SPARE_DESCRIPTORS = 256  # as `http.server`: for all but connections
_LISTEN = "0A"


class Holder(NamedTuple):
    """A process that has a listening socket."""

    pid: int
    name: str
    command: str

    @property
    def ours(self) -> bool:
        """Whether it is rayhost, or systemd, which keeps our socket open."""
        return self.pid == 1 or "rayhost" in self.command


def taken(root: Path, port: int) -> frozenset[str]:
    """Return the inodes of sockets that listen at a TCP port."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in read(root / "proc/net" / name).splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN and words[1].endswith(f":{port:04X}"):
                found.add(words[9])
    return frozenset(found)


def holders(root: Path, inodes: frozenset[str]) -> list[Holder]:
    """Return the processes with any of these sockets, as far as this user may see."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return [_holder(folder) for folder in _processes(root) if wanted & set(_links(folder))]


def open_files(root: Path, pid: str) -> int | None:
    """Return the hard limit of open files of a process; None where there is none, or it is hidden.

    rayhost raises its soft limit by itself.
    """
    for line in read(root / "proc" / pid / "limits").splitlines():
        if line.startswith("Max open files"):
            hard = line.split()[4]
            return int(hard) if hard.isdigit() else None
    return None


def check(port: int, inodes: frozenset[str], found: Sequence[Holder]) -> Iterator[Finding]:
    """Yield it if somebody else has the port."""
    strangers = [one for one in found if not one.ours]
    if inodes and strangers and len(strangers) == len(found):
        who = ", ".join(f"{one.name} (pid {one.pid})" for one in strangers)
        yield Finding(
            "port",
            "error",
            f"port {port} is held by {who}",
            "rayhost cannot listen there and ends at its start",
            f"systemctl stop {shlex.quote(strangers[0].name)}",
            "or choose another `listen.port` in the profile",
        )
    elif inodes and not found:
        yield Finding(
            "port",
            "note",
            f"port {port} is held by a process of another user",
            "whether that is rayhost, only root can see",
            "sudo rayhost doctor",
        )


def check_open_files(connections: int, hard: int | None, *, service: bool) -> Iterator[Finding]:
    """Yield it if the limit is too low for the profile's connections."""
    needed = connections + SPARE_DESCRIPTORS
    if hard is not None and hard < needed:
        yield Finding(
            "open files",
            "error",
            f"at most {hard} files may be open, and {connections} connections take {needed}",
            "clients beyond that are refused",
            "systemctl revert rayhost.service && systemctl restart rayhost"
            if service
            else f"ulimit -n {needed}",
            "rayhost.service has LimitNOFILE=131072, unless it was changed"
            if service
            else "as root, in the shell that starts it; or lower `limits.connections`",
        )


def _processes(root: Path) -> Iterator[Path]:
    return (one for one in (root / "proc").iterdir() if one.name.isdigit())


def _links(process: Path) -> Iterator[str]:
    try:
        for link in (process / "fd").iterdir():
            yield str(link.readlink())
    except OSError:  # of another user, or gone
        return


def _holder(process: Path) -> Holder:
    command = read(process / "cmdline").replace("\0", " ").strip()
    return Holder(int(process.name), read(process / "comm").strip(), command)
