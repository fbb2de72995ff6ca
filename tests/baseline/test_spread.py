"""A figure and its spread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.baseline.spread import Spread, spread


def test_the_median_lies_between_the_quartiles() -> None:
    assert spread([5, 1, 2, 3, 4]) == Spread(3, 2, 4, 5)


def test_fewer_than_three_runs_are_no_figure() -> None:
    with pytest.raises(ValueError, match="2 runs are too few"):
        spread([1.0, 2.0])


@given(st.lists(st.floats(0.001, 1e9), min_size=3, max_size=40))
def test_inverting_keeps_the_order(values: list[float]) -> None:
    figure = spread(values).inverted(1000.0)
    assert figure.low <= figure.median <= figure.high
    assert figure.runs == len(values)


def test_the_relative_spread_is_half_the_distance_of_the_quartiles() -> None:
    assert Spread(100, 90, 120, 5).relative == 0.15
    assert Spread(0, 0, 0, 3).relative == 0
