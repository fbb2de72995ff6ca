"""Vectors and scores from a whole host: by the official client, in batches, over a dead worker."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from gguf import PoolingType

from tests.end_to_end.ask import complete
from tests.engine.tiny_bert import CONTEXT, SIZE, write_tiny_bert
from tests.support.host import Host, started, tiny, write_profile
from tests.support.waiting import eventually

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def host(models: Path, store: Path) -> Iterator[Host]:
    """A host with a model of each kind."""
    write_tiny_bert(models / "embed.gguf", PoolingType.MEAN)
    write_tiny_bert(models / "rank.gguf", PoolingType.RANK)
    served = [
        tiny("embed", "embed.gguf", aliases=["text-embedding-3-small"], concurrency=8),
        tiny("rank", "rank.gguf"),
        tiny(),
        tiny("kept", "embed.gguf", share="reproducible"),
    ]
    with started(write_profile(models / "kinds.json", served), store) as running:
        yield running


@pytest.fixture
def client(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{host.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(host: Host, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{host.url}/v1/{path}", json=body, timeout=60)


def words(count: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"{letters[n % 26]} {letters[n // 26 % 26] * (n % 5)} x" for n in range(count)]


def test_the_official_client_gets_vectors_in_both_encodings(client: openai.OpenAI) -> None:
    texts = ["hello world", "another text, a longer one."]
    packed = client.embeddings.create(model="embed", input=texts)  # base64, as it does by itself
    plain = client.embeddings.create(model="embed", input=texts, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.model == "embed"
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 10
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == SIZE
        assert one.embedding == pytest.approx(other.embedding, abs=1e-4)
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)


def test_every_form_of_input_gives_the_same_vector(client: openai.OpenAI, host: Host) -> None:
    by_text = client.embeddings.create(model="text-embedding-3-small", input="a b")
    ids = [2, 5, 6, 3]  # [CLS] a b [SEP]
    by_tokens = client.embeddings.create(model="embed", input=ids)
    in_lists = client.embeddings.create(model="embed", input=[ids, ids])
    assert by_text.usage.prompt_tokens == 4
    for one in (by_tokens.data[0], *in_lists.data):
        assert one.embedding == pytest.approx(by_text.data[0].embedding, abs=1e-4)


def test_fewer_dimensions_are_a_vector_too(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model="embed", input="hello").data[0].embedding
    short = client.embeddings.create(model="embed", input="hello", dimensions=8).data[0].embedding
    expected = np.array(whole[:8]) / np.linalg.norm(whole[:8])
    assert short == pytest.approx(expected.tolist(), abs=1e-4)
    with pytest.raises(openai.BadRequestError, match=rf"vectors have {SIZE}, not {SIZE + 1}"):
        client.embeddings.create(model="embed", input="hello", dimensions=SIZE + 1)


def test_2048_inputs_of_one_request_come_back_in_order(client: openai.OpenAI) -> None:
    texts = words(2048)
    made = client.embeddings.create(model="embed", input=texts)
    assert [one.index for one in made.data] == list(range(2048))
    for number in (0, 1000, 2047):
        (alone,) = client.embeddings.create(model="embed", input=texts[number]).data
        assert made.data[number].embedding == pytest.approx(alone.embedding, abs=1e-3)


def test_requests_of_several_clients_are_computed_in_one_step(host: Host) -> None:
    with ThreadPoolExecutor(8) as clients:
        with host.frozen("embed"):
            steps = host.metric("rayhost_steps_total", "embed")
            waiting = [clients.submit(embed, host, [token]) for token in range(5, 13)]
            eventually(lambda: started_by(host) == 8, "all of them to be in the worker")
        vectors = [one.result()[0]["embedding"] for one in waiting]
    assert len({tuple(vector) for vector in vectors}) == 8
    assert host.metric("rayhost_steps_total", "embed") - steps <= 2


def started_by(host: Host) -> int:
    """Requests that the worker was given and has not answered."""
    transport = httpx.HTTPTransport(uds=str(host.admin_socket))
    with httpx.Client(transport=transport, base_url="http://admin") as admin:
        response = admin.get("/admin/state")
    (model,) = [one for one in response.json()["models"] if one["name"] == "embed"]
    return sum(one["phase"] != "queued" for one in model["requests"])


def test_vectors_are_computed_again_where_the_worker_dies(host: Host) -> None:
    prompts = [[2, 5 + n % 26, 6, 3] for n in range(64)]  # a frozen worker reads no text
    expected = [one["embedding"] for one in embed(host, prompts)]
    result: list[Any] = []
    with host.frozen("embed"):
        asking = threading.Thread(target=lambda: result.extend(embed(host, prompts)))
        asking.start()
        eventually(lambda: started_by(host) > 1, "the worker to have some of them")
        host.worker("embed").kill()
    asking.join(60)
    made = [one["embedding"] for one in result]
    assert len(made) == 64
    assert np.array(made) == pytest.approx(np.array(expected), abs=1e-3)


def embed(host: Host, given: list[Any]) -> list[Any]:
    reply = post(host, "embeddings", model="embed", input=given)
    assert reply.status_code == 200, reply.text
    data: list[Any] = reply.json()["data"]
    return data


def test_a_vector_that_is_known_is_not_computed_again(host: Host) -> None:
    first = post(host, "embeddings", model="kept", input=["a", "b"])
    again = post(host, "embeddings", model="kept", input=["b", "a"])
    assert (first.headers["x-rayhost-cache"], again.headers["x-rayhost-cache"]) == ("miss", "hit")
    vectors = [one["embedding"] for one in first.json()["data"]]
    assert [one["embedding"] for one in again.json()["data"]] == vectors[::-1]
    assert again.json()["usage"] == first.json()["usage"]


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        (["a", "b " * CONTEXT], "input[1]", "context_length_exceeded"),
        ([[1, 2], [3, 10**6]], "input[1]", "invalid_value"),
        ("", "input", "invalid_value"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_named(
    client: openai.OpenAI, given: Any, param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="embed", input=given)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.message.count(param) > 0


def test_the_longest_input_is_as_long_as_the_context(client: openai.OpenAI) -> None:
    longest = client.embeddings.create(model="embed", input="b " * (CONTEXT - 2))
    assert longest.usage.prompt_tokens == CONTEXT


def test_documents_are_ranked(host: Host) -> None:
    documents = ["a", "some other text", "what?"]
    ranked = post(
        host, "rerank", model="rank", query="a b", documents=documents, return_documents=True
    ).json()
    scores = [one["relevance_score"] for one in ranked["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    assert sorted(one["index"] for one in ranked["results"]) == [0, 1, 2]
    assert all(one["document"]["text"] == documents[one["index"]] for one in ranked["results"])
    best = post(host, "rerank", model="rank", query="a b", documents=documents, top_n=1).json()
    assert [one["index"] for one in best["results"]] == [ranked["results"][0]["index"]]
    assert best["usage"]["total_tokens"] > 10


def test_a_model_is_asked_only_for_what_it_can_do(client: openai.OpenAI, host: Host) -> None:
    for ask in (
        lambda: client.chat.completions.create(
            model="embed", messages=[{"role": "user", "content": "hi"}]
        ),
        lambda: client.completions.create(model="rank", prompt="hi"),
        lambda: client.embeddings.create(model="tiny", input="hi"),
        lambda: client.embeddings.create(model="rank", input="hi"),
    ):
        with pytest.raises(openai.BadRequestError, match="it is for /v1/") as refused:
            ask()
        assert (refused.value.code, refused.value.param) == ("model_not_supported", "model")
    reply = post(host, "rerank", model="embed", query="a", documents=["b"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_not_supported")
    assert complete(host).status_code == 200


def test_the_models_say_what_they_can_do(host: Host) -> None:
    listed = httpx.get(f"{host.url}/v1/models").json()["data"]
    can = {
        one["id"]: {name for name, able in one["capabilities"].items() if able} for one in listed
    }
    assert can["embed"] == {"embedding"}
    assert can["rank"] == {"rerank"}
    assert {"chat", "completion", "tools", "json_schema"} == can["tiny"]
    (model,) = [one for one in listed if one["id"] == "embed"]
    assert (model["architecture"], model["dimensions"], model["context"]) == ("bert", SIZE, CONTEXT)
    assert model["sliding_window"] is None
    support = {one["id"]: one["capabilities"]["tools"] for one in listed}
    assert support == {"tiny": "generic", "embed": False, "kept": False, "rank": False}


def test_a_host_of_vectors_greets_with_a_request_for_some(models: Path, store: Path) -> None:
    write_tiny_bert(models / "embed.gguf", PoolingType.MEAN)
    only = write_profile(models / "only.json", [tiny("embed", "embed.gguf")])
    with started(only, store) as host:
        assert "/v1/embeddings" in host.ready_line
