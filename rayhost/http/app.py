"""The routes. `build_app` is all that the rest of rayhost needs of this package.

The app holds no state of its own: whatever an answer depends on is asked of the `Front`.
"""

from collections.abc import Callable

from prometheus_client import generate_latest
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rayhost.front.request import Front
from rayhost.http import chat, completions, models, ops
from rayhost.http.connection import Bodies
from rayhost.http.edge import Edge
from rayhost.http.generate import Generate


def build_app(
    front: Front, *, body_bytes: int, metrics: Callable[[], bytes] = generate_latest
) -> ASGIApp:
    """Return the ASGI app over a front.

    `body_bytes` bounds a request's body; `metrics` returns Prometheus' text format.
    """
    bodies = Bodies(body_bytes)
    chat_endpoint = Generate(front, bodies, chat.parse, chat.ChatAnswer)
    completion_endpoint = Generate(
        front, bodies, completions.parse, completions.CompletionAnswer
    )
    router = Router(
        routes=[
            Route("/v1/chat/completions", chat_endpoint, methods=["POST"], name="chat"),
            Route("/v1/completions", completion_endpoint, methods=["POST"], name="completions"),
            Route("/v1/models", models.list_models(front), methods=["GET"]),
            # A model's name may have slashes.
            Route("/v1/models/{model:path}", models.show_model(front), methods=["GET"]),
            Route("/health", ops.health(front), methods=["GET"]),
            Route("/ready", ops.ready(front), methods=["GET"]),
            Route("/metrics", ops.metrics(metrics), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    return Edge(router)
