"""The loop for vectors, a step at a time over a model that adds up tokens: who is computed with
whom, who is refused, and what the front and the status page are told."""

import queue
from array import array
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from rayhost.engine.base import Batch, EngineFailed, Facts, LoadError, Vector
from rayhost.ipc.messages import (
    Cancel,
    Embedded,
    Finished,
    Load,
    LoadFailed,
    Message,
    Rejected,
    Resize,
    Start,
    Stop,
    pack_tokens,
)
from rayhost.ipc.sampling import Sampling
from rayhost.ipc.status import StatusPage, Word
from rayhost.worker.embed_loop import EmbedLoop, together
from rayhost.worker.turns import Inbox
from tests.worker.process import load_of

FACTS = Facts(
    architecture="fake",
    quantization="none",
    parameters=0,
    size_bytes=0,
    context=8,
    train_context=8,
    vocabulary=100,
    concurrency=3,
    batch=16,
    chat=False,
    task="embed",
    dimensions=2,
)


class FakeEmbedder:
    """A vector is the sum of a prompt's tokens and their number. It remembers every batch."""

    def __init__(self) -> None:
        self.facts = FACTS
        self.batch = Batch(FACTS.batch)
        self.batches: list[list[list[int]]] = []
        self.fail = False
        self.resizable = True

    def resize(self, load: Load) -> None:
        if not self.resizable:
            raise LoadError("no room")
        self.facts = replace(self.facts, context=load.context, concurrency=load.concurrency)

    def encode(self) -> None:
        if self.fail:
            raise EngineFailed("told to fail")
        batch, prompts = self.batch, dict[int, list[int]]()
        assert 0 < batch.size <= batch.capacity
        for slot, token, position in zip(
            batch.slots[: batch.size].tolist(),
            batch.tokens[: batch.size].tolist(),
            batch.positions[: batch.size].tolist(),
            strict=True,
        ):
            prompt = prompts.setdefault(slot, [])
            assert position == len(prompt)
            prompt.append(token)
        assert list(prompts) == list(range(len(prompts)))
        assert len(prompts) <= self.facts.concurrency
        self.batches.append(list(prompts.values()))

    def vector(self, slot: int) -> Vector:
        prompt = self.batches[-1][slot]
        scale = np.float32("nan") if prompt == [99] else 1
        return np.array([sum(prompt), len(prompt)], np.float32) * scale


class Rig:
    """A loop, and what it told: `log` has (request id, message), and "flush" for each flush."""

    def __init__(self) -> None:
        self.embedder = FakeEmbedder()
        self.inbox: Inbox = queue.SimpleQueue()
        self.log: list[tuple[int, Message] | str] = []
        self.status = StatusPage(memoryview(bytearray(4032)))
        self.resized: list[Load] = []
        self.flushed: Callable[[], None] = lambda: None
        clock = count(1_000_000, 1_000_000)
        self.loop = EmbedLoop(
            embedder=self.embedder,
            inbox=self.inbox,
            out=self,
            status=self.status,
            resized=lambda load, _took_ms: self.resized.append(load),
            now=lambda: next(clock),
        )

    def send(self, request_id: int, message: Message) -> None:
        self.log.append((request_id, message))

    def flush(self) -> bool:
        self.log.append("flush")
        self.flushed()
        return True

    def start(self, request_id: int, tokens: list[int], *, embed: bool = True) -> None:
        start = Start(pack_tokens(tokens), len(tokens), 0, Sampling(), (), embed=embed)
        self.inbox.put((request_id, start))

    @property
    def told(self) -> dict[int, Message]:
        return dict(one for one in self.log if not isinstance(one, str))

    @property
    def vectors(self) -> dict[int, list[float]]:
        return {
            request_id: array("f", message.vector).tolist()
            for request_id, message in self.told.items()
            if isinstance(message, Embedded)
        }


def test_prompts_of_several_requests_are_computed_in_one_step() -> None:
    rig = Rig()
    for request_id, prompt in [(1, [1, 2]), (2, [3]), (3, [4, 5, 6])]:
        rig.start(request_id, prompt)
    rig.loop.step()
    assert rig.embedder.batches == [[[1, 2], [3], [4, 5, 6]]]
    assert rig.vectors == {1: [3, 2], 2: [3, 1], 3: [15, 3]}
    assert rig.log.count("flush") == 1
    assert rig.log[-1] == "flush"
    assert rig.status[Word.STEP] == 1
    assert rig.status[Word.PREFILL_TOKENS] == 6
    assert rig.status[Word.FINISHED] == 3


