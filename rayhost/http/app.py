"""The routes. `build_app` is all that the rest of rayhost needs of this package.

The app holds no state of its own: whatever an answer depends on is asked of the `Front`.
"""

from collections.abc import Callable, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rayhost.front.request import Front
from rayhost.http import (
    chat,
    completions,
    messages,
    models,
    openapi,
    ops,
    responses,
    text_tools,
)
from rayhost.http.answer import MakeAnswer, Parse
from rayhost.http.auth import Gate
from rayhost.http.chat_answer import ChatAnswer
from rayhost.http.connection import Bodies
from rayhost.http.edge import Edge
from rayhost.http.embeddings import Embeddings
from rayhost.http.generate import Generate
from rayhost.http.messages_answer import MessagesAnswer
from rayhost.http.parsed import Parsed
from rayhost.http.rerank import Rerank
from rayhost.http.responses_answer import ResponsesAnswer
from rayhost.metrics import Metrics

# What a page may read of a response beside its body.
_EXPOSED = [
    "Age",
    "Request-Id",
    "Retry-After",
    "X-Request-Id",
    "X-Should-Retry",
    "X-Rayhost-Cache",
    "X-Rayhost-Degraded",
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
    refused: Callable[[str], None] = lambda _code: None,
    degraded: Callable[[], Sequence[str]] = tuple,
) -> ASGIApp:
    """Return the ASGI app over a front.

    `body_bytes` bounds a request's body; `metrics` shows them in the format asked for. `gate` says
    who may come in, without one everybody; pages of the `origins` ("*" for any) may call.
    `refused` hears of each request that no model was asked for, or that failed by a mistake of
    ours, by its error code; `degraded` tells what is given up at the moment for want of memory.
    """
    router = Router(
        routes=routes(front, Bodies(body_bytes), metrics or Metrics().expose, degraded),
        redirect_slashes=False,
    )
    edge = Edge(router, gate or Gate(), refused, degraded)
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


def routes(
    front: Front,
    bodies: Bodies,
    metrics: ops.Expose,
    degraded: Callable[[], Sequence[str]] = tuple,
) -> list[Route]:
    """Return every route; each has its entry in `operations`."""
    parsed = Parsed()

    def generate(parse: Parse, make_answer: MakeAnswer) -> Generate:
        return Generate(front, bodies, parsed, parse, make_answer)

    chat_endpoint = generate(chat.parse, ChatAnswer)
    completion_endpoint = generate(completions.parse, completions.CompletionAnswer)
    responses_endpoint = generate(responses.parse, ResponsesAnswer)
    messages_endpoint = generate(messages.parse, MessagesAnswer)
    return [
        Route("/v1/chat/completions", chat_endpoint, methods=["POST"], name="chat"),
        Route("/v1/completions", completion_endpoint, methods=["POST"], name="completions"),
        Route("/v1/embeddings", Embeddings(front, bodies), methods=["POST"], name="embeddings"),
        Route("/v1/rerank", Rerank(front, bodies), methods=["POST"], name="rerank"),
        Route("/v1/responses", responses_endpoint, methods=["POST"], name="responses"),
        Route("/v1/messages", messages_endpoint, methods=["POST"], name="messages"),
        *text_tools.routes(front, bodies),
        Route("/v1/models", models.list_models(front), methods=["GET"]),
        # A model's name may have slashes.
        Route("/v1/models/{model:path}", models.show_model(front), methods=["GET"]),
        Route("/health", ops.health(front), methods=["GET"]),
        Route("/ready", ops.ready(front, degraded), methods=["GET"]),
        Route("/metrics", ops.metrics(metrics), methods=["GET"]),
        Route("/openapi.json", openapi.openapi_json(), methods=["GET"]),
        Route("/docs", openapi.page(), methods=["GET"]),
    ]
