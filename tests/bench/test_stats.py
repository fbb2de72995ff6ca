"""Figures of outcomes, percentiles, ratios of pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Outcome
from bench.load import Load
from bench.stats import Memory, Spread, figures, percentile, ratios, spread

MEMORY = Memory(rss=300 << 20, pss=200 << 20)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    st.sampled_from([0.0, 0.25, 0.5, 0.99, 1.0]),
)
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.5) is None


def test_figures_count_whole_answers_and_tell_the_others() -> None:
    whole = [
        Outcome(0.0, 2.0, 0.5, (0.1, 0.3), prompt_tokens=10, generated_tokens=3),
        Outcome(0.0, 4.0, 1.5, (0.2,), prompt_tokens=20, generated_tokens=2),
    ]
    failed = [
        Outcome(0.0, 9.0, 0.1, (7.0,), prompt_tokens=9, generated_tokens=9, error="late"),
        Outcome(0.0, 9.0, error="late"),
        Outcome(0.0, 0.1, error="http 429"),
    ]
    found = figures(Load((*whole, *failed), wall_s=10.0, cpu_s=0.1, lags_s=()), MEMORY)
    assert found.errors == {"late": 2, "http 429": 1}
    assert (found.calls, found.failed) == (5, 3)
    assert (found.requests_per_s, found.tokens_per_s) == (0.2, 0.5)
    assert (found.prompt_tokens, found.generated_tokens) == (30, 5)
    assert (found.ttft_p50_ms, found.gap_p50_ms) == (1000.0, 200.0)
    assert found.latency_p50_ms == 3000.0
    assert found.latency_p99_ms == pytest.approx(3980.0)
    assert (found.peak_rss_mib, found.peak_pss_mib) == (300.0, 200.0)


def test_a_run_in_which_all_failed_has_no_times() -> None:
    found = figures(Load((Outcome(0.0, 1.0, error="late"),), 2.0, 0.0, ()), MEMORY)
    assert (found.ttft_p50_ms, found.gap_p99_ms, found.latency_p50_ms) == (None, None, None)
    assert found.tokens_per_s == 0.0


def test_a_ratio_is_of_a_pair_and_its_median_of_the_pairs() -> None:
    # 2, 0.5 and 1: the ratio of the medians would be 10 / 10.
    found = ratios([20.0, 5.0, 10.0], [10.0, 10.0, 10.0])
    assert found == Spread(1.0, 0.5, 2.0)


def test_a_pair_without_a_figure_has_no_ratio() -> None:
    assert ratios([1.0, None, 3.0], [0.0, 2.0, 2.0]) == Spread(1.5, 1.5, 1.5)
    assert ratios([None], [None]) is None


def test_a_spread_is_median_least_and_greatest() -> None:
    assert spread([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([None]) is None
