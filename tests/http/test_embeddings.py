"""The embeddings endpoint: every form of input, both encodings, and thousands of inputs at once."""

import asyncio
import base64
from array import array
from dataclasses import replace
from typing import Any

import pytest
from starlette.types import ASGIApp

from rayhost.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    Overloaded,
    QueueFull,
)
from rayhost.front.request import Finish, GenerateRequest, Recalled, TextPrompt, TokenPrompt
from rayhost.http.app import build_app
from rayhost.http.embeddings import shortened
from tests.http.asgi import Reply, body_messages, call, http_scope
from tests.http.vector_front import VectorFront

PATH = "/v1/embeddings"
pytestmark = pytest.mark.usefixtures("no_task_leaks")


@pytest.fixture
def front() -> VectorFront:
    return VectorFront()


@pytest.fixture
def app(front: VectorFront) -> ASGIApp:
    return build_app(front, body_bytes=1 << 20)


async def ask(app: ASGIApp, given: Any, headers: Any = (), **changes: Any) -> Reply:
    return await call(
        app, "POST", PATH, json_body={"model": "small", "input": given, **changes}, headers=headers
    )


def text_of(request: GenerateRequest) -> str:
    assert isinstance(request.prompt, TextPrompt)
    return request.prompt.text


async def test_a_text_becomes_a_vector(app: ASGIApp, front: VectorFront) -> None:
    reply = await ask(app, "hello", user="me")
    assert reply.status == 200
    assert reply.json == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [5.0, 1.0]}],
        "model": "minilm",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert reply.headers["x-rayhost-cache"] == "miss"
    (request,) = front.requests
    assert (request.task, request.max_tokens) == ("embed", 0)
    assert front.running == 0