def test_more_than_fit_wait_for_the_next_step_in_their_order() -> None:
    rig = Rig()
    for request_id in range(1, 6):
        rig.start(request_id, [request_id] * 5)
    rig.loop.step()
    assert rig.status[Word.WAITING] == 2
    rig.loop.step()
    assert [[prompt[0] for prompt in batch] for batch in rig.embedder.batches] == [
        [1, 2, 3],
        [4, 5],
    ]
    assert list(rig.vectors) == [1, 2, 3, 4, 5]
    assert rig.status[Word.WAITING] == 0


@pytest.mark.parametrize(
    ("lengths", "chosen"),
    [
        ([], []),
        ([8, 8, 1], [0, 1]),  # sixteen tokens are the most
        ([8, 7, 1], [0, 1, 2]),
        ([1, 1, 1, 1], [0, 1, 2]),  # three prompts are
        ([9, 8, 1], [0]),  # none overtakes one that does not fit
    ],
)
def test_the_first_prompts_go_while_there_is_room(lengths: list[int], chosen: list[int]) -> None:
    waiting = {number: [7] * length for number, length in enumerate(lengths)}
    assert together(waiting, 3, 16) == chosen


def test_times_are_those_of_the_step() -> None:
    rig = Rig()
    rig.start(1, [1])
    rig.loop.step()
    message = rig.told[1]
    assert isinstance(message, Embedded)
    assert 0 < message.started_ns < message.finished_ns
    assert rig.status[Word.STEP_NS] > rig.status[Word.DECODE_NS] > 0


@pytest.mark.parametrize(
    ("tokens", "embed", "code"),
    [
        ([], True, "invalid_value"),
        ([1] * 9, True, "context_length_exceeded"),
        ([100], True, "invalid_value"),
        ([-1], True, "invalid_value"),
        ([1], False, "model_not_supported"),
        ([99], True, "invalid_value"),  # makes no numbers
    ],
)
def test_what_cannot_be_a_vector_is_refused(tokens: list[int], embed: bool, code: str) -> None:
    rig = Rig()
    rig.start(1, tokens, embed=embed)
    rig.start(2, [1] * 8)
    rig.loop.step()
    refused = rig.told[1]
    assert isinstance(refused, Rejected)
    assert refused.code == code
    assert rig.vectors == {2: [8, 8]}


def test_a_cancelled_prompt_is_not_computed() -> None:
    rig = Rig()
    rig.start(1, [1])
    rig.start(2, [2])
    rig.inbox.put((1, Cancel()))
    rig.inbox.put((7, Cancel()))  # never heard of
    rig.loop.step()
    assert rig.embedder.batches == [[[2]]]
    assert list(rig.told) == [2]


def test_a_stop_ends_the_loop_before_the_next_step() -> None:
    rig = Rig()
    rig.start(1, [1])
    rig.inbox.put((0, Stop()))
    rig.loop.run()
    assert rig.embedder.batches == []


def test_a_run_computes_what_comes_and_shows_life() -> None:
    rig = Rig()
    rig.start(1, [1])
    beat_before = rig.status[Word.BEAT_NS]

    def flushed() -> None:
        if 1 in rig.told:
            rig.inbox.put((0, Stop()))

    rig.flushed = flushed
    rig.loop.run()
    assert rig.vectors == {1: [1, 1]}
    assert rig.status[Word.BEAT_NS] > beat_before


def test_a_broken_engine_ends_the_process() -> None:
    rig = Rig()
    rig.embedder.fail = True
    rig.start(1, [1])
    with pytest.raises(EngineFailed):
        rig.loop.step()


def test_a_message_for_another_kind_of_loop_is_no_message() -> None:
    rig = Rig()
    rig.inbox.put((1, Finished("stop", 1, 1, 1, 1, 1)))
    with pytest.raises(TypeError, match="does not take Finished"):
        rig.loop.step()


def test_other_sizes_hold_from_the_next_step() -> None:
    rig = Rig()
    rig.start(1, [1] * 6)
    rig.start(2, [1] * 3)
    load = load_of(Path("m"), context=4, concurrency=1)
    rig.inbox.put((0, Resize(load)))
    rig.loop.step()
    assert rig.resized == [load]
    refused = rig.told[1]
    assert isinstance(refused, Rejected)
    assert refused.code == "context_length_exceeded"
    assert rig.vectors == {2: [3, 3]}


def test_sizes_that_do_not_fit_leave_it_as_it_was() -> None:
    rig = Rig()
    rig.embedder.resizable = False
    rig.start(1, [1] * 6)
    rig.inbox.put((0, Resize(load_of(Path("m"), context=4))))
    rig.loop.step()
    assert rig.told[0] == LoadFailed("no room")
    assert rig.resized == []
    assert rig.vectors == {1: [6, 6]}
