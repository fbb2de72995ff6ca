"""The real nginx and Caddy with what is rendered for them, before an app that a test controls.

What the proxies must not do is wait, so each event is sent only once the one before it arrived.
"""

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.types import Message, Receive, Scope, Send

from rayhost.deploy import files
from rayhost.deploy.proxy import KINDS, Proxy
from rayhost.http import sse
from tests.support import proxies
from tests.support.http_server import serving
from tests.support.proxies import DOMAIN, Running, running
from tests.support.waiting import DEADLINE_S

EVENTS = 5
LIMIT = 4096


class LockStep:
    """An app that streams; each event waits for its reader to have the one before."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)  # released by the client for each event it read
        self.gone = threading.Event()  # a client went away before its answer had ended
        self.headers: dict[str, str] = {}
        self.client = ""
        self.body = b""
        self.accel = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.client = scope["client"][0]
        self.body = await _body(receive)
        if scope["path"] == "/health":
            await _answer(send, 503 if self.body else 200, b'{"workers": "secret"}')
        elif scope["path"] == "/echo":
            await _answer(send, 200, str(len(self.body)).encode())
        else:
            await self._stream(receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        headers = [one for one in sse.HEADERS if self.accel or one[0] != b"x-accel-buffering"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        leaving = asyncio.ensure_future(_left(receive))
        for number in range(EVENTS):
            body = sse.event(number)
            await send({"type": "http.response.body", "body": body, "more_body": True})
            reading = asyncio.ensure_future(
                asyncio.to_thread(self.arrived.acquire, timeout=DEADLINE_S)
            )
            done, _ = await asyncio.wait({reading, leaving}, return_when="FIRST_COMPLETED")
            if leaving in done:
                self.gone.set()
                self.arrived.release()
                await reading
                return
            assert reading.result(), "an event never arrived"
        leaving.cancel()
        await send({"type": "http.response.body", "body": sse.DONE})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    proxies.needs(found, "openssl")
    return found


@pytest.fixture
def app() -> LockStep:
    return LockStep()


@pytest.fixture
def proxy(kind: str, app: LockStep, tmp_path: Path) -> Iterator[Running]:
    with (
        serving(app) as url,
        running(kind, url.removeprefix("http://"), tmp_path, body_bytes=LIMIT) as it,
    ):
        yield it


def connect(proxy: Running) -> http.client.HTTPSConnection:
    """A connection that trusts the certificate, and the name in it."""
    parts = urlsplit(proxy.url)
    context = ssl.create_default_context(cafile=proxy.certificate)
    return http.client.HTTPSConnection(DOMAIN, parts.port, timeout=DEADLINE_S, context=context)


def ask(
    proxy: Running, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(connect(proxy)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def read_in_step(response: http.client.HTTPResponse, app: LockStep) -> None:
    for number in range(EVENTS):
        assert response.readline() == b"data: %d\n" % number
        assert response.readline() == b"\n"
        app.arrived.release()
    assert response.read() == sse.DONE


def test_its_own_program_finds_nothing_wrong(kind: str, tmp_path: Path) -> None:
    made, key = proxies.certificate(tmp_path)
    own = Proxy(DOMAIN, "127.0.0.1:8080", certificate=str(made), certificate_key=str(key))
    judged = proxies.check(kind, own, tmp_path)
    assert judged.returncode == 0, judged.stderr
    if kind == "nginx":
        assert judged.stdout + judged.stderr == ""


@pytest.mark.parametrize("accel", [True, False])
def test_each_event_arrives_before_the_next_is_sent(
    app: LockStep, proxy: Running, accel: bool
) -> None:
    app.accel = accel  # the configuration does it without our header, too
    with contextlib.closing(connect(proxy)) as connection:
        connection.request("POST", "/v1/chat/completions", b"{}")
        response = connection.getresponse()
        assert response.headers["content-type"].startswith("text/event-stream")
        read_in_step(response, app)


def test_our_header_alone_keeps_an_nginx_that_buffers_from_doing_so(
    app: LockStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = files.render_proxy

    def buffering(kind: str, given: Proxy) -> dict[str, str]:
        found = rendered(kind, given)
        return {
            name: text.replace("proxy_buffering off", "proxy_buffering on")
            for name, text in found.items()
        }

    monkeypatch.setattr(proxies, "render_proxy", buffering)
    with (
        serving(app) as url,
        running("nginx", url.removeprefix("http://"), tmp_path) as proxy,
        contextlib.closing(connect(proxy)) as connection,
    ):
        connection.request("POST", "/v1/completions", b"{}")
        read_in_step(connection.getresponse(), app)


def test_a_client_that_goes_away_is_gone_for_the_app(app: LockStep, proxy: Running) -> None:
    connection = connect(proxy)
    connection.request("POST", "/v1/completions", b"{}")
    response = connection.getresponse()
    assert response.readline() == b"data: 0\n"
    response.close()
    connection.close()
    assert app.gone.wait(DEADLINE_S)


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "/admin/state",
        "/admin",
        "//metrics",
        "/%6Detrics",
        "/v1/../metrics",
    ],
)
def test_what_is_the_operators_is_not_there(app: LockStep, proxy: Running, path: str) -> None:
    status, headers, body = ask(proxy, "GET", path)
    assert status == 404
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["error"]["code"] == "not_found"
    assert app.headers == {}


def test_health_is_a_status_without_details(app: LockStep, proxy: Running) -> None:
    status, _, body = ask(proxy, "GET", "/health")
    assert (status, body) == (204, b"")
    assert app.headers


def test_a_body_as_large_as_the_profile_allows_passes_and_a_larger_one_is_413(
    app: LockStep, proxy: Running
) -> None:
    assert ask(proxy, "POST", "/echo", b"x" * LIMIT)[::2] == (200, str(LIMIT).encode())
    status, headers, body = ask(proxy, "POST", "/echo", b"x" * (LIMIT + 1))
    assert status == 413
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_the_app_sees_the_clients_own_address_whatever_it_says(
    app: LockStep, proxy: Running
) -> None:
    ask(proxy, "POST", "/echo", b"", **{"X-Forwarded-For": "9.9.9.9", "X-Real-IP": "9.9.9.9"})
    assert app.headers["x-forwarded-for"] == app.headers["x-real-ip"] == app.client
    assert app.client in ("127.0.0.1", "::1")
    assert app.headers["x-forwarded-proto"] == "https"
    assert app.headers["host"].startswith(DOMAIN)


def test_http_2_is_offered(proxy: Running) -> None:
    context = ssl.create_default_context(cafile=proxy.certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = urlsplit(proxy.url).port
    with (
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname=DOMAIN) as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"


def test_plain_http_is_sent_on_with_its_method(proxy: Running) -> None:
    connection = http.client.HTTPConnection(DOMAIN, proxy.plain_port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/models?a=b", b"{}")
        response = connection.getresponse()
        assert response.status == 308
        location = urlsplit(response.headers["location"])
    assert (location.scheme, location.hostname) == ("https", DOMAIN)
    assert (location.path, location.query) == ("/v1/models", "a=b")


def test_an_app_that_is_not_there_is_an_error_that_clients_can_read(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # only nginx: Caddy goes on trying for ten seconds
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with running("nginx", f"127.0.0.1:{nobody.getsockname()[1]}", tmp_path) as proxy:
            status, headers, body = ask(proxy, "POST", "/v1/completions", b"{}")
            assert (status, headers["Retry-After"]) == (502, "5")
            assert json.loads(body)["error"]["code"] == "unavailable"
            assert ask(proxy, "GET", "/health")[0] == 503


def test_one_address_has_a_bounded_number_of_requests_at_once(
    app: LockStep, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(app))
        proxy = stack.enter_context(running("nginx", url.removeprefix("http://"), tmp_path))
        statuses = []
        for _ in range(65):
            connection = stack.enter_context(contextlib.closing(connect(proxy)))
            connection.request("POST", "/v1/completions", b"{}")
            response = connection.getresponse()
            statuses.append(response.status)
            if response.status == 429:
                assert response.headers["retry-after"] == "1"
                assert json.loads(response.read())["error"]["code"] == "rate_limit_exceeded"
                break
        assert statuses[0] == 200
        assert statuses[-1] == 429
