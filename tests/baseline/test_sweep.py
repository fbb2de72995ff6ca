"""Which configurations are measured, for boxes and models of any size."""

import dataclasses
from typing import Any

import msgspec
import pytest

from rayhost.baseline import sweep
from rayhost.baseline.cpu import Cpu
from rayhost.baseline.sweep import FULL, QUICK, Configuration, Effort
from rayhost.baseline.tasks import PROMPT
from rayhost.models.gguf import GgufInfo

BOX = Cpu("c", "x86_64", (0, 1), 2, 1 << 20, ())


SMALL = GgufInfo(
    architecture="llama",
    name=None,
    quantization="Q4_1",
    parameters=135_000_000,
    tensor_bytes=96_000_000,
    chat=True,
    context_length=8192,
    block_count=30,
    embedding_length=576,
    heads=9,
    kv_heads=3,
    metadata={},
)


def model(**changes: Any) -> GgufInfo:
    return dataclasses.replace(SMALL, **changes)


def planned(
    info: GgufInfo, effort: Effort = FULL, available: int = 8 << 30, cpu: Cpu = BOX
) -> tuple[Configuration, ...]:
    return sweep.plan("/m.gguf", info, cpu=cpu, available=available, effort=effort)


def test_a_full_sweep_is_every_thread_count_layout_batch_and_depth() -> None:
    seen = {
        (each.load.threads, each.load.kv_layout, point.sequences, point.depth)
        for each in planned(model())
        for point in each.points
        if point.kind == "generate"
    }
    assert seen == {
        (threads, layout, batch, depth)
        for threads in (1, 2)
        for layout in ("split", "unified")
        for batch in (1, 2, 4, 8, 16)
        for depth in (0, 1024)
    }


def test_every_configuration_loads_the_file_on_every_cpu() -> None:
    assert {(each.load.path, each.load.cpus) for each in planned(model())} == {("/m.gguf", (0, 1))}


def test_every_core_comes_before_fewer_and_depth_0_before_depth() -> None:
    plan = planned(model())
    assert [each.load.threads for each in plan[:4]] == [2, 2, 1, 1]
    depths = [point.depth for point in plan[0].points]
    assert depths == sorted(depths)


def test_a_quick_sweep_is_a_part_of_the_full_one() -> None:
    quick = [each for each in planned(model(), QUICK) if each.points]
    assert [each.load.kv_layout for each in quick] == ["split", "unified"]
    assert {point.sequences for each in quick for point in each.points} == {1, 8}


def test_a_small_box_decodes_fewer_together() -> None:
    # 30 layers, keys and values of 3 heads of 64, 2 bytes: 23,040 bytes a token.
    assert sweep.kv_bytes_per_token(model()) == 23_040
    plan = planned(model(), available=640 << 20)
    assert {each.load.concurrency for each in plan} == {4, 1}
    assert max(point.sequences for point in plan[0].points) == 4
    assert {each.load.concurrency for each in planned(model(), available=0)} == {1}


def test_head_sizes_that_the_file_tells_count() -> None:
    told = model(metadata={"llama.attention.key_length": 128, "llama.attention.value_length": 256})
    assert sweep.kv_bytes_per_token(told) == 30 * 3 * (128 + 256) * 2
    assert sweep.kv_bytes_per_token(model(kv_heads=None)) == 30 * 9 * 128 * 2


@pytest.mark.parametrize(("trained", "depths"), [(512, {0, 352}), (200, {0}), (None, {0, 864})])
def test_a_short_context_limits_the_depth(trained: int | None, depths: set[int]) -> None:
    plan = planned(model(context_length=trained))
    assert {point.depth for point in plan[0].points} == depths
    assert all(point.depth + PROMPT <= each.load.context for each in plan for point in each.points)


def test_the_last_two_differ_in_the_number_of_sequences_alone() -> None:
    many, one = planned(model())[-2:]
    assert (many.points, one.points) == ((), ())
    assert one.load == msgspec.structs.replace(many.load, concurrency=1)
    assert many.load.concurrency == 16


def test_time_is_shared_out_among_what_is_left() -> None:
    shares = [each.share for each in planned(model()) if each.points]
    left, given = 1.0, []
    for share in shares:
        given.append(left * share)
        left -= left * share
    assert given == pytest.approx([0.25] * 4)


def test_hyperthreads_and_many_cores_are_tried_too() -> None:
    assert sweep.thread_counts(cores=2, cpus=4) == (2, 4, 1)
    assert sweep.thread_counts(cores=8, cpus=8) == (8, 4, 2, 1)
    assert sweep.thread_counts(cores=1, cpus=1) == (1,)
