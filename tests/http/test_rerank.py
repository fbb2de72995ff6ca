"""The rerank endpoint: documents in the order of their scores, in Jina's and Cohere's shape."""

from dataclasses import replace
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import ContextLengthExceeded, InvalidRequest
from rayhost.front.request import PairPrompt
from rayhost.http.app import build_app
from tests.http.asgi import Reply, call
from tests.http.vector_front import CAN, VectorFront

PATH = "/v1/rerank"


@pytest.fixture
def front() -> VectorFront:
    front = VectorFront()
    front.card = replace(front.card, capabilities=replace(CAN, embedding=False, rerank=True))
    return front


@pytest.fixture
def app(front: VectorFront) -> ASGIApp:
    return build_app(front, body_bytes=1 << 20)


async def ask(app: ASGIApp, *documents: Any, **changes: Any) -> Reply:
    body = {"model": "small", "query": "who", "documents": documents, **changes}
    return await call(app, "POST", PATH, json_body=body)


async def test_the_best_document_comes_first(app: ASGIApp, front: VectorFront) -> None:
    reply = await ask(app, "bb", {"text": "dddd"}, "ccc")
    assert reply.status == 200
    assert reply.json == {
        "object": "list",
        "model": "minilm",
        "results": [
            {"index": 1, "relevance_score": 1.0},
            {"index": 2, "relevance_score": 0.0},
            {"index": 0, "relevance_score": -1.0},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }
    assert {request.task for request in front.requests} == {"rank"}
    assert PairPrompt("who", "bb") in [request.prompt for request in front.requests]


async def test_the_best_few_come_with_their_texts_where_asked_for(app: ASGIApp) -> None:
    reply = await ask(app, "a", "ccc", "bb", top_n=2, return_documents=True)
    assert reply.json["results"] == [
        {"index": 1, "relevance_score": 0.0, "document": {"text": "ccc"}},
        {"index": 2, "relevance_score": -1.0, "document": {"text": "bb"}},
    ]
    assert len((await ask(app, "a", top_n=9)).json["results"]) == 1


async def test_documents_as_good_as_each_other_stay_in_order(app: ASGIApp) -> None:
    reply = await ask(app, "aa", "bb", "cc")
    assert [one["index"] for one in reply.json["results"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
    ],
)
async def test_what_is_wrong_is_named(
    app: ASGIApp, front: VectorFront, changes: dict[str, Any], param: str
) -> None:
    reply = await ask(app, "a", **changes)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert front.requests == []


async def test_a_document_that_is_too_long_is_named(app: ASGIApp, front: VectorFront) -> None:
    front.refuses = lambda request: (
        ContextLengthExceeded("it has 600 tokens", param="input")
        if request.prompt == PairPrompt("who", "long")
        else None
    )
    reply = await ask(app, "a", "long")
    assert reply.error["param"] == "documents[1]"
    assert reply.error["message"] == "documents[1]: it has 600 tokens"


async def test_a_model_that_does_not_rank_is_no_document_s_fault(
    app: ASGIApp, front: VectorFront
) -> None:
    front.refuses = lambda _: InvalidRequest("no", code="model_not_supported", param="model")
    reply = await ask(app, "a", "b")
    assert (reply.status, reply.error["code"]) == (400, "model_not_supported")
