"""A whole host: choices, log-probabilities and shaped sampling, also over a worker's end."""

import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.ask import PATH, body, complete, streaming
from tests.support.host import Host
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy

SHAPES: list[dict[str, Any]] = [
    {"typical_p": 0.7},
    {"dry_multiplier": 0.8, "dry_penalty_last_n": -1, "dry_allowed_length": 1},
    {"xtc_probability": 0.5, "xtc_threshold": 0.02},
    {"mirostat": 1, "mirostat_tau": 3},
    {"mirostat": 2, "mirostat_tau": 3},
    {"logit_bias": {"70": 20, "71": -100}, "repeat_penalty": 1.1, "repeat_last_n": 20},
]


@pytest.fixture(scope="module")
def client(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def sampled(**fields: Any) -> dict[str, Any]:
    return {"temperature": 1.0, "seed": 11, "ignore_eos": True, **fields}


def spelled(token: str) -> bytes:
    """The bytes of a token, also of one that is a part of a character."""
    if token.startswith("bytes:"):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token.encode()


def test_choices_share_one_prefill_and_are_what_each_would_be_alone(host: Host) -> None:
    fields = sampled(max_tokens=30, prompt="Tell me of the sea. " * 20)
    together = complete(host, n=4, **fields).json()
    texts = [choice["text"] for choice in together["choices"]]
    assert len(set(texts)) == 4
    # A batch of four sums in another order than one alone, so only what is asked is compared.
    alone = complete(host, **{**fields, "seed": 13}).json()
    assert alone["usage"]["prompt_tokens"] == together["usage"]["prompt_tokens"]
    assert together["usage"]["completion_tokens"] == 4 * 30
    greedy = complete(host, n=3, max_tokens=30).json()["choices"]
    assert len({choice["text"] for choice in greedy}) == 1


def test_a_list_of_prompts_longer_than_the_queue_lets_in_at_once_is_answered(host: Host) -> None:
    prompts = [f"Story {n}" for n in range(40)]
    reply = complete(host, prompt=prompts, max_tokens=4)
    assert reply.status_code == 200
    choices = reply.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(40))
    one = complete(host, prompt=prompts[7], max_tokens=4).json()
    assert choices[7]["text"] == one["choices"][0]["text"]


def test_log_probabilities_of_a_greedy_answer_are_those_of_the_likeliest(
    client: openai.OpenAI,
) -> None:
    reply = client.completions.create(
        model="tiny", prompt="Once", temperature=0, max_tokens=12, logprobs=3
    )
    (choice,) = reply.choices
    told = choice.logprobs
    assert told is not None
    assert told.tokens
    assert told.token_logprobs
    assert told.top_logprobs
    assert told.text_offset
    assert "".join(told.tokens) == choice.text
    for token, logprob, top, offset in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True
    ):
        assert logprob == max(top.values()) == top[token]
        assert len(top) == 3
        assert sum(map(math.exp, top.values())) <= 1.0001
        assert choice.text[offset:].startswith(token)


def test_a_streamed_answer_has_the_same_log_probabilities(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "Once", "max_tokens": 12, "logprobs": 1}
    whole = client.completions.create(**fields, temperature=0, stop=["zz"]).choices[0].logprobs
    parts = client.completions.create(**fields, temperature=0, stop=["zz"], stream=True)
    tokens: list[str] = []
    logprobs: list[float] = []
    for part in parts:
        for choice in part.choices:
            if choice.logprobs:
                tokens += choice.logprobs.tokens or []
                logprobs += choice.logprobs.token_logprobs or []
    assert whole is not None
    assert tokens == whole.tokens
    assert logprobs == pytest.approx(whole.token_logprobs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_shaped_answer_is_the_same_each_time_and_unlike_a_plain_one(
    host: Host, shape: dict[str, Any]
) -> None:
    headers = {"Cache-Control": "no-store"}
    texts = []
    for asked in (sampled(**shape), sampled(**shape), sampled()):
        sent = body(max_tokens=40, **asked)
        reply = httpx.post(host.url + PATH, json=sent, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        texts.append(reply.json()["choices"][0]["text"])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize("shape", [{"mirostat": 2, "mirostat_tau": 3}, {"xtc_probability": 0.5}])
def test_an_answer_with_log_probabilities_goes_on_in_another_worker_with_none_twice(
    host: Host, shape: dict[str, Any]
) -> None:
    fields = sampled(max_tokens=1500, logprobs=0, **shape)
    with streaming(host, **fields) as stream:
        told: list[str] = []
        text = ""
        killed = False
        for event in stream.events():
            for choice in event["choices"]:
                text += choice["text"]
                told += choice["logprobs"]["tokens"] if choice["logprobs"] else []
            if not killed and len(told) > 20:
                killed = True
                host.worker().kill()
    assert killed
    assert len(told) == 1500
    assert b"".join(map(spelled, told)).decode(errors="replace") == text
    eventually(lambda: httpx.get(f"{host.url}/ready").status_code == 200, "the next worker")


@pytest.mark.parametrize("stream", [False, True])
def test_a_bias_of_a_token_that_is_not_there_is_refused(host: Host, stream: bool) -> None:
    reply = complete(host, logit_bias={"99999999": 1}, stream=stream)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "logit_bias"
    assert "is not a token of 'tiny'" in reply.json()["error"]["message"]


def test_a_gap_can_be_filled_only_by_a_model_that_learned_to(host: Host) -> None:
    reply = complete(host, suffix=" the end.")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "suffix"


def test_an_echoed_prompt_is_in_front_of_the_answer(host: Host) -> None:
    plain = complete(host, max_tokens=6).json()["choices"][0]["text"]
    echoed = complete(host, max_tokens=6, echo=True).json()["choices"][0]["text"]
    assert echoed == body()["prompt"] + plain
    with streaming(host, max_tokens=6, echo=True) as stream:
        assert stream.rest()[0] == echoed


def test_every_choice_has_a_line_in_the_log(host: Host) -> None:
    complete(host, "several", n=3, **sampled(max_tokens=4))
    ids = {"several", "several.1", "several.2"}
    eventually(lambda: ids <= host.requests().keys(), "the log lines of the choices")
