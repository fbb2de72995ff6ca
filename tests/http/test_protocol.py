"""Raw bytes against the server: what is slow, too large or no HTTP is ended, and told why."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import ASGIApp

from rayhost.http import protocol
from rayhost.http.protocol import Bounds
from rayhost.metrics import Metrics
from tests.http.asgi import CHAT, chat_body
from tests.http.fake_front import FakeFront
from tests.support.http_server import serving
from tests.support.waiting import DEADLINE_S, eventually

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_A_BODY = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    where = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the kernel reads no further
        client.settimeout(DEADLINE_S)
        client.connect((where.hostname, where.port))
        yield client


@dataclass
class Answer:
    """All that came until the server closed."""

    raw: bytes

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.raw.partition(b"\r\n\r\n")[2])["error"]
        return error


def to_the_end(client: socket.socket) -> Answer:
    """Read until the server closes; a reset instead of an end fails the test."""
    parts = iter(lambda: client.recv(65536), b"")
    return Answer(b"".join(parts))


def hung_up_on(client: socket.socket) -> bool:
    """Whether the server closed without an answer; the kernel may tell so by a reset."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def exchange(url: str, sent: bytes) -> Answer:
    with connected(url) as client:
        client.sendall(sent)
        return to_the_end(client)


def closed(metrics: Metrics) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for family in metrics.families()
        for sample in family.samples
        if sample.name == "rayhost_connections_closed_total"
    }


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/9\r\n\r\n"])
def test_what_is_no_http_is_told_so_in_the_shape_of_an_openai_error(
    app: ASGIApp, sent: bytes
) -> None:
    metrics = Metrics()
    with serving(app, metrics=metrics) as url:
        answer = exchange(url, sent)
    assert (answer.status, answer.error["code"]) == (400, "malformed_http")
    assert answer.error["type"] == "invalid_request_error"
    assert b"connection: close" in answer.head
    assert closed(metrics) == {"malformed": 1}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX-A: " + b"a" * 3000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX-A: " + b"a" * 3000,  # and no end in sight
    ],
    ids=["path", "header", "endless header"],
)
def test_a_head_over_the_limit_is_431(app: ASGIApp, sent: bytes) -> None:
    with serving(app, Bounds(head_bytes=2048)) as url:
        answer = exchange(url, sent)
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")


CHUNKED = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n"
)


@pytest.mark.parametrize("one_piece", [True, False])
def test_a_trailer_is_no_header(app: ASGIApp, front: FakeFront, one_piece: bool) -> None:
    body = json.dumps(chat_body()).encode()
    sent = CHUNKED % (CHAT.encode(), len(body), body)
    trailers = b"X-Request-Id: smuggled\r\nX-Rayhost-Priority: bogus\r\n\r\n"
    with serving(app) as url, connected(url) as client:
        if one_piece:
            client.sendall(sent + trailers)
        else:
            client.sendall(sent)
            client.sendall(trailers)
        answer = to_the_end(client)
    assert answer.status == 200
    assert b"smuggled" not in answer.head


@pytest.mark.parametrize(
    ("begun", "more"),
    [(b"0\r\n", b"X-A: b\r\n"), (b"0\r\nX-A: ", b"aaaaaaaa"), (b"1;", b"aaaaaaaa")],
    ids=["many trailers", "one trailer", "a chunk's extension"],
)
def test_what_comes_beside_a_body_is_bounded(app: ASGIApp, begun: bytes, more: bytes) -> None:
    metrics = Metrics()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    with serving(app, Bounds(head_bytes=2048), metrics) as url, connected(url) as client:
        client.sendall(head % CHAT.encode() + begun)
        client.sendall(more * (1 << 17))  # a megabyte: more than the server reads at once
        answer = to_the_end(client)
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
    assert "trailer" in answer.error["message"]
    assert closed(metrics) == {"malformed": 1}


def test_a_body_in_small_chunks_has_no_such_bound(app: ASGIApp, front: FakeFront) -> None:
    body = json.dumps(chat_body(user="u" * 3000)).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(app, Bounds(head_bytes=2048)) as url, connected(url) as client:
        client.sendall(head % CHAT.encode())
        client.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert to_the_end(client).status == 200


