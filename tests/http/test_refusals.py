"""Refusals and failures but for bad parameters: status, headers, request id, log line."""

import json
from typing import Any

import pytest
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from rayhost.errors import ContextLengthExceeded, QueueFull, Unavailable, WorkerLost
from rayhost.http.app import build_app
from tests.http.asgi import (
    CHAT,
    COMPLETIONS,
    Reply,
    body_messages,
    call,
    chat_body,
    http_scope,
    scripted,
)
from tests.http.conftest import BODY_BYTES
from tests.http.fake_front import FakeFront


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat/completions/", "/v1/images/generations", "/é\n"]
)
async def test_an_unknown_route_is_404(app: ASGIApp, path: str) -> None:
    reply = await call(app, "POST", path)
    assert (reply.status, reply.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, {"POST"}),
        ("OPTIONS", COMPLETIONS, {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("DELETE", "/v1/models/small", {"GET", "HEAD"}),
        ("POST", "/health", {"GET", "HEAD"}),
    ],
)
async def test_another_method_is_405_and_told_which_are_allowed(
    app: ASGIApp, method: str, path: str, allowed: set[str]
) -> None:
    reply = await call(app, method, path)
    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
    assert set(reply.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind", "retry_after"),
    [
        (ContextLengthExceeded("too long", param="messages"), 400, "invalid_request_error", None),
        (QueueFull("full", retry_after=3), 429, "rate_limit_error", "3"),
        (Unavailable("draining", retry_after=0), 503, "server_error", "0"),
        (WorkerLost("gone"), 500, "server_error", None),
    ],
)
async def test_what_the_front_refuses_has_its_own_status_streamed_or_not(
    app: ASGIApp,
    front: FakeFront,
    stream: bool,
    error: ContextLengthExceeded | QueueFull | Unavailable | WorkerLost,
    status: int,
    kind: str,
    retry_after: str | None,
) -> None:
    front.submit_error = error
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=stream))
    assert reply.status == status
    assert reply.error == {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
    }
    assert reply.headers.get("retry-after") == retry_after


async def test_an_unknown_model_is_404(app: ASGIApp) -> None:
    reply = await call(app, "POST", CHAT, json_body=chat_body(model="gpt-5"))
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")


async def test_a_run_that_fails_before_a_whole_answer_has_a_proper_status(
    app: ASGIApp, front: FakeFront
) -> None:
    front.run_error = WorkerLost("the worker died")
    reply = await call(app, "POST", CHAT, json_body=chat_body())
    assert (reply.status, reply.error["code"]) == (500, "worker_lost")
    assert front.run.closed


@pytest.mark.parametrize("pieces", [(), ("Paris", " is")])
async def test_a_run_that_fails_under_a_stream_ends_it_with_an_error_event(
    app: ASGIApp, front: FakeFront, pieces: tuple[str, ...]
) -> None:
    front.pieces = pieces
    front.run_error = WorkerLost("the worker died")
    reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert reply.status == 200
    assert reply.events[-1] == {
        "error": {
            "message": "the worker died",
            "type": "server_error",
            "param": None,
            "code": "worker_lost",
        }
    }
    assert len(reply.events) == 1 + len(pieces) + 1
    assert not reply.messages[-1].get("more_body", False)
    assert front.run.closed


