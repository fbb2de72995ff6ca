"""Charts are well-formed, keep inside their frame, and show what they are given."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhost.baseline import charts, html
from rayhost.baseline.charts import HEIGHT, WIDTH, Bar, Line
from rayhost.baseline.spread import Spread, spread
from tests.baseline.figures import around, baseline

SPREADS = st.lists(st.floats(0.001, 1e7), min_size=3, max_size=5).map(spread)


def inside(markup: str) -> None:
    ElementTree.fromstring(markup)  # well-formed, or it raises
    for name, most in (("x", WIDTH), ("y", HEIGHT), ("cx", WIDTH), ("cy", HEIGHT)):
        for number in re.findall(rf' {name}[12]?="(-?[\d.]+)"', markup):
            assert -0.1 <= float(number) <= most + 0.1


@given(st.floats(0.0001, 1e12))
def test_ticks_are_few_and_reach_past_the_highest(most: float) -> None:
    marks = charts.ticks(most)
    assert 3 <= len(marks) <= 9
    assert marks[0] == 0
    assert marks[-1] >= most * 0.999


@given(st.lists(SPREADS | st.none(), min_size=3, max_size=3))
def test_lines_stay_inside_and_skip_what_is_missing(values: list[Spread | None]) -> None:
    markup = charts.lines("t", "x", ["1", "2", "4"], [Line("a & b", tuple(values))])
    inside(markup)
    assert markup.count("<circle") == sum(value is not None for value in values)


@given(st.lists(SPREADS, max_size=5), st.floats(0.001, 1e8))
def test_bars_stay_inside_with_their_limit(values: list[Spread], limit: float) -> None:
    markup = charts.bars("t", [Bar("<b>", value) for value in values], ("limit", limit))
    inside(markup)
    assert markup.count("<rect") == len(values)


def test_a_taller_bar_is_a_larger_figure() -> None:
    markup = charts.bars("t", [Bar("a", around(10)), Bar("b", around(30))])
    heights = [float(height) for height in re.findall(r'<rect .*? height="([\d.]+)"', markup)]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01)


def test_the_page_needs_nothing_else_and_escapes_names() -> None:
    page = html.page(baseline())
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert "Intel &lt;Xeon&gt;" in page
    assert "Intel <Xeon>" not in page
    assert page.count("<svg") == 5  # memory, two depths of generation, prefill, batch 1
    assert page.count("<polyline") == 8