def test_a_body_in_one_piece_with_its_head_is_not_taken_for_head(
    app: ASGIApp, front: FakeFront
) -> None:
    body = json.dumps(chat_body(user="u" * 3000)).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with serving(app, Bounds(head_bytes=2048)) as url:
        assert exchange(url, head % (CHAT.encode(), len(body)) + body).status == 200


def test_a_head_that_does_not_end_in_time_is_408(app: ASGIApp) -> None:
    metrics = Metrics()
    with serving(app, Bounds(head_s=0), metrics) as url:
        answer = exchange(url, b"GET /health HTTP/1.1\r\nHost:")
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert "head" in answer.error["message"]
    assert closed(metrics) == {"head_timeout": 1}


def test_a_client_that_says_nothing_is_hung_up_on_without_a_word(app: ASGIApp) -> None:
    with serving(app, Bounds(head_s=0)) as url:
        assert exchange(url, b"").raw == b""


def test_a_body_that_does_not_end_in_time_is_408_and_costs_nothing_more(
    app: ASGIApp, front: FakeFront
) -> None:
    metrics = Metrics()
    with serving(app, Bounds(body_s=0), metrics) as url:
        answer = exchange(url, HALF_A_BODY)
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert "body" in answer.error["message"]
    assert closed(metrics) == {"body_timeout": 1}
    assert not front.requests


def test_waiting_for_an_answer_is_nobodys_fault(app: ASGIApp, front: FakeFront) -> None:
    front.hold_submit = True
    body = json.dumps(chat_body()).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with (
        serving(app, Bounds(head_s=0, body_s=0)) as url,
        connected(url) as waiting,
        connected(url) as silent,
    ):
        waiting.sendall(head % (CHAT.encode(), len(body)) + body)
        assert front.submitting.wait()
        assert to_the_end(silent).raw == b""  # so both were looked at
        assert not front.submit_cancelled


def test_a_reader_that_takes_nothing_is_reset_and_its_run_ends(
    app: ASGIApp, front: FakeFront
) -> None:
    front.pieces = ["x" * 60_000] * 100
    front.hold_run = True
    metrics = Metrics()
    body = json.dumps(chat_body(stream=True)).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with serving(app, Bounds(reader_s=0), metrics) as url, connected(url) as client:
        client.sendall(head % (CHAT.encode(), len(body)) + body)
        assert front.started.wait()
        assert front.run.closed.wait()
    assert closed(metrics) == {"slow_reader": 1}


def test_connections_over_the_cap_are_told_to_come_back_and_the_others_go_on(app: ASGIApp) -> None:
    metrics = Metrics()
    with serving(app, Bounds(connections=1), metrics) as url, connected(url) as first:
        first.sendall(GET)
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
        answer = exchange(url, b"")
        assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
        assert b"retry-after: 1" in answer.head
        first.sendall(GET)
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
    assert closed(metrics) == {"full": 1}


def test_far_over_the_cap_connections_are_closed_without_a_word(
    app: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGERING", 2)
    monkeypatch.setattr(protocol, "LINGER_NS", 10**18)  # they stay until the test lets them go
    with serving(app, Bounds(connections=1)) as url:
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(url)) for _ in range(4)]
            assert hung_up_on(clients[3])
            assert to_the_end(clients[2]).status == 503
        eventually(lambda: httpx.get(f"{url}/health").status_code == 200, "room for one more")


def test_a_pipelined_request_is_left_for_its_client_to_send_again(app: ASGIApp) -> None:
    with serving(app) as url:
        answer = exchange(url, GET * 1000)
    assert answer.raw.count(b"HTTP/1.1 ") == 1
    assert answer.status == 200
    assert b"connection: close" in answer.head


def test_a_client_that_offers_http2_is_answered_in_http1(app: ASGIApp, front: FakeFront) -> None:
    body = json.dumps(chat_body()).encode()
    head = (
        b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n"
    )
    sent = head % (CHAT.encode(), len(body)) + body
    with serving(app) as url, connected(url) as client:
        for _ in range(2):  # the connection goes on
            client.sendall(sent[:-5])
            client.sendall(sent[-5:])
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(front.requests) == 2


def test_a_tunnel_is_refused(app: ASGIApp) -> None:
    with serving(app) as url:
        answer = exchange(url, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.error["code"]) == (400, "malformed_http")
