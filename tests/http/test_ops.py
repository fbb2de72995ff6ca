"""`/v1/models`, `/health`, `/ready`, `/metrics`."""

import pytest
from starlette.types import ASGIApp

from rayhost.http.app import build_app
from tests.http.asgi import call
from tests.http.fake_front import FakeFront, card, worker


async def test_models_lists_every_model_in_order(app: ASGIApp, front: FakeFront) -> None:
    front.models.append(card("gemma3-270m", state="loading", reason="40 %"))
    reply = await call(app, "GET", "/v1/models")
    assert reply.json == {
        "object": "list",
        "data": [
            {
                "id": "smollm2-135m",
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "rayhost",
                "aliases": ["small", "org/smol"],
                "context": 2048,
                "state": "ready",
            },
            {
                "id": "gemma3-270m",
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "rayhost",
                "aliases": [],
                "context": 2048,
                "state": "loading",
            },
        ],
    }


@pytest.mark.parametrize("name", ["smollm2-135m", "small", "org/smol"])
async def test_a_model_is_found_by_name_and_alias(app: ASGIApp, name: str) -> None:
    reply = await call(app, "GET", f"/v1/models/{name}")
    assert (reply.status, reply.json["id"]) == (200, "smollm2-135m")


@pytest.mark.parametrize("path", ["/v1/models/gpt-5", "/ready?model=gpt-5", "/ready?model="])
async def test_an_unknown_model_is_404_and_told_which_there_are(app: ASGIApp, path: str) -> None:
    reply = await call(app, "GET", path)
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert "smollm2-135m" in reply.error["message"]


async def test_health_is_200_while_every_worker_is_alive(app: ASGIApp) -> None:
    reply = await call(app, "GET", "/health")
    assert reply.status == 200
    assert reply.json == {
        "status": "ok",
        "reasons": [],
        "workers": [
            {
                "model": "smollm2-135m",
                "ok": True,
                "state": "ready",
                "reason": "",
                "pid": 4711,
                "step": 12,
                "beat_age_ms": 1.5,
            }
        ],
    }


async def test_health_is_503_with_the_reason_of_each_dead_worker(
    app: ASGIApp, front: FakeFront
) -> None:
    front.workers = [
        worker("a"),
        worker("b", ok=False, reason="killed by signal 9"),
        worker("c", ok=False),
    ]
    reply = await call(app, "GET", "/health")
    assert (reply.status, reply.json["status"]) == (503, "failing")
    assert reply.json["reasons"] == ["b: killed by signal 9", "c: restarting"]
    assert [one["ok"] for one in reply.json["workers"]] == [True, False, False]


async def test_ready_is_503_until_every_model_is_loaded(app: ASGIApp, front: FakeFront) -> None:
    assert (await call(app, "GET", "/ready")).status == 200
    front.models += [
        card("b", "bee", state="loading"),
        card("c", state="failed", reason="bad GGUF"),
    ]
    reply = await call(app, "GET", "/ready")
    assert (reply.status, reply.json["status"]) == (503, "not_ready")
    assert reply.json["reasons"] == ["b: loading", "c: bad GGUF"]


async def test_ready_can_be_asked_of_one_model(app: ASGIApp, front: FakeFront) -> None:
    front.models.append(card("b", "bee", state="failed", reason="bad GGUF"))
    assert (await call(app, "GET", "/ready?model=small")).status == 200
    assert (await call(app, "GET", "/ready?model=bee")).json["reasons"] == ["b: bad GGUF"]


@pytest.mark.parametrize("path", ["/ready", "/ready?model=small"])
async def test_ready_is_503_while_draining(app: ASGIApp, front: FakeFront, path: str) -> None:
    front.is_draining = True
    reply = await call(app, "GET", path)
    assert reply.status == 503
    assert "draining" in reply.json["reasons"][0]
    assert (await call(app, "GET", "/health")).status == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models"])
async def test_asking_never_touches_the_queue(app: ASGIApp, front: FakeFront, path: str) -> None:
    assert (await call(app, "GET", path)).status == 200
    assert not front.requests


async def test_metrics_come_in_the_format_that_is_asked_for(app: ASGIApp) -> None:
    reply = await call(app, "GET", "/metrics", headers=[("accept", "text/x")])
    assert (reply.status, reply.body) == (200, b"rayhost_up 1\n")
    assert reply.headers["content-type"] == "text/x"


async def test_what_is_given_up_for_want_of_memory_is_told_everywhere(front: FakeFront) -> None:
    rungs: list[str] = []
    app = build_app(front, body_bytes=100, degraded=lambda: rungs)
    reply = await call(app, "GET", "/ready")
    assert "x-rayhost-degraded" not in reply.headers
    assert reply.json["degraded"] == []
    rungs += ["caches", "sequences"]
    reply = await call(app, "GET", "/ready")
    assert (reply.status, reply.json["degraded"]) == (200, ["caches", "sequences"])
    assert reply.headers["x-rayhost-degraded"] == "caches, sequences"


async def test_a_model_that_was_unloaded_takes_requests(app: ASGIApp, front: FakeFront) -> None:
    front.models.append(card("b", state="unloaded", reason="it was idle"))
    assert (await call(app, "GET", "/ready")).status == 200
