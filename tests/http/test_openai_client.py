"""The official client, over a real server: what users will actually point at rayhost."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from starlette.types import ASGIApp

from rayhost.errors import (
    ApiError,
    ModelFailed,
    Overloaded,
    QueueFull,
    RateLimited,
    Unavailable,
    WorkerLost,
)
from rayhost.front.request import Piece
from rayhost.ipc.messages import Likely, TokenLogprob
from tests.http.conftest import BODY_BYTES
from tests.http.fake_front import FakeFront
from tests.support.http_server import serving


@pytest.fixture
def url(app: ASGIApp) -> Iterator[str]:
    with serving(app) as base:
        yield base


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest_asyncio.fixture
async def async_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, content: str = "hi", model: str = "small") -> str | None:
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}]
    )
    return reply.choices[0].message.content


def test_chat_whole(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}]
    )
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "smollm2-135m"
    assert reply.choices[0].message.content == "Paris is nice"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 10


def test_an_answer_sent_back_as_it_came_is_a_valid_message(
    client: openai.OpenAI, front: FakeFront
) -> None:
    first = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}]
    )
    back = first.choices[0].message.model_dump()
    client.post(
        "/chat/completions",
        body={"model": "small", "messages": [back, {"role": "user", "content": "and?"}]},
        cast_to=object,
    )
    assert len(front.requests) == 2


def test_chat_stream(client: openai.OpenAI, front: FakeFront) -> None:
    with client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [one.choices[0].delta.content for one in chunks if one.choices]
    assert [piece for piece in pieces if piece] == list(front.pieces)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_completions_whole_and_streamed(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="small", prompt="hi")
    assert (reply.choices[0].text, reply.object) == ("Paris is nice", "text_completion")
    with client.completions.create(model="small", prompt="hi", stream=True) as stream:
        assert "".join(one.choices[0].text for one in stream) == "Paris is nice"


async def test_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    reply = await async_client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "hi"}]
    )
    assert reply.choices[0].message.content == "Paris is nice"
    stream = await async_client.completions.create(model="small", prompt="hi", stream=True)
    async with stream:
        assert [one.choices[0].text async for one in stream][-1] == ""


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["smollm2-135m"]
    assert client.models.retrieve("small").id == "smollm2-135m"


def test_each_refusal_is_its_own_exception(client: openai.OpenAI, front: FakeFront) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        ask(client, model="gpt-5")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="small", prompt="hi", temperature=3)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    front.submit_error = QueueFull("full", retry_after=2)
    with pytest.raises(openai.RateLimitError) as limited:
        ask(client)
    assert limited.value.response.headers["retry-after"] == "2"
    front.submit_error = Unavailable("draining")
    with pytest.raises(openai.InternalServerError) as down:
        ask(client)
    assert down.value.status_code == 503


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_is_refused_with_a_status_too(
    client: openai.OpenAI, front: FakeFront, stream: bool
) -> None:
    front.submit_error = QueueFull("full")
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model="small", prompt="hi", stream=stream)


def test_a_run_that_fails_under_a_stream_raises_after_what_came_before(
    client: openai.OpenAI, front: FakeFront
) -> None:
    front.run_error = WorkerLost("the worker died")
    with client.completions.create(model="small", prompt="hi", stream=True) as stream:
        seen = [next(stream).choices[0].text for _ in front.pieces]
        with pytest.raises(openai.APIError, match="the worker died"):
            next(stream)
    assert seen == list(front.pieces)


def test_an_oversize_body_is_413_even_while_it_is_still_being_sent(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, content="x" * 20_000_000)
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")


def test_an_oversize_chunked_body_is_413(url: str) -> None:
    chunks = (b" " * 1024 for _ in range(BODY_BYTES // 1024 + 1))
    reply = httpx.post(f"{url}/v1/completions", content=chunks)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_a_connection_serves_many_requests(url: str, front: FakeFront) -> None:
    body = {"model": "small", "prompt": "hi"}
    with httpx.Client(base_url=url) as client:
        for extra in ({}, {"stream": True}, {"top_k": -1}, {"stream": True}):
            client.post("/v1/completions", json={**body, **extra})
        client.get("/nope")
        assert client.post("/v1/completions", json=body).status_code == 200
    assert len(front.runs) == 4
    assert all(run.closed for run in front.runs)


@pytest.mark.parametrize(
    "refusal",
    [QueueFull("full", retry_after=1), RateLimited("slow", retry_after=1), Overloaded("busy")],
)
def test_the_client_comes_back_after_a_refusal_and_is_served(
    url: str, front: FakeFront, refusal: ApiError
) -> None:
    front.refusals = [refusal]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as client:
        assert ask(client) == "Paris is nice"
    assert len(front.requests) == 2


@pytest.mark.parametrize("failure", [ModelFailed("no such file"), WorkerLost("it kills workers")])
def test_the_client_does_not_repeat_what_cannot_be_answered(
    url: str, front: FakeFront, failure: ApiError
) -> None:
    front.submit_error = failure
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        ask(client)
    assert raised.value.code == failure.code
    assert len(front.requests) == 1


def test_choices_and_log_probabilities(client: openai.OpenAI, front: FakeFront) -> None:
    told = TokenLogprob(1, b"a", -0.5, (Likely(1, b"a", -0.5), Likely(2, b"\xc3", -1.0)))
    front.pieces = (Piece("a", (told,)),)
    fields: dict[str, Any] = {"model": "small", "n": 2, "seed": 1}
    chat = client.chat.completions.create(
        **fields, messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in chat.choices] == [0, 1]
    for choice in chat.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        (token,) = choice.logprobs.content
        assert (token.token, token.logprob, token.bytes) == ("a", -0.5, [97])
        assert [one.bytes for one in token.top_logprobs] == [[97], [0xC3]]
    with client.chat.completions.create(
        **fields, messages=[{"role": "user", "content": "hi"}], logprobs=True, stream=True
    ) as chunks:
        seen = [
            (choice.index, [one.token for one in choice.logprobs.content or []])
            for chunk in chunks
            for choice in chunk.choices
            if choice.logprobs
        ]
    assert sorted(seen) == [(0, ["a"]), (1, ["a"])]
    text = client.completions.create(**fields, prompt=["hi", "ho"], logprobs=2, echo=False)
    assert [choice.index for choice in text.choices] == [0, 1, 2, 3]
    for one in text.choices:
        assert one.logprobs is not None
        assert one.logprobs.tokens == ["a"]
        assert one.logprobs.top_logprobs == [{"a": -0.5, "bytes:\\xc3": -1.0}]
        assert one.logprobs.text_offset == [0]
    assert text.usage is not None
    assert (text.usage.prompt_tokens, text.usage.completion_tokens) == (14, 12)
