"""Predicted speeds, on made-up records: which one is scaled, and by what."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from rayhost.baseline.prediction import Job, Speed, predict, work_of
from rayhost.baseline.records import ModelBaseline, Work
from rayhost.models.catalog_shapes import BY_NAME
from tests.baseline import figures

SHAPE = BY_NAME["smollm2-135m"]
WORK = work_of(SHAPE)
JOB = Job("m", "sha256:1", SHAPE, sequences=8, threads=2)
TOGETHER = 100 * 8**0.6  # of the made-up records: 50 a thread, and 400 of prompts


def predicted(job: Job, *records: ModelBaseline) -> Speed:
    found = predict(job, records)
    assert found is not None
    return found


def record(**fields: Any) -> ModelBaseline:
    return msgspec.structs.replace(figures.model(work=WORK), **fields)


def test_a_step_reads_what_it_multiplies_with_and_a_prompt_skips_embeddings() -> None:
    tied = 49_152 * 576
    assert Work(SHAPE.weight_bytes, SHAPE.parameters - tied) == WORK
    rows, *rest = reversed(SHAPE.weights)  # its embeddings, as if logits had a matrix of their own
    untied = msgspec.structs.replace(
        SHAPE, weights=(*rest, msgspec.structs.replace(rows, use="rows"))
    )
    assert work_of(untied).read_bytes == SHAPE.weight_bytes - rows.size
    assert work_of(untied).prompt_parameters == SHAPE.parameters - 2 * tied


@pytest.mark.parametrize(
    ("change", "prompt", "generated", "measured"),
    [
        ({}, 1.0, 1.0, True),
        ({"threads": 1}, 0.5, 0.5, True),
        ({"threads": 8}, 4.0, 1.0, False),  # more cores read the same memory
        ({"threads": 1, "share": 0.5}, 0.25, 0.25, False),
        ({"kv_type": "q8_0"}, 1.0, 1.0, False),
        ({"kv_layout": "unified"}, 1.0, 0.8, True),
        ({"identity": None}, 1.0, 1.0, False),  # a tuned file of as many bytes
    ],
)
def test_the_own_record_is_taken_as_it_is_or_scaled(
    change: dict[str, Any], prompt: float, generated: float, measured: bool
) -> None:
    speed = predicted(replace(JOB, **change), figures.model(work=WORK))
    assert speed.prefill == pytest.approx(800 * prompt)
    assert speed.one == pytest.approx(100 * generated)
    assert speed.all == pytest.approx(TOGETHER * generated)
    assert (speed.measured, speed.sequences, speed.record) == (measured, 8, "m")


def test_another_model_is_scaled_by_its_bytes_and_its_parameters() -> None:
    other = record(
        name="other",
        identity="sha256:2",
        work=Work(2 * WORK.read_bytes, 3 * WORK.prompt_parameters),
    )
    speed = predicted(JOB, other)
    assert speed.prefill == pytest.approx(800 * 3)
    assert speed.one == pytest.approx(100 * 2)
    assert speed.all == pytest.approx(TOGETHER * 2)
    assert (speed.measured, speed.record) == (False, "other")


def test_the_nearest_record_is_the_files_own_then_its_sources_then_of_like_kernels_and_size() -> (
    None
):
    def sized(name: str, times: float, quantization: str = "Q4_1") -> ModelBaseline:
        work = Work(int(times * WORK.read_bytes), WORK.prompt_parameters)
        return record(name=name, identity=name, work=work, quantization=quantization)

    assert predicted(JOB, sized("same size", 1, "Q8_0")).other_weights == "Q8_0"
    assert predicted(JOB, sized("large", 4)).other_weights is None
    order = [
        record(name="renamed"),
        sized("m", 9),
        sized("half", 0.5),
        sized("large", 4),
        sized("same size", 1, "Q8_0"),
        sized("small", 0.1, "Q8_0"),
    ]
    while order:
        assert predicted(JOB, *reversed(order)).record == order[0].name
        order.pop(0)


def test_a_record_from_before_there_was_work_tells_of_its_own_file_only() -> None:
    old = figures.model()
    assert predicted(JOB, old).measured
    assert predict(replace(JOB, identity=None), [old]) is None
    assert predict(JOB, []) is None


def test_what_was_not_reached_is_missing_and_fewer_sequences_are_told_as_such() -> None:
    rows = tuple(row for row in figures.rows() if row.kind == "generate" and row.sequences <= 2)
    speed = predicted(JOB, record(rows=rows))
    assert (speed.prefill, speed.one, speed.sequences) == (None, 100, 2)
    assert predict(JOB, [record(rows=())]) is None


def test_a_model_that_only_reads_has_no_generated_tokens() -> None:
    job = replace(JOB, identity=None, shape=BY_NAME["all-minilm-l6-v2"])
    speed = predicted(job, record())
    assert speed.prefill is not None
    assert (speed.one, speed.all) == (None, None)
