"""`POST /v1/rerank`: which of some documents answer a question best, in Jina's and Cohere's shape.

Each document is a run of its own, and its score what llama.cpp makes of the pair, as it is: higher
is better, and what range it has is the model's.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.types import Send

from rayhost.errors import InvalidRequest
from rayhost.front.request import PairPrompt
from rayhost.http.answer import Caller
from rayhost.http.body import parse_body
from rayhost.http.generate import send_whole
from rayhost.http.json import encode
from rayhost.http.vectors import (
    MOST,
    Ask,
    Endpoint,
    Made,
    Vectors,
    headers_of,
    requests_of,
    usage_of,
)


class Document(msgspec.Struct, frozen=True):
    """A document with a name for its text, as Cohere's first version had it."""

    text: str


class RerankBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body."""

    model: str
    query: str
    documents: list[str | Document]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool = False


@dataclass(frozen=True, slots=True)
class RerankAsk(Ask):
    """A validated body. `top_n` None: all of them."""

    texts: tuple[str, ...]
    top_n: int | None
    return_documents: bool


class Rerank(Endpoint[RerankAsk]):
    """The endpoint."""

    def parse(self, raw: bytes, caller: Caller) -> RerankAsk:
        """Return what a body asks for. Raises InvalidRequest."""
        body, ignored = parse_body(raw, RerankBody, {})
        if not body.query:
            raise InvalidRequest("query: must not be empty", param="query")
        if not 0 < len(body.documents) <= MOST:
            raise InvalidRequest(
                f"documents: from 1 to {MOST} are allowed, not {len(body.documents)}",
                param="documents",
            )
        texts = tuple(one if isinstance(one, str) else one.text for one in body.documents)
        pairs = [PairPrompt(body.query, text) for text in texts]
        requests = requests_of(pairs, "rank", body.model, caller)
        return RerankAsk(requests, ignored, texts, body.top_n, body.return_documents)

    async def answer(self, ask: RerankAsk, send: Send) -> None:
        """Send the documents, the best first."""
        made = await Vectors(self._front, ask.requests, "documents[{}]").made()
        await send_whole(encode(_reply(ask, made)), headers_of(ask, made), send)


def _reply(ask: RerankAsk, made: Sequence[Made]) -> dict[str, Any]:
    scores = [array("f", one.finish.vector)[0] for one in made]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: ask.top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in best
    ]
    if ask.return_documents:
        for result in results:
            result["document"] = {"text": ask.texts[result["index"]]}
    return {
        "object": "list",
        "model": made[0].model,
        "results": results,
        "usage": usage_of(made),
    }
