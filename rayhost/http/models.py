"""`GET /v1/models` and `GET /v1/models/{id}`: what is served here, by name or alias."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rayhost.errors import ModelNotFound
from rayhost.front.request import Capabilities, Front, ModelCard
from rayhost.http.json import json_response

Endpoint = Callable[[Request], Any]

CAPABILITIES = ("chat", "completion", "embedding", "rerank", "tools", "json_schema")
FACTS = (
    "architecture",
    "quantization",
    "parameters",
    "size_bytes",
    "train_context",
    "vocabulary",
    "sliding_window",
    "dimensions",
)


def list_models(front: Front) -> Endpoint:
    """Return the endpoint that lists every model of the profile, ready or not."""

    async def endpoint(_request: Request) -> Response:
        return json_response({"object": "list", "data": [_entry(card) for card in front.cards()]})

    return endpoint


def show_model(front: Front) -> Endpoint:
    """Return the endpoint that shows one model."""

    async def endpoint(request: Request) -> Response:
        return json_response(_entry(find_card(front, request.path_params["model"])))

    return endpoint


def find_card(front: Front, name: str) -> ModelCard:
    """Return the model of that name or alias. Raises ModelNotFound."""
    cards = front.cards()
    for card in cards:
        if name == card.name or name in card.aliases:
            return card
    served = ", ".join(card.name for card in cards)
    raise ModelNotFound(
        f"the model {name[:100]!r} is not served here; there is: {served}", param="model"
    )


def _entry(card: ModelCard) -> dict[str, Any]:
    """Return what is told of a model; what its file says, only once a worker has read it."""
    known = {} if card.capabilities is None else _known(card.capabilities)
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "rayhost",
        "aliases": card.aliases,
        "context": card.context,
        "state": card.state,
        **known,
    }


def _known(can: Capabilities) -> dict[str, Any]:
    return {
        "capabilities": {name: getattr(can, name) for name in CAPABILITIES},
        **{name: getattr(can, name) for name in FACTS},
    }