@pytest.mark.parametrize(
    ("given", "vectors"),
    [
        ("ab", [[2.0, 1.0]]),
        (["ab", "c"], [[2.0, 1.0], [1.0, 1.0]]),
        ([1, 2, 3], [[6.0, 1.0]]),
        ([[1, 2], [4]], [[3.0, 1.0], [4.0, 1.0]]),
        (["abc", [4]], [[3.0, 1.0], [4.0, 1.0]]),
    ],
)
async def test_every_form_of_input_is_taken(
    app: ASGIApp, given: Any, vectors: list[list[float]]
) -> None:
    reply = await ask(app, given)
    assert [one["embedding"] for one in reply.json["data"]] == vectors
    assert [one["index"] for one in reply.json["data"]] == list(range(len(vectors)))
    assert reply.json["usage"]["prompt_tokens"] == 3 * len(vectors)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        ([""], "input[0]"),
        (["a", ""], "input[1]"),
        (["a", []], "input[1]"),
        (["a", 1], "input"),
        ([1, "a"], "input"),
        ([-1], "input[0]"),
        ([1.5], "input[0]"),
        ([True], "input[0]"),
        ([None], "input[0]"),
        ({"a": 1}, "input"),
        (["a"] * 2049, "input"),
    ],
)
async def test_an_input_that_is_none_is_refused_by_name(
    app: ASGIApp, front: VectorFront, given: Any, param: str
) -> None:
    reply = await ask(app, given)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert reply.error["message"].startswith(f"{param}: ")
    assert front.requests == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "2"}, "dimensions"),
        ({"dimensions": 3}, "dimensions"),
        ({"user": 1}, "user"),
        ({"model": "none"}, "model"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(
    app: ASGIApp, changes: dict[str, Any], param: str
) -> None:
    reply = await ask(app, "a", **changes)
    assert reply.status in (400, 404)
    assert reply.error["param"] == param


async def test_base64_has_the_float32_numbers(app: ASGIApp) -> None:
    reply = await ask(app, ["hello"], encoding_format="base64")
    raw = base64.b64decode(reply.json["data"][0]["embedding"])
    assert array("f", raw).tolist() == [5.0, 1.0]


async def test_fewer_dimensions_are_the_first_ones_made_as_long_as_a_vector(app: ASGIApp) -> None:
    reply = await ask(app, "hello", dimensions=1)
    assert reply.json["data"][0]["embedding"] == [1.0]
    whole = await ask(app, "hello", dimensions=2)
    assert whole.json["data"][0]["embedding"] == pytest.approx([5 / 26**0.5, 1 / 26**0.5])


def test_a_shortened_vector_of_zeros_stays_one() -> None:
    assert shortened(array("f", [0.0, 0.0, 1.0]).tobytes(), 2) == array("f", [0.0, 0.0]).tobytes()


async def test_unknown_parameters_are_named_in_a_header(app: ASGIApp) -> None:
    reply = await ask(app, "hello", input_type="query")
    assert reply.headers["x-rayhost-ignored"] == "input_type"


async def test_2048_inputs_are_computed_a_few_at_a_time_and_come_in_order(
    app: ASGIApp, front: VectorFront
) -> None:
    texts = ["x" * (1 + n % 7) for n in range(2048)]
    reply = await ask(app, texts)
    assert [one["embedding"][0] for one in reply.json["data"]] == [len(text) for text in texts]
    assert [one["index"] for one in reply.json["data"]] == list(range(2048))
    assert reply.json["usage"]["total_tokens"] == 3 * 2048
    assert front.most == 2 * front.card.concurrency
    assert len({request.id for request in front.requests}) == 2048
    assert "content-length" not in reply.headers


async def test_an_input_that_is_too_long_is_named(app: ASGIApp, front: VectorFront) -> None:
    def refuses(request: GenerateRequest) -> Exception | None:
        if text_of(request) != "long":
            return None
        return ContextLengthExceeded("maximum 512, it has 600 tokens", param="input")

    front.refuses = refuses
    reply = await ask(app, ["a", "b", "long"])
    assert reply.status == 400
    assert reply.error["param"] == "input[2]"
    assert reply.error["code"] == "context_length_exceeded"
    assert reply.error["message"] == "input[2]: maximum 512, it has 600 tokens"
    assert front.running == 0


@pytest.mark.parametrize(
    ("given", "where"),
    [("a", "input"), ([2, 1000000], "input"), (["a"], "input[0]"), ([[2, 1000000]], "input[0]")],
)
async def test_the_place_of_an_input_is_one_that_the_body_has(
    app: ASGIApp, front: VectorFront, given: Any, where: str
) -> None:
    front.refuses = lambda _: InvalidRequest("1000000 is not a token", param="input")
    reply = await ask(app, given)
    assert (reply.status, reply.error["param"]) == (400, where)
    assert reply.error["message"] == f"{where}: 1000000 is not a token"


async def test_what_is_wrong_with_the_model_is_no_input_s_fault(
    app: ASGIApp, front: VectorFront
) -> None:
    front.refuses = lambda _: InvalidRequest("chats", code="model_not_supported", param="model")
    reply = await ask(app, ["a", "b"])
    assert (reply.error["param"], reply.error["code"]) == ("model", "model_not_supported")
    assert reply.error["message"] == "chats"


async def test_a_run_that_fails_ends_the_others(app: ASGIApp, front: VectorFront) -> None:
    front.fails = lambda request: InvalidRequest("no numbers") if text_of(request) == "b" else None
    reply = await ask(app, ["a", "b", "c"])
    assert reply.error["message"] == "input[1]: no numbers"
    assert front.running == 0


@pytest.mark.parametrize("full", [QueueFull("full"), Overloaded("full")])
async def test_a_full_queue_makes_a_request_with_many_inputs_slower_not_refused(
    app: ASGIApp, front: VectorFront, full: Exception
) -> None:
    front.refuses = lambda _: full if front.running >= 2 else None
    reply = await ask(app, ["a"] * 50)
    assert reply.status == 200
    assert len(reply.json["data"]) == 50
    assert front.most == 2


async def test_a_queue_that_is_full_of_others_refuses_it(app: ASGIApp, front: VectorFront) -> None:
    front.refuses = lambda _: QueueFull("full", retry_after=3)
    reply = await ask(app, ["a"] * 50)
    assert (reply.status, reply.error["code"]) == (429, "queue_full")
    assert reply.headers["retry-after"] == "3"


async def test_a_client_that_goes_takes_its_runs_along(app: ASGIApp, front: VectorFront) -> None:
    front.gate.clear()
    gone = asyncio.Event()
    messages = body_messages(b'{"model": "small", "input": ["a", "b", "c"]}')

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    reply = Reply()
    answering = asyncio.ensure_future(app(http_scope("POST", PATH), receive, reply.send))
    await front.turn.wait()
    gone.set()
    await answering
    assert front.running == 0
    assert front.closed == len(front.requests) > 0
    assert reply.messages == []


async def test_a_timeout_is_for_all_inputs_together(app: ASGIApp, front: VectorFront) -> None:
    front.card = replace(front.card, concurrency=1)  # two at once
    await ask(app, ["a", "b", "c", "d", "e"], [("x-rayhost-timeout-ms", "60000")])
    (deadline_ns,) = {request.terms.deadline_ns for request in front.requests}
    assert deadline_ns is not None


async def test_known_vectors_are_not_computed_again(app: ASGIApp, front: VectorFront) -> None:
    known = Finish("stop", 9, 0, vector=array("f", [7.0, 7.0]).tobytes())
    front.recalled = {"known": Recalled("minilm", "", [], known, 60)}
    reply = await ask(app, "known")
    assert reply.headers["x-rayhost-cache"] == "hit"
    assert reply.json["data"][0]["embedding"] == [7.0, 7.0]
    both = await ask(app, ["known", "new"])
    assert both.headers["x-rayhost-cache"] == "miss"
    assert both.json["usage"]["total_tokens"] == 12
    assert [text_of(request) for request in front.requests] == ["new"]


async def test_cache_control_is_heard(app: ASGIApp, front: VectorFront) -> None:
    await ask(app, "a", [("cache-control", "no-store")])
    assert [request.reuse for request in front.requests] == ["never"]


async def test_tokens_are_run_as_they_are(app: ASGIApp, front: VectorFront) -> None:
    await ask(app, [5, 6])
    assert [request.prompt for request in front.requests] == [TokenPrompt((5, 6))]
