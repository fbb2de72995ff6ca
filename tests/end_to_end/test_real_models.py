"""Real weights behind the official client: the profile with both models of the catalog."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from rayhost.models import catalog
from rayhost.models.store import Store, default_root
from tests.end_to_end.ask import streaming
from tests.support.host import Host, started

# The first run on a machine pulls 350 MB.
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

PROFILE = Path(__file__).parents[2] / "profiles" / "two-models.json"


def capital_of(country: str) -> list[ChatCompletionMessageParam]:
    # Without the system message the model's best two beginnings are too near to tell the same on
    # every machine.
    return [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": f"What is the capital of {country}?"},
    ]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    store = Store(default_root())
    for name in ("smollm2-135m", "gemma3-270m"):
        entry = catalog.BY_NAME[name]
        store.pull(entry.name, entry.source, entry.sha256)
    profile = tmp_path_factory.mktemp("profiles") / PROFILE.name
    profile.write_bytes(PROFILE.read_bytes())  # the log goes beside it
    with started(profile, home=None) as running:
        yield running


@pytest.fixture(scope="module")
def client(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_smollm2_knows_the_capital_of_france_streamed_and_not(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="smollm2-135m", messages=capital_of("France"), temperature=0, max_tokens=32
    )
    assert whole.usage is not None
    text = whole.choices[0].message.content or ""
    assert "Paris" in text
    assert whole.choices[0].finish_reason == "stop"
    assert 5 < whole.usage.completion_tokens <= 32

    stream = client.chat.completions.create(
        model="smollm2-135m",
        messages=capital_of("France"),
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    usage = chunks[-1].usage  # of an answer that was known by then
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_both_models_answer_at_once(host: Host) -> None:
    with streaming(host, model="smollm2-135m", max_tokens=250) as first:
        began = first.first_text()
        with streaming(host, model="gemma3-270m", prompt="The sea is", max_tokens=24) as second:
            text = second.first_text()
            for model in ("smollm2-135m", "gemma3-270m"):
                assert host.metric("rayhost_active_sequences", model) == 1, model
            more, reason = second.rest()
            assert (len(text + more) > 24, reason) == (True, "length")
        rest, _ = first.rest()
        assert len(began + rest) > 250


async def test_concurrent_chats_get_each_their_own_answer(host: Host) -> None:
    countries = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid"}

    async def ask(client: openai.AsyncOpenAI, country: str) -> str:
        reply = await client.chat.completions.create(
            model="smollm2-135m",
            messages=capital_of(country),
            temperature=0,
            max_tokens=24,
        )
        return reply.choices[0].message.content or ""

    async with openai.AsyncOpenAI(
        base_url=f"{host.url}/v1", api_key="none", max_retries=0
    ) as client:
        answers = await asyncio.gather(*(ask(client, country) for country in countries))
    for (country, capital), answer in zip(countries.items(), answers, strict=True):
        assert capital in answer, f"{country}: {answer}"


def test_a_base_model_says_that_it_cannot_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="gemma3-270m", messages=capital_of("France"))
    assert caught.value.param == "messages"
    assert "template" in str(caught.value)


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma3-270m"])
def test_the_third_question_behind_one_text_computes_little_but_the_question(
    client: openai.OpenAI, model: str
) -> None:
    # Gemma has a sliding window of 512, so its cells cannot be cut: the first request leaves none
    # that end with the text, the second keeps a copy there.
    text = " ".join(
        f"Page {number} tells of the sea, the wind and the ships." for number in range(60)
    )

    def reused(question: str) -> tuple[int, int]:
        answer = client.completions.create(
            model=model, prompt=f"{text} {question}", max_tokens=4, temperature=0
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0, answer.usage.prompt_tokens

    reused("Who sailed first?")
    reused("Where did the storm begin?")
    cached, prompt = reused("What did the captain say?")
    assert prompt > 700
    assert prompt - 16 < cached < prompt


def test_log_probabilities_of_a_chat_agree_with_what_it_says(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="smollm2-135m",
        messages=capital_of("France"),
        temperature=0,
        max_tokens=16,
        n=2,
        logprobs=True,
        top_logprobs=5,
    )
    first, second = reply.choices
    assert first.message.content == second.message.content
    assert first.logprobs is not None
    tokens = first.logprobs.content or []
    assert "".join(one.token for one in tokens) == first.message.content
    assert all(one.token == one.top_logprobs[0].token for one in tokens)  # greedy
    assert all(one.logprob <= 0 for one in tokens)
    paris = next(one for one in tokens if "Paris" in one.token)
    assert paris.logprob > -1


def test_an_answer_goes_on_with_what_was_put_into_its_mouth(client: openai.OpenAI) -> None:
    said: ChatCompletionMessageParam = {"role": "assistant", "content": "The capital is Par"}
    reply = client.chat.completions.create(
        model="smollm2-135m",
        messages=[*capital_of("France"), said],
        temperature=0,
        max_tokens=8,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert (reply.choices[0].message.content or "").startswith("is")
