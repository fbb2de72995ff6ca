"""Copies of a slot's cells, and quantizing, on a tiny random model."""

from pathlib import Path

import numpy as np
import pytest

from rayhost.engine.base import EngineFailed, LoadError
from rayhost.engine.llama import LlamaEngine, quantize
from rayhost.models.gguf import read_info
from tests.engine.test_llama import alone, compute, load, prompt
from tests.support.tiny_gguf import write_broken_gguf


@pytest.mark.parametrize("layout", ["split", "unified"])
def test_a_restored_slot_goes_on_as_the_one_it_was_copied_from(
    tiny_model: Path, layout: str
) -> None:
    engine = LlamaEngine(load(tiny_model, kv_layout=layout))
    tokens = prompt(1, 40)
    expected = alone(engine, tokens, 2)
    compute(engine, 0, tokens, 128)
    engine.restore(3, engine.snapshot(0))
    engine.batch.clear()
    engine.batch.add(3, expected[:1], len(tokens), due=True)
    engine.decode()
    assert int(engine.logits()[0].argmax()) == expected[1]


def test_a_snapshot_that_is_none_is_refused(tiny_model: Path) -> None:
    engine = LlamaEngine(load(tiny_model))
    with pytest.raises(EngineFailed, match="7 bytes"):
        engine.restore(0, np.frombuffer(b"no good", np.uint8))


@pytest.mark.parametrize("layout", ["split", "unified"])
def test_a_copied_beginning_goes_on_as_if_it_had_been_computed(
    tiny_model: Path, layout: str
) -> None:
    engine = LlamaEngine(load(tiny_model, kv_layout=layout))
    begin, end = prompt(1, 40), prompt(2, 9)
    expected = alone(engine, begin + end, 2)
    compute(engine, 1, begin + prompt(3, 30), 128)
    compute(engine, 2, prompt(4, 50), 128)  # what the target holds goes
    engine.copy(1, 2, len(begin))
    engine.truncate(1, 0)  # and the copy does not need its source
    engine.batch.clear()
    engine.batch.add(2, end, len(begin), due=True)
    engine.decode()
    assert int(engine.logits()[0].argmax()) == expected[0]


def test_more_outputs_than_slots_can_be_asked_for(tiny_model: Path) -> None:
    engine = LlamaEngine(load(tiny_model, concurrency=1, outputs=16))
    tokens = prompt(2, 16)
    for position, token in enumerate(tokens):
        engine.batch.add(0, [token], position, due=True)
    engine.decode()
    rows = engine.logits().copy()
    engine.forget(0)
    assert rows.shape[0] == 16
    assert np.allclose(rows[-1], compute(engine, 0, tokens, 128), atol=1e-4)


def test_quantizing_changes_the_matrices_and_the_embedding(
    tiny_model: Path, tmp_path: Path
) -> None:
    plain, small = tmp_path / "plain.gguf", tmp_path / "small.gguf"
    quantize(str(tiny_model), str(plain), "Q4_0", None, 1)
    quantize(str(tiny_model), str(small), "Q4_0", "Q4_0", 1)
    sizes = [read_info(path).tensor_bytes for path in (tiny_model, plain, small)]
    assert sizes == sorted(sizes, reverse=True)
    assert read_info(plain).quantization == "Q4_0"
    LlamaEngine(load(small))


def test_a_file_that_cannot_be_quantized_is_a_load_error(tmp_path: Path) -> None:
    broken = write_broken_gguf(tmp_path / "broken.gguf")
    with pytest.raises(LoadError):
        quantize(str(broken), str(tmp_path / "out.gguf"), "Q4_0", None, 1)