async def test_an_unforeseen_failure_is_logged_and_not_leaked(
    app: ASGIApp, front: FakeFront
) -> None:
    front.submit_error = ZeroDivisionError("secret /path")
    with capture_logs() as logs:
        reply = await call(app, "POST", CHAT, json_body=chat_body())
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert reply.headers["x-request-id"] in reply.error["message"]
    assert b"secret" not in reply.body
    (crash,) = logs
    assert (crash["event"], crash["log_level"]) == ("crashed", "error")
    assert crash["request_id"] == reply.headers["x-request-id"]
    assert crash["exc_info"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models/small"])
async def test_an_unforeseen_failure_of_any_route_is_a_500_envelope(path: str) -> None:
    class Broken(FakeFront):
        def cards(self) -> list[Any]:
            raise ZeroDivisionError("secret")

        health = cards

    def metrics(accept: str) -> tuple[bytes, str]:
        raise ZeroDivisionError("secret")

    app = build_app(Broken(), body_bytes=BODY_BYTES, metrics=metrics)
    with capture_logs() as logs:
        reply = await call(app, "GET", path)
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert [(entry["event"], entry["path"]) for entry in logs] == [("crashed", path)]


async def test_every_unforeseen_failure_is_counted_however_far_its_request_got(
    front: FakeFront,
) -> None:
    codes: list[str] = []
    app = build_app(front, body_bytes=BODY_BYTES, refused=codes.append)
    front.submit_error = ZeroDivisionError()
    await call(app, "POST", CHAT, json_body=chat_body())
    front.submit_error, front.run_error = None, ZeroDivisionError()
    await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert codes == ["internal_error"] * 2
    # What the front foresaw, it counts.
    front.run_error = WorkerLost("gone")
    await call(app, "POST", CHAT, json_body=chat_body())
    assert codes == ["internal_error"] * 2


async def test_an_unforeseen_failure_under_a_stream_is_logged_and_not_leaked(
    app: ASGIApp, front: FakeFront
) -> None:
    front.run_error = ZeroDivisionError("secret")
    with capture_logs() as logs:
        reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert reply.events[-1]["error"]["code"] == "internal_error"
    assert b"secret" not in reply.body
    assert [entry["event"] for entry in logs] == ["crashed"]


async def test_a_failure_after_the_answer_is_logged_and_adds_nothing_to_it(
    app: ASGIApp, front: FakeFront
) -> None:
    front.close_error = ZeroDivisionError("secret")
    with capture_logs() as logs:
        reply = await call(app, "POST", CHAT, json_body=chat_body(stream=True))
    assert reply.events[-1] == "[DONE]"
    assert [entry["event"] for entry in logs] == ["crashed"]


async def test_a_declared_length_over_the_limit_is_413_before_anything_is_read(
    app: ASGIApp,
) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    reply = Reply()
    scope = http_scope("POST", CHAT, [("content-length", str(BODY_BYTES + 1))])
    await app(scope, receive, reply.send)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert str(BODY_BYTES) in reply.error["message"]
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("headers", [[], [("content-length", "10")], [("content-length", "-1")]])
async def test_a_body_that_grows_over_the_limit_is_413_at_once(
    app: ASGIApp, front: FakeFront, headers: list[tuple[str, str]]
) -> None:
    # The client stays and its last chunk never comes: the answer must not wait for it.
    chunks = body_messages(b" " * BODY_BYTES, b"x", b"never")[:2]
    reply = Reply()
    await app(http_scope("POST", CHAT, headers), scripted(*chunks), reply.send)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert not front.requests


async def test_a_body_of_exactly_the_limit_is_read(app: ASGIApp) -> None:
    raw = json.dumps(chat_body()).encode().ljust(BODY_BYTES)
    headers = [("content-length", str(BODY_BYTES))]
    chunks = body_messages(raw[:10], b"", raw[10:])
    reply = Reply()
    await app(http_scope("POST", CHAT, headers), scripted(*chunks), reply.send)
    assert reply.status == 200


@pytest.mark.parametrize("sent", ["abc", "~" * 128, "a/b:c=!"])
async def test_a_sane_request_id_is_kept(app: ASGIApp, front: FakeFront, sent: str) -> None:
    headers = [("x-request-id", sent)]
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert reply.headers["x-request-id"] == front.request.id == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "é", "a\nb", "a\0"])
async def test_another_request_id_is_replaced(app: ASGIApp, front: FakeFront, sent: str) -> None:
    headers = [("x-request-id", sent)]
    reply = await call(app, "POST", CHAT, json_body=chat_body(), headers=headers)
    assert reply.headers["x-request-id"] == front.request.id
    assert len(front.request.id) == 32


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("GET", CHAT), ("POST", CHAT), ("GET", "/v1/models"), ("GET", "/health")],
)
async def test_every_response_has_the_request_id(app: ASGIApp, method: str, path: str) -> None:
    reply = await call(app, method, path, headers=[("x-request-id", "r1")])
    assert reply.headers["x-request-id"] == "r1"


async def test_a_refusal_is_logged_once_by_whoever_made_it(app: ASGIApp, front: FakeFront) -> None:
    front.submit_error = QueueFull("full")
    with capture_logs() as logs:
        await call(app, "POST", CHAT, json_body=chat_body())  # the front's to log
        await call(
            app, "POST", CHAT, json_body=chat_body(top_k=-1), headers=[("x-request-id", "r1")]
        )
    assert logs == [
        {
            "event": "refused",
            "log_level": "info",
            "status": 400,
            "code": "invalid_value",
            "param": "top_k",
            "request_id": "r1",
            "method": "POST",
            "path": CHAT,
        }
    ]
