"""What fits: the top where there is room, less where there is not, or a refusal of use."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhost.governor.costs import FRONT, MIB, costs
from rayhost.governor.fit import STEPS, Box, DoesNotFit, Wish, fit, kept_free, setting
from rayhost.governor.kernels import repacked
from rayhost.models.catalog_shapes import BY_NAME

AVX2 = repacked(["AVX2"])


def wish(name: str = "smollm2-135m", **fixed: Any) -> Wish:
    return Wish(name, BY_NAME[name], **{"snapshot_bytes": 128 * MIB, **fixed})


def box(mib: int) -> Box:
    return Box(mib * MIB, AVX2, keep=kept_free(mib * MIB, 0.06))


def chosen(mib: int, **fixed: Any) -> tuple[int, int, int, str, int]:
    (one,) = fit([wish(**fixed)], box(mib)).settings
    return one.context, one.concurrency, one.batch, one.kv_type, one.snapshot_bytes // MIB


@pytest.mark.parametrize(
    ("mib", "expected"),
    [
        (4000, (2048, 16, 512, "f16", 128)),
        (1250, (2048, 12, 512, "f16", 128)),
        (900, (2048, 8, 512, "f16", 128)),
        (800, (2048, 8, 512, "f16", 32)),  # caches first
        (700, (2048, 6, 512, "f16", 32)),  # then sequences
        (422, (2048, 2, 512, "f16", 0)),
        (392, (2048, 2, 256, "f16", 0)),  # then smaller steps
        (330, (2048, 2, 128, "q8_0", 0)),  # then the cells' precision
        (272, (1024, 1, 128, "q8_0", 0)),  # and last the context
    ],
)
def test_what_is_left_open_goes_down_in_the_ladders_order(
    mib: int, expected: tuple[int, int, int, str, int]
) -> None:
    assert chosen(mib) == expected


def test_what_the_profile_fixes_stays() -> None:
    assert chosen(500, context=4096, kv_type="f16")[0] == 4096
    assert chosen(450, concurrency=3)[1] == 3
    assert chosen(4000, concurrency=64, batch=64)[:3] == (2048, 64, 64)


def test_a_batch_has_a_place_for_every_sequence() -> None:
    assert chosen(4000, batch=4)[1:3] == (4, 4)
    assert chosen(8000, concurrency=64, kv_type="q8_0", context=256)[2] >= 64


def test_a_context_beyond_the_training_is_not_chosen() -> None:
    assert chosen(8000, context=None)[0] == 2048
    short = msgspec.structs.replace(BY_NAME["smollm2-135m"], train_context=512)
    assert fit([Wish("short", short)], box(4000)).settings[0].context == 512


def test_two_models_share_the_room() -> None:
    found = fit([wish(), wish("gemma3-270m")], box(1000))
    assert found.needed <= 1000 * MIB
    assert found.needed == FRONT + sum(one.needed for one in found.costs)
    assert [one.concurrency for one in found.settings] == [2, 2]


def test_a_refusal_has_the_sum_and_the_nearest_settings() -> None:
    with pytest.raises(DoesNotFit) as caught:
        fit([wish(context=8192, concurrency=8)], box(900))
    text = str(caught.value)
    assert "and 837 MiB can be had, with 63 MiB kept free" in text
    assert "92 weights + 771 cells (8,192 tokens x 8, q8_0)" in text
    assert '"context": 8192, "concurrency": 2, "batch": 512, "kv": {"type": "f16"}' in text
    assert "\n" not in text


def test_the_settings_that_a_refusal_names_do_fit() -> None:
    with pytest.raises(DoesNotFit, match='"context": 8192, "concurrency": 2'):
        fit([wish(context=8192, concurrency=8)], box(900))
    named = wish(context=8192, concurrency=2, batch=512, kv_type="f16", snapshot_bytes=0)
    assert fit([named], box(900)).needed <= 900 * MIB


def test_a_model_whose_weights_alone_are_too_large_is_told_so() -> None:
    with pytest.raises(DoesNotFit, match="No setting fits: choose a smaller model"):
        fit([wish("gemma3-270m")], box(300))
    with pytest.raises(DoesNotFit, match="serve fewer models; smollm2-135m is the smallest"):
        fit([wish(), wish("gemma3-270m")], box(400))


def test_where_only_the_kept_answers_are_too_many_it_is_told_so() -> None:
    keeping = replace(box(265), front=FRONT + 16 * MIB)
    with pytest.raises(DoesNotFit, match=r'It fits with smollm2-135m: .*; "cache": {"bytes": 0}$'):
        fit([wish()], keeping)


def test_what_earlier_loads_took_counts() -> None:
    assert chosen(900)[4] == 128
    assert chosen(900, surplus=60 * MIB)[4] < 128


@settings(deadline=None)
@given(
    st.integers(60, 8000),
    st.none() | st.integers(64, 1 << 17),
    st.none() | st.integers(1, 64),
    st.none() | st.integers(64, 2048),
)
def test_what_is_chosen_always_fits(
    mib: int, context: int | None, concurrency: int | None, batch: int | None
) -> None:
    try:
        found = fit([wish(context=context, concurrency=concurrency, batch=batch)], box(mib))
    except DoesNotFit:
        return
    assert found.needed <= mib * MIB
    (one,) = found.settings
    assert one.batch >= one.concurrency
    assert (context or one.context, concurrency or one.concurrency, batch or one.batch) == (
        one.context,
        one.concurrency,
        one.batch,
    )


@settings(deadline=None)
@given(st.integers(200, 4000), st.integers(0, 1000))
def test_more_room_never_means_less(mib: int, more: int) -> None:
    try:
        small = fit([wish()], box(mib))
    except DoesNotFit:
        return
    assert fit([wish()], box(mib + more)).step <= small.step


def test_every_step_needs_less_than_the_one_before() -> None:
    for name in BY_NAME:
        needed = [costs(BY_NAME[name], setting(wish(name), step), AVX2).needed for step in STEPS]
        assert needed == sorted(needed, reverse=True)
