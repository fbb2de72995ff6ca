"""LangChain's `ChatOpenAI` against a real host."""

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.clients.conftest import (
    ABOUT,
    CHAT_MODEL,
    EMBEDDING_MODEL,
    QUESTION,
    TEXTS,
    check_vectors,
)
from tests.support.host import Host

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture
def model(host: Host) -> ChatOpenAI:
    return ChatOpenAI(
        model=CHAT_MODEL,
        base_url=f"{host.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_retries=0,
    )


def test_it_answers_whole_and_streamed_the_same(model: ChatOpenAI) -> None:
    whole = model.invoke(QUESTION)
    assert "Paris" in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
    assert whole.response_metadata["finish_reason"] == "stop"
    assert "".join(chunk.text for chunk in model.stream(QUESTION)) == whole.text


async def test_it_answers_a_batch(model: ChatOpenAI) -> None:
    asked = [
        [SystemMessage("Answer with one word."), HumanMessage(f"What is the capital of {one}?")]
        for one in ("France", "Italy")
    ]
    france, italy = await model.abatch(list(asked))
    assert "Paris" in france.text
    assert "Rome" in italy.text


class Person(BaseModel):
    """What a structured answer is to say."""

    name: str
    age: int


def test_structured_output(model: ChatOpenAI) -> None:
    person = model.with_structured_output(Person, method="json_schema").invoke(ABOUT)
    assert isinstance(person, Person)


def test_structured_output_by_a_tool(model: ChatOpenAI) -> None:
    person = model.with_structured_output(Person, method="function_calling").invoke(ABOUT)
    assert isinstance(person, Person)


def test_a_tool_is_called_whole_and_streamed(model: ChatOpenAI) -> None:
    bound = model.bind_tools([Person], tool_choice="any", parallel_tool_calls=False)
    called = bound.invoke(ABOUT)
    assert isinstance(called, AIMessage)
    assert called.tool_calls
    for call in called.tool_calls:
        assert call["name"] == "Person"
        Person.model_validate(call["args"], strict=True)
    chunks = [chunk for chunk in bound.stream(ABOUT) if isinstance(chunk, AIMessageChunk)]
    collected = add_ai_message_chunks(*chunks)
    assert [one["args"] for one in collected.tool_calls] == [
        one["args"] for one in called.tool_calls
    ]


def test_its_embeddings(host: Host) -> None:
    # Without it, LangChain sends ids of OpenAI's own tokenizer.
    embeddings = OpenAIEmbeddings(
        model=EMBEDDING_MODEL,
        base_url=f"{host.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
    )
    check_vectors(*embeddings.embed_documents(TEXTS))
