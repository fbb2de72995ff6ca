"""Costs against what llama.cpp's log said of its buffers, and the relations that must hold."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from rayhost.governor.costs import MIB, Costs, Setting, costs, surplus_of
from rayhost.governor.kernels import repacked
from rayhost.models.catalog_shapes import BY_NAME
from rayhost.models.shape import Layers, Shape, Weights

SMOLLM = BY_NAME["smollm2-135m"]
GEMMA = BY_NAME["gemma3-270m"]
ONE_BILLION = Shape(
    architecture="llama",
    quantization="Q4_0",
    parameters=1_235_814_400,
    embedding=2048,
    feed_forward=8192,
    heads=32,
    attention=2048,
    vocabulary=128_256,
    strings=408_403,
    train_context=131_072,
    layers=(Layers(count=16, key=512, value=512),),
    weights=(
        Weights("F32", 270_336, "matrix", 1),
        Weights("Q4_0", 147_750_912, "both", 16),
        Weights("Q4_0", 547_356_672, "matrix", 16),
    ),
)
AVX512 = repacked(["AVX2", "AVX-512"])
USUAL = Setting(context=2048, concurrency=8, batch=512)
FLASH = replace(USUAL, kv_type="q8_0", flash_attention=True)


def of(shape: Shape, setting: Setting) -> Costs:
    return costs(shape, setting, AVX512)


@pytest.mark.parametrize(
    ("shape", "setting", "mib"),
    [
        (SMOLLM, USUAL, 360.0),
        (SMOLLM, replace(USUAL, kv_layout="unified"), 360.0),
        (SMOLLM, FLASH, 191.25),
        (SMOLLM, replace(USUAL, context=512, concurrency=1), 11.25),
        (GEMMA, USUAL, 288.0),
        (GEMMA, replace(FLASH, concurrency=2), 38.25),
        (ONE_BILLION, replace(USUAL, context=512, concurrency=2), 32.0),
    ],
)
def test_cells_are_as_llama_cpp_allocates_them(shape: Shape, setting: Setting, mib: float) -> None:
    bookkeeping = 96 * setting.context * setting.concurrency
    assert (of(shape, setting).cells - bookkeeping) / MIB == pytest.approx(mib, abs=0.01)


@pytest.mark.parametrize(
    ("shape", "setting", "mib"),
    [
        (SMOLLM, USUAL, 46.38),
        (SMOLLM, replace(USUAL, kv_layout="unified"), 326.38),
        (SMOLLM, replace(FLASH, kv_layout="unified"), 28.42),
        (SMOLLM, replace(USUAL, context=512, concurrency=1), 16.38),
        (SMOLLM, replace(USUAL, context=4096, concurrency=4, ubatch=128), 21.60),
        (SMOLLM, replace(FLASH, context=4096, concurrency=4), 16.42),
        (GEMMA, USUAL, 33.76),
        (GEMMA, replace(FLASH, concurrency=2), 22.30),
        (GEMMA, replace(USUAL, concurrency=4, kv_layout="unified"), 105.76),
        (ONE_BILLION, replace(USUAL, context=512, concurrency=1), 63.01),
        (ONE_BILLION, replace(FLASH, context=512, concurrency=2), 60.54),
    ],
)
def test_a_step_takes_at_least_the_buffer_of_llama_cpps_log_and_its_work_space(
    shape: Shape, setting: Setting, mib: float
) -> None:
    graph, cells = 4 * MIB, setting.context
    if setting.kv_layout == "unified":
        cells *= setting.concurrency
    tokens = min(setting.ubatch, setting.batch)
    scores = 0 if setting.flash_attention else 2 * cells * tokens * shape.heads
    work = max(scores, 1.15 * shape.feed_forward * tokens)
    logits = 4 * shape.vocabulary * setting.concurrency
    said = (of(shape, setting).compute - graph - work - logits) / MIB
    assert said == pytest.approx(mib, rel=0.12)


def test_weights_that_the_cpu_wants_in_another_order_are_held_twice() -> None:
    gemma = of(GEMMA, USUAL)
    assert gemma.repacked / MIB == pytest.approx(12.66, abs=0.01)
    assert gemma.idle == gemma.repacked
    assert gemma.mapped + gemma.idle == GEMMA.weight_bytes
    # Tied embeddings are looked up by row in the file, and multiplied with in the copy.
    assert of(ONE_BILLION, USUAL).repacked / MIB == pytest.approx(662.91, abs=0.01)
    plain = costs(ONE_BILLION, USUAL, {})
    assert (plain.repacked, plain.idle, plain.mapped) == (0, 0, ONE_BILLION.weight_bytes)


def test_rows_that_are_no_multiple_stay_as_they_are() -> None:
    odd = Weights("Q4_0", 1000, "matrix", 4)
    assert costs(_with(odd), USUAL, {"Q4_0": 8}).repacked == 0
    assert costs(_with(odd), USUAL, {"Q4_0": 4}).repacked == 1000


def test_embeddings_that_are_only_looked_up_need_not_stay_in_memory() -> None:
    found = costs(_with(Weights("Q8_0", 1000, "rows")), USUAL, {"Q8_0": 4})
    assert (found.mapped, found.idle, found.repacked) == (0, 1000, 0)


def _with(*weights: Weights) -> Shape:
    return msgspec.structs.replace(SMOLLM, weights=weights)


def test_a_window_without_the_full_cache_holds_itself_and_a_micro_batch() -> None:
    full, short = of(GEMMA, USUAL), of(GEMMA, replace(USUAL, swa_full=False))
    # 15 of 18 layers hold 1,024 cells instead of 2,048.
    assert (full.cells - short.cells) / MIB == pytest.approx(120, abs=0.01)
    tiny = replace(USUAL, context=512, swa_full=False)
    assert of(GEMMA, tiny).cells == of(GEMMA, replace(tiny, swa_full=True)).cells


def test_a_recurrent_layer_costs_by_sequence_and_not_by_token() -> None:
    shape = msgspec.structs.replace(SMOLLM, layers=(Layers(4, 0, 0, state=1000),))
    small = of(shape, USUAL)
    assert small.states == 4 * 1000 * 8
    assert of(shape, replace(USUAL, context=4096)).states == small.states


@pytest.mark.parametrize(
    "more",
    [{"context": 4096}, {"concurrency": 9}, {"snapshot_bytes": 1 << 20}, {"ubatch": 512}],
)
def test_more_never_costs_less(more: dict[str, Any]) -> None:
    start = replace(USUAL, ubatch=256)
    for shape in (SMOLLM, GEMMA, ONE_BILLION):
        for setting in (start, replace(start, kv_type="q8_0", flash_attention=True)):
            assert of(shape, replace(setting, **more)).needed > of(shape, setting).needed


def test_what_is_held_without_need_is_the_originals_of_copies() -> None:
    found = of(GEMMA, USUAL)
    assert found.resident + found.children - found.needed == found.idle
    assert found.anonymous == found.needed - found.mapped - found.program


def test_a_worker_that_generates_has_a_renderer_and_once_asked_for_all_of_structured_output() -> (
    None
):
    plain, held = of(GEMMA, USUAL), costs(GEMMA, USUAL, AVX512, constrained=True)
    assert plain.children / MIB == 12
    assert plain.grammars == 0
    assert held.children / MIB == 27
    assert held.grammars / MIB == pytest.approx(155, abs=1)  # 262,144 tokens
    assert held.needed - plain.needed == held.grammars + held.children - plain.children
    # The children's memory is not in the process, so no peak of it tells of theirs.
    assert held.resident - plain.resident == held.grammars


def test_a_worker_of_vectors_has_no_children() -> None:
    found = costs(BY_NAME["all-minilm-l6-v2"], USUAL, AVX512, constrained=True)
    assert (found.children, found.grammars) == (0, 0)


def test_an_earlier_load_that_took_more_corrects_the_prediction() -> None:
    said = of(SMOLLM, USUAL)
    surplus = surplus_of(said, said.resident + 7 * MIB)
    corrected = costs(SMOLLM, USUAL, AVX512, surplus)
    assert corrected.resident == said.resident + 7 * MIB
    assert surplus_of(corrected, said.resident + 7 * MIB) == 7 * MIB  # and is not counted twice


def test_an_earlier_load_that_took_less_promises_nothing() -> None:
    said = of(SMOLLM, USUAL)
    assert surplus_of(said, said.resident - 50 * MIB) == 0


def test_kernels_are_those_of_the_instruction_sets() -> None:
    assert "Q4_0" in repacked(["AVX2"])
    assert "Q8_0" not in repacked(["AVX2", "AVX-512"])
    assert repacked(["NEON dot product"])["Q8_0"] == 4
    assert not repacked(["FMA"])
