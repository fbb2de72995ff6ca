"""Where the admin socket lies, how it is made, and how `rayhost top` asks it. A leaf.

Invariant: nobody but the host's own user can open it: mode 0600 from its first moment, in a folder
of that user alone.
"""

import contextlib
import http.client
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rayhost.errors import RayhostError

TIMEOUT_S = 5.0
SERVICE_FOLDER = Path("/run/rayhost")  # RuntimeDirectory= of the system's service
ANSWER_S = 120.0  # a restart is answered once the new worker is ready
_MAX_PATH = 92  # bytes: what the kernel's sockaddr_un has, less those of a passing name


def folder() -> Path:
    """Return the folder of sockets: what systemd or the session made for us, else one in /tmp."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):  # systemd: perhaps several, the first is ours
        return Path(given.split(":")[0])
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "rayhost"
    return Path(tempfile.gettempdir()) / f"rayhost-{os.getuid()}"


def default_path(port: int) -> Path:
    """Return the socket of the host that listens on a TCP port."""
    return folder() / f"{port}.sock"


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Make the socket, listen on it, and remove it in the end.

    Raises RayhostError, naming the path, when it cannot be had or another host has it.
    """
    if len(os.fsencode(path)) > _MAX_PATH:
        raise RayhostError(f"{path}: the path of an admin socket has at most {_MAX_PATH} bytes")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _make_folder(path.parent)
        _clear(path)
        mask = os.umask(0o177)
        try:
            listener.bind(str(new))
        finally:
            os.umask(mask)
        listener.listen(16)
        listener.setblocking(False)
        new.rename(path)  # so one that does not answer is of a host that is gone
    except OSError as error:
        listener.close()
        raise RayhostError(f"{path}: cannot make the admin socket: {error.strerror}") from None
    except RayhostError:
        listener.close()
        raise
    try:
        with listener:
            yield listener
    finally:
        path.unlink(missing_ok=True)


def running() -> list[Path]:
    """Return the sockets of the hosts of this user that run now; root also sees the service's."""
    folders = {folder(), SERVICE_FOLDER}
    found = (path for one in folders for path in one.glob("*.sock"))
    return sorted(path for path in found if _answers(path))


def only_host() -> Path:
    """Return the socket of the one host that runs. Raises RayhostError for none or several."""
    match running():
        case [path]:
            return path
        case []:
            raise RayhostError(
                f"no running host of this user found in {folder()}; start one with "
                "`rayhost serve`, or name its socket with --socket"
            )
        case several:
            listed = ", ".join(map(str, several))
            raise RayhostError(f"several hosts run; choose one with --socket: {listed}")


def ask(
    path: Path, method: str, target: str, timeout_s: float | None = ANSWER_S
) -> tuple[int, bytes]:
    """Return status and body. Raises RayhostError when no host answers there."""
    connection = _Connection(path, timeout_s)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise RayhostError(f"{path}: no rayhost answers there: {error}") from None
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("rayhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _make_folder(parent: Path) -> None:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = parent.stat()
    # In /tmp anybody can make the folder first, and then change what is in it.
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RayhostError(f"{parent}: others can write there, so no place for the admin socket")


def _clear(path: Path) -> None:
    """Remove the sockets of hosts that were killed; nothing else is ever removed."""
    if _answers(path):
        raise RayhostError(f"{path}: another rayhost has this admin socket")
    for one in {path, *folder().glob("*.sock")}:
        if _is_socket(one) and not _answers(one):
            one.unlink(missing_ok=True)
    if path.exists():
        raise RayhostError(f"{path}: cannot make the admin socket: it is no socket but a file")


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TIMEOUT_S)
        return probe.connect_ex(str(path)) == 0
