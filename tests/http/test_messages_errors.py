"""Errors under `/v1/messages` come in Anthropic's shape, whoever makes them."""

import pytest
from starlette.types import ASGIApp

from rayhost.errors import (
    ApiError,
    BodyTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    Overloaded,
    QueueFull,
    Unauthorized,
    Unavailable,
    WorkerLost,
)
from rayhost.http.messages_errors import messages_envelope, speaks_anthropic
from tests.http.asgi import call


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "invalid_request_error"),
        (MethodNotAllowed("no"), "invalid_request_error"),
        (Unauthorized("no"), "authentication_error"),
        (ModelNotFound("no"), "not_found_error"),
        (BodyTooLarge("no"), "request_too_large"),
        (QueueFull("no"), "rate_limit_error"),
        (Unavailable("no"), "overloaded_error"),
        (Overloaded("no"), "overloaded_error"),
        (DeadlineExceeded("no"), "timeout_error"),
        (WorkerLost("no"), "api_error"),
        (ApiError("no"), "api_error"),
    ],
)
def test_each_error_has_its_type(error: ApiError, kind: str) -> None:
    told = messages_envelope(error, "r1")
    assert (told["type"], told["request_id"]) == ("error", "r1")
    assert told["error"]["type"] == kind
    assert told["error"]["message"] == "no"
    assert told["error"]["code"] == error.code


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/messages/batches", True),
        ("/v1/messagesx", False),
        ("/v1/chat/completions", False),
    ],
)
def test_only_what_is_under_messages_is_in_that_shape(path: str, expected: bool) -> None:
    assert speaks_anthropic(path) is expected


async def test_a_route_that_does_not_exist_is_told_in_that_shape(app: ASGIApp) -> None:
    reply = await call(app, "POST", "/v1/messages/batches", headers=[("x-request-id", "r1")])
    assert reply.status == 404
    assert reply.json["type"] == "error"
    assert reply.json["error"]["type"] == "not_found_error"
    assert reply.json["request_id"] == "r1"
    assert reply.headers["request-id"] == reply.headers["x-request-id"] == "r1"


async def test_other_routes_know_nothing_of_it(app: ASGIApp) -> None:
    reply = await call(app, "POST", "/v1/nope")
    assert reply.error["code"] == "not_found"
    assert "request-id" not in reply.headers
