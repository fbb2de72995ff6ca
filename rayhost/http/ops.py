"""What an operator's tools ask: `/health`, `/ready`, `/metrics`.

None of them touches a queue or waits for a worker: they answer when nothing else does.
"""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rayhost.front.request import Front
from rayhost.http.json import json_response
from rayhost.http.models import Endpoint, find_card

Expose = Callable[[str], tuple[bytes, str]]  # an Accept header to a body and its content type


def health(front: Front) -> Endpoint:
    """Return the endpoint that is 200 while every worker is alive, and else says which is not."""

    async def endpoint(_request: Request) -> Response:
        workers = front.health()
        reasons = [f"{one.model}: {one.reason or one.state}" for one in workers if not one.ok]
        status = "failing" if reasons else "ok"
        return _verdict(reasons, {"status": status, "reasons": reasons, "workers": workers})

    return endpoint


def ready(front: Front, degraded: Callable[[], Sequence[str]]) -> Endpoint:
    """Return the endpoint that is 200 while every model (or `?model=`) takes requests.

    One that was unloaded does: it is loaded for the first.
    """

    async def endpoint(request: Request) -> Response:
        name = request.query_params.get("model")
        cards = front.cards() if name is None else [find_card(front, name)]
        reasons = [
            f"{card.name}: {card.reason or card.state}"
            for card in cards
            if card.state not in ("ready", "unloaded")
        ]
        if front.draining():
            reasons.insert(0, "draining: the server is going down")
        models = [
            {"model": card.name, "state": card.state, "reason": card.reason} for card in cards
        ]
        status = "not_ready" if reasons else "ready"
        payload = {"status": status, "reasons": reasons, "models": models, "degraded": degraded()}
        return _verdict(reasons, payload)

    return endpoint


def metrics(expose: Expose) -> Endpoint:
    """Return the endpoint that shows the metrics registry."""

    async def endpoint(request: Request) -> Response:
        body, content_type = expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return endpoint


def _verdict(reasons: list[str], payload: dict[str, Any]) -> Response:
    return json_response(payload, status=503 if reasons else 200)
