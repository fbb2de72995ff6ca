"""Runs that make vectors: admitted, ended, resumed, refused and kept like those that write."""

import array
import asyncio
from typing import Any

import pytest

from rayhost.errors import ContextLengthExceeded, InvalidRequest, Unavailable
from rayhost.front.blame import Death
from rayhost.front.host import Host
from rayhost.front.lane import Lane
from rayhost.front.request import (
    ChatPrompt,
    GenerateRequest,
    PairPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from rayhost.front.result_cache import ResultCache
from rayhost.ipc.messages import Embedded, Prepare, Ready, Rejected, Task
from rayhost.ipc.sampling import Sampling
from rayhost.metrics import Metrics
from tests.front.fake_worker import CONTEXT, VOCABULARY, FakeWorker, make_lane

VECTOR = array.array("f", [0.6, 0.8]).tobytes()
GREEDY = Sampling(temperature=0.0)


def embed(prompt: Prompt, task: Task = "embed", name: str = "r") -> GenerateRequest:
    return GenerateRequest(name, "tiny", prompt, sampling=GREEDY, max_tokens=0, task=task)


def tokens(*ids: int) -> GenerateRequest:
    return embed(TokenPrompt(ids))


def ready(task: Task, **changes: int) -> Ready:
    sizes: dict[str, Any] = {
        "context": CONTEXT,
        "vocabulary": VOCABULARY,
        "sliding_window": 0,
        **changes,
    }
    return Ready(
        architecture="bert",
        quantization="F16",
        parameters=10,
        size_bytes=20,
        train_context=CONTEXT,
        chat=False,
        load_ms=1.0,
        task=task,
        dimensions=2,
        **sizes,
    )


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Embedder(FakeWorker):
    """A worker whose model embeds or ranks."""

    def __init__(self, lane: Lane, task: Task = "embed", **changes: int) -> None:
        self.sent = []
        self._lane = lane
        lane.attach(self, ready(task, **changes))

    def embedded(self, number: int, vector: bytes = VECTOR) -> None:
        self._lane.hear(number, Embedded(vector, 5, 6))


async def test_a_run_that_embeds_ends_with_its_vector() -> None:
    lane = make_lane()
    worker = Embedder(lane)
    run = await lane.submit(tokens(1, 2, 3))
    (start,) = worker.starts
    assert (start.embed, start.n_prompt, start.max_tokens) == (True, 3, 0)
    worker.embedded(worker.started[0])
    assert [piece async for piece in run] == []
    assert run.finish.vector == VECTOR
    assert (run.finish.prompt_tokens, run.finish.completion_tokens) == (3, 0)
    assert run.outcome == "stop"
    assert lane.idle.is_set()


async def test_a_prompt_may_fill_the_context_and_not_exceed_it() -> None:
    lane = make_lane()
    Embedder(lane)
    await lane.submit(tokens(*[1] * CONTEXT))
    with pytest.raises(ContextLengthExceeded, match=rf"is {CONTEXT} tokens\..* {CONTEXT + 1} tok"):
        await lane.submit(tokens(*[1] * (CONTEXT + 1)))
    with pytest.raises(InvalidRequest, match="no token"):
        await lane.submit(tokens())
    with pytest.raises(InvalidRequest, match="100 is not a token of 'tiny'"):
        await lane.submit(tokens(1, VOCABULARY))


async def test_a_whole_batch_waits_in_the_worker_while_one_is_computed() -> None:
    lane = make_lane(concurrency=3)
    worker = Embedder(lane)
    for token in range(10):
        await lane.submit(tokens(token))
    assert worker.started_prompts == [0, 1, 2, 3, 4, 5]


async def test_a_lost_worker_s_runs_are_embedded_by_the_next_one() -> None:
    lane = make_lane()
    first = Embedder(lane)
    run = await lane.submit(tokens(1, 2))
    first.die(Death.KILLED)
    second = Embedder(lane)
    (start,) = second.starts
    assert start.embed
    second.embedded(second.started[0])
    assert [piece async for piece in run] == []
    assert run.finish.vector == VECTOR


async def test_a_cancelled_run_is_cancelled_in_the_worker() -> None:
    lane = make_lane()
    worker = Embedder(lane)
    run = await lane.submit(tokens(1))
    run.close()
    assert worker.cancelled == worker.started
    worker.embedded(worker.started[0])  # too late, and harmless


async def test_a_pair_goes_to_the_text_thread_as_one() -> None:
    lane = make_lane()
    worker = Embedder(lane, "rank")
    waiting = asyncio.create_task(lane.submit(embed(PairPrompt("who?", "me"), "rank")))
    await turn()
    (pair,) = [message for _, message in worker.sent if isinstance(message, Prepare)]
    assert (pair.text, pair.document) == ("who?", "me")
    worker.prepared(worker.asked[0], 1, 2)
    assert (await waiting).prompt == [1, 2]


@pytest.mark.parametrize(
    ("model", "request_", "said"),
    [
        ("embed", GenerateRequest("r", "tiny", TextPrompt("hi")), "write text.*/v1/embeddings"),
        ("embed", GenerateRequest("r", "tiny", ChatPrompt(())), "does not chat.*/v1/embeddings"),
        ("embed", embed(PairPrompt("a", "b"), "rank"), "rank documents.*/v1/embeddings"),
        ("rank", embed(TextPrompt("a")), "make embeddings.*/v1/rerank"),
        ("generate", embed(TextPrompt("a")), "make embeddings.*/v1/completions"),
    ],
)
async def test_a_model_is_asked_only_for_what_it_can_do(
    model: Task, request_: GenerateRequest, said: str
) -> None:
    lane = make_lane()
    worker = Embedder(lane, model)
    with pytest.raises(InvalidRequest, match=said) as refused:
        await lane.submit(request_)
    assert (refused.value.code, refused.value.param) == ("model_not_supported", "model")
    assert worker.sent == []
    assert lane.idle.is_set()


async def test_a_request_that_waits_for_the_first_worker_is_checked_then() -> None:
    lane = make_lane()
    waiting = asyncio.create_task(lane.submit(embed(TextPrompt("hi"))))
    await turn()
    FakeWorker(lane)
    with pytest.raises(InvalidRequest, match="does not make embeddings"):
        await waiting


async def test_a_queued_run_ends_where_the_next_worker_is_for_something_else() -> None:
    lane = make_lane()
    worker = Embedder(lane)
    run = await lane.submit(tokens(1))
    worker.die(Death.REPLACED)
    Embedder(lane, "rank")
    with pytest.raises(Unavailable, match="the model was replaced"):
        [piece async for piece in run]


async def test_a_queued_run_ends_where_the_next_context_is_too_small() -> None:
    lane = make_lane()
    worker = Embedder(lane)
    long, exact = await lane.submit(tokens(*[1] * 9)), await lane.submit(tokens(*[1] * 8))
    worker.die(Death.REPLACED)
    second = Embedder(lane, context=8)
    with pytest.raises(ContextLengthExceeded, match="8 tokens now, and your prompt 9"):
        [piece async for piece in long]
    second.embedded(second.started[0])
    assert [piece async for piece in exact] == []


async def test_a_run_that_the_worker_refuses_fails() -> None:
    lane = make_lane()
    worker = Embedder(lane)
    run = await lane.submit(tokens(1))
    lane.hear(worker.started[0], Rejected("no numbers", "invalid_value"))
    with pytest.raises(InvalidRequest, match="no numbers"):
        [piece async for piece in run]


async def test_a_vector_is_kept_and_counted_by_its_size() -> None:
    lane, cache = make_lane(), ResultCache(1 << 20, 60)
    host = Host([lane], Metrics(), list, cache)
    lane.identity = b"one"
    worker = Embedder(lane)
    run = await host.submit(tokens(1, 2))
    worker.embedded(worker.started[0], VECTOR * 1000)
    assert [piece async for piece in run] == []
    run.close()
    recalled = host.recall(tokens(1, 2))
    assert recalled is not None
    assert recalled.finish.vector == VECTOR * 1000
    assert cache.bytes_used > 8000
    assert host.recall(embed(TokenPrompt((1, 2)), "rank")) is None


async def test_a_card_tells_what_the_worker_found() -> None:
    lane = make_lane()
    host = Host([lane], Metrics(), list)
    (before,) = host.cards()
    assert before.capabilities is None
    Embedder(lane, sliding_window=7)
    (card,) = host.cards()
    can = card.capabilities
    assert can is not None
    assert (can.embedding, can.rerank, can.chat, can.completion) == (True, False, False, False)
    assert (can.json_schema, can.dimensions, can.sliding_window) == (False, 2, 7)
    FakeWorker(lane)
    (card,) = host.cards()
    can = card.capabilities
    assert can is not None
    assert (can.embedding, can.chat, can.completion, can.json_schema) == (False, True, True, True)
    assert can.tools == "generic"
    assert (can.dimensions, can.sliding_window) == (None, None)
