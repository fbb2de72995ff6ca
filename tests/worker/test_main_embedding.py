"""A worker process whose model makes vectors or ranks: what it says of itself, and what it does."""

from array import array
from pathlib import Path

import pytest
from gguf import PoolingType

from rayhost.ipc.messages import (
    Embedded,
    LoadFailed,
    Prepare,
    Prepared,
    Ready,
    Rejected,
    Resize,
    Start,
    Stop,
    unpack_tokens,
)
from rayhost.ipc.sampling import Sampling
from tests.engine.tiny_bert import CONTEXT, SIZE, write_tiny_bert
from tests.worker.process import Worker, load_of, worker


def start(tokens: bytes) -> Start:
    return Start(tokens, len(tokens) // 4, 0, Sampling(), (), embed=True)


def numbers(told: Embedded) -> list[float]:
    return array("f", told.vector).tolist()


def ready(run: Worker, path: Path) -> Ready:
    run.send(0, load_of(path))
    return run.expect(0, Ready)


def test_a_text_becomes_a_vector(tmp_path: Path) -> None:
    with worker() as run:
        told = ready(run, write_tiny_bert(tmp_path / "m.gguf", PoolingType.MEAN))
        assert (told.task, told.dimensions, told.context) == ("embed", SIZE, CONTEXT)
        assert (told.chat, told.sliding_window) == (False, 0)
        run.send(1, Prepare(None, "ab c"))
        prepared = run.expect(1, Prepared)
        assert len(unpack_tokens(prepared.tokens)) == 5
        run.send(2, start(prepared.tokens))
        vector = numbers(run.expect(2, Embedded))
        assert len(vector) == SIZE
        assert sum(one * one for one in vector) == pytest.approx(1, abs=1e-5)
        run.send(3, Prepare(None, "a", document="b"))
        assert run.expect(3, Rejected).code == "model_not_supported"
        run.send(0, Stop())
        assert run.exit_status() == 0


def test_a_pair_becomes_a_score(tmp_path: Path) -> None:
    with worker() as run:
        told = ready(run, write_tiny_bert(tmp_path / "m.gguf", PoolingType.RANK))
        assert (told.task, told.dimensions) == ("rank", 1)
        run.send(1, Prepare(None, "a", document="b c"))
        run.send(2, start(run.expect(1, Prepared).tokens))
        assert len(numbers(run.expect(2, Embedded))) == 1


def test_what_cannot_be_embedded_is_refused(tmp_path: Path) -> None:
    with worker() as run:
        ready(run, write_tiny_bert(tmp_path / "m.gguf", PoolingType.MEAN))
        run.send(1, start(b""))
        assert run.expect(1, Rejected).param == "input"


def test_other_sizes_are_taken_and_told(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "m.gguf", PoolingType.MEAN)
    with worker() as run:
        ready(run, path)
        run.send(0, Resize(load_of(path, context=32)))
        assert run.expect(0, Ready).context == 32


def test_prompts_that_are_to_be_held_ready_are_a_load_error(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "m.gguf", PoolingType.MEAN)
    with worker() as run:
        run.send(0, load_of(path, preload=("be nice",)))
        assert "preload" in run.expect(0, LoadFailed).reason
        assert run.exit_status() == 0
