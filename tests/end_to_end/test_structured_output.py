"""Structured output from real weights: whatever the schema, a finished answer is valid."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.support import random_schemas
from tests.support.host import Host, started, write_profile

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

MODEL = "smollm2-135m"
SCHEMAS = 200
CLIENTS = 8
# Of the formats that it knows, those that a grammar can tell: in one every February has 29 days.
FORMATS = jsonschema.FormatChecker(("email", "ipv4", "uuid"))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    entry = catalog.BY_NAME[MODEL]
    Store(default_root()).pull(entry.name, entry.source, entry.sha256)
    model = {"name": MODEL, "context": 1024, "concurrency": CLIENTS}
    profile = write_profile(tmp_path_factory.mktemp("host") / "profile.json", [model])
    with started(profile, home=None) as running:
        yield running


def ask(host: Host, **fields: Any) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me about a fruit."}],
        "temperature": 0,
        "max_tokens": 200,
        **fields,
    }
    return httpx.post(f"{host.url}/v1/chat/completions", json=body, timeout=120)


def said(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


async def test_every_finished_answer_of_200_random_schemas_is_valid(host: Host) -> None:
    seeds = iter(range(SCHEMAS))
    finished: list[int] = []

    async def client(http: httpx.AsyncClient) -> None:
        for seed in seeds:
            schema = random_schemas.schema(seed)
            body = {
                "model": MODEL,
                "prompt": f"Example {seed}: ",
                "response_format": of(schema),
                "max_tokens": 48,
                "temperature": 0.8,
                "seed": seed,
            }
            answer = await http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            (choice,) = answer.json()["choices"]
            text, reason = choice["text"], choice["finish_reason"]
            if reason == "stop":
                jsonschema.validate(json.loads(text), schema, format_checker=FORMATS)
                finished.append(seed)

    async with httpx.AsyncClient(base_url=host.url, timeout=120) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    assert len(finished) >= SCHEMAS * 3 // 5, len(finished)


def test_any_object_is_one(host: Host) -> None:
    text, reason = said(ask(host, response_format={"type": "json_object"}, seed=3, temperature=1))
    if reason == "stop":
        assert isinstance(json.loads(text), dict)
    assert text.startswith("{")


def test_a_grammar_a_pattern_and_a_choice_are_followed(host: Host) -> None:
    rules = ('root ::= who (", " who)+ "."', "who ::= [A-Z] [a-z]{2,5} | title", 'title ::= "Dr"')
    text, reason = said(ask(host, grammar="\n".join(rules), max_tokens=60))
    assert reason == "length" or re.fullmatch(r"[A-Z][a-z]{1,5}(, [A-Z][a-z]{1,5})+\.", text)
    assert said(ask(host, guided_regex=r"\d{3}-[xyz]{4}"))[0].count("-") == 1
    assert said(ask(host, guided_choice=["pear", "plum"])) in (("pear", "stop"), ("plum", "stop"))


def test_log_probabilities_are_those_of_the_model_not_of_the_grammar(host: Host) -> None:
    answer = ask(host, guided_choice=["\u4f60\u597d"], logprobs=True, top_logprobs=3)
    assert said(answer) == ("\u4f60\u597d", "stop")
    told = answer.json()["choices"][0]["logprobs"]["content"]
    assert told[0]["logprob"] < -5, "a greeting in Chinese is not what it would have said"
    assert all(len(one["top_logprobs"]) == 3 for one in told)


def test_a_streamed_answer_is_the_same(host: Host) -> None:
    schema = random_schemas.schema(7)
    whole, reason = said(ask(host, response_format=of(schema)))
    with httpx.stream(
        "POST",
        f"{host.url}/v1/chat/completions",
        json={
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me about a fruit."}],
            "temperature": 0,
            "max_tokens": 200,
            "response_format": of(schema),
            "stream": True,
        },
        headers={"Cache-Control": "no-cache"},
        timeout=120,
    ) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    pieces = [json.loads(event)["choices"][0] for event in events]
    assert "".join(piece["delta"].get("content") or "" for piece in pieces) == whole
    assert pieces[-1]["finish_reason"] == reason


@pytest.mark.parametrize(
    ("fields", "code", "param", "says"),
    [
        (
            {"response_format": of({"type": "array", "uniqueItems": True})},
            "invalid_json_schema",
            "response_format",
            "uniqueItems",
        ),
        (
            {"response_format": of({"$ref": "#/$defs/nowhere"})},
            "invalid_json_schema",
            "response_format",
            "nowhere",
        ),
        ({"grammar": "root ::= missing"}, "invalid_grammar", "grammar", "missing"),
        ({"guided_regex": "(?=a)b"}, "invalid_regex", "guided_regex", "look-around"),
    ],
)
def test_what_cannot_be_followed_is_a_400_that_says_why(
    host: Host, fields: dict[str, Any], code: str, param: str, says: str
) -> None:
    answer = ask(host, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
