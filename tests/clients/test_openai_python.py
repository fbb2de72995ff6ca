"""OpenAI's own client for Python against a real host: what tests of the HTTP layer cannot show."""

import base64
from array import array
from typing import Literal, cast

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolChoiceOptionParam
from pydantic import BaseModel

from tests.clients.conftest import (
    ABOUT,
    CHAT_MODEL,
    EMBEDDING_MODEL,
    QUESTION,
    TEXTS,
    TOOL,
    Keyed,
    check_vectors,
)
from tests.clients.refusals import EACH_REFUSAL, Refusal
from tests.support.host import Host

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.mark.parametrize("refusal", EACH_REFUSAL)
def test_each_refusal_is_an_exception_of_its_own(keyed: Keyed, refusal: Refusal) -> None:
    key = getattr(keyed, refusal.key, refusal.key)
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.post(
            f"/{refusal.path}",
            body=refusal.sent,
            options={"headers": refusal.headers},
            cast_to=object,
        )
    error = caught.value
    kind = openai.APIStatusError if refusal.error == "APIError" else getattr(openai, refusal.error)
    assert type(error) is kind
    wanted = (refusal.status, refusal.code, refusal.param)
    assert (error.status_code, error.code, error.param) == wanted
    assert (refusal.status in (429, 504)) == ("retry-after" in error.response.headers)
    assert error.request_id == error.response.headers["x-request-id"]


def test_nobody_there_is_a_connection_error() -> None:
    with (
        openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()


def test_the_client_collects_a_stream_into_what_a_whole_reply_says(host: Host) -> None:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=64,
        )
        with client.chat.completions.stream(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=64,
        ) as stream:
            collected = stream.get_final_completion()
    assert collected.choices[0].message.content == whole.choices[0].message.content
    assert "Paris" in (whole.choices[0].message.content or "")


class Person(BaseModel):
    """What a structured answer is to say."""

    name: str
    age: int


def test_a_structured_answer_is_parsed(host: Host) -> None:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.parse(
            model=CHAT_MODEL,
            messages=[{"role": "user", "content": ABOUT}],
            temperature=0,
            response_format=Person,
        )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "remember"}}],
    ids=["required", "named"],
)
def test_a_tool_is_called_whole_and_streamed_and_told_its_result(
    host: Host, choice: ChatCompletionToolChoiceOptionParam
) -> None:
    question: ChatCompletionMessageParam = {"role": "user", "content": ABOUT}
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(
            model=CHAT_MODEL,
            messages=[question],
            tools=[TOOL],
            tool_choice=choice,
            parallel_tool_calls=False,  # a model as small as this one would call without an end
            temperature=0,
            max_tokens=200,
        )
        with client.chat.completions.stream(
            model=CHAT_MODEL,
            messages=[question],
            tools=[TOOL],
            tool_choice=choice,
            parallel_tool_calls=False,
            temperature=0,
            max_tokens=200,
        ) as stream:
            collected = stream.get_final_completion()
        said = whole.choices[0].message
        calls = [call for call in said.tool_calls or () if call.type == "function"]
        back: list[ChatCompletionMessageParam] = [
            {"role": "tool", "tool_call_id": call.id, "content": "written down"} for call in calls
        ]
        after = client.chat.completions.create(
            model=CHAT_MODEL,
            messages=[question, cast(ChatCompletionMessageParam, said.to_dict()), *back],
            tools=[TOOL],
            tool_choice="none",
            max_tokens=16,
        )
    assert whole.choices[0].finish_reason == "tool_calls"
    assert calls
    for call in calls:
        assert call.function.name == "remember"
        Person.model_validate_json(call.function.arguments, strict=True)
    streamed = collected.choices[0].message.tool_calls or []
    assert [(one.function.name, one.function.arguments) for one in streamed] == [
        (one.function.name, one.function.arguments) for one in calls
    ]
    assert after.choices[0].message.tool_calls is None


@pytest.mark.parametrize("written", ["float", "base64", None])
def test_embeddings(host: Host, written: Literal["float", "base64"] | None) -> None:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as client:
        made = client.embeddings.create(
            model=EMBEDDING_MODEL,
            input=TEXTS,
            encoding_format=openai.omit if written is None else written,
        )
        short = client.embeddings.create(model=EMBEDDING_MODEL, input=TEXTS[0], dimensions=64)
    assert made.usage.total_tokens > 10
    assert len(short.data[0].embedding) == 64
    vectors = [one.embedding for one in made.data]
    if written == "base64":  # asked for by name, it is the program's to read
        vectors = [array("f", base64.b64decode(str(one))).tolist() for one in vectors]
    check_vectors(*vectors)
