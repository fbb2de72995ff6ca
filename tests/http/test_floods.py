"""Many slow clients at once: the others are served, and the front's memory stays bounded."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from rayhost import procfs
from rayhost.http.server import room_for
from tests.http.asgi import CHAT, chat_body
from tests.http.flooded import BODY_BYTES, LONG
from tests.support.waiting import DEADLINE_S, eventually

MB = 1_000_000
READERS = SENDERS = 200
NORMAL = 8


@dataclass
class Flooded:
    url: str
    pid: int
    open: contextlib.ExitStack

    @property
    def rss(self) -> int:
        return procfs.rss_bytes(self.pid)

    def connect(self) -> socket.socket:
        where = urlsplit(self.url)
        client = self.open.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(DEADLINE_S)
        client.connect((where.hostname, where.port))
        return client

    def ask(self) -> str:
        """Be a normal client for one request."""
        body = chat_body(max_tokens=1)
        reply = httpx.post(self.url + CHAT, json=body, timeout=DEADLINE_S).raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])


@pytest.fixture
def flooded() -> Iterator[Flooded]:
    if room_for(READERS + SENDERS + 1000) < READERS + SENDERS + 1000:
        pytest.skip("too few file descriptors allowed here")
    command = [sys.executable, "-m", "tests.http.flooded"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        contextlib.ExitStack() as stack,
    ):
        assert process.stdout is not None
        try:
            server = Flooded(process.stdout.readline().strip(), process.pid, stack)
            assert server.ask() == "short"  # whatever is loaded at first use is loaded
            yield server
        finally:
            process.kill()


def post(size: int) -> bytes:
    return f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


def test_slow_readers_and_senders_leave_room_for_normal_clients(flooded: Flooded) -> None:
    before = flooded.rss
    body = json.dumps(chat_body(stream=True)).encode()
    readers = [flooded.connect() for _ in range(READERS)]
    for reader in readers:
        reader.sendall(post(len(body)) + body)
    for reader in readers:  # each has its answer's beginning, and leaves the rest
        assert reader.recv(12, socket.MSG_PEEK).startswith(b"HTTP/1.1 200")
    most = b"{" + b" " * (BODY_BYTES - 100_000)
    for _ in range(SENDERS):
        flooded.connect().sendall(post(BODY_BYTES) + most)
    with ThreadPoolExecutor(NORMAL) as clients:
        answers = list(clients.map(lambda _: flooded.ask(), range(10 * NORMAL)))
    assert answers == ["short"] * (10 * NORMAL)
    grown = flooded.rss - before
    # Held in full they would be 1,280 MB of answers and 190 MB of bodies.
    assert READERS * LONG + SENDERS * len(most) > 1_400 * MB
    assert grown < 150 * MB, f"{grown / MB:.0f} MB"


def test_a_thousand_idle_connections_cost_little(flooded: Flooded) -> None:
    before = flooded.rss
    for _ in range(1000):
        client = flooded.connect()
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12).startswith(b"HTTP/1.1 200")
    grown = flooded.rss - before
    assert flooded.ask() == "short"
    assert grown < 30 * MB, f"{grown / MB:.0f} MB"


def test_memory_comes_back_when_slow_clients_go(flooded: Flooded) -> None:
    body = json.dumps(chat_body(stream=True)).encode()

    def wave() -> int:
        for _ in range(100):
            client = flooded.connect()
            client.sendall(post(len(body)) + body)
            assert client.recv(12, socket.MSG_PEEK).startswith(b"HTTP/1.1 200")
        peak = flooded.rss
        flooded.open.close()
        fds = f"/proc/{flooded.pid}/fd"
        eventually(lambda: len(os.listdir(fds)) < 50, "the connections to be gone")
        return peak

    first = wave()
    peaks = [wave() for _ in range(3)]
    assert max(peaks) < first + 20 * MB
