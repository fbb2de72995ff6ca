"""Typical sampling and XTC, against plain references and against llama.cpp's own samplers."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from rayhost.engine.base import Logits
from rayhost.engine.truncation import exclude_top, shortlist, typical

LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=60).map(
    lambda values: np.array(values, np.float32)
)
SHARES = st.floats(0.05, 0.95)


def weigh(logits: Logits) -> Logits:
    weights: Logits = np.exp(logits - logits.max())
    return weights


def survivors(sampler: Any, logits: Logits) -> set[int]:
    """The ids that one of llama.cpp's samplers leaves."""
    data = (llama.llama_token_data * len(logits))()
    for i, logit in enumerate(logits.tolist()):
        data[i].id, data[i].logit, data[i].p = i, logit, 0.0
    array = llama.llama_token_data_array(data, len(logits), -1, False)
    llama.llama_sampler_apply(sampler, ctypes.byref(array))
    left = {array.data[i].id for i in range(array.size)}
    llama.llama_sampler_free(sampler)
    return left


def typical_by_sorting(logits: NDArray[np.float64], share: float) -> tuple[list[int], bool]:
    """The ids by the paper, and whether rounding may decide."""
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    surprise = -np.log(probabilities)
    entropy = float((probabilities * surprise).sum())
    distance = np.abs(surprise - entropy)
    order = sorted(range(len(logits)), key=lambda i: (distance[i], i))
    mass = np.cumsum(probabilities[order])
    gaps = np.diff(distance[order])
    near = bool(np.any(np.abs(mass - share) < 1e-4)) or bool(np.any(gaps < 1e-4))
    return order[: int(np.argmax(mass >= share)) + 1], near


@settings(max_examples=300)
@given(LOGITS, SHARES)
def test_typical_tokens_are_those_nearest_to_the_expected_surprise(
    logits: Logits, share: float
) -> None:
    expected, near = typical_by_sorting(logits.astype(np.float64), share)
    weights = weigh(logits)
    ids = typical(weights, np.arange(len(weights)), share).tolist()
    assert ids
    if not near:
        assert set(ids) == set(expected)


@settings(max_examples=100)
@given(LOGITS, SHARES)
def test_typical_tokens_are_llama_cpps(logits: Logits, share: float) -> None:
    _, near = typical_by_sorting(logits.astype(np.float64), share)
    theirs = survivors(llama.llama_sampler_init_typical(share, 0), logits)
    ids = shortlist(weigh(logits), 0, 1.0, 0.0, share)
    if not near:
        assert set(ids.tolist()) == theirs


def test_a_top_k_is_taken_before_what_is_typical_and_a_top_p_after() -> None:
    weights = np.array([1.0, 0.9, 0.8, 0.7, 0.01, 0.01], np.float32)
    within = shortlist(weights, 4, 1.0, 0.0, 0.9)
    assert set(within.tolist()) <= {0, 1, 2, 3}
    halved = shortlist(weights, 4, 0.3, 0.0, 0.9)
    assert halved.tolist() == within[: len(halved)].tolist()
    assert 0 < len(halved) < len(within)


@pytest.mark.parametrize("flat", [0.001, 1.0, 8.0])
def test_typical_tokens_of_a_large_vocabulary(flat: float) -> None:
    logits = np.random.default_rng(1).normal(0, flat, 20_000).astype(np.float32)
    ids = typical(weigh(logits), np.arange(len(logits)), 0.7)
    expected, _ = typical_by_sorting(logits.astype(np.float64), 0.7)
    assert abs(len(ids) - len(expected)) <= 1 + len(expected) // 1000
    assert len(set(ids.tolist()) ^ set(expected)) <= 2 + len(expected) // 100


def exclude_by_sorting(weights: NDArray[np.float64], threshold: float) -> list[int]:
    """The ids that XTC leaves: all but the most probable ones over the threshold."""
    share = weights / weights.sum()
    order = sorted(range(len(weights)), key=lambda i: (-share[i], i))
    over = [i for i in order if share[i] >= threshold]
    return order[max(0, len(over) - 1) :]


@settings(max_examples=300)
@given(LOGITS, st.floats(0.01, 0.5))
def test_of_the_top_choices_only_the_least_stays(logits: Logits, threshold: float) -> None:
    weights = weigh(logits)
    share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    left = weights.copy()
    exclude_top(left, threshold)
    if np.abs(share - threshold).min() > 1e-6:
        expected = exclude_by_sorting(weights.astype(np.float64), threshold)
        assert set(np.flatnonzero(left).tolist()) == set(expected)
        if len(np.unique(weights)) == len(weights):
            xtc = llama.llama_sampler_init_xtc(1.0, threshold, 0, 1)
            assert set(expected) == survivors(xtc, logits)
    assert left.any()


def test_one_top_choice_is_left_alone() -> None:
    weights = np.array([1.0, 0.1, 0.1], np.float32)
    exclude_top(weights, 0.5)
    assert weights.tolist() == pytest.approx([1.0, 0.1, 0.1])


def test_tokens_of_hardly_any_weight_are_no_trouble() -> None:
    weights = np.array([1.0, 1.0, 1e-45, 0.0, 1e-38], np.float32)
    for top_k in (0, 4, 5):
        assert set(shortlist(weights, top_k, 1.0, 0.0, 0.95).tolist()) == {0, 1}
    assert typical(weights, np.arange(5), 0.1).tolist() == [0]
