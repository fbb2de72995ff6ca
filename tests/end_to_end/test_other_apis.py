"""Responses, Messages and questions about text against a real model, by the official clients."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest

from tests.support.host import Host, started, write_profile

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

MODEL = "smollm2-135m"
ASKED: Any = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
CITY: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def host(smollm2: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    model = {"name": MODEL, "source": f"file:{smollm2}", "context": 1024, "concurrency": 2}
    profile = write_profile(tmp_path_factory.mktemp("profiles") / "one.json", [model])
    with started(profile, store) as running:
        yield running


@pytest.fixture(scope="module")
def gpt(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(host: Host) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=host.url, api_key="none", max_retries=0) as made:
        yield made


def post(host: Host, path: str, **body: Any) -> Any:
    reply = httpx.post(host.url + path, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_responses_streamed_and_not_say_the_same(gpt: openai.OpenAI) -> None:
    given: Any = {"model": MODEL, "input": ASKED, "temperature": 0, "max_output_tokens": 24}
    whole = gpt.responses.create(**given)
    assert "Paris" in whole.output_text
    with gpt.responses.stream(**given) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_messages_streamed_and_not_say_the_same(claude: anthropic.Anthropic) -> None:
    given: Any = {
        "model": MODEL,
        "max_tokens": 24,
        "messages": ASKED,
        "extra_body": {"temperature": 0},
    }
    whole = claude.messages.create(**given)
    (block,) = whole.content
    assert block.type == "text"
    assert "Paris" in block.text
    with claude.messages.stream(**given) as stream:
        assert stream.get_final_text() == block.text


def test_the_stop_sequence_is_told(claude: anthropic.Anthropic) -> None:
    reply = claude.messages.create(
        model=MODEL,
        max_tokens=60,
        extra_body={"temperature": 0},  # drawn, an answer may have none of them
        system="Answer with one word.",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        stop_sequences=["nothing like it", *"aeiou"],
    )
    assert reply.stop_reason == "stop_sequence"
    assert reply.stop_sequence in tuple("aeiou")


def test_what_is_counted_is_what_is_used(claude: anthropic.Anthropic) -> None:
    count = claude.messages.count_tokens(model=MODEL, messages=ASKED, system="Be brief.")
    reply = claude.messages.create(model=MODEL, max_tokens=1, messages=ASKED, system="Be brief.")
    used = reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)
    assert count.input_tokens == used


def test_an_answer_that_has_begun_goes_on(claude: anthropic.Anthropic) -> None:
    reply = claude.messages.create(
        model=MODEL,
        max_tokens=8,
        messages=[*ASKED, {"role": "assistant", "content": "The capital of France is"}],
        extra_body={"temperature": 0},
    )
    (block,) = reply.content
    assert block.type == "text"
    assert block.text.strip().startswith("Paris")


def test_a_form_of_the_text_is_kept_to(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    form: Any = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    reply = gpt.responses.create(
        model=MODEL, input=ASKED, text={"format": form}, max_output_tokens=100
    )
    jsonschema.validate(json.loads(reply.output_text), CITY)
    config: Any = {"format": {"type": "json_schema", "schema": CITY}}
    message = claude.messages.create(
        model=MODEL, max_tokens=100, messages=ASKED, output_config=config
    )
    (block,) = message.content
    assert block.type == "text"
    jsonschema.validate(json.loads(block.text), CITY)


def test_a_tool_that_must_be_called_is_called(
    gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    tool: Any = {"type": "function", "name": "look_up", "parameters": CITY, "strict": True}
    reply = gpt.responses.create(
        model=MODEL,
        input=ASKED,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=100,
    )
    (call,) = reply.output
    assert call.type == "function_call"
    assert call.name == "look_up"
    jsonschema.validate(json.loads(call.arguments), CITY)
    message = claude.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=ASKED,
        tools=[{"name": "look_up", "input_schema": CITY}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    (used,) = message.content
    assert used.type == "tool_use"
    assert message.stop_reason == "tool_use"
    jsonschema.validate(used.input, CITY)


def test_text_becomes_tokens_and_text_again(host: Host) -> None:
    text = "Grüße, 🙂 <|im_end|>"
    ids = post(host, "/tokenize", content=text)["tokens"]
    assert post(host, "/detokenize", tokens=ids) == {"content": text}
    pieces = post(host, "/tokenize", content=text, with_pieces=True)["tokens"]
    assert [one["id"] for one in pieces] == ids
    raw = b"".join(
        one["piece"].encode() if isinstance(one["piece"], str) else bytes(one["piece"])
        for one in pieces
    )
    assert raw.decode() == text


def test_a_prompt_that_was_made_is_the_one_that_is_run(host: Host) -> None:
    prompt = post(host, "/apply-template", messages=ASKED)["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n")
    chat = post(
        host, "/v1/chat/completions", model=MODEL, messages=ASKED, temperature=0, max_tokens=8
    )
    text = post(host, "/v1/completions", model=MODEL, prompt=prompt, temperature=0, max_tokens=8)
    assert text["choices"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert text["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"]


def test_a_token_that_there_is_not_is_a_clients_error(host: Host) -> None:
    reply = httpx.post(f"{host.url}/detokenize", json={"tokens": [10**6]}, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tokens")
