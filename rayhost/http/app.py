"""The routes. `build_app` is all that the rest of rayhost needs of this package.

The app holds no state of its own: whatever an answer depends on is asked of the `Front`.
"""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rayhost.front.request import Front
from rayhost.http import chat, completions, models, ops
from rayhost.http.auth import Gate
from rayhost.http.connection import Bodies
from rayhost.http.edge import Edge
from rayhost.http.generate import Generate
from rayhost.metrics import Metrics

# What a page may read of a response beside its body.
_EXPOSED = [
    "Age",
    "Retry-After",
    "X-Request-Id",
    "X-Rayhost-Cache",
    "X-Rayhost-Ignored",
    "X-Rayhost-Priority",
    *(
        f"X-RateLimit-{one}-{of}"
        for one in ("Limit", "Remaining", "Reset")
        for of in ("Requests", "Tokens")
    ),
]
_PREFLIGHT_S = 600


def build_app(
    front: Front,
    *,
    body_bytes: int,
    metrics: ops.Expose | None = None,
    gate: Gate | None = None,
    origins: Sequence[str] = (),
) -> ASGIApp:
    """Return the ASGI app over a front.

    `body_bytes` bounds a request's body; `metrics` shows them in the format asked for. `gate` says
    who may come in, without one everybody; pages of the `origins` ("*" for any) may call.
    """
    bodies = Bodies(body_bytes)
    chat_endpoint = Generate(front, bodies, chat.parse, chat.ChatAnswer)
    completion_endpoint = Generate(front, bodies, completions.parse, completions.CompletionAnswer)
    router = Router(
        routes=[
            Route("/v1/chat/completions", chat_endpoint, methods=["POST"], name="chat"),
            Route("/v1/completions", completion_endpoint, methods=["POST"], name="completions"),
            Route("/v1/models", models.list_models(front), methods=["GET"]),
            # A model's name may have slashes.
            Route("/v1/models/{model:path}", models.show_model(front), methods=["GET"]),
            Route("/health", ops.health(front), methods=["GET"]),
            Route("/ready", ops.ready(front), methods=["GET"]),
            Route("/metrics", ops.metrics(metrics or Metrics().expose), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    edge = Edge(router, gate or Gate())
    if not origins:
        return edge
    return CORSMiddleware(
        edge,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=_PREFLIGHT_S,
    )
