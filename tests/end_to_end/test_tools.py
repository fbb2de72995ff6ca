"""Tools with real weights, which know nothing of tools, through the official client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.support.functions import FUNCTIONS, schema_of
from tests.support.host import Host, started, write_profile

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    entry = catalog.BY_NAME[MODEL]
    Store(default_root()).pull(entry.name, entry.source, entry.sha256)
    profile = write_profile(
        tmp_path_factory.mktemp("tools") / "profile.json",
        [{"name": MODEL, "context": 4096, "concurrency": 2}],
    )
    with started(profile, home=None) as running:
        yield running


@pytest.fixture(scope="module")
def client(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def tool(function: dict[str, Any]) -> Any:
    return {"type": "function", "function": function}


def named(function: dict[str, Any]) -> Any:
    return {"type": "function", "function": {"name": function["name"]}}


def says(text: str) -> Any:
    return {"role": "user", "content": text}


def checked(calls: Any, functions: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return the calls' names and arguments, which match the schemas of the functions."""
    schemas = {one["name"]: schema_of(one) for one in functions}
    made = [(one.function.name, json.loads(one.function.arguments)) for one in calls]
    for name, arguments in made:
        jsonschema.validate(arguments, schemas[name])
    return made


@pytest.mark.parametrize("number", range(len(FUNCTIONS)), ids=lambda n: FUNCTIONS[n][1]["name"])
def test_a_named_function_is_called_with_valid_arguments(
    client: openai.OpenAI, number: int
) -> None:
    text, function = FUNCTIONS[number]
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [says(text)],
        "tools": [tool(function), tool(FUNCTIONS[number - 1][1])],
        "tool_choice": named(function),
        "temperature": 0.8,
        "seed": number,
        "max_tokens": 300,
    }
    answer = client.chat.completions.create(**asked).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    ((name, _),) = checked(answer.message.tool_calls, [function])
    assert name == function["name"]

    # And streamed: computed anew, as a known answer would come at once.
    asked["extra_headers"] = {"Cache-Control": "no-cache"}
    with client.chat.completions.stream(**asked) as stream:
        done = [one for one in stream if one.type == "tool_calls.function.arguments.done"]
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert [(one.name, json.loads(one.arguments)) for one in done] == checked(
        streamed.message.tool_calls, [function]
    )


@pytest.mark.parametrize("seed", range(10))
def test_required_is_one_call_or_more_of_what_is_offered(client: openai.OpenAI, seed: int) -> None:
    offered = [function for _, function in FUNCTIONS[seed : seed + 4]]
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[says(FUNCTIONS[seed][0])],
        tools=[tool(one) for one in offered],
        tool_choice="required",
        parallel_tool_calls=seed % 2 == 0,
        temperature=1,
        seed=seed,
        max_tokens=3000,
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    calls = checked(answer.message.tool_calls, offered)
    assert 1 <= len(calls) <= (16 if seed % 2 == 0 else 1)


def test_a_whole_round_trip(host: Host, client: openai.OpenAI) -> None:
    text, function = FUNCTIONS[0]
    messages = [says(text)]
    asked: dict[str, Any] = {
        "model": MODEL,
        "tools": [tool(function)],
        "temperature": 0,
        "max_tokens": 60,
    }
    first = client.chat.completions.create(
        messages=messages, tool_choice="required", parallel_tool_calls=False, **asked
    )
    message = first.choices[0].message
    ((_, arguments),) = checked(message.tool_calls, [function])
    assert "Paris" in arguments["city"]
    (call,) = message.tool_calls or []
    messages += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "snow", "degrees": -7}'},
    ]
    shown = {name: asked[name] for name in ("model", "tools")}
    prompt = httpx.post(f"{host.url}/apply-template", json={**shown, "messages": messages}).json()
    assert "snow" in prompt["prompt"]  # what so small a model makes of it is its own
    second = client.chat.completions.create(messages=messages, tool_choice="none", **asked)
    answer = second.choices[0]
    assert answer.finish_reason in ("stop", "length")
    assert answer.message.content
    assert not answer.message.tool_calls


def test_auto_answers_in_text_or_calls(client: openai.OpenAI) -> None:
    functions = [function for _, function in FUNCTIONS[:3]]
    for text, function in FUNCTIONS[:3]:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[says(text)],
            tools=[tool(one) for one in functions],
            temperature=0,
            max_tokens=80,
        ).choices[0]
        calls = answer.message.tool_calls or []
        assert bool(calls) == (answer.finish_reason == "tool_calls"), function["name"]
        assert calls or answer.message.content
        checked(calls, functions)


def test_an_answer_beside_tools_matches_its_schema_or_calls(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[says("What is the capital of France?")],
        tools=[tool(FUNCTIONS[0][1])],
        response_format=wanted,
        temperature=0,
        max_tokens=200,
    ).choices[0]
    if answer.message.tool_calls:
        checked(answer.message.tool_calls, [FUNCTIONS[0][1]])
    else:
        jsonschema.validate(json.loads(answer.message.content or ""), schema)


def test_a_schema_that_cannot_be_followed_is_refused_with_its_function(
    client: openai.OpenAI,
) -> None:
    picky = {"type": "array", "uniqueItems": True}
    function = {"name": "pick", "parameters": {"type": "object", "properties": {"a": picky}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[says("Pick.")], tools=[tool(function)], tool_choice="required"
        )
    assert (caught.value.code, caught.value.param) == ("invalid_function_parameters", "tools")
    assert "'pick'" in caught.value.message
    assert "uniqueItems" in caught.value.message
