"""A host as systemd runs it: sockets that outlive it, what it says of itself, its watchdog."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.ask import body, complete, send, streaming
from tests.end_to_end.conftest import LONG
from tests.support.host import Host, started, tiny, write_profile
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy

WATCHDOG_S = 0.6
ACTIVATE = 'exec 3<&"$1"; shift; LISTEN_FDS=1 LISTEN_FDNAMES=http LISTEN_PID=$$ exec "$@"'


class Manager:
    """systemd's side: the socket that listens, and the one that hears."""

    def __init__(self, folder: Path) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._notify = folder / "notify"
        self._hears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hears.bind(str(self._notify))
        self.said: list[str] = []
        # At once, as systemd does: the kernel keeps 10 messages, and drops READY after them.
        self._hearing = threading.Thread(target=self._hear)
        self._hearing.start()

    def close(self) -> None:
        self.listener.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self._notify))
        self._hearing.join()
        self._hears.close()

    def _hear(self) -> None:
        while message := self._hears.recv(4096):
            self.said.append(message.decode())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def heard(self, text: str) -> int:
        """How often a message began with a text, so far."""
        return sum(message.startswith(text) for message in list(self.said))

    @contextmanager
    def starting(self, profile: Path, store: Path) -> Iterator[Host]:
        number = self.listener.fileno()
        variables = [f"NOTIFY_SOCKET={self._notify}", f"WATCHDOG_USEC={WATCHDOG_S * 1e6:.0f}"]
        prefix = ["bash", "-c", ACTIVATE, "bash", str(number), "env", *variables]
        with started(profile, store, prefix=prefix, pass_fds=[number]) as host:
            yield host


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@pytest.fixture
def profile(models: Path) -> Path:
    return write_profile(models / "systemd.json", [tiny(context=LONG)], drain_s=60)


def test_a_life_is_told_from_loading_to_the_end(
    manager: Manager, profile: Path, store: Path
) -> None:
    with manager.starting(profile, store) as host:
        assert host.url == manager.url
        eventually(lambda: manager.heard("READY=1"), "READY")
        assert manager.said[0].startswith("EXTEND_TIMEOUT_USEC=")
        assert "1 ready" in next(one for one in manager.said if one.startswith("READY"))
        eventually(lambda: manager.heard("WATCHDOG=1") >= 3, "the watchdog to be fed")
        host.process.send_signal(signal.SIGHUP)
        eventually(lambda: manager.heard("RELOADING=1\nMONOTONIC_USEC="), "the reload")
        eventually(lambda: manager.heard("READY=1") == 2, "its end")
        for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC"):
            assert name not in host.worker().environ()
        host.terminate()
        assert host.exit_status() == 0
    assert manager.heard("STOPPING=1") == 1


def test_a_front_that_stands_still_is_not_fed(manager: Manager, profile: Path, store: Path) -> None:
    with manager.starting(profile, store) as host:
        eventually(lambda: manager.heard("WATCHDOG=1"), "the watchdog to be fed")
        host.front.suspend()
        fed = manager.heard("WATCHDOG=1")
        with pytest.raises(httpx.TimeoutException):
            httpx.get(f"{host.url}/health", timeout=3 * WATCHDOG_S)
        assert manager.heard("WATCHDOG=1") == fed
        host.front.resume()
        eventually(lambda: manager.heard("WATCHDOG=1") > fed, "the watchdog to be fed")


def test_who_connects_while_a_host_ends_is_answered_by_the_next_one(
    manager: Manager, profile: Path, store: Path
) -> None:
    with manager.starting(profile, store) as host:
        with streaming(host, max_tokens=1500) as stream, httpx.Client() as kept_alive:
            kept_alive.get(f"{host.url}/health")
            stream.first_text()
            early = socket.create_connection(manager.listener.getsockname())
            with host.frozen():
                eventually(lambda: connections(host) == 3, "all of them to be accepted")
                host.terminate()
                eventually(lambda: manager.heard("STOPPING=1"), "the host to go down")
                eventually(lambda: connections(host) == 2, "the idle one to be closed")
                late = send(host)
                early.sendall(request(host, "early"))
            assert stream.rest()[1] == "length"
        answer = early.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 OK"), "accepted, so answered"
        assert b"connection: close" in answer
        assert host.exit_status() == 0
        assert "late" not in host.requests()
    with manager.starting(profile, store), late, early:
        assert late.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_host_that_was_killed_leaves_its_socket(
    manager: Manager, profile: Path, store: Path
) -> None:
    with manager.starting(profile, store) as host:
        os.kill(host.process.pid, signal.SIGKILL)
        assert host.exit_status() == -signal.SIGKILL
        waiting = send(host)
    with manager.starting(profile, store) as host, waiting:
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert complete(host).status_code == 200


def connections(host: Host) -> int:
    """Client connections that the front holds."""
    port = int(host.url.rpartition(":")[2])
    return sum(
        one.status == "ESTABLISHED" and one.laddr.port == port
        for one in host.front.net_connections("tcp")
    )


def request(host: Host, request_id: str) -> bytes:
    content = httpx.Request("POST", host.url, json=body()).content
    return (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {request_id}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content
