"""A proxy whose upstream lets a request fall, as a front does that ends in that moment."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rayhost.deploy.proxy import KINDS
from tests.deploy.test_proxy_live import ask
from tests.support import proxies
from tests.support.proxies import running

Falls = Callable[[int, int], bool]  # number of the connection, of the request on it


class Upstream:
    """Answers each request with its body, but for those that it lets fall unanswered."""

    def __init__(self, falls: Falls) -> None:
        self._falls = falls
        self.fallen = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._served: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> "Upstream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._served:
            thread.join()
        self.listener.close()

    def _accept(self) -> None:
        for number in range(1000):
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, number))
            self._served.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            for request in range(1000):
                if not lines.readline():
                    return
                body = lines.read(int(http.client.parse_headers(lines)["Content-Length"]))
                if self._falls(number, request):
                    self.fallen += 1
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                connection.sendall(body)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    proxies.needs(found, "openssl")
    return found


def test_no_request_is_lost_with_a_connection_that_closes_while_idle(
    kind: str, tmp_path: Path
) -> None:
    # Every second request on a connection comes just when the front has closed it.
    with (
        Upstream(lambda _, request: request > 0) as upstream,
        running(kind, upstream.address, tmp_path) as proxy,
    ):
        for number in range(5):
            body = b"%d" % number
            assert ask(proxy, "POST", "/v1/completions", body)[::2] == (200, body)
        assert upstream.fallen == (4 if kind == "nginx" else 0)  # Caddy keeps none


def test_nginx_sends_a_request_that_was_not_answered_at_all_once_more_and_no_oftener(
    tmp_path: Path,
) -> None:
    proxies.needs("nginx", "openssl")
    with (
        Upstream(lambda connection, _: connection != 1) as upstream,
        running("nginx", upstream.address, tmp_path) as proxy,
    ):
        assert ask(proxy, "POST", "/v1/completions", b"a")[::2] == (200, b"a")
        assert upstream.fallen == 1
    with (
        Upstream(lambda _, __: True) as upstream,
        running("nginx", upstream.address, tmp_path) as proxy,
    ):
        status, _, body = ask(proxy, "POST", "/v1/completions", b"a")
        assert (status, json.loads(body)["error"]["code"]) == (502, "unavailable")
        assert upstream.fallen == 2
