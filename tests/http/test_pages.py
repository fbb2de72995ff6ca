"""Without API keys: programs of this machine are answered, what browsers say for others is not."""

from pathlib import Path

import pytest
from starlette.types import ASGIApp

from rayhost.errors import Forbidden
from rayhost.front import keys
from rayhost.front.keys import KeyRing
from rayhost.http.app import build_app
from rayhost.http.auth import Gate
from rayhost.http.pages import Pages
from tests.http.asgi import CHAT, call, chat_body
from tests.http.conftest import BODY_BYTES
from tests.http.fake_front import FakeFront

PAGES = Pages(frozenset({"box.lan"}), ("https://a.Example",))


@pytest.mark.parametrize(
    "host",
    [
        None,  # HTTP/1.0, probes; browsers always have one
        "",
        "localhost",
        "LocalHost:8080",
        "localhost.:8080",
        "app.localhost:8080",
        "127.0.0.1:8080",
        "127.0.0.1",
        "[::1]:8080",
        "[::1]",
        "192.0.2.7:80",  # a port that is forwarded; nobody can lead an address elsewhere
        "box.lan:8080",
    ],
)
def test_this_machine_is_asked_by_its_names_and_addresses(host: str | None) -> None:
    PAGES.refuse([] if host is None else [(b"host", host.encode())])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "evil.example:80:80",
        "localhost@evil.example",
        "[evil.example]",
        "::1",
        "\xff",
    ],
)
@pytest.mark.parametrize("before", [[], [(b"host", b"localhost")]])
def test_another_name_is_refused_and_the_way_out_told(
    host: str, before: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(Forbidden, match=r"rayhost key add NAME.*\"open\": true") as refused:
        PAGES.refuse([*before, (b"host", host.encode("latin-1"))])
    assert (refused.value.code, refused.value.param) == ("foreign_host", "Host")


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://a.example", True),
        ("http://localhost:8080", True),  # our own page
        ("tauri://localhost", True),  # no page of a browser
        ("chrome-extension://abcdef", True),
        ("https://evil.example", False),
        ("http://localhost:3000", False),  # not ours
        ("http://localhost", False),
        ("https://a.example.evil", False),
        ("http://a.example", False),
        ("null", False),  # a frame in a sandbox, of any page
    ],
)
def test_pages_of_other_origins_may_call_where_the_profile_has_them(origin: str, may: bool) -> None:
    headers = [(b"host", b"localhost:8080"), (b"origin", origin.encode())]
    Pages(origins=("*",)).refuse(headers)
    if may:
        PAGES.refuse(headers)
        return
    with pytest.raises(Forbidden, match="origins") as refused:
        PAGES.refuse(headers)
    assert (refused.value.code, refused.value.param) == ("foreign_origin", "Origin")


EVIL = [("host", "evil.example"), ("origin", "http://evil.example"), ("content-type", "text/plain")]


@pytest.fixture
def app(front: FakeFront) -> ASGIApp:
    return build_app(front, body_bytes=BODY_BYTES, gate=Gate(pages=PAGES))


async def test_a_page_that_led_its_name_here_gets_no_answer(app: ASGIApp, front: FakeFront) -> None:
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics")):
        reply = await call(app, method, path, json_body=chat_body(), headers=EVIL)
        assert (reply.status, reply.error["code"]) == (403, "foreign_host")
    assert front.requests == []
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=[("host", "localhost")])
    assert reply.status == 200


async def test_what_is_the_same_on_every_host_and_health_is_told_by_any_name(app: ASGIApp) -> None:
    for path in ("/health", "/ready", "/docs", "/openapi.json"):  # a proxy's probe of ours
        assert (await call(app, "GET", path, headers=[("host", "rayhost")])).status == 200


async def test_a_key_tells_who_asks_so_no_name_matters(front: FakeFront, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, secret = keys.create("alice")
    keys.write(path, (key,))
    app = build_app(front, body_bytes=BODY_BYTES, gate=Gate(KeyRing(path), pages=PAGES))
    headers = [*EVIL, ("authorization", f"Bearer {secret}")]
    assert (await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)).status == 200
    assert (await call(app, "POST", CHAT, json_body=chat_body(), headers=EVIL)).status == 401
