"""The way in: keys, terms, limits, and what responses tell of them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp

from rayhost.front import keys
from rayhost.front.keys import Key, KeyRing
from rayhost.front.quota import Quotas
from rayhost.front.request import Priority, Terms
from rayhost.http.app import build_app
from rayhost.http.auth import Gate
from tests.http.asgi import (
    CHAT,
    COMPLETIONS,
    Reply,
    body_messages,
    call,
    chat_body,
    completion_body,
    http_scope,
    scripted,
)
from tests.http.conftest import BODY_BYTES
from tests.http.fake_front import FakeFront


class Guarded:
    """An app behind one key."""

    def __init__(self, front: FakeFront, folder: Path, **fields: Any) -> None:
        key, self.secret = keys.create("alice")
        self.key: Key = msgspec.structs.replace(key, **fields)
        self.path = folder / "keys.json"
        self.quotas = Quotas()
        keys.write(self.path, (self.key,))
        self.app: ASGIApp = build_app(
            front,
            body_bytes=BODY_BYTES,
            metrics=lambda accept: (b"rayhost_up 1\n", accept),
            gate=Gate(KeyRing(self.path), self.quotas),
        )

    async def ask(self, **headers: str) -> Reply:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        bearer = ("authorization", f"Bearer {self.secret}")
        return await call(
            self.app, "POST", COMPLETIONS, json_body=completion_body(), headers=[bearer, *named]
        )


ROUTES = [("POST", CHAT), ("POST", COMPLETIONS), ("GET", "/v1/models"), ("GET", "/nope")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer none")],
        [("authorization", "Bearer rh-aaaaaaaa-" + 43 * "a")],
        [("authorization", "Basic {secret}")],
        [("authorization", "{secret}")],
        [("x-api-key", "rh-aaaaaaaa-" + 43 * "a")],
        [("authorization", "Bearer none"), ("x-api-key", "{secret}")],
    ],
)
async def test_without_a_key_nothing_is_done_and_the_refusal_is_openais(
    front: FakeFront, tmp_path: Path, method: str, path: str, headers: list[tuple[str, str]]
) -> None:
    guarded = Guarded(front, tmp_path)
    sent = [(name, value.format(secret=guarded.secret)) for name, value in headers]
    reply = await call(guarded.app, method, path, json_body=chat_body(), headers=sent)
    assert reply.status == 401
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert guarded.secret not in reply.body.decode()
    assert front.requests == []


async def test_with_a_key_everything_is_as_without_keys(front: FakeFront, tmp_path: Path) -> None:
    guarded = Guarded(front, tmp_path)
    reply = await guarded.ask()
    assert reply.status == 200
    assert front.request.terms == Terms(key=guarded.key.id)
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


async def test_the_key_may_come_as_anthropics_clients_send_it(
    front: FakeFront, tmp_path: Path
) -> None:
    guarded = Guarded(front, tmp_path)
    headers = [("x-api-key", guarded.secret)]
    reply = await call(guarded.app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert reply.status == 200
    assert front.request.terms.key == guarded.key.id


async def test_a_missing_key_is_told_anthropics_clients_in_their_shape(
    front: FakeFront, tmp_path: Path
) -> None:
    guarded = Guarded(front, tmp_path)
    reply = await call(guarded.app, "POST", "/v1/messages", json_body={})
    assert (reply.status, reply.json["error"]["type"]) == (401, "authentication_error")


async def test_health_and_ready_are_for_everybody(front: FakeFront, tmp_path: Path) -> None:
    guarded = Guarded(front, tmp_path)
    for path in ("/health", "/ready", "/ready?model=small"):
        assert (await call(guarded.app, "GET", path)).status == 200


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        (("127.0.0.1", 1), [], 200),
        (("127.9.9.9", 1), [], 200),
        (("::1", 1), [], 200),
        (("10.0.0.1", 1), [], 401),
        (("127.0.0.1", 1), [(b"x-forwarded-for", b"127.0.0.1")], 401),
        (("127.0.0.1", 1), [(b"authorization", b"Bearer wrong")], 401),
        (("somewhere", 1), [], 401),
        (None, [], 401),
    ],
)
async def test_metrics_need_a_key_but_on_this_machine(
    front: FakeFront,
    tmp_path: Path,
    client: tuple[str, int] | None,
    headers: list[tuple[bytes, bytes]],
    status: int,
) -> None:
    guarded = Guarded(front, tmp_path)
    scope = http_scope("GET", "/metrics")
    scope.update(client=client, headers=headers)
    reply = Reply()
    await guarded.app(scope, scripted(*body_messages(b"")), reply.send)
    assert reply.status == status


async def test_a_key_that_is_revoked_is_refused_at_once(front: FakeFront, tmp_path: Path) -> None:
    guarded = Guarded(front, tmp_path)
    assert (await guarded.ask()).status == 200
    keys.write(guarded.path, ())
    assert (await guarded.ask()).status == 401


@pytest.mark.parametrize(
    ("ceiling", "wanted", "given", "told"),
    [
        ("normal", None, Priority.NORMAL, None),
        ("high", None, Priority.NORMAL, None),
        ("high", "HIGH", Priority.HIGH, None),
        ("high", "batch", Priority.BATCH, None),
        ("normal", "high", Priority.NORMAL, "normal"),
        ("low", None, Priority.LOW, None),
        ("low", "normal", Priority.LOW, "low"),
    ],
)
async def test_a_key_has_a_ceiling_and_is_told_when_it_was_met(
    front: FakeFront,
    tmp_path: Path,
    ceiling: str,
    wanted: str | None,
    given: Priority,
    told: str | None,
) -> None:
    guarded = Guarded(front, tmp_path, ceiling=ceiling, weight=2.5)
    reply = await guarded.ask(**({"x_rayhost_priority": wanted} if wanted else {}))
    assert front.request.terms == Terms(guarded.key.id, 2.5, given)
    assert reply.headers.get("x-rayhost-priority") == told


@pytest.mark.parametrize(("ceiling", "given"), [(Priority.HIGH, 0), (Priority.NORMAL, 1)])
async def test_without_keys_there_is_a_ceiling_too(
    front: FakeFront, ceiling: Priority, given: int
) -> None:
    app = build_app(front, body_bytes=BODY_BYTES, gate=Gate(ceiling=ceiling))
    headers = [("x-rayhost-priority", "high"), ("authorization", "Bearer whatever")]
    await call(app, "POST", COMPLETIONS, json_body=completion_body(), headers=headers)
    assert front.request.terms == Terms(priority=Priority(given))


async def test_a_time_out_is_a_deadline_from_then_on(
    app: ASGIApp, front: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayhost.http.auth.clock.now_ns", lambda: 7)
    headers = [("x-rayhost-timeout-ms", "1500")]
    await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert front.request.terms.deadline_ns == 1_500_000_007


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Rayhost-Priority", "urgent"),
        ("X-Rayhost-Priority", ""),
        ("X-Rayhost-Timeout-Ms", "0"),
        ("X-Rayhost-Timeout-Ms", "-5"),
        ("X-Rayhost-Timeout-Ms", "1.5"),
        ("X-Rayhost-Timeout-Ms", "86400001"),
        ("X-Rayhost-Timeout-Ms", "9" * 5000),
    ],
)
async def test_a_header_that_cannot_be_understood_is_400(
    app: ASGIApp, front: FakeFront, name: str, value: str
) -> None:
    headers = [(name.lower(), value)]
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert (reply.status, reply.error["param"]) == (400, name)
    assert front.requests == []


async def test_limits_are_told_with_every_response_and_kept(
    front: FakeFront, tmp_path: Path
) -> None:
    guarded = Guarded(front, tmp_path, requests_per_minute=2, tokens_per_minute=600)
    reply = await guarded.ask()
    shown = {n: v for n, v in reply.headers.items() if n.startswith("x-ratelimit")}
    assert shown["x-ratelimit-limit-requests"] == "2"
    assert shown["x-ratelimit-remaining-requests"] == "1"
    assert shown["x-ratelimit-reset-requests"].endswith("s")
    assert shown["x-ratelimit-limit-tokens"] == "600"
    assert shown["x-ratelimit-remaining-tokens"] == "600"
    assert shown["x-ratelimit-reset-tokens"] == "0ms"
    guarded.quotas.spent(guarded.key.id, 100)
    await guarded.ask()
    reply = await guarded.ask()
    assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
    assert reply.error["type"] == "rate_limit_error"
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert 500 <= int(reply.headers["x-ratelimit-remaining-tokens"]) < 600


async def test_reading_what_there_is_takes_no_quota(front: FakeFront, tmp_path: Path) -> None:
    guarded = Guarded(front, tmp_path, requests_per_minute=1)
    headers = [("authorization", f"bearer {guarded.secret}")]
    for _ in range(3):
        assert (await call(guarded.app, "GET", "/v1/models", headers=headers)).status == 200
    assert (await guarded.ask()).status == 200


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_of_a_request_makes_room_for_the_next_however_it_ended(
    front: FakeFront, tmp_path: Path, fails: bool
) -> None:
    guarded = Guarded(front, tmp_path, concurrency=1)
    if fails:
        front.run_error = ZeroDivisionError("secret")
    for _ in range(3):
        assert (await guarded.ask()).status == (500 if fails else 200)


# Pages of other origins


PREFLIGHT = [
    ("origin", "https://a.example"),
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization,content-type"),
]


async def test_no_page_of_another_origin_may_call_unless_the_profile_says_so(
    app: ASGIApp, front: FakeFront, tmp_path: Path
) -> None:
    reply = await call(app, "OPTIONS", CHAT, headers=PREFLIGHT)
    assert reply.status == 405
    reply = await call(app, "GET", "/v1/models", headers=PREFLIGHT[:1])
    assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_a_page_of_an_origin_of_the_profile_may(front: FakeFront, tmp_path: Path) -> None:
    guarded = Guarded(front, tmp_path)
    app = build_app(
        front,
        body_bytes=BODY_BYTES,
        gate=Gate(KeyRing(guarded.path)),
        origins=["https://a.example"],
    )
    reply = await call(app, "OPTIONS", CHAT, headers=PREFLIGHT)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://a.example"
    headers = [PREFLIGHT[0], ("authorization", f"Bearer {guarded.secret}")]
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert reply.headers["access-control-allow-origin"] == "https://a.example"
    assert "X-RateLimit-Reset-Tokens" in reply.headers["access-control-expose-headers"]
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=PREFLIGHT[:1])
    assert reply.status == 401
    assert "access-control-allow-origin" in reply.headers, "else the page cannot see why"
    reply = await call(app, "OPTIONS", CHAT, headers=[("origin", "https://b"), *PREFLIGHT[1:]])
    assert reply.status == 400
